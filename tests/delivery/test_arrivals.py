"""FlowArrivals against the rules: once, in order, and nothing waits longer than it must."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshd.delivery.arrivals import MAX_SERVICES, FlowArrivals, Held, Release, Verdict
from meshd.delivery.receipts import MAX_EPOCHS, MAX_REFUSALS, UNREAD
from meshd.delivery.sequences import MAX_SPANS
from meshd.ids import Epoch, Number, Priority
from meshd.wire.codec import ShapeError

FIRST, SECOND = Epoch(1, bytes(8)), Epoch(2, bytes(8))
LATER = 10**9


def flow() -> FlowArrivals:
    return FlowArrivals(Priority.NORMAL)


def n(sequence: int, epoch: Epoch = FIRST) -> Number:
    return Number(epoch, sequence)


def take(arrivals: FlowArrivals, sequence: int, prev: int | None, floor: int | None = None) -> list[int]:
    """The rows released when this number arrives; a row has the number's sequence."""
    release = arrivals.take(
        sequence, "s", n(sequence), None if prev is None else n(prev), None if floor is None else n(floor), LATER
    )
    return ([] if release is None else [release.row]) + [item.row for item in arrivals.releases(0)]


def test_in_order_each_has_its_turn_at_once() -> None:
    arrivals = flow()
    assert [take(arrivals, i, i - 1 or None) for i in range(1, 5)] == [[1], [2], [3], [4]]


def test_out_of_order_waits_for_what_it_names() -> None:
    arrivals = flow()
    assert take(arrivals, 3, 2) == []
    assert take(arrivals, 2, 1) == []
    assert take(arrivals, 1, None) == [1, 2, 3]


def test_services_do_not_wait_for_each_other() -> None:
    arrivals = flow()
    assert take(arrivals, 3, 1) == []
    assert arrivals.take(2, "other", n(2), None, None, LATER) == Release(2, None, late=False)


def test_a_floor_ends_a_wait_and_says_what_is_missing() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    assert take(arrivals, 3, 2) == []
    assert arrivals.raise_floor(n(3))
    assert arrivals.releases(0) == [Release(3, "expired", late=False)]
    assert not arrivals.raise_floor(n(2))


def test_a_lifetime_ends_a_wait_and_what_comes_after_is_late() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    assert arrivals.take(3, "s", n(3), n(2), None, 50) is None
    assert arrivals.next_deadline_ms() == 50
    assert arrivals.releases(49) == []
    assert arrivals.releases(50) == [Release(3, "waited", late=False)]
    assert arrivals.take(2, "s", n(2), n(1), None, LATER) == Release(2, None, late=True)


def test_whoever_waited_long_enough_takes_along_all_before_it() -> None:
    arrivals = flow()
    arrivals.take(3, "s", n(3), n(2), None, LATER)
    arrivals.take(5, "s", n(5), n(4), None, 50)
    assert [item.row for item in arrivals.releases(50)] == [3, 5]


def test_and_nothing_after_it() -> None:
    arrivals = flow()
    for sequence, until_ms in ((3, LATER), (5, 50), (7, LATER)):
        arrivals.take(sequence, "s", n(sequence), n(sequence - 1), None, until_ms)
    assert [item.row for item in arrivals.releases(50)] == [3, 5]
    assert take(arrivals, 6, 5) == [6, 7]


def test_what_has_had_its_turn_is_never_told_to_be_missing() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    assert arrivals.take(2, "s", n(2), n(1), n(2), LATER) == Release(2, None, late=False)


def test_a_refused_number_is_over_for_who_waits_for_it() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    assert take(arrivals, 3, 2) == []
    arrivals.refuse(n(2), "malformed")
    assert arrivals.releases(0) == [Release(3, "refused", late=False)]
    assert arrivals.judge(n(2)) is Verdict.DUPLICATE
    assert arrivals.receipt((1, 1), 0).refusal_of(n(2)) == "malformed"


def test_refusals_are_bounded_and_go_with_the_floor() -> None:
    arrivals = flow()
    for sequence in range(1, MAX_REFUSALS + 10):
        arrivals.refuse(n(sequence), "no")
    assert len(arrivals.receipt((1, 1), 0).refused) == MAX_REFUSALS
    arrivals.raise_floor(n(MAX_REFUSALS + 9))
    assert len(arrivals.receipt((1, 1), 0).refused) == 1


