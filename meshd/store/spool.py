"""The spool: bundles that wait here, and the trace of those that no longer do."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import apsw

from meshd.ids import BundleRef, NodeId, Priority
from meshd.store import rows
from meshd.store.ops import DeleteSpool, FinishSpool, PutSpool, SealSpool, SetCopies, SpoolRow
from meshd.store.reads import Backlog, ExpiredRow, ReadExpired, ReadHeld, ReadSpool, TraceRecord

PENDING = 0
STATES = ("pending", "delivered", "consumed", "expired", "refused")
"""A row's state is stored as its place here; what a migration may only add to."""

PURGE_ROWS_MAX = 10_000
"""Rows that one purge deletes at most, so that it never holds up a commit for long."""

_INSERT = """INSERT INTO spool (
    row, state, due_ms, ref, source, destination, priority, number, service, messages, from_peer, principal,
    hop_limit, copies, lifetime_ms, accepted_ms, size_bytes, bundle, head, body)"""

_COLUMNS = """row, due_ms, ref, source, destination, priority, number, service, messages, from_peer, principal,
    hop_limit, copies, lifetime_ms, accepted_ms, size_bytes, bundle, head, body"""

_ADD_BACKLOG = "INSERT INTO backlog (destination, priority, own, rows, messages, bytes)"
_ADD_BACKLOG_SUFFIX = """ON CONFLICT (destination, priority, own) DO UPDATE SET
    rows = rows + excluded.rows, messages = messages + excluded.messages, bytes = bytes + excluded.bytes"""

_SUBTRACT_BACKLOG = """UPDATE backlog SET
    rows = backlog.rows - gone.rows, messages = backlog.messages - gone.messages, bytes = backlog.bytes - gone.bytes
    FROM (SELECT destination, priority, from_peer IS NULL AS own,
                 count(*) AS rows, sum(messages) AS messages, sum(size_bytes) AS bytes
          FROM spool WHERE row IN carray(?) AND state = 0 GROUP BY 1, 2, 3) AS gone
    WHERE backlog.destination = gone.destination AND backlog.priority = gone.priority AND backlog.own = gone.own"""


def put(cursor: apsw.Cursor, ops: Sequence[PutSpool]) -> None:
    """Add waiting rows. Raises apsw.ConstraintError when a row number is taken."""
    values: list[tuple[rows.Value, ...]] = []
    count: Counter[tuple[NodeId, int, bool]] = Counter()
    messages: Counter[tuple[NodeId, int, bool]] = Counter()
    size: Counter[tuple[NodeId, int, bool]] = Counter()
    for op in ops:
        row = op.row
        values.append(
            (
                row.row,
                PENDING,
                row.expires_ms,
                row.ref,
                row.source,
                row.destination,
                int(row.priority),
                rows.pack_number(row.number),
                row.service,
                row.messages,
                row.from_peer,
                row.principal,
                row.hop_limit,
                row.copies,
                row.lifetime_ms,
                row.accepted_ms,
                row.size_bytes,
                row.bundle,
                row.head,
                row.body,
            )
        )
        group = (row.destination, int(row.priority), row.from_peer is None)
        count[group] += 1
        messages[group] += row.messages
        size[group] += row.size_bytes
    rows.insert(cursor, _INSERT, values)
    added: list[tuple[rows.Value, ...]] = [(*group, count[group], messages[group], size[group]) for group in count]
    rows.insert(cursor, _ADD_BACKLOG, added, _ADD_BACKLOG_SUFFIX)


def seal(cursor: apsw.Cursor, ops: Sequence[SealSpool]) -> None:
    """Replace head, body and id of rows that still wait; others are left alone."""
    cursor.executemany(
        "UPDATE spool SET bundle = ?, head = ?, body = ? WHERE row = ? AND state = 0",
        [(op.bundle, op.head, op.body, op.row) for op in ops],
    )


def set_copies(cursor: apsw.Cursor, ops: Sequence[SetCopies]) -> None:
    """Note how many copies are left of rows that still wait."""
    cursor.executemany("UPDATE spool SET copies = ? WHERE row = ? AND state = 0", [(op.copies, op.row) for op in ops])


def finish(cursor: apsw.Cursor, ops: Sequence[FinishSpool]) -> None:
    """Drop the bodies and note how it ended; a finished row may be finished again (delivered, then consumed)."""
    for op in ops:
        if (numbers := rows.numbers(op.rows)) is None:
            continue
        cursor.execute(_SUBTRACT_BACKLOG, (numbers,))
        cursor.execute(
            "UPDATE spool SET state = ?, reason = ?, due_ms = ?, head = NULL, body = x'' WHERE row IN carray(?)",
            (STATES.index(op.state), op.reason, op.keep_until_ms, numbers),
        )
    _forget_empty(cursor)


def delete(cursor: apsw.Cursor, ops: Sequence[DeleteSpool]) -> None:
    """Forget rows, waiting or finished; numbers that don't exist are passed over."""
    if (numbers := rows.numbers(row for op in ops for row in op.rows)) is None:
        return
    cursor.execute(_SUBTRACT_BACKLOG, (numbers,))
    cursor.execute("DELETE FROM spool WHERE row IN carray(?)", (numbers,))
    _forget_empty(cursor)


def _forget_empty(cursor: apsw.Cursor) -> None:
    cursor.execute("DELETE FROM backlog WHERE rows = 0")


