"""What this device does for another one's doctor: it dials that one, and nobody else, and not too often."""

import random

import attrs
import trio
import trio.testing

from meshd.ids import NodeId
from meshd.node.effects import Assist
from meshd.node.insight.assist import AT_ONCE, DIAL_S, MAX_DIALS, Assistance, dial_all
from meshd.transport.base import Address, Connection, Pin
from meshd.transport.memory import MemoryNetwork, MemoryTransport
from meshd.trust.identity import server_name
from meshd.wire.inquiry import Dialed, Ports, Topic
from tests.trust.people import device

ME, ASKER, STRANGER = (device(number) for number in range(3))
PIN = Pin(ASKER.certificate, server_name(ASKER.node_id))


@attrs.define(eq=False)
class Named:
    """A memory transport under the name of a real one."""

    inner: MemoryTransport
    name: str = "quic"

    def dial(self, address: Address, pin: Pin):  # type: ignore[no-untyped-def]
        return self.inner.dial(attrs.evolve(address, transport="memory"), pin)


async def nothing(connection: Connection) -> None:
    """A listener that waits for the dialer to go."""
    await trio.sleep_forever()


def wish(remote: Address | None, topic: Topic = Topic.DIAL_BACK) -> Assist:
    return Assist(ASKER.node_id, 7, topic, Ports(quic=7843, websocket=None), remote)


def assistance(transport: Named, cards: dict[NodeId, list[Address]] | None = None) -> Assistance:
    return Assistance(
        me=ME.node_id,
        transports={"quic": transport},  # type: ignore[dict-item]
        places=lambda: (),
        pin=lambda node: PIN if node == ASKER.node_id else None,
        addresses=lambda node: (cards or {}).get(node, []),
    )


def test_the_asker_is_dialed_where_it_is_seen_and_where_its_card_says() -> None:
    async def main() -> None:
        network = MemoryNetwork(random.Random(1))
        mine = Named(network.transport("192.0.2.1", ME.certificate))
        async with trio.open_nursery() as nursery:
            await nursery.start(network.transport("192.0.2.7", ASKER.certificate, 7843).serve, nothing)
            await nursery.start(network.transport("192.0.2.9", STRANGER.certificate, 7843).serve, nothing)
            cards = {ASKER.node_id: [Address("websocket", "192.0.2.9", 1), Address("quic", "192.0.2.8", 1)]}
            found = await assistance(mine, cards).carry_out(wish(Address("quic", "192.0.2.7", 50_000)))
            nursery.cancel_scope.cancel()
        assert isinstance(found, tuple)
        assert [(one.address, one.error) for one in found] == [
            ("quic://192.0.2.7:7843", None),
            ("quic://192.0.2.9:7843", "certificate refused: it is not the known one"),
            ("quic://192.0.2.8:7843", "Connection refused"),
        ]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_is_no_member_any_more_gets_nothing_dialed() -> None:
    async def main() -> None:
        mine = Named(MemoryNetwork(random.Random(1)).transport("192.0.2.1", ME.certificate))
        stranger = attrs.evolve(wish(Address("quic", "192.0.2.7", 1)), source=STRANGER.node_id)
        assert await assistance(mine).carry_out(stranger) == ()

    trio.run(main)


def test_silence_ends_a_dial_and_only_so_many_favours_are_done_at_once() -> None:
    async def main() -> None:
        network = MemoryNetwork(random.Random(1))
        mine = Named(network.transport("192.0.2.1", ME.certificate))
        helper = assistance(mine)
        answers: list[object] = []

        async def ask() -> None:
            answers.append(await helper.carry_out(wish(Address("quic", "192.0.2.7", 1))))

        async with trio.open_nursery() as nursery:
            await nursery.start(network.transport("192.0.2.7", ASKER.certificate, 7843).serve, nothing)
            network.partition(["192.0.2.1"], ["192.0.2.7"])
            began = trio.current_time()
            async with trio.open_nursery() as asking:
                for _ in range(AT_ONCE + 1):
                    asking.start_soon(ask)
            assert trio.current_time() - began == DIAL_S
            silent = (Dialed("quic", "quic://192.0.2.7:7843", "no answer within 3 s"),)
            assert sorted(answers, key=lambda answer: answer is not None) == [None, *[silent] * AT_ONCE]
            network.heal()
            answers.clear()
            await ask()
            assert answers == [(Dialed("quic", "quic://192.0.2.7:7843", None),)]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_dials_are_bounded_and_unknown_transports_left_out() -> None:
    async def main() -> None:
        mine = Named(MemoryNetwork(random.Random(1)).transport("192.0.2.1", ME.certificate))
        places = [Address("quic", f"192.0.2.{number}", 1) for number in range(30)]
        found = await dial_all({"quic": mine}, [Address("pigeon", "192.0.2.2", 1), *places, *places], PIN)  # type: ignore[dict-item]
        assert len(found) == MAX_DIALS
        assert {one.transport for one in found} == {"quic"}

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
