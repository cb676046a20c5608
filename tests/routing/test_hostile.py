"""What a member that lies, repeats or floods can do: little, and nothing to others."""

import random

import pytest

from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch
from meshd.routing.metric import INFINITY
from meshd.routing.neighbour import SIGNATURE_PRICE, UPDATE_BURST
from meshd.routing.origin import SEQNO_BURST, SEQNOS_PER_SECOND
from meshd.routing.route import MAX_ROUTES_PER_NEIGHBOUR
from meshd.routing.router import Router
from meshd.routing.seqno import Announcement, Verdict, signer, verifier
from meshd.routing.source import TRIGGERED_BURST, TRIGGERED_PER_SECOND
from meshd.trust.identity import Identity
from meshd.wire.routing import MAX_ROUTES_PER_FRAME, MAX_SEQNO, RouteEntry, RouteRequest, RouteUpdate, SeqnoRequest
from tests.routing.lone import Lone, entry
from tests.routing.simulation import node_id, seqno, sign_as, verify


@pytest.mark.parametrize(
    "lie",
    [
        entry("e", 20, forged=True),
        entry("d", 1, number=1, forged=True),
        entry("d", INFINITY, number=1, forged=True),
        entry("d", 1, epoch=2, forged=True),
        entry("me", 5, number=1, forged=True),
        entry("me", 5, epoch=9, forged=True),
        entry("d", 0),
    ],
)
def test_what_no_honest_device_can_say_costs_the_link_and_changes_nothing(lie: RouteEntry) -> None:
    lone = Lone("a", "evil")
    lone.hear("a", entry("d", 20))
    before = lone.router.routes()
    with pytest.raises(RemoteProtocolError, match="P_ROUTE"):
        lone.hear("evil", lie)
    assert lone.router.routes() == before
    assert lone.epochs_needed() == []


def test_what_came_before_the_lie_is_undone_with_the_link() -> None:
    lone = Lone("evil")
    with pytest.raises(RemoteProtocolError):
        lone.hear("evil", RouteUpdate((entry("d", 20), entry("e", 20, forged=True))))
    lone.take(lone.router.link_down(node_id("evil"), lone.now))
    assert lone.next_hop("d") is None


def test_a_true_signature_is_not_passed_on_with_a_false_one_in_its_place() -> None:
    lone = Lone("evil", "b")
    lone.hear("evil", entry("d", 20, number=2))
    lone.wait(0.1)
    with pytest.raises(RemoteProtocolError, match="P_ROUTE"):
        lone.hear("evil", entry("d", 20, number=1, forged=True))  # an older one is verified as well
    lone.hear("evil", entry("d", 200, number=2, forged=True))  # a known one is taken from what is known
    lone.wait(1.0)
    assert lone.told("b") == [entry("d", 30, number=2), entry("d", 210, number=2)]


def test_a_replayed_seqno_makes_no_route_feasible() -> None:
    lone = Lone("a", "evil")
    lone.hear("a", entry("d", 20, number=5))
    lone.wait(0.1)
    lone.retract("a", "d", number=5)
    for number in range(6):
        lone.hear("evil", entry("d", 30, number=number))
        assert lone.next_hop("d") is None
    lone.hear("evil", entry("d", 1, number=MAX_SEQNO, epoch=0))
    assert lone.next_hop("d") is None


def test_a_replayed_epoch_ends_no_route() -> None:
    lone = Lone("a", "evil")
    lone.hear("a", entry("d", 20, epoch=3))
    lone.hear("evil", entry("d", 1, epoch=2), entry("d", INFINITY, number=9, epoch=2))
    assert lone.next_hop("d") == node_id("a")


def test_devices_that_the_roster_does_not_have_take_no_room() -> None:
    strangers = Router(
        node=node_id("me"),
        seqno=seqno(0),
        sign=sign_as(node_id("me")),
        verify=lambda announcement: Verdict.UNKNOWN,
        rng=random.Random(1),
    )
    strangers.link_up(node_id("evil"), 10, 0.0)
    for index in range(1000):
        strangers.received(node_id("evil"), RouteUpdate((entry(f"d{index}", 20),)), 0.0)
        strangers.received(node_id("evil"), SeqnoRequest(node_id(f"d{index}"), Epoch(1, bytes(8)), 1, 9), 0.0)
        strangers.received(node_id("evil"), RouteRequest(node_id(f"d{index}")), 0.0)
    statistics = strangers.statistics()
    assert (statistics.sources, statistics.routes, statistics.entries_ignored) == (0, 0, 1000)


def test_a_neighbour_has_a_bounded_share_of_the_route_table() -> None:
    lone = Lone("a", "evil")
    for index in range(MAX_ROUTES_PER_NEIGHBOUR + 100):
        lone.hear("evil", entry(f"d{index}", 20))
    assert lone.router.statistics().routes == MAX_ROUTES_PER_NEIGHBOUR
    lone.hear("a", entry("d1100", 20))
    assert lone.next_hop("d1100") == node_id("a")


