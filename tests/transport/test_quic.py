"""What is QUIC's own: silence, moving addresses, proofs of address, and peers that don't keep to the windows."""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import structlog.testing
import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported, but not declared so
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as Peer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from meshd.transport.base import Address, Connection, Handler, Lane, TransportError
from meshd.transport.framing import encode_batches
from meshd.transport.lanes import INITIAL_WINDOW_BYTES
from meshd.transport.quic import QuicTransport
from meshd.transport.serving import HalfOpenLimits
from meshd.wire.frames import MAX_FRAME_BYTES
from tests.transport.certificates import Certificate
from tests.transport.worlds import CLIENT, GENEROUS, SERVER, collect, echo, no_handler, run, until


def make(certificate: Certificate, **settings: Any) -> QuicTransport:
    return QuicTransport(
        **{
            "listen": [("127.0.0.1", 0)],
            "certificate_pem": certificate.pem,
            "private_key_pem": certificate.key_pem,
            "limits": GENEROUS,
            **settings,
        }
    )


@contextlib.asynccontextmanager
async def serving(handler: Handler, **settings: Any) -> AsyncIterator[tuple[QuicTransport, Address]]:
    """A client and the address of a server."""
    client = make(CLIENT, **settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.serve, no_handler)
        (address,) = await nursery.start(make(SERVER, **settings).serve, handler)
        yield client, address
        nursery.cancel_scope.cancel()


@attrs.define
class Router:
    """Between a client and a server: passes datagrams on, drops them, or takes another port for the client."""

    inside: trio.socket.SocketType
    outside: trio.socket.SocketType
    server: Any
    client: Any = None
    dropping: bool = False
    passed: int = 0

    async def run_inside(self) -> None:
        while True:
            data, self.client = await self.inside.recvfrom(65_536)
            self.passed += 1
            if not self.dropping:
                await self.outside.sendto(data, self.server)

    async def run_outside(self) -> None:
        while True:
            outside = self.outside
            try:
                data = await outside.recv(65_536)
            except (trio.ClosedResourceError, OSError):
                if outside is self.outside:
                    raise
                continue  # closed by rebind, maybe in the moment when something came
            self.passed += 1
            if not self.dropping:
                await self.inside.sendto(data, self.client)

    async def rebind(self) -> None:
        """Give the client another port, as a home router does after a while."""
        old, self.outside = self.outside, await udp()
        old.close()


async def udp() -> trio.socket.SocketType:
    bound = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await bound.bind(("127.0.0.1", 0))
    return bound


