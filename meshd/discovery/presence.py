"""What to announce, and on which interfaces. Pure."""

import ipaddress
from collections.abc import Collection, Sequence

import attrs

from meshd.discovery.interfaces import IFF_MULTICAST, Interface, InterfaceKind

MAX_HOSTS = 8
"""Addresses announced on one interface."""


@attrs.frozen(kw_only=True)
class Presence:
    """This device as it appears on one interface. A presence that changed is set up anew.

    Args:
        ipv4: the address to send from over IPv4, None without one.
        ipv6: whether to send over IPv6 too.
        hosts: the addresses to announce: those of this interface alone.
        txt: the TXT record's content.
        port: the SRV record's port; 0 for a device that takes no links, which only listens.
        generation: a new one has the presence set up anew although nothing else changed.
    """

    interface: str
    index: int
    ipv4: str | None
    ipv6: bool
    hosts: tuple[str, ...]
    loopback: bool
    txt: tuple[tuple[str, bytes], ...]
    port: int
    generation: int


@attrs.frozen
class Place:
    """An interface to be present on, with the addresses to announce there."""

    interface: Interface
    hosts: tuple[str, ...]

    @property
    def ipv4(self) -> str | None:
        """The first IPv4 address."""
        return next((host for host in self.hosts if ":" not in host), None)

    @property
    def ipv6(self) -> bool:
        """Whether there is an IPv6 address."""
        return any(":" in host for host in self.hosts)


def places(interfaces: Sequence[Interface], named: Collection[str]) -> tuple[Place, ...]:
    """Choose the interfaces to announce on.

    Args:
        named: the names in ``discovery.interfaces``: exactly these, of whatever kind. Empty for all that
            lead to a local network; loopback, tunnels and the bridges of containers do not.
    """
    found = (Place(interface, announced_hosts(interface)) for interface in interfaces if _is_chosen(interface, named))
    return tuple(place for place in found if place.hosts)


def _is_chosen(interface: Interface, named: Collection[str]) -> bool:
    if not interface.is_up:
        return False
    if named:
        return interface.name in named
    return interface.kind is InterfaceKind.LAN and interface.flags & IFF_MULTICAST != 0


def announced_hosts(interface: Interface) -> tuple[str, ...]:
    """The addresses of ``interface`` that others should dial.

    Not the temporary ones: they are for going out unrecognised, and change daily. On loopback only IPv4,
    where multicast works without a route.
    """
    hosts = [address.host for address in interface.addresses if not address.temporary]
    if interface.kind is InterfaceKind.LOOPBACK:
        return tuple(host for host in hosts if ":" not in host and ipaddress.ip_address(host).is_loopback)[:1]
    return tuple(host for host in hosts if not ipaddress.ip_address(host).is_loopback)[:MAX_HOSTS]
