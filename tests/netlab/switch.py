"""A network switch in userspace, for tests: several hosts on one machine, on a network that can be made bad.

    switch.py CONTROL_SOCKET PID[:INTERFACE]...

Runs in a network namespace of its own. For each PID it makes an ``eth0`` (or INTERFACE) in that process's
network namespace, and forwards Ethernet frames between them: unicast by learned address, the rest to all.
Prints ``ready`` once frames flow, and ends when its standard input does, so that it never outlives
the laboratory that started it.

Control: a datagram Unix socket, one JSON object per datagram, answered by another. Ports count from 1.

    {"op": "set", "from": 1, "to": null, "changes": {"loss": 0.1}}   null: every port; see Conditions
    {"op": "partition", "groups": [[1], [2, 3]]}                     [] heals
    {"op": "cable", "port": 1, "plugged": false}                     the host sees its carrier go
    {"op": "statistics"}
"""

import ctypes
import enum
import errno
import fcntl
import heapq
import itertools
import json
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1
_PACKET_IGNORE_OUTGOING = 23
_SO_RCVBUFFORCE = 33
_SIOCETHTOOL = 0x8946
# linux/ethtool.h: receive and transmit checksums, TSO, GSO, GRO. With them, frames come huge and unsummed.
_ETHTOOL_SETTERS = (0x15, 0x17, 0x1F, 0x24, 0x2C)
_RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
_MAX_FRAME_BYTES = 65536
_BURST = 64
"""Frames read from one port before the others get their turn."""

_QUEUE_S = 0.2
"""A slow path holds this much; then it drops what comes, as a router does."""

_MDNS_PORT = 5353
_MDNS_GROUPS = (b"\x01\x00\x5e\x00\x00\xfb", b"\x33\x33\x00\x00\x00\xfb")
_BROADCAST = b"\xff" * 6
_NEIGHBOUR_DISCOVERY = b"\x33\x33\xff"


class Protocol(enum.IntEnum):
    """IP protocol numbers."""

    TCP = 6
    UDP = 17


@attrs.frozen(kw_only=True)
class Conditions:
    """What happens to frames from one port to another.

    Args:
        jitter_s: up to this much more delay, at random; frames may overtake each other.
        loss: share of frames, 0..1.
        rate_bps: bits per second.
        drop_mdns: what goes to the groups of multicast DNS, and nothing else.
        drop_new_tcp: the first segment of a TCP connection, as a firewall at the destination does.
        drop_multicast: but not broadcast or IPv6 neighbour discovery: unicast goes on working.
        blocked: protocol and port, either end's; port None is every port but mDNS.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    rate_bps: float | None = None
    drop_multicast: bool = False
    drop_mdns: bool = False
    drop_new_tcp: bool = False
    blocked: frozenset[tuple[Protocol, int | None]] = frozenset()


def parse_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """JSON to the fields of Conditions."""
    if "blocked" not in changes:
        return changes
    return changes | {"blocked": frozenset((Protocol[name.upper()], port) for name, port in changes["blocked"])}


def flow_of(frame: bytes) -> tuple[Protocol, int, int] | None:
    """Protocol, source and destination port; None for later fragments and whatever is not TCP or UDP."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34 and not struct.unpack_from("!H", frame, 20)[0] & 0x1FFF:
        protocol, start = frame[23], 14 + (frame[14] & 0x0F) * 4
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        protocol, start = frame[20], 54
    else:
        return None
    if protocol not in (Protocol.TCP, Protocol.UDP) or len(frame) < start + 4:
        return None
    source, destination = struct.unpack_from("!HH", frame, start)
    return Protocol(protocol), source, destination


class Switch:
    """Decides what becomes of each frame. ``send(port, frame)`` puts one on the wire."""

    def __init__(self, ports: int, rng: random.Random, send: Callable[[int, bytes], None]) -> None:
        self.statistics: Counter[str] = Counter()
        self._ports = range(1, ports + 1)
        self._rng = rng
        self._send = send
        self._conditions = {(a, b): Conditions() for a in self._ports for b in self._ports if a != b}
        self._group: dict[int, int] = {}
        self._learned: dict[bytes, int] = {}
        self._free_at: dict[tuple[int, int], float] = {}
        self._order = itertools.count()
        self._delayed: list[tuple[float, int, int, bytes]] = []

    def change(self, source: int | None, destination: int | None, changes: dict[str, Any]) -> None:
        """Evolve the conditions of the pairs that match."""
        for (a, b), conditions in self._conditions.items():
            if source in (None, a) and destination in (None, b):
                self._conditions[a, b] = attrs.evolve(conditions, **changes)

    def partition(self, groups: list[list[int]]) -> None:
        """Only members of one group hear each other; who is in none is in one more."""
        self._group = {port: index for index, group in enumerate(groups, 1) for port in group}

    def receive(self, source: int, frame: bytes, now: float) -> None:
        """A frame came in at port ``source``."""
        self._learned[frame[6:12]] = source
        known = None if frame[0] & 1 else self._learned.get(frame[:6])
        for destination in self._ports if known is None else (known,):
            if destination != source:
                self._forward(source, destination, frame, now)

    def _forward(self, source: int, destination: int, frame: bytes, now: float) -> None:
        conditions = self._conditions[source, destination]
        if self._group.get(source, 0) != self._group.get(destination, 0) or _is_blocked(conditions, frame):
            self.statistics["blocked"] += 1
            return
        if conditions.loss and self._rng.random() < conditions.loss:
            self.statistics["lost"] += 1
            return
        at = now
        if conditions.rate_bps is not None:
            at = max(now, self._free_at.get((source, destination), 0.0))
            if at - now > _QUEUE_S:
                self.statistics["overflowed"] += 1
                return
            at += len(frame) * 8 / conditions.rate_bps
            self._free_at[source, destination] = at
        at += conditions.delay_s + conditions.jitter_s * self._rng.random()
        if at <= now:
            self._emit(destination, frame)
        else:
            heapq.heappush(self._delayed, (at, next(self._order), destination, frame))

    def _emit(self, destination: int, frame: bytes) -> None:
        self._send(destination, frame)
        self.statistics["forwarded"] += 1

    def poll(self, now: float) -> float | None:
        """Send what is due; return when the next frame is."""
        while self._delayed and self._delayed[0][0] <= now:
            _, _, destination, frame = heapq.heappop(self._delayed)
            self._emit(destination, frame)
        return self._delayed[0][0] if self._delayed else None


