"""One router, its neighbours played by the test."""

import pytest

from meshd.errors import LocalProtocolError
from meshd.ids import Epoch
from meshd.routing.effects import RouteChanged, Send
from meshd.routing.metric import INFINITY, SWITCH_SECONDS
from meshd.routing.request import REQUEST_HOPS
from meshd.routing.route import EXPIRY_SECONDS
from meshd.routing.source import HOLD_SECONDS
from meshd.routing.update import GAP_SECONDS, INTERVAL_SECONDS
from meshd.routing.view import RouteState
from meshd.wire.routing import MAX_SEQNO, RouteRequest, RouteUpdate, SeqnoRequest
from tests.routing.lone import Lone, entry
from tests.routing.simulation import make_router, node_id, seqno


def request(destination: str, number: int, epoch: int = 1, hops: int = 100) -> SeqnoRequest:
    return SeqnoRequest(node_id(destination), seqno(0, epoch).epoch, number, hops)


def test_a_new_neighbour_is_told_of_us_and_of_all_our_routes() -> None:
    lone = Lone("a")
    lone.hear("a", entry("d", 20), entry("a", 0))
    lone.take(lone.router.link_up(node_id("b"), 10, lone.now))
    lone.wait(1.0)
    assert lone.told("b") == [entry("a", 10), entry("d", 30), entry("me", 0)]


def test_a_route_is_announced_with_our_cost_added_and_changes_are_effects() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    assert lone.effects == [RouteChanged(node_id("d"), node_id("a"))]
    assert lone.next_hop("d") == node_id("a")
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", 30)]
    lone.retract("a", "d")
    assert lone.effects[-1] == RouteChanged(node_id("d"), None)
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", INFINITY)]


def test_split_horizon_keeps_a_route_from_the_neighbour_that_taught_it() -> None:
    for split_horizon in (True, False):
        lone = Lone("a", "b", split_horizon=split_horizon)
        lone.hear("a", entry("d", 20))
        lone.wait(0.1)
        assert lone.told("a") == ([] if split_horizon else [entry("d", 30)])


def test_nobody_is_offered_a_route_to_itself() -> None:
    lone = Lone("a", "b", split_horizon=False)
    lone.hear("a", entry("b", 20))
    lone.wait(1.0)
    assert lone.told("b") == []


def test_changes_of_the_same_moment_go_out_in_one_update() -> None:
    lone = Lone("a", "b")
    for index in range(30):
        lone.hear("a", entry(f"d{index}", 20))
    lone.wait(0.02)
    assert lone.router.statistics().updates_sent == 2 + 1
    assert len(lone.told("b")) == 30


def test_triggered_updates_keep_a_distance() -> None:
    lone = Lone("a", "b")
    for index in range(100):
        lone.hear("a", entry(f"d{index}", 20))
        lone.wait(0.01)
    assert lone.router.statistics().updates_sent <= 2 + 2 + 1.0 / GAP_SECONDS


def test_a_change_and_its_undoing_are_told_to_nobody() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.retract("a", "d")
    lone.wait(1.0)
    assert lone.told("b") == []


def test_a_newer_seqno_alone_is_no_news() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.told("b")
    lone.hear("a", entry("d", 20, number=1))
    lone.wait(10.0)
    assert lone.told("b") == []


def test_everything_is_repeated_at_long_intervals() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(1.0)
    lone.told("b")
    lone.wait(INTERVAL_SECONDS * 1.1)
    assert lone.told("b") == [entry("d", 30), entry("me", 0)]


def test_a_route_dies_with_its_link() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.take(lone.router.link_down(node_id("a"), lone.now))
    assert lone.next_hop("d") is None
    lone.take(lone.router.link_down(node_id("a"), lone.now))
    lone.hear("a", entry("d", 20))  # a frame that was under way
    assert lone.next_hop("d") is None


def test_a_link_that_comes_up_again_starts_from_nothing() -> None:
    lone = Lone("a", "b")
    lone.hear("b", entry("e", 20))
    lone.hear("a", entry("d", 20))
    lone.wait(1.0)
    lone.told("a")
    lone.take(lone.router.link_up(node_id("a"), 10, lone.now))
    assert lone.next_hop("d") is None
    lone.wait(1.0)
    assert lone.told("a") == [entry("e", 30), entry("me", 0)]


def test_a_new_neighbour_is_asked_for_what_it_may_have_said_too_early() -> None:
    lone = Lone("a")
    lone.take(lone.router.link_up(node_id("b"), 10, lone.now))
    assert Send(node_id("b"), RouteRequest(None)) in lone.effects


def test_a_link_cost_that_jumps_changes_the_metric_and_one_that_trembles_does_not() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 100))
    lone.wait(0.1)
    lone.told("b")
    for cost in (9, 11, 12, 10, 8):
        lone.take(lone.router.cost_changed(node_id("a"), cost, lone.now))
    lone.wait(1.0)
    assert lone.told("b") == []
    lone.take(lone.router.cost_changed(node_id("a"), 100, lone.now))
    lone.wait(1.0)
    assert lone.told("b") == [entry("d", 204)]


