"""Rows of the spool that have ended, until the disk knows it too; and which are the next to expire.

How a row ends is written with a lazy commit. Until that is on disk, reads still find the row: asked
for before, or because the commit failed. Then it is written again after the next commit that succeeds.
"""

from collections.abc import Iterable, Sequence

from meshd.node.deposits import Deposits
from meshd.node.effects import Effect
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import DeleteSpool, FinishSpool, Op
from meshd.store.reads import ExpiredRow, ReadExpired

_EXPIRE_ROWS = 512
_EXPIRE_AGAIN_MS = 5_000
"""Between reads that find nothing but what has ended, and could not be written down."""


class Endings:
    """See the module. A row number is noted when the row ends in memory, and forgotten once that is on disk.

    Which copies of it others keep is of no more use, and forgotten at once.
    """

    def __init__(self, tickets: Tickets, deposits: Deposits) -> None:
        self._tickets = tickets
        self._deposits = deposits
        self._rows: set[int] = set()
        self._under_way: dict[int, tuple[FinishSpool | DeleteSpool, ...]] = {}
        self._failed: list[FinishSpool | DeleteSpool] = []
        self._when_written: list[Effect] = []
        self._next_expiry_ms: int | None = 0
        self._expiry_ticket: int | None = None

    def __contains__(self, row: int) -> bool:
        """Whether a row that is on disk has ended."""
        return row in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, rows: Sequence[int]) -> None:
        """These have ended; the turn writes it down."""
        self._rows.update(rows)
        self._deposits.end(rows)

    # --- the disk

    def commit(self, ticket: int, ops: Iterable[Op]) -> None:
        """A lazy commit begins."""
        if self._rows and (endings := tuple(op for op in ops if isinstance(op, FinishSpool | DeleteSpool))):
            self._under_way[ticket] = endings

    def committed(self, turn: Turn, ticket: int, error: str | None, written: Iterable[Effect]) -> None:
        """Any commit ended; ``written`` are the effects that wait for it, if it was a lazy one."""
        endings = self._under_way.pop(ticket, ())
        if error is not None:
            self._failed += endings
            self._when_written += written
            return
        for op in endings:
            self._rows.difference_update(op.rows)
        turn.lazy_ops += self._failed
        turn.when_written += self._when_written
        self._failed.clear()
        self._when_written.clear()

    # --- lifetimes

    def expires(self, at_ms: int) -> None:
        """A row that is put on disk lives until then."""
        if self._next_expiry_ms is None or at_ms < self._next_expiry_ms:
            self._next_expiry_ms = at_ms

    def next_deadline_ms(self) -> int | None:
        """When :meth:`look` has something to do."""
        return None if self._expiry_ticket is not None else self._next_expiry_ms

    def look(self, turn: Turn) -> None:
        """Ask the disk for rows whose lifetime is over, when one may be."""
        due_ms = self.next_deadline_ms()
        if due_ms is not None and due_ms <= turn.now_ms:
            self._next_expiry_ms = None  # until the answer, it is that of what the read may not have seen
            self._expiry_ticket = self._tickets.take()
            turn.load(self._expiry_ticket, ReadExpired(turn.now_ms, _EXPIRE_ROWS))

    def is_answer(self, ticket: int) -> bool:
        """Whether this read is the one that :meth:`look` asked for."""
        return ticket == self._expiry_ticket

    def take_expired(self, turn: Turn, rows: list[ExpiredRow], next_expiry_ms: int | None) -> list[ExpiredRow]:
        """The read came back; return (and note) those that end now."""
        self._expiry_ticket = None
        fresh = [row for row in rows if row.row not in self._rows]
        if len(rows) == _EXPIRE_ROWS:
            next_expiry_ms = turn.now_ms if fresh else turn.now_ms + _EXPIRE_AGAIN_MS
        if next_expiry_ms is not None:
            self.expires(next_expiry_ms)
        self.note([row.row for row in fresh])
        return fresh
