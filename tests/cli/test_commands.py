"""Each command: what it asks the daemon, the JSON of the contract, and its text for people."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshd.cli.app import EXIT_CODES
from meshd.errors import MeshdError
from tests.cli.conftest import Meshctl
from tests.cli.daemon import Answer, FakeDaemon, Raw, Silence

KITCHEN, ATTIC = "k" * 26, "a" * 26
MESSAGE_ID = "abcdefghijklmnop-3"
JOINED = {"mesh": {"id": "m" * 52, "name": "home"}, "device": {"id": KITCHEN, "name": "kitchen"}}

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "device": {"id": KITCHEN, "name": "kitchen"},
    "mesh": {"id": "m" * 52, "name": "home"},
    "removed": False,
    "uptime_s": 190.5,
    "peers_up": 1,
    "peers_known": 2,
    "spool": {"messages": 12, "bytes": 12_698, "quota_bytes": 1024**3},
    "relays": [{"url": "wss://relay.example", "state": "up"}],
    "listen": {"quic": ["[::]:7843"], "websocket": ["[::]:7843"]},
}

PEERS: list[dict[str, Any]] = [
    {
        "id": ATTIC,
        "name": "attic",
        "state": "up",
        "transport": "quic",
        "address": "192.0.2.7:7843",
        "rtt_ms": 3.24,
        "loss": 0.004,
        "quality": 93,
        "grade": "excellent",
        "breaker": "closed",
        "last_error": None,
    },
    {
        "id": "g" * 26,
        "name": "garage",
        "state": "down",
        "transport": None,
        "address": None,
        "rtt_ms": None,
        "loss": None,
        "quality": None,
        "grade": None,
        "breaker": "open",
        "last_error": "connection refused",
    },
]


def test_init_shows_the_recovery_words_and_what_they_are_for(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["init"] = JOINED | {"recovery_words": ["abcd", "efgh", "ijkl"]}
    told = meshctl("init", "home")
    assert told.code == 0
    assert "abcd efgh ijkl" in told.out
    assert "not shown again" in told.out
    assert "lost or stolen" in told.out
    assert "meshctl invite" in told.out
    assert daemon.arguments("init") == {"name": "home"}
    assert meshctl("init", "home", "--json").document == daemon.answers["init"]


def test_init_takes_the_words_as_one_text_too(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["init"] = JOINED | {"recovery_words": "abcd-efgh"}
    assert "    abcd-efgh\n" in meshctl("init", "home").out


def test_invite_says_what_to_type_and_how_long_it_is_good(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["invite"] = {"code": "meshd-abc", "expires_in_s": 5400}
    told = meshctl("invite", "--expires", "1h30m", "--role", "admin")
    assert "meshctl join meshd-abc\n" in told.out
    assert "works once, for 1 h 30 min." in told.out
    assert daemon.arguments("invite") == {"expires_s": 5400, "role": "admin"}
    assert meshctl("invite", "--json").document == {"code": "meshd-abc", "expires_in_s": 5400}
    assert daemon.asked[-1] == ("invite", {"expires_s": 600, "role": "member"})


@pytest.mark.parametrize("span", ["100ms", "0.5s", "8d"])
def test_an_invitation_is_for_a_second_to_a_week(meshctl: Meshctl, span: str) -> None:
    told = meshctl("invite", "--expires", span)
    assert told.code == 2
    assert f"'{span}' is not between 1s and 7d" in told.err


def test_join_says_when_the_name_was_taken(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["join"] = JOINED
    told = meshctl("join", "meshd-abc", "--name", "attic")
    assert "Another device there is called attic." in told.out
    assert "Another device" not in meshctl("join", "meshd-abc", "--name", "kitchen").out


def test_join_names_the_device_and_the_mesh(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["join"] = JOINED
    told = meshctl("join", " meshd-abc\n", "--name", "kitchen")
    assert told.out.splitlines()[0] == "This device is now kitchen in the mesh home."
    assert daemon.arguments("join") == {"code": "meshd-abc", "name": "kitchen"}
    assert meshctl("join", "meshd-abc", "--json").document == JOINED


def test_members_are_a_table(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    rows = [
        {"id": KITCHEN, "name": "kitchen", "role": "admin", "state": "active"},
        {"id": ATTIC, "name": "attic", "role": "member", "state": "removed"},
    ]
    daemon.answers["members"] = rows
    assert meshctl("members").out.splitlines() == [
        "NAME     ROLE    STATE    ID",
        f"kitchen  admin   active   {KITCHEN}",
        f"attic    member  removed  {ATTIC}",
    ]
    assert meshctl("members", "--json").document == rows
    daemon.answers["members"] = rows[:1]
    assert "meshctl invite" in meshctl("members").out


def test_remove_needs_no_confirmation_away_from_a_terminal(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["remove"] = {"id": ATTIC, "name": "attic"}
    assert meshctl("remove", "attic").out.startswith("Removed attic.")
    assert daemon.arguments("remove") == {"device": "attic"}
    assert meshctl("remove", "attic", "--json").document == {"id": ATTIC, "name": "attic"}


def test_status_is_a_block_of_facts(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"status": STATUS, "alerts": []}
    assert meshctl("status").out.splitlines() == [
        f"device   kitchen  {KITCHEN}",
        f"mesh     home  {'m' * 52}",
        "peers    1 of 2 linked",
        "spool    12 messages waiting, 12.4 KiB of 1.0 GiB",
        "relays   wss://relay.example (up)",
        "listens  quic [::]:7843, websocket [::]:7843",
        "meshd    0.1.0, up for 3 min",
    ]
    assert meshctl("status", "--json").document == STATUS


def test_status_names_what_does_not_run(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    outage = {"part": "listen.quic", "code": "E_PORT", "reason": "it is taken", "fix": "Free it."}
    alert = {"state": "active", "name": "part-down", "peer_name": None}  # told by the outage itself
    daemon.answers |= {"status": STATUS | {"outages": [outage]}, "alerts": [alert]}
    assert "alert" not in meshctl("status").out
    assert "not running  listen.quic: it is taken. [E_PORT] Free it." in meshctl("status").out.splitlines()


def test_status_names_active_alerts(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    alerts = [("peer-down", "active", "attic"), ("disk-low", "active", None), ("clone", "resolved", "attic")]
    rows = [{"name": name, "state": state, "peer_name": peer} for name, state, peer in alerts]
    daemon.answers |= {"status": STATUS, "alerts": rows}
    shown = meshctl("status").out.splitlines()
    assert "alerts   peer-down (attic), disk-low. See: meshctl alerts --active" in shown
    assert meshctl("status", "--json").document == STATUS


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"mesh": None, "peers_up": 0, "peers_known": 0}, "Found one: meshctl init NAME. Or enter one: meshctl join"),
        ({"peers_up": 0, "peers_known": 0}, "meshctl invite"),
        ({"peers_up": 0}, "meshctl doctor"),
        ({"peers_up": 0, "removed": True}, "Coming back takes a new key"),
    ],
)
def test_status_says_what_to_do_next(meshctl: Meshctl, daemon: FakeDaemon, change: dict[str, Any], advice: str) -> None:
    daemon.answers |= {"status": STATUS | change, "alerts": []}
    assert advice in meshctl("status").out.splitlines()[-1]


def test_peers_are_a_table_with_units(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["peers"] = PEERS
    heading, attic, garage, _, hint = meshctl("peers").out.splitlines()
    assert " ".join(heading.split()) == "NAME STATE VIA RTT LOSS QUALITY BREAKER ADDRESS LAST ERROR ID"
    assert attic.split("  ", 1)[0] == "attic"
    for shown in ("up", "quic", "3.2 ms", "0.4 %", "excellent 93", "192.0.2.7:7843", ATTIC):
        assert shown in attic
    assert hint == "Why not, and what to do: meshctl why garage"
    assert "connection refused" in garage
    assert "open" in garage
    assert heading.index("ID") == attic.index(ATTIC) == garage.index("g" * 26)
    assert meshctl("peers", "--json").document == PEERS


def test_columns_that_say_nothing_are_left_out(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["peers"] = PEERS[:1]
    heading = meshctl("peers").out.splitlines()[0]
    assert "BREAKER" not in heading
    assert "LAST ERROR" not in heading


def test_peers_says_why_nobody_is_linked(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["peers"] = PEERS[1:]
    assert meshctl("peers").out.splitlines()[-1].endswith("meshctl doctor")


@pytest.mark.parametrize(("mesh", "advice"), [(None, "meshctl init NAME"), (STATUS["mesh"], "meshctl invite")])
def test_no_peers_says_perhaps_why(meshctl: Meshctl, daemon: FakeDaemon, mesh: object, advice: str) -> None:
    daemon.answers |= {"peers": [], "status": STATUS | {"mesh": mesh}}
    told = meshctl("peers")
    assert told.code == 0
    assert told.out.startswith("No peers.\n")
    assert advice in told.out
    assert meshctl("peers", "--json").document == []


def test_routes_are_a_table(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    row = {
        "destination": ATTIC,
        "name": "attic",
        "next_hop": KITCHEN,
        "next_hop_name": "kitchen",
        "metric": 34,
        "seqno": 7,
        "feasibility_distance": 30,
        "state": "selected",
    }
    daemon.answers["routes"] = [row]
    assert meshctl("routes").out.splitlines() == [
        "DESTINATION  STATE     NEXT HOP  METRIC  SEQNO  FEASIBLE BELOW",
        "attic        selected  kitchen   34      7      30",
    ]
    assert meshctl("routes", "--json").document == [row]
    daemon.answers["routes"] = []
    assert meshctl("routes").out.startswith("No routes.\n")


def test_the_queue_gives_its_reasons_in_words(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    row = {
        "destination": ATTIC,
        "name": "attic",
        "priority": "normal",
        "messages": 2,
        "bytes": 2048,
        "oldest_age_s": 190,
        "reason": "no-route",
    }
    daemon.answers["queue"] = [row, row | {"reason": "some_new-reason", "priority": 0}]
    assert meshctl("queue").out.splitlines() == [
        "FOR    PRIORITY  MESSAGES  SIZE     OLDEST  WHY",
        "attic  normal    2         2.0 KiB  3 min   no path to it now",
        "attic  critical  2         2.0 KiB  3 min   some new reason",
        "",
        "Why there is no path: meshctl why attic",
    ]
    assert meshctl("queue", "--json").document == daemon.answers["queue"]
    daemon.answers["queue"] = []
    assert meshctl("queue").out == "Nothing waits.\n"
    assert meshctl("queue", "--json").document == []


PING: dict[str, Any] = {
    "sent": 3,
    "received": 3,
    "rtt_ms": {"min": 0.4, "p50": 0.5, "p99": 1.25, "max": 1200},
    "path": ["kitchen", {"id": ATTIC, "name": "attic"}],
}


def test_ping_shows_times_and_path(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["ping"] = PING
    assert meshctl("ping", "attic", "--count", "3").out.splitlines() == [
        "attic: 3 of 3 answered",
        "round trip  min 0.4 ms, p50 0.5 ms, p99 1.2 ms, max 1.2 s",
        "path        kitchen > attic",
    ]
    assert daemon.arguments("ping") == {"destination": "attic", "count": 3, "timeout_s": 5.0}
    assert meshctl("ping", "attic", "--json", "--timeout", "0.5").document == PING
    assert daemon.asked[-1][1]["timeout_s"] == 0.5


def test_a_ping_without_a_path_says_where_to_look(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["ping"] = MeshdError("E_UNREACHABLE", "There is no path to the device now.")
    told = meshctl("ping", "attic", "--json")
    assert told.code == 1
    assert (told.error["message"], told.error["hint"]) == (
        "There is no path to attic now.",
        "See why: meshctl why attic",
    )


def test_a_ping_without_any_answer_times_out(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    nothing = {"sent": 3, "received": 0, "rtt_ms": None, "path": []}
    daemon.answers["ping"] = nothing
    told = meshctl("ping", "attic", "--json")
    assert (told.code, told.document, told.error["code"]) == (4, nothing, "E_TIMEOUT")
    assert meshctl("ping", "attic").out == "attic: 0 of 3 answered\n"


def test_trace_tells_a_life(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    life = {
        "id": MESSAGE_ID,
        "state": "delivered",
        "events": [
            {"at": 1_700_000_000.25, "device": "kitchen", "event": "accepted", "reason": None, "detail": None},
            {"at": 1_700_000_001, "device": "kitchen", "event": "waiting", "reason": "no-route", "detail": "attic"},
            {"at": "later", "device": "attic", "event": "delivered", "reason": None, "detail": "by hand"},
            {"at": 1e30, "device": None, "event": "odd", "reason": None, "detail": None},
        ],
    }
    daemon.answers["trace"] = life
    first, heading, accepted, waiting, delivered, odd = meshctl("trace", MESSAGE_ID).out.splitlines()
    assert first == f"{MESSAGE_ID}: delivered"
    assert heading.split() == ["WHEN", "EVENT", "DEVICE", "WHY"]
    assert ".250  accepted   kitchen" in accepted
    assert waiting.endswith("no path to it now (attic)")
    assert delivered.startswith("later ")
    assert delivered.endswith("by hand")
    assert odd.startswith("1e+30")
    assert daemon.arguments("trace") == {"id": MESSAGE_ID}
    assert meshctl("trace", MESSAGE_ID, "--json").document == life
    daemon.answers["trace"] = life | {"unasked": [{"device": "garage", "reason": "there is no path to it now"}]}
    shown = meshctl("trace", MESSAGE_ID).out.splitlines()
    assert shown[-1] == "  garage: there is no path to it now"
    assert "missing" in shown[-2]


def test_the_details_of_a_life_say_what_they_are(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    told = [
        ("sent", None, "attic over quic", "to attic over quic"),
        ("copied", "carrier", "attic", "a copy to attic"),
        ("carried", None, "kitchen", "a copy from kitchen, to carry"),
        ("arrived", None, "lights", "for the service lights"),
        ("expired", "lifetime", None, "its lifetime ended"),
    ]
    rows = [{"at": 1, "device": "d", "event": event, "reason": why, "detail": what} for event, why, what, _ in told]
    daemon.answers["trace"] = {"id": MESSAGE_ID, "state": "delivered", "events": rows}
    shown = meshctl("trace", MESSAGE_ID).out.splitlines()[2:]
    for line, (*_, words) in zip(shown, told, strict=True):
        assert line.endswith(f"  d       {words}")


def test_an_id_that_is_none_is_usage(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    told = meshctl("trace", "what")
    assert told.code == 2
    assert told.err.splitlines() == ["error: id: not a message id: 'what'. [E_USAGE]", "  See: meshctl trace --help"]


def accepted(_: object) -> dict[str, Any]:
    return {"ids": [MESSAGE_ID], "state": "accepted"}


def test_send_hands_over_a_text(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["send"] = accepted
    told = meshctl("send", "attic/alarms", "grüße", "--priority", "high", "--lifetime", "2h", "--key", "k1")
    assert (told.code, told.out) == (0, f"accepted  {MESSAGE_ID}\n")
    assert daemon.arguments("send") == {
        "destination": "attic",
        "service": "alarms",
        "messages": ("grüße".encode(),),
        "priority": 1,
        "lifetime_ms": 7_200_000,
        "ephemeral": False,
        "wait": "accepted",
        "key": "k1",
    }
    assert meshctl("send", "attic", "x", "--json").document == {"id": MESSAGE_ID, "state": "accepted"}
    assert daemon.asked[-1][1]["service"] == "default"
    assert daemon.asked[-1][1]["priority"] == 2


def test_send_reads_files_and_standard_input(meshctl: Meshctl, daemon: FakeDaemon, directory: Path) -> None:
    daemon.answers["send"] = accepted
    body = bytes(range(256)) * 4096
    (directory / "body").write_bytes(body)
    assert meshctl("send", "attic", "--file", str(directory / "body")).code == 0
    assert daemon.asked[-1][1]["messages"] == (body,)
    piped = [sys.executable, "-m", "meshd.cli", "--socket", str(daemon.path), "send", "attic", "-"]
    subprocess.run(piped, input=b"\xffpiped", stdout=subprocess.DEVNULL, check=True)
    assert daemon.asked[-1][1]["messages"] == (b"\xffpiped",)


def test_a_file_that_cannot_be_read_is_usage(meshctl: Meshctl, directory: Path) -> None:
    for path in (directory, directory / "none"):
        told = meshctl("send", "attic", "--file", str(path))
        assert told.code == 2
        assert f"Can't read {path}" in told.err


def test_over_one_mebibyte_is_too_large(meshctl: Meshctl, daemon: FakeDaemon, directory: Path) -> None:
    (directory / "body").write_bytes(b"x" * (1024 * 1024 + 1))
    told = meshctl("send", "attic", "--file", str(directory / "body"), "--json")
    assert (told.code, told.error["code"]) == (1, "E_TOO_LARGE")
    assert daemon.asked == []


def test_an_ephemeral_message_is_only_sent(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["send"] = {"ids": [MESSAGE_ID], "state": "sent"}
    assert meshctl("send", "attic", "x", "--ephemeral", "--json").document == {"id": MESSAGE_ID, "state": "sent"}
    asked = daemon.arguments("send")
    assert (asked["ephemeral"], asked["wait"]) == (True, "sent")


def test_send_waits_in_a_second_request(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"send": accepted, "await": {"id": MESSAGE_ID, "state": "consumed"}}
    told = meshctl("send", "attic", "x", "--wait", "delivered", "--json")
    assert told.document == {"id": MESSAGE_ID, "state": "consumed"}
    assert daemon.arguments("await") == {"id": MESSAGE_ID, "state": "delivered"}


def test_a_wait_that_times_out_names_the_message_that_was_accepted(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"send": accepted, "await": Silence()}
    told = meshctl("send", "attic", "x", "--wait", "consumed", "--timeout", "0.1", "--json")
    assert (told.code, told.out, told.error["code"]) == (4, "", "E_TIMEOUT")
    assert MESSAGE_ID in told.error["message"]
    assert f"meshctl trace {MESSAGE_ID}" in told.error["hint"]


def test_ctrl_c_in_a_wait_says_that_the_message_was_accepted(daemon: FakeDaemon) -> None:
    asked, answering = os.pipe()

    def told(_: dict[str, Any]) -> Silence:
        os.write(answering, b"x")
        return Silence()

    daemon.answers |= {"send": accepted, "await": told}
    command = [
        sys.executable,
        "-m",
        "meshd.cli",
        "--socket",
        str(daemon.path),
        "send",
        "attic",
        "x",
        "--wait",
        "consumed",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.read(asked, 1)  # it waits now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == f"Message {MESSAGE_ID} was accepted, and will be delivered. Follow it: meshctl trace {MESSAGE_ID}\n"
    os.close(asked)
    os.close(answering)


@pytest.mark.parametrize("code", ["E_REFUSED", "E_EXPIRED"])
def test_a_message_that_ends_badly_exits_1(meshctl: Meshctl, daemon: FakeDaemon, code: str) -> None:
    daemon.answers |= {"send": accepted, "await": MeshdError(code, "So it ended.")}
    told = meshctl("send", "attic", "x", "--wait", "delivered", "--json")
    assert (told.code, told.error["code"]) == (1, code)
    assert told.error["message"] == f"Message {MESSAGE_ID}: So it ended."


@pytest.mark.parametrize(
    ("end", "code"), [(Raw(b""), "E_NO_DAEMON"), (MeshdError("E_STOPPING", "The daemon is stopping."), "E_STOPPING")]
)
def test_a_daemon_that_ends_in_a_wait_has_accepted_the_message_all_the_same(
    meshctl: Meshctl, daemon: FakeDaemon, end: Answer, code: str
) -> None:
    daemon.answers |= {"send": accepted, "await": end}
    told = meshctl("send", "attic", "x", "--wait", "consumed", "--json")
    assert (told.code, told.out, told.error["code"]) == (EXIT_CODES.get(code, 1), "", code)
    assert told.error["message"].startswith(f"Message {MESSAGE_ID} was accepted, ")
    assert "Don't send it again" in told.error["hint"]
    assert f"meshctl trace {MESSAGE_ID}" in told.error["hint"]


def test_a_send_without_an_answer_says_that_its_outcome_is_unknown(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["send"] = Silence()
    told = meshctl("send", "attic", "x", "--timeout", "0.05")
    assert told.code == 4
    assert "is unknown" in told.err
    assert "--key" in told.err


def test_a_token_is_printed_alone_so_that_a_script_can_take_it(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["token-create"] = {"name": "shell", "token": "meshd_abc", "created": "2026-11-22T10:00:00.000Z"}
    assert meshctl("token", "create", "shell").out == "meshd_abc\n"
    assert daemon.arguments("token-create") == {"name": "shell"}
    assert meshctl("token", "create", "shell", "--json").document == daemon.answers["token-create"]


def test_tokens_are_listed_and_revoked(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["tokens"] = []
    assert "meshctl token create" in meshctl("token", "list").out
    daemon.answers["tokens"] = [{"name": "shell", "created": "2026-11-22T10:00:00.000Z"}]
    assert meshctl("token", "list").out.splitlines()[1].split() == ["shell", "2026-11-22T10:00:00.000Z"]
    assert meshctl("token", "list", "--json").document == daemon.answers["tokens"]
    daemon.answers["token-revoke"] = {"name": "shell"}
    assert "shell" in meshctl("token", "revoke", "shell").out
    assert daemon.arguments("token-revoke") == {"name": "shell"}
