"""The command tree, exit codes, errors for people and for scripts."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from meshd.cli.app import COMMANDS
from meshd.cli.app import meshctl as tree
from meshd.errors import CATALOGUE, MeshdError
from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon, Raw, Silence, Stream

CONTRACT = (
    *("init", "invite", "join", "members", "remove", "status", "peers", "routes"),
    *("send", "receive", "queue", "trace", "ping", "errors", "demo"),
    *(
        "why",
        "graph",
        "events",
        "breaker",
        "config",
        "doctor",
        "support-bundle",
        "relay",
        "metrics",
        "alerts",
        "token",
        "log",
    ),
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshd.cli", *arguments]


def test_every_command_of_the_contract_exists_and_no_other() -> None:
    assert sorted(COMMANDS) == sorted(CONTRACT)


@pytest.mark.parametrize(
    "path",
    [
        (),
        *((name,) for name in CONTRACT),
        ("errors", "lookup"),
        ("breaker", "reset"),
        ("config", "show"),
        ("config", "check"),
        ("relay", "add"),
    ],
)
def test_every_command_explains_itself(meshctl: Meshctl, path: tuple[str, ...]) -> None:
    shown = meshctl(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(" ".join(("Usage: meshctl", *path)))


@pytest.mark.parametrize("name", CONTRACT)
def test_the_first_line_of_help_is_a_sentence(name: str) -> None:
    found = tree.get_command(click.Context(tree), name)
    assert found is not None
    assert found.help
    first = found.help.split("\n\n")[0]
    assert first.endswith(".")


@pytest.mark.parametrize("arguments", [(), ("errors",), ("breaker",), ("config",), ("relay",)])
def test_without_a_command_the_help_is_shown(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(" ".join(("Usage: meshctl", *arguments)))
    assert "E_USAGE" not in done.stderr


def test_no_summary_of_a_command_is_cut_short(meshctl: Meshctl) -> None:
    assert "..." not in meshctl("--help").out.partition("Commands:")[2]


def test_the_version_is_told(meshctl: Meshctl) -> None:
    assert meshctl("--version").out == "meshctl 0.1.0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("status", "--bogus"),
        ("init",),
        ("ping", "kitchen", "--count", "0"),
        ("invite", "--expires", "soon"),
        ("--timeout", "0", "status"),
        ("--timeout", "nan", "status"),
        ("--timeout", "inf", "status"),
        ("--timeout", "soon", "status"),
        ("send", "kitchen", "hello", "--priority", "urgent"),
        ("send", "kitchen"),
        ("send", "/alarms", "hello"),
        ("send", "kitchen/", "hello"),
        ("send", "kitchen", "hello", "--file", "x"),
        ("send", "kitchen", "hello", "--ephemeral", "--wait", "delivered"),
        ("receive", "--count", "1", "--follow"),
        ("errors", "lookup", "E_NOTHING_LIKE_IT"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_read(meshctl: Meshctl, arguments: tuple[str, ...]) -> None:
    for_people = meshctl(*arguments)
    assert (for_people.code, for_people.out) == (2, "")
    assert "[E_USAGE]" in for_people.err
    for_scripts = meshctl(*arguments, "--json")
    assert (for_scripts.code, for_scripts.out) == (2, "")
    assert for_scripts.error["code"] == "E_USAGE"
    assert for_scripts.error["hint"]


def test_without_a_daemon_it_exits_3_and_names_the_socket_and_how_to_start_one(
    meshctl: Meshctl, directory: Path
) -> None:
    for_people = meshctl("status")
    assert (for_people.code, for_people.out) == (3, "")
    assert str(directory / "meshd.sock") in for_people.err
    assert "systemctl start meshd" in for_people.err
    for_scripts = meshctl("--json", "status")
    assert for_scripts.code == 3
    assert for_scripts.error["code"] == "E_NO_DAEMON"


def test_a_refusal_exits_1_with_code_reason_and_advice(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["members"] = MeshdError("E_NO_MESH", "This device belongs to no mesh yet.")
    for_people = meshctl("members")
    assert for_people.code == 1
    assert for_people.err.splitlines() == [
        "error: This device belongs to no mesh yet. [E_NO_MESH]",
        f"  {CATALOGUE['E_NO_MESH'].advice}",
    ]
    assert meshctl("members", "--json").error == {
        "code": "E_NO_MESH",
        "message": "This device belongs to no mesh yet.",
        "hint": CATALOGUE["E_NO_MESH"].advice,
    }


def test_no_answer_in_time_exits_4(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = Silence()
    assert meshctl("--timeout", "0.05", "status").code == 4
    assert meshctl("status", "--timeout", "0.05", "--json").error["code"] == "E_TIMEOUT"


GARBAGE = (
    *(None, 7, "text", b"\x00", [], {}, [7], [{}], [None]),
    {"id": 7, "state": None, "events": [{"at": "x"}], "mesh": 3, "device": [], "code": b"", "ids": [1]},
)
ASKING = (
    *(("init", "home"), ("invite",), ("join", "code"), ("members",), ("remove", "attic"), ("status",), ("peers",)),
    *(("routes",), ("queue",), ("ping", "attic"), ("trace", "a" * 16 + "-0"), ("send", "attic", "hello")),
    *(("send", "attic", "hello", "--wait", "delivered"), ("receive",)),
)


@pytest.mark.parametrize("arguments", ASKING, ids=" ".join)
def test_a_nonsensical_answer_is_an_error_and_never_a_traceback(
    meshctl: Meshctl, daemon: FakeDaemon, arguments: tuple[str, ...]
) -> None:
    for garbage in GARBAGE:
        whatever = Stream((garbage,)) if arguments == ("receive",) else garbage
        daemon.answers.update(dict.fromkeys(OPERATIONS, whatever))
        for options in ((), ("--json",)):
            outcome = meshctl("--timeout", "2", *arguments, *options)
            assert outcome.code in (0, 1, 4)
            assert outcome.code == 0 or outcome.err


OPERATIONS = (
    *("init", "invite", "join", "members", "remove", "status", "peers", "routes"),
    *("queue", "ping", "trace", "send", "await", "subscribe", "ack"),
)


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x00\x00\x00\x01\xff", b"\x00\x00\x00\x04HTTP"])
def test_bytes_that_are_no_answer_are_an_error_and_never_a_traceback(
    meshctl: Meshctl, daemon: FakeDaemon, data: bytes
) -> None:
    daemon.answers["status"] = Raw(data)
    outcome = meshctl("status", "--json")
    assert outcome.code in (1, 3)
    assert outcome.error["message"]


DEFECT = "import sys; from meshd.cli import app; app.COMMANDS['init'] = 'math'; sys.exit(app.run(['init', 'home']))"
"""A module that holds no such command stands for any defect."""


def test_a_defect_is_one_line_and_the_details_come_on_request() -> None:
    for debug, traced in (("", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", DEFECT],
            env=os.environ | {"MESHD_DEBUG": debug},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "error: meshctl failed: AttributeError: " in done.stderr
        assert "[E_INTERNAL]" in done.stderr
        assert ("Traceback" in done.stderr) is traced


PRINTING = [("errors", "lookup", "E_BUSY"), ("--help",), ("--version",), ("status", "--help"), ("errors", "--help")]


@pytest.mark.parametrize("arguments", PRINTING)
def test_output_that_cannot_be_written_is_an_error(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Can't write the output: No space left on device. [E_OUTPUT]")


def run_in_shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run meshctl with a redirection of the shell's."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*arguments)]
    return subprocess.run(shell, capture_output=True, env=os.environ | environment, check=False)


@pytest.mark.parametrize("arguments", PRINTING)
def test_output_that_nobody_reads_any_more_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(*arguments), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_closed_streams_are_errors_and_never_a_defect(daemon: FakeDaemon) -> None:
    socket = ("--socket", str(daemon.path))
    for arguments in PRINTING:
        out = run_in_shell(">&-", *arguments)
        assert (out.returncode, out.stderr.splitlines()[0][-10:]) == (1, b"[E_OUTPUT]")
    into = run_in_shell("<&-", *socket, "send", "attic", "-")
    assert (into.returncode, into.stderr[:32]) == (2, b"error: Can't read standard input")
    assert run_in_shell("2>&-", "errors", "lookup", "nothing").returncode == 2


def test_what_the_locale_has_no_letters_for_is_escaped() -> None:
    assert b"meshctl" in run_in_shell("", "--help", PYTHONIOENCODING="ascii").stdout
    program = "from meshd.cli import main, screen; import sys; sys.argv[1:] = ['--version']\ntry: main()\nfinally: "
    script = program + "screen.line('\u20ac \xe4')"
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    assert done.stdout.splitlines()[1] == b"\\u20ac \xe4"


def test_bytes_that_are_no_text_are_wrong_usage(daemon: FakeDaemon) -> None:
    done = run_in_shell("", "--socket", str(daemon.path), "ping", os.fsdecode(b"na\xffme"))
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: What was typed is not UTF-8: 'na")


HEAVY = {"anyio", "apsw", "asyncio", "cattrs", "cryptography", "rich", "segno", "structlog", "trio", "zstandard"}
IMPORTED = """
import sys
from meshd.cli.app import run
run(["--socket", sys.argv[1], "status", "--json"])
print(*{name.split(".")[0] for name in sys.modules}, *(name for name in sys.modules if name.startswith("meshd.")))
"""


def test_a_plain_command_imports_nothing_heavy(daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {}
    done = subprocess.run([sys.executable, "-c", IMPORTED, daemon.path], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[1].split())
    assert "meshd.client.blocking" in imported
    assert not imported & HEAVY
    assert not any(name.startswith(("meshd.node", "meshd.store", "meshd.cli.demo")) for name in imported)


def test_ctrl_c_exits_130_without_a_word(directory: Path, daemon: FakeDaemon) -> None:
    asked, answering = os.pipe()

    def told(_: dict[str, object]) -> Silence:
        os.write(answering, b"x")
        return Silence()

    daemon.answers["status"] = told
    process = subprocess.Popen(
        command("--socket", str(daemon.path), "status"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    os.read(asked, 1)  # meshctl waits for the answer now
    process.send_signal(signal.SIGINT)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 130
    os.close(asked)
    os.close(answering)


def test_a_reader_that_goes_away_ends_it_quietly(daemon: FakeDaemon) -> None:
    daemon.answers["members"] = [
        {"id": "a" * 26, "name": f"device-{n}", "role": "member", "state": "active"} for n in range(5000)
    ]
    process = subprocess.Popen(
        command("--socket", str(daemon.path), "members"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    """What a command writes to a terminal of 120 columns."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"} | environment,
    )
    os.close(terminal)
    written = b""
    try:
        while data := os.read(main, 65536):
            written += data
    except OSError:  # how a terminal says that the other end is closed
        pass
    os.close(main)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    return written.decode()


