"""A service's mailbox on this device: who reads it, what each gets next, what is consumed.

Pure. Every method that changes something returns effects, in order. The caller must commit the
durable ones of a call (``StoreCursor``, ``Consumed``, ``ConsumerExpired``) in one transaction, after
those of earlier calls, and answer a ``Load`` from a state that has at least everything committed
before it was asked for.

Order. A consumer gets higher priorities first, and each priority in offset order. A message given
back with ``nack`` comes again after a delay; others don't wait for it.

Offsets. They start at ``run`` x 2**40 in the run-th life of the daemon, so that an offset handed out
for a batch whose commit was lost is never handed out again. (Reserving ahead would take a commit
before a mailbox's first message; the run counter is committed anyway.)
"""

from collections.abc import Iterable, Mapping, Sequence

from meshd.delivery.consumers import Consumer, Cursor, Span
from meshd.delivery.mailbox_effects import (
    UNLIMITED_BYTES,
    Backlog,
    Consumed,
    ConsumerExpired,
    DeadLetter,
    Deliver,
    Delivery,
    Effect,
    Limits,
    Load,
    StoreCursor,
)
from meshd.delivery.readership import Lease, Readership
from meshd.delivery.shelf import PAGE_BYTES, PAGE_ROWS, Batch, Entry, OnDisk, Shelf
from meshd.errors import LocalProtocolError, MeshdError
from meshd.ids import Priority

RUN_BITS = 40
MAX_RUN = 2**22
"""So that offsets fit 63 bits whatever counter a peer makes us start from."""

_LOAD_RETRY_S = 1.0


