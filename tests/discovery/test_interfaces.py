"""Reading interfaces from the kernel, and from messages as the kernel makes them."""

import socket
import struct

import pytest

from meshd.discovery.interfaces import (
    IFF_LOOPBACK,
    IFF_MULTICAST,
    IFF_POINTOPOINT,
    IFF_RUNNING,
    IFF_UP,
    Interface,
    InterfaceAddress,
    InterfaceKind,
    interfaces,
    kind_of,
    parse_dump,
)

TENTATIVE, DEPRECATED, DADFAILED, TEMPORARY, PERMANENT = 0x40, 0x20, 0x08, 0x01, 0x80


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def link(index: int, name: str, flags: int) -> bytes:
    return (
        struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(13, b"\0" * 4) + attribute(3, name.encode() + b"\0")
    )


def address(index: int, text: str, prefix: int, flags: int = PERMANENT) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    raw = socket.inet_pton(family, text)
    local = b"" if ":" in text else attribute(2, raw)
    # IFA_ADDRESS is the far end on a point-to-point interface; IFA_FLAGS holds the flags that need over 8 bits.
    head = struct.pack("=BBBBI", family, prefix, 0, 0, index)
    far_end = raw if ":" in text else bytes(4)
    return head + attribute(1, far_end) + local + attribute(8, struct.pack("=I", flags))


def test_loopback_is_found_on_this_machine() -> None:
    loopback = next(interface for interface in interfaces() if interface.name == "lo")
    assert loopback.kind is InterfaceKind.LOOPBACK
    assert loopback.index == socket.if_nametoindex("lo")
    assert InterfaceAddress("127.0.0.1", 8) in loopback.addresses
    assert loopback.is_up


def test_every_interface_is_found() -> None:
    assert [(found.index, found.name) for found in interfaces()] == sorted(socket.if_nameindex())


def test_links_and_addresses_are_joined() -> None:
    flags = IFF_UP | IFF_RUNNING | IFF_MULTICAST
    found = parse_dump(
        [link(7, "wlan0", flags | 0x100), link(2, "eth0", IFF_MULTICAST)],
        [address(7, "192.168.1.5", 24), address(7, "fe80::5", 64), address(9, "10.0.0.1", 8)],
    )
    assert found == (
        Interface("eth0", 2, (), IFF_MULTICAST, InterfaceKind.LAN),
        Interface(
            "wlan0", 7, (InterfaceAddress("192.168.1.5", 24), InterfaceAddress("fe80::5", 64)), flags, InterfaceKind.LAN
        ),
    )
    assert [interface.is_up for interface in found] == [False, True]
    assert [str(found.network) for found in found[1].addresses] == ["192.168.1.0/24", "fe80::/64"]


@pytest.mark.parametrize("flags", [TENTATIVE, DEPRECATED, DADFAILED, PERMANENT | TENTATIVE])
def test_addresses_that_can_not_be_used_are_left_out(flags: int) -> None:
    assert parse_dump([link(1, "eth0", 0)], [address(1, "2001:db8::1", 64, flags)])[0].addresses == ()


def test_the_temporary_flag_counts_for_ipv6_only() -> None:
    """For IPv4 the same bit means a secondary address."""
    found = parse_dump(
        [link(1, "eth0", 0)], [address(1, "2001:db8::1", 64, TEMPORARY), address(1, "10.0.0.2", 8, TEMPORARY)]
    )
    assert found[0].addresses == (InterfaceAddress("2001:db8::1", 64, True), InterfaceAddress("10.0.0.2", 8))


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("eth0", 0, InterfaceKind.LAN),
        ("wlp3s0", 0, InterfaceKind.LAN),
        ("br0", 0, InterfaceKind.LAN),
        ("bridge", 0, InterfaceKind.LAN),
        ("lo", IFF_LOOPBACK, InterfaceKind.LOOPBACK),
        ("wg0", IFF_POINTOPOINT, InterfaceKind.TUNNEL),
        ("docker0", 0, InterfaceKind.CONTAINERS),
        ("br-0123456789ab", 0, InterfaceKind.CONTAINERS),
        ("virbr0", 0, InterfaceKind.CONTAINERS),
        ("veth12ab", 0, InterfaceKind.CONTAINERS),
        ("lxcbr0", 0, InterfaceKind.CONTAINERS),
        ("vmnet8", 0, InterfaceKind.CONTAINERS),
        ("podman1", 0, InterfaceKind.CONTAINERS),
        ("cni0", 0, InterfaceKind.CONTAINERS),
    ],
)
def test_kinds(name: str, flags: int, kind: InterfaceKind) -> None:
    assert kind_of(name, flags) is kind
