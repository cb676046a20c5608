"""What waits for the store, and when it is due. Belongs to the Trio thread."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

import attrs
import trio

from meshd.errors import LocalProtocolError, MeshdError
from meshd.store.database import Database
from meshd.store.ops import Committed, Op, PutInbox, PutSpool
from meshd.store.reads import Loaded, Read

LAZY_WAIT_S = 0.05
"""The longest that a commit which isn't urgent waits for company, seconds."""
LAZY_OPS_MAX = 1000
"""As many ops of such commits are due at once."""
TRANSACTION_BYTES = 8 * 1024 * 1024
"""Mail that goes into one transaction; bounds its time, and the log (reserve.py)."""


@attrs.frozen
class Commit:
    """Ops to be committed together; ``chained`` as in :meth:`Requests.commit_nowait`."""

    ticket: int
    ops: Sequence[Op]
    chained: bool = False


@attrs.frozen
class Ask:
    """A read to be answered."""

    ticket: int
    read: Read


Request: TypeAlias = Commit | Ask
Event: TypeAlias = Committed | Loaded


@attrs.frozen
class Due:
    """Requests in the order they were made, and the mesh-local clock to commit them with."""

    requests: tuple[Request, ...]
    clock_ms: int


class Requests:
    """The way in. Each ticket is answered by exactly one Committed (commits) or Loaded (reads).

    Requests are carried out in the order they are made, so a read sees all commits asked for
    before it and none asked for after it. The queue has no bound of its own: its owner knows how
    many tickets are open, and takes in no more mail when they are too many.

    Args:
        clock_ms: the mesh-local clock, stored with every transaction.
    """

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._waiting: list[Request] = []
        self._ops = 0
        self._due_at = math.inf
        self._changed = trio.Event()
        self._closed = False
        self._outlet: Callable[[Due], None] | None = None

    def commit_nowait(self, ticket: int, ops: Sequence[Op], urgent: bool = True, *, chained: bool = False) -> None:
        """Commit ``ops``; not ``urgent``: with the next urgent request, LAZY_WAIT_S or LAZY_OPS_MAX at the latest.

        ``chained`` ops rest on those of all earlier chained commits: after one of these has failed, they fail too.
        No ops at all is a commit too: it stores the clock. Raises LocalProtocolError after close_nowait.
        """
        self._add(Commit(ticket, ops, chained))
        self._ops += len(ops)
        if urgent or self._ops >= LAZY_OPS_MAX:
            self._make_due(-math.inf)
        else:
            self._make_due(trio.current_time() + LAZY_WAIT_S)

    def read_nowait(self, ticket: int, read: Read) -> None:
        """Answer ``read``. Raises LocalProtocolError after close_nowait."""
        self._add(Ask(ticket, read))
        self._make_due(-math.inf)

    def close_nowait(self) -> None:
        """Nothing more will be asked: the store does what is waiting, and ends."""
        self._closed = True
        self._make_due(-math.inf)

    def _add(self, request: Request) -> None:
        if self._closed:
            raise LocalProtocolError("the store was asked for something after it was closed")
        self._waiting.append(request)

    def _make_due(self, at: float) -> None:
        if at == -math.inf and self._outlet is not None:
            self._outlet(self.take_nowait())
        elif at < self._due_at:
            self._due_at = at
            self._changed.set()

    def pour_into(self, outlet: Callable[[Due], None]) -> None:
        """From now on, what is due at once goes to ``outlet`` in the same call, a turn of the loop earlier.

        What is waiting already goes there too. ``outlet`` must not block. take() stays for the rest.
        """
        self._outlet = outlet
        self._make_due(-math.inf)

    async def take(self) -> Due:
        """Wait until something is due and take all that waits; empty after close_nowait. For one consumer.

        Cancelled: nothing is taken.
        """
        while trio.current_time() < self._due_at:
            with trio.move_on_at(self._due_at):
                await self._changed.wait()
            if self._changed.is_set():
                self._changed = trio.Event()
        return self.take_nowait()

    def take_nowait(self) -> Due:
        """Take all that waits, due or not."""
        due = Due(tuple(self._waiting), self._clock_ms())
        self._waiting.clear()
        self._ops = 0
        self._due_at = -math.inf if self._closed else math.inf
        if self._closed:
            self._changed.set()
        return due


def split(requests: Sequence[Request]) -> Iterator[Sequence[Commit] | Sequence[Ask]]:
    """Cut into runs that are carried out at once: commits for one transaction, or reads; the order stays."""
    for kind, run in groupby(requests, type):
        if kind is Ask:
            yield [request for request in run if isinstance(request, Ask)]
            continue
        together: list[Commit] = []
        size = 0
        for request in run:
            assert isinstance(request, Commit)
            added = sum(map(_mail_bytes, request.ops))
            if together and size + added > TRANSACTION_BYTES:
                yield together
                together, size = [], 0
            together.append(request)
            size += added
        yield together


def _mail_bytes(op: Op) -> int:
    if isinstance(op, PutSpool):
        return len(op.row.body)
    if isinstance(op, PutInbox):
        return len(op.row.messages)
    return 0


def carry_out(database: Database, run: Sequence[Commit] | Sequence[Ask], clock_ms: int) -> list[Event]:
    """Do one run of :func:`split`: blocks."""
    batches = [(request.ticket, request.ops) for request in run if isinstance(request, Commit)]
    events: list[Event] = [*database.apply(batches, clock_ms, chained_tickets(run))]
    events += [_load(database, request) for request in run if isinstance(request, Ask)]
    return events


def chained_tickets(run: Sequence[Request]) -> frozenset[int]:
    """The tickets of the chained commits among these."""
    return frozenset(request.ticket for request in run if isinstance(request, Commit) and request.chained)


def _load(database: Database, ask: Ask) -> Loaded:
    try:
        return Loaded(ask.ticket, database.read(ask.read))
    except MeshdError as error:
        return Loaded(ask.ticket, None, error.code)
