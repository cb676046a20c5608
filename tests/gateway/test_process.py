"""The process: what it loads with and without the gateway, its socket, and a port that is taken."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.daemon import START_S, Daemon, command, daemon

_LOADED = """
import atexit, json, sys
from meshd import daemon
atexit.register(lambda: print("LOADED", json.dumps(sorted(sys.modules)), flush=True))
sys.argv = ["meshd", *{arguments!r}]
daemon.main()
"""


def loaded(root: Path, *, enabled: bool) -> set[str]:
    """The modules of a daemon that has started and stopped."""
    _, _, *arguments = command(root, enabled=enabled)
    program = _LOADED.format(arguments=arguments)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stdout is not None
    with process, process.stderr, process.stdout:
        line = b""
        while b'"running"' not in line:
            line = process.stderr.readline()
            assert line, "it ended"
        process.terminate()
        out = process.stdout.read().decode()
        assert process.wait(START_S) == 0
    return set(json.loads(out.partition("LOADED ")[2]))


def test_a_daemon_without_the_gateway_loads_nothing_of_it(root: Path) -> None:
    parts = {"meshd.http", "hypercorn", "starlette", "h2", "meshd.http.gateway"}
    without = loaded(root, enabled=False)
    assert "meshd.api.server" in without
    assert without & parts == set()
    assert loaded(root, enabled=True) >= parts


def test_its_socket_is_as_protected_as_the_native_one(running: Daemon) -> None:
    ours, native = os.stat(running.http_socket), os.stat(running.native_socket)
    assert stat.S_ISSOCK(ours.st_mode)
    assert (ours.st_mode, ours.st_uid, ours.st_gid) == (native.st_mode, native.st_uid, native.st_gid)


def test_the_socket_is_gone_after_the_end(root: Path) -> None:
    with daemon(root) as started:
        assert started.http_socket.exists()
        assert started.stop() == 0
        assert not started.http_socket.exists()


def test_without_it_there_is_no_socket(root: Path) -> None:
    with daemon(root, enabled=False) as started:
        assert not started.http_socket.exists()
        assert started.url == ""
        assert started.stop() == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs proc(5)")
def test_many_requests_leave_nothing_behind(running: Daemon) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{running.process.pid}/fd"))

    before = open_files()
    for _ in range(50):
        with running.over_unix() as client:
            assert client.get("/v1/status").status_code == 200
            client.get("/v1/receive/nothing", params={"wait_s": 0, "lease_s": 0})
    with running.over_unix() as client:
        assert client.get("/readyz").status_code == 200
    assert open_files() <= before + 4
