"""The units under a real systemd: start, stop, crash, hang, permissions, and bad days at boot."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.netlab.lab import eventually
from tests.system.machine import Failed, Machine, pair, wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

MOST_EXPOSED = 1.5


def restart(device: Machine, drop_in: str = "") -> None:
    """Restart the daemon with a drop-in, or without one."""
    device.run("mkdir", "-p", "/run/systemd/system/meshd.service.d")
    device.run("tee", "/run/systemd/system/meshd.service.d/test.conf", stdin=drop_in)
    device.run("systemctl", "daemon-reload")
    device.run("systemctl", "reset-failed", "meshd")
    device.run("systemctl", "restart", "meshd")


def send_signal(device: Machine, name: str, pid: str) -> None:
    device.run("sh", "-c", f"kill -{name} {pid}")  # the shell's own: a small Debian has no other


def main_pid(device: Machine) -> str:
    return device.property("meshd", "MainPID")


def restarts(device: Machine) -> int:
    return int(device.property("meshd", "NRestarts"))


def status(device: Machine, user: str | None = None) -> dict[str, object]:
    document = json.loads(device.run("meshctl", "--json", "status", user=user))
    assert isinstance(document, dict)
    return document


def test_nothing_to_complain_about(device: Machine) -> None:
    for unit in ("meshd.service", "meshd-relay.service"):
        assert device.run("systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{unit}") == ""
    # verify wants a runtime directory, which root has no session for here
    user = ["env", "XDG_RUNTIME_DIR=/run", "systemd-analyze", "--user", "verify", "--man=no"]
    assert device.run(*user, "/usr/lib/systemd/user/meshd.service") == ""


@pytest.mark.parametrize("unit", ["meshd.service", "meshd-relay.service"])
def test_exposure(device: Machine, unit: str) -> None:
    shown = device.run("systemd-analyze", "security", "--offline=true", f"/usr/lib/systemd/system/{unit}")
    found = re.search(rf"Overall exposure level for {unit}: ([0-9.]+)", shown)
    assert found is not None, shown
    assert float(found[1]) <= MOST_EXPOSED, shown


def test_it_runs_as_its_user_from_the_first_boot(device: Machine) -> None:
    assert device.property("meshd", "ActiveState") == "active"
    assert device.property("meshd", "UnitFileState") == "enabled"
    process = device.path(f"/proc/{main_pid(device)}/status").read_text()
    uid = device.run("id", "--user", "meshd").strip()
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", process, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", process, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", process, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)
    assert device.run("stat", "--format=%U:%G %a", "/var/lib/meshd", "/run/meshd", "/run/meshd/meshd.sock").split("\n")[
        :3
    ] == ["meshd:meshd 700", "meshd:meshd 750", "meshd:meshd 660"]


def test_stop_and_start(device: Machine) -> None:
    identity = status(device)["device"]
    begun = time.monotonic()
    device.run("systemctl", "stop", "meshd")
    assert time.monotonic() - begun < float(device.property("meshd", "TimeoutStopUSec").removesuffix("s"))
    assert device.property("meshd", "Result") == "success"
    assert device.property("meshd", "ExecMainStatus") == "0"
    with pytest.raises(Failed, match="exit 3"):
        device.run("meshctl", "status")
    device.run("systemctl", "start", "meshd")  # returns at READY=1: the socket answers from then on
    assert status(device)["device"] == identity


def test_the_relay_is_off_until_it_is_enabled_and_then_has_port_443_and_nothing_else(device: Machine) -> None:
    assert device.property("meshd-relay", "ActiveState") == "inactive"
    assert device.property("meshd-relay", "UnitFileState") == "disabled"
    device.run("systemctl", "start", "meshd-relay")
    try:
        pid = device.property("meshd-relay", "MainPID")
        process = device.path(f"/proc/{pid}/status").read_text()
        assert re.search(r"^CapEff:\t0*400$", process, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", process, re.MULTILINE)
    finally:
        device.run("systemctl", "stop", "meshd-relay")
    assert device.property("meshd-relay", "Result") == "success"


def test_reload(device: Machine) -> None:
    pid = main_pid(device)
    device.run("systemctl", "reload", "meshd")
    eventually(lambda: "reloaded reloaded=" in device.log(), within_s=10, what="the log says so")
    assert main_pid(device) == pid


def test_a_crash_is_followed_by_a_restart(device: Machine) -> None:
    restart(device)
    before = main_pid(device)
    send_signal(device, "SEGV", before)
    eventually(lambda: restarts(device) == 1 and main_pid(device) not in {before, "0"}, within_s=30, what="a restart")
    eventually(lambda: device.property("meshd", "ActiveState") == "active", within_s=30, what="ready again")
    assert status(device)["mesh"] is None


def test_the_watchdog_kills_a_process_that_hangs_and_no_other(device: Machine) -> None:
    restart(device, "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n")
    wait_for(7)  # longer than two periods, with nothing to do
    assert restarts(device) == 0
    before = main_pid(device)
    send_signal(device, "STOP", before)
    eventually(lambda: restarts(device) == 1, within_s=30, what="a restart")
    assert "Watchdog timeout" in device.log()
    assert not device.path(f"/proc/{before}").exists()
    eventually(lambda: device.property("meshd", "ActiveState") == "active", within_s=30, what="ready again")
    restart(device)


_WATCHED = """
import sys, trio
from meshd.service import watchdog

