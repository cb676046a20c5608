"""Keeping a link to one peer: the only loop in meshd that dials again.

What to do is decided by ``peer.PeerControl``; here it is done. One dial races the peer's addresses
(RFC 8305): each gets a head start of 250 ms before the next, the first to reach ``welcome`` wins, and the
others are cut. The link then runs inside the winning attempt.
"""

import errno
import math
from collections.abc import Mapping
from typing import NoReturn

import attrs
import trio

from meshd.errors import RemoteProtocolError
from meshd.ids import NodeId, to_text
from meshd.links.context import LinkContext
from meshd.links.events import DialFailed, LinkDown
from meshd.links.outgoing import Outgoing
from meshd.links.peer import DialOutcome, PeerControl
from meshd.links.session import announce, hold_link, open_as_dialer
from meshd.logs import get_logger
from meshd.transport.base import Address, Connection, Pin, Transport, TransportError
from meshd.trust.handshake import DialerHandshake, HandshakeResult, TurnedAway
from meshd.trust.identity import server_name

STAGGER_SECONDS = 0.25
"""RFC 8305 section 5: the Connection Attempt Delay."""

ATTEMPT_SECONDS = 8.0
"""From the first packet to ``welcome``."""

_REASON_CHARACTERS = 200

_OUR_OWN_ERRNOS = frozenset(
    (errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
)
"""Failures that say something about this device, and nothing about the peer."""

_log = get_logger(__name__)


async def keep_linked(
    peer: NodeId, *, control: PeerControl, transports: Mapping[str, Transport], context: LinkContext
) -> NoReturn:
    """Dial ``peer`` whenever ``control`` says so, and run the links that come of it, until cancelled.

    Posts LinkUp ... LinkDown for each link and DialFailed for each failed attempt.
    """
    async with trio.open_nursery() as nursery:
        while True:
            step = control.next_step(context.clock())
            if step.candidates:
                await nursery.start(_dial, peer, control, transports, context)
            else:
                with trio.move_on_after(max(0.0, step.until - context.clock())):
                    await control.changed()


async def _dial(
    peer: NodeId,
    control: PeerControl,
    transports: Mapping[str, Transport],
    context: LinkContext,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """One dial; started once it is decided, and over when its link is."""
    await _Race(
        peer=peer,
        control=control,
        transports=transports,
        context=context,
        generation=control.generation,
        task_status=task_status,
    ).run()


@attrs.frozen
class _Failure:
    """Why an attempt made no link; ``ours``: it says nothing about the peer; ``proof`` as in ``DialFailed``."""

    code: str
    reason: str
    ours: bool = False
    proof: tuple[bytes, ...] = ()


@attrs.define(eq=False, kw_only=True)
class _Race:
    """The attempts of one dial."""

    peer: NodeId
    control: PeerControl
    transports: Mapping[str, Transport]
    context: LinkContext
    generation: int
    task_status: trio.TaskStatus[None]
    scopes: list[trio.CancelScope] = attrs.field(factory=list)
    running: int = 0
    next_at: float = -math.inf
    outcome: DialOutcome = DialOutcome.VOID
    won: bool = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await self._start_attempts(nursery)
        if not self.won:
            self.control.dial_ended(self.outcome, self.context.clock())
            self.task_status.started()

    async def _start_attempts(self, nursery: trio.Nursery) -> None:
        tried: set[Address] = set()
        while not self.won:
            if self.generation != self.control.generation:  # we woke up, or the network is another one: start over
                self.outcome = DialOutcome.VOID
                self._cut_all_but(None)
                return
            now = self.context.clock()
            candidate = self.control.untried(tried, now)
            if candidate is None and not self.running:
                return
            if candidate is not None and now >= self.next_at:
                tried.add(candidate.address)
                self.running += 1
                self.next_at = now + STAGGER_SECONDS
                nursery.start_soon(self._attempt, candidate.address)
                continue
            with trio.move_on_after(math.inf if candidate is None else self.next_at - now):
                await self.control.changed()

    async def _attempt(self, address: Address) -> None:
        failure: _Failure | None = _Failure("E_UNREACHABLE", f"no answer within {ATTEMPT_SECONDS:.0f} s")
        with trio.CancelScope(deadline=trio.current_time() + ATTEMPT_SECONDS) as scope:
            self.scopes.append(scope)
            failure = await self._try(address, scope)
        if self.won or self.generation != self.control.generation or failure is None:
            return  # over, or cut
        self.running -= 1
        if not failure.ours:
            self.outcome = DialOutcome.FAILED
        self.next_at = self.context.clock()
        self.control.attempt_failed(address, failure.reason, self.context.clock())
        await self.context.post(DialFailed(self.peer, address, failure.code, failure.reason, failure.proof))

    async def _try(self, address: Address, scope: trio.CancelScope) -> _Failure | None:
        member = self.context.credentials().roster.members.get(self.peer)
        if member is None or member.removed:
            return _Failure("P_NOT_MEMBER", "the device is not in the mesh", ours=True)
        pin = Pin(member.certificate, server_name(self.peer))
        failure: _Failure | None = None
        try:
            async with self.transports[address.transport].dial(address, pin) as connection:
                failure = await self._use(connection, address, scope)
        except TransportError as error:
            failure = _Failure("E_UNREACHABLE", error.reason, ours=_is_ours(error))
        except Exception as error:
            # The boundary of an attempt, as a link has its own: what one peer makes a library do costs no other.
            _log.exception("dial-failed", peer=to_text(self.peer), address=str(address))
            failure = _Failure("E_INTERNAL", repr(error)[:_REASON_CHARACTERS])
        return failure

    async def _use(self, connection: Connection, address: Address, scope: trio.CancelScope) -> _Failure | None:
        own = self.context.credentials()
        handshake = DialerHandshake(
            own.identity,
            own.roster,
            self.peer,
            connection.listener_certificate,
            connection.alpn,
            own.epoch,
            own.seen.get(self.peer),
            self.context.rng,
        )
        try:
            result = await open_as_dialer(connection, handshake)
        except TurnedAway as error:
            return _Failure(error.code, error.reason, proof=error.proof)
        except RemoteProtocolError as error:
            return _Failure(error.code, error.reason)
        except TransportError as error:
            return _Failure("E_UNREACHABLE", error.reason)
        if self.won:  # another attempt, in the same moment
            return None
        self.won = True
        scope.deadline = math.inf
        self._cut_all_but(scope)
        await self._live(connection, address, result)
        return None

    async def _live(self, connection: Connection, address: Address, result: HandshakeResult) -> None:
        outgoing = Outgoing()
        up = announce(connection, result, outgoing, self.context)
        down = LinkDown(up.link, self.peer, "closed", "this side gave the link up")
        self.control.dial_won(address, up, self.context.clock())
        self.task_status.started()
        try:
            down = await hold_link(connection, up, outgoing, self.context)
        finally:
            self.control.link_down(down, self.context.clock())

    def _cut_all_but(self, winner: trio.CancelScope | None) -> None:
        for scope in self.scopes:
            if scope is not winner:
                scope.cancel()


def _is_ours(error: TransportError) -> bool:
    """Whether the operating system refused us, before anything reached the peer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OUR_OWN_ERRNOS:
            return True
        cause = cause.__cause__
    return False
