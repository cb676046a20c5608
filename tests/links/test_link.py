import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from meshd.links.events import FramesReceived, LinkDown, LinkMeasured
from meshd.links.link import run_link
from meshd.links.outgoing import MAX_CONTROL_BYTES, Outgoing
from meshd.transport.base import Connection, Lane, TransportError
from meshd.transport.pipe import Rule
from meshd.wire.frames import (
    MAX_FRAME_BYTES,
    Ack,
    Bye,
    Cards,
    Frame,
    Hello,
    Part,
    Ping,
    Pong,
    RosterHeads,
    decode_frame,
    encode_frame,
)
from tests.links.world import Device, World, bundle, bundles_in, connected, run


@attrs.define(eq=False)
class End:
    """One side of a link that runs."""

    device: Device
    connection: Connection
    outgoing: Outgoing = attrs.field(factory=Outgoing)

    async def run(self, peer: Device) -> LinkDown:
        self.connection.set_limit(MAX_FRAME_BYTES)
        return await run_link(
            self.connection,
            link=1,
            me=self.device.id,
            peer=peer.id,
            outgoing=self.outgoing,
            post=self.device.post,
            clock=trio.current_time,
            rng=self.device.rng,
        )

    @property
    def frames(self) -> list[Frame]:
        return [frame for event in self.device.of(FramesReceived) for frame in event.frames]

    @property
    def down(self) -> LinkDown | None:
        downs = self.device.of(LinkDown)
        assert len(downs) <= 1
        return downs[0] if downs else None


@asynccontextmanager
async def linked(world: World) -> AsyncIterator[tuple[End, End]]:
    """A link between low (the dialer) and high, without a handshake before it."""
    accepted: list[End] = []

    async def listen(connection: Connection) -> None:
        accepted.append(End(world.high, connection))
        await accepted[0].run(world.low)

    async with connected(world, use_accepted=listen) as connection, trio.open_nursery() as nursery:
        low = End(world.low, connection)
        nursery.start_soon(low.run, world.high)
        await trio.sleep(0.01)
        yield low, accepted[0]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def against_script(world: World) -> AsyncIterator[tuple[End, Connection]]:
    """A link of high (the listener), whose peer is the test itself."""
    accepted: list[End] = []

    async def listen(connection: Connection) -> None:
        accepted.append(End(world.high, connection))
        await accepted[0].run(world.low)

    async with connected(world, use_accepted=listen) as connection:
        connection.set_limit(MAX_FRAME_BYTES)
        await connection.send([encode_frame(Ping(0))], Lane.CONTROL)
        await trio.sleep(0.01)
        yield accepted[0], connection


async def answers(connection: Connection) -> list[Frame]:
    """Everything that the link says until it closes."""
    heard: list[Frame] = []
    try:
        while True:
            heard += [decode_frame(data) for data in await connection.receive()]
    except TransportError:
        return heard


def test_frames_arrive_in_order_and_long_bundles_whole() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            sent = [bundle(bytes([n]) * size) for n, size in enumerate((10, 200_000, 0, 1024 * 1024, 5))]
            for frame in sent:
                low.outgoing.send_bundle(frame)
            assert low.outgoing.queued_bytes > 1_200_000
            back = bundle(b"back")
            high.outgoing.send_bundle(back)
            await world.high.until(lambda: len(bundles_in(high.frames)) == len(sent))
            assert bundles_in(high.frames) == sent
            await world.low.until(lambda: bundles_in(low.frames) == [back])
            assert low.outgoing.queued_bytes == 0

    run(body)


def test_control_overtakes_bundles() -> None:
    async def body() -> None:
        world = World.make()
        world.network.set_rule("low", "high", Rule(bandwidth=1e6))
        async with linked(world) as (low, high):
            for n in range(8):
                low.outgoing.send_bundle(bundle(bytes([n]) * 1024 * 1024))
            await trio.sleep(0.5)
            ack = Ack((), ())
            low.outgoing.send_control(ack)
            started = trio.current_time()
            await world.high.until(lambda: ack in high.frames)
            assert trio.current_time() - started < 0.1
            assert len(bundles_in(high.frames)) < 2
            await world.high.until(lambda: len(bundles_in(high.frames)) == 8)

    run(body)


def test_many_small_frames_share_sends() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            for _ in range(1000):
                low.outgoing.send_control(RosterHeads(()))
            await world.high.until(lambda: len(high.frames) == 1000)
            assert len(world.high.of(FramesReceived)) < 10

    run(body)