def test_a_flood_of_updates_costs_the_link() -> None:
    lone = Lone("evil")
    lone.hear("evil", entry("d", 20))
    lone.wait(10.0)
    frame = RouteUpdate((entry("d", 20),) * MAX_ROUTES_PER_FRAME)
    for _ in range(UPDATE_BURST // MAX_ROUTES_PER_FRAME):
        lone.hear("evil", frame)
    with pytest.raises(RemoteProtocolError, match="P_FLOOD"):
        lone.hear("evil", frame)


def test_replaying_true_signatures_to_keep_us_busy_costs_the_link() -> None:
    lone = Lone("a", "evil")
    lone.hear("a", entry("d", 20, number=9))
    replays = [entry("d", 20, number=1), entry("d", 20, number=2)]
    heard = 0
    with pytest.raises(RemoteProtocolError, match="P_FLOOD"):  # noqa: PT012 - which of them is too many matters
        for heard in range(UPDATE_BURST):
            lone.hear("evil", replays[heard % 2])
    assert heard == UPDATE_BURST // (1 + SIGNATURE_PRICE)


def test_a_neighbour_that_keeps_to_an_older_seqno_is_no_flood() -> None:
    lone = Lone("a", "b")
    lone.hear("a", entry("d", 20, number=2))
    for _ in range(UPDATE_BURST // 2):
        lone.hear("b", entry("d", 20, number=1))
    assert lone.router.statistics().routes == 2


def test_empty_updates_are_a_flood_too() -> None:
    lone = Lone("evil")
    for _ in range(UPDATE_BURST):
        lone.hear("evil", RouteUpdate(()))
    with pytest.raises(RemoteProtocolError, match="P_FLOOD"):
        lone.hear("evil", RouteUpdate(()))


def test_a_flapping_route_is_not_passed_on_at_its_pace() -> None:
    lone = Lone("evil", "b")
    for index in range(2000):
        lone.hear("evil", entry("d", 20 if index % 2 else INFINITY))
        lone.wait(0.01)
    assert 20 <= len(lone.told("b")) <= TRIGGERED_BURST + 20 * TRIGGERED_PER_SECOND + 1
    lone.hear("evil", entry("d", 500))
    lone.wait(2.0)
    assert lone.told("b")[-1] == entry("d", 510)


def test_what_was_held_back_is_told_later_without_any_event() -> None:
    lone = Lone("evil", "b")
    for index in range(100):
        lone.hear("evil", entry("d", 20 if index % 2 else INFINITY))
        lone.wait(0.051)
    lone.told("b")
    for offered in (500, 1000, 2000):
        lone.hear("evil", entry("d", offered))
        lone.wait(0.06)
        if not lone.told("b"):
            break
    else:
        raise AssertionError("nothing was held back")
    lone.wait(1.0)
    assert lone.told("b") == [entry("d", offered + 10)]


def test_a_flapping_route_does_not_delay_the_others() -> None:
    lone = Lone("evil", "b")
    for index in range(200):
        lone.hear("evil", entry("d", 20 if index % 2 else INFINITY))
        lone.wait(0.05)
    lone.told("b")
    lone.hear("evil", entry("e", 20))
    lone.wait(0.06)
    assert entry("e", 30) in lone.told("b")


def test_a_flapping_route_does_not_make_us_ask_others_at_its_pace() -> None:
    lone = Lone("evil", "a")
    lone.hear("evil", entry("d", 20))
    lone.wait(0.1)
    lone.hear("a", entry("d", 400))
    for index in range(1000):
        lone.hear("evil", entry("d", 20 if index % 2 else INFINITY))
        lone.wait(0.01)
    assert 1 <= len(lone.asked("a")) <= 10 / 0.5


def test_requests_make_seqnos_only_at_a_pace() -> None:
    lone = Lone("evil")
    for _ in range(1000):
        lone.hear("evil", SeqnoRequest(node_id("me"), lone.router.seqno.epoch, MAX_SEQNO, 100))
        lone.wait(0.01)
    assert lone.router.seqno.number <= SEQNO_BURST + 10 * SEQNOS_PER_SECOND + 1


def test_requests_are_passed_on_and_answered_only_at_a_pace() -> None:
    lone = Lone("a", "evil")
    lone.hear("a", entry("d", 20))
    lone.wait(0.1)
    for index in range(5000):
        lone.hear("evil", SeqnoRequest(node_id("d"), Epoch(1, bytes(8)), index + 1, 100), RouteRequest(None))
    assert len(lone.asked("a")) <= 1024
    lone.wait(1.0)
    assert len(lone.told("evil")) <= 2 * 2
    assert lone.router.statistics().requests_ignored > 8000


def test_real_keys_from_one_device_over_another_to_a_third() -> None:
    devices = [Identity.from_seed(bytes([index]) * 32) for index in range(3)]
    keys = {device.node_id: device.public_key for device in devices}
    first, middle, last = (
        Router(
            node=device.node_id,
            seqno=seqno(0),
            sign=signer(device),
            verify=verifier(keys.get),
            rng=random.Random(1),
        )
        for device in devices
    )
    links = [(first, middle), (middle, first), (middle, last), (last, middle)]
    for here, there in links:
        here.link_up(there.node, 10, 0.0)
    routers = {router.node: router for router in (first, middle, last)}
    for now in (0.1, 0.2, 0.3):
        for router in (first, middle, last):
            for effect in router.poll(now):
                for frame in [effect.frame] if hasattr(effect, "frame") else []:
                    routers[effect.neighbour].received(router.node, frame, now)  # type: ignore[union-attr]
    assert first.next_hop(last.node) == middle.node
    assert last.next_hop(first.node) == middle.node


def test_the_simulated_signature_can_be_wrong() -> None:
    assert verify(Announcement(node_id("d"), seqno(0), bytes(64))) is Verdict.FORGED
