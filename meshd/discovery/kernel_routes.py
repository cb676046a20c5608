"""Which interface the kernel sends through to a host, and whether the host answers there (rtnetlink(7))."""

import socket
import struct
from pathlib import Path

from meshd.discovery.interfaces import HEADER, NLM_F_REQUEST, NLMSG_ERROR, attributes

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RTA_DST, _RTA_OIF = 1, 4
_ARP_TABLE = Path("/proc/net/arp")
_ARP_COMPLETE = 0x2


def route_interface(host: str) -> int | None:
    """The index of the interface that packets to ``host`` (an IP literal) leave by; None when there is no route."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.inet_pton(family, host.partition("%")[0])
    body = _ROUTE.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address), _RTA_DST) + address
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.send(HEADER.pack(HEADER.size + len(body), _RTM_GETROUTE, NLM_F_REQUEST, 1, 0) + body)
        data = netlink.recv(1 << 16)
    length, kind, _, _, _ = HEADER.unpack_from(data)
    if kind == NLMSG_ERROR or kind != _RTM_NEWROUTE:
        return None
    found = dict(attributes(data[HEADER.size + _ROUTE.size : length]))
    raw = found.get(_RTA_OIF)
    return None if raw is None else int(struct.unpack("=I", raw)[0])


def arp_silent() -> frozenset[str]:
    """IPv4 neighbours that were asked for lately and do not answer (arp(7))."""
    try:
        lines = _ARP_TABLE.read_text(encoding="ascii").splitlines()[1:]
    except OSError:  # no IPv4, or no /proc
        return frozenset()
    rows = [line.split() for line in lines]
    return frozenset(row[0] for row in rows if len(row) >= 3 and not int(row[2], 16) & _ARP_COMPLETE)