class TestVerdicts:
    def test_numbers_below_the_floor_are_no_news(self) -> None:
        arrivals = flow()
        take(arrivals, 5, None, floor=5)
        assert arrivals.judge(n(4)) is Verdict.DUPLICATE
        assert arrivals.judge(n(6)) is Verdict.NEW

    def test_an_epoch_that_is_not_newer_is_stale_never_a_duplicate(self) -> None:
        arrivals = flow()
        arrivals.take(1, "s", n(1, SECOND), None, n(1, SECOND), LATER)
        assert arrivals.judge(n(1, FIRST)) is Verdict.STALE_EPOCH
        assert arrivals.judge(n(1, Epoch(2, b"\xff" * 8))) is Verdict.NEW

    def test_what_is_below_the_floor_is_finished_also_when_nothing_of_its_epoch_came(self) -> None:
        arrivals = flow()
        assert arrivals.raise_floor(n(3, SECOND))
        assert arrivals.judge(n(1, FIRST)) is Verdict.STALE_EPOCH
        assert [arrivals.judge(n(i, SECOND)) for i in (2, 3)] == [Verdict.DUPLICATE, Verdict.NEW]
        receipt = arrivals.receipt((1, 1), 0)
        assert [receipt.has_arrived(n(i, SECOND)) for i in (2, 3)] == [True, False]
        assert FlowArrivals.decode(arrivals.priority, arrivals.encode()).judge(n(2, SECOND)) is Verdict.DUPLICATE

    def test_a_known_older_epoch_may_still_arrive(self) -> None:
        arrivals = flow()
        take(arrivals, 1, None)
        arrivals.take(9, "s", n(1, SECOND), n(2, FIRST), n(2, FIRST), LATER)
        assert arrivals.judge(n(2, FIRST)) is Verdict.NEW
        assert [take(arrivals, 2, 1)] == [[2, 9]]

    def test_memory_is_bounded(self) -> None:
        arrivals = flow()
        for i in range(MAX_SPANS):
            assert arrivals.judge(n(2 * i + 2)) is Verdict.NEW
            arrivals.refuse(n(2 * i + 2), "no")
        assert arrivals.judge(n(10**6)) is Verdict.NO_ROOM
        assert arrivals.judge(n(1)) is Verdict.NEW
        many = flow()
        for i in range(MAX_EPOCHS):
            many.refuse(n(1, Epoch(i, bytes(8))), "no")
        assert many.judge(n(1, Epoch(999, bytes(8)))) is Verdict.NO_ROOM

    def test_services_are_bounded_and_each_counts_once(self) -> None:
        arrivals = flow()
        for i in range(1, MAX_SERVICES):
            number = n(1, Epoch(i, bytes(8)))
            arrivals.take(2 * i, f"s{i}", n(2, number.epoch), number, None, LATER)
            arrivals.take(2 * i - 1, f"s{i}", number, None, None, LATER)
            assert len(arrivals.releases(0)) == 1
            assert arrivals.has_room_for_service("new")
        arrivals.take(0, "last", n(1, Epoch(MAX_SERVICES, bytes(8))), None, None, LATER)
        assert [arrivals.has_room_for_service(name) for name in ("new", "s1")] == [False, True]

    def test_finished_epochs_are_forgotten_once_the_floor_has_passed_them(self) -> None:
        arrivals = flow()
        for i in range(1, 10 * MAX_EPOCHS):
            number = n(1, Epoch(i, bytes(8)))
            assert arrivals.judge(number) is Verdict.NEW
            arrivals.take(i, "s", number, None, number, LATER)
            arrivals.consume(number)
        assert len(arrivals.receipt((1, 1), 0).epochs) <= 2

    @pytest.mark.parametrize("read", [True, False])
    def test_the_last_of_an_older_epoch_takes_it_along_however_it_ends(self, read: bool) -> None:
        arrivals = flow()
        take(arrivals, 1, None)
        arrivals.raise_floor(n(1, SECOND))
        assert [told.epoch for told in arrivals.receipt((1, 1), 0).epochs] == [FIRST]
        if read:
            arrivals.consume(n(1))
        else:
            arrivals.refuse(n(1), UNREAD)
        assert arrivals.receipt((1, 1), 0).epochs == ()


def test_what_will_not_come_has_not_to_be_consumed() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    take(arrivals, 4, 1, floor=4)
    arrivals.consume(n(1))
    arrivals.consume(n(4))
    [told] = arrivals.receipt((1, 1), 0).epochs
    assert (told.arrived, told.consumed) == (4, 4)


def test_all_of_the_state_reads_back() -> None:
    arrivals = flow()
    take(arrivals, 1, None)
    arrivals.take(9, "other", n(9), n(8), n(2), LATER)
    arrivals.refuse(n(5), "malformed")
    arrivals.consume(n(1))
    again = FlowArrivals.decode(Priority.NORMAL, arrivals.encode())
    assert again.encode() == arrivals.encode()
    assert again.receipt((1, 1), 0) == arrivals.receipt((1, 1), 0)
    assert again.judge(n(1, Epoch(0, bytes(8)))) is Verdict.STALE_EPOCH
    assert take(again, 6, 5) == [6], "what was refused is waited for no more"


