"""``meshctl doctor``: looks at this device, asks the others, and hands the evidence to the verdicts."""

import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from meshd import __version__
from meshd.discovery.kernel_routes import arp_silent, route_interface
from meshd.discovery.presence import Place
from meshd.discovery.probes import Caught, Probe, exchange_probes
from meshd.ids import NodeId, to_text
from meshd.node.accepting import MIN_FREE_BYTES
from meshd.node.effects import InquiryEnded
from meshd.node.insight.assist import SENDER_CHARS, dial_all
from meshd.node.insight.evidence import Evidence, PeerEvidence, interface_of
from meshd.node.insight.premises import Premises, Site, look
from meshd.node.insight.verdicts import judge
from meshd.node.peers import Peer
from meshd.node.step import Node
from meshd.transport.base import Address, Pin, Transport
from meshd.trust.identity import server_name
from meshd.trust.standing import Member
from meshd.wire.inquiry import NONCE_SIZE, Dialed, Topic, encode_argument

MAX_PEERS = 16
"""Asked and dialed; those that are linked first."""

ANSWER_WITHIN_S = 6.0
LISTEN_S = 3.5
"""Longer than the others send: they begin when they are asked."""

Ask = Callable[[Topic, bytes, Sequence[NodeId], float], Awaitable[InquiryEnded]]


@attrs.define(eq=False, kw_only=True)
class _Answers:
    """What the inquiries brought."""

    about: dict[NodeId, Any] = attrs.field(factory=dict)
    told_at: dict[NodeId, float] = attrs.field(factory=dict)
    silent: dict[NodeId, str] = attrs.field(factory=dict)
    dialed_us: dict[NodeId, tuple[Dialed, ...]] = attrs.field(factory=dict)
    dialed: dict[NodeId, tuple[Dialed, ...]] = attrs.field(factory=dict)
    caught_ours: dict[NodeId, frozenset[tuple[int, str]]] = attrs.field(factory=dict)
    caught: frozenset[Caught] = frozenset()
    arp_silent: frozenset[str] = frozenset()
    captured: dict[NodeId, tuple[tuple[str, str, str], ...]] = attrs.field(factory=dict)
    premises: Premises | None = None


