"""Rows of the spool on their way from the disk into memory; what was stored unsealed is sealed then."""

import attrs

from meshd.delivery.outbox import Outbox, Recipient
from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.ids import BundleId, Flow, NodeId
from meshd.node.endings import Endings
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import Op, PutFact, SealSpool, SpoolRow
from meshd.store.reads import ReadSpool
from meshd.wire.codec import encode

_LOAD_ROWS = 512
_LOAD_BYTES = 4 * 1024 * 1024


@attrs.frozen
class _Load:
    """A read under way."""

    queue: SpoolQueue
    generation: int


@attrs.frozen(kw_only=True)
class Page:
    """What a read brought.

    Args:
        rows: what still waits, in order; up_to: they are all that does up to this row.
        complete: the disk had no more at that moment.
    """

    queue: SpoolQueue
    generation: int
    rows: list[SpoolRow]
    up_to: int
    complete: bool

    @property
    def is_outdated(self) -> bool:
        """Whether the queue has been rewound since the read was asked for."""
        return self.generation != self.queue.generation


class Loading:
    """Reads under way, one for a queue at a time."""

    def __init__(self, me: NodeId, outbox: Outbox, tickets: Tickets) -> None:
        self._me = me
        self._outbox = outbox
        self._tickets = tickets
        self._loads: dict[int, _Load] = {}

    def start(self, turn: Turn, queue: SpoolQueue) -> None:
        """Read what follows a queue's window."""
        ticket = self._tickets.take()
        self._loads[ticket] = _Load(queue, queue.start_load())
        read = ReadSpool(queue.destination, queue.priority, queue.loaded_to, _LOAD_ROWS, _LOAD_BYTES, own=queue.own)
        turn.load(ticket, read)

    def destination(self, ticket: int) -> NodeId | None:
        """Whose rows a read under way is for."""
        load = self._loads.get(ticket)
        return None if load is None else load.queue.destination

    def take(self, turn: Turn, ticket: int, rows: list[SpoolRow], ended: Endings) -> Page:
        """A read came back. Rows that have ``ended``, or whose lifetime is over, are passed over."""
        load = self._loads.pop(ticket)
        return Page(
            queue=load.queue,
            generation=load.generation,
            rows=[row for row in rows if row.expires_ms > turn.now_ms and row.row not in ended],
            up_to=rows[-1].row if rows else 0,
            complete=len(rows) < _LOAD_ROWS and sum(len(row.body) for row in rows) < _LOAD_BYTES,
        )

    def seal(self, turn: Turn, page: Page, recipient: Recipient | None) -> Page:
        """Seal what was stored unsealed. Without a card of the recipient, all from the first such row on is left."""
        first = next((index for index, row in enumerate(page.rows) if row.head is None), None)
        if first is None:
            return page
        if recipient is None:
            rows = page.rows[:first]
            return attrs.evolve(page, rows=rows, up_to=rows[-1].row if rows else 0, complete=False)
        roots: dict[bytes, Op] = {}
        rows = [row if row.head is not None else self._seal(turn, row, recipient, roots) for row in page.rows]
        turn.lazy_ops += roots.values()
        return attrs.evolve(page, rows=rows)

    def _seal(self, turn: Turn, row: SpoolRow, recipient: Recipient, roots: dict[bytes, Op]) -> SpoolRow:
        flow = Flow(self._me, row.destination, row.priority)
        sealed = self._outbox.seal(flow, row.number, row.body, row.lifetime_ms, recipient, turn.now)
        turn.lazy_ops.append(SealSpool(row.row, sealed.bundle, sealed.head, sealed.body))
        if sealed.unstored is not None and sealed.session not in roots:
            roots[sealed.session] = session_fact(row.destination, sealed.session, sealed.unstored.export(), turn)
        return attrs.evolve(row, bundle=sealed.bundle, head=sealed.head, body=sealed.body)


def session_fact(destination: NodeId, session: bytes, exported: bytes, turn: Turn) -> Op:
    """What is stored of a session of ours, so that its pending mail can be offered again after a restart."""
    return PutFact("own-session", destination + session, encode([turn.now_ms, exported]))


def waiting_of(row: SpoolRow) -> Waiting:
    """A row as it waits in memory."""
    return Waiting(
        row=row.row,
        ref=row.ref,
        bundle=row.bundle or BundleId(b""),
        number=row.number,
        head=row.head or b"",
        body=row.body,
        messages=row.messages,
        size_bytes=row.size_bytes,
        hop_limit=row.hop_limit,
        copies=row.copies,
        accepted_ms=row.accepted_ms,
        expires_ms=row.expires_ms,
    )
