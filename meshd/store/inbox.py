"""The inbox: bundles that arrived for services of this device."""

from collections.abc import Sequence
from typing import Any

import apsw

from meshd.ids import BundleRef, NodeId, Priority
from meshd.store import rows
from meshd.store.ops import DeleteInbox, InboxRow, PutInbox, ReleaseInbox
from meshd.store.reads import Mailbox, ReadExpiredInbox, ReadInbox, Unread

_HEAD = """row, service, priority, first_offset, count, ref, source, number, prev, late, missing, age_ms,
    arrived_ms, expires_ms, size_bytes"""

_INSERT = f"INSERT INTO inbox ({_HEAD}, messages)"

_ADD_MAILBOX = """INSERT INTO mailbox (service, priority, rows, messages, bytes)
    SELECT service, priority, count(*), sum(count), sum(size_bytes)
    FROM inbox WHERE row IN carray(?) AND first_offset IS NOT NULL GROUP BY service, priority
    ON CONFLICT (service, priority) DO UPDATE SET
    rows = rows + excluded.rows, messages = messages + excluded.messages, bytes = bytes + excluded.bytes"""

_SUBTRACT_MAILBOX = """UPDATE mailbox SET
    rows = mailbox.rows - gone.rows, messages = mailbox.messages - gone.messages, bytes = mailbox.bytes - gone.bytes
    FROM (SELECT service, priority, count(*) AS rows, sum(count) AS messages, sum(size_bytes) AS bytes
          FROM inbox WHERE row IN carray(?) AND first_offset IS NOT NULL GROUP BY service, priority) AS gone
    WHERE mailbox.service = gone.service AND mailbox.priority = gone.priority"""

_ADD_USAGE = """INSERT INTO inbox_usage (source, rows, bytes)
    SELECT source, count(*), sum(size_bytes) FROM inbox WHERE row IN carray(?) GROUP BY source
    ON CONFLICT (source) DO UPDATE SET rows = rows + excluded.rows, bytes = bytes + excluded.bytes"""

_SUBTRACT_USAGE = """UPDATE inbox_usage SET rows = inbox_usage.rows - gone.rows, bytes = inbox_usage.bytes - gone.bytes
    FROM (SELECT source, count(*) AS rows, sum(size_bytes) AS bytes
          FROM inbox WHERE row IN carray(?) GROUP BY source) AS gone
    WHERE inbox_usage.source = gone.source"""


def put(cursor: apsw.Cursor, ops: Sequence[PutInbox]) -> None:
    """Add rows, released or held. Raises apsw.ConstraintError when a row number is taken."""
    values: list[tuple[rows.Value, ...]] = []
    for op in ops:
        row = op.row
        values.append(
            (
                row.row,
                row.service,
                int(row.priority),
                row.first_offset,
                row.count,
                row.ref,
                row.source,
                rows.pack_number(row.number),
                None if row.prev is None else rows.pack_number(row.prev),
                row.late,
                row.missing,
                row.age_ms,
                row.arrived_ms,
                row.expires_ms,
                len(row.messages),
                row.messages,
            )
        )
    rows.insert(cursor, _INSERT, values)
    numbers = rows.numbers(op.row.row for op in ops)
    cursor.execute(_ADD_MAILBOX, (numbers,))
    cursor.execute(_ADD_USAGE, (numbers,))


def release(cursor: apsw.Cursor, ops: Sequence[ReleaseInbox]) -> None:
    """Give held rows their offsets. Rows that are gone, or released already, are left alone."""
    released: list[int] = []
    for op in ops:
        cursor.execute(
            """UPDATE inbox SET first_offset = ?, missing = ?, late = ?, prev = NULL
               WHERE row = ? AND first_offset IS NULL""",
            (op.first_offset, op.missing, op.late, op.row),
        )
        if cursor.connection.changes():
            released.append(op.row)
    if released:
        cursor.execute(_ADD_MAILBOX, (rows.numbers(released),))


def delete(cursor: apsw.Cursor, ops: Sequence[DeleteInbox]) -> None:
    """Remove rows; numbers that don't exist are passed over."""
    if (numbers := rows.numbers(row for op in ops for row in op.rows)) is None:
        return
    cursor.execute(_SUBTRACT_MAILBOX, (numbers,))
    cursor.execute(_SUBTRACT_USAGE, (numbers,))
    cursor.execute("DELETE FROM inbox WHERE row IN carray(?)", (numbers,))
    cursor.execute("DELETE FROM mailbox WHERE rows = 0")
    cursor.execute("DELETE FROM inbox_usage WHERE rows = 0")


