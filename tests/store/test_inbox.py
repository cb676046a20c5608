"""Ops and reads of the inbox."""

from meshd.ids import Priority
from meshd.store.database import Database
from meshd.store.ops import DeleteInbox, InboxRow, Op, ReleaseInbox
from meshd.store.reads import Mailbox, ReadExpiredInbox, ReadInbox
from tests.store.builders import ANNA, BERT, inbox_row, number, put_inbox


def commit(database: Database, *ops: Op) -> None:
    (outcome,) = database.apply([(1, ops)], 0)
    assert outcome.error is None, outcome


def mail(database: Database, offset: int, max_rows: int = 100, max_bytes: int = 10**6) -> list[InboxRow]:
    answer = database.read(ReadInbox("notes", Priority.NORMAL, offset, max_rows, max_bytes))
    assert isinstance(answer, list)
    return answer


def test_rows_come_back_from_the_one_that_holds_the_offset() -> None:
    database = Database.in_memory()
    commit(database, *(put_inbox(row) for row in range(1, 6)), put_inbox(9, service="other"))
    commit(database, put_inbox(10, priority=Priority.BULK), put_inbox(11, first_offset=None, prev=number(99)))
    assert mail(database, 0) == [inbox_row(row) for row in range(1, 6)]
    assert [row.row for row in mail(database, 29)] == [2, 3, 4, 5]
    assert [row.row for row in mail(database, 30)] == [3, 4, 5]
    assert [row.row for row in mail(database, 31, max_rows=2)] == [3, 4]
    assert [row.row for row in mail(database, 0, max_bytes=11)] == [1, 2]
    assert mail(database, 60) == []
    commit(database, DeleteInbox((2, 3)))
    assert [row.row for row in mail(database, 29)] == [4, 5]
    commit(database, put_inbox(6, late=True), put_inbox(7, missing=b"note"))
    assert mail(database, 60) == [inbox_row(6, late=True), inbox_row(7, missing=b"note")]


def test_a_held_row_is_released_once() -> None:
    database = Database.in_memory()
    commit(database, put_inbox(1, first_offset=None, prev=number(7)))
    assert mail(database, 0) == []
    held = inbox_row(1, first_offset=None, prev=number(7), messages=b"")
    assert database.snapshot().held == (held,)
    assert database.snapshot().mailboxes == ()

    commit(
        database, ReleaseInbox(1, 40, b"note", True), ReleaseInbox(1, 50, None, False), ReleaseInbox(8, 60, None, False)
    )
    commit(database, ReleaseInbox(1, 70, None, False))
    assert mail(database, 0) == [inbox_row(1, first_offset=40, late=True, missing=b"note")]
    assert database.snapshot().held == ()
    assert database.snapshot().mailboxes == (
        Mailbox(service="notes", priority=Priority.NORMAL, last_offset=49, messages=10, bytes=10),
    )


def test_mailboxes_and_usage_follow_every_change() -> None:
    database = Database.in_memory()
    commit(database, *(put_inbox(row, messages=b"x" * 100) for row in range(1, 101)))
    commit(database, put_inbox(101, source=BERT, first_offset=None, messages=b"y" * 7))
    commit(database, DeleteInbox(tuple(range(1, 51))), DeleteInbox((50, 51, 1_000)))
    snapshot = database.snapshot()
    assert snapshot.mailboxes == (
        Mailbox(service="notes", priority=Priority.NORMAL, last_offset=1_009, messages=490, bytes=4_900),
    )
    assert snapshot.inbox_usage == {ANNA: 4_900, BERT: 7}
    assert snapshot.next_inbox_row == 102
    commit(database, DeleteInbox(tuple(range(1, 102))))
    snapshot = database.snapshot()
    assert (snapshot.mailboxes, snapshot.inbox_usage, snapshot.held) == ((), {}, ())
    assert snapshot.next_inbox_row == 102


def test_expired_rows_come_without_messages() -> None:
    database = Database.in_memory()
    commit(database, put_inbox(1, expires_ms=200), put_inbox(2, expires_ms=100, first_offset=None))
    late = inbox_row(2, expires_ms=100, first_offset=None, messages=b"")
    assert database.read(ReadExpiredInbox(99, 10)) == ([], 100)
    assert database.read(ReadExpiredInbox(100, 10)) == ([late], 200)
    assert database.read(ReadExpiredInbox(500, 1)) == ([late], 200)
    answer = database.read(ReadExpiredInbox(500, 2))
    assert answer == ([late, inbox_row(1, expires_ms=200, messages=b"")], None)
