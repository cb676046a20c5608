"""How our own bundles end: delivered and consumed by receipts, expired, or refused."""

from collections.abc import Sequence
from typing import TypeAlias

from meshd.delivery.outbox import Outbox
from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.delivery.receipts import UNREAD, Receipt
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import BundleRef, Epoch, Flow, NodeId, Number, Priority, bundle_ref
from meshd.node.effects import EndStored
from meshd.node.endings import Endings
from meshd.node.followers import Followers, Stage
from meshd.node.tally import count, count_reason
from meshd.node.turn import Turn
from meshd.store.ops import FinishSpool, JournalEntry
from meshd.store.reads import ExpiredRow
from meshd.wire.bundle import session_of

TRACE_KEPT_MS = 7 * 24 * 3600 * 1000
CARRIER = "carrier"
"""The reason of a copy that was given to one."""

_UNCONSUMED_ROWS = 16_384

_Watched: TypeAlias = dict[int, tuple[BundleRef, int]]
"""By sequence: the bundle, and how many messages are in it."""


class Outcomes:
    """Writes ends down, and tells who waits for them."""

    def __init__(
        self, me: NodeId, outbox: Outbox, sessions: OutgoingSessions, followers: Followers, endings: Endings
    ) -> None:
        self._me = me
        self._outbox = outbox
        self._sessions = sessions
        self._followers = followers
        self._endings = endings
        self._unconsumed: dict[tuple[NodeId, Priority], dict[Epoch, _Watched]] = {}
        """Delivered bundles whose consumption somebody may want to hear of."""
        self._unwritten: dict[tuple[NodeId, Priority], list[Number]] = {}
        """The lowest of each lot of earlier lives' bundles whose ends are on their way to the disk."""

    def sent(self, turn: Turn, ref: BundleRef, via: str) -> None:
        """A bundle left for its next hop."""
        turn.journal.append(JournalEntry(ref, turn.now_ms, "sent", None, via))
        self._followers.reach(turn, ref, Stage.SENT)

    def copied(self, turn: Turn, ref: BundleRef, to: str) -> None:
        """A carrier was given copies of a bundle."""
        turn.journal.append(JournalEntry(ref, turn.now_ms, "copied", CARRIER, to))
        self._followers.reach(turn, ref, Stage.SENT)

    def arrived(self, turn: Turn, queue: SpoolQueue, done: Sequence[Waiting]) -> None:
        """The queue's last receipt covers these."""
        if not done or queue.receipt is None:
            return
        self._endings.note([waiting.row for waiting in done])
        delivered: dict[int, Number] = {}
        for waiting in done:
            if waiting.head:
                self._sessions.confirm(session_of(waiting.head))
            code = queue.receipt.refusal_of(waiting.number)
            if code not in (None, UNREAD):
                self._refused(turn, queue, waiting, code)
                continue
            delivered[waiting.row] = waiting.number
            turn.tally.delivered[queue.priority] += waiting.messages
            self._end(turn, waiting.ref, Stage.DELIVERED, None)
            if code == UNREAD:
                count(turn.tally.expired, UNREAD, waiting.messages)
                continue
            if queue.receipt.is_consumed(waiting.number):
                self._consumed(turn, queue.priority, waiting.ref, waiting.messages)
            else:
                self.watch(queue.destination, queue.priority, waiting.number, waiting.ref, waiting.messages)
        if delivered:
            self._write(turn, (queue.destination, queue.priority), delivered, "delivered", None)

    def watch(self, destination: NodeId, priority: Priority, number: Number, ref: BundleRef, messages: int) -> None:
        """The bundle is delivered; note when a receipt says that it is consumed."""
        watched = self._unconsumed.setdefault((destination, priority), {}).setdefault(number.epoch, {})
        if len(watched) < _UNCONSUMED_ROWS or ref in self._followers:
            watched[number.sequence] = (ref, messages)

    def part(self, turn: Turn, destination: NodeId) -> None:
        """The destination has left the mesh: it tells no more of what is read."""
        for flow in [flow for flow in self._unconsumed if flow[0] == destination]:
            for watched in self._unconsumed.pop(flow).values():
                for ref, _ in watched.values():
                    self._followers.part(turn, ref)

    def consumed(self, turn: Turn, destination: NodeId, receipt: Receipt, before: Receipt | None) -> None:
        """A receipt may tell that the apps there are done with more than the one before it told.

        Call it after :meth:`arrived`.
        """
        epochs = self._unconsumed.get((destination, receipt.priority), {})
        self._unread(turn, destination, receipt, before, epochs)
        for epoch, watched in list(epochs.items()):
            for first, last in receipt.newly_consumed(epoch, before):
                span = range(first, last + 1)
                for sequence in (
                    [number for number in watched if number in span] if last - first > len(watched) else span
                ):
                    found = watched.pop(sequence, None)
                    if found is not None:
                        self._consumed(turn, receipt.priority, *found)
            if not watched:
                del epochs[epoch]

    def _unread(
        self,
        turn: Turn,
        destination: NodeId,
        receipt: Receipt,
        before: Receipt | None,
        epochs: dict[Epoch, _Watched],
    ) -> None:
        """Note what was delivered and then turned down: soon no receipt will tell it from what was consumed."""
        flow = Flow(self._me, destination, receipt.priority)
        known = frozenset(() if before is None else before.refused)
        for number, code in receipt.refused:
            if code == UNREAD and (number, code) not in known:
                found = epochs.get(number.epoch, {}).pop(number.sequence, None)
                count(turn.tally.expired, UNREAD, 0 if found is None else found[1])
                self._end(turn, bundle_ref(flow, number), Stage.EXPIRED, code)

    def refuse(self, turn: Turn, queue: SpoolQueue, waiting: Waiting, code: str) -> None:
        """A waiting bundle of ours can't be delivered."""
        queue.finish(waiting)
        self._endings.note([waiting.row])
        self._refused(turn, queue, waiting, code)

    def expired(self, turn: Turn, rows: Sequence[ExpiredRow]) -> None:
        """The lifetime of these bundles of ours is over."""
        flows: dict[tuple[NodeId, Priority], dict[int, Number]] = {}
        for row in rows:
            count(turn.tally.expired, "lifetime", row.messages)
            self._end(turn, row.ref, Stage.EXPIRED, "lifetime")
            flows.setdefault((row.destination, row.priority), {})[row.row] = row.number
        for flow, ended in flows.items():
            self._write(turn, flow, ended, "expired", "lifetime")

    def _refused(self, turn: Turn, queue: SpoolQueue, waiting: Waiting, code: str) -> None:
        self._write(turn, (queue.destination, queue.priority), {waiting.row: waiting.number}, "refused", code)
        count_reason(turn.tally.refused, code, waiting.messages)
        self._end(turn, waiting.ref, Stage.REFUSED, code)

    def _consumed(self, turn: Turn, priority: Priority, ref: BundleRef, messages: int) -> None:
        turn.tally.consumed[priority] += messages
        self._end(turn, ref, Stage.CONSUMED, None)

    def _write(
        self, turn: Turn, flow: tuple[NodeId, Priority], ended: dict[int, Number], state: str, reason: str | None
    ) -> None:
        """Write down the ends of these (row -> number).

        Once a floor has passed an earlier life's numbers, the destination forgets them. If the disk does not know
        by then that a bundle has ended, the next life sends it again, and it is turned away as stale: what was
        consumed would be told refused.
        """
        turn.lazy_ops.append(FinishSpool(tuple(ended), state, reason, turn.now_ms + TRACE_KEPT_MS))
        earlier = [number for number in ended.values() if number.epoch != self._outbox.epoch]
        if earlier:
            stored = EndStored(*flow, min(earlier))
            self._unwritten.setdefault(flow, []).append(stored.lowest)
            turn.when_written.append(stored)

    def end_stored(self, stored: EndStored) -> None:
        """What :meth:`_write` asked for is on disk."""
        flow = (stored.destination, stored.priority)
        self._unwritten[flow].remove(stored.lowest)
        if not self._unwritten[flow]:
            del self._unwritten[flow]

    def unwritten(self, destination: NodeId, priority: Priority) -> Number | None:
        """The lowest number of a flow that may be sent again if this life ends now; None when there is none."""
        return min(self._unwritten.get((destination, priority), ()), default=None)

    def _end(self, turn: Turn, ref: BundleRef, stage: Stage, reason: str | None) -> None:
        turn.journal.append(JournalEntry(ref, turn.now_ms, stage.name.lower(), reason))
        self._followers.reach(turn, ref, stage, reason)
