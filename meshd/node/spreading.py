"""Copies given to carriers, and what else goes with them: offers, floors, receipts."""

from collections.abc import Sequence

import attrs

from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.ids import NodeId, Priority
from meshd.node.arriving import Arriving
from meshd.node.carriers import Carriers
from meshd.node.detours import bundle_frame
from meshd.node.exchange import Exchange
from meshd.node.notices import Notices
from meshd.node.outcomes import CARRIER
from meshd.node.peers import Link, Peers, Unacked
from meshd.node.spool import Spool
from meshd.node.turn import Turn
from meshd.store.ops import JournalEntry, SetCopies
from meshd.wire.bundle import decode_head
from meshd.wire.frames import MAX_HOPS, Kind, Routed

PARKED_BYTES = 32 * 1024 * 1024
"""Of mail that carriers have copies of, so much is kept in memory; the rest waits for its turn on disk."""


@attrs.frozen(kw_only=True)
class Spreading:
    """Acts at the end of a turn, for destinations that something has changed for and that have no path."""

    peers: Peers
    spool: Spool
    notices: Notices
    arriving: Arriving
    exchange: Exchange
    carriers: Carriers

    def poll(self, turn: Turn) -> None:
        """Act on neighbours that turned out to be carriers, and on destinations that stay away."""
        due = self.carriers.next_deadline()
        if due is None or due > turn.now:
            return
        links, away = self.carriers.poll(turn)
        for destination in away:
            self.spool.touch(destination)
        for link in links:
            self.notices.hand_round(turn, link)
        if links:
            self._contact()

    def _contact(self) -> None:
        """A carrier is here: what is known of, and for, everybody without a path is due to be given to it."""
        self.arriving.greet_absent(self.peers)
        for queue in self.spool.queues():
            if self.peers.way(queue.destination)[0] is not None:
                continue
            self.spool.touch(queue.destination)
            if queue.own:
                self.exchange.owe_floors([(queue.destination, queue.priority)])

    def plan(self, turn: Turn) -> None:
        """Give copies of what waits in vain."""
        if not self.spool.stranded:
            return
        stranded, self.spool.stranded = self.spool.stranded, set()
        if self.carriers.is_alone:
            return
        for destination in stranded:
            queues = [queue for queue in self.spool.queues_for(destination) if queue.rows]
            if not queues or not self.carriers.is_away(destination, turn.now):
                continue
            takers = self.carriers.takers(destination, turn.now)
            for queue in queues if takers else ():
                self._spread(turn, queue, takers)

    def _spread(self, turn: Turn, queue: SpoolQueue, takers: Sequence[Link]) -> None:
        if self.spool.saving_for is not None and queue.priority is Priority.BULK:
            return
        if self.spool.deposits.spread(queue, frozenset(link.peer for link in takers)):
            queue.unsend(list(queue.in_flight))
        queue.take_way(None)
        self.spool.look_at(queue.paused_until or None)
        while queue.may_send(turn.now):
            if full := [link for link in takers if not link.has_room]:
                for link in full:
                    link.waiting.add(queue.destination)
                break
            waiting = queue.send_next(turn.now)
            for link in takers:
                self._share(turn, queue, waiting, link)
        if queue.wants_load() and self.spool.deposits.parked_bytes < PARKED_BYTES:
            self.spool.loading.start(turn, queue)

    def _share(self, turn: Turn, queue: SpoolQueue, waiting: Waiting, link: Link) -> None:
        """Give one carrier its part of the copies of one bundle."""
        deposits = self.spool.deposits
        copies = deposits.share(waiting, link.peer)
        if copies == 0 or waiting.bundle in link.unacked:
            return
        head = decode_head(waiting.head)
        if link.peer in (head.flow.source, self.spool.custody.giver(waiting.row)):
            return
        turn.lazy_ops.append(SetCopies(waiting.row, deposits.give(waiting, link.peer, copies)))
        link.sent(
            waiting.bundle,
            Unacked(queue.destination, queue.priority, queue.own, waiting.row, len(waiting.body), copies=copies),
        )
        offer = self._offer(link, head.flow.source, queue, head.session)
        if offer is not None:
            turn.send(link.number, Routed(head.flow.source, queue.destination, MAX_HOPS, Kind.OFFER, offer))
        turn.tally.copies_given += 1
        if queue.own:
            self.spool.outcomes.copied(turn, waiting.ref, link.name)
        else:
            turn.journal.append(JournalEntry(waiting.ref, turn.now_ms, "copied", CARRIER, link.name))
        turn.send_bundle(link.number, link.transport, bundle_frame(waiting, turn.now_ms, copies=copies))

    def _offer(self, link: Link, source: NodeId, queue: SpoolQueue, session: bytes) -> bytes | None:
        """What opens the bundle at its destination, unless it went over this link already."""
        if queue.own:
            return self.spool.offers.take_once(link, session)
        if session in link.offered:
            return None
        link.offered.add(session)
        return self.notices.offer(queue.destination, source, session)
