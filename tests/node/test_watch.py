"""What alerts are raised about, in whole nodes: looked at as the shell looks, twice a second."""

import time
from typing import Any

import pytest

from meshd.ids import NodeId
from meshd.links.breaker import Breaker, State
from meshd.links.events import LinkUp
from meshd.node.accepting import MIN_FREE_BYTES
from meshd.node.effects import TellAlert
from meshd.node.insight.alerts import Name
from meshd.node.insight.watch import FLAPS_WITHIN_S, LOOK_INTERVAL_S, START_GRACE_S, Survey
from meshd.node.requests import Remove
from meshd.transport.base import Address
from meshd.wire.frames import BundleFrame
from tests.node.harness import START, Device, World
from tests.trust.people import added, founded

MIB = 1024 * 1024
LIMIT = 256 * MIB


class Looks:
    """A world whose devices look around."""

    def __init__(self, count: int = 2) -> None:
        self.world = World(count)
        self.devices = self.world.devices
        self.free_bytes = 1 << 40
        self.worst_s = 0.0
        self.wall_ahead_s = 0.0
        self.closings: dict[NodeId, int] = {}

    def look(self, one: Device, seconds: float = LOOK_INTERVAL_S) -> None:
        """Let time pass, with looks of ``one``."""
        for _ in range(max(1, round(seconds / LOOK_INTERVAL_S))):
            self.world.advance(LOOK_INTERVAL_S)
            wall_s = time.time() + self.wall_ahead_s
            survey = Survey(
                loop_worst_s=self.worst_s, free_bytes=self.free_bytes, wall_s=wall_s, closings=dict(self.closings)
            )
            one.inbox.append(survey)
            self.world.pump()


def alerts(one: Device, state: str = "active") -> list[tuple[str, str, str | None]]:
    """Name, severity and device of the alerts in this state."""
    rows = [row for row in one.query("alerts") if row["state"] == state]
    return [(row["name"], row["severity"], row["peer_name"]) for row in rows]


def told(one: Device) -> list[tuple[str, str]]:
    """What the hooks were told, since the last call."""
    found = [effect for effect in one.other if isinstance(effect, TellAlert)]
    one.other = [effect for effect in one.other if not isinstance(effect, TellAlert)]
    return [(effect.change, effect.alert["name"]) for effect in found]


def test_nothing_is_wrong() -> None:
    looks = Looks()
    a, b = looks.devices
    looks.look(a, 60)  # b was never reached: nobody knows that it ought to be there
    looks.world.connect(a, b)
    looks.look(a, 60)
    assert a.query("alerts") == []
    assert told(a) == []


def test_a_peer_that_is_gone_and_back() -> None:
    looks = Looks()
    a, b = looks.devices
    looks.world.connect(a, b)
    looks.look(a)
    looks.world.disconnect(a, b)
    looks.look(a, 1)  # within a second
    assert alerts(a) == [("peer-down", "warning", "d1")]
    looks.world.connect(a, b)
    looks.look(a, 2)
    assert alerts(a) == [("peer-down", "warning", "d1")]
    looks.look(a, 3)
    assert alerts(a) == []
    assert alerts(a, "resolved") == [("peer-down", "warning", "d1")]
    assert told(a) == [("raised", "peer-down"), ("resolved", "peer-down")]
    events = [event for event in a.query("events", 100) if "alert" in event]
    assert [event["event"] for event in events] == ["alert-raised", "alert-resolved"]
    assert (events[0]["name"], events[0]["alert"], events[0]["severity"]) == ("d1", "peer-down", "warning")


def test_a_peer_behind_another_one_is_not_down() -> None:
    looks = Looks(3)
    a, b, c = looks.devices
    for one, other in ((a, b), (b, c), (a, c)):
        looks.world.connect(one, other)
    looks.look(a, 30)
    looks.world.disconnect(a, c)
    looks.look(a, 5)
    assert alerts(a) == []


def test_a_removed_device_is_not_missed() -> None:
    looks = Looks()
    a, b = looks.devices
    looks.world.connect(a, b)
    looks.look(a)
    looks.world.disconnect(a, b)
    looks.look(a, 1)
    assert alerts(a) == [("peer-down", "warning", "d1")]
    a.result(a.ask(Remove, device="d1"))
    looks.look(a)
    assert alerts(a) == []


def test_alerts_outlive_a_restart() -> None:
    looks = Looks()
    a, b = looks.devices
    looks.world.connect(a, b)
    looks.look(a)
    looks.world.disconnect(a, b)
    looks.look(a, 1)
    looks.world.flush()
    before = a.query("alerts")
    a.crash()
    [after] = a.query("alerts")
    assert {**after, "since": None} == {**before[0], "since": None}
    looks.look(a, 10)
    assert alerts(a) == [("peer-down", "warning", "d1")]
    assert told(a) == []
    looks.world.connect(a, b)
    looks.look(a, 5)
    assert alerts(a) == []


def test_a_full_disk() -> None:
    looks = Looks()
    a, _ = looks.devices
    for free, expected in (
        (LIMIT, []),
        (LIMIT - 1, [("disk-low", "warning", None)]),
        (MIN_FREE_BYTES - 1, [("disk-low", "critical", None)]),
        (LIMIT + 1, [("disk-low", "critical", None)]),
    ):
        looks.free_bytes = free
        looks.look(a)
        assert alerts(a) == expected, free
    looks.free_bytes = 2 * LIMIT
    looks.look(a, 11)
    assert alerts(a) == []
    assert told(a) == [("raised", "disk-low"), ("worsened", "disk-low"), ("resolved", "disk-low")]


