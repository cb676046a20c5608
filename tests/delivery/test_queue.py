"""A SpoolQueue over a disk: what is on the disk leaves in order, and the books always balance."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshd.delivery.queue import RETRY_MAX_S, RETRY_MIN_S, WINDOW_ROWS, SpoolQueue, Waiting
from meshd.delivery.receipts import FIRST_CREDIT_BYTES, EpochReceipt, Receipt
from meshd.ids import BundleId, BundleRef, Epoch, NodeId, Number, Priority

EPOCH = Epoch(1, bytes(8))
PAGE = 3


def waiting(row: int, size: int = 100) -> Waiting:
    return Waiting(
        row=row,
        ref=BundleRef(row.to_bytes(10, "big")),
        bundle=BundleId(row.to_bytes(20, "big")),
        number=Number(EPOCH, row),
        head=b"h",
        body=b"b",
        messages=2,
        size_bytes=size,
        hop_limit=16,
        copies=0,
        accepted_ms=row,
        expires_ms=10**9,
    )


def receipt(count: int, arrived: set[int], credit: int = FIRST_CREDIT_BYTES) -> Receipt:
    spans = tuple((number, number) for number in sorted(arrived))
    told = EpochReceipt(EPOCH, 0, spans, 0, ())
    return Receipt(
        priority=Priority.NORMAL, order=(1, count), credit_bytes=credit, floor=None, epochs=(told,), refused=()
    )


class Queues(RuleBasedStateMachine):
    """The queue, a disk, and a destination that remembers what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
        self.disk: dict[int, int] = {}
        self.rows = 0
        self.receipts = 0
        self.arrived: set[int] = set()
        self.sent_since_rewind: list[int] = []
        self.read: deque[tuple[int, list[int], bool]] = deque()
        self.now = 0.0

    @initialize(kept=st.integers(0, 5), sent=st.integers(0, 5))
    def begin(self, kept: int, sent: int) -> None:
        """Left to the rules alone, hardly anything would ever be in flight."""
        for _ in range(kept):
            self.put(keep=True, size=100)
        for _ in range(min(kept, sent)):
            self.send(lost=True)

    @rule(keep=st.booleans(), size=st.integers(1, 300))
    def put(self, keep: bool, size: int) -> None:
        self.rows += 1
        self.disk[self.rows] = size
        self.queue.put(waiting(self.rows, size), keep=keep)

    @precondition(lambda self: self.queue.wants_load())
    @rule()
    def ask(self) -> None:
        found = [row for row in sorted(self.disk) if row > self.queue.loaded_to]
        self.read.append((self.queue.start_load(), found[:PAGE], len(found) <= PAGE))

    @precondition(lambda self: bool(self.read))
    @rule()
    def answer(self) -> None:
        generation, rows, complete = self.read.popleft()
        self.queue.loaded(generation, [waiting(row, self.disk.get(row, 1)) for row in rows], up_to=0, complete=complete)
        for done in self.queue.arrived_before():
            del self.disk[done.row]

    @precondition(lambda self: self.queue.may_send(self.now))
    @rule(lost=st.booleans())
    def send(self, lost: bool) -> None:
        row = self.queue.send_next(self.now).row
        assert row in self.disk
        assert not self.sent_since_rewind or row > self.sent_since_rewind[-1], "out of order"
        self.sent_since_rewind.append(row)
        if not lost:
            self.arrived.add(row)

    @rule(old=st.booleans())
    def receipted(self, old: bool) -> None:
        self.receipts += 0 if old else 1
        before = set(self.disk)
        done = self.queue.arrived(receipt(self.receipts, self.arrived), self.now)
        for item in done:
            assert item.row in self.arrived
            del self.disk[item.row]
        assert {item.row for item in done} == before - set(self.disk)

    @rule()
    def lose_link(self) -> None:
        self.queue.rewind()
        self.sent_since_rewind.clear()

    @precondition(lambda self: bool(self.queue.in_flight))
    @rule()
    def overdue(self) -> None:
        self.queue.retry()
        self.sent_since_rewind.clear()

    @precondition(lambda self: bool(self.queue.in_flight))
    @rule(data=st.data())
    def move_to_another_link(self, data: st.DataObject) -> None:
        """What its hop has not taken over is sent again; what it has waits on for the receipt."""
        rows = data.draw(st.sets(st.sampled_from(list(self.queue.in_flight)), min_size=1))
        self.queue.unsend(sorted(rows))
        self.sent_since_rewind = [row for row in self.sent_since_rewind if row < min(rows)]

    @precondition(lambda self: bool(self.disk) and not self.read)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.disk)))
        self.queue.finish_row(row, 2, self.disk.pop(row))

    @rule(seconds=st.integers(1, 10))
    def pause(self, seconds: int) -> None:
        self.queue.pause(self.now + seconds, "busy")

    @rule(seconds=st.integers(1, 10))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def books_balance(self) -> None:
        queue = self.queue
        assert queue.rows == len(self.disk)
        assert queue.messages == 2 * len(self.disk)
        assert queue.size_bytes == sum(self.disk.values())
        assert (queue.oldest_ms is None) == (not self.disk)
        flight = [item.size_bytes for item in queue.in_flight.values()]
        assert queue.in_flight_bytes == sum(flight)
        assert queue._window_bytes == sum(flight) + sum(item.size_bytes for item in queue.ready)
        assert list(queue.in_flight) == sorted(queue.in_flight)
        assert [item.row for item in queue.ready] == sorted(item.row for item in queue.ready)

    @invariant()
    def the_floor_never_passes_what_waits(self) -> None:
        floor = self.queue.floor()
        if floor is not None:
            assert floor.sequence == min(self.disk)

    def teardown(self) -> None:
        """Left alone with a good path, everything arrives."""
        self.now += 100
        self.queue.rewind()
        self.sent_since_rewind.clear()
        for _ in range(10 * (self.rows + 2)):
            while self.queue.may_send(self.now):
                self.send(lost=False)
            if self.queue.wants_load():
                self.ask()
            while self.read:
                self.answer()
            self.receipted(old=False)
        assert not self.disk


