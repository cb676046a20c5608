"""The simulator's network: time, loss, partitions, crashes, and the same again for the same seed."""

import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from meshd.transport.base import Connection, Lane, TransportError
from meshd.transport.memory import MemoryNetwork, MemoryTransport
from meshd.transport.pipe import Rule
from meshd.wire.frames import MAX_FRAME_BYTES
from tests.transport.worlds import CLIENT, SERVER, collect, echo, no_handler


def run(body: Callable[[], Awaitable[None]]) -> None:
    trio.run(body, clock=MockClock(autojump_threshold=0))


@attrs.define
class Recorder:
    """A handler that notes what comes and when, and how it ends."""

    frames: list[tuple[float, bytes]] = attrs.field(factory=list)
    ends: list[tuple[float, str]] = attrs.field(factory=list)

    async def __call__(self, connection: Connection) -> None:
        connection.set_limit(MAX_FRAME_BYTES)
        try:
            while True:
                for frame in await connection.receive():
                    self.frames.append((trio.current_time(), frame))
        except TransportError as error:
            self.ends.append((trio.current_time(), error.reason))


@contextlib.asynccontextmanager
async def between(network: MemoryNetwork, recorder: Recorder) -> AsyncIterator[Connection]:
    """A connection from host ``a`` to host ``b``."""
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(network.transport("b", SERVER.der).serve, recorder)
        async with network.transport("a", CLIENT.der).dial(address, SERVER.pin) as connection:
            yield connection
        await trio.sleep(100)
        nursery.cancel_scope.cancel()


def test_delay_is_exact_and_lanes_are_apart() -> None:
    async def body() -> None:
        network = MemoryNetwork(random.Random(0), rule=Rule(delay=0.5, bandwidth=1000))
        recorder = Recorder()
        async with between(network, recorder) as connection:
            assert trio.current_time() == 2.0  # two round trips of one second
            await connection.send([b"x" * 1000, b"y" * 500])
            await connection.send([b"!" * 100], Lane.CONTROL)
        times = [(round(at - 2, 3), frame[:1]) for at, frame in recorder.frames]
        assert times == [(0.6, b"!"), (1.5, b"x"), (2.0, b"y")]

    run(body)


def test_loss_is_delay_and_keeps_the_order() -> None:
    async def body() -> None:
        network = MemoryNetwork(random.Random(5), rule=Rule(delay=0.01, loss=0.3, jitter=0.02))
        recorder = Recorder()
        frames = [bytes([number]) for number in range(200)]
        async with between(network, recorder) as connection:
            start = trio.current_time()
            for frame in frames:
                await connection.send([frame])
        assert [frame for _, frame in recorder.frames] == frames
        assert recorder.frames[-1][0] - start > 0.2

    run(body)


def test_one_seed_is_one_history() -> None:
    def history(seed: int) -> list[tuple[float, bytes]]:
        recorder = Recorder()

        async def body() -> None:
            network = MemoryNetwork(random.Random(seed), rule=Rule(loss=0.2, jitter=0.1, bandwidth=10_000))
            async with between(network, recorder) as connection:
                for number in range(50):
                    await connection.send([bytes([number]) * 50], Lane.CONTROL if number % 4 == 0 else Lane.BULK)

        run(body)
        return recorder.frames

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_a_short_partition_is_silence_and_then_everything_arrives() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        async with between(network, recorder) as connection:
            await connection.send([b"before"])
            await trio.sleep(1)
            network.partition(["a"], ["b"])
            await connection.send([b"during"])
            await trio.sleep(10)
            assert [frame for _, frame in recorder.frames] == [b"before"]
            network.heal()
            healed = trio.current_time()
            await connection.send([b"after"])
        assert [frame for _, frame in recorder.frames] == [b"before", b"during", b"after"]
        assert healed < recorder.frames[1][0] <= healed + 2
        assert [reason for _, reason in recorder.ends] == ["closed by the other side"]

    run(body)


@pytest.mark.parametrize("one_way", [False, True])
def test_a_long_partition_breaks_connections_on_both_sides(one_way: bool) -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        async with between(network, recorder) as connection:
            network.partition(["a"], ["b"], one_way=one_way)
            start = trio.current_time()
            with pytest.raises(TransportError, match=r"silent for 30 s|connection lost"):
                await connection.receive()
            assert trio.current_time() == start + 30
            await trio.sleep(60)
            network.heal()
        assert [at - start for at, _ in recorder.ends] == [30]

    run(body)


