"""The network interfaces of this machine and their usable addresses, asked from the kernel over netlink.

Only the standard library: ``getifaddrs`` tells no address flags, and without them an address that is
still being checked for duplicates, or is on its way out, looks like any other (rtnetlink(7)).
"""

import enum
import fnmatch
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator

import attrs

# linux/netlink.h, linux/rtnetlink.h
RTMGRP_LINK_AND_ADDRESSES = 0x1 | 0x10 | 0x100
_RTM_NEWLINK, _RTM_GETLINK, _RTM_NEWADDR, _RTM_GETADDR = 16, 18, 20, 22
NLMSG_ERROR, _NLMSG_DONE = 2, 3
NLM_F_REQUEST, _NLM_F_DUMP_INTERRUPTED, _NLM_F_DUMP = 0x1, 0x10, 0x300
HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
# linux/if_link.h, linux/if_addr.h
_IFLA_IFNAME = 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TEMPORARY, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40

# net/if.h. Other flags (promiscuous mode, say) come and go without meaning anything here.
IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_RUNNING, IFF_MULTICAST = 0x1, 0x8, 0x10, 0x40, 0x1000
_FLAGS_OF_INTEREST = IFF_UP | IFF_LOOPBACK | IFF_POINTOPOINT | IFF_RUNNING | IFF_MULTICAST

MAX_DUMPS = 4
"""Attempts at a dump that nothing changed during."""

CONTAINER_PATTERNS = (
    "docker*",
    "br-*",
    "virbr*",
    "veth*",
    "vnet*",
    "vmnet*",
    "podman*",
    "cni*",
    "lxc*",
    "lxd*",
    "cali*",
    "flannel*",
)
"""Names that container and virtual machine software gives to interfaces of its own on the host. By name
and not by driver: inside a container the one real interface is a veth too, but is called ``eth0``."""


class InterfaceKind(enum.Enum):
    """What an interface leads to."""

    LAN = "lan"
    LOOPBACK = "loopback"
    TUNNEL = "tunnel"
    CONTAINERS = "containers"


@attrs.frozen
class InterfaceAddress:
    """A usable address; ``temporary`` for IPv6 privacy addresses (RFC 8981)."""

    host: str
    prefix: int
    temporary: bool = False

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The subnet that the address is in."""
        return ipaddress.ip_network((self.host, self.prefix), strict=False)


@attrs.frozen
class Interface:
    """A network interface: ``flags`` are IFF_* bits, of those that matter here."""

    name: str
    index: int
    addresses: tuple[InterfaceAddress, ...]
    flags: int
    kind: InterfaceKind

    @property
    def is_up(self) -> bool:
        """Whether it is switched on and has a carrier."""
        return self.flags & IFF_UP != 0 and self.flags & IFF_RUNNING != 0


def kind_of(name: str, flags: int) -> InterfaceKind:
    """Tell the kind from the name and the IFF_* flags."""
    if flags & IFF_LOOPBACK:
        return InterfaceKind.LOOPBACK
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in CONTAINER_PATTERNS):
        return InterfaceKind.CONTAINERS
    return InterfaceKind.TUNNEL if flags & IFF_POINTOPOINT else InterfaceKind.LAN


def interfaces() -> tuple[Interface, ...]:
    """Return all interfaces, by index. Blocks for some 0.1 ms. Raises OSError when netlink is forbidden."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        for _ in range(MAX_DUMPS):
            links, whole_links = _dump(netlink, _RTM_GETLINK)
            addresses, whole_addresses = _dump(netlink, _RTM_GETADDR)
            if whole_links and whole_addresses:
                break
        # After MAX_DUMPS torn ones the last will do: what tore it also wakes whoever watches for changes.
        return parse_dump(links, addresses)


def parse_dump(links: Iterable[bytes], addresses: Iterable[bytes]) -> tuple[Interface, ...]:
    """Make interfaces of the bodies of RTM_NEWLINK and RTM_NEWADDR messages."""
    usable: dict[int, list[InterfaceAddress]] = {}
    for body in addresses:
        family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
        values = dict(attributes(body[_ADDRESS.size :]))
        raw = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
        if _IFA_FLAGS in values:
            flags = struct.unpack("=I", values[_IFA_FLAGS])[0]
        if raw is None or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if flags & (_IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE):
            continue
        temporary = family == socket.AF_INET6 and flags & _IFA_F_TEMPORARY != 0
        usable.setdefault(index, []).append(InterfaceAddress(socket.inet_ntop(family, raw), prefix, temporary))
    found = []
    for body in links:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        name = dict(attributes(body[_LINK.size :])).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        flags &= _FLAGS_OF_INTEREST
        found.append(Interface(name, index, tuple(usable.get(index, ())), flags, kind_of(name, flags)))
    return tuple(sorted(found, key=lambda interface: interface.index))


def _dump(netlink: socket.socket, request: int) -> tuple[list[bytes], bool]:
    """Return the bodies of a dump's messages, and whether nothing changed while it was made."""
    body = struct.pack("=Bxxx", socket.AF_UNSPEC) + bytes(12)
    netlink.send(HEADER.pack(HEADER.size + len(body), request, NLM_F_REQUEST | _NLM_F_DUMP, 1, 0) + body)
    bodies: list[bytes] = []
    whole = True
    while True:
        data = netlink.recv(1 << 16)
        while len(data) >= HEADER.size:
            length, kind, flags, _, _ = HEADER.unpack_from(data)
            whole = whole and not flags & _NLM_F_DUMP_INTERRUPTED
            message, data = data[HEADER.size : length], data[(length + 3) & ~3 :]
            if kind == _NLMSG_DONE:
                return bodies, whole
            if kind == NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", message)[0], "netlink refused to list interfaces")
            if kind in (_RTM_NEWLINK, _RTM_NEWADDR):
                bodies.append(message)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a message: types and values (rtnetlink(7))."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
