"""The tables, as numbered migrations.

What shapes them: a bundle is one row, keys are integers that grow, and every index answers a read
that the node really makes, because an index on random keys dirties a page of its own per row.
What the node must know at its start (how much waits, for whom) is kept in small counting tables,
so that a start costs the same with no mail and with a million bundles.
"""

from collections.abc import Sequence

import apsw

from meshd.errors import MeshdError

_FIRST = """
CREATE TABLE clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    clock_ms INTEGER NOT NULL,
    next_spool_row INTEGER NOT NULL,
    next_inbox_row INTEGER NOT NULL
);
INSERT INTO clock VALUES (1, 0, 1, 1);

-- The body comes last: what stands before it is read without touching its overflow pages.
-- due_ms: end of the lifetime while waiting, end of the trace when finished.
CREATE TABLE spool (
    row INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    reason TEXT,
    due_ms INTEGER NOT NULL,
    ref BLOB NOT NULL,
    source BLOB NOT NULL,
    destination BLOB NOT NULL,
    priority INTEGER NOT NULL,
    number BLOB NOT NULL,
    service TEXT,
    messages INTEGER NOT NULL,
    from_peer BLOB,
    principal TEXT,
    hop_limit INTEGER NOT NULL,
    copies INTEGER NOT NULL,
    lifetime_ms INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    bundle BLOB,
    head BLOB,
    body BLOB NOT NULL
);
-- A trace scans spool_order and spool_finished for its ref: tens of milliseconds per 100,000 rows, when a
-- person asks. An index on ref itself halves the rate of accepting as soon as many rows wait.
CREATE INDEX spool_order ON spool (destination, priority, (from_peer IS NULL), row, ref) WHERE state = 0;
CREATE INDEX spool_expiry ON spool (due_ms) WHERE state = 0;
CREATE INDEX spool_finished ON spool (due_ms, ref) WHERE state > 0;

CREATE TABLE backlog (
    destination BLOB NOT NULL,
    priority INTEGER NOT NULL,
    own INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (destination, priority, own)
);

CREATE TABLE inbox (
    row INTEGER PRIMARY KEY,
    service TEXT NOT NULL,
    priority INTEGER NOT NULL,
    first_offset INTEGER,
    count INTEGER NOT NULL,
    ref BLOB NOT NULL,
    source BLOB NOT NULL,
    number BLOB NOT NULL,
    prev BLOB,
    late INTEGER NOT NULL,
    missing BLOB,
    age_ms INTEGER NOT NULL,
    arrived_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    messages BLOB NOT NULL
);
CREATE INDEX inbox_order ON inbox (service, priority, first_offset) WHERE first_offset IS NOT NULL;
CREATE INDEX inbox_held ON inbox (row) WHERE first_offset IS NULL;
CREATE INDEX inbox_expiry ON inbox (expires_ms);

CREATE TABLE mailbox (
    service TEXT NOT NULL,
    priority INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (service, priority)
);

CREATE TABLE inbox_usage (
    source BLOB PRIMARY KEY,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);

CREATE TABLE facts (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (kind, key)
);

CREATE TABLE keys (
    id INTEGER PRIMARY KEY,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    answer BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    UNIQUE (principal, key)
);
CREATE INDEX keys_expiry ON keys (expires_ms);

-- Several entries per bundle make this the hottest table: it has no index, and a trace scans it.
CREATE TABLE journal (
    row INTEGER PRIMARY KEY,
    ref BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    event TEXT NOT NULL,
    reason TEXT,
    detail TEXT
);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""Number n (from 1) takes a database from version n - 1 to n. Released ones never change."""

SMALL_TABLES = ("clock", "backlog", "mailbox", "inbox_usage", "facts")
"""Bounded by devices and services: read whole at every start."""


def version_of(connection: apsw.Connection) -> int:
    """How many migrations the file has seen; 0 for an empty one."""
    return int(connection.pragma("user_version"))


def migrate(connection: apsw.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the file to the newest version in one transaction: all the way, or not at all.

    Raises:
        MeshdError: E_NEWER_STATE when the file has seen migrations that are unknown here.
        apsw.Error: as SQLite reports it; nothing is changed then.
    """
    version = version_of(connection)
    if version > len(migrations):
        raise MeshdError(
            "E_NEWER_STATE", f"The store has format {version}, and this meshd knows formats up to {len(migrations)}."
        )
    if version == len(migrations):
        return
    with connection:
        for migration in migrations[version:]:
            connection.execute(migration)
        connection.pragma("user_version", len(migrations))
