"""Copies that take another way: while a link is silent, as what was sent over it may be lost, or only late; and when a
hop turns mail away, which may be full for days.

A copy is extra (design, G2): its row stays in flight on the silent link, or waits to be offered to that hop again.
That link's end or its peer's answer decides about it as ever. The destination drops what comes twice by number, a hop
what it holds already. Nothing is done here, and nothing looked at, while all links speak and all hops take.
"""

from collections import deque

import attrs

from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.node.offering import Offers
from meshd.node.peers import NO_ROW, Link, Peers, Unacked
from meshd.node.turn import Turn
from meshd.store.ops import JournalEntry
from meshd.wire.bundle import session_of
from meshd.wire.frames import BundleFrame

WINDOW_BYTES = 256 * 1024
"""Copies wait while more than this is unacked on the other way: it may lead over the same slow line."""

_GONE_ROUND = 4096
"""Bundles that are remembered of each link."""


@attrs.frozen
class _Doubtful:
    """A bundle in flight on a link that is silent, or that came back from there."""

    link: Link
    queue: SpoolQueue
    waiting: Waiting


class Detours:
    """Collects what is in doubt, and sends the copies at the end of each turn, as far as there is room for them."""

    def __init__(self, offers: Offers) -> None:
        self._offers = offers
        self._doubtful: deque[_Doubtful] = deque()
        self._bounced: list[_Doubtful] = []

    def doubt(self, link: Link, queue: SpoolQueue, waiting: Waiting) -> None:
        """What was sent over ``link`` may be lost."""
        self._doubtful.append(_Doubtful(link, queue, waiting))

    def bounced(self, link: Link, queue: SpoolQueue, waiting: Waiting) -> None:
        """The hop at the other end of ``link`` turned this away. It is sent on in this turn, or not at all."""
        self._bounced.append(_Doubtful(link, queue, waiting))

    def send(self, turn: Turn, peers: Peers) -> None:
        """Give one copy of each to another way, if there is one; the link's end or answer decides about the rest."""
        bounced, self._bounced = self._bounced, []
        for item in bounced:
            self._go_round(turn, item, peers.other_way(item.queue.destination, item.link))
        while self._doubtful:
            item = self._doubtful[0]
            unacked = item.link.unacked.get(item.waiting.bundle)
            other = peers.other_way(item.queue.destination, item.link)
            if item.link.suspect and unacked is not None and not unacked.is_copied and other is not None:
                if other.unacked_bytes >= WINDOW_BYTES:
                    return
                item.link.unacked[item.waiting.bundle] = attrs.evolve(unacked, is_copied=True)
                if item.waiting.bundle not in other.unacked:
                    self._copy(turn, other, item.queue, item.waiting)
            self._doubtful.popleft()

    def _go_round(self, turn: Turn, item: _Doubtful, other: Link | None) -> None:
        """Once over each link: the hop that turns it away is asked again and again."""
        if other is None or other.unacked_bytes >= WINDOW_BYTES or item.waiting.bundle in other.gone_round:
            return
        if len(other.gone_round) >= _GONE_ROUND:
            other.gone_round.clear()
        other.gone_round.add(item.waiting.bundle)
        if item.waiting.bundle not in other.unacked:
            self._copy(turn, other, item.queue, item.waiting)

    def _copy(self, turn: Turn, other: Link, queue: SpoolQueue, waiting: Waiting) -> None:
        size_bytes = len(waiting.body)
        other.sent(waiting.bundle, Unacked(queue.destination, queue.priority, queue.own, NO_ROW, size_bytes))
        if queue.own:
            self._offers.send_once(turn, other, queue.destination, session_of(waiting.head))
        turn.journal.append(JournalEntry(waiting.ref, turn.now_ms, "copied", None, other.label))
        turn.tally.detoured += 1
        turn.send_bundle(other.number, other.transport, bundle_frame(waiting, turn.now_ms))


def bundle_frame(waiting: Waiting, now_ms: int, *, copies: int = 0) -> BundleFrame:
    """The frame that carries a waiting bundle, with its age of this moment and one hop less to go.

    With ``copies`` it is for a carrier; without, the next hop takes it over.
    """
    age_ms = max(0, now_ms - waiting.accepted_ms)
    hop_limit = max(0, waiting.hop_limit - 1)
    return BundleFrame(hop_limit, age_ms, copies, waiting.head, waiting.body, len(waiting.body))
