"""What has been heard over multicast DNS, and which members it came from. Pure.

A device announces ``salt`` and ``tag = HMAC(genesis hash; salt, node id)``: whoever knows the mesh and its
members finds out who it is by trying them, and anybody else sees noise that changes with each start.
Everything here may have been sent by a stranger, so all of it is bounded.
"""

import ipaddress
from collections import Counter
from collections.abc import Mapping

import attrs

from meshd.discovery.events import PeerGone, PeerSeen
from meshd.ids import NodeId
from meshd.transport.base import Address
from meshd.trust.roster import discovery_tag

SALT_SIZE = 8
TAG_SIZE = 8

MAX_INSTANCES = 1024
"""Announcements remembered at a time."""

MAX_HOSTS = 8
"""Addresses taken from one announcement."""


@attrs.frozen
class Advert:
    """The content of a TXT record, version 1."""

    salt: bytes
    tag: bytes
    quic_port: int | None
    websocket_port: int | None

    def to_txt(self) -> dict[str, bytes]:
        """The TXT record's keys and values (RFC 6763 section 6)."""
        txt = {"v": b"1", "s": self.salt, "t": self.tag}
        ports = {"q": self.quic_port, "w": self.websocket_port}
        return txt | {key: b"%d" % port for key, port in ports.items() if port is not None}

    @classmethod
    def from_txt(cls, txt: Mapping[bytes, bytes | None]) -> "Advert":
        """Inverse of :meth:`to_txt`; unknown keys are ignored. Raises ValueError on anything malformed."""
        salt, tag = txt.get(b"s") or b"", txt.get(b"t") or b""
        if txt.get(b"v") != b"1" or len(salt) != SALT_SIZE or len(tag) != TAG_SIZE:
            raise ValueError("not an announcement of version 1")
        advert = cls(salt, tag, _read_port(txt.get(b"q")), _read_port(txt.get(b"w")))
        if advert.quic_port is None and advert.websocket_port is None:
            raise ValueError("no port")
        return advert


def _read_port(text: bytes | None) -> int | None:
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 5 and 0 < int(text) < 65_536):
        raise ValueError("not a port")
    return int(text)


@attrs.frozen
class Heard:
    """An announcement, as it came in on ``interface``. ``loopback`` when that one is this machine's own."""

    interface: str
    instance: str
    txt: Mapping[bytes, bytes | None]
    hosts: tuple[str, ...]
    loopback: bool


@attrs.frozen
class Lost:
    """An announcement ended: withdrawn, or too old."""

    interface: str
    instance: str


@attrs.frozen
class Opening:
    """An interface was opened for discovery; or it could not be, and ``reason`` says why."""

    interface: str
    reason: str | None


@attrs.frozen
class SightingStatistics:
    """Counts since the start; ``remembered`` and ``strangers`` are of now."""

    remembered: int
    strangers: int
    malformed: int
    evicted: int
    dropped: int


@attrs.define
class _Instance:
    advert: Advert
    hosts: tuple[str, ...]
    peer: NodeId | None


