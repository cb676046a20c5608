"""Budgets, timers, pending requests, the route table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.routing.budget import Budget
from meshd.routing.neighbour import Neighbour
from meshd.routing.request import PENDING_SECONDS, RETRY_MAX_SECONDS, RETRY_SECONDS, SUPPRESS_SECONDS, PendingRequests
from meshd.routing.route import MAX_ROUTES_PER_NEIGHBOUR, RouteTable, Selection, best, worth_a_request
from meshd.routing.seqno import Announcement, Seqno
from meshd.routing.source import Distance, Source
from meshd.routing.timers import Timers
from tests.routing.simulation import node_id, seqno

D, A, B, C = map(node_id, "dabc")


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), max_size=60))
def test_a_budget_never_gives_more_than_its_burst_and_rate(steps: list[tuple[float, int]]) -> None:
    budget, now, given_out = Budget(10, 2), 0.0, 0
    for wait, count in steps:
        now += wait
        given_out += count if budget.take(now, count) else 0
        assert given_out <= 10 + 2 * now + 1e-6


def test_a_spent_budget_says_when_it_has_one_again() -> None:
    budget = Budget(2, 4)
    assert [budget.take(5.0) for _ in range(3)] == [True, True, False]
    ready_at = budget.ready_at(5.0)
    assert ready_at == pytest.approx(5.25, abs=0.01)
    assert not budget.take(5.2)
    assert budget.take(ready_at)


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 50)))), st.integers(0, 50))
def test_timers_behave_like_a_dictionary_of_times(steps: list[tuple[int, int | None]], now: int) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, int] = {}
    for key, at in steps * 20:
        if at is None:
            timers.cancel(key)
            model.pop(key, None)
        else:
            timers.set(key, at)
            model[key] = at
    assert timers.next == min(model.values(), default=None)
    due = list(timers.due(now))
    assert sorted(due) == sorted(key for key, at in model.items() if at <= now)
    assert [model[key] for key in due] == sorted(model[key] for key in due)
    assert all(key not in timers for key in due)


def test_our_own_request_asks_each_neighbour_once_a_round_and_backs_off() -> None:
    requests, now, rounds = PendingRequests(), 0.0, []
    for _ in range(12):
        asked, retry_at = requests.to_ask(D, seqno(1), [A, B], now)
        assert asked == [A, B]
        assert requests.to_ask(D, seqno(1), [A, B, C], now)[0] == [C]
        rounds.append(retry_at - now)
        now = retry_at
    assert rounds[:4] == [RETRY_SECONDS, 1.0, 2.0, 4.0]
    assert rounds[-1] == RETRY_MAX_SECONDS
    assert requests.to_ask(D, seqno(2), [A], now - 1)[0] == [A]  # for a newer one all begins anew


def test_a_request_is_passed_on_once_in_a_while_and_all_who_asked_are_answered() -> None:
    requests = PendingRequests()
    assert requests.pass_on(D, seqno(3), A, 0.0)
    assert not requests.pass_on(D, seqno(3), B, 0.1)
    assert not requests.pass_on(D, seqno(2), C, 0.1)
    assert requests.pass_on(D, seqno(3), B, 0.1 + SUPPRESS_SECONDS)
    assert requests.answerable(D, seqno(2), 1.0) == [C]
    assert requests.answerable(D, seqno(3), 1.0) == [A, B]
    assert requests.answerable(D, seqno(9), 1.0) == []


def test_who_asks_for_an_absurd_seqno_keeps_nobody_waiting() -> None:
    requests = PendingRequests()
    requests.pass_on(D, seqno(2**32 - 1), A, 0.0)
    requests.pass_on(D, seqno(1), B, 0.1)
    assert requests.answerable(D, seqno(1), 0.2) == [B]


def test_those_who_asked_long_ago_are_forgotten() -> None:
    requests = PendingRequests()
    requests.pass_on(D, seqno(3), A, 0.0)
    assert requests.answerable(D, seqno(3), PENDING_SECONDS) == []


def announced(number: int = 0, epoch: int = 1) -> Announcement:
    return Announcement(D, seqno(number, epoch), b"")


class Table:
    """A route table with three neighbours at cost 10, and a selection."""

    def __init__(self) -> None:
        self.source = Source(announced())
        self.routes, self.selection = RouteTable(), Selection()
        self.neighbours = {name: Neighbour(name, 10) for name in (A, B, C)}

    def hear(self, name: bytes, offered: int, now: float = 0.0, number: int = 0) -> float | None:
        self.routes.heard(self.neighbours[name], announced(number), offered, now)  # type: ignore[index]
        return self.choose(now)

    def choose(self, now: float) -> float | None:
        return self.selection.choose(D, self.source, self.routes, now)

    @property
    def selected(self) -> bytes | None:
        route = self.routes.selected.get(D)
        return None if route is None else route.neighbour.id


def test_the_first_usable_route_is_taken_at_once() -> None:
    table = Table()
    table.hear(A, 100)
    assert table.selected == A


@pytest.mark.parametrize(("offered", "switches"), [(77, True), (78, False)])
def test_a_working_route_is_left_only_for_one_below_eight_tenths_for_five_seconds(offered: int, switches: bool) -> None:
    table = Table()
    table.hear(A, 100)
    again_at = table.hear(B, offered, 1.0)
    assert again_at == (6.0 if switches else None)
    table.choose(5.9)
    assert table.selected == A
    table.choose(6.0)
    assert table.selected == (B if switches else A)


def test_the_five_seconds_start_over_when_the_better_route_was_not_better_meanwhile() -> None:
    table = Table()
    table.hear(A, 100)
    table.hear(B, 10, 1.0)
    table.hear(B, 95, 4.0)
    assert table.hear(B, 10, 5.0) == 10.0
    table.choose(7.0)
    assert table.selected == A


def test_a_lost_route_is_replaced_at_once_by_the_best_feasible_one() -> None:
    table = Table()
    for name, offered in ((A, 100), (B, 300), (C, 200)):
        table.hear(name, offered)
    table.routes.remove(D, A)
    table.choose(0.1)
    assert table.selected == C


def test_an_unfeasible_route_is_never_taken_and_worth_a_request() -> None:
    table = Table()
    table.hear(A, 100)
    table.source.offered(Distance(seqno(0), 110))
    table.hear(B, 110)
    table.routes.remove(D, A)
    table.choose(0.1)
    assert table.selected is None
    assert worth_a_request(table.routes.to(D).values(), table.source, None) == [B]
    table.hear(B, 500, 0.2, number=1)
    assert table.selected == B


def test_a_selected_route_whose_metric_only_grows_is_kept() -> None:
    table = Table()
    table.hear(A, 100)
    table.source.offered(Distance(seqno(0), 110))
    table.hear(A, 400, 1.0)
    assert table.selected == A
    assert table.routes.selected[D].metric == 410


def test_routes_of_an_epoch_that_the_destination_has_left_are_dead() -> None:
    table = Table()
    table.hear(A, 100)
    table.source.newest = announced(epoch=2)
    table.choose(0.1)
    assert table.selected is None


def test_a_route_that_saturates_is_no_route() -> None:
    table = Table()
    table.hear(A, 65530)
    assert table.selected is None


def test_a_neighbour_has_no_more_than_its_share_of_the_table() -> None:
    routes, neighbour = RouteTable(), Neighbour(A, 10)

    def hear(index: int) -> bool:
        announcement = Announcement(node_id(str(index)), Seqno(seqno(0).epoch, 0), b"")
        return routes.heard(neighbour, announcement, 10, 0.0)

    assert all(hear(index) for index in range(MAX_ROUTES_PER_NEIGHBOUR))
    assert not hear(9999)
    assert hear(0)
    routes.remove(node_id("0"), A)
    assert hear(9999)
    assert len(routes) == MAX_ROUTES_PER_NEIGHBOUR
    assert best([]) is None