def _is_blocked(conditions: Conditions, frame: bytes) -> bool:
    destination = frame[:6]
    if conditions.drop_new_tcp and _is_tcp_syn(frame):
        return True
    if conditions.drop_mdns and destination in _MDNS_GROUPS:
        return True
    if conditions.drop_multicast and destination[0] & 1 and destination != _BROADCAST:
        return destination[:3] != _NEIGHBOUR_DISCOVERY
    if not conditions.blocked or (flow := flow_of(frame)) is None:
        return False
    protocol, *ports = flow
    return ((protocol, None) in conditions.blocked and _MDNS_PORT not in ports) or any(
        (protocol, port) in conditions.blocked for port in ports
    )


def _is_tcp_syn(frame: bytes) -> bool:
    flow = flow_of(frame)
    if flow is None or flow[0] is not Protocol.TCP:
        return False
    start = 54 if frame[12:14] == b"\x86\xdd" else 14 + (frame[14] & 0x0F) * 4
    return len(frame) > start + 13 and frame[start + 13] & 0x12 == 0x02  # SYN and not ACK


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdin=subprocess.DEVNULL)


def _turn_offloads_off(device: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for setter in _ETHTOOL_SETTERS:
            value = ctypes.create_string_buffer(struct.pack("II", setter, 0))
            request = struct.pack("16sQ8x", device.encode(), ctypes.addressof(value))
            try:
                fcntl.ioctl(probe, _SIOCETHTOOL, request)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise


def open_port(number: int, pid: int, interface: str) -> socket.socket:
    """Make the cable between this switch and ``interface`` of the namespace of ``pid``; return the switch's end."""
    ours, theirs = f"port{number}", f"host{number}"
    _ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
    for device in (ours, theirs):
        _turn_offloads_off(device)
    _ip("link", "set", theirs, "netns", str(pid), "name", interface)
    _ip("link", "set", ours, "up")
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    index = socket.if_nametoindex(ours)
    membership = struct.pack("iHH8s", index, _PACKET_MR_PROMISC, 0, b"")
    port.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    try:
        port.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:  # in a user namespace: as much as the system allows
        port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    port.bind((ours, _ETH_P_ALL))
    return port


def carry_out(switch: Switch, order: dict[str, Any]) -> dict[str, Any]:
    """One control message."""
    match order["op"]:
        case "set":
            switch.change(order["from"], order["to"], parse_changes(order["changes"]))
        case "partition":
            switch.partition(order["groups"])
        case "cable":
            _ip("link", "set", f"port{order['port']}", "up" if order["plugged"] else "down")
        case "statistics":
            return {"ok": True, "statistics": dict(switch.statistics)}
        case other:
            return {"error": f"unknown operation {other!r}"}
    return {"ok": True}


def serve(control: socket.socket, ports: list[socket.socket]) -> None:
    """Forward frames until standard input ends."""

    def send(number: int, frame: bytes) -> None:
        try:
            ports[number - 1].send(frame)
        except OSError as error:  # a pulled cable, or a host that does not keep up: the frame is lost
            if error.errno not in (errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN, errno.ENXIO):
                raise
            switch.statistics["unsent"] += 1

    switch = Switch(len(ports), random.Random(), send)
    poller = select.epoll()
    numbers = {port.fileno(): number for number, port in enumerate(ports, 1)}
    for fileno in (*numbers, control.fileno(), sys.stdin.fileno()):
        poller.register(fileno, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        due = switch.poll(time.monotonic())
        for fileno, _ in poller.poll(None if due is None else max(0.0, due - time.monotonic())):
            if fileno == sys.stdin.fileno():
                return
            if fileno == control.fileno():
                data, sender = control.recvfrom(_MAX_FRAME_BYTES)
                control.sendto(json.dumps(carry_out(switch, json.loads(data))).encode(), sender)
            else:
                _receive_burst(switch, numbers[fileno], ports[numbers[fileno] - 1])


def _receive_burst(switch: Switch, number: int, port: socket.socket) -> None:
    for _ in range(_BURST):
        try:
            frame = port.recv(_MAX_FRAME_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENETDOWN:  # reported once when the cable is pulled
                raise
            return
        switch.receive(number, frame, time.monotonic())


def main() -> None:
    """Set up the ports and serve."""
    # The switch's own kernel must not talk on the wires.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    cables = [argument.partition(":") for argument in sys.argv[2:]]
    ports = [open_port(number, int(pid), name or "eth0") for number, (pid, _, name) in enumerate(cables, 1)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(sys.argv[1])
        serve(control, ports)


if __name__ == "__main__":
    main()
