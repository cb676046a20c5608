"""Ops and reads of the spool."""

import pytest

from meshd.ids import BundleId, Priority
from meshd.store.database import Database
from meshd.store.ops import (
    AddJournal,
    DeleteSpool,
    FinishSpool,
    JournalEntry,
    Op,
    Purge,
    SealSpool,
    SetCopies,
    SpoolRow,
)
from meshd.store.reads import Backlog, ExpiredRow, ReadExpired, ReadHeld, ReadSpool, ReadTrace, TraceRecord
from tests.store.builders import ANNA, BERT, number, put_spool, ref, spool_row


def commit(database: Database, *ops: Op, clock_ms: int = 0) -> None:
    (outcome,) = database.apply([(1, ops)], clock_ms)
    assert outcome.error is None, outcome


def waiting(database: Database, destination: bytes = ANNA, **changes: int | bool) -> list[SpoolRow]:
    fields = {"after": 0, "max_rows": 100, "max_bytes": 10**6} | changes
    answer = database.read(ReadSpool(destination, Priority.NORMAL, **fields))  # type: ignore[arg-type]
    assert isinstance(answer, list)
    return answer


def test_rows_come_back_whole_and_in_order() -> None:
    database = Database.in_memory()
    plain = spool_row(3, head=None, bundle=None)
    foreign = spool_row(2, from_peer=BERT, service=None, principal=None)
    commit(database, put_spool(5, priority=Priority.HIGH), put_spool(4, destination=BERT))
    commit(database, put_spool(1))
    commit(database, put_spool(7))
    commit(database, put_spool(2, from_peer=BERT, service=None, principal=None), put_spool(3, head=None, bundle=None))
    assert waiting(database) == [spool_row(1), plain, spool_row(7)]
    assert waiting(database, own=False) == [foreign]
    assert waiting(database, BERT) == [spool_row(4, destination=BERT)]


def test_a_read_stops_at_each_limit() -> None:
    database = Database.in_memory()
    commit(database, *(put_spool(row, body=b"x" * 10) for row in range(1, 200)))
    assert [row.row for row in waiting(database, after=5, max_rows=3)] == [6, 7, 8]
    assert [row.row for row in waiting(database, max_bytes=25)] == [1, 2, 3]
    assert [row.row for row in waiting(database, max_bytes=1)] == [1]
    assert waiting(database, after=199) == []


def test_sealing_replaces_what_was_plain_and_only_while_it_waits() -> None:
    database = Database.in_memory()
    commit(database, put_spool(1, head=None, bundle=None), put_spool(2, head=None, bundle=None))
    commit(database, FinishSpool((2,), "expired", None, 9_000))
    seal = [SealSpool(row, BundleId(b"n" * 20), b"sealed head", b"sealed body") for row in (1, 2, 3)]
    commit(database, *seal)
    assert waiting(database) == [spool_row(1, bundle=b"n" * 20, head=b"sealed head", body=b"sealed body")]
    commit(database, DeleteSpool((1,)))
    assert database.snapshot().backlogs == ()


def test_finished_rows_are_traced_until_they_are_purged() -> None:
    database = Database.in_memory()
    entries = (JournalEntry(ref(1), 5, "accepted"), JournalEntry(ref(1), 6, "sent", "link", "to anna"))
    commit(database, put_spool(1), AddJournal((entries[0],)))
    commit(database, AddJournal((JournalEntry(ref(2), 5, "accepted"), entries[1])))
    record = TraceRecord(
        state="pending",
        reason=None,
        destination=ANNA,
        messages=2,
        journal=entries,
        priority=Priority.NORMAL,
        number=number(1),
    )
    assert database.read(ReadTrace(ref(1))) == record

    commit(database, FinishSpool((1,), "delivered", None, 9_000))
    commit(database, FinishSpool((1,), "consumed", "all", 9_500))
    assert waiting(database) == []
    record = TraceRecord(
        state="consumed",
        reason="all",
        destination=ANNA,
        messages=2,
        journal=entries,
        priority=Priority.NORMAL,
        number=number(1),
    )
    assert database.read(ReadTrace(ref(1))) == record

    commit(database, Purge(9_499, 0, 100))
    assert database.read(ReadTrace(ref(1))) == record
    commit(database, Purge(9_500, 6, 100))
    record = TraceRecord(state=None, reason=None, destination=None, messages=0, journal=entries[1:])
    assert database.read(ReadTrace(ref(1))) == record
    assert database.read(ReadTrace(ref(2))) is None


