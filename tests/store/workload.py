"""What a node does to its store in its life, at random; and everything a store can be asked."""

import random
from collections.abc import Sequence

from meshd.ids import Priority
from meshd.store.database import Database
from meshd.store.ops import (
    AddJournal,
    DeleteFact,
    DeleteInbox,
    DeleteSpool,
    FinishSpool,
    JournalEntry,
    Op,
    Purge,
    PutFact,
    PutKey,
    ReleaseInbox,
    SealSpool,
    SetCopies,
)
from meshd.store.reads import ReadExpired, ReadExpiredInbox, ReadHeld, ReadInbox, ReadKey, ReadSpool, ReadTrace
from tests.store.builders import ANNA, BERT, HERE, number, put_inbox, put_spool, ref

NODES = (ANNA, BERT)
PRIORITIES = (Priority.HIGH, Priority.NORMAL)
SERVICES = ("notes", "other")
TRACED = 110
"""Rows around the newest ones whose traces belong to a view: what failed may have left some far behind."""


def transactions(rng: random.Random, first: int, count: int, body_bytes: int = 9_000) -> list[list[Op]]:
    """The ops of ``count`` transactions, which take rows from ``first`` on; every kind comes in each 8."""
    return [_transaction(rng, kind % 8, first + 4 * kind, body_bytes) for kind in range(count)]


def _transaction(rng: random.Random, kind: int, row: int, body_bytes: int) -> list[Op]:
    node, priority = rng.choice(NODES), rng.choice(PRIORITIES)
    body = rng.randbytes(rng.choice((10, 1_000, body_bytes)))
    old = tuple(rng.sample(range(max(1, row - 40), row), min(3, row - 1)))
    note = AddJournal((JournalEntry(ref(row), row, "event", None, "x" * 20),))
    mark = PutFact("arrivals", b"%d" % rng.randrange(4), rng.randbytes(30))
    match kind:
        case 0:  # an app's mail, with its key
            fresh = [put_spool(row + n, destination=node, priority=priority, body=body) for n in range(3)]
            return [*fresh, PutKey("uid:1000", f"key {row % 5}", b"%d" % row, row + 100), note]
        case 1:  # mail arrives, one bundle out of order
            held = put_inbox(row + 1, first_offset=None, prev=number(row), service="other")
            return [put_inbox(row, priority=priority, source=node, messages=body), held, mark]
        case 2:  # somebody else's mail
            return [put_spool(row, from_peer=node, source=BERT, copies=4, body=body), mark, note]
        case 3:
            seals = [SealSpool(each, put_spool(each).row.bundle or ref(1), b"head", body) for each in old]  # type: ignore[arg-type]
            return [*seals, *(SetCopies(each, 2) for each in old)]
        case 4:  # receipts
            return [FinishSpool(old, rng.choice(("delivered", "consumed")), None, row + 50), note, mark]
        case 5:
            return [*(ReleaseInbox(each, each * 10, None, late=True) for each in old), DeleteFact("arrivals", b"0")]
        case 6:  # acks, and what apps have read
            return [DeleteSpool(old[:2]), DeleteInbox(old), note]
        case _:
            return [Purge(row, row - 60, 20), PutFact("card", node, rng.randbytes(rng.choice((50, 5_000))))]


def view(database: Database) -> tuple[object, ...]:
    """The answers to everything: two stores with the same view hold the same."""
    snapshot = database.snapshot()
    last = max(snapshot.next_spool_row, snapshot.next_inbox_row)
    limits = {"after": 0, "max_rows": 10_000, "max_bytes": 10**9}
    answers: list[object] = [snapshot]
    for priority in PRIORITIES:
        for node in NODES:
            answers += [database.read(ReadSpool(node, priority, own=own, **limits)) for own in (True, False)]
            answers.append(database.read(ReadHeld(BERT, node, priority, 0, 10_000, carried=False)))
            answers.append(database.read(ReadHeld(HERE, node, priority, 0, 10_000, carried=True)))
        answers += [database.read(ReadInbox(service, priority, 0, 10_000, 10**9)) for service in SERVICES]
    answers.append(database.read(ReadExpired(10**9, 10_000)))
    answers.append(database.read(ReadExpiredInbox(10**9, 10_000)))
    answers += [database.read(ReadKey("uid:1000", f"key {each}")) for each in range(5)]
    answers += [
        database.read(ReadTrace(ref(row))) for row in range(max(1, last - TRACED) // 4 * 4 + 1, last + TRACED, 4)
    ]
    return tuple(answers)


def model(groups: Sequence[tuple[Sequence[Op], int]]) -> Database:
    """A store in memory that has seen these transactions, each with its clock."""
    database = Database.in_memory()
    for ops, clock_ms in groups:
        [committed] = database.apply([(0, ops)], clock_ms)
        assert committed.error is None
    return database