Queues.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestQueues = Queues.TestCase


def test_the_window_is_bounded() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    kept = [queue.put(waiting(row), keep=True) for row in range(1, WINDOW_ROWS + 10)]
    assert kept == [True] * WINDOW_ROWS + [False] * 9
    assert queue.on_disk


def test_no_more_is_under_way_than_the_destination_allows() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    for row in range(1, 6):
        queue.put(waiting(row, FIRST_CREDIT_BYTES // 2), keep=True)
    sent = []
    while queue.may_send(0.0):
        sent.append(queue.send_next(0.0).row)
    assert sent == [1, 2]
    queue.arrived(receipt(1, {1}, credit=0), 1.0)
    assert not queue.may_send(1.0)
    queue.arrived(receipt(2, {1, 2}, credit=1), 1.0)
    assert queue.may_send(1.0)


def test_each_retry_waits_twice_as_long_up_to_an_hour() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    queue.put(waiting(1), keep=True)
    waits = []
    for _ in range(14):
        if queue.wants_load():
            queue.loaded(queue.start_load(), [waiting(1)], up_to=1, complete=True)
        queue.send_next(0.0)
        due = queue.retry_at()
        assert due is not None
        waits.append(due)
        queue.retry()
    assert waits[:4] == [RETRY_MIN_S, 2 * RETRY_MIN_S, 4 * RETRY_MIN_S, 8 * RETRY_MIN_S]
    assert waits[-1] == RETRY_MAX_S


def test_rows_that_came_while_a_read_ran_are_read_next() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    queue.count(1, 2, 100, 1)
    generation = queue.start_load()
    queue.put(waiting(2), keep=True)
    queue.loaded(generation, [waiting(1)], up_to=1, complete=True)
    assert queue.on_disk
    assert queue.loaded_to == 1


def test_what_is_sent_again_is_still_the_first_that_waits() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    for row in range(1, 6):
        queue.put(waiting(row), keep=True)
    for _ in range(4):
        queue.send_next(0.0)
    floors = []
    queue.unsend([1])  # what came after it was taken over by the next hop
    floors.append(queue.floor())
    queue.unsend([2, 3])  # of another link
    floors.append(queue.floor())
    sent = [queue.send_next(1.0).row for _ in range(2)]
    floors.append(queue.floor())
    sent += [queue.send_next(1.0).row for _ in range(2)]
    floors.append(queue.floor())
    assert sent == [1, 2, 3, 5]
    assert floors == [Number(EPOCH, 1)] * 4
    assert [item.row for item in queue.arrived(receipt(1, {1, 2, 5}), 2.0)] == [1, 2, 5]
    assert queue.floor() == Number(EPOCH, 3)


def flying(*rows: int, credit: int | None = None) -> SpoolQueue:
    """A queue that has sent these at 0 s; told of so much credit, if given."""
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    for row in rows:
        queue.put(waiting(row), keep=True)
        queue.send_next(0.0)
    if credit is not None:
        queue.arrived(receipt(1, set(), credit=credit), 0.0)
    return queue


def test_word_of_room_ends_the_wait_for_it_and_no_other_pause() -> None:
    queue = flying(1, credit=0)
    queue.arrived(receipt(2, {1}, credit=0), 1.0)
    queue.put(waiting(2), keep=True)
    queue.wait_for_credit(1.0)
    assert queue.paused_until > 1.0
    queue.arrived(receipt(3, {1}), 1.0)
    assert queue.may_send(1.0)
    queue.pause(9.0, "busy")
    queue.arrived(receipt(4, {1}), 1.0)
    assert [queue.may_send(now) for now in (8.9, 9.0)] == [False, True]


def test_without_room_one_asks_again_and_each_time_later() -> None:
    queue = flying(1, credit=0)
    queue.arrived(receipt(2, {1}, credit=0), 1.0)
    queue.put(waiting(2), keep=True)
    queue.put(waiting(3), keep=True)
    queue.resume()  # of another pause
    assert not queue.may_send(1.0)
    queue.wait_for_credit(1.0)
    first = queue.retry_at()
    assert first is not None
    queue.resume()
    queue.send_next(first)
    assert not queue.may_send(first), "one is enough to ask"
    again = queue.retry_at()
    assert again is not None
    assert again - first == 2 * (first - 1.0)


def test_the_wait_follows_the_round_trips() -> None:
    queue = flying(1)
    queue.arrived(receipt(1, {1}), 2.0)
    waits = []
    for row, took in ((2, 10.0), (3, 0.0), (4, 0.0)):
        queue.put(waiting(row), keep=True)
        queue.send_next(0.0)
        waits.append(queue.retry_at())
        queue.arrived(receipt(row, {1, row}), took)
    assert waits == [8.0, 12.0, 10.5]  # four times 2, 3 and 2.625 s


def test_only_what_is_under_way_or_held_back_has_a_time_of_its_own() -> None:
    queue = SpoolQueue(NodeId(bytes(16)), Priority.NORMAL)
    assert queue.retry_at() is None
    queue.put(waiting(1), keep=True)
    assert queue.retry_at() is None
    queue.pause(7.0, "busy")
    assert queue.retry_at() == 7.0


def test_silence_twice_in_a_row_is_no_chance() -> None:
    queue = flying(1)
    told = []
    for _ in range(2):
        queue.retry()
        told.append(queue.is_unconfirmed)
    assert told == [False, True]
    queue.loaded(queue.start_load(), [waiting(1)], up_to=1, complete=True)
    queue.put(waiting(2), keep=True)
    queue.send_next(0.0)
    queue.arrived(receipt(1, {1}), 1.0)
    assert not queue.is_unconfirmed


def test_the_oldest_is_the_first_that_still_waits() -> None:
    queue = flying(1, 2, 3)
    ages = []
    for row in (1, 3, 2):
        queue.finish_row(row, 2, 100)
        ages.append(queue.oldest_ms)
    assert ages == [2, 2, None]
