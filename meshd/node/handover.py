"""What was handed to the next hop, and what becomes of it: the hop answers, falls silent, or the link to it is gone.

A hop takes a bundle over for good, or turns it away. Our own bundles wait on for their destination's receipt whatever
a hop says; others' are our business no longer once the hop has them.
"""

import attrs

from meshd.delivery.queue import SpoolQueue
from meshd.ids import BundleId
from meshd.node.peers import NO_ROW, Link
from meshd.node.spool import Spool
from meshd.node.tally import count_reason
from meshd.node.turn import Turn
from meshd.wire.bundle import decode_head
from meshd.wire.frames import NOT_AUTHENTIC, STALE_EPOCH, Ack, Refused

_FINAL = frozenset((STALE_EPOCH, NOT_AUTHENTIC))
REFUSED_RETRY_MIN_S, REFUSED_RETRY_MAX_S = 1.0, 60.0
"""A hop that refuses a bundle (it does not know the source, or no route) is asked again after as long as its link has
been up, within these: at first both still tell each other who is in the mesh."""


@attrs.frozen
class Handover:
    """Acts on what is unacked: ``Link.unacked`` says which row of the spool a bundle is, and whom it was sent for."""

    spool: Spool

    # --- the hop answers

    def answered(self, turn: Turn, link: Link, ack: Ack) -> None:
        """The hop at the other end of a link answered for bundles."""
        for bundle in ack.stored:
            self._taken_over(turn, link, bundle, "passed-on")
        for refused in ack.refused:  # first of all: what is busy rewinds the queue that they are in flight of
            if self._is_final(link, refused):
                self._taken_over(turn, link, refused.bundle, refused.code)
        for bundle in (*(busy.bundle for busy in ack.busy), *(refused.bundle for refused in ack.refused)):
            self._send_round(link, bundle)  # as long as it is in flight
        for busy in ack.busy:
            self._turned_away(turn, link, busy.bundle, busy.retry_after_ms / 1000, "busy")
        retry_s = min(max(REFUSED_RETRY_MIN_S, turn.now - link.since), REFUSED_RETRY_MAX_S)
        for refused in ack.refused:
            self._turned_away(turn, link, refused.bundle, retry_s, refused.code)
        self.spool.touch(link.peer)
        for destination in link.waiting:
            self.spool.touch(destination)
        link.waiting.clear()

    def _is_final(self, link: Link, refused: Refused) -> bool:
        """Whether another's bundle may be let go: its destination will never take these bytes, or its source has it.

        A bundle can travel two ways: it came the other way before its source started again. One that is not
        authentic may be a hop's work: its source has the true one, and sends it again.
        """
        unacked = link.unacked.get(refused.bundle)
        if unacked is None or unacked.own or unacked.copies:  # our own end by the destination's signed notice
            return False
        if refused.code == "loop":  # its source has a path of its own, and keeps it until the receipt
            waiting = self.spool.queue(unacked.destination, unacked.priority, own=False).in_flight.get(unacked.row)
            return waiting is not None and decode_head(waiting.head).flow.source == link.peer
        return refused.code in _FINAL and unacked.destination == link.peer

    def _taken_over(self, turn: Turn, link: Link, bundle: BundleId, reason: str) -> None:
        """The hop answered for good: what is not our own is our business no longer."""
        unacked = link.acked(bundle)
        if unacked is None or unacked.row == NO_ROW:
            return
        if unacked.copies:
            self.spool.deposits.given(unacked.row, link.peer)
            return
        if unacked.own or unacked.relay is not None:
            self.spool.deposits.note(unacked.row, bundle, unacked.relay or link.peer)
            return
        queue = self.spool.queue(unacked.destination, unacked.priority, own=False)
        waiting = queue.in_flight.get(unacked.row)
        if waiting is not None:
            self.spool.custody.let_go(turn, queue, waiting, reason)

    def _send_round(self, link: Link, bundle: BundleId) -> None:
        """A hop on the way does not take a bundle, perhaps for long: a copy goes another way, if there is one."""
        unacked = link.unacked.get(bundle)
        if unacked is None or unacked.copies or unacked.relay is not None or unacked.destination == link.peer:
            return
        queue = self.spool.queue(unacked.destination, unacked.priority, own=unacked.own)
        if (waiting := queue.in_flight.get(unacked.row)) is not None:
            self.spool.detours.bounced(link, queue, waiting)

    def _turned_away(self, turn: Turn, link: Link, bundle: BundleId, retry_s: float, code: str) -> None:
        unacked = link.acked(bundle)
        if unacked is None or unacked.row == NO_ROW:
            return
        count_reason(turn.tally.turned_away, code)
        queue = self.spool.queue(unacked.destination, unacked.priority, own=unacked.own)
        if unacked.copies:
            self.spool.deposits.turned_down(turn, queue, unacked.row, link, code)
            self.spool.touch(queue.destination)
            return
        if unacked.row not in queue.in_flight:  # it has ended meanwhile, or waits to be sent again: nothing to wait for
            return
        if queue.paused_until <= turn.now:
            turn.log("info", "bundle turned away", peer=link.peer, reason=code, retry_s=round(retry_s, 1))
        self.spool.rewind(queue)
        queue.pause(turn.now + retry_s, code, by=link.peer)
        self.spool.touch(queue.destination)  # to be read again: it has a deadline only while some of it is in memory

    # --- the hop is silent, or gone

    def link_silent(self, link: Link) -> None:
        """What is in flight on a link may be lost: give copies of it to another way in the next plan."""
        for unacked in link.unacked.values():
            queue = self.spool.queue(unacked.destination, unacked.priority, own=unacked.own)
            if not unacked.copies and (waiting := queue.in_flight.get(unacked.row)) is not None:
                self.spool.detours.doubt(link, queue, waiting)

    def link_lost(self, link: Link, *, other_path: bool) -> None:
        """A link is gone: what no hop has taken over waits again, in memory if there is another way."""
        queues: dict[SpoolQueue, list[int]] = {}
        for unacked in link.unacked.values():
            if unacked.row == NO_ROW:
                continue
            queue = self.spool.queue(unacked.destination, unacked.priority, own=unacked.own)
            if unacked.copies:  # the carrier has them, or will get them when it comes again
                self.spool.deposits.look_anew(queue)
                continue
            queues.setdefault(queue, []).append(unacked.row)
        for queue, rows in queues.items():
            if other_path:
                queue.unsend(sorted(rows))
            else:
                self.spool.rewind(queue)
            self.spool.touch(queue.destination)
        for destination in link.waiting:
            self.spool.touch(destination)
        link.forget_unacked()
