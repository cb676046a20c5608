"""Socket addresses and bound sockets, the same for TCP and UDP: dual stack where the kernel can."""

import errno
import ipaddress
import socket
from typing import TypeAlias

from meshd.transport.base import Address

SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""(host, port) of IPv4, or (host, port, flow, scope) of IPv6, as the socket module has them."""


def to_address(transport: str, sockaddr: SockAddr) -> Address:
    """The address as people know it: IPv4 in plain form, IPv6 link-local with its interface."""
    host, _, interface = sockaddr[0].partition("%")
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return Address(transport, str(ip.ipv4_mapped), sockaddr[1])
        if not interface and len(sockaddr) == 4 and sockaddr[3]:
            interface = _interface_name(sockaddr[3])
    return Address(transport, f"{ip}%{interface}" if interface else str(ip), sockaddr[1])


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)  # the interface has just gone


def bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    """Return a non-blocking socket bound to an IP literal; ``::`` takes IPv4 as well.

    Raises OSError that names the address.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    try:
        if ip.version == 6:
            return _bind(socket.AF_INET6, kind, host, port)
        return _bind(socket.AF_INET, kind, host, port)
    except OSError as error:
        if host == "::" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return bind(kind, "0.0.0.0", port)  # a kernel without IPv6
        shown = f"[{host}]" if ip.version == 6 else host
        name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
        raise OSError(error.errno, f"can't listen on {name} {shown}:{port}: {error.strerror}") from error


def _bind(family: socket.AddressFamily, kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    flags = socket.AI_NUMERICHOST | socket.AI_PASSIVE
    sockaddr = socket.getaddrinfo(host, port, family, kind, flags=flags)[0][4]
    bound = socket.socket(family, kind)
    try:
        bound.setblocking(False)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        if kind is socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(sockaddr)
    except BaseException:
        bound.close()
        raise
    return bound
