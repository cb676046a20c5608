"""Which address to dial first, and which of several links to one peer to keep. Pure."""

import ipaddress
from collections.abc import Iterable, Sequence

import attrs

from meshd.ids import Epoch, NodeId
from meshd.transport.base import Address

TRANSPORT_ORDER = ("memory", "quic", "websocket")
"""Best first. Part of the protocol: both ends must choose the same link."""

SOURCES = ("static", "mdns", "card", "remembered")
"""Who told of an address, most trusted first."""

FAILURE_MEMORY_SECONDS = 60.0
"""A failed address ranks last for so long, then like a fresh one."""


@attrs.frozen(kw_only=True)
class Candidate:
    """One address a peer may be reached at, and what happened there. Times are on the dialer's clock.

    Args:
        source: one of SOURCES.
        last_error: of the last attempt, when it failed.
        is_outdated: the peer has since announced others on that network, or somebody has in its name.
    """

    address: Address
    source: str
    last_error: str | None = None
    last_tried: float | None = None
    last_success: float | None = None
    is_outdated: bool = False


@attrs.frozen(kw_only=True)
class LocalNetwork:
    """One network that an interface of ours is in.

    Args:
        bridge: the interface is a virtual bridge of this machine (Docker, libvirt), behind which no peer lives.
    """

    interface: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    bridge: bool = False


def rank(candidates: Iterable[Candidate], networks: Sequence[LocalNetwork], now: float) -> list[Candidate]:
    """The candidates worth dialing, best first; those behind our own virtual bridges are left out.

    Configured (static) addresses are always kept: a person may well mean a container.
    """
    worth = [
        (candidate, home)
        for candidate in candidates
        for home in [home_of(candidate.address, networks)]
        if home is None or not home.bridge or candidate.source == "static"
    ]
    worth.sort(key=lambda pair: _key(pair[0], pair[1] is not None, now))
    return [candidate for candidate, _ in worth]


def interleave(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The same candidates with the transports taking turns, so that a blocked one delays others by one step only."""
    lanes: dict[str, list[Candidate]] = {}
    for candidate in ranked:
        lanes.setdefault(candidate.address.transport, []).append(candidate)
    order = {id(candidate): (place, n) for n, lane in enumerate(lanes.values()) for place, candidate in enumerate(lane)}
    return sorted(ranked, key=lambda candidate: order[id(candidate)])


def transport_rank(transport: str) -> int:
    """Lower is better; unknown transports come last."""
    return TRANSPORT_ORDER.index(transport) if transport in TRANSPORT_ORDER else len(TRANSPORT_ORDER)


@attrs.frozen(kw_only=True)
class Contender:
    """A live link, as far as the choice between several to one peer needs to know it.

    Args:
        link: its number here; higher means younger.
        dialer: id of the side that opened it.
        peer_epoch: the peer's life it was made in.
    """

    link: int
    transport: str
    dialer: NodeId
    peer_epoch: Epoch


def preferred(links: Sequence[Contender]) -> Contender:
    """The one link to keep; both ends choose the same. ``links`` is not empty.

    Links from an earlier life of the peer lose. Then the better transport wins, then the link dialed by
    the lower id, then the youngest: a dialer that dials again knows that the older one is gone.
    """
    newest = max(contender.peer_epoch for contender in links)
    return min(
        (contender for contender in links if contender.peer_epoch == newest),
        key=lambda contender: (transport_rank(contender.transport), contender.dialer, -contender.link),
    )


def _key(candidate: Candidate, near: bool, now: float) -> tuple[object, ...]:
    return (
        _failed_lately(candidate, now),
        candidate.is_outdated,
        not near,
        candidate.last_success is None,
        transport_rank(candidate.address.transport),
        SOURCES.index(candidate.source),
        -(candidate.last_success or 0.0),
        str(candidate.address),
    )


def _failed_lately(candidate: Candidate, now: float) -> bool:
    return (
        candidate.last_error is not None
        and candidate.last_tried is not None
        and now - candidate.last_tried < FAILURE_MEMORY_SECONDS
    )


def home_of(address: Address, networks: Sequence[LocalNetwork]) -> LocalNetwork | None:
    """The network of ours that the address is in, if any: the most specific, a real one before a bridge."""
    host, _, scope = address.host.partition("%")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None  # a name: only the resolver knows
    homes = [
        network
        for network in networks
        if ip in network.network and (not ip.is_link_local or scope in ("", network.interface))
    ]
    return min(homes, key=lambda home: (home.bridge, -home.network.prefixlen), default=None)
