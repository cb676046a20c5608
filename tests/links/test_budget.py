"""The budget of links: alone, and many of them together on graphs of who can hear whom. Pure."""

import itertools
import math
import random
from collections.abc import Callable

import attrs
import pytest

from meshd.ids import NodeId
from meshd.links.budget import (
    DIAL_PATIENCE_SECONDS,
    DIALS_AT_ONCE,
    PARK_SECONDS,
    SETTLE_SECONDS,
    YOUNG_SECONDS,
    LinkBudget,
    Plan,
    Prospect,
)

ME = NodeId(bytes(16))


def node(number: int) -> NodeId:
    return NodeId((number + 1).to_bytes(16, "big"))


def budget(max_links: int = 8) -> LinkBudget:
    return LinkBudget(ME, max_links, random.Random(1))


def unlinked(count: int, *, routed: bool = False, start: int = 0) -> list[Prospect]:
    return [Prospect(peer=node(number), is_routed=routed) for number in range(start, start + count)]


def linked(count: int, *, score: int = 90, since: float = 0.0) -> list[Prospect]:
    return [Prospect(peer=node(n), score=score, since=since, is_routed=True) for n in range(count)]


def anything(peer: NodeId) -> bool:
    return True


def nothing(peer: NodeId) -> bool:
    return False


def test_in_a_mesh_no_larger_than_the_budget_everybody_is_wanted_at_once_and_for_good() -> None:
    plan = budget().plan(unlinked(8), nothing, 0.0)
    assert plan == Plan(wanted=frozenset(node(n) for n in range(8)), again_at=math.inf)


def test_in_a_larger_one_a_few_are_dialed_at_a_time_and_slow_ones_hold_up_nobody() -> None:
    it, everybody = budget(), unlinked(20)
    first = it.plan(everybody, nothing, 0.0)
    assert len(first.wanted) == DIALS_AT_ONCE
    assert first.again_at == DIAL_PATIENCE_SECONDS
    second = it.plan(everybody, nothing, first.again_at)
    assert second.wanted > first.wanted
    assert len(second.wanted) == 2 * DIALS_AT_ONCE


def test_with_half_of_the_links_only_those_without_a_route_are_dialed_and_not_at_once() -> None:
    it = budget()
    others = [*linked(4), *unlinked(10, routed=True, start=4), *unlinked(2, start=14)]
    plan = it.plan(others, nothing, 100.0)
    assert plan.wanted == {node(n) for n in range(4)}
    assert plan.again_at == 100.0 + SETTLE_SECONDS
    assert it.plan(others, nothing, plan.again_at).wanted == {node(n) for n in (0, 1, 2, 3, 14, 15)}


def test_a_route_that_comes_and_goes_starts_the_wait_anew() -> None:
    it = budget()
    for now, routed in ((0.0, False), (3.0, True), (4.0, False)):
        it.plan([*linked(4), *unlinked(10, routed=routed, start=4)], nothing, now)
    assert len(it.plan([*linked(4), *unlinked(10, start=4)], nothing, 8.0).wanted) == 4
    assert len(it.plan([*linked(4), *unlinked(10, start=4)], nothing, 9.0).wanted) > 4


def test_above_the_budget_the_worst_link_that_can_be_spared_is_given_up_one_at_a_time() -> None:
    it = budget()
    scores = (90, 20, 10, 95, 5, 90, 90, 90, 90, 90)
    links = [attrs.evolve(p, score=score) for p, score in zip(linked(10), scores, strict=True)]
    plan = it.plan(links, lambda peer: peer != node(4), 50.0)
    assert plan.give_up == node(2)
    again = it.plan(links, anything, 50.1)
    assert again.give_up is None
    assert 50.5 <= again.again_at <= 51.5
    assert it.plan(links, anything, again.again_at).give_up == node(4)


def test_a_link_that_is_needed_or_young_is_kept_whatever_the_number() -> None:
    assert budget().plan(linked(10), nothing, 50.0).give_up is None
    it = budget()
    assert it.plan(linked(10), anything, YOUNG_SECONDS - 0.1).give_up is None
    assert it.plan(linked(10), anything, YOUNG_SECONDS * 2).give_up is not None


def test_a_link_with_mail_under_way_is_given_up_last() -> None:
    links = [attrs.evolve(p, is_busy=n != 7) for n, p in enumerate(linked(10))]
    assert budget().plan(links, anything, 50.0).give_up == node(7)


def test_what_was_given_up_is_dialed_again_when_it_is_out_of_reach_or_after_long_when_links_are_few() -> None:
    it = budget()
    it.given_up(node(0), 0.0)
    few, enough = [*unlinked(1, routed=True), *linked(6)[3:]], [*unlinked(1, routed=True), *linked(12)[1:]]
    assert node(0) not in it.plan(few, nothing, PARK_SECONDS - 1).wanted
    assert node(0) not in it.plan(enough, nothing, PARK_SECONDS * 2).wanted
    assert node(0) in it.plan(few, nothing, PARK_SECONDS * 2).wanted
    it = budget()
    it.given_up(node(0), 0.0)
    lost = [*unlinked(1), *linked(12)[1:]]
    assert node(0) not in it.plan(lost, nothing, 1.0).wanted
    assert node(0) in it.plan(lost, nothing, 1.0 + SETTLE_SECONDS).wanted


# --- many of them

Edge = tuple[int, int]


