"""Carry out ops inside a transaction, and answer reads."""

from collections.abc import Sequence
from itertools import groupby
from typing import assert_never

import apsw
import attrs

from meshd.store import inbox, ledger, spool
from meshd.store.ops import (
    AddJournal,
    DeleteFact,
    DeleteInbox,
    DeleteSpool,
    FinishSpool,
    Op,
    Purge,
    PutFact,
    PutInbox,
    PutKey,
    PutSpool,
    ReleaseInbox,
    SealSpool,
    SetCopies,
)
from meshd.store.reads import (
    Read,
    ReadExpired,
    ReadExpiredInbox,
    ReadHeld,
    ReadInbox,
    ReadKey,
    ReadSpool,
    ReadTrace,
    Snapshot,
    TraceRecord,
)

_SPOOL = {
    PutSpool: spool.put,
    SealSpool: spool.seal,
    SetCopies: spool.set_copies,
    FinishSpool: spool.finish,
    DeleteSpool: spool.delete,
}
_INBOX = {PutInbox: inbox.put, ReleaseInbox: inbox.release, DeleteInbox: inbox.delete}

_GROWING = (PutSpool, PutInbox)


def grows(ops: Sequence[Op]) -> bool:
    """Whether the ops bring mail in; all others only let it move on, and may use the disk's reserve."""
    return any(isinstance(op, _GROWING) for op in ops)


def apply(cursor: apsw.Cursor, ops: Sequence[Op], clock_ms: int) -> None:
    """Carry out ``ops`` and move the clock, inside the caller's transaction.

    Ops on one table keep their order. Tables don't depend on each other, so ops are sorted by
    table, and what comes together there is written together. Purges come last.

    Raises:
        apsw.Error: as SQLite reports it; the caller rolls back.
    """
    spooled = [op for op in ops if type(op) in _SPOOL]
    arrived = [op for op in ops if type(op) in _INBOX]
    for kind, same in groupby(spooled, type):
        _SPOOL[kind](cursor, list(same))  # type: ignore[operator]
    for kind, same in groupby(arrived, type):
        _INBOX[kind](cursor, list(same))  # type: ignore[operator]
    if facts := [op for op in ops if isinstance(op, PutFact | DeleteFact)]:
        ledger.change_facts(cursor, facts)
    if keys := [op for op in ops if isinstance(op, PutKey)]:
        ledger.put_keys(cursor, keys)
    if journal := [op for op in ops if isinstance(op, AddJournal)]:
        ledger.add_journal(cursor, journal)
    for op in ops:
        if isinstance(op, Purge):
            spool.purge(cursor, op.now_ms)
            ledger.purge(cursor, op.now_ms, op.journal_before_ms, op.journal_rows_max)
    ledger.advance_clock(
        cursor,
        clock_ms,
        max((op.row.row + 1 for op in spooled if isinstance(op, PutSpool)), default=0),
        max((op.row.row + 1 for op in arrived if isinstance(op, PutInbox)), default=0),
    )


def answer(connection: apsw.Connection, ask: Read) -> object:
    """Answer one read, of the type that its class names. Raises apsw.Error."""
    match ask:
        case ReadSpool():
            return spool.read(connection, ask)
        case ReadHeld():
            return spool.read_held(connection, ask)
        case ReadExpired():
            return spool.read_expired(connection, ask)
        case ReadInbox():
            return inbox.read(connection, ask)
        case ReadExpiredInbox():
            return inbox.read_expired(connection, ask)
        case ReadTrace():
            return _trace(connection, ask)
        case ReadKey():
            return ledger.read_key(connection, ask)
        case _:
            assert_never(ask)


def _trace(connection: apsw.Connection, ask: ReadTrace) -> TraceRecord | None:
    outcome = spool.read_outcome(connection, ask.ref)
    journal = ledger.read_journal(connection, ask.ref)
    unread = inbox.find(connection, ask.ref)
    if outcome is not None:
        return attrs.evolve(outcome, journal=journal, unread=unread)
    if not journal and unread is None:
        return None
    return TraceRecord(state=None, reason=None, destination=None, messages=0, journal=journal, unread=unread)


def take_snapshot(connection: apsw.Connection) -> Snapshot:
    """Everything the node needs to start. Raises apsw.Error."""
    clock_ms, next_spool_row, next_inbox_row = ledger.read_clock(connection)
    return Snapshot(
        clock_ms=clock_ms,
        facts=ledger.read_facts(connection),
        next_spool_row=next_spool_row,
        next_inbox_row=next_inbox_row,
        backlogs=spool.read_backlogs(connection),
        mailboxes=inbox.read_mailboxes(connection),
        held=inbox.read_held(connection),
        inbox_usage=inbox.read_usage(connection),
    )