def test_an_invitation_on_a_terminal_has_a_qr_code_and_colour_only_if_wanted(
    meshctl: Meshctl, daemon: FakeDaemon
) -> None:
    daemon.answers["invite"] = {"code": "meshd-" + "a2" * 80, "expires_in_s": 600}
    arguments = command("--socket", str(daemon.path), "invite")
    coloured = on_a_terminal(arguments, NO_COLOR="")
    assert "\N{UPPER HALF BLOCK}" in coloured
    assert "\x1b[1mmeshctl join" in coloured
    plain = on_a_terminal(arguments, NO_COLOR="1")
    assert "\x1b[1m" not in plain
    assert "meshctl join" in plain
    narrow = on_a_terminal(arguments, NO_COLOR="1", COLUMNS="20")
    assert "\N{UPPER HALF BLOCK}" not in narrow
    piped = meshctl("invite").out
    assert "\x1b" not in piped
    assert "\N{UPPER HALF BLOCK}" not in piped


def test_a_narrow_terminal_goes_without_what_matters_least(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    row = {"id": "a" * 26, "name": "attic", "state": "down", "address": "quic://192.0.2.1:7843", "breaker": "closed"}
    daemon.answers["peers"] = [row | {"last_error": "quic://192.0.2.1:7843: no answer within 10 s, and so on and on"}]
    shown = on_a_terminal(command("--socket", str(daemon.path), "peers"), NO_COLOR="1", COLUMNS="60").splitlines()
    assert shown[0].split() == ["NAME", "STATE", "LAST", "ERROR"]
    assert [line.strip() for line in shown[1:3]] == [
        "attic  down   quic://192.0.2.1:7843: no answer within 10 s,",
        "and so on and on",
    ]
    assert shown[2].index("and") == shown[0].index("LAST")
    wide = on_a_terminal(command("--socket", str(daemon.path), "peers"), NO_COLOR="1", COLUMNS="160").splitlines()
    assert wide[0].split() == ["NAME", "STATE", "ADDRESS", "LAST", "ERROR", "ID"]
    assert "ID" in meshctl("peers").out.splitlines()[0]


def test_text_of_other_devices_cannot_command_the_terminal(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["peers"] = [{"id": "a" * 26, "name": "evil", "state": "down", "last_error": "\x1b[2J\x07\u202e"}]
    shown = meshctl("peers").out
    assert "\\x1b[2J\\x07\\u202e" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_error_code_can_be_looked_up(meshctl: Meshctl, code: str) -> None:
    told = json.loads(meshctl("errors", "lookup", code.lower(), "--json").out)
    assert told == {"code": code, "meaning": CATALOGUE[code].meaning, "advice": CATALOGUE[code].advice}
    assert CATALOGUE[code].meaning in meshctl("errors", "lookup", code).out


def test_a_code_that_is_mistyped_gets_a_suggestion(meshctl: Meshctl) -> None:
    assert "E_NO_MESH" in meshctl("errors", "lookup", "E_NOMESH").err
