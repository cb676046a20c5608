"""The other ways to install: as a tool of one user, from the built wheel, in a home with nothing in it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshd import __version__
from tests.system.conftest import PROJECT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

PIPX = "pipx==1.8.0"


@pytest.fixture(scope="module")
def wheel(directory: Path, uv: str) -> Path:
    run([uv, "build", "--quiet", "--wheel", "--out-dir", str(directory / "wheel"), str(PROJECT)], os.environ)
    (built,) = (directory / "wheel").glob("meshd-*.whl")
    return built


def run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose home is empty."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "VIRTUAL_ENV"))}
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    return kept | {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(runtime), "UV_PYTHON_DOWNLOADS": "never"}


def check(programs: Path, home: dict[str, str], tmp_path: Path) -> None:
    """Both commands run: the daemon until it is ready, and meshctl finds it, with no argument given to either.

    Then the device founds a mesh and sends to itself.
    """
    found = sorted(path.name for path in programs.iterdir() if path.name.startswith("mesh"))
    assert found == ["meshctl", "meshd", "meshd-relay"]
    for name in found:
        assert run([str(programs / name), "--version"], home) == f"{name} {__version__}\n"
    notify_path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(notify_path))
        notify.settimeout(30)
        settings = {"MESHD_LISTEN_QUIC": "127.0.0.1:0", "MESHD_LISTEN_WEBSOCKET": "127.0.0.1:0"}
        settings |= {"MESHD_DISCOVERY_MDNS": "false", "NOTIFY_SOCKET": str(notify_path)}
        with subprocess.Popen([programs / "meshd"], env=home | settings, stderr=subprocess.DEVNULL) as daemon:
            try:
                assert notify.recv(4096) == b"READY=1"
                meshctl = str(programs / "meshctl")
                assert "This device is in no mesh yet." in run([meshctl, "status"], home)
                device = json.loads(run([meshctl, "--json", "init", "home"], home))["device"]["id"]
                run([meshctl, "send", "--wait", "delivered", f"{device}/letters", "to myself"], home)
                received = json.loads(run([meshctl, "--json", "receive", "letters", "--count", "1"], home))
                assert (received["source"], received["payload"]) == (device, "to myself")
            finally:
                daemon.terminate()
        assert daemon.returncode == 0
    assert (Path(home["HOME"]) / ".local/state/meshd/identity.key").exists()


def test_uv_tool_install(wheel: Path, uv: str, home: dict[str, str], tmp_path: Path) -> None:
    cache = run([uv, "cache", "dir"], os.environ).strip()
    run([uv, "tool", "install", "--quiet", "--python", sys.executable, str(wheel)], home | {"UV_CACHE_DIR": cache})
    check(Path(home["HOME"]) / ".local/bin", home, tmp_path)


def test_pipx_install(wheel: Path, uv: str, home: dict[str, str], tmp_path: Path) -> None:
    run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(tmp_path / "pipx")], os.environ)
    run([str(tmp_path / "pipx/bin/pip"), "install", "--quiet", PIPX], os.environ)
    run([str(tmp_path / "pipx/bin/pipx"), "install", "--quiet", "--python", sys.executable, str(wheel)], home)
    check(Path(home["HOME"]) / ".local/bin", home, tmp_path)
