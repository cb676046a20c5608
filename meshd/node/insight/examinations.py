"""The doctor's rounds: this device's own examinations, and its part in those of others."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import trio

from meshd.discovery.presence import Place
from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.node.effects import Assist, InquiryEnded
from meshd.node.inbox import Inbox
from meshd.node.insight.assist import Assistance
from meshd.node.insight.inquiries import Assisted, Inquire
from meshd.node.insight.premises import Site
from meshd.node.requests import Failure, Query, Result
from meshd.node.step import Node
from meshd.transport.base import Address, Pin, Transport
from meshd.trust.identity import server_name
from meshd.wire.inquiry import Topic


@attrs.define(eq=False, kw_only=True)
class Examinations:
    """Runs them, each in a task of the loop's.

    Args:
        places: where this device is present on its networks. bound: where it listens.
        multicast: whether discovery uses it.
    """

    node: Node
    inbox: Inbox
    transports: Mapping[str, Transport]
    places: Callable[[], Sequence[Place]]
    bound: Callable[[], Sequence[Address]]
    site: Site
    multicast: bool
    rng: random.Random
    _one_at_a_time: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)
    _tickets: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)
    _inquiries: dict[int, trio.MemorySendChannel[InquiryEnded]] = attrs.field(factory=dict, init=False)
    _assistance: Assistance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._assistance = Assistance(
            me=self.node.identity.node_id,
            transports=self.transports,
            places=self.places,
            pin=self._pin,
            addresses=self._card_addresses,
        )

    async def examine(self, request: Query) -> None:
        """Examine this device, and answer the request with the verdicts."""
        # When it is first needed: what judges takes a megabyte and a half, and most devices never ask.
        from meshd.node.insight.doctor import Doctor

        doctor = Doctor(
            node=self.node,
            transports=self.transports,
            ask=self._ask,
            places=self.places,
            bound=self.bound,
            site=self.site,
            multicast=self.multicast,
            rng=self.rng,
        )
        async with self._one_at_a_time:
            try:
                verdicts = await doctor.examine()
            except OSError as error:
                reason = f"The state directory can't be looked at: {error.strerror or error}."
                request.port.reply_nowait(request.id, Failure(MeshdError("E_STATE_DIR", reason)))
            else:
                request.port.reply_nowait(request.id, Result(verdicts))

    async def assist(self, wish: Assist) -> None:
        """Do what a peer's doctor asks for, and let the node answer it."""
        value = await self._assistance.carry_out(wish)
        await self.inbox.send(Assisted(wish.source, wish.token, value))

    def inquiry_ended(self, ended: InquiryEnded) -> None:
        """The answers to what an examination asked are here."""
        self._inquiries.pop(ended.ticket).send_nowait(ended)

    async def _ask(self, topic: Topic, argument: bytes, nodes: Sequence[NodeId], within_s: float) -> InquiryEnded:
        ticket = next(self._tickets)
        send, receive = trio.open_memory_channel[InquiryEnded](1)
        self._inquiries[ticket] = send
        inquire = Inquire(ticket=ticket, topic=topic, argument=argument, nodes=tuple(nodes), within_s=within_s)
        await self.inbox.send(inquire)
        return await receive.receive()

    def _pin(self, node: NodeId) -> Pin | None:
        roster = self.node.membership.roster
        member = None if roster is None else roster.members.get(node)
        return None if member is None or member.removed else Pin(member.certificate, server_name(node))

    def _card_addresses(self, node: NodeId) -> list[Address]:
        card = self.node.membership.card(node)
        return [] if card is None else [Address(a.transport, a.host, a.port) for a in card.addresses]