def test_round_trips_are_measured_by_both_sides() -> None:
    async def body() -> None:
        world = World.make()
        for pair in (("low", "high"), ("high", "low")):
            world.network.set_rule(*pair, Rule(delay=0.05))
        async with linked(world):
            await trio.sleep(40)
            for device, least in ((world.low, 30), (world.high, 2)):
                samples = [event for event in device.of(LinkMeasured) if event.rtt is not None]
                assert 2 <= len(samples) <= 9
                assert all(event.rtt == pytest.approx(0.1, abs=0.02) for event in samples)
                assert not any(event.suspect or event.lost for event in samples)
                assert sum(event.answered for event in samples) >= least

    run(body)


def test_a_round_trip_that_changes_is_reported_within_two_pings() -> None:
    async def body() -> None:
        world = World.make()
        for pair in (("low", "high"), ("high", "low")):
            world.network.set_rule(*pair, Rule(delay=0.05))
        async with linked(world):
            await trio.sleep(20.5)
            before = len(world.low.of(LinkMeasured))
            for pair in (("low", "high"), ("high", "low")):
                world.network.set_rule(*pair, Rule(delay=0.2))
            await trio.sleep(2.8)
            assert any(event.rtt == pytest.approx(0.4, abs=0.02) for event in world.low.of(LinkMeasured)[before:])

    run(body)


def test_throughput_is_measured_while_bundles_wait() -> None:
    async def body() -> None:
        world = World.make()
        world.network.set_rule("low", "high", Rule(bandwidth=2e6))
        async with linked(world) as (low, high):
            for _ in range(20):
                low.outgoing.send_bundle(bundle(bytes(1024 * 1024)))
            await world.high.until(lambda: len(bundles_in(high.frames)) == 20)
            await trio.sleep(2)
            rates = [event.throughput for event in world.low.of(LinkMeasured) if event.throughput is not None]
            assert rates
            assert all(rate == pytest.approx(2e6, rel=0.1) for rate in rates)

    run(body)


def test_a_black_hole_is_noticed_by_both_sides_within_six_seconds() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            await trio.sleep(20)
            started = trio.current_time()
            world.network.partition(["low"], ["high"])
            for device, end in ((world.low, low), (world.high, high)):
                await device.until(lambda end=end: end.down)
                assert end.down is not None
                assert end.down.code == "P_TIMEOUT"
                assert 3 <= trio.current_time() - started <= 6
                assert [event.suspect for event in device.of(LinkMeasured)][-1]

    run(body)


def test_a_short_silence_is_suspect_and_then_forgiven() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, _):
            await trio.sleep(20)
            world.network.partition(["low"], ["high"])
            await world.low.until(lambda: world.low.of(LinkMeasured)[-1].suspect)
            world.network.heal()
            await world.low.until(lambda: not world.low.of(LinkMeasured)[-1].suspect)
            await trio.sleep(20)
            assert low.down is None

    run(body)


def test_any_frame_takes_the_suspicion_back_at_once() -> None:
    async def body() -> None:
        world = World.make()
        async with against_script(world) as (_, connection):
            await world.high.until(lambda: any(event.suspect for event in world.high.of(LinkMeasured)))
            await connection.send([encode_frame(RosterHeads(()))], Lane.CONTROL)
            await trio.sleep(0.01)
            assert not world.high.of(LinkMeasured)[-1].suspect

    run(body)


def test_a_probe_asked_for_finds_a_dead_path_quickly() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            await trio.sleep(20)
            high.outgoing.probe()
            await trio.sleep(5)
            assert high.down is None
            world.network.partition(["low"], ["high"])
            started = trio.current_time()
            low.outgoing.probe()
            await world.low.until(lambda: low.down)
            assert trio.current_time() - started <= 1.5

    run(body)


def test_a_node_that_is_busy_does_not_blame_the_peer() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            await trio.sleep(20)
            world.low.full = trio.Event()
            high.outgoing.send_bundle(bundle(b"one too many"))
            await trio.sleep(20)
            assert not low.frames
            assert low.down is None
            world.low.full.set()
            await trio.sleep(20)
            assert bundles_in(low.frames) == [bundle(b"one too many")]
            assert low.down is None
            assert high.down is None
            assert not any(event.suspect for event in world.low.of(LinkMeasured))

    run(body)


