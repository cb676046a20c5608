"""Readers, senders, time, a slow store and crashes in any order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshd.delivery.mailbox_effects import Limits
from meshd.delivery.shelf import PAGE_BYTES, TAIL_BYTES
from meshd.ids import Priority
from meshd.wire.bundle import Message, encode_messages

from .mailbox_world import World

names = st.sampled_from(["one", "two", "three"])
priorities = st.sampled_from([Priority.CRITICAL, Priority.NORMAL])


class Readers(RuleBasedStateMachine):
    """Anything may happen in any order; ``World`` asserts on every delivery."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Limits(attempts=3, idle_s=500.0))

    def live(self, choice: int) -> int:
        return list(self.world.leases)[choice % len(self.world.leases)]

    @rule(
        count=st.sampled_from([1, 2, 5]),
        priority=priorities,
        size=st.sampled_from([0, 9_000, 300_000]),
        held=st.booleans(),
    )
    def release(self, count: int, priority: Priority, size: int, held: bool) -> None:
        messages = encode_messages([Message(bytes(size)), *[Message(b"")] * (count - 1)])
        self.world.release(count, priority, messages, held=held)

    @rule(name=names, credit=st.sampled_from([0, 1, 3, 1000]))
    def subscribe(self, name: str, credit: int) -> None:
        if all(lease.consumer != name for lease in self.world.leases.values()):
            self.world.subscribe(name, credit)

    @precondition(lambda self: self.world.leases)
    @rule(choice=st.integers(0, 9), credit=st.sampled_from([1, 4, 50]))
    def add_credit(self, choice: int, credit: int) -> None:
        self.world.credit(self.live(choice), credit)

    @precondition(lambda self: self.world.leases)
    @rule(choice=st.integers(0, 9), lost=st.booleans())
    def unsubscribe(self, choice: int, lost: bool) -> None:
        self.world.unsubscribe(self.live(choice), lost=lost)

    @precondition(lambda self: self.world.leases)
    @rule(choice=st.integers(0, 9), picks=st.sets(st.integers(0, 40), min_size=1, max_size=8), priority=priorities)
    def ack_some(self, choice: int, picks: set[int], priority: Priority) -> None:
        subscription = self.live(choice)
        delivered = sorted(item // 4 for item in self.world.leases[subscription].delivered if item % 4 == priority)
        if delivered:
            self.world.ack(subscription, sorted({delivered[pick % len(delivered)] for pick in picks}), priority)

    @precondition(lambda self: self.world.leases)
    @rule(choice=st.integers(0, 9), back=st.integers(0, 6), priority=priorities)
    def ack_up_to(self, choice: int, back: int, priority: Priority) -> None:
        self.world.ack_up_to(self.live(choice), self.world.mailbox.next_offset(priority) - back, priority)

    @precondition(lambda self: self.world.leases)
    @rule(choice=st.integers(0, 9), back=st.integers(1, 12), length=st.integers(0, 3), priority=priorities)
    def nack(self, choice: int, back: int, length: int, priority: Priority) -> None:
        last = self.world.mailbox.next_offset(priority) - back
        self.world.nack(self.live(choice), last - length, last, priority)

    @precondition(lambda self: self.world.queue)
    @rule(steps=st.integers(1, 6), fail=st.booleans())
    def store_works(self, steps: int, fail: bool) -> None:
        for _ in range(min(steps, len(self.world.queue))):
            self.world.step(fail=fail)

    @precondition(lambda self: self.world.released)
    @rule(choice=st.integers(0, 99))
    def expire(self, choice: int) -> None:
        rows = sorted(self.world.released)
        self.world.expire(rows[choice % len(rows)])

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.poll(seconds)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.world.mailbox.bytes <= 2 * (TAIL_BYTES + PAGE_BYTES + 2 * 301_000)

    def teardown(self) -> None:
        self.world.settle()
        for name in list(self.world.made):
            self.world.assert_everything_reaches(name)


Readers.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestReaders = Readers.TestCase