def edge(a: int, b: int) -> Edge:
    return min(a, b), max(a, b)


def reachable(start: int, edges: set[Edge]) -> set[int]:
    near: dict[int, list[int]] = {}
    for a, b in edges:
        near.setdefault(a, []).append(b)
        near.setdefault(b, []).append(a)
    found, todo = {start}, [start]
    while todo:
        for other in near.get(todo.pop(), ()):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


class Crowd:
    """Budgets of many devices. What they know of routes is as old as ``lag`` says, in rounds of a second."""

    def __init__(self, count: int, hears: set[Edge], max_links: int, rng: random.Random, lag: int) -> None:
        self.hears = hears
        self.links: dict[Edge, float] = {}
        self.changes = 0
        self._count = count
        self._rng = rng
        self._past: list[set[Edge]] = [set()] * (lag + 1)
        self._budgets = [LinkBudget(node(n), max_links, rng) for n in range(count)]
        self._scores = {pair: rng.randint(1, 100) for pair in hears}

    def round(self, now: float) -> None:
        """Everybody thinks once, in any order; links come up and go at once."""
        seen = self._past.pop(0)
        for me in self._rng.sample(range(self._count), self._count):
            plan = self._budgets[me].plan(self._prospects(me, seen), self._spare(me, seen), now)
            self._carry_out(me, plan, now)
        self._past.append(set(self.links))

    def _prospects(self, me: int, seen: set[Edge]) -> list[Prospect]:
        routed = reachable(me, seen)
        return [
            Prospect(
                peer=node(n),
                score=self._scores[edge(me, n)] if edge(me, n) in self.links else None,
                since=self.links.get(edge(me, n), 0.0),
                is_routed=n in routed or edge(me, n) in self.links,
            )
            for n in range(self._count)
            if n != me
        ]

    def _spare(self, me: int, seen: set[Edge]) -> Callable[[NodeId], bool]:
        return lambda peer: self._number(peer) in reachable(me, seen - {edge(me, self._number(peer))})

    def _number(self, peer: NodeId) -> int:
        return int.from_bytes(peer, "big") - 1

    def _carry_out(self, me: int, plan: Plan, now: float) -> None:
        for peer in sorted(plan.wanted):
            pair = edge(me, self._number(peer))
            if pair in self.hears and pair not in self.links:
                self.links[pair] = now
                self.changes += 1
        if plan.give_up is not None:
            other = self._number(plan.give_up)
            del self.links[edge(me, other)]
            self.changes += 1
            self._budgets[me].given_up(node(other), now)
            self._budgets[other].given_up(node(me), now)

    def degrees(self) -> list[int]:
        return [sum(n in pair for pair in self.links) for n in range(self._count)]

    def is_bridge(self, pair: Edge) -> bool:
        return pair[1] not in reachable(pair[0], set(self.links) - {pair})


def one_lan(count: int, rng: random.Random) -> set[Edge]:
    return set(itertools.combinations(range(count), 2))


def some_lans(count: int, rng: random.Random) -> set[Edge]:
    """Three networks; a few devices are on two of them."""
    at = [{rng.randrange(3)} | ({rng.randrange(3)} if n < 6 else set()) for n in range(count)]
    at[:3] = [{0, 1}, {1, 2}, {0, 2}]
    return {(a, b) for a, b in itertools.combinations(range(count), 2) if at[a] & at[b]}


def by_chance(count: int, rng: random.Random) -> set[Edge]:
    """A tree, and as much again as a quarter of all pairs."""
    tree = {(rng.randrange(n), n) for n in range(1, count)}
    return tree | {pair for pair in itertools.combinations(range(count), 2) if rng.random() < 0.25}


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("count", [8, 20, 64])
@pytest.mark.parametrize("hearing", [one_lan, some_lans, by_chance])
def test_together_they_stay_connected_within_the_budget_and_come_to_rest(
    hearing: Callable[[int, random.Random], set[Edge]], count: int, lag: int
) -> None:
    rng = random.Random(count * 10 + lag)
    max_links = rng.choice((4, 6, 8, 16))
    crowd = Crowd(count, hearing(count, rng), max_links, rng, lag)
    for second in range(120):
        crowd.round(float(second))
    crowd.changes = 0
    for minute in range(2, 18):
        crowd.round(minute * 60.0)
    assert crowd.changes == 0, "it does not come to rest"
    assert reachable(0, set(crowd.links)) == set(range(count))
    for number, degree in enumerate(crowd.degrees()):
        if degree > max_links:
            assert hearing is not one_lan
            own = [pair for pair in crowd.links if number in pair]
            assert all(crowd.is_bridge(pair) for pair in own), f"{number} keeps {degree} and could spare one"


def test_a_mesh_at_rest_heals_after_half_of_it_is_gone_and_others_come() -> None:
    rng = random.Random(5)
    crowd = Crowd(40, one_lan(30, rng), 6, rng, 1)
    crowd._scores = dict.fromkeys(one_lan(40, rng), 50)
    for second in range(120):
        crowd.round(float(second))
    gone = set(range(15))
    crowd.hears = {pair for pair in one_lan(40, rng) if not gone & set(pair)}
    crowd.links = {pair: at for pair, at in crowd.links.items() if not gone & set(pair)}
    for second in range(120, 360):
        crowd.round(float(second))
    assert reachable(39, set(crowd.links)) == set(range(15, 40))
    assert max(crowd.degrees()) <= 6
