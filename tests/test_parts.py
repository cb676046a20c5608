"""Parts that a daemon can't have: it runs without them, says so, and has them when it can; or it says why it stops."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshd.client.blocking import Client
from tests.needs import require
from tests.test_daemon import CONFIG, START_SECONDS, Place, Running, check_refusal

IN_A_NETWORK = """
ip link set lo up && ip link add eth0 type veth peer name other && ip link set other up && ip link set eth0 up
ip addr add 10.9.9.1/24 dev eth0 && {fault} && exec "$@"
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "meshd.toml").write_text(CONFIG, encoding="utf-8")
    return Place(tmp_path)


@pytest.fixture
def taken() -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """A port of loopback that somebody has, for TCP and UDP."""
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        yield port, tcp, udp


def ask(place: Place, view: str) -> Any:
    with Client(place.root / "run" / "meshd.sock", timeout=START_SECONDS) as client:
        return client.call(view)


def outages(place: Place) -> dict[str, str]:
    """Codes by parts; each has a reason and something to do."""
    rows = ask(place, "status")["outages"]
    assert all(row["reason"] and row["fix"].endswith(".") for row in rows)
    return {row["part"]: row["code"] for row in rows}


def run_until(place: Place, said: Sequence[str], through: Sequence[str] = ()) -> Running:
    daemon = Running(place, through)
    try:
        for text in said:
            daemon.wait_for(text)
    except BaseException:
        daemon.close()
        raise
    return daemon


def test_ports_that_are_taken_are_done_without_until_they_are_free(
    place: Place, taken: tuple[int, socket.socket, socket.socket]
) -> None:
    port, tcp, udp = taken
    http = f'[http]\nenabled = true\nlisten = ["127.0.0.1:{port}"]\n'
    place.config.write_text(CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{port}") + http, encoding="utf-8")
    daemon = run_until(place, ['"alert raised"'])
    try:
        assert outages(place) == {
            "listen.quic": "E_PORT",
            "listen.websocket": "E_PORT",
            f"http.listen 127.0.0.1:{port}": "E_PORT",
        }
        assert ask(place, "status")["listen"] == {"quic": [], "websocket": []}
        assert "part-down" in [row["name"] for row in ask(place, "alerts")]
        assert daemon.log.count('"part does not run"') == 3
        udp.close()
        daemon.wait_for('"part runs now"')
        assert ask(place, "status")["listen"]["quic"] == [f"127.0.0.1:{port}"]
        tcp.close()  # what takes it first has it, and the other goes on waiting
        while len(outages(place)) > 1:
            daemon.wait_for_more()
        assert daemon.log.count('"part does not run"') == 3, "said once, not at every attempt"
        assert daemon.stop() == 0
    finally:
        daemon.close()


@pytest.mark.parametrize("command", ["/nonexistent/hook", "/etc/passwd"])
def test_a_program_for_alerts_that_can_not_be_run(place: Place, command: str) -> None:
    place.config.write_text(CONFIG + f'[alerts]\nexec = ["{command}"]\n', encoding="utf-8")
    daemon = run_until(place, ['"part does not run"'])
    try:
        assert outages(place) == {"alerts.exec": "E_HOOK"}
        assert daemon.stop() == 0
    finally:
        daemon.close()


@pytest.mark.netlab
@pytest.mark.parametrize(
    "fault",
    [
        "ip link set eth0 multicast off",
        "echo 0 > /proc/sys/net/ipv4/igmp_max_memberships && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
    ],
)
def test_a_network_without_multicast(place: Place, fault: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urn", "true"], check=False).returncode:
        require("unshare -Urn")
    place.config.write_text(CONFIG.replace("mdns = false", "mdns = true"), encoding="utf-8")
    daemon = run_until(place, [], ["unshare", "-Urn", "sh", "-c", IN_A_NETWORK.format(fault=fault), "sh"])
    try:
        with Client(place.root / "run" / "meshd.sock", timeout=START_SECONDS) as client:
            client.call("init", {"name": "home"})
        daemon.wait_for('"part does not run"')
        assert outages(place) == {"discovery.mdns on eth0": "E_MULTICAST"}
        assert "ip link set eth0 multicast on" in ask(place, "status")["outages"][0]["fix"]
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_named_interfaces_of_which_none_is_there(place: Place) -> None:
    config = CONFIG.replace("mdns = false", 'mdns = true\ninterfaces = ["nope0", "nope1"]')
    place.config.write_text(config, encoding="utf-8")
    daemon = run_until(place, ['"discovery.mdns on nope1"'])
    try:
        assert outages(place) == dict.fromkeys(("discovery.mdns on nope0", "discovery.mdns on nope1"), "E_MULTICAST")
        assert "ip -brief link" in ask(place, "status")["outages"][0]["fix"]
        assert daemon.stop() == 0
    finally:
        daemon.close()
    place.config.write_text(config.replace("nope0", "lo"), encoding="utf-8")
    daemon = run_until(place, ["does not exist"])
    try:
        assert outages(place) == {}
    finally:
        daemon.close()


def without(family: str) -> list[str]:
    return [sys.executable, "-m", "tests.without", family]


def test_a_kernel_without_ipv6_is_no_outage(place: Place) -> None:
    place.config.write_text(CONFIG.replace("127.0.0.1:0", "[::]:0"), encoding="utf-8")
    daemon = run_until(place, [], without("AF_INET6"))
    try:
        assert outages(place) == {}
        listen = ask(place, "status")["listen"]
        assert [address.partition(":")[0] for address in listen["quic"] + listen["websocket"]] == ["0.0.0.0"] * 2
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_a_sandbox_without_netlink_is_named(place: Place) -> None:
    check_refusal(place.run(through=without("AF_NETLINK")), 2, "E_NETLINK", "interfaces")


def test_a_group_that_is_not_there_is_named(place: Place) -> None:
    place.config.write_text(CONFIG + '[api]\ngroup = "no-such-group"\n', encoding="utf-8")
    check_refusal(place.run("--log-level", "error"), 2, "E_CONFIG", "api.group", "groupadd no-such-group")


def test_a_key_that_others_may_read_is_named(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    (place.state / "identity.key").write_text("", encoding="utf-8")
    (place.state / "identity.key").chmod(0o644)
    check_refusal(place.run(), 2, "E_STATE_DIR", "chmod 600")