def test_a_row_in_transit_leaves_nothing_but_its_journal() -> None:
    database = Database.in_memory()
    commit(database, put_spool(1, from_peer=BERT), put_spool(2))
    commit(database, DeleteSpool((1, 77)))
    assert waiting(database) == [spool_row(2)]
    assert database.read(ReadTrace(ref(1))) is None


def test_expired_rows_and_the_next_expiry() -> None:
    database = Database.in_memory()
    commit(database, put_spool(1, expires_ms=300), put_spool(2, expires_ms=100), put_spool(3, expires_ms=200))
    commit(database, put_spool(4, expires_ms=50), FinishSpool((4,), "expired", "lifetime", 60))

    def expired(now_ms: int, max_rows: int = 10) -> tuple[list[int], int | None]:
        answer = database.read(ReadExpired(now_ms, max_rows))
        assert isinstance(answer, tuple)
        return [row.row for row in answer[0]], answer[1]

    assert expired(99) == ([], 100)
    assert expired(200) == ([2, 3], 300)
    assert expired(1_000, max_rows=2) == ([2, 3], 300)
    assert expired(1_000) == ([2, 3, 1], None)


def test_backlogs_count_what_waits_per_destination_priority_and_origin() -> None:
    database = Database.in_memory()
    commit(database, *(put_spool(row, accepted_ms=row) for row in range(1, 151)))
    commit(database, put_spool(200, from_peer=BERT, messages=1, size_bytes=7), put_spool(201, destination=BERT))
    commit(database, DeleteSpool(tuple(range(1, 11))), FinishSpool((11, 12, 201), "delivered", None, 0))
    commit(database, FinishSpool((12,), "consumed", None, 0), DeleteSpool((11, 12, 12, 999)))
    assert database.snapshot().backlogs == (
        Backlog(
            destination=ANNA,
            priority=Priority.NORMAL,
            rows=1,
            messages=1,
            bytes=7,
            oldest_accepted_ms=13,
            own=False,
        ),
        Backlog(
            destination=ANNA,
            priority=Priority.NORMAL,
            rows=138,
            messages=276,
            bytes=13_800,
            oldest_accepted_ms=13,
            own=True,
        ),
    )
    assert database.snapshot().next_spool_row == 202


def test_an_unknown_state_is_a_defect_and_rolled_back() -> None:
    database = Database.in_memory()
    with pytest.raises(ValueError):
        database.apply([(1, [put_spool(1), FinishSpool((1,), "gone", None, 0)])], 0)
    assert waiting(database) == []
    commit(database, put_spool(1))
    assert waiting(database) == [spool_row(1)]


def test_copies_are_counted_down_while_a_row_waits() -> None:
    database = Database.in_memory()
    commit(database, put_spool(1, copies=8), put_spool(2, copies=8))
    commit(database, FinishSpool((2,), "delivered", None, 10**6))
    commit(database, SetCopies(1, 4), SetCopies(2, 4), SetCopies(9, 4))
    assert waiting(database) == [spool_row(1, copies=4)]


def test_what_is_held_of_others_is_found_by_its_flow() -> None:
    database = Database.in_memory()
    others = {"from_peer": BERT, "source": BERT, "service": None, "principal": None, "messages": 1}
    commit(database, put_spool(1), put_spool(2, copies=2, **others), put_spool(3, copies=0, **others))
    commit(database, put_spool(4, **(others | {"source": ANNA})), put_spool(5, priority=Priority.BULK, **others))
    commit(database, put_spool(6, destination=BERT, **others), put_spool(7, copies=1, **others))
    commit(database, put_spool(8, **others), DeleteSpool((8,)))

    def held(after: int = 0, max_rows: int = 9, *, carried: bool = False) -> list[ExpiredRow]:
        answer = database.read(ReadHeld(BERT, ANNA, Priority.NORMAL, after, max_rows, carried))
        assert isinstance(answer, list)
        return answer

    assert [row.row for row in held()] == [2, 3, 7]
    assert [row.row for row in held(carried=True)] == [2, 7]
    assert [row.row for row in held(after=2, max_rows=1)] == [3]
    assert held()[0] == ExpiredRow(
        row=2,
        ref=ref(2),
        source=BERT,
        destination=ANNA,
        priority=Priority.NORMAL,
        number=number(2),
        messages=1,
        size_bytes=100,
        own=False,
    )
