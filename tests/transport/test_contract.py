"""What every transport promises (meshd/transport/base.py), asked of each of them."""

import contextlib
import random
import socket
from collections.abc import Sequence

import attrs
import pytest
import trio

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.transport.base import Connection, Lane, TransportError
from meshd.transport.quic import QuicTransport
from meshd.transport.websocket import WebsocketTransport
from meshd.wire.frames import MAX_FRAME_BYTES, MAX_PROOF_FRAME_BYTES
from tests.transport.worlds import (
    CLIENT,
    KINDS,
    SERVER,
    STRANGER,
    collect,
    echo,
    no_handler,
    run,
    serving,
    settle,
    until,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)
REAL = ("quic", "websocket")


def test_frames_of_all_sizes_come_back_in_order(kind: str) -> None:
    rng = random.Random(7)
    frames = [rng.randbytes(rng.choice((1, 3, 100, 1200, 5000, 66_000))) for _ in range(200)]

    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection, trio.open_nursery() as nursery:
            connection.set_limit(MAX_FRAME_BYTES)
            nursery.start_soon(send_in_batches, connection, frames)
            assert await collect(connection, len(frames)) == frames

    run(kind, body)


async def send_in_batches(connection: Connection, frames: Sequence[bytes]) -> None:
    for start in range(0, len(frames), 17):
        await connection.send(frames[start : start + 17])


def test_ends_know_each_other(kind: str) -> None:
    accepted: list[Connection] = []

    async def handler(connection: Connection) -> None:
        accepted.append(connection)
        await echo(connection)

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as dialed:
            await dialed.send([b"hello"])
            assert await collect(dialed, 1) == [b"hello"]
            (there,) = accepted
            assert (dialed.dialed, there.dialed) == (True, False)
            assert dialed.transport == there.transport == kind
            assert dialed.alpn == there.alpn == "meshd/1"
            assert dialed.listener_certificate == there.listener_certificate == SERVER.der
            assert dialed.remote == pair.address
            assert there.local.port == pair.address.port
            assert there.remote.host == ("client" if kind == "memory" else "127.0.0.1")

    run(kind, body)


def test_both_lanes_carry_both_ways_from_the_start(kind: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send([b"bulk"], Lane.BULK)
        await connection.send([b"control"], Lane.CONTROL)
        await collect(connection, 2)

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as connection:
            assert sorted(await collect(connection, 2)) == [b"bulk", b"control"]
            await connection.send([b"b"], Lane.BULK)
            await connection.send([b"c"], Lane.CONTROL)
            with pytest.raises(TransportError):
                await connection.receive()

    run(kind, body)


def test_longest_frames_pass_within_the_limits(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection:
            await connection.send([b"x" * MAX_PROOF_FRAME_BYTES])
            assert await collect(connection, 1) == [b"x" * MAX_PROOF_FRAME_BYTES]
            connection.set_limit(MAX_FRAME_BYTES)
            await connection.send([b"y" * MAX_FRAME_BYTES])
            assert await collect(connection, 1) == [b"y" * MAX_FRAME_BYTES]

    run(kind, body)


def test_a_frame_over_the_limit_is_the_senders_fault_and_ends_its_connection_alone(kind: str) -> None:
    errors: list[RemoteProtocolError] = []
    seen: list[bytes] = []

    async def handler(connection: Connection) -> None:
        try:
            while True:
                seen.extend(await connection.receive())
        except RemoteProtocolError as error:
            errors.append(error)
            raise

    async def body() -> None:
        async with serving(kind, handler) as pair:
            async with pair.dial() as bystander:
                async with pair.dial() as connection:
                    await connection.send([b"good", b"x" * (MAX_PROOF_FRAME_BYTES + 1)])
                    with pytest.raises(TransportError):
                        await connection.receive()
                await bystander.send([b"still here"])
                await until(lambda: b"still here" in seen)
            async with pair.dial() as late:
                await late.send([b"late"])
                await until(lambda: b"late" in seen)
        assert [error.code for error in errors] == ["P_OVERSIZED"]
        assert seen == [b"good", b"still here", b"late"]

    run(kind, body)


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1])
def test_frames_that_never_can_be_sent_are_our_own_bug(kind: str, size: int) -> None:
    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection:
            with pytest.raises(LocalProtocolError):
                await connection.send([b"x" * size])

    run(kind, body)


def test_a_slow_receiver_stops_the_sender_and_loses_nothing(kind: str) -> None:
    total = 800  # frames of 64 KiB: 50 MiB, more than a transport may hold
    reading = trio.Event()
    received: list[int] = []

    async def handler(connection: Connection) -> None:
        connection.set_limit(MAX_FRAME_BYTES)
        await reading.wait()
        while len(received) < total // 4:
            received.extend(int.from_bytes(frame[:4], "big") for frame in await connection.receive())

    async def body() -> None:
        sent = 0

        async def send_all(connection: Connection) -> None:
            nonlocal sent
            with contextlib.suppress(TransportError):
                for number in range(total):
                    await connection.send([number.to_bytes(4, "big") * 16_384])
                    sent += 1

        async with serving(kind, handler) as pair, pair.dial() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, connection)
            await settle(kind)
            before = -1
            while sent != before:
                before = sent
                await settle(kind)
            assert 0 < sent < total // 2
            reading.set()
        assert received == list(range(len(received)))
        assert len(received) >= total // 4

    run(kind, body, seconds=60)