class Mailbox:
    """See the module. All times (``now``) are seconds of the mesh-local clock, which outlives the daemon.

    Args:
        run: which life of the daemon this is; higher at every start. Beyond MAX_RUN it no longer
            counts, and offsets go on above what is known to have been used.
        backlogs: per priority that has released rows on disk.
        consumers: name -> state, as last given in StoreCursor.

    Raises MeshdError E_DATABASE when a state can't be read.
    """

    def __init__(
        self,
        service: str,
        *,
        run: int,
        now: float,
        limits: Limits | None = None,
        backlogs: Iterable[Backlog] = (),
        consumers: Mapping[str, bytes] | None = None,
    ) -> None:
        self.service = service
        self._limits = limits or Limits()
        self._consumers = Readership(consumers or {}, self._limits.idle_s)
        self._subscriptions: dict[int, Lease] = {}
        on_disk = {backlog.priority: backlog.last_offset for backlog in backlogs}
        self._shelves = {priority: self._shelf(priority, run, on_disk.get(priority)) for priority in Priority}
        for consumer in self._consumers:
            if consumer.idle_since is None:  # its lease ended with the daemon: nobody knows what was handed out
                consumer.idle_since = now
                for priority, cursor in consumer.cursors.items():
                    cursor.seen = self._shelves[priority].next_offset
        self._effects: list[Effect] = []
        self._dirty: dict[str, Consumer] = {}
        self._consumed: list[Entry] = []

    def _shelf(self, priority: Priority, run: int, last_offset: int | None) -> Shelf:
        used = [max(cursor.end, cursor.seen, cursor.since) - 1 for cursor in self._consumers.cursors(priority)]
        first = max(min(run, MAX_RUN) << RUN_BITS, last_offset or 0, *used) + 1
        return Shelf(priority, first, has_backlog=last_offset is not None)

    def next_offset(self, priority: Priority) -> int:
        """The offset that the next batch of this priority must have."""
        return self._shelves[priority].next_offset

    def waits_for(self, priority: Priority, first: int, last: int) -> list[str] | None:
        """The consumers that have to ack these messages and have not; None when nobody has ever read here."""
        return self._consumers.behind(priority, first, last)

    @property
    def bytes(self) -> int:
        """Memory that bodies take now."""
        return sum(shelf.bytes for shelf in self._shelves.values())

    def release(self, batch: Batch, now: float) -> list[Effect]:
        """A stored bundle got its turn, at ``next_offset``."""
        shelf = self._shelves[batch.entry.priority]
        self._check_offset(shelf, batch.entry)
        shelf.append(batch)
        return self._finish(now)

    def release_stored(self, entry: Entry, now: float) -> list[Effect]:
        """A bundle that was held got its turn, at ``next_offset``; its messages are on disk only."""
        shelf = self._shelves[entry.priority]
        self._check_offset(shelf, entry)
        shelf.spill(entry.count)
        return self._finish(now)

    def pass_through(self, batch: Batch, now: float) -> list[Effect]:
        """An ephemeral bundle: for whoever reads now and has credit. It takes offsets, and no ack."""
        shelf = self._shelves[batch.entry.priority]
        self._check_offset(shelf, batch.entry)
        for subscription in self._subscriptions.values():
            if subscription.is_ready:
                delivery = Delivery(batch, 0, batch.entry.count, redelivered=False)
                subscription.hand_out(delivery)
                self._effects.append(Deliver(subscription.id, (delivery,)))
        shelf.skip(batch.entry.count)
        return self._finish(now)

    def subscribe(
        self, subscription: int, consumer: str, credit: int, now: float, *, room_bytes: int = UNLIMITED_BYTES
    ) -> list[Effect]:
        """Lease ``consumer``, made if need be, to ``subscription`` (unique in this process).

        A new consumer starts at the oldest message kept. Raises MeshdError E_LEASED, E_BUSY.
        """
        if any(other.consumer.name == consumer for other in self._subscriptions.values()):
            raise MeshdError("E_LEASED", f"Another client is reading {self.service} as {consumer}.")
        found = self._consumers.get(consumer)
        if found is None:
            if len(self._consumers) >= self._limits.consumers:
                raise MeshdError(
                    "E_BUSY", f"{self.service} has {len(self._consumers)} consumers.", "Use one of its consumer names."
                )
            cursors = {priority: Cursor(shelf.next_offset, 1) for priority, shelf in self._shelves.items()}
            found = Consumer(consumer, cursors)
            self._consumers.add(found)
        found.idle_since = None
        found.sweep = None
        self._dirty[consumer] = found
        self._subscriptions[subscription] = Lease(subscription, found, credit, room_bytes)
        return self._finish(now)

    def add_credit(self, subscription: int, messages: int, now: float, *, room_bytes: int = 0) -> list[Effect]:
        """The client takes ``messages`` more, and so many bytes.

        Whole batches go out while both are above 0, so that they may end below it by one batch.
        """
        found = self._subscriptions.get(subscription)
        if found is None:
            return []  # crossed with the end of the lease
        found.credit += messages
        found.room_bytes += room_bytes
        return self._finish(now)

    def unsubscribe(self, subscription: int, now: float, *, lost: bool) -> list[Effect]:
        """The lease ends; what is unacked goes to the next one, flagged. ``lost``: the client vanished."""
        found = self._subscriptions.pop(subscription, None)
        if found is None:
            return []
        found.consumer.idle_since = now
        for cursor in found.consumer.cursors.values():
            if lost:
                cursor.lose_lease()
            cursor.rewind()
        self._dirty[found.consumer.name] = found.consumer
        return self._finish(now)

    def acknowledge(
        self,
        subscription: int,
        up_to: Mapping[int, int],
        ranges: Mapping[int, Sequence[Span]],
        nack: Mapping[int, Sequence[Span]],
        now: float,
    ) -> list[Effect]:
        """Acks and nacks per priority, offsets inclusive; durable once the effects are committed.

        Only what was handed out under this lease counts; the rest of a span has no effect.
        Raises MeshdError E_USAGE when the lease has ended.
        """
        found = self._subscriptions.get(subscription)
        if found is None:
            raise MeshdError("E_USAGE", "This subscription has ended.", "Subscribe again; unacked messages come again.")
        consumer = found.consumer
        self._dirty[consumer.name] = consumer
        for priority, offset in up_to.items():
            self._settle(consumer, consumer.cursors[Priority(priority)].finish(0, offset))
        for priority, spans in ranges.items():
            for first, last in spans:
                self._settle(consumer, consumer.cursors[Priority(priority)].finish(first, last))
        for priority, spans in nack.items():
            for first, last in spans:
                consumer.cursors[Priority(priority)].nack(first, last, now)
        return self._finish(now)

    def loaded(self, priority: Priority, batches: Sequence[Batch], now: float) -> list[Effect]:
        """The answer to a Load: rows in offset order."""
        self._shelves[priority].end_load(list(batches))
        return self._finish(now)

    def load_failed(self, priority: Priority, now: float) -> list[Effect]:
        """The store could not read; asked again after a second."""
        shelf = self._shelves[priority]
        shelf.load = None
        shelf.retry_at = now + _LOAD_RETRY_S
        return self._finish(now)

    def forget(self, priority: Priority, first_offsets: Iterable[int], now: float) -> list[Effect]:
        """These batches were deleted without having been consumed: their lifetime ended."""
        for first_offset in first_offsets:
            self._forget(self._shelves[priority], first_offset)
        return self._finish(now)

    def poll(self, now: float) -> list[Effect]:
        """Do what is due."""
        self._consumers.expire(now)
        return self._finish(now)

    def next_deadline(self) -> float | None:
        """When ``poll`` has something to do."""
        deadlines = [self._consumers.next_expiry(), *(shelf.retry_at for shelf in self._shelves.values())]
        for subscription in self._subscriptions.values():
            deadlines += [cursor.retry_at for cursor in subscription.consumer.cursors.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _check_offset(self, shelf: Shelf, entry: Entry) -> None:
        if entry.first_offset != shelf.next_offset:
            raise LocalProtocolError(f"{self.service}: offset {entry.first_offset}, not {shelf.next_offset}")

    def _finish(self, now: float) -> list[Effect]:
        """Hand out what can be; the effects of this call."""
        for shelf in self._shelves.values():
            if shelf.retry_at is not None and shelf.retry_at <= now:
                shelf.retry_at = None
        for subscription in list(self._subscriptions.values()):
            self._feed(subscription, now)
        for consumer in self._consumers.expired():
            self._sweep(consumer, now)
        for shelf in self._shelves.values():
            shelf.trim(self._wanted_from(shelf))
        if self._consumed:
            self._effects.append(Consumed(tuple(self._consumed)))
        self._effects += [StoreCursor(name, consumer.encode()) for name, consumer in self._dirty.items()]
        effects, self._effects = self._effects, []
        self._consumed = []
        self._dirty = {}
        return effects

    def _wanted_from(self, shelf: Shelf) -> int | None:
        live = [subscription.consumer.cursors[shelf.priority].next for subscription in self._subscriptions.values()]
        sweeps = [consumer.sweep[shelf.priority][0] for consumer in self._consumers if consumer.sweep]
        return min(live + sweeps, default=None)

    def _feed(self, subscription: Lease, now: float) -> None:
        deliveries: list[Delivery] = []
        cursors = subscription.consumer.cursors
        for cursor in cursors.values():
            cursor.collect_due(now)
        for priority, shelf in self._shelves.items():
            cursor = cursors[priority]
            # A higher priority that is being loaded is waited for: else lower ones would eat up the credit.
            if not self._feed_again(subscription, shelf, cursor, deliveries) or not self._feed_fresh(
                subscription, shelf, cursor, deliveries
            ):
                break
        if deliveries:
            self._effects.append(Deliver(subscription.id, tuple(deliveries)))

    def _feed_again(self, subscription: Lease, shelf: Shelf, cursor: Cursor, deliveries: list[Delivery]) -> bool:
        """Hand out nacked messages that are due. False: waits for the disk."""
        while subscription.is_ready and cursor.ready:
            first_offset = cursor.ready[0].batch
            found = shelf.at(first_offset)
            if isinstance(found, OnDisk):
                return self._load(subscription, shelf, first_offset, max_rows=1)
            spans = cursor.take_ready()
            if found is None:
                cursor.forget(first_offset)
            else:
                self._hand_out(subscription, cursor, found, spans, deliveries, redelivered=True)
        return True

    def _feed_fresh(self, subscription: Lease, shelf: Shelf, cursor: Cursor, deliveries: list[Delivery]) -> bool:
        """Hand out what comes next. False: waits for the disk."""
        while subscription.is_ready and cursor.next < shelf.next_offset and not cursor.is_full:
            found = shelf.after(cursor.next)
            if isinstance(found, OnDisk):
                cursor.pass_to(found.offset)
                return self._load(subscription, shelf, found.offset, max_rows=PAGE_ROWS)
            if found is None:
                cursor.pass_to(shelf.next_offset)
            else:
                redelivered = found.entry.first_offset < cursor.seen
                spans = cursor.take(found.entry)
                self._hand_out(subscription, cursor, found, spans, deliveries, redelivered=redelivered)
        return True

    def _hand_out(
        self,
        subscription: Lease,
        cursor: Cursor,
        batch: Batch,
        spans: list[Span],
        deliveries: list[Delivery],
        *,
        redelivered: bool,
    ) -> None:
        """Deliver the spans of the batch, but for messages that were given back too often."""
        if cursor.has_attempts:
            spans = self._without_dead(subscription.consumer, cursor, batch, spans)
        for first, last in spans:
            delivery = Delivery(batch, first - batch.entry.first_offset, last - first + 1, redelivered)
            deliveries.append(delivery)
            subscription.hand_out(delivery)

    def _without_dead(self, consumer: Consumer, cursor: Cursor, batch: Batch, spans: list[Span]) -> list[Span]:
        dead = [
            offset
            for first, last in spans
            for offset in range(first, last + 1)
            if cursor.attempts(offset) >= self._limits.attempts
        ]
        for offset in dead:
            index = offset - batch.entry.first_offset
            self._effects.append(DeadLetter(consumer.name, batch, index, cursor.attempts(offset)))
            self._dirty[consumer.name] = consumer
            self._settle(consumer, cursor.finish(offset, offset))
        return [alive for first, last in spans for alive in cursor.missing(first, last)] if dead else spans

    def _load(self, subscription: Lease, shelf: Shelf, offset: int, *, max_rows: int) -> bool:
        if self._ask(shelf, offset, max_rows):
            # Whoever got a read goes to the end of the line, so that a long backlog starves nobody.
            self._subscriptions[subscription.id] = self._subscriptions.pop(subscription.id)
        return False

    def _ask(self, shelf: Shelf, offset: int, max_rows: int) -> bool:
        if shelf.load is not None or shelf.retry_at is not None:
            return False
        shelf.begin_load(offset)
        self._effects.append(Load(shelf.priority, offset, max_rows, PAGE_BYTES))
        return True

    def _settle(self, consumer: Consumer, complete: list[Entry]) -> None:
        """``consumer`` is done with these batches: consumed, if all others that must be are too."""
        for entry in complete:
            if self._consumers.completes(consumer, entry):
                self._consume(entry)

    def _consume(self, entry: Entry) -> None:
        self._consumed.append(entry)
        self._forget(self._shelves[entry.priority], entry.first_offset)

    def _forget(self, shelf: Shelf, first_offset: int) -> None:
        shelf.forget(first_offset)
        self._consumers.forget(shelf.priority, first_offset)

    def _sweep(self, consumer: Consumer, now: float) -> None:
        """It has expired: what waited for it alone is consumed now. Its state stays until that is done."""
        sweep = consumer.sweep or {}
        for priority, (position, end) in sweep.items():
            shelf = self._shelves[priority]
            while position < end:
                found = shelf.after(position)
                if isinstance(found, OnDisk):
                    self._ask(shelf, found.offset, PAGE_ROWS)
                    sweep[priority] = (found.offset, end)
                    return
                if found is None:
                    break
                if self._consumers.has_done(found.entry):
                    self._consume(found.entry)
                position = found.entry.last_offset + 1
            sweep[priority] = (max(position, end), end)
        self._consumers.drop(consumer)
        self._dirty.pop(consumer.name, None)
        idle_s = 0.0 if consumer.idle_since is None else now - consumer.idle_since
        self._effects.append(ConsumerExpired(consumer.name, idle_s))
