"""What is WebSocket's own: the way in for joining devices, TLS, and the limits on strangers."""

import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio_websocket

from meshd.errors import RemoteProtocolError
from meshd.transport.base import Address, Connection, Handler, TransportError
from meshd.transport.serving import HalfOpenLimits
from meshd.transport.tls import TlsStream, pinned_context
from meshd.transport.websocket import WebsocketTransport
from meshd.wire.frames import ALPN_LINK, MAX_FRAME_BYTES
from tests.transport.worlds import CLIENT, GENEROUS, SERVER, collect, echo, no_handler, run

WS = "websocket"


@contextlib.asynccontextmanager
async def listening(handler: Handler, join_handler: Handler | None = None, **settings: Any) -> AsyncIterator[Address]:
    """A listener on loopback."""
    settings = {"limits": GENEROUS, **settings}
    server = WebsocketTransport(
        listen=[("127.0.0.1", 0)], certificate_pem=SERVER.pem, private_key_pem=SERVER.key_pem, **settings
    )
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(server.serve, handler, join_handler)
        yield address
        nursery.cancel_scope.cancel()


def client() -> WebsocketTransport:
    return WebsocketTransport(listen=[], certificate_pem=CLIENT.pem, private_key_pem=CLIENT.key_pem)


def accept_all(certificate: bytes) -> None:
    assert certificate == SERVER.der


def test_joining_is_frames_straight_on_tls() -> None:
    async def join(connection: Connection) -> None:
        assert connection.alpn == "meshd-join/1"
        assert connection.listener_certificate == SERVER.der
        await connection.send([b"welcome, " + (await connection.receive())[0]])

    async def body() -> None:
        async with listening(echo, join) as address:
            async with client().dial_join(address, accept_all) as connection:
                assert connection.alpn == "meshd-join/1"
                assert connection.listener_certificate == SERVER.der
                await connection.send([b"joiner"])
                assert await collect(connection, 1) == [b"welcome, joiner"]
                with pytest.raises(TransportError, match="closed by the other side"):
                    await connection.receive()
            async with client().dial(address, SERVER.pin) as linked:
                await linked.send([b"both on one port"])
                assert await collect(linked, 1) == [b"both on one port"]

    run(WS, body)


def test_a_joiner_that_refuses_the_certificate_has_sent_nothing() -> None:
    received: list[bytes] = []

    async def join(connection: Connection) -> None:
        received.extend(await connection.receive())

    def check(certificate: bytes) -> None:
        raise TransportError("another one than in the invitation")

    async def body() -> None:
        async with listening(no_handler, join) as address:
            with pytest.raises(TransportError, match="another one"):
                async with client().dial_join(address, check):
                    pass
            await trio.sleep(0.1)
        assert received == []

    run(WS, body)


def test_who_takes_in_nobody_says_so() -> None:
    async def body() -> None:
        async with listening(no_handler) as address:
            with pytest.raises(TransportError):
                async with client().dial_join(address, accept_all):
                    pass

    run(WS, body)


def test_an_oversized_frame_in_joining_is_refused() -> None:
    errors: list[str] = []

    async def join(connection: Connection) -> None:
        try:
            await connection.receive()
        except RemoteProtocolError as error:
            errors.append(error.code)

    async def body() -> None:
        async with listening(no_handler, join) as address, client().dial_join(address, accept_all) as connection:
            await connection.send([b"x" * MAX_FRAME_BYTES])
            with pytest.raises(TransportError):
                await connection.receive()
        assert errors == ["P_OVERSIZED"]

    run(WS, body)


