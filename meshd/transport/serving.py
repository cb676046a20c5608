"""What every listener does around a connection: admit it while it is a stranger's, and contain its errors."""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Protocol, TypeVar

import attrs
import trio

from meshd.errors import RemoteProtocolError
from meshd.logs import get_logger
from meshd.transport.base import Address, Connection, Handler, TransportError

_log = get_logger(__name__)


@attrs.frozen
class HalfOpenLimits:
    """What strangers may hold before they have proven who they are (design: 5 s, 4, 64, 16).

    Args:
        per_address: connections from one address.
        total: connections in all.
        kept: those of ``total`` that only remembered addresses may take.
        deadline: seconds for the transport's own handshake.
    """

    per_address: int = 4
    total: int = 64
    kept: int = 16
    deadline: float = 5.0


@attrs.frozen(eq=False)
class Slot:
    """The place of one half-open connection; cancelling ``scope`` ends the connection."""

    host: str
    remembered: bool
    scope: trio.CancelScope


class HalfOpen:
    """The half-open connections of one listener.

    Args:
        remembered: the addresses that this device has had links with; asked at each arrival.
        rng: chooses who goes when all places are taken.
    """

    def __init__(self, limits: HalfOpenLimits, remembered: Callable[[], Collection[str]], rng: random.Random) -> None:
        self._limits = limits
        self._remembered = remembered
        self._rng = rng
        self._slots: dict[Slot, None] = {}  # a dict, for its order: the same rng evicts the same one
        self._by_host: Counter[str] = Counter()
        self._unproven: set[Slot] = set()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def is_crowded(self) -> bool:
        """Whether half the places are taken: time to ask strangers for a proof of their address."""
        return 2 * len(self._slots) >= self._limits.total

    def wants_proof(self, host: str) -> bool:
        """Whether to ask whoever seems to be at ``host`` for a proof of that: there, or in all, much is taken."""
        return self.is_crowded or self._by_host[host] >= self._limits.per_address

    def enter(self, host: str, scope: trio.CancelScope, *, proven: bool = True) -> Slot | None:
        """Give a new connection a place, or None when its address has its share already.

        One that has ``proven`` its address takes the place of one that has not, and may be anybody's.
        When all places are taken, a random other stranger is cancelled.
        """
        if self._by_host[host] >= self._limits.per_address:
            claimed = [slot for slot in self._slots if slot.host == host and slot in self._unproven]
            if not (proven and claimed):
                return None
            self._evict(claimed)
        known = host in self._remembered()
        strangers = [slot for slot in self._slots if not slot.remembered]
        if len(self._slots) >= self._limits.total:
            self._evict(strangers or list(self._slots))
        elif not known and len(strangers) >= self._limits.total - self._limits.kept:
            self._evict(strangers)
        slot = Slot(host, known, scope)
        self._slots[slot] = None
        self._by_host[host] += 1
        if not proven:
            self._unproven.add(slot)
        return slot

    def prove(self, slot: Slot) -> None:
        """The connection's handshake has shown that it is where it says."""
        self._unproven.discard(slot)

    def leave(self, slot: Slot) -> None:
        """The connection has been authenticated, or is gone. May be called twice."""
        if slot not in self._slots:
            return
        del self._slots[slot]
        self._unproven.discard(slot)
        self._by_host[slot.host] -= 1
        if not self._by_host[slot.host]:
            del self._by_host[slot.host]

    def _evict(self, candidates: list[Slot]) -> None:
        slot = self._rng.choice(candidates)
        self.leave(slot)
        slot.scope.cancel()


@contextlib.asynccontextmanager
async def plain_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose body's own error comes out as it is, in no group. At the end its tasks are cancelled."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:
            failure = error  # raised again below, out of the nursery's reach
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TransportError when the body takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise TransportError(f"no answer within {seconds:g} s") from error


class Closable(Connection, Protocol):
    """A connection that can also be dropped at once."""

    def abort(self) -> None:
        """Close without a goodbye."""


_C = TypeVar("_C", bound=Closable)


@contextlib.asynccontextmanager
async def closing(connection: _C) -> AsyncIterator[_C]:
    """Close ``connection`` at the end; when cancelled, drop it."""
    try:
        yield connection
    except Exception:
        await connection.aclose()
        raise
    except BaseException:
        connection.abort()
        raise
    else:
        await connection.aclose()


@contextlib.contextmanager
def contained(transport: str, remote: Address) -> Iterator[None]:
    """Run what opens one incoming connection. What goes wrong with it ends here, and no other is hurt."""
    try:
        yield
    except* TransportError as group:
        _log.info("connection.refused", transport=transport, reason=str(group.exceptions[0]))
    except* Exception:
        # Bytes of a stranger that a library does not expect, or a defect of ours, must not end the daemon.
        _log.exception("connection.failed", remote=str(remote))


async def run_handler(handler: Handler, connection: Closable) -> None:
    """Run ``handler``, then close the connection. What goes wrong with one connection ends here."""
    try:
        async with closing(connection):
            await handler(connection)
    except (TransportError, RemoteProtocolError) as error:
        _log.info("connection.ended", remote=str(connection.remote), reason=str(error))
    except Exception:
        # A defect of ours, met by one peer, must not take the others' connections down.
        _log.exception("connection.failed", remote=str(connection.remote))
