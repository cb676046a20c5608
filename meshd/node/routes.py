"""Routes in the node: what the router is told of links and members, and what follows from its decisions."""

import random
from collections.abc import Iterable

from meshd.ids import Epoch, NodeId
from meshd.links.quality import metric
from meshd.node.membership import Membership
from meshd.node.peers import Link, Peers
from meshd.node.turn import Turn
from meshd.routing.effects import Effect, EpochNeeded, RouteChanged, Send
from meshd.routing.router import Router
from meshd.routing.seqno import Seqno, signer, verifier
from meshd.routing.view import RouteView
from meshd.wire.routing import RouteRequest, RouteUpdate, SeqnoRequest


class Routes:
    """The router's place between links and spool. ``peers.next_hops`` always holds its decisions.

    After a call, ``take_changed`` tells which destinations have a new next hop, and ``epoch_needed``
    whether this device has to outdo an epoch of its own that the mesh remembers.
    """

    def __init__(self, membership: Membership, peers: Peers, epoch: Epoch, rng: random.Random) -> None:
        self._membership = membership
        self._peers = peers
        self._router = Router(
            node=membership.me,
            seqno=Seqno(epoch, 0),
            sign=signer(membership.identity),
            verify=verifier(membership.public_key),
            rng=rng,
        )
        peers.ways = self._router.ways
        self._changed: set[NodeId] = set()
        self.epoch_needed: Epoch | None = None
        self.metered = False
        """Every byte costs: links cost more, so that others' mail takes another way."""

    def take_changed(self) -> set[NodeId]:
        """Destinations whose next hop is another one than at the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def views(self) -> tuple[RouteView, ...]:
        """For ``meshctl routes``."""
        return self._router.routes()

    def can_spare(self, peer: NodeId) -> bool:
        """Whether the link to ``peer`` may be given up."""
        return self._router.can_spare(peer)

    def link_chosen(self, turn: Turn, link: Link) -> None:
        """A link is in use now: what was learned over another one to the same device is void."""
        self._carry_out(turn, self._router.link_up(link.peer, self._cost(turn, link.peer), turn.now))

    def link_lost(self, turn: Turn, peer: NodeId) -> None:
        """There is no link to the device any more."""
        self._carry_out(turn, self._router.link_down(peer, turn.now))

    def measured(self, turn: Turn, peer: NodeId) -> None:
        """The way to a linked device was measured."""
        self._carry_out(turn, self._router.cost_changed(peer, self._cost(turn, peer), turn.now))

    def _cost(self, turn: Turn, peer: NodeId) -> int:
        relay = self._membership.is_relay(peer) or self._membership.is_relay(self._membership.me)
        return metric(self._peers.peer(peer).quality.snapshot(turn.now), relay=relay, metered=self.metered)

    def received(self, turn: Turn, link: Link, frame: RouteUpdate | SeqnoRequest | RouteRequest) -> None:
        """A routing frame came. Raises RemoteProtocolError."""
        if self._peers.link_to(link.peer) is link:  # one that came over a link on its way out counts no more
            self._carry_out(turn, self._router.received(link.peer, frame, turn.now))

    def members_changed(self, turn: Turn, news: Iterable[NodeId]) -> None:
        """These devices came into the mesh, left it, or have a new card."""
        for node in news:
            if node == self._membership.me:
                continue
            if self._membership.public_key(node) is None:
                self._carry_out(turn, self._router.removed(node, turn.now))
            else:
                self._carry_out(turn, self._router.learned(node, turn.now))

    def renew(self, turn: Turn, epoch: Epoch) -> None:
        """This device has a higher epoch, on disk."""
        self.epoch_needed = None
        self._carry_out(turn, self._router.renew(epoch, turn.now))

    def poll(self, turn: Turn) -> None:
        """Do what is due."""
        due = self._router.next_deadline
        if due is not None and due <= turn.now:
            self._carry_out(turn, self._router.poll(turn.now))

    def next_deadline(self) -> float | None:
        """When :meth:`poll` has something to do."""
        return self._router.next_deadline

    def _carry_out(self, turn: Turn, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    link = self._peers.link_to(effect.neighbour)
                    if link is not None:
                        turn.send(link.number, effect.frame)
                case RouteChanged():
                    if effect.next_hop is None:
                        self._peers.next_hops.pop(effect.destination, None)
                    else:
                        self._peers.next_hops[effect.destination] = effect.next_hop
                    self._changed.add(effect.destination)
                case EpochNeeded():
                    self.epoch_needed = effect.above
