"""What is shown while something takes its time: on a terminal only, and not for long."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.daemon import FakeDaemon


def slow(_: object) -> list[dict[str, str]]:
    time.sleep(2.5)
    return [{"check": "disk", "verdict": "ok", "detail": "fine", "fix": ""}]


def meshctl(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "meshd.cli", "--socket", str(path), *arguments]


def test_on_a_terminal_a_long_wait_is_told_and_wiped_away(daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = slow
    main, terminal = pty.openpty()
    process = subprocess.Popen(meshctl(daemon.path, "doctor"), stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while data := os.read(main, 65536):
            shown += data
    except OSError:  # how a terminal says that the other end is closed
        pass
    os.close(main)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert b"fine" in out
    assert b"Examining this device" in shown
    assert b"... 1 s" in shown
    assert b"... 2 s" in shown
    assert shown.endswith(b"\r\x1b[K")


def test_elsewhere_nothing_is_shown(daemon: FakeDaemon) -> None:
    daemon.answers["doctor"] = slow
    done = subprocess.run(meshctl(daemon.path, "doctor"), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_quick_answer_draws_nothing(daemon: FakeDaemon) -> None:
    daemon.answers["graph"] = {"nodes": [], "edges": []}
    main, terminal = pty.openpty()
    done = subprocess.run(meshctl(daemon.path, "graph", "--json"), stdout=subprocess.PIPE, stderr=terminal, check=False)
    os.write(terminal, b".")
    assert (done.returncode, os.read(main, 100)) == (0, b".")
    os.close(terminal)
    os.close(main)
