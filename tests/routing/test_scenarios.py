"""Small meshes drawn as pictures, and large ones: what happens when a link goes."""

import pytest

from meshd.routing.metric import SWITCH_SECONDS
from meshd.wire.routing import RouteUpdate
from tests.routing.lone import entry
from tests.routing.schedules import grid, ring
from tests.routing.simulation import LoopError, World, from_picture, make_router, node_id, picture

LAN_DELAY = 0.005


def settled(drawing: str, **options: bool) -> World:
    world = from_picture(drawing, delay=LAN_DELAY, **options)
    world.settling_time()
    world.run(4 * SWITCH_SECONDS)  # each hop takes its time to leave the first route for the best
    return world


def entries_after(world: World, seconds: float) -> int:
    before = world.total("entries_sent")
    world.run(seconds)
    return world.total("entries_sent") - before


def test_a_picture_is_read_as_it_is_drawn() -> None:
    links = picture(
        """
        A-5-B--C
        |      |
        20     |
        |      |
        D------E
        """
    )
    assert sorted(links) == [("A", "B", 5), ("A", "D", 20), ("B", "C", 10), ("C", "E", 10), ("D", "E", 10)]


def test_the_check_finds_a_loop() -> None:
    world = settled("A--B--C")
    misled = make_router("B")
    misled.link_up(node_id("C"), 10, 0.0)
    misled.received(node_id("C"), RouteUpdate((entry("A", 5),)), 0.0)
    world.nodes["B"].router = misled
    with pytest.raises(LoopError, match="C -> B -> C, on the way to A"):
        world.path("C", "A")


def test_mail_takes_the_cheapest_way() -> None:
    world = settled(
        """
        A--50--B
        |      |
        C--10--D
        """
    )
    assert world.path("A", "B") == ["A", "C", "D", "B"]


def test_nobody_counts_to_infinity() -> None:
    world = settled("A--B--C--D")
    world.cut("A", "B")
    sent = entries_after(world, 30.0)
    assert world.unconverged() == []
    assert sent <= 2 * 3, "each of three devices tells of one loss, perhaps both ways"


@pytest.mark.parametrize("split_horizon", [True, False])
def test_nobody_counts_to_infinity_round_a_circle(split_horizon: bool) -> None:
    world = settled(
        """
        A--B--C
           |  |
           D--E
        """,
        split_horizon=split_horizon,
    )
    world.cut("A", "B")
    assert entries_after(world, 30.0) <= 4 * 2 * 3
    assert world.unconverged() == []


def test_a_starving_device_gets_a_new_seqno_from_the_destination() -> None:
    # RFC 8966 section 2.5: A's other way was never closer than what A had offered itself.
    world = settled(
        """
        S-10-A
        |    |
        40   10
        |    |
        C-10-B
        """
    )
    assert world.path("C", "S") == ["C", "B", "A", "S"]
    world.cut("S", "A")
    assert world.settling_time(step=0.01) < 5.0
    assert world.path("A", "S") == ["A", "B", "C", "S"]
    assert world.nodes["S"].router.seqno.number >= 1


def test_a_dear_link_is_left_after_a_while_and_a_dead_one_at_once() -> None:
    world = settled(
        """
        A-10-B-10-D
        |    |
        12   |
        |    |
        C-10-E
        """
    )
    world.join([("B", "C", 10)])
    world.settling_time()
    world.run(1.0)
    assert world.path("D", "A") == ["D", "B", "A"]
    world.reprice("A", "B", 400)
    world.run(SWITCH_SECONDS - 0.5)
    assert world.path("D", "A") == ["D", "B", "A"]
    world.run(1.0)
    assert world.path("D", "A") == ["D", "B", "C", "A"]
    world.cut("B", "C")
    world.run(3.0)
    assert world.unconverged() == []


def test_a_device_that_restarts_is_found_again_also_without_its_epoch() -> None:
    world = settled("A--B--C--D")
    for forgets_epoch in (False, True, True):
        world.restart("D", forgets_epoch=forgets_epoch)
        world.run(5.0)
        assert world.path("A", "D")[-1] == "D"
        assert world.unconverged() == []
    assert world.nodes["D"].epoch > 2


def test_both_halves_of_a_mesh_go_on_and_find_each_other_again() -> None:
    world = settled(
        """
        A--B--C--D
        |  |  |  |
        E--F--G--H
        """
    )
    for pair in (("B", "C"), ("F", "G")):
        world.cut(*pair)
    assert world.settling_time() < 10.0
    assert world.next_hop("A", "H") is None
    assert world.path("A", "F")[-1] == "F"
    world.connect("F", "G")
    assert world.settling_time() < 10.0
    assert world.path("A", "D")[-1] == "D"


@pytest.mark.parametrize("seed", range(3))
def test_64_devices_in_a_grid_find_new_ways_when_a_link_is_lost(seed: int) -> None:
    world = grid(8, seed)
    world.settling_time()
    world.run(2 * SWITCH_SECONDS)
    world.cut(*world.rng.choice(sorted(world.wires)))
    world.run(0.001)
    assert world.unconverged()
    assert world.settling_time() < 5.0


def test_64_devices_in_a_ring_do_so_too_though_half_of_all_routes_turn_round() -> None:
    world = ring(64)
    world.settling_time()
    world.run(2 * SWITCH_SECONDS)
    world.cut("11", "12")
    world.run(0.001)
    assert world.unconverged()
    assert world.settling_time(step=0.25) < 4.0


def changes_and_entries(world: World, seconds: float) -> tuple[int, int]:
    changes = sum(node.changes for node in world.nodes.values())
    entries = entries_after(world, seconds)
    return sum(node.changes for node in world.nodes.values()) - changes, entries


def test_update_traffic_grows_with_the_routes_that_change_and_not_with_all_pairs() -> None:
    costs = {}
    for side in (3, 5, 8):
        world = grid(side)
        world.join([("0,0", "leaf", 10)])
        world.settling_time()
        world.run(30.0)
        assert changes_and_entries(world, 60.0) == (0, 0), "in peace there is none"
        world.cut("0,0", "leaf")
        changes, entries = changes_and_entries(world, 30.0)
        costs[side] = entries / changes
        # The leaf is lost to all, and all are lost to the leaf; each tells its neighbours (at most 4) once.
        assert side * side <= changes <= 4 * side * side
        assert costs[side] <= 4
    assert costs[8] <= 1.5 * costs[3]


def test_the_simulated_world_notices_what_is_wrong() -> None:
    world = settled("A--B--C")
    world.cut("A", "B")
    assert "A to B" not in world.unconverged()
    assert world.unconverged()
    world.run(5.0)
    assert world.unconverged() == []
    assert world.nodes["A"].router.next_hop(node_id("C")) is None
