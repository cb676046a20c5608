"""The two ends of a join on the wire: driving the pure exchanges of ``trust.invite`` over TLS."""

import hashlib
import random
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from meshd.errors import MeshdError, RemoteProtocolError
from meshd.node.admission import Admissions, AdmitDevice, JoinEnded
from meshd.node.effects import AdmitAnswer, FetchCertificate, StartJoin
from meshd.node.enlisting import CertificateFetched
from meshd.node.inbox import Inbox
from meshd.node.membership import Membership
from meshd.transport.base import Address, Connection, TransportError
from meshd.transport.websocket import WebsocketTransport, fetch_certificate
from meshd.trust.identity import Identity
from meshd.trust.invite import InviteCode, InviterExchange, Joined, JoinerExchange

EXCHANGE_SECONDS = 15.0
STAGGER_SECONDS = 0.25
JOIN_SECONDS = 20.0


class _Ticketed(Protocol):
    def __next__(self) -> int: ...


@attrs.define(eq=False)
class _Waiting:
    """An exchange that waits for its admission to be on disk."""

    answer: AdmitAnswer | None = None
    arrived: trio.Event = attrs.field(factory=trio.Event)


class Doorkeeper:
    """The inviting side. Runs one exchange per connection; the node commits what they yield."""

    def __init__(
        self,
        membership: Membership,
        admissions: Admissions,
        inbox: Inbox,
        clock: Callable[[], float],
        rng: random.Random,
        tickets: _Ticketed,
    ) -> None:
        self._membership = membership
        self._admissions = admissions
        self._inbox = inbox
        self._clock = clock
        self._rng = rng
        self._tickets = tickets
        self._waiting: dict[int, _Waiting] = {}

    def answer(self, effect: AdmitAnswer) -> None:
        """The node has decided on an admission."""
        waiting = self._waiting.get(effect.ticket)
        if waiting is not None:
            waiting.answer = effect
            waiting.arrived.set()

    async def handle(self, connection: Connection) -> None:
        """The join handler of the transport."""
        membership = self._membership
        if membership.roster is None:
            return
        exchange = InviterExchange(
            membership.identity,
            self._admissions.invitations,
            membership.roster,
            hashlib.sha256(membership.identity.certificate).digest(),
            self._clock(),
            connection.remote.host,
            self._rng,
        )
        with trio.move_on_after(EXCHANGE_SECONDS):
            try:
                while True:
                    for data in await connection.receive():
                        await self._step(connection, exchange, data)
            except MeshdError:
                if exchange.rejection is not None:
                    await connection.send([exchange.rejection])
            except (RemoteProtocolError, TransportError):
                return  # the transport logs and counts it

    async def _step(self, connection: Connection, exchange: InviterExchange, data: bytes) -> None:
        frames = exchange.receive(data)
        if exchange.admission is not None:
            answer = await self._admit(exchange)
            if answer.error is not None:
                exchange.refuse(answer.error)
                raise answer.error
            frames = exchange.admitted(answer.genesis, answer.statements, answer.cards)
        if frames:
            await connection.send(frames)

    async def _admit(self, exchange: InviterExchange) -> AdmitAnswer:
        assert exchange.admission is not None
        ticket = next(self._tickets)
        waiting = self._waiting[ticket] = _Waiting()
        try:
            await self._inbox.send(AdmitDevice(ticket, exchange.admission))
            await waiting.arrived.wait()
        finally:
            del self._waiting[ticket]
        assert waiting.answer is not None
        return waiting.answer


async def join(
    effect: StartJoin, *, identity: Identity, transport: WebsocketTransport | None, inbox: Inbox, rng: random.Random
) -> None:
    """Carry out a join: try the code's addresses, and post how it ended."""
    joined: Joined | None = None
    error: MeshdError | None = None
    try:
        if transport is None:
            raise MeshdError(
                "E_JOIN_UNREACHABLE",
                "Joining takes WebSocket, which links.transports leaves out.",
                "Let links.transports have websocket too, and restart the daemon.",
            )
        code = InviteCode.parse(effect.code)
        attempt = _Attempt(code, effect.name, identity, transport, rng)
        with trio.move_on_after(JOIN_SECONDS):
            await attempt.run()
        joined = attempt.joined
        if joined is None:
            raise attempt.error()
    except MeshdError as failure:
        error = failure
    inbox.post_nowait(JoinEnded(effect.ticket, joined, error))


async def fetch(effect: FetchCertificate, *, inbox: Inbox) -> None:
    """See which certificate a relay shows, and post it."""
    try:
        certificate = await fetch_certificate(effect.address)
    except TransportError as error:
        where = f"{effect.address.host} port {effect.address.port}"
        failure = MeshdError("E_RELAY_UNREACHABLE", f"No certificate from {where}: {error.reason}.")
        inbox.post_nowait(CertificateFetched(effect.ticket, None, failure))
    else:
        inbox.post_nowait(CertificateFetched(effect.ticket, certificate))


class _Attempt:
    """One join: the addresses race to a TLS connection with the right certificate; the winner has the exchange."""

    def __init__(
        self, code: InviteCode, name: str, identity: Identity, transport: WebsocketTransport, rng: random.Random
    ) -> None:
        self._code = code
        self._name = name
        self._identity = identity
        self._transport = transport
        self._rng = rng
        self._won = False
        self._failures: list[str] = []
        self._failure: MeshdError | None = None
        self.joined: Joined | None = None

    def error(self) -> MeshdError:
        """Why it came to nothing."""
        if self._failure is not None:
            return self._failure
        tried = "; ".join(self._failures) or "no address answered in time"
        return MeshdError("E_JOIN_UNREACHABLE", f"The inviting device can't be reached: {tried}.")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for address in self._code.addresses:
                nursery.start_soon(self._try, Address("websocket", address.host, address.port), nursery.cancel_scope)
                await trio.sleep(STAGGER_SECONDS)
                if self._won:
                    break

    async def _try(self, address: Address, scope: trio.CancelScope) -> None:
        try:
            async with self._transport.dial_join(address, self._check) as connection:
                if self._won:
                    return
                self._won = True
                await self._exchange(connection)
            scope.cancel()
        except MeshdError as error:
            self._failure = error
            if self._won:
                scope.cancel()
        except (TransportError, RemoteProtocolError) as error:
            self._failures.append(f"{address.host} port {address.port}: {error.reason}")

    def _check(self, certificate: bytes) -> None:
        if hashlib.sha256(certificate).digest() != self._code.certificate_hash:
            raise MeshdError("E_CODE_OTHER_MESH", "The device at that address is not the one that made the code.")

    async def _exchange(self, connection: Connection) -> None:
        seen = hashlib.sha256(connection.listener_certificate).digest()
        exchange = JoinerExchange(self._identity, self._code, self._name, seen, self._rng)
        await connection.send([exchange.start()])
        while exchange.joined is None:
            for data in await connection.receive():
                frames = exchange.receive(data)
                if frames:
                    await connection.send(frames)
        self.joined = exchange.joined
