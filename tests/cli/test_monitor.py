"""``alerts``, ``metrics`` and ``log level``: what they ask, their JSON, and their text for people."""

from typing import Any

from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon

ACTIVE: dict[str, Any] = {
    "id": 8,
    "name": "peer-down",
    "severity": "warning",
    "state": "active",
    "since": "2026-03-01T12:00:00.000Z",
    "until": None,
    "detail": "no link and no route to attic",
    "peer": "a" * 26,
    "peer_name": "attic",
}
PAST = ACTIVE | {
    "id": 7,
    "name": "disk-low",
    "state": "resolved",
    "until": "2026-03-01T11:00:00.000Z",
    "detail": "12 MiB are free",
    "peer": None,
    "peer_name": None,
}
METRICS = {"content_type": "application/openmetrics-text", "text": "# TYPE meshd info\nmeshd_info 1.0\n# EOF\n"}


def test_alerts(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["alerts"] = [ACTIVE, PAST]
    head, first, second = meshctl("alerts").out.splitlines()
    assert head.split() == ["ALERT", "SEVERITY", "STATE", "ABOUT", "SINCE", "UNTIL", "DETAIL"]
    assert first.split("  ")[0] == "peer-down"
    assert "attic" in first
    assert "this device" in second
    assert second.endswith("12 MiB are free")
    assert meshctl("alerts", "--json").document == [ACTIVE, PAST]
    assert meshctl("alerts", "--active", "--json").document == [ACTIVE]


def test_no_alerts(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["alerts"] = []
    assert meshctl("alerts").out == "No alerts.\n"
    daemon.answers["alerts"] = [PAST]
    assert meshctl("alerts", "--active").out == "No active alerts.\n"
    assert meshctl("alerts", "--active", "--json").document == []


def test_metrics(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["metrics"] = METRICS
    assert meshctl("metrics").out == METRICS["text"]
    assert meshctl("metrics", "--json").document == METRICS


def test_log_level(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["log-level"] = answer = {"level": "info", "levels": {"discovery.mdns": "debug"}}
    shown = meshctl("log", "level", "discovery.mdns", "debug").out.splitlines()
    assert [line.split() for line in shown[:2]] == [["level", "info"], ["discovery.mdns", "debug"]]
    assert daemon.arguments("log-level") == {"component": "discovery.mdns", "level": "debug"}
    assert meshctl("log", "level", "default", "--json").document == answer
    assert daemon.asked[-1] == ("log-level", {"component": None, "level": "default"})


def test_log_level_is_asked_for_rightly(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["log-level"] = {}
    assert meshctl("log", "level").code == 2
    assert meshctl("log", "level", "loud").code == 2
    assert meshctl("log", "level", "links", "store", "debug").code == 2
    unknown = meshctl("log", "level", "kitchen", "debug", "--json")
    assert (unknown.code, unknown.error["code"]) == (2, "E_USAGE")
    assert "discovery" in unknown.error["message"]
