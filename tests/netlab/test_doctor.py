"""``meshctl doctor`` on networks and machines that are wrong in one way each: it names that, and nothing else."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.needs import require

from .lab import Host, Lab, eventually
from .test_core import LINK_S, linked, mesh, peer

pytestmark = [pytest.mark.netlab, pytest.mark.system, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
Finding = dict[str, Any]
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
NAMES_OF_A_GOOD_ONE = {
    *(
        "daemon",
        "disk",
        "permissions:state",
        "permissions:socket",
        "clock",
        "port:quic",
        "port:websocket",
        "network",
        "mesh",
        "peers",
        "versions",
    ),
    *("vpn", "udp-out", "udp-in", "tcp-out", "tcp-in", "isolation"),
    *("multicast-out:eth0", "multicast-in:eth0", "igmp:eth0"),
}


def examine(host: Host) -> dict[str, Finding]:
    """The doctor's findings by check."""
    findings: list[Finding] = host.ctl("doctor", timeout=40.0)
    assert all(set(finding) == {"check", "verdict", "detail", "fix"} for finding in findings)
    assert all(bool(finding["fix"]) == (finding["verdict"] != "ok") for finding in findings)
    by_check = {finding["check"]: finding for finding in findings}
    assert len(by_check) == len(findings)
    return by_check


def wrong(host: Host) -> dict[str, str]:
    """What is not in order, and how badly; but for the clock of the machine that runs the tests."""
    return {check: found["verdict"] for check, found in examine(host).items() if is_wrong(found)}


def is_wrong(found: Finding) -> bool:
    unkept = "no time service keeps it right, so it will go wrong" in found["detail"]
    return found["verdict"] != "ok" and not unkept


