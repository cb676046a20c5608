"""What strangers, and peers gone bad, send to the real transports: it costs their own connection, and none besides."""

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported, but not declared so
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as Peer
from aioquic.quic.packet import pull_quic_header
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshd.transport.base import Address, Connection, Lane, TransportError
from meshd.transport.tls import TlsStream, pinned_context
from meshd.wire.frames import ALPN_LINK
from tests.transport.test_quic import make, udp
from tests.transport.test_websocket import client, listening
from tests.transport.worlds import CLIENT, SERVER, collect, echo, no_handler, run

UPGRADE = (
    b"GET /meshd HTTP/1.1\r\nHost: device\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def with_header(name: bytes, value: bytes) -> bytes:
    return UPGRADE.replace(b"\r\n\r\n", b"\r\n%s: %s\r\n\r\n" % (name, value))


UPGRADES = [
    b"\r\n\r\n",
    b"\x00" * 40,
    b"GET /meshd HTTP/1.0\r\n\r\n",
    b"GET /meshd HTTP/1.1\r\nHost: device\r\n\r\n",
    UPGRADE.replace(b"GET", b"POST"),
    UPGRADE.replace(b"/meshd", b"/\xff"),
    UPGRADE.replace(b"device", b"\xff"),
    UPGRADE.replace(b"device", b"xn--a"),
    UPGRADE.replace(b"device", b"x" * 70),
    UPGRADE.replace(b"Connection: Upgrade", b"Connection: \xff"),
    UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: \xff"),
    UPGRADE.replace(b"Version: 13", b"Version: \xff"),
    UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff"),
    with_header(b"Sec-WebSocket-Protocol", b"\xff"),
    with_header(b"Sec-WebSocket-Extensions", b"\xff"),
    with_header(b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits=x"),
    with_header(b"Transfer-Encoding", b"chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    with_header(b"X-Pad", b"x" * 70_000),
    UPGRADE + UPGRADE,
    UPGRADE.replace(b"/meshd", b"/elsewhere") + UPGRADE,
    UPGRADE + b"\xff" * 50,
    UPGRADE + b"\xc1\x85abcd\x00\x00\x00\x00\x00",  # compressed, though nobody offered that
    UPGRADE + b"\x81\x81abcd\x9e",  # text that is no UTF-8
    UPGRADE + b"\x80\x81abcd\x00",  # the rest of nothing
    UPGRADE + b"\x88\x81abcd\x00",  # half a reason to close
    UPGRADE + b"\x09\x80abcd",  # a ping in pieces
    UPGRADE + b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffabcd",  # a message without an end
]


@contextlib.asynccontextmanager
async def stranger(address: Address) -> AsyncIterator[TlsStream]:
    """TLS as it should be; nobody asks for a certificate."""
    stream = TlsStream(
        await trio.open_tcp_stream(address.host, address.port),
        pinned_context(SERVER.pin, ALPN_LINK),
        server_name=SERVER.name,
    )
    try:
        await stream.do_handshake()
        yield stream
    finally:
        stream.abort()


@pytest.mark.parametrize("data", UPGRADES, ids=range(len(UPGRADES)))
def test_an_odd_upgrade_costs_that_connection_alone(data: bytes) -> None:
    async def body() -> None:
        async with listening(echo) as address, client().dial(address, SERVER.pin) as bystander:
            async with stranger(address) as stream:
                await stream.send_all(data)
                with trio.move_on_after(0.2), contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
            await bystander.send([b"unhurt"])
            assert await collect(bystander, 1) == [b"unhurt"]
            async with client().dial(address, SERVER.pin) as later:
                await later.send([b"still there"])
                assert await collect(later, 1) == [b"still there"]

    run("websocket", body)


async def stop_reading(bound: trio.socket.SocketType, when: trio.Event) -> None:
    """A listener that takes no more of the control lane, once ``when`` is set and something comes."""
    known = QuicConfiguration(is_client=False, alpn_protocols=[ALPN_LINK])
    known.certificate = x509.load_pem_x509_certificate(SERVER.pem)
    known.private_key = load_pem_private_key(SERVER.key_pem, None)
    peer: Peer | None = None
    while True:
        data, source = await bound.recvfrom(65_536)
        if peer is None:
            first = pull_quic_header(Buffer(data=data), 8)
            peer = Peer(configuration=known, original_destination_connection_id=first.destination_cid)
        peer.receive_datagram(data, source, trio.current_time())
        while peer.next_event() is not None:
            pass
        if when.is_set():
            peer.stop_stream(0, 1)
        for answer, _ in peer.datagrams_to_send(trio.current_time()):
            await bound.sendto(answer, source)


async def send_on(connection: Connection) -> None:
    """So that something is sent between the datagram and the event that tells of it."""
    while True:
        await connection.send([b"x" * 100], Lane.CONTROL)


def test_who_takes_no_more_of_a_lane_has_closed() -> None:
    async def body() -> None:
        stopping = trio.Event()
        transport = make(CLIENT)
        with await udp() as bound:
            async with trio.open_nursery() as nursery:
                await nursery.start(transport.serve, no_handler)
                nursery.start_soon(stop_reading, bound, stopping)
                host, port = bound.getsockname()
                async with transport.dial(Address("quic", host, port), SERVER.pin) as connection:
                    stopping.set()
                    with pytest.raises(TransportError, match="closed by the other side"):
                        await send_on(connection)
                nursery.cancel_scope.cancel()

    for _ in range(12):
        run("quic", body)
