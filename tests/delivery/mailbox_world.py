"""A mailbox with a disk that commits late, and a naive model that checks everything handed out."""

from collections import deque
from collections.abc import Iterable

import attrs

from meshd.delivery.mailbox import Mailbox
from meshd.delivery.mailbox_effects import (
    Backlog,
    Consumed,
    ConsumerExpired,
    DeadLetter,
    Deliver,
    Effect,
    Limits,
    Load,
    StoreCursor,
)
from meshd.delivery.shelf import Batch, Entry
from meshd.ids import BundleRef, Epoch, NodeId, Number, Priority
from meshd.wire import codec


@attrs.define(eq=False)
class Commit:
    """One transaction: rows put and deleted, facts set (None deletes), offsets whose ack it makes durable."""

    put: list[Batch] = attrs.field(factory=list)
    delete: list[int] = attrs.field(factory=list)
    facts: dict[str, bytes | None] = attrs.field(factory=dict)
    acked: dict[str, set[int]] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Lease:
    """What the model knows of one subscription."""

    consumer: str
    delivered: set[int] = attrs.field(factory=set)
    given_back: set[int] = attrs.field(factory=set)


def make_batch(row: int, priority: Priority, first_offset: int, count: int, messages: bytes) -> Batch:
    entry = Entry(
        row=row,
        priority=priority,
        first_offset=first_offset,
        count=count,
        ref=BundleRef(row.to_bytes(10, "big")),
        source=NodeId(bytes(16)),
        number=Number(Epoch(1, bytes(8)), row + 1),
        size_bytes=len(messages),
        age_ms=0,
        arrived_ms=0,
    )
    return Batch(entry, messages)


