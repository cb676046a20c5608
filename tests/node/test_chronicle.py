"""Events of devices, links and routes: what is told, in which order, and to readers of any speed."""

import pytest

from meshd.links.events import DialFailed, LinkMeasured
from meshd.node.effects import CloseBreaker
from meshd.node.insight.chronicle import KEPT_EVENTS
from meshd.node.requests import AddCredit, Follow, Item, Remove, ResetBreaker
from meshd.transport.base import Address
from tests.node.harness import Device, World
from tests.node.test_insight import Dialer


def told(one: Device) -> list[tuple[str, str]]:
    """All events that are kept: what, and of whom."""
    return [(event["event"], event["name"]) for event in one.query("events", KEPT_EVENTS)]


def items(one: Device, request: int) -> list[dict[str, object]]:
    """What a follower got so far."""
    found: list[dict[str, object]] = []
    for reply in one.replies(request):
        assert isinstance(reply, Item)
        found += reply.value
    return found


def flap(one: Device, other: Device, times: int) -> None:
    """Events without end: dials that fail, each in another way."""
    for number in range(times):
        one.inbox.append(DialFailed(other.id, Address("quic", "192.0.2.1", 1), "E_UNREACHABLE", f"failure {number}"))
    one.world.pump()


class TestTelling:
    def test_a_link_comes_and_goes(self) -> None:
        world = World(2)
        a, b = world.devices
        assert told(a) == []
        world.connect(a, b)
        world.advance(2.0)
        world.disconnect(a, b)
        assert told(a) == [
            ("link-up", "d1"),
            ("peer-up", "d1"),
            ("route-changed", "d1"),
            ("link-down", "d1"),
            ("peer-down", "d1"),
            ("route-lost", "d1"),
        ]
        up, _, route, down, *_ = a.query("events", KEPT_EVENTS)
        assert (up["transport"], up["address"], up["dialed"]) == ("memory", "memory://d1:1", True)
        assert route["next_hop_name"] == "d1"
        assert (down["code"], down["detail"]) == ("lost", "cut by the test")

    def test_only_the_last_ones_are_asked_for(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        world.advance(2.0)
        assert [event["event"] for event in a.query("events", 2)] == ["peer-up", "route-changed"]
        assert a.query("events", 0) == []

    def test_times_are_those_of_the_wall_clock_and_pass(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        world.now += 100.0
        world.disconnect(a, b)
        first, *_, last = [event["at"] for event in a.query("events", KEPT_EVENTS)]
        assert first.endswith("Z")
        assert first < last

    def test_a_second_link_is_no_news_of_the_device(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        world.connect(b, a)
        events = [event for event, _ in told(a)]
        assert events.count("peer-up") == 1
        assert events.count("link-up") == 2
        assert "peer-down" not in events

    def test_silence_is_told_once_and_so_is_its_end(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        before = len(told(a))
        for suspect in (False, True, True, False, False):
            a.inbox.append(LinkMeasured(a.links[b.id], 0.01, suspect))
        world.pump()
        assert told(a)[before:] == [("peer-suspect", "d1"), ("peer-answers", "d1")]

    def test_a_failure_is_told_once_until_a_link_is_up(self) -> None:
        world = World(2)
        a, b = world.devices
        failures = [("192.0.2.1", "refused"), ("192.0.2.1", "refused"), ("192.0.2.2", "refused"), ("192.0.2.1", "lost")]

        def fail() -> list[str]:
            before = len(told(a))
            for host, reason in failures:
                a.inbox.append(DialFailed(b.id, Address("quic", host, 1), "E_UNREACHABLE", reason))
            world.pump()
            return [event["detail"] for event in a.query("events", KEPT_EVENTS)[before:]]

        assert fail() == [
            "quic://192.0.2.1:1: refused",
            "quic://192.0.2.2:1: refused",
            "quic://192.0.2.1:1: lost",
        ]
        assert fail() == []
        world.connect(a, b)
        world.disconnect(a, b)
        assert len(fail()) == 3

    def test_members_come_and_go_but_those_of_the_start_are_no_news(self) -> None:
        world = World(3)
        a, b, _ = world.devices
        world.connect(a, b)
        a.ask(Remove, device="d2")
        assert ("peer-removed", "d2") in told(a)
        assert ("peer-removed", "d2") in told(b)
        assert "peer-joined" not in [event for event, _ in told(a)]
        a.crash()
        assert told(a) == []

    def test_a_route_over_another_device(self) -> None:
        world = World(3)
        a, b, c = world.devices
        world.connect(a, b)
        world.connect(b, c)
        world.advance(5.0)
        [route] = [event for event in a.query("events", KEPT_EVENTS) if event["name"] == "d2"]
        assert (route["event"], route["detail"], route["next_hop_name"]) == ("route-changed", "by way of d1", "d1")


class TestBreakerReset:
    def test_the_dialer_is_told_and_so_is_everybody(self) -> None:
        world = World(2)
        a, b = world.devices
        dialer = Dialer(a, b)
        dialer.seen(("quic", "192.0.2.1"))
        dialer.fail(times=5)
        flap(a, b, 1)
        answer = a.result(a.ask(ResetBreaker, peer="d1"))
        assert answer["name"] == "d1"
        assert (answer["before"], answer["breaker"]) == ("open", "closed")
        assert a.other[-1] == CloseBreaker(b.id)
        [failed, reset] = a.query("events", KEPT_EVENTS)
        assert (failed["event"], reset["event"], reset["before"]) == ("link-failed", "breaker-reset", "open")
        flap(a, b, 1)  # the same failure, and news all the same
        assert told(a)[2:] == [("link-failed", "d1")]

    @pytest.mark.parametrize(("peer", "code"), [("d0", "E_USAGE"), ("d9", "E_UNKNOWN_DEVICE"), ("d1", "E_USAGE")])
    def test_what_has_no_breaker_is_refused(self, peer: str, code: str) -> None:
        world = World(2)
        assert world.devices[0].code(world.devices[0].ask(ResetBreaker, peer=peer)) == code


class TestFollowing:
    def test_past_events_come_first_then_each_as_it_happens(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        world.advance(2.0)
        request = a.ask(Follow, last=2, credit=100)
        assert [item["event"] for item in items(a, request)] == ["peer-up", "route-changed"]
        world.disconnect(a, b)
        assert [item["event"] for item in items(a, request)][2:] == ["link-down", "peer-down", "route-lost"]

    def test_a_device_without_a_mesh_can_be_followed(self) -> None:
        world = World(1)
        lone = Device(world, 7, None, 1 << 20)
        world.devices.append(lone)
        request = lone.ask(Follow, last=100, credit=100)
        assert lone.replies(request) == []
        assert lone.query("events", 100) == []

    def test_no_more_comes_than_there_is_credit_for(self) -> None:
        world = World(2)
        a, b = world.devices
        request = a.ask(Follow, last=0, credit=3)
        flap(a, b, 5)
        assert [item["detail"] for item in items(a, request)] == [f"quic://192.0.2.1:1: failure {n}" for n in range(3)]
        a.ask(AddCredit, subscription=request, messages=1)
        assert len(items(a, request)) == 4
        a.ask(AddCredit, subscription=request, messages=10)
        assert len(items(a, request)) == 5

    def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(self) -> None:
        world = World(2)
        a, b = world.devices
        request = a.ask(Follow, last=0, credit=0)
        flap(a, b, KEPT_EVENTS + 7)
        assert items(a, request) == []
        a.ask(AddCredit, subscription=request, messages=1)
        [note] = items(a, request)
        assert (note["event"], note["missed"], note["peer"]) == ("missed", 7, None)
        a.ask(AddCredit, subscription=request, messages=2 * KEPT_EVENTS)
        _, *rest = items(a, request)
        assert [item["detail"] for item in rest] == [
            f"quic://192.0.2.1:1: failure {n}" for n in range(7, KEPT_EVENTS + 7)
        ]

    def test_readers_do_not_disturb_each_other(self) -> None:
        world = World(2)
        a, b = world.devices
        fast, slow = a.ask(Follow, last=0, credit=100), a.ask(Follow, last=0, credit=1)
        flap(a, b, 4)
        assert (len(items(a, fast)), len(items(a, slow))) == (4, 1)
        a.cancel(fast)
        a.ask(AddCredit, subscription=slow, messages=1)
        flap(a, b, 5)
        assert (len(items(a, fast)), len(items(a, slow))) == (4, 2)

    def test_a_client_that_is_gone_is_forgotten(self) -> None:
        world = World(2)
        a, b = world.devices
        request = a.ask(Follow, last=0, credit=100)
        gone = a.client
        a.disconnect_client()
        flap(a, b, 1)
        assert request not in gone.replies

    def test_credit_for_a_mailbox_still_reaches_it(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.ask(Follow, last=0, credit=100)
        reader = a.read(credit=0)
        b.send("d0", b"x")
        assert reader.payloads == []
        a.ask(AddCredit, subscription=reader.number, messages=1)
        assert reader.payloads == [b"x"]