def purge(cursor: apsw.Cursor, now_ms: int) -> None:
    """Delete finished rows whose trace is old, the oldest :data:`PURGE_ROWS_MAX` of them."""
    cursor.execute(
        """DELETE FROM spool WHERE row IN
           (SELECT row FROM spool WHERE state > 0 AND due_ms <= ? ORDER BY due_ms LIMIT ?)""",
        (now_ms, PURGE_ROWS_MAX),
    )


def _spool_row(values: tuple[Any, ...]) -> SpoolRow:
    return SpoolRow(
        row=values[0],
        expires_ms=values[1],
        ref=values[2],
        source=values[3],
        destination=values[4],
        priority=Priority(values[5]),
        number=rows.unpack_number(values[6]),
        service=values[7],
        messages=values[8],
        from_peer=values[9],
        principal=values[10],
        hop_limit=values[11],
        copies=values[12],
        lifetime_ms=values[13],
        accepted_ms=values[14],
        size_bytes=values[15],
        bundle=values[16],
        head=values[17],
        body=values[18],
    )


def read(connection: apsw.Connection, ask: ReadSpool) -> list[SpoolRow]:
    """Answer ReadSpool; the row that reaches ``max_bytes`` is still part of it."""
    cursor = connection.execute(
        f"""SELECT {_COLUMNS} FROM spool
            WHERE destination = ? AND priority = ? AND (from_peer IS NULL) = ? AND state = 0 AND row > ?
            ORDER BY row LIMIT ?""",
        (ask.destination, int(ask.priority), ask.own, ask.after, ask.max_rows),
    )
    found: list[SpoolRow] = []
    size = 0
    try:
        for values in cursor:
            row = _spool_row(values)
            found.append(row)
            size += len(row.body)
            if size >= ask.max_bytes:
                break
    finally:
        cursor.close()  # an unfinished read would hold checkpoints back
    return found


def read_held(connection: apsw.Connection, ask: ReadHeld) -> list[ExpiredRow]:
    """Answer ReadHeld."""
    found: list[tuple[Any, ...]] = connection.execute(
        """SELECT row, ref, number, messages, size_bytes FROM spool
           WHERE destination = ? AND priority = ? AND source = ? AND (from_peer IS NULL) = 0 AND state = 0 AND row > ?
             AND copies >= ?
           ORDER BY row LIMIT ?""",
        (ask.destination, int(ask.priority), ask.source, ask.after, int(ask.carried), ask.max_rows),
    ).fetchall()
    return [
        ExpiredRow(
            row=row,
            ref=ref,
            source=ask.source,
            destination=ask.destination,
            priority=ask.priority,
            number=rows.unpack_number(number),
            messages=messages,
            size_bytes=size_bytes,
            own=False,
        )
        for row, ref, number, messages, size_bytes in found
    ]


def read_expired(connection: apsw.Connection, ask: ReadExpired) -> tuple[list[ExpiredRow], int | None]:
    """Answer ReadExpired. The next expiry is that of the first waiting row not in the list, due or not."""
    found: list[ExpiredRow] = []
    cursor = connection.execute(
        """SELECT due_ms, row, ref, source, destination, priority, number, messages, size_bytes, from_peer IS NULL
           FROM spool
           WHERE state = 0 ORDER BY due_ms LIMIT ?""",
        (ask.max_rows + 1,),
    )
    try:
        for due_ms, row, ref, source, destination, priority, number, messages, size_bytes, own in cursor:
            if due_ms > ask.now_ms or len(found) == ask.max_rows:
                return found, due_ms
            found.append(
                ExpiredRow(
                    row=row,
                    ref=ref,
                    source=source,
                    destination=destination,
                    priority=Priority(priority),
                    number=rows.unpack_number(number),
                    messages=messages,
                    size_bytes=size_bytes,
                    own=bool(own),
                )
            )
    finally:
        cursor.close()
    return found, None


def read_outcome(connection: apsw.Connection, ref: BundleRef) -> TraceRecord | None:
    """What is known of a bundle, waiting or finished, but for its journal."""
    found = connection.execute(
        """SELECT state, reason, destination, messages, priority, number FROM spool WHERE row IN (
               SELECT row FROM spool INDEXED BY spool_order WHERE state = 0 AND ref = ?1
               UNION ALL SELECT row FROM spool INDEXED BY spool_finished WHERE state > 0 AND ref = ?1)
           ORDER BY row DESC LIMIT 1""",
        (ref,),
    ).get
    if found is None:
        return None
    state, reason, destination, messages, priority, number = found
    return TraceRecord(
        state=STATES[state],
        reason=reason,
        destination=destination,
        messages=messages,
        journal=(),
        priority=Priority(priority),
        number=rows.unpack_number(number),
    )


def read_backlogs(connection: apsw.Connection) -> tuple[Backlog, ...]:
    """What waits, for the snapshot."""
    return tuple(
        Backlog(
            destination=destination,
            priority=Priority(priority),
            own=bool(own),
            rows=count,
            messages=messages,
            bytes=size,
            oldest_accepted_ms=oldest,
        )
        for destination, priority, own, count, messages, size, oldest in connection.execute(
            """SELECT destination, priority, own, rows, messages, bytes,
                      (SELECT accepted_ms FROM spool WHERE spool.destination = backlog.destination
                       AND spool.priority = backlog.priority AND state = 0 ORDER BY row LIMIT 1)
               FROM backlog ORDER BY destination, priority, own"""
        )
    )
