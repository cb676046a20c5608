"""``why``, ``graph``, ``events`` and ``breaker reset``: what they ask, their JSON, and their text for people."""

import array
import fcntl
import json
import os
import subprocess
import sys
import termios
import time
import xml.etree.ElementTree as ET
from typing import IO, Any

import pytest

from meshd.errors import MeshdError
from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon, Silence, Stream

KITCHEN, ATTIC, GARAGE = "k" * 26, "a" * 26, "g" * 26

LINKED: dict[str, Any] = {
    "peer": ATTIC,
    "name": "attic",
    "state": "linked",
    "decision": "linked over quic for 3 min, because quic is the best transport there is",
    "hint": None,
    "candidates": [
        {
            "address": "quic://192.0.2.7:7843",
            "transport": "quic",
            "source": "mdns",
            "last_error": None,
            "last_tried_s": 190.0,
            "last_success_s": 190.0,
            "usable": True,
        }
    ],
    "breaker": "closed",
    "breaker_detail": {
        "next_attempt_s": None,
        "recent_attempts": 0,
        "recent_failures": 0,
        "dial_failures": 0,
        "openings": 0,
        "reason": None,
    },
    "link": {
        "transport": "quic",
        "address": "quic://192.0.2.7:7843",
        "dialed": True,
        "since_s": 190.0,
        "suspect": False,
    },
    "quality": 97,
    "grade": "excellent",
    "rtt_ms": 3.24,
    "loss": 0.004,
    "broken_last_hour": 1,
    "route": {"next_hop": ATTIC, "next_hop_name": "attic", "metric": 14},
    "last_error": None,
    "hearsay": None,
}
UNLINKED: dict[str, Any] = LINKED | {
    "state": "breaker-open",
    "decision": "waiting 12 s because the breaker is open: 6 dials in a row failed",
    "hint": "To try at once: meshctl breaker reset attic",
    "candidates": [
        LINKED["candidates"][0] | {"last_error": "Connection refused", "last_success_s": None, "last_tried_s": 1.5},
        LINKED["candidates"][0] | {"address": "quic://172.17.0.2:7843", "usable": False, "last_tried_s": None},
    ],
    "breaker": "open",
    "breaker_detail": {
        "next_attempt_s": 12.1,
        "recent_attempts": 8,
        "recent_failures": 6,
        "dial_failures": 6,
        "openings": 1,
        "reason": "6 dials in a row failed",
    },
    "link": None,
    "quality": None,
    "grade": None,
    "rtt_ms": None,
    "loss": None,
    "route": {"next_hop": GARAGE, "next_hop_name": "garage", "metric": 34},
    "last_error": "quic://192.0.2.7:7843: Connection refused",
    "hearsay": {
        "neighbour": "garage",
        "hears": True,
        "detail": "garage hears it: the path between is broken",
        "ago_s": 125.3,
    },
}


