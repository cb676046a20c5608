"""What another device's doctor asks of this one: to dial it back, and to listen for its multicast."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from meshd.discovery.presence import Place
from meshd.discovery.probes import exchange_probes
from meshd.ids import NodeId, to_text
from meshd.node.effects import Assist
from meshd.transport.base import Address, Pin, Transport, TransportError
from meshd.wire.inquiry import Dialed, Heard, Ports, Topic

DIAL_S = 3.0
LISTEN_S = 2.5
AT_ONCE = 4
"""Favours under way; more are put off."""

MAX_DIALS = 16

SENDER_CHARS = 8
"""Of a device's id, in its probes."""


@attrs.define(eq=False)
class Assistance:
    """Does what is asked, a few at a time.

    Args:
        me: this device. places: where it is present. pin: how to trust a device; None once it is no member.
        addresses: where a device says that it is.
    """

    me: NodeId
    transports: Mapping[str, Transport]
    places: Callable[[], Sequence[Place]]
    pin: Callable[[NodeId], Pin | None]
    addresses: Callable[[NodeId], Iterable[Address]]
    _under_way: int = 0

    async def carry_out(self, wish: Assist) -> object:
        """The answer's value; None when there is too much in hand. Takes 3 s at most."""
        if self._under_way >= AT_ONCE:
            return None
        self._under_way += 1
        try:
            if wish.topic is Topic.DIAL_BACK:
                return await self._dial_back(wish)
            return await self._listen(wish.argument)
        finally:
            self._under_way -= 1

    async def _dial_back(self, wish: Assist) -> tuple[Dialed, ...]:
        """Dial the asker, where its link comes from and where its card says: no other place, whatever it asks for."""
        pin = self.pin(wish.source)
        if pin is None:
            return ()
        ports: Ports = wish.argument
        hosts = dict.fromkeys(address.host for address in self.addresses(wish.source))
        if wish.remote is not None:
            hosts = {wish.remote.host: None} | hosts
        wanted = [("quic", ports.quic), ("websocket", ports.websocket)]
        places = [Address(name, host, port) for host in hosts for name, port in wanted if port is not None]
        return await dial_all(self.transports, places, pin)

    async def _listen(self, nonce: bytes) -> Heard:
        places = self.places()
        caught = await exchange_probes(places, nonce, to_text(self.me)[:SENDER_CHARS], listen_s=LISTEN_S)
        labels = sorted({one.probe.label() for one in caught})
        return Heard(tuple(labels), tuple(place.interface.name[:32] for place in places))


async def dial_all(transports: Mapping[str, Transport], places: Iterable[Address], pin: Pin) -> tuple[Dialed, ...]:
    """Dial each of these at once, up to TLS and no further, and say what came of it, in their order."""
    wanted = [place for place in dict.fromkeys(places) if place.transport in transports][:MAX_DIALS]
    outcomes: dict[Address, str | None] = {}

    async def dial(place: Address) -> None:
        outcomes[place] = f"no answer within {DIAL_S:.0f} s"
        with trio.move_on_after(DIAL_S):
            try:
                async with transports[place.transport].dial(place, pin):
                    outcomes[place] = None
            except TransportError as error:
                outcomes[place] = error.reason[:200]

    async with trio.open_nursery() as nursery:
        for place in wanted:
            nursery.start_soon(dial, place)
    return tuple(Dialed(place.transport, str(place)[:80], outcomes[place]) for place in wanted)