@pytest.mark.parametrize(
    ("data", "lane", "code"),
    [
        (b"\xff garbage", Lane.CONTROL, "P_MALFORMED"),
        (encode_frame(Part(b"x")), Lane.BULK, "P_UNEXPECTED"),
        (encode_frame(Hello((1,), bytes(32))), Lane.CONTROL, "P_UNEXPECTED"),
        (encode_frame(bundle(b"xyz"))[:-2] + b"z\x02", Lane.BULK, "P_MALFORMED"),
    ],
)
def test_what_breaks_the_protocol_ends_exactly_that_link_and_says_why(data: bytes, lane: Lane, code: str) -> None:
    async def body() -> None:
        world = World.make()
        async with against_script(world) as (end, connection):
            await connection.send([data], lane)
            heard = await answers(connection)
            assert end.down is not None
            assert end.down.code == code
            assert isinstance(heard[-1], Bye)
            assert heard[-1].code == code

    run(body)


def test_closing_flushes_control_and_says_bye() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            low.outgoing.send_control(RosterHeads(()))
            low.outgoing.close("E_STOPPING", "this device\x1b[2J shuts down")
            low.outgoing.send_control(RosterHeads(()))
            low.outgoing.close("closed", "again")
            await world.high.until(lambda: high.down)
            await world.low.until(lambda: low.down)
            assert high.frames == [RosterHeads(())]
            assert low.down is not None
            assert high.down is not None
            assert (low.down.code, high.down.code) == ("E_STOPPING", "E_STOPPING")
            assert high.down.reason == "this device?[2J shuts down"

    run(body)


def test_a_bye_with_an_unknown_code_is_a_plain_close() -> None:
    async def body() -> None:
        world = World.make()
        async with against_script(world) as (end, connection):
            await connection.send([encode_frame(Bye("WHATEVER", "x"))], Lane.CONTROL)
            await answers(connection)
            assert end.down is not None
            assert end.down.code == "closed"

    run(body)


def test_a_peer_that_does_not_read_is_dropped_before_memory_fills() -> None:
    async def body() -> None:
        world = World.make()
        async with against_script(world) as (end, _):
            big = Cards(tuple(bytes(4096) for _ in range(15)))
            for n in itertools.count():
                end.outgoing.send_control(big)
                assert end.outgoing.queued_bytes <= MAX_CONTROL_BYTES
                await trio.sleep(0)
                if end.outgoing.closing is not None:
                    break
                assert n < 1000
            await world.high.until(lambda: end.down)
            assert end.down is not None
            assert end.down.code == "P_FLOOD"

    run(body)


def test_closing_a_link_whose_peer_does_not_read_takes_a_second_at_most() -> None:
    async def body() -> None:
        world = World.make()
        async with against_script(world) as (end, _):
            for _ in range(30):
                end.outgoing.send_control(Cards(tuple(bytes(4096) for _ in range(15))))
            await trio.sleep(0.1)
            started = trio.current_time()
            end.outgoing.close("closed", "a duplicate")
            await world.high.until(lambda: end.down)
            assert trio.current_time() - started <= 1.1

    run(body)


def test_a_broken_connection_is_lost() -> None:
    async def body() -> None:
        world = World.make()
        async with linked(world) as (low, high):
            world.network.cut("low", "high")
            await world.low.until(lambda: low.down)
            await world.high.until(lambda: high.down)
            assert low.down is not None
            assert low.down.code == "lost"

    run(body)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.3, 5.0])
def test_cancelled_at_any_time_it_reports_its_end_once(after: float) -> None:
    async def body() -> None:
        world = World.make()
        ends: list[End] = []

        async def listen(connection: Connection) -> None:
            ends.append(End(world.high, connection))
            await ends[0].run(world.low)

        async with connected(world, use_accepted=listen) as connection:
            low = End(world.low, connection)
            for _ in range(5):
                low.outgoing.send_bundle(bundle(bytes(1024 * 1024)))
            with trio.move_on_after(after) as scope:
                await low.run(world.high)
            assert scope.cancelled_caught
            assert low.down is not None
            assert low.down.code == "closed"

    run(body)


def test_any_bytes_end_the_link_or_do_nothing() -> None:
    rng = random.Random(5)
    samples = [encode_frame(frame) for frame in (Ping(1), Pong(2), bundle(b"abc"), RosterHeads(()), Ack((), ()))]

    async def body(data: bytes) -> None:
        world = World.make()
        async with against_script(world) as (end, connection):
            await connection.send([data], Lane.BULK)
            await trio.sleep(0.5)
            assert end.down is None or end.down.code.startswith("P_")

    for _ in range(60):
        data = bytearray(rng.choice(samples))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        run(lambda data=bytes(data): body(data))
