"""``doctor``: its document, its text, and what it says when there is no daemon to ask."""

from pathlib import Path

from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon

FOUND = [
    {"check": "disk", "verdict": "ok", "detail": "900 MiB free", "fix": ""},
    {
        "check": "udp-in",
        "verdict": "fail",
        "detail": "nothing gets through: b\x1b[2J",
        "fix": "sudo ufw allow 7843/udp",
    },
    {"check": "clock", "verdict": "warn", "detail": "2 d ahead", "fix": "sudo timedatectl set-ntp true"},
]
DAEMON = {"check": "daemon", "verdict": "ok", "detail": "meshd runs and answers", "fix": ""}


def test_findings_are_lines_with_their_fixes(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = FOUND
    assert meshctl("doctor").out.splitlines() == [
        "ok    daemon  meshd runs and answers",
        "ok    disk    900 MiB free",
        "fail  udp-in  nothing gets through: b\\x1b[2J",
        "              fix: sudo ufw allow 7843/udp",
        "warn  clock   2 d ahead",
        "              fix: sudo timedatectl set-ntp true",
        "",
        '1 fault and 1 warning. What they mean: docs/troubleshoot.md, section "What the doctor says".',
    ]
    assert meshctl("doctor", "--json").document == [DAEMON, *FOUND]


def test_nothing_wrong_is_said(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = FOUND[:1]
    told = meshctl("doctor")
    assert (told.code, told.out.splitlines()[-1]) == (0, "Nothing is wrong.")


def test_no_daemon_is_a_finding_too(meshctl: Meshctl, directory: Path) -> None:
    told = meshctl("doctor", "--json")
    assert (told.code, told.error["code"]) == (3, "E_NO_DAEMON")
    [finding] = told.document
    assert (finding["check"], finding["verdict"]) == ("daemon", "fail")
    assert str(directory) in finding["detail"]
    assert "systemctl start meshd" in finding["fix"]
    (directory / "meshd.sock").mkdir()
    told = meshctl("doctor")
    assert (told.code, told.err) == (3, "")  # it is said once
    assert "fail  daemon" in told.out
    assert "[E_NO_DAEMON]" in told.out
