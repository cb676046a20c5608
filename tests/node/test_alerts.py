"""Alerts as a state machine: one condition, one alert, however much it wavers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.config import ALERT_NAMES
from meshd.ids import NodeId
from meshd.node.insight.alerts import (
    KEPT_ALERTS,
    Alert,
    Alerts,
    Change,
    Finding,
    Level,
    Name,
    Patience,
    decode_alert,
    encode_alert,
)
from meshd.wire.codec import encode

PEER = NodeId(bytes(range(16)))
LEVELS = {"f": Level.FINE, "b": Level.BETWEEN, "w": Level.WARNING, "c": Level.CRITICAL}


def machine(raise_s: float = 0.0, resolve_s: float = 0.0) -> Alerts:
    return Alerts({name: Patience(raise_s, resolve_s) for name in Name})


def run(alerts: Alerts, course: str, name: Name = Name.DISK_LOW, start: float = 0.0) -> str:
    """One finding a second; returns what changed in each: R(aised), W(orsened), resolved as `-`, or `.` for nothing."""
    signs = {Change.RAISED: "R", Change.WORSENED: "W", Change.RESOLVED: "-"}
    told = ""
    for second, letter in enumerate(course):
        changes = alerts.judge([Finding(name, LEVELS[letter], letter)], start + second)
        told += "".join(signs[change] for change, _ in changes) or "."
    return told


@pytest.mark.parametrize(
    ("raise_s", "resolve_s", "course", "told"),
    [
        (0, 0, "fwff", ".R-."),
        (0, 0, "bbb", "..."),
        (2, 0, "wwww", "..R."),
        (2, 0, "wwfwww", ".....R"),
        (2, 0, "wbbw", "...R"),
        (0, 3, "wfffff", "R...-."),
        (0, 3, "wffwffff", "R......-"),
        (0, 3, "wffbffff", "R......-"),
        (0, 0, "wbwbwb", "R....."),
        (0, 0, "wcwc", "RW.."),
        (0, 0, "cw", "R."),
        (0, 0, "wfw", "R-R"),
    ],
)
def test_courses(raise_s: float, resolve_s: float, course: str, told: str) -> None:
    assert run(machine(raise_s, resolve_s), course) == told


def test_severity_and_detail_are_of_the_worst_moment() -> None:
    alerts = machine()
    run(alerts, "wcw")
    [alert] = alerts.active()
    assert (alert.severity, alert.detail, alert.since, alert.until) == (Level.CRITICAL, "c", 0.0, None)


def test_what_is_not_looked_at_any_more_is_over() -> None:
    alerts = machine(0, 60)
    alerts.judge([Finding(Name.PEER_DOWN, Level.WARNING, "gone", PEER)], 1.0)
    [(change, alert)] = alerts.judge([], 2.0)
    assert (change, alert.subject, alert.until) == (Change.RESOLVED, PEER, 2.0)
    assert alerts.judge([], 3.0) == []


def test_one_condition_for_each_device() -> None:
    alerts = machine()
    other = NodeId(bytes(16))
    down = [Finding(Name.PEER_DOWN, Level.WARNING, "x", node) for node in (PEER, other)]
    assert len(alerts.judge(down, 1.0)) == 2
    [(_, resolved)] = alerts.judge([down[0], Finding(Name.PEER_DOWN, Level.FINE, "x", other)], 2.0)
    assert resolved.subject == other
    assert [alert.subject for alert in alerts.active()] == [PEER]


def test_an_active_one_stays_active_over_a_restart_and_numbers_go_on() -> None:
    before = machine()
    run(before, "wfw")
    after = machine()
    after.restore(reversed(before.all()))
    assert after.all() == before.all()
    assert run(after, "wf", start=10) == ".-"
    assert run(after, "w", start=20) == "R"
    assert [alert.number for alert in after.all()] == [1, 2, 3]


def test_the_past_is_bounded_and_what_is_active_is_never_forgotten() -> None:
    alerts = machine()
    alerts.judge([Finding(Name.CLONE, Level.CRITICAL, "x", PEER)], 0.0)
    for second in range(KEPT_ALERTS + 3):
        still = Finding(Name.CLONE, Level.CRITICAL, "x", PEER)
        alerts.judge([still, Finding(Name.DISK_LOW, Level.WARNING, "x")], second)
        alerts.judge([still, Finding(Name.DISK_LOW, Level.FINE, "x")], second)
    assert [alert.number for alert in alerts.forget_oldest()] == [2, 3, 4]
    assert alerts.forget_oldest() == []
    assert [alert.name for alert in alerts.active()] == [Name.CLONE]


@given(st.text("fbwc", max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_raised_and_resolved_take_turns(course: str, raise_s: int, resolve_s: int) -> None:
    alerts = machine(raise_s, resolve_s)
    told = run(alerts, course).replace(".", "").replace("W", "")
    assert told == ("R-" * len(told))[: len(told)]
    assert len(alerts.active()) == told.count("R") - told.count("-")


@pytest.mark.parametrize("until", [None, 9.0])
@pytest.mark.parametrize("subject", [None, PEER])
def test_on_disk(subject: NodeId | None, until: float | None) -> None:
    fields: dict[str, Any] = {"subject": subject, "until": until, "severity": Level.CRITICAL}
    alert = Alert(number=7, name=Name.CLONE, since=5.0, detail="two", **fields)
    assert decode_alert(7, encode_alert(alert)) == alert


def test_an_alert_of_a_later_version_is_left_alone() -> None:
    assert decode_alert(1, encode(["gravity-lost", None, 2, 0, None, "floating"])) is None


def test_the_configuration_knows_the_names() -> None:
    assert {name.value for name in Name} == set(ALERT_NAMES)
