"""Facts, keys, journal, clock."""

from meshd.store.database import Database
from meshd.store.ops import AddJournal, DeleteFact, JournalEntry, Op, Purge, PutFact, PutKey
from meshd.store.reads import ReadKey, ReadTrace, TraceRecord
from tests.store.builders import put_inbox, put_spool, ref


def commit(database: Database, *ops: Op, clock_ms: int = 0) -> None:
    (outcome,) = database.apply([(1, ops)], clock_ms)
    assert outcome.error is None, outcome


def journal_of(database: Database, number: int) -> list[int]:
    record = database.read(ReadTrace(ref(number)))
    return [entry.at_ms for entry in record.journal] if isinstance(record, TraceRecord) else []


def test_the_last_change_of_a_fact_wins() -> None:
    database = Database.in_memory()
    commit(database, PutFact("mark", b"a", b"1"), PutFact("mark", b"a", b"2"), PutFact("card", b"a", b"3"))
    assert database.snapshot().facts == {"mark": {b"a": b"2"}, "card": {b"a": b"3"}}
    commit(database, PutFact("mark", b"a", b"4"), DeleteFact("mark", b"a"), DeleteFact("card", b"none"))
    commit(database, DeleteFact("card", b"a"), PutFact("card", b"a", b"5"))
    assert database.snapshot().facts == {"card": {b"a": b"5"}}


def test_keys_belong_to_a_principal_and_end() -> None:
    database = Database.in_memory()
    commit(database, PutKey("uid:1", "k", b"one", 100), PutKey("uid:2", "k", b"two", 200))
    assert database.read(ReadKey("uid:1", "k")) == b"one"
    commit(database, PutKey("uid:1", "k", b"uno", 100), Purge(100, 0, 10))
    assert database.read(ReadKey("uid:1", "k")) is None
    assert database.read(ReadKey("uid:2", "k")) == b"two"


def test_the_journal_is_cut_by_age_and_by_length() -> None:
    database = Database.in_memory()
    commit(database, AddJournal(tuple(JournalEntry(ref(at % 2), at, "sent") for at in range(10))))
    commit(database, Purge(0, 4, 100))
    assert (journal_of(database, 0), journal_of(database, 1)) == ([4, 6, 8], [5, 7, 9])
    commit(database, Purge(0, 0, 3))
    assert (journal_of(database, 0), journal_of(database, 1)) == ([8], [7, 9])
    commit(database, Purge(0, 100, 3))
    assert (journal_of(database, 0), journal_of(database, 1)) == ([], [])
    commit(database, AddJournal((JournalEntry(ref(0), 1, "sent"),)))
    assert journal_of(database, 0) == [1]


def test_the_clock_and_row_numbers_never_go_back() -> None:
    database = Database.in_memory()
    assert database.snapshot().clock_ms == 0
    assert (database.snapshot().next_spool_row, database.snapshot().next_inbox_row) == (1, 1)
    commit(database, put_spool(7), put_inbox(9), clock_ms=500)
    commit(database, put_spool(3), clock_ms=400)
    commit(database)
    snapshot = database.snapshot()
    assert (snapshot.clock_ms, snapshot.next_spool_row, snapshot.next_inbox_row) == (500, 8, 10)