def test_a_better_route_is_used_after_five_seconds_without_any_event() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.hear("b", entry("d", 2))
    lone.wait(SWITCH_SECONDS - 0.1)
    assert lone.next_hop("d") == node_id("a")
    lone.wait(0.2)
    assert lone.next_hop("d") == node_id("b")


def starving(*neighbours: str) -> Lone:
    """It has told others of a route of metric 30, lost it, and is offered one of 50."""
    lone = Lone("a", "b", *neighbours)
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.retract("a", "d")
    lone.hear("b", entry("d", 40))
    return lone


def test_only_an_unfeasible_route_is_left_and_a_seqno_is_asked_for() -> None:
    lone = starving()
    assert lone.next_hop("d") is None
    assert lone.asked("b") == [request("d", 1, hops=REQUEST_HOPS)]
    lone.hear("b", entry("d", 40, number=1))
    assert lone.next_hop("d") == node_id("b")
    lone.wait(100.0)
    assert lone.asked("b") == []


def test_an_unanswered_request_is_repeated_less_and_less() -> None:
    lone = starving()
    lone.wait(60.0)
    assert 6 <= len(lone.asked("b")) <= 9
    lone.wait(120.0)
    assert 1 <= len(lone.asked("b")) <= 3
    lone.retract("b", "d")
    lone.wait(1000.0)
    assert lone.asked("b") == []


def test_a_much_better_route_that_is_unfeasible_is_asked_for_too() -> None:
    lone = Lone("a", "b", "c")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.hear("a", entry("d", 200))
    lone.hear("b", entry("d", 40))
    lone.hear("c", entry("d", 190))
    assert lone.next_hop("d") == node_id("a")
    assert (len(lone.asked("b")), lone.asked("c")) == (1, [])


def test_the_destination_answers_a_request_with_one_newer_seqno() -> None:
    lone = Lone("a", "b")
    lone.hear("a", request("me", 1))
    lone.wait(0.1)
    assert lone.told("a") == [entry("me", 0, number=1)]
    assert lone.told("b") == []
    lone.hear("a", request("me", 1), request("me", 500), request("me", 7, epoch=9))
    lone.wait(0.1)
    assert lone.told("a") == [entry("me", 0, number=2)]


def test_who_has_the_seqno_answers_for_the_destination() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20, number=4))
    lone.wait(0.1)
    lone.told("b")
    lone.hear("b", request("d", 4))
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", 30, number=4)]
    assert lone.asked("a") == []


def test_a_request_is_passed_on_towards_the_destination_and_its_answer_back() -> None:
    lone = Lone("a", "b", "c")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.hear("b", request("d", 1), request("d", 1))
    lone.hear("c", request("d", 1))
    assert lone.asked("a") == [request("d", 1, hops=99)]
    for neighbour in "abc":
        lone.told(neighbour)
    lone.hear("a", entry("d", 20, number=1))
    lone.wait(0.1)
    assert lone.told("b") == lone.told("c") == [entry("d", 30, number=1)]


def test_a_request_from_the_next_hop_takes_another_way_even_an_unfeasible_one() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.hear("b", entry("d", 400))
    lone.hear("a", request("d", 1))
    assert lone.asked("a") == []
    assert lone.asked("b") == [request("d", 1, hops=99)]


@pytest.mark.parametrize("hops", [0, 1])
def test_a_request_that_has_come_far_enough_goes_no_further(hops: int) -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.hear("b", request("d", 1, hops=hops))
    assert lone.asked("a") == []


def test_a_route_request_is_answered_also_when_there_is_no_route() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20), entry("e", 20))
    lone.wait(0.1)
    lone.retract("a", "e")
    lone.wait(0.1)
    lone.told("b")
    lone.hear("b", RouteRequest(node_id("d")), RouteRequest(node_id("e")), RouteRequest(node_id("unheard-of")))
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", 30), entry("e", INFINITY)]
    lone.hear("b", RouteRequest(None))
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", 30), entry("me", 0)]


def test_a_newer_epoch_ends_all_routes_of_the_older() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20, number=9))
    lone.hear("b", entry("d", 500, epoch=2))
    assert lone.next_hop("d") == node_id("b")
    states = {view.next_hop: view.state for view in lone.router.routes()}
    assert states == {node_id("a"): RouteState.STALE, node_id("b"): RouteState.SELECTED}


def test_who_offers_an_epoch_that_is_over_is_told_of_the_present_one() -> None:
    lone = Lone("a", "b")
    lone.hear("b", entry("d", 20, epoch=2))
    lone.wait(0.1)
    lone.told("a")
    lone.hear("a", entry("d", 1, number=5))
    lone.wait(0.1)
    assert lone.next_hop("d") == node_id("b")
    assert lone.told("a") == [entry("d", 30, epoch=2)]


