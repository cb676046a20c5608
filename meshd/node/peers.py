"""The other devices: which links are up, which one is in use, and what is known of the rest."""

from collections.abc import Callable, Iterable

import attrs

from meshd.ids import BundleId, NodeId, Priority
from meshd.links.choice import Contender, preferred, transport_rank
from meshd.links.events import DialFailed, LinkDown, LinkMeasured, LinkUp
from meshd.links.quality import Quality
from meshd.node.effects import CloseLink
from meshd.node.turn import Turn
from meshd.routing.budget import Budget
from meshd.transport.base import Address

WINDOW_BYTES = 4 * 1024 * 1024
"""Bundle bytes on a link that its peer has not acked; more wait in the spool."""

NO_ROW = 0
"""The row of what is not in the spool: ephemeral bundles, which are sent once."""

QUESTIONS_AT_ONCE = 8
QUESTIONS_PER_S = 0.1

_ADDRESSES_KEPT = 32
_BROKEN = ("lost", "P_TIMEOUT")
"""How links end that nobody closed."""


@attrs.frozen
class Unacked:
    """A bundle sent on a link, not acked by the hop: where it belongs in the spool."""

    destination: NodeId
    priority: Priority
    own: bool
    row: int
    size_bytes: int
    relay: NodeId | None = None
    """Where it is a copy for a mailbox."""
    copies: int = 0
    """How many copies a carrier was given with it."""
    is_copied: bool = False
    """Whether a copy went another way, because this link is silent."""


@attrs.frozen
class Probe:
    """A question to a neighbour: does it hear the device that is silent on a link here?"""

    link: int
    """To the neighbour."""
    neighbour: str
    hears: bool | None = None
    """The answer; None until it comes."""


@attrs.frozen
class Hearsay:
    """What a neighbour had said of a device by the time ``at`` which its link here had died of silence."""

    neighbour: str
    hears: bool | None
    at: float

    @property
    def words(self) -> str:
        """For people."""
        match self.hears:
            case True:
                return f"{self.neighbour} hears it: the path between is broken"
            case False:
                return f"{self.neighbour} does not hear it either: it is probably off, asleep or away"
            case None:
                return f"{self.neighbour} was asked about it, and could not tell in time"


@attrs.define(eq=False)
class Link:
    """One live link, as the node sees it."""

    up: LinkUp
    since: float
    name: str = ""
    suspect: bool = False
    rtt: float | None = None
    unacked: dict[BundleId, Unacked] = attrs.field(factory=dict)
    unacked_bytes: int = 0
    offered: set[bytes] = attrs.field(factory=set)
    """Sessions whose offer went over this link."""
    gone_round: set[BundleId] = attrs.field(factory=set)
    """Bundles of which a copy went over this link because a hop on their way had turned them away."""
    waiting: set[NodeId] = attrs.field(factory=set)
    """Destinations with mail that the window held back."""
    declines: bool = False
    """The peer was asked to carry, and would not, or had no room."""
    probe: Probe | None = None
    """What was asked about the peer since it fell silent."""
    asked_by: set[NodeId] = attrs.field(factory=set)
    """Neighbours that want to know whether the peer is heard here."""
    questions: Budget = attrs.field(factory=lambda: Budget(QUESTIONS_AT_ONCE, QUESTIONS_PER_S))
    """What the peer may still ask of roster and cards: it asks at the beginning of a link, and an answer may be all."""

    @property
    def number(self) -> int:
        """The link's number in this process."""
        return self.up.link

    @property
    def peer(self) -> NodeId:
        """Who is at the other end."""
        return self.up.peer

    @property
    def transport(self) -> str:
        """``quic``, ``websocket`` or ``memory``."""
        return self.up.transport

    @property
    def label(self) -> str:
        """Whom it leads to and over what, for people."""
        return f"{self.name} over {self.transport}" if self.name else self.transport

    @property
    def has_room(self) -> bool:
        """Whether another bundle may be sent before acks come."""
        return self.unacked_bytes < WINDOW_BYTES

    def sent(self, bundle: BundleId, unacked: Unacked) -> None:
        """A bundle was queued on the link."""
        before = self.unacked.get(bundle)
        self.unacked_bytes += unacked.size_bytes - (before.size_bytes if before is not None else 0)
        self.unacked[bundle] = unacked

    def acked(self, bundle: BundleId) -> Unacked | None:
        """The hop answered for a bundle; returns what it was, None when it was not expected."""
        unacked = self.unacked.pop(bundle, None)
        if unacked is not None:
            self.unacked_bytes -= unacked.size_bytes
        return unacked

    def forget(self, destination: NodeId, priority: Priority, *, own: bool) -> None:
        """What was sent of one queue is sent again: its acks are not waited for."""
        for bundle, unacked in list(self.unacked.items()):
            if (unacked.destination, unacked.priority, unacked.own) == (destination, priority, own):
                self.acked(bundle)

    def forget_unacked(self) -> None:
        """What was sent is sent again: start the window anew."""
        self.unacked.clear()
        self.unacked_bytes = 0