class World:
    """Carries out effects as the node would, and asserts on every delivery and every consumption."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.now = 1000.0
        self.run = 0
        self.disk: dict[int, Batch] = {}
        self.facts: dict[str, bytes] = {}
        self.queue: deque[Commit | Load] = deque()
        self.released: dict[int, Batch] = {}  # rows that exist as this run sees it
        self.made: dict[str, dict[Priority, int]] = {}  # consumer -> offsets from which it is required
        self.unmade: dict[str, dict[Priority, int]] = {}  # the same, of those whose end may not be on disk
        self.idle_since: dict[str, float] = {}
        self.acked: dict[str, set[int]] = {}
        self.durable: dict[str, set[int]] = {}
        self.leases: dict[int, Lease] = {}
        self.offsets: set[tuple[Priority, int]] = set()
        self.dead: list[DeadLetter] = []
        self.expired: list[str] = []
        self.consumed: list[int] = []
        self.log: list[tuple[str, int, bool]] = []  # consumer, offset, redelivered
        self._rows = 0
        self._subscriptions = 0
        self.start()

    def start(self) -> None:
        """A new run of the daemon on what is on disk."""
        self.run += 1
        highest: dict[Priority, int] = {}
        for batch in self.disk.values():
            entry = batch.entry
            highest[entry.priority] = max(highest.get(entry.priority, 0), entry.last_offset)
        self.mailbox = Mailbox(
            "app",
            run=self.run,
            now=self.now,
            limits=self.limits,
            backlogs=[Backlog(priority, offset) for priority, offset in highest.items()],
            consumers=self.facts,
        )

    def crash(self) -> None:
        """Nothing uncommitted survives."""
        self.queue.clear()
        self.leases.clear()
        self.released = dict(self.disk)
        self.acked = {name: set(self.durable.get(name, ())) for name in self.facts}
        self.made = {name: self.made[name] if name in self.made else self.unmade[name] for name in self.facts}
        self.idle_since = {name: self.idle_since.get(name, self.now) for name in self.facts}
        self.start()

    def release(
        self, count: int = 1, priority: Priority = Priority.NORMAL, messages: bytes = b"", *, held: bool = False
    ) -> int:
        """A bundle gets its turn, fresh or (``held``) from disk; returns its first offset."""
        first = self.mailbox.next_offset(priority)
        self._rows += 1
        batch = make_batch(self._rows, priority, first, count, messages or codec.encode([b""] * count))
        for offset in range(first, first + count):
            assert (priority, offset) not in self.offsets, "an offset was given out twice"
            self.offsets.add((priority, offset))
        self.released[batch.entry.row] = batch
        mailbox = self.mailbox
        effects = mailbox.release_stored(batch.entry, self.now) if held else mailbox.release(batch, self.now)
        self.perform(effects, Commit(put=[batch]))
        return first

    def subscribe(self, consumer: str = "main", credit: int = 1 << 30) -> int:
        """Returns the subscription."""
        self._subscriptions += 1
        subscription = self._subscriptions
        if consumer not in self.made:
            self.made[consumer] = {priority: self.mailbox.next_offset(priority) for priority in Priority}
            self.acked[consumer] = set()
            self.durable.pop(consumer, None)
        effects = self.mailbox.subscribe(subscription, consumer, credit, self.now)
        self.leases[subscription] = Lease(consumer)
        self.idle_since.pop(consumer, None)
        self.perform(effects)
        return subscription

    def credit(self, subscription: int, messages: int) -> None:
        self.perform(self.mailbox.add_credit(subscription, messages, self.now))

    def unsubscribe(self, subscription: int, *, lost: bool = True) -> None:
        self.idle_since[self.leases.pop(subscription).consumer] = self.now
        self.perform(self.mailbox.unsubscribe(subscription, self.now, lost=lost))

    def ack(self, subscription: int, offsets: Iterable[int], priority: Priority = Priority.NORMAL) -> None:
        """Single offsets, as ranges."""
        lease = self.leases[subscription]
        news = {offset for offset in offsets if (key(priority, offset)) in lease.delivered}
        marked = {key(priority, offset) for offset in news}
        self.acked[lease.consumer] |= marked
        ranges = {int(priority): tuple((offset, offset) for offset in offsets)}
        effects = self.mailbox.acknowledge(subscription, {}, ranges, {}, self.now)
        self.perform(effects, Commit(acked={lease.consumer: marked}))

    def ack_up_to(self, subscription: int, offset: int, priority: Priority = Priority.NORMAL) -> None:
        lease = self.leases[subscription]
        marked = {item for item in lease.delivered if item % 4 == priority and item <= key(priority, offset)}
        self.acked[lease.consumer] |= marked
        effects = self.mailbox.acknowledge(subscription, {int(priority): offset}, {}, {}, self.now)
        self.perform(effects, Commit(acked={lease.consumer: marked}))

    def nack(self, subscription: int, first: int, last: int, priority: Priority = Priority.NORMAL) -> None:
        lease = self.leases[subscription]
        spanned = {key(priority, offset) for offset in range(first, last + 1)}
        lease.given_back |= (spanned & lease.delivered) - self.acked[lease.consumer]
        effects = self.mailbox.acknowledge(subscription, {}, {}, {int(priority): ((first, last),)}, self.now)
        self.perform(effects)

    def expire(self, row: int) -> None:
        """The row's lifetime ends."""
        entry = self.released.pop(row).entry
        effects = self.mailbox.forget(entry.priority, [entry.first_offset], self.now)
        self.perform(effects, Commit(delete=[row]))

    def poll(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.perform(self.mailbox.poll(self.now))
        deadline = self.mailbox.next_deadline()
        assert deadline is None or deadline > self.now, "a deadline that is over would spin"

    def step(self, *, fail: bool = False) -> None:
        """The store carries out the oldest thing asked of it."""
        item = self.queue.popleft()
        if isinstance(item, Commit):
            self.disk.update({batch.entry.row: batch for batch in item.put})
            for row in item.delete:
                self.disk.pop(row, None)
            for name, state in item.facts.items():
                if state is None:
                    self.facts.pop(name, None)
                else:
                    self.facts[name] = state
            for name, offsets in item.acked.items():
                self.durable.setdefault(name, set()).update(offsets)
        elif fail:
            self.perform(self.mailbox.load_failed(item.priority, self.now))
        else:
            self.perform(self.mailbox.loaded(item.priority, self.read(item), self.now))

    def read(self, load: Load) -> list[Batch]:
        """As the store answers a read of the inbox."""
        found: list[Batch] = []
        size = 0
        for batch in sorted(self.disk.values(), key=lambda batch: batch.entry.first_offset):
            if batch.entry.priority is load.priority and batch.entry.last_offset >= load.offset:
                found.append(batch)
                size += len(batch.messages)
                if len(found) == load.max_rows or size >= load.max_bytes:
                    break
        return found

    def settle(self) -> None:
        """Until the store has nothing to do."""
        while self.queue:
            self.step()

    def perform(self, effects: list[Effect], commit: Commit | None = None) -> None:
        commit = commit or Commit()
        loads: list[Load] = []
        for effect in effects:
            if isinstance(effect, Deliver):
                self._check_delivery(effect)
            elif isinstance(effect, DeadLetter):
                self.dead.append(effect)
                entry = effect.batch.entry
                offset = key(entry.priority, entry.first_offset + effect.index)
                self.acked[effect.consumer].add(offset)
                commit.acked.setdefault(effect.consumer, set()).add(offset)
            elif isinstance(effect, Consumed):
                for entry in effect.entries:
                    self._check_consumed(entry)
                    commit.delete.append(entry.row)
            elif isinstance(effect, StoreCursor):
                commit.facts[effect.consumer] = effect.state
            elif isinstance(effect, ConsumerExpired):
                self.expired.append(effect.consumer)
                self.unmade[effect.consumer] = self.made.pop(effect.consumer)
                commit.facts[effect.consumer] = None
            else:
                loads.append(effect)
        self.queue.append(commit)
        self.queue.extend(loads)

    def _check_delivery(self, effect: Deliver) -> None:
        lease = self.leases[effect.subscription]
        acked = self.acked[lease.consumer]
        for delivery in effect.deliveries:
            entry = delivery.batch.entry
            assert self.released.get(entry.row) == delivery.batch, "a deleted batch was delivered"
            for offset in range(delivery.first_offset, delivery.first_offset + delivery.count):
                item = key(entry.priority, offset)
                assert item not in acked, "an acked message was delivered again"
                self.log.append((lease.consumer, offset, delivery.redelivered))
                if item in lease.delivered:
                    assert item in lease.given_back, "delivered twice under one lease"
                    assert delivery.redelivered
                    lease.given_back.discard(item)
                    continue
                lease.delivered.add(item)
                earlier = self._existing(entry.priority, below=offset) - acked - lease.delivered
                assert not earlier, "an earlier message was skipped"

    def _existing(self, priority: Priority, below: int) -> set[int]:
        return {
            key(priority, offset)
            for batch in self.released.values()
            if batch.entry.priority is priority
            for offset in range(batch.entry.first_offset, min(below, batch.entry.last_offset + 1))
        }

    def _check_consumed(self, entry: Entry) -> None:
        del self.released[entry.row]
        self.consumed.append(entry.first_offset)
        offsets = {key(entry.priority, offset) for offset in range(entry.first_offset, entry.last_offset + 1)}
        required = [name for name, since in self.made.items() if entry.first_offset >= since[entry.priority]]
        required = [name for name in required if not self._is_expiring(name)]
        if required:
            assert all(offsets <= self.acked[name] for name in required), "consumed too early"
        else:
            assert any(offsets <= acked for acked in self.acked.values()), "consumed by nobody"

    def _is_expiring(self, name: str) -> bool:
        leased = any(lease.consumer == name for lease in self.leases.values())
        return not leased and self.now - self.idle_since.get(name, self.now) >= self.limits.idle_s

    def assert_everything_reaches(self, consumer: str) -> None:
        """A lease with enough credit gets all that exists and is not acked."""
        for subscription, lease in list(self.leases.items()):
            if lease.consumer == consumer:
                self.unsubscribe(subscription, lost=False)
        subscription = self.subscribe(consumer)
        self.settle()
        self.poll(2.0)
        self.settle()
        lease = self.leases[subscription]
        for priority in Priority:
            missing = self._existing(priority, below=1 << 62) - self.acked[consumer] - lease.delivered
            assert not missing, f"{len(missing)} messages never came"


def key(priority: Priority, offset: int) -> int:
    """One integer for both."""
    return offset * 4 + priority