def test_why_of_a_linked_device(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["why"] = LINKED
    assert meshctl("why", "attic").out.splitlines() == [
        "attic: linked over quic for 3 min, because quic is the best transport there is",
        "",
        "What it is",
        "link     quic://192.0.2.7:7843, dialed by this device 3 min ago",
        "quality  excellent 97: round trip 3.2 ms, loss 0.4 %, broke 1 time in the last hour",
        "route    direct, metric 14",
        "breaker  closed",
        f"id       {ATTIC}",
        "",
        "What was tried",
        "ADDRESS                FROM  TRIED      WORKED",
        "quic://192.0.2.7:7843  mdns  3 min ago  3 min ago",
    ]
    assert daemon.arguments("why") == {"peer": "attic"}
    assert meshctl("why", "attic", "--json").document == LINKED


def test_why_of_one_that_is_not(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["why"] = UNLINKED
    shown = meshctl("why", "attic").out.splitlines()
    assert shown[0] == "attic: waiting 12 s because the breaker is open: 6 dials in a row failed"
    assert "route        by way of garage, metric 34" in shown
    assert "breaker      open (6 dials in a row failed; next attempt in 12 s; 6 of the last 8 attempts failed)" in shown
    assert "last error   quic://192.0.2.7:7843: Connection refused" in shown
    assert "went silent  2 min ago; garage hears it: the path between is broken" in shown
    tried = shown[shown.index("What was tried") + 2 :]
    assert tried[0].split("  ")[-1] == "Connection refused"
    assert tried[1].endswith("not used here")
    assert shown[shown.index("What to do") + 1 :] == [
        "- To try at once: meshctl breaker reset attic",
        "- 192.0.2.7: the machine is on, but no meshd listens at UDP 7843. On it: systemctl status meshd",
    ]


def test_why_says_when_nothing_is_known(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["why"] = UNLINKED | {"candidates": [], "route": None, "breaker_detail": None, "breaker": "closed"}
    shown = meshctl("why", "attic").out.splitlines()
    assert shown[shown.index("What was tried") + 1] == "No address of it is known."
    assert "route        none: mail for it waits" in shown
    assert "breaker      closed" in shown
    daemon.answers["why"] |= {"state": "removed"}
    assert "route        none" in meshctl("why", "attic").out.splitlines()
    del daemon.answers["why"]["hearsay"]  # of a daemon that is older
    assert "went silent" not in meshctl("why", "attic").out


def test_no_error_of_a_peer_reaches_the_terminal_raw(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    evil = "\x1b]0;x\x07\nquic://fake"
    daemon.answers["why"] = UNLINKED | {"decision": evil, "last_error": evil, "hint": evil, "name": evil}
    daemon.answers["why"]["hearsay"] = UNLINKED["hearsay"] | {"detail": evil}
    assert "\x1b" not in meshctl("why", "attic").out
    daemon.answers["events"] = [{"at": "now", "event": evil, "peer": None, "name": evil, "detail": evil}]
    assert "\x1b" not in meshctl("events").out
    daemon.answers["graph"] = {"nodes": [{"id": KITCHEN, "name": evil, "role": "admin", "state": "self"}], "edges": []}
    for style in ("text", "dot", "svg"):
        assert "\x1b" not in meshctl("graph", "--format", style).out


GRAPH = {
    "nodes": [
        {"id": KITCHEN, "name": "kitchen", "role": "admin", "state": "self"},
        {"id": ATTIC, "name": "attic", "role": "member", "state": "up"},
        {"id": GARAGE, "name": "garage", "role": "member", "state": "routed"},
    ],
    "edges": [
        {"from": KITCHEN, "to": ATTIC, "transport": "quic", "metric": 12, "kind": "link"},
        {"from": ATTIC, "to": GARAGE, "transport": None, "metric": 20, "kind": "route", "selected": True},
    ],
}


def test_graph_is_a_tree(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["graph"] = GRAPH
    assert meshctl("graph").out.splitlines() == [
        "kitchen (this device, admin)",
        "`-- attic       quic, metric 12",
        "    `-- garage  by route, metric 20",
    ]
    assert meshctl("graph", "--format", "svg", "--json").document == GRAPH


def test_graph_has_formats(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["graph"] = GRAPH
    assert meshctl("graph", "--format", "dot").out.startswith("graph mesh {\n")
    assert ET.fromstring(meshctl("graph", "--format", "svg").out).tag == "{http://www.w3.org/2000/svg}svg"
    assert meshctl("graph", "--format", "png").code == 2


def test_a_graph_of_one_says_how_to_go_on(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["graph"] = {"nodes": GRAPH["nodes"][:1], "edges": []}
    shown = meshctl("graph").out
    assert shown.startswith("kitchen (this device, admin)\n")
    assert "meshctl invite" in shown


EVENTS = [
    {
        "at": "2026-01-01T00:00:00.000Z",
        "event": "peer-up",
        "peer": ATTIC,
        "name": "attic",
        "detail": "linked over quic",
    },
    {"at": "2026-01-01T00:00:01.500Z", "event": "missed", "peer": None, "name": None, "detail": "7 lost", "missed": 7},
]


def test_events_are_lines(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["events"] = EVENTS
    assert meshctl("events").out.splitlines() == [
        "2026-01-01T00:00:00.000Z  peer-up         attic             linked over quic",
        "2026-01-01T00:00:01.500Z  missed          -                 7 lost",
    ]
    assert daemon.arguments("events") == {"last": 100, "follow": False, "credit": 0}
    assert meshctl("events", "--last", "5", "--json").documents == EVENTS
    assert daemon.asked[-1][1]["last"] == 5


def test_events_of_alerts_name_the_alert_and_say_when_it_is_over(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    raised = EVENTS[0] | {"event": "alert-raised", "detail": "no link to attic", "alert": "peer-down"}
    ours = raised | {
        "event": "alert-resolved",
        "peer": None,
        "name": None,
        "detail": "12 MiB free",
        "alert": "disk-low",
    }
    daemon.answers["events"] = [raised, ours]
    first, second = meshctl("events").out.splitlines()
    assert first.endswith("alert-raised    attic             peer-down: no link to attic")
    assert second.endswith("alert-resolved  this device       disk-low is over: 12 MiB free")


def test_no_events_yet(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["events"] = []
    assert meshctl("events").out == "Nothing has happened since the daemon started.\n"
    assert meshctl("events", "--json").out == ""


def test_followed_events_are_printed_and_their_credit_is_renewed(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["events"] = Stream((EVENTS, EVENTS[:1]), MeshdError("E_STOPPING", "The daemon is stopping."))
    told = meshctl("events", "--follow", "--last", "3", "--json")
    assert (told.code, told.error["code"]) == (1, "E_STOPPING")
    assert told.documents == [*EVENTS, EVENTS[0]]
    asked = daemon.arguments("events")
    assert (asked["follow"], asked["last"]) == (True, 3)
    assert asked["credit"] >= 100
    assert meshctl("events", "--follow").out.count("peer-up") == 2


def test_an_ended_stream_and_a_passed_time_are_errors(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["events"] = Stream((EVENTS,), {})
    assert meshctl("events", "--follow", "--json").error["code"] == "E_STOPPING"
    daemon.answers["events"] = Stream((EVENTS,), Silence())
    told = meshctl("events", "--follow", "--json", "--timeout", "0.3")
    assert (told.code, told.error["code"], told.error["message"]) == (4, "E_TIMEOUT", "2 events within 0.3 s.")


def test_followed_events_give_their_credit_back(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    items = (EVENTS * 100, EVENTS * 25, EVENTS * 125, EVENTS)
    daemon.answers["events"] = Stream(items)
    assert meshctl("events", "--follow", "--timeout", "2").code == 4
    given = [arguments["messages"] for op, arguments in daemon.asked if op == "credit"]
    assert given == [250, 250], "by halves of what it asked for"


def _is_full(pipe: IO[bytes]) -> bool:
    held = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, held)
    return held[0] > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - 4096


def test_a_reader_that_goes_away_ends_it(daemon: FakeDaemon) -> None:
    daemon.answers["events"] = Stream(tuple(EVENTS for _ in range(5000)))
    command = [sys.executable, "-m", "meshd.cli", "--socket", os.fspath(daemon.path), "events", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == EVENTS[0]
        while not _is_full(process.stdout):  # it has asked for more events on the way, and waits for its reader
            time.sleep(0.01)
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("before", "shown"), [("open", "was open, and is closed now."), ("closed", "was already closed.")]
)
def test_breaker_reset(meshctl: Meshctl, daemon: FakeDaemon, before: str, shown: str) -> None:
    answer = {"id": ATTIC, "name": "attic", "breaker": "closed", "before": before}
    daemon.answers["breaker-reset"] = answer
    told = meshctl("breaker", "reset", "attic")
    assert shown in told.out
    assert "meshctl why attic" in told.out
    assert daemon.arguments("breaker-reset") == {"peer": "attic"}
    assert meshctl("breaker", "reset", "attic", "--json").document == answer


@pytest.mark.parametrize(
    "arguments", [("why",), ("why", "no name"), ("events", "--last", "1001"), ("breaker", "reset")]
)
def test_wrong_use_is_told(meshctl: Meshctl, arguments: tuple[str, ...], daemon: FakeDaemon) -> None:
    told = meshctl(*arguments, "--json")
    assert (told.code, told.error["code"]) == (2, "E_USAGE")


@pytest.mark.parametrize(("name", "answer"), [("why", {"name": 3}), ("graph", {"nodes": [7]}), ("events", {"x": 1})])
def test_an_answer_that_makes_no_sense_is_an_error(
    meshctl: Meshctl, daemon: FakeDaemon, name: str, answer: object
) -> None:
    daemon.answers[name] = answer
    arguments = ("why", "attic") if name == "why" else (name,)
    assert meshctl(*arguments).code == 1