def test_a_spool_that_fills() -> None:
    looks = Looks()
    a = looks.devices[0]
    a.quota_bytes = 1_000_000
    a.crash()
    a.send("d1", looks.world.rng.randbytes(700_000))
    looks.look(a)
    assert alerts(a) == []
    a.send("d1", looks.world.rng.randbytes(120_000))
    looks.look(a)
    assert alerts(a) == [("spool-filling", "warning", None)]
    a.send("d1", looks.world.rng.randbytes(140_000))
    looks.look(a)
    assert alerts(a) == [("spool-filling", "critical", None)]


def test_a_loop_that_lags() -> None:
    looks = Looks()
    a = looks.devices[0]
    looks.worst_s = 1.2
    looks.look(a, START_GRACE_S - 1)  # everything on the machine is starting
    assert alerts(a) == []
    looks.worst_s = 0.9
    looks.look(a, 2)
    assert alerts(a) == []
    looks.worst_s = 1.2
    looks.look(a)
    looks.worst_s = 0.0
    looks.look(a, 29)
    assert alerts(a) == [("loop-lag", "warning", None)]
    looks.look(a, 2)
    assert alerts(a) == []


def test_a_breaker_that_flaps_and_one_that_stays_open() -> None:
    looks = Looks()
    a, b = looks.devices
    breaker = Breaker(looks.world.rng)
    now = 0.0

    def show() -> None:
        looks.closings = {b.id: breaker.closings} if breaker.closings else {}

    for _ in range(20):  # probes fail: it opens again and again, and never closes
        breaker.down(now)
        now += 400
        assert breaker.allow(now)
        breaker.dial_failed(now)
        show()
        looks.look(a)
    assert alerts(a) == []
    for _ in range(3):
        breaker.reset()
        assert breaker.state is State.CLOSED
        breaker.down(now)
        show()
        looks.look(a)
    assert alerts(a) == [("breaker-flapping", "warning", "d1")]
    looks.look(a, FLAPS_WITHIN_S + 1)
    assert alerts(a) == []


@pytest.mark.parametrize("seconds", [-90.0, 90.0])
def test_a_clock_that_is_off(seconds: float) -> None:
    looks = Looks()
    a, b = looks.devices
    looks.wall_ahead_s = seconds
    looks.world.connect(a, b)
    looks.look(a, 2)
    [alert] = a.query("alerts")
    assert (alert["name"], alert["peer"], alert["state"]) == ("clock-skew", None, "active")
    assert alert["detail"] == f"this device's clock is 90 s {'ahead of' if seconds > 0 else 'behind'} others'"
    looks.wall_ahead_s = 0.0  # somebody sets it: noticed at once, not at the next question
    looks.look(a)
    assert alerts(a) == []


def test_the_odd_one_out_is_named() -> None:
    looks = Looks(4)
    a = looks.devices[0]
    for other in looks.devices[1:]:
        looks.world.connect(a, other)
    looks.devices[2].node._sight.inquiries._wall = lambda: time.time() - 300
    looks.look(a, 2)
    [alert] = a.query("alerts")
    assert (alert["name"], alert["peer_name"]) == ("clock-skew", "d2")
    assert alert["detail"] == "the clock of d2 is 300 s behind others'"


def test_a_copied_card() -> None:
    looks = Looks()
    a, b = looks.devices
    epochs = [b.node.epoch, a.node.epoch]  # any two
    for number, epoch in enumerate([*epochs, *epochs], 500):
        remote = Address("quic", "192.0.2.7", 7843)
        a.inbox.append(LinkUp(number, b.id, "quic", remote, dialed=True, epoch=epoch, seen=None))
        looks.world.pump()
    looks.look(a)
    assert ("clone", "critical", "d1") in alerts(a)


def test_a_relay_that_is_not_there() -> None:
    looks = Looks(1)
    a = Device(looks.world, 0, added(founded(), 0, 1, "relay"), 64 * MIB)
    looks.world.devices = looks.devices = [a]
    looks.look(a, START_GRACE_S - 2)
    assert alerts(a) == []
    looks.look(a, 4)
    assert alerts(a) == [("relay-unreachable", "warning", "d1")]


def test_a_hop_that_swallows_mail() -> None:
    looks = Looks(3)
    a, b, c = looks.devices
    looks.world.connect(a, b)
    looks.world.connect(b, c)
    looks.look(a, 5)
    looks.world.loses = lambda sender, _, frame: sender is b and isinstance(frame, BundleFrame)
    a.send("d2", b"in vain")
    looks.look(a, 6)  # overdue once: it may be late
    assert alerts(a) == []
    looks.look(a, 20)
    assert alerts(a) == [("mail-unconfirmed", "warning", "d1")]
    [alert] = a.query("alerts")
    assert "it is for d2" in alert["detail"]
    looks.world.loses = lambda *_: False
    looks.look(a, 120)
    assert alerts(a) == []


def test_a_muted_alert_is_not_raised() -> None:
    looks = Looks()
    a = looks.devices[0]
    thresholds: Any = a.node.watch.thresholds
    object.__setattr__(thresholds, "mute", frozenset([Name.DISK_LOW.value]))
    looks.free_bytes = 0
    looks.look(a)
    assert a.query("alerts") == []
    assert looks.world.now > START