@attrs.frozen(kw_only=True)
class Doctor:
    """One examination after the other, each some 4 s.

    Args:
        ask: ask devices something, and return what came within so many seconds.
        places: where this device is present. bound: where it listens.
        multicast: whether discovery uses it. wall: seconds since 1970.
    """

    node: Node
    transports: Mapping[str, Transport]
    ask: Ask
    places: Callable[[], Sequence[Place]]
    bound: Callable[[], Sequence[Address]]
    site: Site
    multicast: bool
    rng: random.Random
    wall: Callable[[], float] = time.time

    async def examine(self) -> list[dict[str, Any]]:
        """All checks, as ``meshctl doctor --json`` has them."""
        places = list(self.places())
        chosen = self._chosen()
        answers = _Answers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look, answers)
            nursery.start_soon(self._ask_about, answers, chosen)
            nursery.start_soon(self._ask_to_dial_back, answers, chosen)
            if self.multicast and places:
                nursery.start_soon(self._probe, answers, chosen, places)
            for member in chosen:
                nursery.start_soon(self._dial, answers, member)
        answers.arp_silent = arp_silent()
        return [verdict.plain() for verdict in judge(self._evidence(answers, chosen, places))]

    def _chosen(self) -> list[Member]:
        """Whom to ask: linked ones first, and never relays, which are no neighbours."""
        node = self.node
        if node.membership.public_key(node.membership.me) is None:
            return []
        members = [member for member in node.membership.members() if member.role != "relay"]
        return sorted(members, key=lambda member: node.peers.link_to(member.id) is None)[:MAX_PEERS]

    # --- looking and asking

    async def _look(self, answers: _Answers) -> None:
        answers.premises = await trio.to_thread.run_sync(look, self.site)

    async def _ask_about(self, answers: _Answers, chosen: Sequence[Member]) -> None:
        nodes = [member.id for member in chosen]
        ended = await self.ask(Topic.ABOUT, encode_argument(), nodes, ANSWER_WITHIN_S)
        answers.about = ended.answers
        answers.told_at = {node: self.wall() - age for node, age in ended.ages.items()}
        answers.silent = ended.silent

    async def _ask_to_dial_back(self, answers: _Answers, chosen: Sequence[Member]) -> None:
        ports = self._ports()
        argument = encode_argument(ports.get("quic"), ports.get("websocket"))
        nodes = [member.id for member in chosen]
        answers.dialed_us = (await self.ask(Topic.DIAL_BACK, argument, nodes, ANSWER_WITHIN_S)).answers

    def _ports(self) -> dict[str, int]:
        return {address.transport: address.port for address in self.bound()}

    async def _probe(self, answers: _Answers, chosen: Sequence[Member], places: Sequence[Place]) -> None:
        nonce = self.rng.randbytes(NONCE_SIZE)
        sender = to_text(self.node.membership.me)[:SENDER_CHARS]
        near = [member.id for member in chosen if self.node.peers.link_to(member.id) is not None]

        async def ask() -> None:
            ended = await self.ask(Topic.MULTICAST, encode_argument(nonce), near, ANSWER_WITHIN_S)
            for peer, heard in ended.answers.items():
                probes = [Probe.parse(label) for label in heard.labels]
                ours = [
                    probe for probe in probes if probe is not None and (probe.nonce, probe.sender) == (nonce, sender)
                ]
                answers.caught_ours[peer] = frozenset((probe.index, probe.group) for probe in ours)

        async with trio.open_nursery() as nursery:
            answers.caught = await exchange_probes(
                places, nonce, sender, listen_s=LISTEN_S, on_ready=partial(nursery.start_soon, ask)
            )

    async def _dial(self, answers: _Answers, member: Member) -> None:
        peer = self.node.peers.known.get(member.id, Peer(member.id))
        addresses = self._addresses(peer)
        answers.captured[member.id] = self._captured(addresses)
        pin = Pin(member.certificate, server_name(member.id))
        answers.dialed[member.id] = await dial_all(self.transports, addresses, pin)

    def _addresses(self, peer: Peer) -> list[Address]:
        """Where it may be: where its link is first, then what its dialer finds worth trying, on both transports."""
        statistics = self.node.dialer(peer.node)
        found = [candidate.address for candidate in statistics.candidates] if statistics is not None else []
        if peer.chosen is not None and peer.chosen.up.dialed:
            found.insert(0, peer.chosen.up.remote)
        return list(dict.fromkeys(found))

    def _captured(self, addresses: Sequence[Address]) -> tuple[tuple[str, str, str], ...]:
        places = self.places()
        found = []
        for host in dict.fromkeys(address.host for address in addresses):
            name = interface_of(host, places)
            if name is None or "%" in host:
                continue
            index = next(place.interface.index for place in places if place.interface.name == name)
            taken = route_interface(host)
            if taken is not None and taken != index:
                found.append((host, name, _interface_name(taken)))
        return tuple(found)

    # --- the evidence

    def _evidence(self, answers: _Answers, chosen: Sequence[Member], places: Sequence[Place]) -> Evidence:
        assert answers.premises is not None
        membership = self.node.membership
        roster = membership.roster
        bound: dict[str, tuple[str, ...]] = {}
        for address in self.bound():
            host = f"[{address.host}]" if ":" in address.host else address.host
            bound[address.transport] = (*bound.get(address.transport, ()), f"{host}:{address.port}")
        return Evidence(
            version=__version__,
            name=membership.name if roster is None else membership.name_of(membership.me),
            mesh=None if roster is None else roster.mesh_name,
            removed=membership.is_shut_out,
            bound=bound,
            ports=dict(self._ports()),
            outages=self.node.watch.views.outages,
            configured={name: name in self.transports for name in ("quic", "websocket")},
            places=tuple(places),
            multicast=self.multicast,
            wall_s=self.wall(),
            reserve_bytes=MIN_FREE_BYTES,
            premises=answers.premises,
            relays={
                member.name: self.node.peers.link_to(member.id) is not None
                for member in membership.members()
                if member.role == "relay"
            },
            peers=tuple(self._peer(answers, member, places) for member in chosen),
        )

    def _peer(self, answers: _Answers, member: Member, places: Sequence[Place]) -> PeerEvidence:
        node = self.node
        peer = node.peers.known.get(member.id, Peer(member.id))
        link = peer.chosen
        hop = node.peers.next_hops.get(member.id)
        about = answers.about.get(member.id)
        hosts = dict.fromkeys(address.host for address in self._addresses(peer))
        nearby = tuple(host for host in hosts if interface_of(host, places) is not None)
        sender = to_text(member.id)[:SENDER_CHARS]
        return PeerEvidence(
            name=member.name,
            linked=link is not None,
            interface=None if link is None else interface_of(link.up.remote.host, places),
            via=node.membership.name_of(hop) if link is None and hop is not None and hop != member.id else None,
            nearby=nearby,
            version=None if about is None else about.version,
            ahead_s=None if about is None else about.wall_ms / 1000 - answers.told_at[member.id],
            silent=answers.silent.get(member.id),
            dialed=answers.dialed.get(member.id, ()),
            dialed_us=answers.dialed_us.get(member.id),
            caught_ours=answers.caught_ours.get(member.id),
            caught=frozenset((one.interface, one.probe.group) for one in answers.caught if one.probe.sender == sender),
            captured=answers.captured.get(member.id, ()),
            arp_silent=tuple(host for host in nearby if host in answers.arp_silent),
            last_error=None if link is not None else peer.last_error,
        )


def _interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