def test_what_was_on_the_way_when_the_partition_came_waits_for_its_end() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0), rule=Rule(delay=1)), Recorder()
        async with between(network, recorder) as connection:
            await connection.send([b"on the way"])
            network.partition(["a"], ["b"])
            await trio.sleep(5)
            assert recorder.frames == []
            network.heal(["a"], ["b"])
        assert [frame for _, frame in recorder.frames] == [b"on the way"]

    run(body)


def test_who_drops_a_connection_in_a_partition_is_not_noticed_until_it_heals() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        async with between(network, recorder) as connection:
            network.partition(["a"], ["b"])
            with trio.move_on_after(1):
                await connection.send([b"x" * 50_000] * 100)
            await trio.sleep(5)
            assert recorder.ends == []
            network.heal()
            await trio.sleep(1)
            assert [reason for _, reason in recorder.ends] == ["connection lost"]

    run(body)


def test_a_cut_is_noticed_at_once_on_both_sides() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        async with between(network, recorder) as connection:
            assert network.cut("a", "b") == 1
            assert network.cut("a", "b") == 0
            with pytest.raises(TransportError, match="connection lost"):
                await connection.receive()
        assert [reason for _, reason in recorder.ends] == ["connection lost"]

    run(body)


def test_a_rule_can_cut() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        async with between(network, recorder) as connection:
            network.set_rule("a", "b", Rule(cut=1.0), one_way=True)
            with pytest.raises(TransportError, match="connection lost"):
                await connection.send([b"x"])
        assert [reason for _, reason in recorder.ends] == ["connection lost"]

    run(body)


def test_a_crash_is_silent_for_the_others_and_its_host_can_come_back() -> None:
    async def body() -> None:
        network, recorder = MemoryNetwork(random.Random(0)), Recorder()
        server = network.transport("b", SERVER.der)
        client = network.transport("a", CLIENT.der)
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(server.serve, recorder)
            async with client.dial(address, SERVER.pin) as connection:
                await trio.sleep(1)
                start = trio.current_time()
                network.crash("b")
                await trio.sleep(0)
                with pytest.raises(TransportError, match="silent for 30 s"):
                    await connection.receive()
                assert trio.current_time() == start + 30
            assert [(at - start, reason) for at, reason in recorder.ends] == [(0, "this host has crashed")]

            async def come_back() -> None:
                await trio.sleep(7)
                await network.transport("b", SERVER.der, address.port).serve(echo)

            nursery.start_soon(come_back)
            async with client.dial(address, SERVER.pin) as connection:
                assert round(trio.current_time() - start) == 37
                await connection.send([b"back?"])
                assert await collect(connection, 1) == [b"back?"]
            nursery.cancel_scope.cancel()

    run(body)


def test_a_dial_into_a_partition_hangs_until_it_heals() -> None:
    async def body() -> None:
        network = MemoryNetwork(random.Random(0))
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(network.transport("b", SERVER.der).serve, echo)
            client = network.transport("a", CLIENT.der)
            network.partition(["b"], ["a"], one_way=True)
            with trio.move_on_after(50) as scope:
                async with client.dial(address, SERVER.pin):
                    pass
            assert scope.cancelled_caught

            async def heal() -> None:
                await trio.sleep(9)
                network.heal()

            nursery.start_soon(heal)
            async with client.dial(address, SERVER.pin):
                assert round(trio.current_time()) == 59
            nursery.cancel_scope.cancel()

    run(body)


def test_a_port_is_taken_once() -> None:
    async def body() -> None:
        network = MemoryNetwork(random.Random(0))
        first: MemoryTransport = network.transport("b", SERVER.der, 7843)
        second = network.transport("b", SERVER.der, 7843)
        async with trio.open_nursery() as nursery:
            await nursery.start(first.serve, no_handler)
            with pytest.raises(OSError, match="memory://b:7843"):
                await second.serve(no_handler)
            nursery.cancel_scope.cancel()

    run(body)