def _inbox_row(values: tuple[Any, ...], messages: bytes) -> InboxRow:
    return InboxRow(
        row=values[0],
        service=values[1],
        priority=Priority(values[2]),
        first_offset=values[3],
        count=values[4],
        ref=values[5],
        source=values[6],
        number=rows.unpack_number(values[7]),
        prev=None if values[8] is None else rows.unpack_number(values[8]),
        late=bool(values[9]),
        missing=values[10],
        age_ms=values[11],
        arrived_ms=values[12],
        expires_ms=values[13],
        size_bytes=values[14],
        messages=messages,
    )


def read(connection: apsw.Connection, ask: ReadInbox) -> list[InboxRow]:
    """Answer ReadInbox; the row that reaches ``max_bytes`` is still part of it."""
    # The row that holds the offset is the last one that starts at or before it.
    cursor = connection.execute(
        f"""SELECT {_HEAD}, messages FROM inbox
            WHERE service = ?1 AND priority = ?2 AND first_offset IS NOT NULL AND first_offset + count > ?3
            AND first_offset >= coalesce(
                (SELECT max(first_offset) FROM inbox WHERE service = ?1 AND priority = ?2 AND first_offset <= ?3), ?3)
            ORDER BY first_offset LIMIT ?4""",
        (ask.service, int(ask.priority), ask.offset, ask.max_rows),
    )
    found: list[InboxRow] = []
    size = 0
    try:
        for values in cursor:
            found.append(_inbox_row(values, values[15]))
            size += len(values[15])
            if size >= ask.max_bytes:
                break
    finally:
        cursor.close()  # an unfinished read would hold checkpoints back
    return found


def read_expired(connection: apsw.Connection, ask: ReadExpiredInbox) -> tuple[list[InboxRow], int | None]:
    """Answer ReadExpiredInbox. The next expiry is that of the first row not in the list, due or not."""
    found: list[InboxRow] = []
    cursor = connection.execute(
        f"SELECT {_HEAD} FROM inbox ORDER BY expires_ms LIMIT ?",
        (ask.max_rows + 1,),
    )
    try:
        for values in cursor:
            row = _inbox_row(values, b"")
            if row.expires_ms > ask.now_ms or len(found) == ask.max_rows:
                return found, row.expires_ms
            found.append(row)
    finally:
        cursor.close()
    return found, None


def read_mailboxes(connection: apsw.Connection) -> tuple[Mailbox, ...]:
    """What each service has waiting, for the snapshot."""
    return tuple(
        Mailbox(service=service, priority=Priority(priority), last_offset=last, messages=messages, bytes=size)
        for service, priority, messages, size, last in connection.execute(
            """SELECT service, priority, messages, bytes,
                      (SELECT first_offset + count - 1 FROM inbox WHERE inbox.service = mailbox.service
                       AND inbox.priority = mailbox.priority AND first_offset IS NOT NULL
                       ORDER BY first_offset DESC LIMIT 1)
               FROM mailbox ORDER BY service, priority"""
        )
    )


def read_held(connection: apsw.Connection) -> tuple[InboxRow, ...]:
    """Rows without an offset, with empty ``messages``, for the snapshot."""
    found = connection.execute(f"SELECT {_HEAD} FROM inbox WHERE first_offset IS NULL ORDER BY row")
    return tuple(_inbox_row(values, b"") for values in found)


def read_usage(connection: apsw.Connection) -> dict[NodeId, int]:
    """Bytes held per source, released or not, for the snapshot."""
    return dict(connection.execute("SELECT source, bytes FROM inbox_usage"))


def find(connection: apsw.Connection, ref: BundleRef) -> Unread | None:
    """Where the bundle lies, if it does. Reads all heads: for people who ask, not for the way of mail."""
    found = connection.execute(
        "SELECT service, priority, source, first_offset, count FROM inbox WHERE ref = ? LIMIT 1", (ref,)
    ).get
    if found is None:
        return None
    service, priority, source, first_offset, count = found
    return Unread(
        ref=ref,
        service=service,
        priority=Priority(priority),
        source=NodeId(source),
        first_offset=first_offset,
        count=count,
    )
