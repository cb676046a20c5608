"""What the doctor has found out, before anything is concluded from it. Pure."""

import ipaddress
from collections.abc import Mapping, Sequence

import attrs

from meshd.discovery.presence import Place
from meshd.node.insight.premises import Premises
from meshd.node.insight.vitals import Outage
from meshd.wire.inquiry import Dialed


@attrs.frozen(kw_only=True)
class PeerEvidence:
    """What is known of another device, from both sides.

    Args:
        interface: the one that its link goes through, when it is in the same network; None else.
        via: the name of the next hop when it is reached through another device.
        nearby: addresses of it that lie in a network of ours.
        version, ahead_s: what it says; how far its wall clock is ahead of ours.
        silent: why it did not answer, None when it did.
        dialed: by us; dialed_us: by it, None when it was not asked or did not answer.
        caught_ours: (interface index of ours, group) of our multicast probes that it caught; None when unknown.
        caught: (interface of ours, group) of its probes that came here.
        captured: (address, interface that leads there, interface that the kernel sends through instead).
        arp_silent: addresses nearby that don't even answer ARP.
        last_error: of the last attempt to link with it, None while it is linked.
    """

    name: str
    linked: bool
    interface: str | None = None
    via: str | None = None
    nearby: tuple[str, ...] = ()
    version: str | None = None
    ahead_s: float | None = None
    silent: str | None = None
    dialed: tuple[Dialed, ...] = ()
    dialed_us: tuple[Dialed, ...] | None = None
    caught_ours: frozenset[tuple[int, str]] | None = None
    caught: frozenset[tuple[str, str]] = frozenset()
    captured: tuple[tuple[str, str, str], ...] = ()
    arp_silent: tuple[str, ...] = ()
    last_error: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it is certain that the device is on."""
        reached = any(one.error is None for one in (*self.dialed, *(self.dialed_us or ())))
        return self.linked or self.via is not None or bool(self.caught) or reached


@attrs.frozen(kw_only=True)
class Evidence:
    """Everything that a verdict may rest on.

    Args:
        removed: whether the mesh has shut this device out.
        bound: addresses by transport; configured: whether the transport is to listen at all.
        places: interfaces that this device is found on.
        multicast: whether discovery uses it.
        wall_s: this device's wall clock, seconds since 1970.
        reserve_bytes: free disk below which no mail is taken.
        outages: parts of the daemon that don't run, by name.
        relays: by name, whether there is a link.
    """

    version: str
    name: str
    mesh: str | None
    removed: bool
    bound: dict[str, tuple[str, ...]]
    ports: dict[str, int | None]
    configured: dict[str, bool]
    places: tuple[Place, ...]
    multicast: bool
    wall_s: float
    reserve_bytes: int
    premises: Premises
    peers: tuple[PeerEvidence, ...]
    relays: dict[str, bool] = attrs.field(factory=dict)
    outages: Mapping[str, Outage] = attrs.field(factory=dict)


def interface_of(host: str, places: Sequence[Place]) -> str | None:
    """The interface of ours whose network ``host`` (an IP literal) lies in."""
    bare, _, scope = host.partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    for place in places:
        interface = place.interface
        if address.is_link_local and address.version == 6:
            if scope == interface.name:
                return interface.name
        elif any(address in own.network for own in interface.addresses):
            return interface.name
    return None
