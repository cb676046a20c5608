"""Copies of mail that others keep for devices without a path: which queue leaves them where, and which rows are there.

A copy is extra: whoever gave it keeps its own until the destination's receipt, or the next hop's ack. There are two
kinds of keepers. A relay is given everything, once, so that a destination that stays away costs no traffic. Carriers
share a bounded number of copies of each bundle (binary spray and wait): whoever holds some gives half of them on,
whoever holds one keeps it for the destination.
"""

from collections.abc import Iterable

import attrs

from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.ids import BundleId, NodeId
from meshd.node.peers import Link
from meshd.node.turn import Turn
from meshd.store.ops import SetCopies
from meshd.wire.frames import ALREADY_HELD, NOT_A_CARRIER

COPIES = 8
"""Of each bundle in the whole mesh, its source's own among them."""

_TAKES_NONE = frozenset(("busy", NOT_A_CARRIER))


@attrs.define(eq=False)
class _Copy:
    """What one carrier was given; ``copies`` is 0 when it turned the bundle down.

    ``is_repeated``: sent more than once, because the answer was lost.
    """

    copies: int
    stored: bool = False
    is_repeated: bool = False


@attrs.define(eq=False)
class _Shares:
    """Who has copies of one row, and how many are left to give."""

    left: int
    given: dict[NodeId, _Copy] = attrs.field(factory=dict)


class Deposits:
    """Counts; the bundles themselves wait in the spool's queues.

    Forgotten with the process, but for the number of copies that are left: that is on disk.
    """

    def __init__(self) -> None:
        self._at: dict[SpoolQueue, NodeId] = {}
        self._rows: dict[int, tuple[NodeId, BundleId]] = {}
        self._row_of: dict[BundleId, int] = {}
        self._spread: dict[SpoolQueue, frozenset[NodeId]] = {}
        self._shares: dict[int, _Shares] = {}

    def __contains__(self, queue: SpoolQueue) -> bool:
        """Whether what is in flight of the queue waits with a keeper, and not for an answer."""
        return queue in self._at or queue in self._spread

    def direct(self, queue: SpoolQueue, relay: NodeId | None, link: Link, now: float) -> bool:
        """The queue's mail leaves toward this relay from now on, or with None by a route that begins with ``link``.

        Returns whether what is in flight has to be looked at anew: it went another way.
        """
        if self._spread and self._spread.pop(queue, None) is not None:
            if relay is not None:
                self._at[queue] = relay
            return bool(queue.in_flight)
        before = self._at.get(queue)
        if relay == before:
            return False
        if relay is not None:
            self._at[queue] = relay
            return bool(queue.in_flight)
        del self._at[queue]
        if link.peer == before:  # the relay hands out what it has: that is waited for before anything goes again
            queue.wait_anew(now)
            return False
        for row in queue.in_flight:  # the relay may hand them back; when this path is lost too, copies are given again
            self._forget(row)
        return bool(queue.in_flight)

    def has(self, row: int, relay: NodeId) -> bool:
        """Whether the relay has a copy of this row."""
        kept = self._rows.get(row)
        return kept is not None and kept[0] == relay

    def note(self, row: int, bundle: BundleId, relay: NodeId) -> None:
        """The relay, or a hop on the way there, has a copy of a row on its disk."""
        self._rows[row] = relay, bundle
        self._row_of[bundle] = row

    def handed_back(self, bundle: BundleId) -> int | None:
        """A keeper sent a copy to where it came from, and has it no more. Returns its row, if one was noted."""
        row = self._row_of.get(bundle)
        if row is not None:
            self._forget(row)
        return row

    def _forget(self, row: int) -> None:
        kept = self._rows.pop(row, None)
        if kept is not None:
            self._row_of.pop(kept[1], None)

    def end(self, rows: Iterable[int]) -> None:
        """These rows wait no longer."""
        for row in rows:
            self._forget(row)
            if self._shares:
                self._shares.pop(row, None)

    # --- carriers

    def spread(self, queue: SpoolQueue, carriers: frozenset[NodeId]) -> bool:
        """The queue's mail is shared among these from now on. Returns whether what is in flight is offered anew."""
        self._at.pop(queue, None)
        before = self._spread.get(queue)
        self._spread[queue] = carriers
        return bool(queue.in_flight) and (before is None or not carriers <= before)

    @property
    def parked_bytes(self) -> int:
        """What is kept in memory of the queues that are shared among carriers."""
        return sum(queue.in_flight_bytes for queue in self._spread)

    def share(self, waiting: Waiting, carrier: NodeId) -> int:
        """How many copies a carrier is to be given: half of what is left, as often as it takes until it has them."""
        shares = self._shares.get(waiting.row)
        if shares is None:
            return waiting.copies // 2
        copy = shares.given.get(carrier)
        if copy is None:
            return shares.left // 2
        return 0 if copy.stored else copy.copies

    def give(self, waiting: Waiting, carrier: NodeId, copies: int) -> int:
        """They are on their way to it, and nobody else's, also if they are lost. Returns how many are left."""
        shares = self._shares.setdefault(waiting.row, _Shares(waiting.copies))
        copy = shares.given.get(carrier)
        if copy is None:
            shares.given[carrier] = _Copy(copies)
            shares.left -= copies
        else:
            copy.is_repeated = True
        return shares.left

    def look_anew(self, queue: SpoolQueue) -> None:
        """What is in flight of the queue is to be offered again when there are carriers."""
        if queue in self._spread:
            self._spread[queue] = frozenset()

    def given(self, row: int, carrier: NodeId) -> None:
        """The carrier has them on its disk."""
        copy = self._copy(row, carrier)
        if copy is not None:
            copy.stored = True

    def turned_down(self, turn: Turn, queue: SpoolQueue, row: int, link: Link, code: str) -> None:
        """The carrier at the other end did not take a row: its copies are there for others.

        One that takes none at all, or has no room, is not asked again on this link.
        """
        takes_none = code in _TAKES_NONE
        if takes_none and not link.declines:
            turn.log("info", "carrier declined", peer=link.peer, reason=code)
            link.declines = True
        copy = self._copy(row, link.peer)
        if copy is None or copy.stored:
            return
        if code == ALREADY_HELD and copy.is_repeated:  # these are the ones that it has
            copy.stored = True
            return
        shares = self._shares[row]
        shares.left += copy.copies
        if takes_none:
            del shares.given[link.peer]
        else:
            copy.copies = 0
        self.look_anew(queue)
        turn.lazy_ops.append(SetCopies(row, shares.left))

    def _copy(self, row: int, carrier: NodeId) -> _Copy | None:
        shares = self._shares.get(row)
        return None if shares is None else shares.given.get(carrier)

    def is_carried(self, queue: SpoolQueue) -> bool:
        """Whether any carrier has mail of this queue."""
        shared = (self._shares[row] for row in queue.in_flight if row in self._shares)
        return any(copy.stored for shares in shared for copy in shares.given.values())