@contextlib.asynccontextmanager
async def raw_websocket(address: Address, path: str = "/meshd") -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A client that speaks the right TLS and any WebSocket."""
    stream = TlsStream(
        await trio.open_tcp_stream(address.host, address.port),
        pinned_context(SERVER.pin, ALPN_LINK),
        server_name=SERVER.name,
    )
    try:
        await stream.do_handshake()
        async with trio.open_nursery() as nursery:
            yield await trio_websocket.wrap_client_stream(nursery, stream, SERVER.name, path)  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()
    finally:
        stream.abort()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("text", "P_MALFORMED"),
        (b"\x00\x00\x00\x05abc", "P_MALFORMED"),
        (b"\x00\x00\x00\x00", "P_MALFORMED"),
        (b"\x7f\x00\x00\x00", "P_OVERSIZED"),
        (b"x" * (256 * 1024 + 1), "P_OVERSIZED"),
    ],
)
def test_messages_that_hold_no_frames_are_the_senders_fault(message: str | bytes, code: str) -> None:
    errors: list[str] = []

    async def handler(connection: Connection) -> None:
        try:
            await connection.receive()
        except RemoteProtocolError as error:
            errors.append(error.code)
            raise

    async def body() -> None:
        async with listening(handler) as address, raw_websocket(address) as websocket:
            await websocket.send_message(message)
            with pytest.raises(trio_websocket.ConnectionClosed):
                await websocket.get_message()
        assert errors == [code]

    run(WS, body)


def test_old_tls_is_refused_and_told_why() -> None:
    async def body() -> None:
        async with listening(no_handler) as address:
            context = pinned_context(SERVER.pin, ALPN_LINK)
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
            stream = TlsStream(await trio.open_tcp_stream(address.host, address.port), context, server_name=SERVER.name)
            with pytest.raises(TransportError, match="alert protocol version"):
                await stream.do_handshake()

    run(WS, body)


def test_strangers_have_a_deadline_and_a_share() -> None:
    limits = HalfOpenLimits(per_address=2, total=8, kept=2, deadline=0.3)

    async def body() -> None:
        async with listening(echo, limits=limits) as address:
            silent = [await trio.open_tcp_stream(address.host, address.port) for _ in range(2)]
            with pytest.raises(TransportError):
                async with client().dial(address, SERVER.pin):
                    pass
            for stream in silent:
                assert await stream.receive_some() == b""  # hung up on, after 0.3 s
                await stream.aclose()
            async with client().dial(address, SERVER.pin) as connection:
                await connection.send([b"free again"])
                assert await collect(connection, 1) == [b"free again"]

    run(WS, body)


def test_who_is_authenticated_takes_no_place_among_strangers() -> None:
    limits = HalfOpenLimits(per_address=1, total=2, kept=0)

    async def body() -> None:
        async with listening(echo, limits=limits) as address, contextlib.AsyncExitStack() as stack:
            for number in range(5):
                connection = await stack.enter_async_context(client().dial(address, SERVER.pin))
                await connection.send([bytes([number])])
                assert await collect(connection, 1) == [bytes([number])]  # echo has called set_limit

    run(WS, body)


def test_a_random_stranger_goes_when_all_places_are_taken() -> None:
    limits = HalfOpenLimits(per_address=10, total=3, kept=0)

    async def body() -> None:
        async with listening(echo, limits=limits, rng=random.Random(0)) as address:
            silent = [await trio.open_tcp_stream(address.host, address.port) for _ in range(3)]
            await trio.sleep(0.1)
            async with client().dial(address, SERVER.pin) as connection:
                await connection.send([b"in"])
                assert await collect(connection, 1) == [b"in"]
            for stream in silent:
                await stream.aclose()

    run(WS, body)


def test_a_listener_that_is_no_meshd_is_told_apart() -> None:
    async def body() -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def hang_up(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, hang_up, listeners)
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(TransportError, match=r"hung up|connection lost"):
                async with client().dial(Address(WS, "127.0.0.1", port), SERVER.pin):
                    pass
            nursery.cancel_scope.cancel()
        for listener in listeners:
            await listener.aclose()

    run(WS, body)


def test_another_path_is_not_found() -> None:
    async def body() -> None:
        async with listening(no_handler) as address:
            with pytest.raises(BaseExceptionGroup) as caught:
                async with raw_websocket(address, "/elsewhere"):
                    pass
            assert caught.group_contains(trio_websocket.ConnectionRejected)

    run(WS, body)


def test_one_socket_for_each_address_listened_on() -> None:
    async def body() -> None:
        server = WebsocketTransport(
            listen=[("127.0.0.1", 0), ("::1", 0)], certificate_pem=SERVER.pem, private_key_pem=SERVER.key_pem
        )
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(server.serve, echo)
            assert [address.host for address in addresses] == ["127.0.0.1", "::1"]
            for address in addresses:
                async with client().dial(address, SERVER.pin) as connection:
                    await connection.send([b"hello"])
                    assert await collect(connection, 1) == [b"hello"]
                with pytest.raises(TransportError):
                    async with client().dial(attrs.evolve(address, port=1), SERVER.pin):
                        pass
            nursery.cancel_scope.cancel()

    run(WS, body)
