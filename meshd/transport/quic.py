"""QUIC on one UDP socket for both roles: aioquic without its I/O, driven by Trio.

One task reads the socket and hands datagrams to connections by their destination connection id;
each connection has a task of its own that sends. Nothing answers a datagram of no connection.
"""

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import NoReturn

import trio
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported, but not declared so
from aioquic.quic import connection as aioquic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from meshd.transport import congestion
from meshd.transport.base import Address, Handler, Pin, TransportError
from meshd.transport.quic_connection import QuicConnection
from meshd.transport.serving import (
    HalfOpen,
    HalfOpenLimits,
    Slot,
    closing,
    contained,
    deadline,
    plain_nursery,
    run_handler,
)
from meshd.transport.sockets import SockAddr, to_address
from meshd.transport.udp import UdpSocket
from meshd.wire.frames import ALPN_LINK

_CID_BYTES = 8
_LONG_HEADER = 0x80  # RFC 9000 section 17.2
_MIN_INITIAL_BYTES = 1200  # RFC 9000 section 14.1
_FLOW_BYTES = 1024 * 1024
_IDLE_SECONDS = 30.0


class QuicTransport:
    """See :class:`meshd.transport.base.Transport`.

    Args:
        listen: IP literals and ports; ``::`` takes IPv4 as well, port 0 is any free one.
        certificate_pem, private_key_pem: who this device is when others dial it.
        remembered: returns the hosts that links have been up with before.
        limits: what strangers may hold.
        idle_timeout: seconds of silence after which a connection is gone.
    """

    name = "quic"

    def __init__(
        self,
        *,
        listen: Sequence[tuple[str, int]],
        certificate_pem: bytes,
        private_key_pem: bytes,
        remembered: Callable[[], Collection[str]] = frozenset,
        limits: HalfOpenLimits | None = None,
        rng: random.Random | None = None,
        idle_timeout: float = _IDLE_SECONDS,
    ) -> None:
        self._listen = tuple(listen)
        self._limits = limits or HalfOpenLimits()
        self._half_open = HalfOpen(self._limits, remembered, rng or random.SystemRandom())
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        self._certificate = certificate.public_bytes(Encoding.DER)
        self._idle_timeout = idle_timeout
        self._configuration = self._configure(is_client=False)
        self._configuration.certificate = certificate
        self._configuration.private_key = load_pem_private_key(private_key_pem, None)
        self._tokens = QuicRetryTokenHandler()
        self._sockets: list[UdpSocket] = []
        self._routes: dict[bytes, QuicConnection] = {}

    @contextlib.asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[QuicConnection]:
        """See the contract."""
        async with plain_nursery() as nursery:
            with deadline(self._limits.deadline):
                udp, target = await self._resolve(address)
                connection = self._connect(udp, target, pin)
                nursery.start_soon(connection.run)
                await connection.opened.wait()
            connection.check()
            async with closing(connection):
                yield connection

    async def serve(
        self, handler: Handler, *, task_status: trio.TaskStatus[Sequence[Address]] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """See the contract. Dials need it to run, too."""
        with contextlib.ExitStack() as stack:
            for host, port in self._listen:
                udp = UdpSocket(host, port)
                stack.callback(udp.close)
                stack.callback(self._sockets.remove, udp)
                self._sockets.append(udp)
            task_status.started([udp.address for udp in self._sockets])
            async with trio.open_nursery() as nursery:
                for udp in self._sockets:
                    nursery.start_soon(self._read, udp, handler, nursery)
        raise AssertionError("a reader returned")

    async def _read(self, udp: UdpSocket, handler: Handler, nursery: trio.Nursery) -> None:
        """Hand what comes to its connections; kick each once for all that has come for it."""
        while True:
            datagrams = await udp.receive()
            now = trio.current_time()
            touched: dict[QuicConnection, None] = {}
            for data, source in datagrams:
                if data and not data[0] & _LONG_HEADER:
                    connection = self._routes.get(data[1 : 1 + _CID_BYTES])
                else:
                    connection = await self._route(data, source, udp, handler, nursery)
                if connection is not None:
                    connection.take_in(data, source, now)
                    touched[connection] = None
            for connection in touched:
                connection.answer(now)
            for target in udp.refusals() if udp.was_refused else ():
                for connection in [c for c in self._routes.values() if c.target == target]:
                    connection.refuse("Connection refused")

    async def _route(
        self, data: bytes, source: SockAddr, udp: UdpSocket, handler: Handler, nursery: trio.Nursery
    ) -> QuicConnection | None:
        """Find or make the connection of a datagram with a long header."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=_CID_BYTES)
        except ValueError:
            return None
        connection = self._routes.get(header.destination_cid)
        if connection is not None or len(data) < _MIN_INITIAL_BYTES:
            return connection
        if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            return None
        if header.version not in self._configuration.supported_versions:
            await udp.send([(self._negotiate_version(header), source)])
        elif header.packet_type is QuicPacketType.INITIAL:
            if not header.token and self._half_open.wants_proof(to_address(self.name, source).host):
                await udp.send([(self._retry(header, source), source)])
            else:
                return self._accept(header, source, udp, handler, nursery)
        return None

    def _negotiate_version(self, header: QuicHeader) -> bytes:
        return encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=self._configuration.supported_versions,
        )

    def _retry(self, header: QuicHeader, source: SockAddr) -> bytes:
        """Ask for a proof of the address, and keep nothing (RFC 9000 section 8.1.2)."""
        cid = os.urandom(_CID_BYTES)
        token = self._tokens.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=trio.current_time(),
        )
        return encode_quic_retry(
            version=header.version or 0,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _accept(
        self, header: QuicHeader, source: SockAddr, udp: UdpSocket, handler: Handler, nursery: trio.Nursery
    ) -> QuicConnection | None:
        original, retried = header.destination_cid, None
        if header.token:
            try:
                original = self._tokens.validate_token(
                    address=source,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=trio.current_time(),
                )
            except ValueError:
                return None
            retried = header.destination_cid
        scope = trio.CancelScope()
        slot = self._half_open.enter(to_address(self.name, source).host, scope, proven=retried is not None)
        if slot is None:
            return None
        quic = aioquic_connection.QuicConnection(
            configuration=self._configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        connection = QuicConnection(
            quic,
            udp,
            self._routes,
            dialed=False,
            remote=source,
            listener_certificate=self._certificate,
            leave=partial(self._half_open.leave, slot),
        )
        self._routes[header.destination_cid] = connection
        self._routes[quic.host_cid] = connection
        nursery.start_soon(self._run, connection, handler, slot)
        return connection

    async def _run(self, connection: QuicConnection, handler: Handler, slot: Slot) -> None:
        """Run one incoming connection to its end."""
        with slot.scope, contained(self.name, connection.remote):
            try:
                async with plain_nursery() as nursery:
                    nursery.start_soon(connection.run)
                    with deadline(self._limits.deadline):
                        await connection.opened.wait()
                    connection.check()
                    self._half_open.prove(slot)
                    await run_handler(handler, connection)
            finally:
                self._half_open.leave(slot)

    def _connect(self, udp: UdpSocket, target: SockAddr, pin: Pin) -> QuicConnection:
        configuration = self._configure(is_client=True)
        configuration.server_name = pin.server_name
        try:
            known = x509.load_der_x509_certificate(pin.certificate)
        except ValueError as error:
            raise TransportError("the known certificate of the device is damaged") from error
        configuration.load_verify_locations(cadata=known.public_bytes(Encoding.PEM))
        quic = aioquic_connection.QuicConnection(configuration=configuration)
        quic.connect(target, now=trio.current_time())
        connection = QuicConnection(
            quic, udp, self._routes, dialed=True, remote=target, listener_certificate=pin.certificate, leave=_nothing
        )
        self._routes[quic.host_cid] = connection
        return connection

    def _configure(self, *, is_client: bool) -> QuicConfiguration:
        return QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[ALPN_LINK],
            congestion_control_algorithm=congestion.NAME,
            connection_id_length=_CID_BYTES,
            idle_timeout=self._idle_timeout,
            max_data=2 * _FLOW_BYTES,
            max_stream_data=_FLOW_BYTES,
        )

    async def _resolve(self, address: Address) -> tuple[UdpSocket, SockAddr]:
        for udp in self._sockets:
            try:
                target = await udp.resolve(address.host, address.port)
            except OSError as error:
                raise TransportError(error.strerror or str(error)) from error
            if target is not None:
                return udp, target
        raise TransportError(f"no QUIC socket here can reach {address.host}")


def _nothing() -> None:
    """A dialer has no place among the half-open to leave."""
