"""``receive``: what is printed, what is acknowledged and when, and how it ends."""

import json
import subprocess
import sys
from typing import Any

import pytest

from meshd.errors import MeshdError
from meshd.ids import NodeId, to_text
from meshd.wire import codec
from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon, Stream

REF = bytes(range(10))
SOURCE = NodeId(bytes(range(16)))


def batch(offset: int, *messages: Any, **changes: Any) -> list[Any]:
    """A batch as the daemon delivers it: the fields of ``node.requests.Subscribe``."""
    fields = {
        "priority": 2,
        "offset": offset,
        "count": len(messages),
        "ref": REF,
        "source": SOURCE,
        "name": "attic",
        "age_ms": 1500,
        "redelivered": False,
        "late": False,
        "missing": None,
    }
    return [*(fields | changes).values(), codec.encode(list(messages))]


def acked(daemon: FakeDaemon) -> list[tuple[int, int, int]]:
    """Every acknowledged offset, as (priority, first, last)."""
    return [
        (priority, first, last)
        for op, arguments in daemon.asked
        if op == "ack"
        for priority, spans in arguments["ranges"].items()
        for first, last in spans
    ]


def test_what_waits_is_printed_then_acknowledged(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(40, b"one", b"two")], [batch(42, b"three")])), "ack": {}}
    told = meshctl("receive")
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == ["attic: one", "attic: two", "attic: three"]
    assert acked(daemon) == [(2, 40, 41), (2, 42, 42)]
    asked = daemon.arguments("subscribe")
    assert (asked["service"], asked["consumer"]) == ("default", "default")


def test_as_json_each_message_is_a_line(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    missing = {"bundles": 2, "reason": "expired"}
    items = [batch(7, b"gr\xc3\xbc\xc3\x9fe", [b"\xff\x00", {"a": "b"}, "answers"], priority=0, missing=missing)]
    daemon.answers |= {"subscribe": Stream((items,)), "ack": {}}
    first, second = meshctl("receive", "alarms", "--json").documents
    assert first == {
        "id": f"{to_text(REF)}-0",
        "source": to_text(SOURCE),
        "source_name": "attic",
        "service": "alarms",
        "sequence": 7,
        "priority": "critical",
        "age_s": 1.5,
        "payload": "grüße",
        "headers": {},
        "reply_to": None,
        "redelivered": False,
        "late": False,
        "missing": missing,
    }
    assert "payload" not in second
    assert (second["payload_b64"], second["headers"], second["reply_to"]) == ("/wA=", {"a": "b"}, "answers")
    assert (second["id"], second["sequence"], second["missing"]) == (f"{to_text(REF)}-1", 8, None)


def test_an_empty_mailbox_ends_it_well(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["subscribe"] = Stream(())
    assert (told := meshctl("receive")).code == 0
    assert (told.out, told.err) == ("", "")


def test_count_ends_it_and_acknowledges_no_more_than_was_printed(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(0, b"one", b"two", b"three")],)), "ack": {}}
    told = meshctl("receive", "--count", "2", "--consumer", "logger")
    assert told.out.splitlines() == ["attic: one", "attic: two"]
    assert acked(daemon) == [(2, 0, 1)]
    asked = daemon.arguments("subscribe")
    assert (asked["consumer"], asked["credit"]) == ("logger", 2)


@pytest.mark.parametrize("arguments", [("--count", "3"), ("--follow",)])
def test_with_a_timeout_too_few_exits_4_after_printing_what_came(
    meshctl: Meshctl, daemon: FakeDaemon, arguments: tuple[str, ...]
) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(0, b"one")],)), "ack": {}}
    told = meshctl("receive", *arguments, "--timeout", "1.5", "--json")
    assert (told.code, told.error["code"]) == (4, "E_TIMEOUT")
    assert told.error["message"].startswith("1 ")
    assert [document["payload"] for document in told.documents] == ["one"]
    assert acked(daemon) == [(2, 0, 0)]


def test_a_timeout_shorter_than_the_quiet_time_exits_4(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["subscribe"] = Stream(())
    told = meshctl("receive", "--timeout", "0.05")
    assert told.code == 4
    assert "Nothing received within 0.05 s." in told.err


def test_another_reader_with_the_name_is_a_refusal(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["subscribe"] = MeshdError("E_LEASED", "Another client reads default as default.")
    told = meshctl("receive", "--json")
    assert (told.code, told.error["code"]) == (1, "E_LEASED")


def test_a_daemon_that_stops_is_an_error(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(0, b"one")],), end={}), "ack": {}}
    told = meshctl("receive", "--follow")
    assert (told.code, told.out) == (1, "attic: one\n")
    assert "[E_STOPPING]" in told.err


def test_people_see_age_gaps_and_size_instead_of_bytes(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    items = [
        batch(0, b"a\nb\x1b[2J", age_ms=190_000, late=True, missing={"bundles": None, "reason": "expired"}),
        batch(1, b"\xff\xfe", redelivered=True, missing={"bundles": 2, "reason": "expired"}),
    ]
    daemon.answers |= {"subscribe": Stream((items,)), "ack": {}}
    told = meshctl("receive").out.splitlines()
    assert acked(daemon) == [(2, 0, 0)], "what was not shown is kept"
    assert told == [
        "(some mail from attic will not come: expired)",
        "attic (3 min old, late): a",
        "  b\\x1b[2J",
        "(2 bundles from attic will not come: expired)",
        "attic (again): <2 bytes, not text; kept for --json>",
    ]


def test_following_prints_each_message_before_the_next_comes_and_ctrl_c_is_quiet(daemon: FakeDaemon) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(0, b"one")], [batch(1, b"two")])), "ack": {}}
    process = subprocess.Popen(
        [sys.executable, "-m", "meshd.cli", "--socket", str(daemon.path), "--json", "receive", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert [json.loads(process.stdout.readline())["payload"] for _ in range(2)] == ["one", "two"]
    process.send_signal(2)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 130


def test_what_could_not_be_printed_is_not_acknowledged(daemon: FakeDaemon) -> None:
    daemon.answers |= {"subscribe": Stream(([batch(0, b"one"), batch(1, b"two")],)), "ack": {}}
    arguments = [sys.executable, "-m", "meshd.cli", "--socket", str(daemon.path), "receive"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, acked(daemon)) == (1, [])
    assert done.stderr.startswith("error: Can't write the output")