async def run(turns):
    with trio.move_on_after(1):
        await watchdog(lambda: next(turns), lambda: None)

trio.run(run, iter(range(100)) if sys.argv[1] == "turning" else iter([7] * 100))
"""


@pytest.mark.parametrize(("node", "answers"), [("turning", True), ("stuck", False)])
def test_the_watchdog_is_answered_for_the_node_and_not_for_the_process(
    node: str, answers: bool, tmp_path: Path
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.setblocking(False)
        environment = os.environ | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        environment.pop("WATCHDOG_PID", None)
        subprocess.run([sys.executable, "-c", _WATCHED, node], env=environment, check=True, timeout=60)
        heard: list[bytes] = []
        while not heard or heard[-1]:
            try:
                heard.append(notify.recv(4096))
            except BlockingIOError:
                heard.append(b"")
    assert (b"WATCHDOG=1" in heard) == answers


def test_a_wrong_configuration_is_said_once_and_not_tried_again(installed: Path) -> None:
    with Machine(installed, "alpha") as device:
        device.run("tee", "/etc/meshd/meshd.toml", stdin='[store]\nquta = "1GiB"\n')
        device.run("systemctl", "restart", "meshd", check=False)
        assert device.property("meshd", "ActiveState") == "failed"
        assert device.property("meshd", "ExecMainStatus") == "2"
        assert restarts(device) == 0
        assert "Did you mean store.quota?" in device.log()


def test_who_may_use_the_socket(installed: Path) -> None:
    with Machine(installed, "alpha") as device:
        device.run("useradd", "--create-home", "--groups", "meshd", "anna")
        device.run("useradd", "--create-home", "bert")
        assert status(device, user="anna")["version"]
        with pytest.raises(Failed, match="sudo usermod -aG meshd"):
            device.run("meshctl", "status", user="bert")
        with pytest.raises(Failed, match="Permission denied"):
            device.run("ls", "/var/lib/meshd", user="anna")
        device.run("usermod", "--append", "--groups", "meshd", "bert")
        assert status(device, user="bert")["version"]


def test_the_socket_can_belong_to_another_group(installed: Path) -> None:
    with Machine(installed, "alpha") as device:
        device.run("groupadd", "apps")
        device.run("useradd", "--create-home", "--groups", "apps", "carl")
        device.run("tee", "/etc/meshd/meshd.toml", stdin='[api]\ngroup = "apps"\n')
        restart(device, "[Service]\nSupplementaryGroups=apps\nRuntimeDirectoryMode=0755\n")
        assert status(device, user="carl")["version"]


def test_a_read_only_root(installed: Path) -> None:
    with Machine(installed, "alpha", read_only=True) as device:
        with pytest.raises(Failed, match="Read-only file system"):
            device.run("touch", "/etc/meshd/written")
        # without its disk it must not begin as a new device
        assert "var-lib-meshd.mount" in device.property("meshd", "Requires").split()
        identity = status(device)["device"]
        device.run("systemctl", "restart", "meshd")
        assert status(device)["device"] == identity


def test_booted_without_a_network_it_joins_when_there_is_one(installed: Path) -> None:
    with Machine(installed, "alpha") as alpha, Machine(installed, "beta") as beta:
        for device in (alpha, beta):
            assert device.property("meshd", "ActiveState") == "active"
            assert restarts(device) == 0
        assert status(alpha)["mesh"] is None
        alpha.run("meshctl", "init", "home")
        alpha.plug(beta, "10.79.0.1/24", "10.79.0.2/24")
        pair(alpha, beta)
        sent = json.loads(beta.run("meshctl", "--json", "send", "--wait", "delivered", "alpha", "from beta"))
        assert sent["state"] == "delivered"


def test_a_user_without_root_runs_their_own(installed: Path) -> None:
    with Machine(installed, "alpha") as device:
        device.run("systemctl", "disable", "--now", "meshd")
        device.run("useradd", "--create-home", "anna")
        device.run("loginctl", "enable-linger", "anna")
        uid = device.run("id", "--user", "anna").strip()
        session = ["env", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
        eventually(
            lambda: device.run("systemctl", "is-active", f"user@{uid}", check=False) == "active\n",
            within_s=60,
            what="the user's service manager runs",
        )
        device.run(*session, "systemctl", "--user", "enable", "--now", "meshd", user="anna")
        shown = json.loads(device.run(*session, "meshctl", "--json", "status", user="anna"))
        assert shown["device"]["name"] == "alpha"
        assert device.run("stat", "--format=%U %a", "/home/anna/.local/state/meshd") == "anna 700\n"
        device.run(*session, "systemctl", "--user", "stop", "meshd", user="anna")
        result = device.run(*session, "systemctl", "--user", "show", "--property=Result", "meshd", user="anna")
        assert result == "Result=success\n"
