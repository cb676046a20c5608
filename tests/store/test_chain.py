"""Commits that rest on each other: once one has failed, none that came after it may be carried out."""

from meshd.store.database import Database
from meshd.store.ops import Committed, Op, PutFact, PutInbox
from meshd.store.requests import Requests, carry_out, split
from tests.store.builders import inbox_row


def fact(value: bytes) -> Op:
    return PutFact("arrivals", b"flow", value)


def stored(database: Database) -> bytes | None:
    return database.snapshot().facts.get("arrivals", {}).get(b"flow")


def failing(database: Database) -> Op:
    """An op that fails: its row is there already."""
    database.apply([(0, [PutInbox(inbox_row(1))])], 0)
    return PutInbox(inbox_row(1))


def test_what_rests_on_a_failed_commit_fails_too() -> None:
    database = Database.in_memory()
    batches = [(1, [fact(b"before")]), (2, [failing(database), fact(b"with")]), (3, [fact(b"after")])]
    events = database.apply(batches, 0, frozenset((1, 2, 3)))
    assert events[0] == Committed((1,))
    assert [event.tickets for event in events[1:]] == [(2,), (3,)]
    assert all(event.error is not None for event in events[1:])
    assert stored(database) == b"before"


def test_it_fails_in_later_transactions_and_nothing_else_does() -> None:
    database = Database.in_memory()
    [failed] = database.apply([(1, [failing(database)])], 0, frozenset((1,)))
    assert failed.error is not None
    assert database.apply([(2, [fact(b"after")])], 0, frozenset((2,)))[0].error == failed.error
    assert database.apply([(3, [fact(b"apart")])], 0) == [Committed((3,))]
    assert stored(database) == b"apart"


def test_a_failed_commit_outside_the_chain_does_not_break_it() -> None:
    database = Database.in_memory()
    events = database.apply([(1, [failing(database)]), (2, [fact(b"after")])], 0, frozenset((2,)))
    assert Committed((2,)) in events
    assert stored(database) == b"after"


def test_requests_say_what_is_chained() -> None:
    database = Database.in_memory()
    requests = Requests(lambda: 0)
    requests.commit_nowait(1, [failing(database)], chained=True)
    requests.commit_nowait(2, [fact(b"after")], chained=True)
    requests.commit_nowait(3, [PutFact("card", b"", b"apart")])
    events = [event for run in split(requests.take_nowait().requests) for event in carry_out(database, run, 0)]
    assert {event.tickets: event.error is None for event in events if isinstance(event, Committed)} == {
        (1,): False,
        (2,): False,
        (3,): True,
    }
    assert stored(database) is None
