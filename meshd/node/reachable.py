"""Where others may reach this device: bound sockets and interfaces in, addresses for the card out. Pure."""

from collections.abc import Collection, Sequence

from meshd.discovery.interfaces import Interface, InterfaceKind
from meshd.kinds import relay_place
from meshd.transport.base import Address
from meshd.trust.card import CardAddress


def reachable_addresses(
    bound: Sequence[Address], interfaces: Sequence[Interface], named: Collection[str]
) -> tuple[CardAddress, ...]:
    """The addresses of our LAN interfaces, at the ports that are bound.

    Args:
        named: the interfaces that a person allowed by name; any LAN interface when there is none.
    """
    hosts = [
        address.host.partition("%")[0]
        for interface in interfaces
        for address in interface.addresses
        if interface.is_up
        and not address.temporary
        and (interface.name in named if named else interface.kind is InterfaceKind.LAN)
    ]
    found = [
        CardAddress(place.transport, host, place.port)
        for host in hosts
        if not host.lower().startswith("fe80:")
        for place in bound
        if place.host in ("::", "0.0.0.0", host) and not (place.host == "0.0.0.0" and ":" in host)
    ]
    # Told to listen on this machine alone, it is reached there; else a loopback address would mislead others.
    found += [CardAddress(place.transport, place.host, place.port) for place in bound if place.is_loopback]
    return tuple(dict.fromkeys(found))


def addresses_of_urls(urls: Sequence[str]) -> tuple[CardAddress, ...]:
    """Where a relay is reached, as its URLs say."""
    return tuple(CardAddress(*relay_place(url)) for url in urls)
