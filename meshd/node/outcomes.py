"""How our own bundles end: delivered and consumed by receipts, expired, or refused."""

from collections.abc import Sequence
from typing import TypeAlias

from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.delivery.receipts import UNREAD, Receipt
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import BundleRef, Epoch, Flow, NodeId, Number, Priority, bundle_ref
from meshd.node.followers import Followers, Stage
from meshd.node.tally import count, count_reason
from meshd.node.turn import Turn
from meshd.store.ops import ExpiredRow, FinishSpool, JournalEntry
from meshd.wire.bundle import decode_head

TRACE_KEPT_MS = 7 * 24 * 3600 * 1000
_UNCONSUMED_ROWS = 16_384

_Watched: TypeAlias = dict[int, tuple[BundleRef, int]]
"""By sequence: the bundle, and how many messages are in it."""


class Outcomes:
    """Writes ends down, and tells who waits for them."""

    def __init__(self, me: NodeId, sessions: OutgoingSessions, followers: Followers) -> None:
        self._me = me
        self._sessions = sessions
        self._followers = followers
        self._unconsumed: dict[tuple[NodeId, Priority], dict[Epoch, _Watched]] = {}
        """Delivered bundles whose consumption somebody may want to hear of."""

    def sent(self, turn: Turn, ref: BundleRef, via: str) -> None:
        """A bundle left for its next hop."""
        turn.journal.append(JournalEntry(ref, turn.now_ms, "sent", None, via))
        self._followers.reach(turn, ref, Stage.SENT)

    def arrived(self, turn: Turn, queue: SpoolQueue, done: Sequence[Waiting]) -> None:
        """The queue's last receipt covers these."""
        if not done or queue.receipt is None:
            return
        delivered: list[int] = []
        for waiting in done:
            if waiting.head:
                self._sessions.confirm(decode_head(waiting.head).session)
            code = queue.receipt.refusal_of(waiting.number)
            if code not in (None, UNREAD):
                self._refused(turn, waiting, code)
                continue
            delivered.append(waiting.row)
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
            kept_until = turn.now_ms + TRACE_KEPT_MS
            turn.lazy_ops.append(FinishSpool(tuple(delivered), "delivered", None, kept_until))

    def watch(self, destination: NodeId, priority: Priority, number: Number, ref: BundleRef, messages: int) -> None:
        """The bundle is delivered; note when a receipt says that it is consumed."""
        watched = self._unconsumed.setdefault((destination, priority), {}).setdefault(number.epoch, {})
        if len(watched) < _UNCONSUMED_ROWS or ref in self._followers:
            watched[number.sequence] = (ref, messages)

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
        self._refused(turn, waiting, code)

    def expired(self, turn: Turn, rows: Sequence[ExpiredRow]) -> None:
        """The lifetime of these bundles of ours is over."""
        for row in rows:
            count(turn.tally.expired, "lifetime", row.messages)
            self._end(turn, row.ref, Stage.EXPIRED, "lifetime")
        if rows:
            numbers = tuple(row.row for row in rows)
            turn.lazy_ops.append(FinishSpool(numbers, "expired", "lifetime", turn.now_ms + TRACE_KEPT_MS))

    def _refused(self, turn: Turn, waiting: Waiting, code: str) -> None:
        turn.lazy_ops.append(FinishSpool((waiting.row,), "refused", code, turn.now_ms + TRACE_KEPT_MS))
        count_reason(turn.tally.refused, code, waiting.messages)
        self._end(turn, waiting.ref, Stage.REFUSED, code)

    def _consumed(self, turn: Turn, priority: Priority, ref: BundleRef, messages: int) -> None:
        turn.tally.consumed[priority] += messages
        self._end(turn, ref, Stage.CONSUMED, None)

    def _end(self, turn: Turn, ref: BundleRef, stage: Stage, reason: str | None) -> None:
        turn.journal.append(JournalEntry(ref, turn.now_ms, stage.name.lower(), reason))
        self._followers.reach(turn, ref, stage, reason)