@attrs.define(eq=False)
class Peer:
    """What is known of one device, linked or not."""

    node: NodeId
    links: dict[int, Link] = attrs.field(factory=dict)
    chosen: Link | None = None
    addresses: dict[Address, str] = attrs.field(factory=dict)
    """Where it may be, and who says so (static, mdns, card, remembered)."""
    last_success: Address | None = None
    last_error: str | None = None
    was_linked: bool = False
    """In this life."""
    hearsay: Hearsay | None = None
    """Of the end of its last link, if that died of silence and there was anybody to ask."""
    quality: Quality = attrs.field(factory=Quality)
    transport: str | None = None
    """Of the last link in use."""
    upgrades: int = 0
    downgrades: int = 0
    """How often a link of a better, or a worse, transport took the place of the last one."""

    def use(self, link: Link) -> None:
        """From now on this link is in use."""
        self.chosen = link
        if self.transport is not None:
            self.upgrades += transport_rank(link.transport) < transport_rank(self.transport)
            self.downgrades += transport_rank(link.transport) > transport_rank(self.transport)
        self.transport = link.transport


class Peers:
    """All peers. One link of each is in use; a second one is closed as soon as both ends agree."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._links: dict[int, Link] = {}
        self.known: dict[NodeId, Peer] = {}
        self.next_hops: dict[NodeId, NodeId] = {}
        """Where routes lead, by destination; kept by the node from its router."""
        self.ways: Callable[[NodeId], list[NodeId]] = lambda _: []
        """The neighbours that offer a way to a device, the best first; answered by the router."""
        self.relays: tuple[NodeId, ...] = ()
        """Those that keep mail for absent devices, the one to use first."""

    def peer(self, node: NodeId) -> Peer:
        """The record of a device, made when first needed."""
        if node not in self.known:
            self.known[node] = Peer(node)
        return self.known[node]

    def link(self, number: int) -> Link | None:
        """The link of this number, unless it is gone."""
        return self._links.get(number)

    def link_to(self, node: NodeId) -> Link | None:
        """The link in use to a device."""
        peer = self.known.get(node)
        return None if peer is None else peer.chosen

    def toward(self, destination: NodeId) -> Link | None:
        """The link on which something for a device leaves: to itself, or to the next hop of its route."""
        hop = self.next_hops.get(destination, destination)
        return self.link_to(hop) or self.link_to(destination)

    def other_way(self, destination: NodeId, silent: Link) -> Link | None:
        """The link for copies of what went over one that is silent: to the device, or to whoever offers a way.

        An offer need not be feasible (RFC 8966, section 3.5.1): whoever gets back a bundle that it holds, or that it
        has sent, says so, and hops are counted.
        """
        links = (self.link_to(hop) for hop in (destination, *self.ways(destination)))
        return next((link for link in links if link is not None and link is not silent and not link.suspect), None)

    def depot(self, destination: NodeId) -> tuple[NodeId, Link] | None:
        """The relay that keeps copies for a device without a path now, and the link toward it."""
        if destination in self.relays:
            return None
        ways = ((relay, self.toward(relay)) for relay in self.relays)
        return next(((relay, link) for relay, link in ways if link is not None), None)

    def way(self, destination: NodeId) -> tuple[Link | None, NodeId | None]:
        """The link on which something for a device leaves: toward itself, or toward the named relay's mailbox."""
        link = self.toward(destination)
        depot = self.depot(destination) if link is None else None
        return (link, None) if depot is None else (depot[1], depot[0])

    def links(self) -> Iterable[Link]:
        """The links in use."""
        return [peer.chosen for peer in self.known.values() if peer.chosen is not None]

    def up(self, turn: Turn, event: LinkUp) -> Link:
        """A link came up. The caller has checked that the peer is a member."""
        link = Link(event, turn.now)
        peer = self.peer(event.peer)
        peer.was_linked = True
        peer.hearsay = None
        self._links[event.link] = peer.links[event.link] = link
        if event.dialed:
            peer.last_success = event.remote
            peer.last_error = None
        self._choose(turn, peer)
        return link

    def down(self, turn: Turn, event: LinkDown) -> Link | None:
        """A link is gone. Returns it when it was the one in use and no other took its place."""
        link = self._links.pop(event.link, None)
        if link is None:
            return None
        peer = self.peer(event.peer)
        del peer.links[event.link]
        if peer.chosen is not link:
            return None
        if event.code != "closed":
            peer.last_error = f"{event.code}: {event.reason}"
        if event.code in _BROKEN:
            peer.quality.flapped(turn.now)
        peer.chosen = None
        self._choose(turn, peer)
        return link

    def _choose(self, turn: Turn, peer: Peer) -> None:
        before = peer.chosen
        if peer.links:
            best = preferred([self._contender(link) for link in peer.links.values()])
            if peer.links[best.link] is not before:
                peer.use(peer.links[best.link])
            for link in peer.links.values():
                if link is not peer.chosen:
                    turn.emit(CloseLink(link.number, "closed", "another link to the same device is in use"))

    def _contender(self, link: Link) -> Contender:
        dialer = self._me if link.up.dialed else link.peer
        return Contender(link=link.number, transport=link.transport, dialer=dialer, peer_epoch=link.up.epoch)

    def measured(self, event: LinkMeasured) -> None:
        """A link's round trip was measured, or its peer fell silent."""
        link = self._links.get(event.link)
        if link is None:
            return
        link.suspect = event.suspect
        if event.rtt is not None:
            link.rtt = event.rtt
        self.peer(link.peer).quality.measured(
            rtt=event.rtt, answered=event.answered, lost=event.lost, throughput=event.throughput
        )

    def dial_failed(self, event: DialFailed) -> None:
        """An attempt on one address failed."""
        self.peer(event.peer).last_error = f"{event.address}: {event.reason}"

    def seen(self, node: NodeId, addresses: Iterable[tuple[Address, str]]) -> bool:
        """A device may be at these addresses. Returns whether any is new."""
        known = self.peer(node).addresses
        news = False
        for address, source in addresses:
            if address not in known:
                news = True
                if len(known) >= _ADDRESSES_KEPT:  # what a person wrote down stays: anybody can announce others
                    del known[next((old for old in known if known[old] != "static"), next(iter(known)))]
            known[address] = source
        return news

    def lasting(self, node: NodeId) -> list[tuple[Address, str]]:
        """Its addresses that were remembered, or written down by a person.

        What was announced was told to the dialer at once, and what is in old cards may be nobody's any more.
        """
        return [item for item in self.peer(node).addresses.items() if item[1] not in ("mdns", "card")]