def test_a_device_that_lost_its_epoch_learns_that_from_the_mesh() -> None:
    lone = Lone("a")
    lone.hear("a", entry("me", INFINITY, number=3, epoch=7), entry("me", 10, number=2, epoch=7))
    assert lone.epochs_needed() == [7]
    lone.take(lone.router.renew(Epoch(8, bytes(8)), lone.now))
    lone.wait(0.1)
    assert lone.told("a") == [entry("me", 0, epoch=8)]
    lone.hear("a", entry("me", 10, number=4, epoch=7))
    assert lone.epochs_needed() == [7]


def test_an_epoch_only_goes_up() -> None:
    lone = Lone("a", first=seqno(0, epoch=5))
    with pytest.raises(LocalProtocolError):
        lone.router.renew(Epoch(5, bytes(8)), lone.now)


def test_a_new_epoch_is_asked_for_when_seqnos_run_out() -> None:
    lone = Lone("a", first=seqno(MAX_SEQNO - 2))
    lone.hear("a", request("me", MAX_SEQNO))
    assert lone.epochs_needed() == []
    lone.hear("a", request("me", MAX_SEQNO), request("me", MAX_SEQNO))
    assert (lone.router.seqno.number, lone.epochs_needed()) == (MAX_SEQNO, [1])


def test_a_destination_without_routes_is_held_and_then_forgotten() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.retract("a", "d")
    lone.wait(HOLD_SECONDS - 1)
    (view,) = lone.router.routes()
    assert (view.state, view.next_hop, view.feasibility_distance) == (RouteState.UNREACHABLE, None, 30)
    lone.wait(INTERVAL_SECONDS * 1.2)
    assert lone.router.routes() == ()
    assert lone.router.statistics().sources == 0


def test_a_destination_that_came_back_is_not_forgotten() -> None:
    lone = Lone("a")
    lone.hear("a", entry("d", 20))
    lone.retract("a", "d")
    lone.wait(0.9 * EXPIRY_SECONDS)
    lone.hear("a", entry("d", 20))
    lone.wait(0.9 * EXPIRY_SECONDS)
    assert 1.8 * EXPIRY_SECONDS > HOLD_SECONDS
    assert lone.next_hop("d") == node_id("a")
    assert lone.router.statistics().sources == 1


def test_a_route_that_is_not_heard_of_any_more_expires() -> None:
    lone = Lone("a")
    lone.hear("a", entry("d", 20), entry("e", 20))
    for _ in range(8):
        lone.wait(INTERVAL_SECONDS)
        lone.hear("a", entry("e", 20))
    assert EXPIRY_SECONDS + INTERVAL_SECONDS * 1.1 < 8 * INTERVAL_SECONDS
    assert (lone.next_hop("d"), lone.next_hop("e")) == (None, node_id("a"))


def test_a_removed_device_is_forgotten_and_a_new_one_asked_about() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.effects.clear()
    lone.take(lone.router.removed(node_id("d"), lone.now))
    assert lone.effects == [RouteChanged(node_id("d"), None)]
    lone.wait(1.0)
    assert (lone.told("b"), lone.router.routes()) == ([], ())
    lone.take(lone.router.learned(node_id("e"), lone.now))
    assert [effect.frame for effect in lone.effects[1:]] == [RouteRequest(node_id("e"))] * 2  # type: ignore[union-attr]


def test_a_device_that_is_removed_and_added_again_is_told_of_again() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.told("b")
    lone.take(lone.router.removed(node_id("d"), lone.now))
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    assert lone.told("b") == [entry("d", 30)]


def test_what_was_asked_for_a_removed_device_is_forgotten() -> None:
    lone = starving()
    assert len(lone.asked("b")) == 1
    lone.take(lone.router.removed(node_id("d"), lone.now))
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.retract("a", "d")
    lone.hear("b", entry("d", 40))
    assert len(lone.asked("b")) == 1


def test_an_older_seqno_does_not_replace_the_newest_that_is_known() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20, number=2))
    lone.hear("b", entry("d", 20, number=1))
    for neighbour in "ab":
        lone.retract(neighbour, "d")
    assert [view.seqno for view in lone.router.routes()] == [seqno(2)]


def test_the_table_shows_every_route_and_why_it_is_not_used() -> None:
    lone = Lone("a", "b", "c")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    lone.hear("b", entry("d", 25))
    lone.hear("c", entry("d", 90))
    views = [(v.next_hop, v.metric, v.feasibility_distance, v.state) for v in lone.router.routes()]
    assert views == [
        (node_id("a"), 30, 30, RouteState.SELECTED),
        (node_id("b"), 35, 30, RouteState.FEASIBLE),
        (node_id("c"), 100, 30, RouteState.UNFEASIBLE),
    ]


def test_a_link_to_ourselves_is_a_defect() -> None:
    router = make_router("me")
    assert router.next_deadline is None
    with pytest.raises(LocalProtocolError):
        router.link_up(node_id("me"), 10, 0.0)
    assert router.received(node_id("a"), RouteUpdate(()), 0.0) == ()
