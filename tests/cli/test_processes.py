"""Daemons as child processes: ready when they say so, and never left behind."""

import os
import sys
from pathlib import Path

import pytest

from meshd.cli.processes import Daemon
from meshd.errors import MeshdError

READY = """
import os, signal, socket, sys
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text, os.environ["NOTIFY_SOCKET"])
print(*sys.argv[1:], *sorted(name for name in os.environ if name.startswith("MESHD_")), flush=True)
"""
OBEYS = READY + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); tell(b'STATUS=up\\nREADY=1'); signal.pause()"
STOPS_BADLY = READY + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); tell(b'READY=1'); signal.pause()"
SPEAKS_TOO_SOON = READY + "tell(b'STATUS=starting'); sys.exit(7)"


def child(directory: Path, program: str) -> Daemon:
    return Daemon("kitchen", directory / "kitchen", (sys.executable, "-c", program))


def test_it_is_started_with_its_own_directories_and_stopped_cleanly(directory: Path) -> None:
    os.environ["MESHD_LISTEN_QUIC"] = "[::]:1"  # what configures the user's daemon is not for this one
    try:
        daemon = child(directory, OBEYS)
        daemon.start()
        daemon.stop()
        daemon.start()  # as often as one likes, on the same state
        daemon.stop()
    finally:
        del os.environ["MESHD_LISTEN_QUIC"]
    home = directory / "kitchen"
    options = f"--state-dir {home}/state --runtime-dir {home}/run --name kitchen --config {home}/meshd.toml"
    assert daemon.log_tail() == [options, options]
    assert daemon.socket_path == home / "run" / "meshd.sock"


def test_one_that_ends_before_it_is_ready_is_an_error_at_once(directory: Path) -> None:
    daemon = child(directory, SPEAKS_TOO_SOON)
    with pytest.raises(MeshdError, match="ended at once, with exit code 7"):
        daemon.start()
    daemon.abandon()


@pytest.mark.parametrize("place", ["a-long-name" * 10, "/proc/demo"])
def test_a_place_where_it_can_not_live_is_named(directory: Path, place: str) -> None:
    daemon = child(directory / place, OBEYS)
    with pytest.raises(MeshdError, match="can't be used") as caught:
        daemon.start()
    assert caught.value.code == "E_STATE_DIR"
    assert "TMPDIR" in caught.value.hint


def test_an_unclean_end_is_an_error(directory: Path) -> None:
    daemon = child(directory, STOPS_BADLY)
    daemon.start()
    with pytest.raises(MeshdError, match="exit code 9"):
        daemon.stop()


def test_abandoning_ends_it_whatever_its_exit_code(directory: Path) -> None:
    daemon = child(directory, STOPS_BADLY)
    daemon.start()
    daemon.abandon()
    daemon.abandon()
    daemon.stop()  # nothing to stop any more


def test_without_a_start_there_is_no_log(directory: Path) -> None:
    assert child(directory, OBEYS).log_tail() == []