def test_damaged_state_is_noticed() -> None:
    for data in (b"", b"\x80", b"\x84\x00\x80\xa0\x80"):
        with pytest.raises(ShapeError):
            FlowArrivals.decode(Priority.HIGH, data)


class Flows(RuleBasedStateMachine):
    """A source that sends to two services, a network that loses, doubles and reorders, and restarts of both."""

    def __init__(self) -> None:
        super().__init__()
        self.arrivals = flow()
        self.epoch = 1
        self.sequence = 0
        self.last: dict[str, Number] = {}
        self.pending: dict[Number, tuple[str, Number | None, Number]] = {}
        self.rows: dict[int, tuple[Number, str]] = {}
        self.held: dict[int, Held] = {}
        self.delivered: dict[str, list[Number]] = {"a": [], "b": []}
        self.late: set[Number] = set()
        self.expired: set[Number] = set()
        self.now = 0

    def floor(self) -> Number:
        return min(self.pending, default=Number(Epoch(self.epoch, bytes(8)), self.sequence + 1))

    @rule(service=st.sampled_from(["a", "b"]))
    def send(self, service: str) -> None:
        self.sequence += 1
        number = Number(Epoch(self.epoch, bytes(8)), self.sequence)
        self.pending[number] = (service, self.last.get(service), min(self.floor(), number))
        self.last[service] = number

    @precondition(lambda self: bool(self.pending))
    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.pending)))
        service, prev, floor = self.pending[number]
        known = any(number == found for found, _ in self.rows.values())
        assert self.arrivals.judge(number) is (Verdict.DUPLICATE if known else Verdict.NEW)
        if known:
            return
        row = len(self.rows) + 1
        self.rows[row] = (number, service)
        release = self.arrivals.take(row, service, number, prev, floor, self.now + 1000)
        if release is None:
            assert prev is not None
            self.held[row] = Held(row, service, number, prev, self.now + 1000)
        else:
            self.released([release])
        self.released(self.arrivals.releases(self.now))

    def released(self, releases: list[Release]) -> None:
        for release in releases:
            number, service = self.rows[release.row]
            self.held.pop(release.row, None)
            assert number not in self.delivered[service], "delivered twice"
            before = [found for found in self.delivered[service] if found not in self.late]
            if release.late:
                self.late.add(number)
            else:
                assert not before or number > before[-1], "out of order"
            self.delivered[service].append(number)
            self.arrivals.consume(number)

    @precondition(lambda self: bool(self.pending))
    @rule(data=st.data())
    def receipt_or_expiry(self, data: st.DataObject) -> None:
        """The origin is done with a bundle, arrived or not."""
        number = data.draw(st.sampled_from(sorted(self.pending)))
        arrived = self.arrivals.receipt((1, 1), 0).has_arrived(number)
        assert arrived == any(number == found for found, _ in self.rows.values())
        if not arrived:
            self.expired.add(number)
        del self.pending[number]

    @rule()
    def tell_floor(self) -> None:
        self.arrivals.raise_floor(self.floor())
        self.released(self.arrivals.releases(self.now))

    @rule()
    def restart_source(self) -> None:
        self.epoch += 1
        self.sequence = 0

    @rule()
    def restart_destination(self) -> None:
        state = self.arrivals.encode()
        self.arrivals = FlowArrivals.decode(Priority.NORMAL, state)
        assert self.arrivals.encode() == state
        for held in self.held.values():
            self.arrivals.restore_held(held)

    @rule(ms=st.integers(1, 600))
    def wait(self, ms: int) -> None:
        self.now += ms
        self.released(self.arrivals.releases(self.now))

    @invariant()
    def nobody_waits_too_long(self) -> None:
        due = self.arrivals.next_deadline_ms()
        assert due == min((held.until_ms for held in self.held.values()), default=None)
        assert due is None or due > self.now

    def teardown(self) -> None:
        """When the origin is done with everything, nothing is held, and all that arrived was delivered."""
        for number in sorted(self.pending):
            service, prev, floor = self.pending[number]
            if self.arrivals.judge(number) is Verdict.NEW:
                row = len(self.rows) + 1
                self.rows[row] = (number, service)
                release = self.arrivals.take(row, service, number, prev, floor, self.now + 1000)
                self.released([release] if release is not None else [])
        self.pending.clear()
        self.tell_floor()
        assert self.arrivals.next_deadline_ms() is None
        assert sorted(number for number, _ in self.rows.values()) == sorted(self.delivered["a"] + self.delivered["b"])


Flows.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestFlows = Flows.TestCase
