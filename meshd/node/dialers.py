"""The dialers of all peers that are sought: one task for each, told of whatever bears on its next dial."""

import random
from collections.abc import Mapping, Sequence

import attrs
import trio

from meshd.ids import NodeId
from meshd.links.choice import LocalNetwork
from meshd.links.context import LinkContext
from meshd.links.dialer import keep_linked
from meshd.links.events import LinkDown, LinkUp
from meshd.links.peer import PeerControl, PeerStatistics
from meshd.node.effects import CloseBreaker, DataAcked, DataTimeout, SeekPeer, WantLink
from meshd.node.peers import Peers
from meshd.transport.base import Address, Transport


@attrs.define(eq=False)
class _Dialer:
    control: PeerControl
    scope: trio.CancelScope


class Dialers:
    """Starts and ends the tasks. What is told of a peer that is not sought is of no use, and dropped."""

    def __init__(
        self, me: NodeId, transports: Mapping[str, Transport], rng: random.Random, context: LinkContext
    ) -> None:
        self._me = me
        self._transports = transports
        self._rng = rng
        self._context = context
        self._dialers: dict[NodeId, _Dialer] = {}
        self._networks: Sequence[LocalNetwork] = ()

    @property
    def sought(self) -> frozenset[NodeId]:
        """All peers that have a dialer."""
        return frozenset(self._dialers)

    def statistics(self, peer: NodeId) -> PeerStatistics | None:
        """What the dialer of a peer knows."""
        dialer = self._dialers.get(peer)
        return None if dialer is None else dialer.control.statistics(trio.current_time())

    def breaker_closings(self) -> dict[NodeId, int]:
        """How often the breakers of peers closed after they had been open; those that never did are left out."""
        return {peer: dialer.control.closings for peer, dialer in self._dialers.items() if dialer.control.closings}

    # --- whom to dial

    def seek(self, effect: SeekPeer, peers: Peers, nursery: trio.Nursery) -> bool:
        """Dial a peer until it leaves, at these addresses too. Returns whether it has not been sought before."""
        if not self._transports:  # a relay dials nobody
            return False
        now = trio.current_time()
        is_new = effect.peer not in self._dialers
        if is_new:
            self._start(effect.peer, peers, nursery, now)
        by_source: dict[str, list[Address]] = {}
        for address, source in effect.addresses:
            if address.transport in self._transports:
                by_source.setdefault(source, []).append(address)
        for source, addresses in by_source.items():
            self._dialers[effect.peer].control.candidates_seen(addresses, source, now)
        return is_new

    def _start(self, peer: NodeId, peers: Peers, nursery: trio.Nursery, now: float) -> None:
        control = PeerControl(me=self._me, peer=peer, transports=tuple(self._transports), rng=self._rng, now=now)
        control.networks_changed(self._networks, now)
        for link in peers.peer(peer).links.values():  # it may have dialed us already
            control.link_up(link.up, now)
        dialer = self._dialers[peer] = _Dialer(control, trio.CancelScope())
        nursery.start_soon(self._dial, peer, dialer)

    async def _dial(self, peer: NodeId, dialer: _Dialer) -> None:
        with dialer.scope:
            await keep_linked(peer, control=dialer.control, transports=self._transports, context=self._context)

    def leave(self, peer: NodeId) -> None:
        """The peer left the mesh: dial it no more, and end the links that were dialed."""
        dialer = self._dialers.pop(peer, None)
        if dialer is not None:
            dialer.scope.cancel()

    # --- what dialers are told

    def link_up(self, event: LinkUp) -> None:
        """A link to a peer came up, whoever dialed."""
        if event.peer in self._dialers:
            self._dialers[event.peer].control.link_up(event, trio.current_time())

    def link_down(self, event: LinkDown) -> None:
        """A link to a peer is gone."""
        if event.peer in self._dialers:
            self._dialers[event.peer].control.link_down(event, trio.current_time())

    def answered(self, peer: NodeId) -> None:
        """A peer answered a ping."""
        if peer in self._dialers:
            self._dialers[peer].control.answered(trio.current_time())

    def networks_changed(self, networks: Sequence[LocalNetwork]) -> None:
        """This device is in these networks now."""
        self._networks = networks
        for dialer in self._dialers.values():
            dialer.control.networks_changed(networks, trio.current_time())

    def wake(self) -> None:
        """This device was asleep: everything may be different."""
        for dialer in self._dialers.values():
            dialer.control.wake(trio.current_time())

    def tell(self, effect: DataAcked | DataTimeout | CloseBreaker | WantLink) -> None:
        """The node has decided something about a peer's links."""
        dialer = self._dialers.get(effect.peer)
        if dialer is None:
            return
        now = trio.current_time()
        match effect:
            case DataAcked():
                dialer.control.data_acked(now)
            case DataTimeout():
                dialer.control.data_timeout(now)
            case CloseBreaker():
                dialer.control.reset(now)
            case WantLink():
                dialer.control.want(effect.wanted, now, unhurried=effect.unhurried)
