"""Whether multicast gets through, each way, on each interface: probes that say who sent them and where.

A probe is a DNS query (RFC 1035 section 4.1) for a name that nobody has, sent to the groups and the port of
multicast DNS (RFC 6762), so that it meets whatever that meets. The same goes to a group that is joined for this
alone: a switch that forgot who listens (IGMP snooping without a querier, RFC 4541) still passes that on.
"""

import ipaddress
import re
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import attrs
import trio

from meshd.discovery.presence import Place

PORT = 5353
INTERVAL_S = 0.2
SEND_S = 2.0
"""A probe every interval for this long; a lost one does not matter."""

MAX_HEARD = 256

_HEADER = struct.pack("!HHHHHH", 0, 0, 1, 0, 0, 0)
_QUESTION = struct.pack("!HH", 12, 1)  # PTR, IN
_DOMAIN = b"\x0bmeshd-probe\x05local\x00"
_LABEL = re.compile(rb"[0-9a-f]{16}-[a-z2-7]{8}-[0-9]{1,10}-[46ab]")
MDNS_GROUPS = "46"
OWN_GROUPS = "ab"


@attrs.frozen
class Probe:
    """What a probe says: whose exchange it belongs to, who sent it, on which of its interfaces, to which group."""

    nonce: bytes
    sender: str
    index: int
    group: str

    def label(self) -> str:
        """As one DNS label."""
        return f"{self.nonce.hex()}-{self.sender}-{self.index}-{self.group}"

    @classmethod
    def parse(cls, label: str) -> "Probe | None":
        """Inverse of :meth:`label`; None for anything else."""
        if _LABEL.fullmatch(label.encode(errors="replace")) is None:
            return None
        nonce, sender, index, group = label.split("-")
        return cls(bytes.fromhex(nonce), sender, int(index), group)


@attrs.frozen
class Caught:
    """A probe that came in on ``interface``."""

    interface: str
    probe: Probe


def groups(nonce: bytes) -> dict[str, str]:
    """The address of each group; ``a`` (RFC 2365) and ``b`` (RFC 4291 section 2.7) are of this nonce alone."""
    return {
        "4": "224.0.0.251",
        "6": "ff02::fb",
        "a": str(ipaddress.IPv4Address(b"\xef\xff" + nonce[:2])),
        "b": str(ipaddress.IPv6Address(b"\xff\x12" + bytes(6) + nonce)),
    }


def encode_probe(probe: Probe) -> bytes:
    """The datagram."""
    label = probe.label().encode()
    return _HEADER + bytes((len(label),)) + label + _DOMAIN + _QUESTION


def decode_probe(data: bytes) -> Probe | None:
    """The probe in a datagram; None for whatever else comes to that port."""
    if len(data) < 13 or data[:12] != _HEADER or not data[13 + data[12] :].startswith(_DOMAIN):
        return None
    return Probe.parse(data[13 : 13 + data[12]].decode("ascii", errors="replace"))


async def exchange_probes(
    places: Sequence[Place],
    nonce: bytes,
    sender: str,
    *,
    listen_s: float,
    on_ready: Callable[[], None] = lambda: None,
) -> frozenset[Caught]:
    """Send probes on all of ``places`` for 2 s, and return what others' came within ``listen_s`` of the start.

    ``on_ready`` is called once this device listens. What can't be opened (no IPv6, say) is left out. Cancel-safe.
    """
    caught: set[Caught] = set()
    with ExitStack() as stack:
        ears: list[tuple[str, trio.socket.SocketType]] = []
        mouths: list[_Mouth] = []
        for place in places:
            for group, address in groups(nonce).items():
                if (":" in address and not place.ipv6) or (":" not in address and place.ipv4 is None):
                    continue
                probe = Probe(nonce, sender, place.interface.index, group)
                try:
                    ears.append((place.interface.name, stack.enter_context(_ear(place, address))))
                    mouths.append(_mouth(place, address, probe))
                except OSError:
                    continue
                stack.callback(mouths[-1].socket.close)
        on_ready()
        with trio.move_on_after(listen_s):
            async with trio.open_nursery() as nursery:
                for name, ear in ears:
                    nursery.start_soon(_listen, name, ear, nonce, sender, caught)
                await _send(mouths)
                await trio.sleep_forever()
    return frozenset(caught)


async def _listen(interface: str, ear: trio.socket.SocketType, nonce: bytes, sender: str, caught: set[Caught]) -> None:
    while True:
        probe = decode_probe(await ear.recv(2048))
        if probe is not None and probe.nonce == nonce and probe.sender != sender and len(caught) < MAX_HEARD:
            caught.add(Caught(interface, probe))


async def _send(mouths: Sequence["_Mouth"]) -> None:
    until = trio.current_time() + SEND_S
    while trio.current_time() < until:
        for mouth in mouths:
            try:
                await mouth.socket.sendto(mouth.probe, mouth.target)
            except OSError:  # no route, or a firewall of this machine: then nobody hears it, and that is told
                continue
        await trio.sleep(INTERVAL_S)


@attrs.frozen
class _Mouth:
    socket: trio.socket.SocketType
    probe: bytes
    target: tuple[str | int, ...]


def _ear(place: Place, group: str) -> trio.socket.SocketType:
    """A socket that hears one group on one interface. Raises OSError."""
    family, address = _family(group)
    index = place.interface.index
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, place.interface.name.encode())
        # Bound to the group: a unicast answer meant for the responder on this port can't land here.
        made.bind((group, PORT, 0, index) if family == socket.AF_INET6 else (group, PORT))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address + struct.pack("@I", index))
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, address + bytes(4) + struct.pack("@i", index))
        return trio.socket.from_stdlib_socket(made)
    except BaseException:
        made.close()
        raise


def _mouth(place: Place, group: str, probe: Probe) -> _Mouth:
    """A socket that speaks on one interface. Raises OSError."""
    family, _ = _family(group)
    index = place.interface.index
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, place.interface.name.encode())
        target: tuple[str | int, ...] = (group, PORT)
        if family == socket.AF_INET6:
            target = (group, PORT, 0, index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("@i", index))
        return _Mouth(trio.socket.from_stdlib_socket(made), encode_probe(probe), target)
    except BaseException:
        made.close()
        raise


def _family(group: str) -> tuple[socket.AddressFamily, bytes]:
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    return family, socket.inet_pton(family, group)
