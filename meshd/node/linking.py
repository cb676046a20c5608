"""Links as they come and go: what each change means for peers, routes, mail and the record."""

import attrs

from meshd.discovery.events import ThriftChanged
from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.links.choice import transport_rank
from meshd.links.events import LinkDown, LinkMeasured, LinkUp
from meshd.node.arriving import Arriving
from meshd.node.carriers import Carriers
from meshd.node.company import Company
from meshd.node.effects import CloseLink
from meshd.node.exchange import Exchange
from meshd.node.handover import Handover
from meshd.node.insight.chronicle import Chronicle
from meshd.node.membership import Membership
from meshd.node.notices import Notices
from meshd.node.peers import Link, Peers
from meshd.node.probes import Probes
from meshd.node.routes import Routes
from meshd.node.spool import Spool
from meshd.node.tally import count, count_reason
from meshd.node.turn import Turn
from meshd.store.ops import PutFact
from meshd.wire import codec

MAX_LIVES_LOST = 1 << 16
"""Starts that a peer's word alone counts for, at each link: a larger claim would wear out the counter. That more of
them were lost is shown by a route that this device has signed."""


@attrs.define(eq=False, kw_only=True)
class Linking:
    """Tells every part about links and paths, in the right order.

    Args:
        seen: the highest epoch of this device that the mesh has been heard to know, in this life, of those that
            another life had, or that this one needs another for.
    """

    membership: Membership
    peers: Peers
    routes: Routes
    spool: Spool
    handover: Handover
    arriving: Arriving
    exchange: Exchange
    chronicle: Chronicle
    notices: Notices
    company: Company
    carriers: Carriers
    probes: Probes
    seen: Epoch | None = None
    _transports: dict[NodeId, str] = attrs.field(factory=dict, init=False)
    """What each peer was linked over last."""

    def up(self, turn: Turn, event: LinkUp, own_epoch: Epoch) -> None:
        """A handshake ended well. The roster may have changed since it began."""
        try:
            if event.chain:
                self.membership.learn(turn, event.chain, self.peers, None)
            self.membership.check_peer(event.peer)
        except RemoteProtocolError as error:
            turn.emit(CloseLink(event.link, error.code, error.reason))
            return
        self.company.touch()
        self.membership.saw_epoch(turn, event.peer, event.epoch)
        if event.seen is not None and event.seen != own_epoch and event.seen.counter >= own_epoch.counter:
            self._note_seen(min(event.seen, Epoch(own_epoch.counter + MAX_LIVES_LOST, event.seen.random)))
        before = self.peers.link_to(event.peer)
        link = self.peers.up(turn, event)
        link.name = self.membership.name_of(event.peer)
        count(turn.tally.links_up, event.transport)
        if event.dialed:
            count(turn.tally.dials, "linked")
            remote = event.remote
            place = codec.encode([remote.transport, remote.host, remote.port])
            turn.lazy_ops.append(PutFact("address", event.peer, place))
        self.chronicle.link_up(turn, event)
        self._path_changed(turn, event.peer, before)
        if self.peers.link_to(event.peer) is link:
            self._greet(turn, link)

    def down(self, turn: Turn, event: LinkDown) -> None:
        """A link is gone; another one to the same device may take its place."""
        count_reason(turn.tally.links_down, event.code)
        before = self.peers.link_to(event.peer)
        link = self.peers.link(event.link)
        self.peers.down(turn, event)
        hearsay = None if link is None else self.probes.ended(turn, link, event)
        self.chronicle.link_down(turn, event, link, hearsay)
        self.company.link_down(turn, event)
        self.carriers.link_ended(event.link)
        self._path_changed(turn, event.peer, before)
        now_used = self.peers.link_to(event.peer)
        if now_used is not None and now_used is not before:
            self._greet(turn, now_used)

    def measured(self, turn: Turn, event: LinkMeasured) -> None:
        """A link's round trip was measured, or its peer fell silent."""
        link = self.peers.link(event.link)
        self.chronicle.measured(turn, link, event)
        was_suspect = link is not None and link.suspect
        self.peers.measured(event)
        if link is not None and self.peers.link_to(link.peer) is link:
            if link.suspect and not was_suspect:
                self.handover.link_silent(link)
                self.arriving.greet(link.peer)
            if link.suspect:
                self.probes.silent(turn, link)
            elif was_suspect:
                self.probes.heard(link)
            self.routes.measured(turn, link.peer)

    def thrift_changed(self, turn: Turn, event: ThriftChanged) -> None:
        """Be sparing, or no more: few links, slow pings, bulk mail waits, and others' mail goes another way."""
        if event.reason != self.spool.saving_for:
            turn.log("info", "saving" if event.reason else "saving no more", reason=event.reason)
        self.company.save(event.reason is not None)
        self.spool.saving_for = event.reason
        for queue in self.spool.queues():
            self.spool.touch(queue.destination)
        self.routes.metered = event.metered
        self.carriers.set_metered(turn, event.metered)
        for link in self.peers.links():
            self.routes.measured(turn, link.peer)

    def routes_changed(self, turn: Turn) -> None:
        """Act on what the router has decided since the last turn."""
        for destination in self.routes.take_changed():
            turn.tally.route_changes += 1
            self.spool.touch(destination)
            self.company.touch()
            self.chronicle.route_changed(turn, destination, self.peers.next_hops.get(destination))
            if destination in self.peers.relays:
                self.spool.touch_all()
            if destination in self.peers.next_hops:
                self.carriers.reached(destination)
                self.arriving.greet(destination)
                self._owe_floors(destination)
                self._hand_out(turn, destination)
        if self.routes.epoch_needed is not None:
            self._note_seen(self.routes.epoch_needed)

    def _hand_out(self, turn: Turn, destination: NodeId) -> None:
        """What a relay has kept goes before the mail that it belongs to."""
        onward = self.peers.toward(destination)
        if onward is not None:
            self.notices.hand_out(turn, destination, onward.number)

    def _note_seen(self, epoch: Epoch) -> None:
        self.seen = epoch if self.seen is None else max(self.seen, epoch)

    def _path_changed(self, turn: Turn, peer: NodeId, before: Link | None) -> None:
        link = self.peers.link_to(peer)
        if link is before:
            return
        self.chronicle.path_changed(turn, peer, before, link)
        if link is None:
            self.routes.link_lost(turn, peer)
        else:
            self._note_transport(turn, peer, link.transport)
            self.routes.link_chosen(turn, link)
        if before is not None:
            self.handover.link_lost(before, other_path=self.peers.toward(peer) is not None)
        self.carriers.link_changed(turn, peer, before, link)
        self.spool.touch(peer)
        if peer in self.peers.relays:
            self.spool.touch_all()

    def _note_transport(self, turn: Turn, peer: NodeId, transport: str) -> None:
        """Also across a gap: a peer that comes back over a worse transport has moved to it."""
        before = self._transports.get(peer, transport)
        self._transports[peer] = transport
        turn.tally.upgrades += transport_rank(transport) < transport_rank(before)
        turn.tally.downgrades += transport_rank(transport) > transport_rank(before)

    def _greet(self, turn: Turn, link: Link) -> None:
        self.membership.greet(turn, link)
        self.carriers.reached(link.peer)
        self.arriving.greet(link.peer)
        self._hand_out(turn, link.peer)
        self._owe_floors(link.peer)

    def _owe_floors(self, destination: NodeId) -> None:
        own = [queue.priority for queue in self.spool.queues_for(destination) if queue.own]
        self.exchange.owe_floors((destination, priority) for priority in own)
