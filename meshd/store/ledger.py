"""The small tables: facts, idempotency keys, the journal, the clock."""

from collections.abc import Sequence

import apsw

from meshd.ids import BundleRef
from meshd.store import rows
from meshd.store.ops import AddJournal, DeleteFact, JournalEntry, PutFact, PutKey
from meshd.store.reads import ReadKey
from meshd.store.spool import PURGE_ROWS_MAX


def change_facts(cursor: apsw.Cursor, ops: Sequence[PutFact | DeleteFact]) -> None:
    """Apply changes of facts; of several to one key only the last is written."""
    last: dict[tuple[str, bytes], bytes | None] = {}
    for op in ops:
        last[op.kind, op.key] = op.value if isinstance(op, PutFact) else None
    rows.insert(
        cursor,
        "INSERT INTO facts (kind, key, value)",
        [(*name, value) for name, value in last.items() if value is not None],
        "ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
    )
    gone = [name for name, value in last.items() if value is None]
    if gone:
        cursor.executemany("DELETE FROM facts WHERE kind = ? AND key = ?", gone)


def put_keys(cursor: apsw.Cursor, ops: Sequence[PutKey]) -> None:
    """Remember answers; a newer one replaces an older one under the same key."""
    rows.insert(
        cursor,
        "INSERT INTO keys (principal, key, expires_ms, answer)",
        [(op.principal, op.key, op.expires_ms, op.answer) for op in ops],
        "ON CONFLICT (principal, key) DO UPDATE SET answer = excluded.answer, expires_ms = excluded.expires_ms",
    )


def add_journal(cursor: apsw.Cursor, ops: Sequence[AddJournal]) -> None:
    """Append entries in the order given."""
    rows.insert(
        cursor,
        "INSERT INTO journal (ref, at_ms, event, reason, detail)",
        [(entry.ref, entry.at_ms, entry.event, entry.reason, entry.detail) for op in ops for entry in op.entries],
    )


def purge(cursor: apsw.Cursor, now_ms: int, journal_before_ms: int, journal_rows_max: int) -> None:
    """Delete expired keys, and journal entries that are too old or too many: a bounded number of each."""
    cursor.execute(
        "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?)",
        (now_ms, PURGE_ROWS_MAX),
    )
    # Entries are appended as time goes on and deleted from the front only, so row numbers are
    # without holes: the first young entry and the highest number say where to cut.
    first, last = cursor.execute("SELECT min(row), max(row) FROM journal").get
    if first is None:
        return
    young = cursor.execute(
        "SELECT row FROM journal WHERE at_ms >= ? ORDER BY row LIMIT 1", (journal_before_ms,)
    ).fetchone()
    keep_from = max(last + 1 if young is None else young[0], last + 1 - journal_rows_max)
    cursor.execute("DELETE FROM journal WHERE row < ?", (min(keep_from, first + PURGE_ROWS_MAX),))


def advance_clock(cursor: apsw.Cursor, clock_ms: int, next_spool_row: int, next_inbox_row: int) -> None:
    """Move the clock and the next row numbers forward; they never go back."""
    cursor.execute(
        """UPDATE clock SET clock_ms = max(clock_ms, ?),
           next_spool_row = max(next_spool_row, ?), next_inbox_row = max(next_inbox_row, ?)""",
        (clock_ms, next_spool_row, next_inbox_row),
    )


def read_clock(connection: apsw.Connection) -> tuple[int, int, int]:
    """The clock in milliseconds, the next spool row, the next inbox row."""
    clock_ms, spool_row, inbox_row = connection.execute(
        "SELECT clock_ms, next_spool_row, next_inbox_row FROM clock"
    ).get
    return clock_ms, spool_row, inbox_row


def read_facts(connection: apsw.Connection) -> dict[str, dict[bytes, bytes]]:
    """Everything known: kind -> key -> value."""
    facts: dict[str, dict[bytes, bytes]] = {}
    for kind, key, value in connection.execute("SELECT kind, key, value FROM facts ORDER BY kind, key"):
        facts.setdefault(kind, {})[key] = value
    return facts


def read_key(connection: apsw.Connection, ask: ReadKey) -> bytes | None:
    """Answer ReadKey."""
    found = connection.execute(
        "SELECT answer FROM keys WHERE principal = ? AND key = ?", (ask.principal, ask.key)
    ).fetchone()
    return None if found is None else found[0]


def read_journal(connection: apsw.Connection, ref: BundleRef) -> tuple[JournalEntry, ...]:
    """The entries of one bundle, oldest first."""
    found = connection.execute(
        "SELECT ref, at_ms, event, reason, detail FROM journal WHERE ref = ? ORDER BY row", (ref,)
    )
    return tuple(JournalEntry(*values) for values in found)