@contextlib.asynccontextmanager
async def router(address: Address) -> AsyncIterator[tuple[Router, Address]]:
    """A router before the server, and the address to dial instead."""
    between = Router(await udp(), await udp(), (address.host, address.port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(between.run_inside)
        nursery.start_soon(between.run_outside)
        yield between, attrs.evolve(address, port=between.inside.getsockname()[1])
        nursery.cancel_scope.cancel()
    between.inside.close()
    between.outside.close()


def test_on_a_quiet_connection_an_answer_takes_the_acknowledgement_along() -> None:
    passed: list[int] = []

    async def body() -> None:
        async with (
            serving(echo) as (client, real),
            router(real) as (between, address),
            client.dial(address, SERVER.pin) as connection,
        ):
            connection.set_limit(MAX_FRAME_BYTES)
            await connection.send([bytes(50_000)])
            await collect(connection, 1)
            await trio.sleep(1.3)  # for a while after bulk it is not quiet
            for _ in range(8):
                before = between.passed
                await connection.send([b"ping"], Lane.CONTROL)
                await collect(connection, 1)
                await trio.sleep(0.1)
                passed.append(between.passed - before)

    run("quic", body)
    # The ping, the answer, and the acknowledgement of the answer; on a busy machine now and then one more.
    assert sorted(passed)[3] == 3, passed


def test_silence_ends_a_connection_on_both_sides() -> None:
    greeted: list[bytes] = []
    reasons: list[str] = []

    async def handler(connection: Connection) -> None:
        greeted.extend(await collect(connection, 1))
        try:
            await connection.receive()
        except TransportError as error:
            reasons.append(error.reason)

    async def body() -> None:
        async with serving(handler, idle_timeout=2) as (client, real), router(real) as (between, address):
            async with client.dial(address, SERVER.pin) as connection:
                await connection.send([b"hello"])
                await until(lambda: greeted == [b"hello"])
                between.dropping = True
                with pytest.raises(TransportError, match="no answer for too long"):
                    await connection.receive()
                with pytest.raises(TransportError):
                    await connection.send([b"x"])
            await until(lambda: reasons != [])
        assert reasons == ["no answer for too long"]

    run("quic", body)


def test_a_peer_may_move() -> None:
    connections: list[Connection] = []

    async def handler(connection: Connection) -> None:
        connections.append(connection)
        await echo(connection)

    async def body() -> None:
        async with (
            serving(handler) as (client, real),
            router(real) as (between, address),
            client.dial(address, SERVER.pin) as connection,
        ):
            await connection.send([b"from here"])
            assert await collect(connection, 1) == [b"from here"]
            before = connections[0].remote
            await between.rebind()
            await connection.send([b"from there"])
            assert await collect(connection, 1) == [b"from there"]
            assert connections[0].remote != before
            assert connections[0].remote.port == between.outside.getsockname()[1]

    run("quic", body)


def test_many_strangers_are_asked_for_a_proof_of_their_address() -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(await connection.receive())  # and stays half-open, without set_limit
        await trio.sleep_forever()

    async def body() -> None:
        retries = 0
        limits = HalfOpenLimits(per_address=20, total=4, kept=0)
        async with serving(handler, limits=limits) as (client, real), contextlib.AsyncExitStack() as stack:
            for number in range(3):
                connection = await stack.enter_async_context(client.dial(real, SERVER.pin))
                await connection.send([bytes([number])])
                assert await collect(connection, 1) == [bytes([number])]
            with await udp() as bare:
                await bare.sendto(first_datagram(), (real.host, real.port))
                data = await bare.recv(65_536)
                retries += pull_quic_header(Buffer(data=data), 8).packet_type is QuicPacketType.RETRY
        assert retries == 1

    run("quic", body)


def test_nobody_takes_the_places_of_an_address_that_he_only_claims() -> None:
    async def body() -> None:
        async with serving(echo, limits=HalfOpenLimits(deadline=15)) as (client, address):
            with await udp() as bare:
                for _ in range(HalfOpenLimits().per_address):
                    await bare.sendto(first_datagram(), target(address))
                    await bare.recv(65_536)
                with trio.fail_after(10):
                    async with client.dial(address, SERVER.pin) as connection:
                        await connection.send([b"really here"])
                        assert await collect(connection, 1) == [b"really here"]

    run("quic", body)


def configuration() -> QuicConfiguration:
    known = QuicConfiguration(alpn_protocols=["meshd/1"], server_name=SERVER.name)
    known.load_verify_locations(cadata=SERVER.pem)
    return known


def first_datagram() -> bytes:
    peer = Peer(configuration=configuration())
    peer.connect(("127.0.0.1", 1), now=0.0)
    return bytes(peer.datagrams_to_send(0.0)[0][0])


def test_an_unknown_version_is_told_the_known_ones() -> None:
    async def body() -> None:
        async with serving(no_handler) as (_, address):
            with await udp() as bare:
                await bare.sendto(
                    b"\xc0\x0a\x0a\x0a\x0a\x08" + b"d" * 8 + b"\x08" + b"s" * 8 + bytes(1200), target(address)
                )
                header = pull_quic_header(Buffer(data=await bare.recv(65_536)), 8)
                assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
                assert 1 in header.supported_versions

    run("quic", body)


def target(address: Address) -> tuple[str, int]:
    return address.host, address.port


def test_datagrams_of_no_connection_get_no_answer() -> None:
    async def body() -> None:
        async with serving(no_handler) as (_, address):
            with await udp() as bare:
                for data in (
                    b"",
                    b"\x40" + b"c" * 40,
                    b"\xc0\x00\x00\x00\x01",
                    first_datagram()[:1199],
                    b"\xff" * 1300,
                ):
                    await bare.sendto(data, target(address))
                with trio.move_on_after(0.2) as scope:
                    answer = await bare.recv(65_536)
                    assert pull_quic_header(Buffer(data=answer), 8).packet_type is QuicPacketType.VERSION_NEGOTIATION
                    await bare.recv(65_536)
                assert scope.cancelled_caught

    run("quic", body)


async def misbehave(address: Address, act: Callable[[Peer], None]) -> str:
    """Open both lanes, do something bad, and return why the server closes."""
    peer = Peer(configuration=configuration())
    peer.connect(target(address), now=trio.current_time())
    with await udp() as bare:
        while True:
            for data, _ in peer.datagrams_to_send(trio.current_time()):
                await bare.sendto(data, target(address))
            with trio.move_on_at(peer.get_timer() or 0):
                data, source = await bare.recvfrom(65_536)
                peer.receive_datagram(data, source, trio.current_time())
            timer = peer.get_timer()
            if timer is not None and timer <= trio.current_time():
                peer.handle_timer(trio.current_time())
            while (event := peer.next_event()) is not None:
                if isinstance(event, events.HandshakeCompleted):
                    for stream in (0, 4):
                        peer.send_stream_data(stream, b"\x80\x00\x00\x00")
                    act(peer)
                if isinstance(event, events.ConnectionTerminated):
                    return event.reason_phrase


def ignore_the_window(peer: Peer) -> None:
    peer.send_stream_data(4, b"".join(encode_batches([b"x" * 1000] * (INITIAL_WINDOW_BYTES // 1000 + 10))))


def open_a_third_stream(peer: Peer) -> None:
    peer.send_stream_data(8, b"x")


def send_an_endless_frame(peer: Peer) -> None:
    peer.send_stream_data(0, b"\x7f\xff\xff\xff")


def leave_gaps(peer: Peer) -> None:
    """Send a byte at the far end of what flow control allows, again and again: it allows twice as much each time."""
    send = peer.datagrams_to_send

    def sparse(now: float) -> Any:
        sender = peer._streams[4].sender
        limit = peer._streams[4].max_stream_data_remote
        if limit > sender._buffer_stop + 1 and peer._remote_max_data > sender._buffer_stop + 1:
            skipped = min(limit, peer._remote_max_data) - 1 - sender._buffer_stop
            sender._buffer_stop += skipped
            sender._buffer += bytearray(1)
            sender._buffer_start = sender._buffer_stop
            sender._buffer = bytearray(b"x")
            sender._buffer_stop += 1
            sender._pending.add(sender._buffer_stop - 1, sender._buffer_stop)
            sender.highest_offset = sender._buffer_stop - 1
            sender.buffer_is_empty = False
        return send(now)

    peer.datagrams_to_send = sparse  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (ignore_the_window, "P_FLOOD"),
        (open_a_third_stream, "P_UNEXPECTED"),
        (send_an_endless_frame, "P_OVERSIZED"),
        (leave_gaps, "P_FLOOD"),
    ],
)
def test_who_breaks_the_rules_is_cut_off_and_nobody_else(act: Callable[[Peer], None], code: str) -> None:
    async def handler(connection: Connection) -> None:
        if connection.remote.port in bystanders:
            await echo(connection)
        await trio.sleep_forever()

    bystanders: set[int] = set()

    async def body() -> None:
        async with serving(handler) as (client, address):
            bystanders.update(udp.address.port for udp in client._sockets)
            async with client.dial(address, SERVER.pin) as bystander:
                assert await misbehave(address, act) == code
                await bystander.send([b"unhurt"])
                assert await collect(bystander, 1) == [b"unhurt"]

    with structlog.testing.capture_logs():
        run("quic", body)


def test_control_is_not_held_up_by_a_full_bulk_window() -> None:
    async def handler(connection: Connection) -> None:
        connection.set_limit(MAX_FRAME_BYTES)
        await trio.sleep_forever()

    async def body() -> None:
        async with (
            serving(handler) as (client, address),
            client.dial(address, SERVER.pin) as connection,
            trio.open_nursery() as nursery,
        ):

            async def fill() -> None:
                with contextlib.suppress(TransportError):
                    await connection.send([b"x" * 60_000] * 100)

            nursery.start_soon(fill)
            await trio.sleep(0.3)
            with trio.fail_after(10):
                await connection.send([b"control"] * 100, Lane.CONTROL)
            connection.abort()

    run("quic", body)


def test_dialing_needs_the_socket() -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match="no QUIC socket"):
            async with make(CLIENT).dial(Address("quic", "127.0.0.1", 1), SERVER.pin):
                pass

    run("quic", body)


def test_each_family_has_its_socket() -> None:
    async def body() -> None:
        client = make(CLIENT, listen=[("::1", 0), ("127.0.0.1", 0)])
        server = make(SERVER, listen=[("127.0.0.1", 0), ("::1", 0)])
        async with trio.open_nursery() as nursery:
            await nursery.start(client.serve, no_handler)
            for address in await nursery.start(server.serve, echo):
                async with client.dial(address, SERVER.pin) as connection:
                    await connection.send([address.host.encode()])
                    assert await collect(connection, 1) == [address.host.encode()]
                    assert connection.local.host == address.host
            nursery.cancel_scope.cancel()

    run("quic", body)