def test_control_overtakes_bulk_that_is_held_up(kind: str) -> None:
    if kind == "websocket":
        pytest.skip("both lanes share a stream: the link's writer puts control first")
    reading = trio.Event()
    received: list[bytes] = []

    async def handler(connection: Connection) -> None:
        connection.set_limit(MAX_FRAME_BYTES)
        await reading.wait()
        while b"last" not in received:
            received.extend(frame[:7] for frame in await connection.receive())

    async def send_bulk(connection: Connection) -> None:
        for _ in range(100):
            await connection.send([b"b" * 65_536])
        await connection.send([b"last"])

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(send_bulk, connection)
            await settle(kind)
            await connection.send([b"control"], Lane.CONTROL)
            await settle(kind)
            reading.set()
            with pytest.raises(TransportError):
                await connection.receive()
        assert received == [b"control"] + [b"b" * 7] * 100 + [b"last"]

    run(kind, body, seconds=60)


def test_lanes_that_share_a_stream_keep_the_order_of_sending(kind: str) -> None:
    if kind != "websocket":
        pytest.skip("the lanes are separate")

    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection:
            for number in range(20):
                await connection.send([bytes([number])], Lane.CONTROL if number % 3 else Lane.BULK)
            assert await collect(connection, 20) == [bytes([number]) for number in range(20)]

    run(kind, body)