def test_where_nothing_is_wrong_every_check_says_so(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    found = examine(a)
    assert set(found) == NAMES_OF_A_GOOD_ONE
    assert {check: one["detail"] for check, one in found.items() if is_wrong(one)} == {}


def test_multicast_that_is_dropped_one_way_is_told_by_direction(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    made.network.between(a, b, drop_multicast=True)
    assert (wrong(a), wrong(b)) == ({"multicast-out:eth0": "fail"}, {"multicast-in:eth0": "fail"})
    made.network.between(a, b, drop_multicast=False)
    made.network.between(b, a, drop_multicast=True)
    found = examine(a)["multicast-in:eth0"]
    assert found["verdict"] == "fail"
    assert "b" in found["detail"].split()
    assert "5353/udp" in found["fix"]
    assert "discovery.static" in found["fix"]


def test_igmp_that_forgot_who_listens(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    made.network.between(drop_mdns=True)
    found = examine(a)
    assert {check for check, one in found.items() if one["verdict"] == "fail"} == {
        "multicast-out:eth0",
        "multicast-in:eth0",
        "igmp:eth0",
    }
    assert "querier" in found["igmp:eth0"]["fix"]


@pytest.mark.parametrize(("dropped", "left"), [("udp", "websocket"), ("tcp", "quic")])
def test_a_protocol_that_is_dropped_is_named(lab: Make, dropped: str, left: str) -> None:
    made = lab(2)
    made.network.block()
    a, b = mesh(made)
    linked(a, b)
    made.network.block((dropped, None))
    eventually(lambda: peer(a, b).get("transport") == left, within_s=2 * LINK_S, what=f"linked over {left}")
    linked(a, b)
    found = examine(a)
    assert {check for check, one in found.items() if is_wrong(one)} == {f"{dropped}-out", f"{dropped}-in"}
    assert f"7843/{dropped}" in found[f"{dropped}-in"]["fix"]


def test_a_firewall_of_the_other_device_alone_is_told_from_one_of_this(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    eventually(lambda: peer(a, b).get("transport") == "quic", within_s=2 * LINK_S, what="linked over QUIC")
    made.network.between(b, a, drop_new_tcp=True)  # as a firewall on a does
    assert (wrong(a), wrong(b)) == ({"tcp-in": "fail"}, {"tcp-out": "fail"})
    assert "on this device" in examine(a)["tcp-in"]["fix"]


def test_a_wrong_clock_is_told_on_the_device_that_has_it(lab: Make) -> None:
    assert FAKETIME is not None, "libfaketime is not installed"
    a, b, c = lab(3).hosts
    fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": "+2d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    a.start("a", environment=fake)
    b.start("b")
    c.start("c")
    a.ctl("init", "home")
    for host in (b, c):
        host.ctl("join", a.ctl("invite")["code"])
    linked(a, b, c)
    found = examine(a)["clock"]
    assert (found["verdict"], "this device's clock is 2 d ahead of most others" in found["detail"]) == ("warn", True)
    assert "timedatectl" in found["fix"]
    assert "a's is 2 d ahead of this one" in examine(b)["clock"]["detail"]


def test_a_full_disk(lab: Make) -> None:
    require(None if os.geteuid() == 0 else "root, to mount a disk")
    host = lab(1).hosts[0]
    state = host.directory / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "tmpfs", str(state)], check=True)
    try:
        host.start("a")
        host.ctl("init", "home")
        assert examine(host)["disk"]["verdict"] == "warn", "less than the quota"
        free = os.statvfs(state).f_bavail * os.statvfs(state).f_frsize
        (state / "ballast").write_bytes(bytes(free - 8 * 1024 * 1024))
        found = examine(host)["disk"]
        assert found["verdict"] == "fail"
        assert "7 MiB free" in found["detail"] or "8 MiB free" in found["detail"]
        host.kill()
    finally:
        host.kill()
        subprocess.run(["umount", str(state)], check=True)


def test_a_tunnel_that_takes_local_packets(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    a.run("ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
    a.run("ip", "link", "set", "vpn0", "up")
    a.run("ip", "link", "set", "vpn1", "up")
    a.run("ip", "route", "add", f"{b.ipv4}/32", "dev", "vpn0")
    found = examine(a)["vpn"]
    assert found["verdict"] == "fail"
    assert f"b ({b.ipv4}), which is on eth0, are sent through vpn0" in found["detail"]
    assert f"ip route replace {b.ipv4} dev eth0" in found["fix"]


def test_an_access_point_that_keeps_two_devices_apart(lab: Make) -> None:
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    for one, other in ((a, b), (b, a)):
        made.network.between(one, other, loss=1.0)
    eventually(lambda: peer(a, b).get("state") == "down", within_s=2 * LINK_S, what="a notices")
    eventually(
        lambda: any(row["name"] == "b" and row["next_hop_name"] == "c" for row in a.ctl("routes")),
        within_s=2 * LINK_S,
        what="a route by way of c",
    )
    found = examine(a)
    assert found["isolation"]["verdict"] == "fail"
    assert "b is on and in this network" in found["isolation"]["detail"]
    assert "by way of c" in found["isolation"]["detail"]
    assert "AP isolation" in found["isolation"]["fix"]


def test_permissions_and_a_device_alone(lab: Make) -> None:
    host = lab(1).hosts[0]
    host.start("a", 'listen = { websocket = [] }\n[discovery]\ninterfaces = ["lo"]\n')
    assert wrong(host) == {"mesh": "warn", "port:websocket": "warn"}
    host.ctl("init", "home")
    (host.directory / "state").chmod(0o755)
    host.socket_path.chmod(0o666)
    found = examine(host)
    assert {check for check, one in found.items() if is_wrong(one)} == {
        "permissions:state",
        "permissions:socket",
        "peers",
        "port:websocket",
    }
    assert found["permissions:state"]["fix"] == f"sudo chmod 700 {host.directory / 'state'}"
    assert found["permissions:socket"]["fix"] == f"sudo chmod 0660 {host.socket_path}"
