"""Links over the real transports, on loopback, in real time."""

from functools import partial

import pytest
import trio

from meshd.links.accept import accept
from meshd.links.dialer import keep_linked
from meshd.links.events import FramesReceived, LinkDown, LinkMeasured, LinkUp
from meshd.links.peer import PeerControl
from meshd.transport.base import Transport
from meshd.transport.quic import QuicTransport
from meshd.transport.websocket import WebsocketTransport
from meshd.wire.frames import RosterHeads
from tests.links.world import Device, World, bundle, bundles_in

MAKERS = {"quic": QuicTransport, "websocket": WebsocketTransport}


def real(device: Device, name: str, host: str) -> Transport:
    return MAKERS[name](
        listen=[(host, 0)],
        certificate_pem=device.identity.certificate_pem(),
        private_key_pem=device.identity.private_key_pem(),
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["quic", "websocket"])
def test_a_link_carries_both_ways_measures_and_ends(name: str, host: str) -> None:
    async def body() -> None:
        world = World.make()
        low, high = world.low, world.high
        ours, theirs = real(low, name, host), real(high, name, host)
        control = PeerControl(me=low.id, peer=high.id, transports=[name], rng=low.rng, now=trio.current_time())
        async with trio.open_nursery() as nursery:
            await nursery.start(ours.serve, partial(accept, context=low.context))
            addresses = await nursery.start(theirs.serve, partial(accept, context=high.context))
            control.candidates_seen(addresses, "static", trio.current_time())
            nursery.start_soon(
                partial(keep_linked, high.id, control=control, transports={name: ours}, context=low.context)
            )
            await low.until(lambda: low.live)
            await high.until(lambda: high.live)
            (up,), (other,) = low.live, high.live
            assert (up.peer, other.peer, up.transport) == (high.id, low.id, name)
            assert up.outgoing is not None
            assert other.outgoing is not None
            large = [bundle(bytes([n]) * (1024 * 1024)) for n in range(8)]
            for frame in large:
                up.outgoing.send_bundle(frame)
                other.outgoing.send_bundle(frame)
            up.outgoing.send_control(RosterHeads(()))
            for device in (low, high):
                await device.until(
                    lambda device=device: bundles_in([f for e in device.of(FramesReceived) for f in e.frames]) == large
                )
                assert not device.of(LinkDown)
            await low.until(lambda: any(event.rtt is not None for event in low.of(LinkMeasured)))
            other.outgoing.close("closed", "enough")
            await low.until(lambda: low.of(LinkDown))
            assert low.of(LinkDown)[0].code == "closed"
            assert low.of(LinkDown)[0].reason == "enough"
            await low.until(lambda: len(low.of(LinkUp)) == 2)
            nursery.cancel_scope.cancel()

    async def limited() -> None:
        with trio.fail_after(30):
            await body()

    trio.run(limited)
