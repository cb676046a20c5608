"""Addresses as people know them, and sockets that are bound or say why not."""

import socket

import pytest

from meshd.transport.base import Address
from meshd.transport.sockets import SockAddr, bind, to_address


@pytest.mark.parametrize(
    ("sockaddr", "host"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::1"),
        (("fe80::1%lo", 5, 0, 1), "fe80::1%lo"),
        (("fe80::1", 5, 0, 1), "fe80::1%lo"),
        (("fe80::1", 5, 0, 999_999), "fe80::1%999999"),
    ],
)
def test_addresses_are_shown_in_one_form(sockaddr: SockAddr, host: str) -> None:
    assert to_address("quic", sockaddr) == Address("quic", host, 5)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_any_address_takes_both_families(kind: socket.SocketKind) -> None:
    with bind(kind, "::", 0) as bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        assert not bound.getblocking()
        if kind is socket.SOCK_STREAM:
            bound.listen()
        with pytest.raises(OSError, match=rf"can't listen on \w+ \[::\]:{bound.getsockname()[1]}: "):
            bind(kind, "::", bound.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_address_is_one_family(host: str) -> None:
    with bind(socket.SOCK_STREAM, host, 0) as bound:
        assert to_address("websocket", bound.getsockname()).host == host


def test_addresses_of_others_are_named_in_the_error() -> None:
    with pytest.raises(OSError, match=r"can't listen on TCP 192\.0\.2\.1:0: "):
        bind(socket.SOCK_STREAM, "192.0.2.1", 0)
