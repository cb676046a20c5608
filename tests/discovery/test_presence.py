"""Where a device announces itself, and with which addresses."""

from pathlib import Path

import pytest

from meshd.discovery.interfaces import (
    CONTAINER_PATTERNS,
    IFF_LOOPBACK,
    IFF_MULTICAST,
    IFF_POINTOPOINT,
    IFF_RUNNING,
    IFF_UP,
    Interface,
    InterfaceAddress,
    kind_of,
)
from meshd.discovery.presence import MAX_HOSTS, announced_hosts, places

UP = IFF_UP | IFF_RUNNING


def interface(name: str, *hosts: str, flags: int = UP | IFF_MULTICAST) -> Interface:
    addresses = tuple(InterfaceAddress(host, 64 if ":" in host else 24) for host in hosts)
    return Interface(name, 1, addresses, flags, kind_of(name, flags))


MACHINE = (
    interface("lo", "127.0.0.1", "::1", flags=UP | IFF_LOOPBACK),
    interface("eth0", "192.168.1.5", "fe80::5"),
    interface("wlan0", "10.0.0.5"),
    interface("docker0", "172.17.0.1"),
    interface("veth1", "fe80::1"),
    interface("tun0", "10.8.0.2", flags=UP | IFF_MULTICAST | IFF_POINTOPOINT),
    interface("eth1", "192.168.2.5", flags=IFF_UP | IFF_MULTICAST),
    interface("eth2", "192.168.3.5", flags=UP),
    interface("eth3"),
)


@pytest.mark.parametrize(
    ("named", "chosen"),
    [
        ([], ["eth0", "wlan0"]),
        (["wlan0"], ["wlan0"]),
        (["lo"], ["lo"]),
        (["docker0", "tun0", "eth2"], ["docker0", "tun0", "eth2"]),
        (["eth1"], []),
        (["eth3"], []),
        (["eth9"], []),
    ],
)
def test_choice_of_interfaces(named: list[str], chosen: list[str]) -> None:
    assert sorted(place.interface.name for place in places(MACHINE, named)) == sorted(chosen)


def test_each_place_has_its_own_addresses_only() -> None:
    assert [place.hosts for place in places(MACHINE, [])] == [("192.168.1.5", "fe80::5"), ("10.0.0.5",)]


def test_what_to_send_over() -> None:
    both, four, six = (
        places([interface("eth0", *hosts)], [])[0] for hosts in (["::2", "10.0.0.5"], ["10.0.0.5"], ["fe80::5"])
    )
    assert [(place.ipv4, place.ipv6) for place in (both, four, six)] == [
        ("10.0.0.5", True),
        ("10.0.0.5", False),
        (None, True),
    ]


def test_temporary_addresses_are_not_announced() -> None:
    addresses = (InterfaceAddress("2001:db8::1", 64, temporary=True), InterfaceAddress("2001:db8::2", 64))
    assert announced_hosts(Interface("eth0", 1, addresses, UP, kind_of("eth0", UP))) == ("2001:db8::2",)


def test_loopback_is_announced_over_ipv4_alone() -> None:
    assert announced_hosts(MACHINE[0]) == ("127.0.0.1",)


def test_addresses_are_bounded() -> None:
    many = interface("eth0", *[f"10.0.0.{number}" for number in range(1, 100)])
    assert len(announced_hosts(many)) == MAX_HOSTS


def test_the_container_names_are_documented() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "configuration.md").read_text()
    assert [pattern for pattern in CONTAINER_PATTERNS if f"`{pattern}`" not in text] == []