def test_another_certificate_is_refused(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            with pytest.raises(TransportError, match="certificate refused: it is not the known one"):
                async with pair.dial(STRANGER.pin):
                    pass

    run(kind, body)


def test_another_name_is_refused(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            with pytest.raises(TransportError, match="certificate refused: it is not the known one"):
                async with pair.dial(attrs.evolve(SERVER.pin, server_name=CLIENT.name)):
                    pass

    run(kind, body)


def test_a_damaged_pin_is_refused(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            with pytest.raises(TransportError):
                async with pair.dial(attrs.evolve(SERVER.pin, certificate=b"no certificate")):
                    pass

    run(kind, body)


def test_a_closed_port_fails_at_once(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            sort = socket.SOCK_DGRAM if kind == "quic" else socket.SOCK_STREAM
            with socket.socket(socket.AF_INET, sort) as taken:
                taken.bind(("127.0.0.1", 0))  # bound and never listening: nobody else can have it
                port = taken.getsockname()[1]
                if kind == "quic":
                    taken.close()
                with trio.fail_after(2), pytest.raises(TransportError, match=r"^Connection refused$"):
                    async with pair.client.dial(attrs.evolve(pair.address, port=port), SERVER.pin):
                        pass

    run(kind, body)


def test_the_end_of_the_other_side_is_noticed_by_who_waits(kind: str) -> None:
    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as connection:
            await connection.send([b"hello"])
            await settle(kind)
            pair.stop()
            with pytest.raises(TransportError):
                await connection.receive()
            await settle(kind)
            with pytest.raises(TransportError):
                await connection.send([b"anyone?"])

    run(kind, body)


def test_closing_sends_what_was_handed_over(kind: str) -> None:
    frames = [bytes([number]) * 10_000 for number in range(60)]
    received: list[bytes] = []
    reasons: list[str] = []
    done = trio.Event()

    async def handler(connection: Connection) -> None:
        try:
            while True:
                received.extend(await connection.receive())
        except TransportError as error:
            reasons.append(error.reason)
            done.set()

    async def body() -> None:
        async with serving(kind, handler) as pair:
            async with pair.dial() as connection:
                await connection.send(frames)
                await connection.aclose()
                with pytest.raises(TransportError):
                    await connection.send([b"too late"])
                with pytest.raises(TransportError):
                    await connection.receive()
            await done.wait()
        assert received == frames
        assert reasons == ["closed by the other side"]

    run(kind, body)


def test_a_handler_that_returns_closes_its_connection(kind: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send([b"goodbye"])

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as connection:
            assert await collect(connection, 1) == [b"goodbye"]
            with pytest.raises(TransportError, match="closed by the other side"):
                await connection.receive()

    run(kind, body)


def test_a_handler_that_fails_takes_nobody_along(kind: str) -> None:
    async def handler(connection: Connection) -> None:
        while True:
            frames = await connection.receive()
            if b"fail" in frames:
                raise ZeroDivisionError
            await connection.send(frames)

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as good:
            async with pair.dial() as bad:
                await bad.send([b"fail"])
                with pytest.raises(TransportError):
                    await bad.receive()
            await good.send([b"unhurt"])
            assert await collect(good, 1) == [b"unhurt"]

    run(kind, body, failures=1)


def test_an_error_of_the_dialers_own_comes_out_as_it_is(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, echo) as pair:
            with pytest.raises(ZeroDivisionError):
                async with pair.dial():
                    raise ZeroDivisionError

    run(kind, body)


def test_receive_is_cancel_safe(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection:
            for number in range(20):
                await connection.send([bytes([number])])
                with trio.move_on_after(0):
                    raise AssertionError(await connection.receive())
            assert await collect(connection, 20) == [bytes([number]) for number in range(20)]

    run(kind, body)


def test_a_send_cut_short_breaks_the_connection(kind: str) -> None:
    async def handler(connection: Connection) -> None:
        connection.set_limit(MAX_FRAME_BYTES)
        await trio.sleep_forever()

    async def body() -> None:
        async with serving(kind, handler) as pair, pair.dial() as connection:
            with trio.move_on_after(0.5) as scope:
                await connection.send([b"x" * 65_536] * 1000)
            assert scope.cancelled_caught
            with pytest.raises(TransportError):
                await connection.send([b"x"])

    run(kind, body)


def test_a_dial_can_be_given_up(kind: str) -> None:
    """The port belongs to somebody who never says a word."""

    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            sort = socket.SOCK_DGRAM if kind == "quic" else socket.SOCK_STREAM
            with socket.socket(socket.AF_INET, sort) as silent:
                silent.bind(("127.0.0.1", 0))
                if kind == "websocket":
                    silent.listen()
                address = attrs.evolve(pair.address, port=silent.getsockname()[1])
                if kind == "memory":
                    address = attrs.evolve(pair.address, host="nowhere")
                with trio.move_on_after(0.001 if kind == "memory" else 0.2) as scope:
                    async with pair.client.dial(address, SERVER.pin):
                        raise AssertionError("connected to nobody")
                assert scope.cancelled_caught

    run(kind, body)


def test_cancelling_a_dialed_connection_ends_both_sides(kind: str) -> None:
    greeted, ended = trio.Event(), trio.Event()

    async def handler(connection: Connection) -> None:
        try:
            await connection.receive()
            greeted.set()
            await connection.receive()
        except TransportError:
            ended.set()

    async def body() -> None:
        async with serving(kind, handler) as pair:
            with trio.CancelScope() as scope:
                async with pair.dial() as connection:
                    await connection.send([b"hello"])
                    await greeted.wait()
                    scope.cancel()
                    await connection.receive()
            await ended.wait()

    run(kind, body)


def test_fifty_connections_at_once(kind: str) -> None:
    async def body() -> None:
        async with serving(kind, echo) as pair, trio.open_nursery() as nursery:

            async def talk(number: int) -> None:
                async with pair.dial() as connection:
                    frames = [number.to_bytes(2, "big") * size for size in (1, 10, 5000)]
                    await connection.send(frames)
                    assert await collect(connection, 3) == frames

            for number in range(50):
                nursery.start_soon(talk, number)

    run(kind, body, seconds=60)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_both_families_of_loopback(kind: str, host: str) -> None:
    if kind == "memory":
        pytest.skip("memory has no families")

    async def body() -> None:
        async with serving(kind, echo, loopback=host) as pair, pair.dial() as connection:
            await connection.send([b"hello"])
            assert await collect(connection, 1) == [b"hello"]
            assert connection.remote.is_loopback

    run(kind, body)


def test_garbage_hurts_nobody(kind: str) -> None:
    if kind == "memory":
        pytest.skip("memory carries frames, not bytes")
    rng = random.Random(3)

    async def throw(port: int) -> None:
        sort = socket.SOCK_DGRAM if kind == "quic" else socket.SOCK_STREAM
        with trio.socket.socket(socket.AF_INET, sort) as thrower:
            await thrower.connect(("127.0.0.1", port))
            for first in (b"", b"\x16\x03\x01", b"\xc0\x00\x00\x00\x01\x08", b"\x40"):
                try:
                    await thrower.send(first + rng.randbytes(1300))
                except OSError:
                    return  # hung up on, rightly

    async def body() -> None:
        async with serving(kind, echo) as pair, pair.dial() as connection:
            for number in range(20):
                await throw(pair.address.port)
                await connection.send([bytes([number])])
                assert await collect(connection, 1) == [bytes([number])]

    run(kind, body)


def test_ports_that_are_taken_are_named(kind: str) -> None:
    if kind == "memory":
        pytest.skip("covered in test_memory")

    async def body() -> None:
        async with serving(kind, no_handler) as pair:
            settings = {"certificate_pem": CLIENT.pem, "private_key_pem": CLIENT.key_pem}
            sort = QuicTransport if kind == "quic" else WebsocketTransport
            second = sort(listen=[("::", pair.address.port)], **settings)  # type: ignore[arg-type]
            with pytest.raises(OSError, match=rf"\[::\]:{pair.address.port}"):
                await second.serve(no_handler)

    run(kind, body)
