"""The laboratory itself: its network is as bad as it is told to be, and it leaves nothing behind."""

import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .lab import Host, Lab, eventually
from .switch import Conditions, Protocol, Switch, flow_of, parse_changes

GROUP = "224.0.0.251"
Make = Callable[[int], Lab]


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def udp(stack: ExitStack, host: Host, port: int = 0) -> socket.socket:
    made = stack.enter_context(host.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.bind((host.ipv4, port))
    made.settimeout(0.5)
    return made


def send(source: socket.socket, destination: socket.socket, count: int = 1) -> list[bytes]:
    """Send that many datagrams; those that arrive, until none does for half a second."""
    for number in range(count):
        source.sendto(str(number).encode(), destination.getsockname())
    arrived: list[bytes] = []
    while len(arrived) < count:
        try:
            arrived.append(destination.recv(100))
        except TimeoutError:
            break
    return arrived


def round_trip_s(a: socket.socket, b: socket.socket) -> float:
    began = time.monotonic()
    assert send(a, b)
    assert send(b, a)
    return time.monotonic() - began


@pytest.mark.netlab
def test_conditions_hold_while_they_are_set(lab: Make, sockets: ExitStack) -> None:
    made = lab(2)
    one, two = (udp(sockets, host) for host in made.hosts)
    first, second = made.hosts
    assert len(send(one, two, 50)) == 50

    made.network.between(delay_s=0.05)
    assert round_trip_s(one, two) >= 0.1
    made.network.between(delay_s=0.0, loss=0.5)
    assert 20 <= len(send(one, two, 100)) <= 80
    made.network.between(loss=0.0)
    made.network.between(first, second, loss=1.0)
    assert send(one, two) == []
    assert send(two, one) == [b"0"]
    made.network.between(loss=0.0, rate_bps=80_000)
    two.settimeout(2.0)
    began = time.monotonic()
    one.sendto(bytes(958), two.getsockname())  # 1,000 bytes with its headers: 0.1 s
    assert len(two.recv(2000)) == 958
    assert time.monotonic() - began >= 0.1
    made.network.between(rate_bps=None)
    assert len(send(one, two, 50)) == 50
    assert made.network.statistics()["lost"] >= 20


@pytest.mark.netlab
def test_partitions_and_pulled_cables(lab: Make, sockets: ExitStack) -> None:
    made = lab(3)
    a, b, c = made.hosts
    one, two, three = (udp(sockets, host) for host in made.hosts)
    made.network.partition([a], [b, c])
    assert send(one, two) == []
    assert send(two, three) == [b"0"]
    made.network.heal()
    eventually(lambda: send(one, two), within_s=5.0, what="the partition ends")  # neighbours are asked for again
    made.network.unplug(a)
    assert "NO-CARRIER" in a.run("ip", "link", "show", "eth0")
    assert send(two, one) == []
    made.network.plug(a)
    eventually(lambda: send(two, one), within_s=5.0, what="the cable works again")
    a.readdress(77)
    moved = udp(sockets, a)
    assert moved.getsockname()[0] == "10.78.0.77"
    assert send(two, moved) == [b"0"]
    left = sockets.enter_context(a.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
    with pytest.raises(OSError, match="assign"):
        left.bind(("10.78.0.1", 0))


@pytest.mark.netlab
def test_blocked_ports_and_lost_multicast(lab: Make, sockets: ExitStack) -> None:
    made = lab(2)
    a, b = made.hosts
    one, two, mdns = udp(sockets, a), udp(sockets, b, 7843), udp(sockets, b, 5353)
    listener = sockets.enter_context(b.open_socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind((b.ipv4, 7843))
    listener.listen()

    made.network.block(("udp", None))
    assert send(one, two) == []
    assert send(one, mdns) == [b"0"]
    sockets.enter_context(a.open_socket(socket.AF_INET, socket.SOCK_STREAM)).connect((b.ipv4, 7843))
    made.network.block(("tcp", 7843))
    assert send(one, two) == [b"0"]
    refused = sockets.enter_context(a.open_socket(socket.AF_INET, socket.SOCK_STREAM))
    refused.settimeout(0.5)
    with pytest.raises(TimeoutError):
        refused.connect((b.ipv4, 7843))
    made.network.block()

    group = sockets.enter_context(b.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
    group.bind((GROUP, 9999))
    group.settimeout(0.5)
    membership = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(b.ipv4))
    group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(a.ipv4))
    assert send(one, group) == [b"0"]
    made.network.between(a, b, drop_multicast=True)
    assert send(one, group) == []
    assert send(one, two) == [b"0"]


@pytest.mark.netlab
def test_hosts_reach_each_other_by_ipv6_and_nothing_else(lab: Make, sockets: ExitStack) -> None:
    made = lab(2)
    a, b = made.hosts
    assert "default" not in a.run("ip", "route") + a.run("ip", "-6", "route")
    one = sockets.enter_context(a.open_socket(socket.AF_INET6, socket.SOCK_DGRAM))
    two = sockets.enter_context(b.open_socket(socket.AF_INET6, socket.SOCK_DGRAM))
    two.bind((b.ipv6, 0))
    two.settimeout(2.0)
    assert send(one, two) == [b"0"]
    with pytest.raises(OSError, match="unreachable"):
        one.sendto(b"x", ("2001:db8::1", 1))


@pytest.mark.netlab
def test_two_laboratories_do_not_hear_each_other(lab: Make, sockets: ExitStack) -> None:
    (a, _), (_, b) = lab(2).hosts, lab(2).hosts
    assert send(udp(sockets, a, 7000), udp(sockets, b, 7000)) == []


_HOLD = """
import subprocess, sys, time
from tests.netlab.lab import Lab
with Lab(2) as lab:
    command = lab.hosts[0].namespace.command("sh", "-c", "echo ready; exec sleep 60")
    program = subprocess.Popen(command, stdout=subprocess.PIPE)
    program.stdout.readline()
    print(lab.directory, program.pid, *(host.namespace.pid for host in lab.hosts), flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        program.kill()
"""


@pytest.mark.netlab
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_laboratory(lab: Make, number: signal.Signals) -> None:
    lab(0)  # skips where there can be none
    root = Path(__file__).parents[2]
    holder = subprocess.Popen([sys.executable, "-c", _HOLD], cwd=root, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        directory, *pids = holder.stdout.readline().split()
        assert all(Path("/proc", pid).exists() for pid in pids)
        holder.send_signal(number)
    eventually(lambda: not any(Path("/proc", pid).exists() for pid in pids), within_s=5.0, what="the keepers end")
    if number is signal.SIGTERM:
        assert not os.path.exists(directory)
    else:  # nobody was left to remove it
        for path in sorted(Path(directory).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Path(directory).rmdir()


def ethernet(kind: bytes, packet: bytes) -> bytes:
    return bytes.fromhex("020000000002 020000000001") + kind + packet


def ipv4_udp(source: int, destination: int, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x46, 0, 32, 0, fragment, 64, 17, 0, bytes(4), bytes(4)) + bytes(4)
    return ethernet(b"\x08\x00", header + struct.pack("!HHHH", source, destination, 8, 0))


def test_flows_are_read_from_frames() -> None:
    assert flow_of(ipv4_udp(40000, 7843)) == (Protocol.UDP, 40000, 7843)
    assert flow_of(ipv4_udp(40000, 7843, fragment=8)) is None
    ipv6 = struct.pack("!IHBB16s16s", 6 << 28, 20, 6, 64, bytes(16), bytes(16)) + struct.pack("!HH", 1, 443)
    assert flow_of(ethernet(b"\x86\xdd", ipv6)) == (Protocol.TCP, 1, 443)
    assert flow_of(ethernet(b"\x08\x06", bytes(28))) is None
    assert flow_of(b"\0" * 14) is None


def test_a_slow_path_queues_for_a_while_and_then_drops() -> None:
    sent: list[tuple[int, bytes]] = []
    switch = Switch(2, random.Random(1), lambda port, frame: sent.append((port, frame)))
    switch.change(1, None, {"rate_bps": 80_000, "delay_s": 0.01})
    frame = ipv4_udp(1, 2).ljust(1000, b"\0")
    for _ in range(5):
        switch.receive(1, frame, now=0.0)
    assert switch.statistics["overflowed"] == 2
    assert switch.poll(0.1) == pytest.approx(0.11)
    assert len(sent) == 0
    assert switch.poll(0.211) == pytest.approx(0.31)
    assert [port for port, _ in sent] == [2, 2]


def test_changes_are_for_the_pairs_they_name() -> None:
    blocked = parse_changes({"blocked": [["udp", 7843]]})
    assert Conditions(**blocked).blocked == {(Protocol.UDP, 7843)}
    heard: list[int] = []
    switch = Switch(3, random.Random(1), lambda port, frame: heard.append(port))
    switch.change(1, 2, blocked)
    switch.receive(1, ipv4_udp(9, 7843), 0.0)
    switch.receive(1, ipv4_udp(9, 7844), 0.0)
    assert heard == [3, 2, 3]