class Sightings:
    """Remembers announcements by (interface, instance name), and tells when a member comes or goes."""

    def __init__(self, *, max_instances: int = MAX_INSTANCES) -> None:
        self._max_instances = max_instances
        self._genesis_hash: bytes | None = None
        self._members: frozenset[NodeId] = frozenset()
        self._instances: dict[tuple[str, str], _Instance] = {}
        self._peers: dict[tuple[bytes, bytes], NodeId] = {}
        self._counts: Counter[str] = Counter()

    def enter_mesh(self, genesis_hash: bytes | None) -> None:
        """Look for the devices of another mesh, or of none; what was heard so far is forgotten."""
        self._genesis_hash = genesis_hash
        self._instances.clear()
        self._peers.clear()

    def set_members(self, members: frozenset[NodeId]) -> tuple[PeerSeen, ...]:
        """Look for these devices from now on. Returns those of them that were heard before."""
        added, self._members = members - self._members, members
        self._peers = {advert: peer for advert, peer in self._peers.items() if peer in members}
        seen = []
        for (interface, _), instance in self._instances.items():
            if instance.peer is not None and instance.peer not in members:
                instance.peer = None
            elif instance.peer is None and (peer := self._identify(instance.advert, added)) is not None:
                instance.peer = peer
                seen.append(_sighting(interface, instance, peer))
        return tuple(seen)

    def heard(self, heard: Heard) -> PeerSeen | None:
        """Take an announcement in. Returns the sighting when it is a member's and tells something new."""
        try:
            advert = Advert.from_txt(heard.txt)
            hosts = _dialable(heard)
        except ValueError:
            self._counts["malformed"] += 1
            return None
        key = (heard.interface, heard.instance)
        before = self._instances.pop(key, None)
        if len(self._instances) >= self._max_instances:
            self._evict()
        instance = _Instance(advert, hosts, self._identify(advert, self._members))
        self._instances[key] = instance
        if instance.peer is None or instance == before:
            return None
        return _sighting(heard.interface, instance, instance.peer)

    def lost(self, lost: Lost) -> PeerGone | None:
        """Forget an announcement. Returns the event when it was a member's last one on that interface."""
        instance = self._instances.pop((lost.interface, lost.instance), None)
        if instance is None or instance.peer is None or instance.peer in self._peers_on(lost.interface):
            return None
        return PeerGone(instance.peer, lost.interface)

    def close_interface(self, interface: str) -> tuple[PeerGone, ...]:
        """Forget all that was heard on ``interface``. Returns an event for each member heard there."""
        peers = self._peers_on(interface)
        self._instances = {key: instance for key, instance in self._instances.items() if key[0] != interface}
        return tuple(PeerGone(peer, interface) for peer in sorted(peers))

    def count_dropped(self) -> None:
        """Count an announcement that came in faster than they are looked at."""
        self._counts["dropped"] += 1

    def statistics(self) -> SightingStatistics:
        """A snapshot."""
        return SightingStatistics(
            remembered=len(self._instances),
            strangers=sum(instance.peer is None for instance in self._instances.values()),
            malformed=self._counts["malformed"],
            evicted=self._counts["evicted"],
            dropped=self._counts["dropped"],
        )

    def _peers_on(self, interface: str) -> set[NodeId]:
        return {
            instance.peer
            for key, instance in self._instances.items()
            if key[0] == interface and instance.peer is not None
        }

    def _identify(self, advert: Advert, members: frozenset[NodeId]) -> NodeId | None:
        """Try each of ``members``: some 2 us each, once for each device's start."""
        key = (advert.salt, advert.tag)
        if self._genesis_hash is None or key in self._peers:
            return self._peers.get(key)
        for member in members:
            if discovery_tag(self._genesis_hash, advert.salt, member) == advert.tag:
                if len(self._peers) >= self._max_instances:
                    self._peers.clear()
                self._peers[key] = member
                return member
        return None

    def _evict(self) -> None:
        """Make room: the oldest stranger goes first, so that a flood of them pushes out no member."""
        strangers = (key for key, instance in self._instances.items() if instance.peer is None)
        del self._instances[next(strangers, next(iter(self._instances)))]
        self._counts["evicted"] += 1


def _dialable(heard: Heard) -> tuple[str, ...]:
    """The addresses worth a try, each once; link-local IPv6 ones with the interface they were heard on.

    Raises ValueError when there is none.
    """
    hosts: dict[str, None] = {}
    for text in heard.hosts:
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.is_multicast or address.is_unspecified or address.is_loopback != heard.loopback:
            continue
        scoped = address.version == 6 and address.is_link_local
        hosts[f"{address}%{heard.interface}" if scoped else str(address)] = None
    if not hosts:
        raise ValueError("no address")
    return tuple(hosts)[:MAX_HOSTS]


def _sighting(interface: str, instance: _Instance, peer: NodeId) -> PeerSeen:
    ports = {"quic": instance.advert.quic_port, "websocket": instance.advert.websocket_port}
    addresses = tuple(
        Address(transport, host, port)
        for transport, port in ports.items()
        if port is not None
        for host in instance.hosts
    )
    return PeerSeen(peer, addresses, "mdns", interface)
