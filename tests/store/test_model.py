"""Any sequence of ops leaves the store and a plain dict in agreement, as one transaction or as many."""

from collections import Counter

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.ids import NodeId, Priority
from meshd.store.database import Database
from meshd.store.ops import (
    DeleteInbox,
    DeleteSpool,
    FinishSpool,
    InboxRow,
    Op,
    PutInbox,
    PutSpool,
    ReleaseInbox,
    SpoolRow,
)
from meshd.store.reads import ReadInbox, ReadSpool
from tests.store.builders import ANNA, BERT, number, put_inbox, put_spool

NODES = (ANNA, BERT)
SERVICES = ("notes", "other")
ROWS = 12

rows = st.integers(1, ROWS)
row_sets = st.lists(rows, max_size=4).map(tuple)
priorities = st.sampled_from((Priority.HIGH, Priority.NORMAL))


@attrs.define
class Model:
    """What the store should hold."""

    spool: dict[int, SpoolRow] = attrs.field(factory=dict)
    finished: set[int] = attrs.field(factory=set)
    inbox: dict[int, InboxRow] = attrs.field(factory=dict)

    def allows(self, op: Op) -> bool:
        """A taken row number is a defect of the caller, and offsets are the row's own here."""
        match op:
            case PutSpool(row):
                return row.row not in self.spool and row.row not in self.finished
            case PutInbox(row):
                return row.row not in self.inbox
        return True

    def apply(self, op: Op) -> None:
        match op:
            case PutSpool(row):
                self.spool[row.row] = row
            case FinishSpool(numbers):
                self.finished |= {row for row in numbers if self.spool.pop(row, None)}
            case DeleteSpool(numbers):
                for row in numbers:
                    self.spool.pop(row, None)
                    self.finished.discard(row)
            case PutInbox(row):
                self.inbox[row.row] = row
            case ReleaseInbox(row, first_offset, missing, late):
                if row in self.inbox and self.inbox[row].first_offset is None:
                    changes = {"first_offset": first_offset, "missing": missing, "late": late, "prev": None}
                    self.inbox[row] = attrs.evolve(self.inbox[row], **changes)
            case DeleteInbox(numbers):
                for row in numbers:
                    self.inbox.pop(row, None)


@st.composite
def ops(draw: st.DrawFn) -> Op:
    row = draw(rows)
    match draw(st.integers(0, 5)):
        case 0:
            origin = draw(st.sampled_from((None, *NODES)))
            size, messages = draw(st.integers(0, 50)), draw(st.integers(1, 9))
            destination, priority = draw(st.sampled_from(NODES)), draw(priorities)
            return put_spool(
                row,
                from_peer=origin,
                size_bytes=size,
                messages=messages,
                destination=destination,
                priority=priority,
            )
        case 1:
            return FinishSpool(draw(row_sets), draw(st.sampled_from(("delivered", "consumed"))), None, 10**6)
        case 2:
            return DeleteSpool(draw(row_sets))
        case 3:
            held = draw(st.booleans())
            return put_inbox(
                row,
                service=draw(st.sampled_from(SERVICES)),
                source=draw(st.sampled_from(NODES)),
                priority=draw(priorities),
                first_offset=None if held else row * 10,
                prev=number(99) if held else None,
                messages=draw(st.binary(max_size=20)),
            )
        case 4:
            return ReleaseInbox(row, row * 10, draw(st.sampled_from((None, b"gap"))), draw(st.booleans()))
        case _:
            return DeleteInbox(draw(row_sets))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ops(), max_size=12), max_size=8))
def test_the_store_agrees_with_a_dict(groups: list[list[Op]]) -> None:
    database = Database.in_memory()
    model = Model()
    for ticket, group in enumerate(groups):
        allowed: list[Op] = []
        for op in group:
            if model.allows(op):
                allowed.append(op)
                model.apply(op)
        (outcome,) = database.apply([(ticket, allowed)], ticket)
        assert outcome.error is None
    agree(database, model)
    database.close()


def size_of(rows: list[InboxRow]) -> int:
    return sum(len(row.messages) for row in rows)


def agree(database: Database, model: Model) -> None:
    snapshot = database.snapshot()

    backlog: Counter[tuple[NodeId, Priority, bool]] = Counter()
    for row in model.spool.values():
        backlog[row.destination, row.priority, row.from_peer is None] += (
            row.size_bytes * 1_000_000 + row.messages * 1_000 + 1
        )
    found = {
        (each.destination, each.priority, each.own): each.bytes * 1_000_000 + each.messages * 1_000 + each.rows
        for each in snapshot.backlogs
    }
    assert found == dict(backlog)
    for each in snapshot.backlogs:
        waiting = [
            row
            for _, row in sorted(model.spool.items())
            if (row.destination, row.priority) == (each.destination, each.priority)
        ]
        of_a_kind = [row for row in waiting if (row.from_peer is None) == each.own]
        ask = ReadSpool(each.destination, each.priority, 0, 100, 10**6, own=each.own)
        assert database.read(ask) == of_a_kind
        assert each.oldest_accepted_ms == waiting[0].accepted_ms

    for service in SERVICES:
        for priority in (Priority.HIGH, Priority.NORMAL):
            released = sorted(
                (
                    row
                    for row in model.inbox.values()
                    if (row.service, row.priority) == (service, priority) and row.first_offset is not None
                ),
                key=lambda row: row.row,
            )
            assert database.read(ReadInbox(service, priority, 0, 100, 10**6)) == released
            boxes = [box for box in snapshot.mailboxes if (box.service, box.priority) == (service, priority)]
            last = max((row.first_offset or 0 for row in released), default=0) + 9
            expected = [(last, 10 * len(released), size_of(released))] if released else []
            assert [(box.last_offset, box.messages, box.bytes) for box in boxes] == expected

    held = [row for _, row in sorted(model.inbox.items()) if row.first_offset is None]
    assert snapshot.held == tuple(attrs.evolve(row, messages=b"") for row in held)
    usage: Counter[NodeId] = Counter()
    for arrived in model.inbox.values():
        usage[arrived.source] += len(arrived.messages)
    assert snapshot.inbox_usage == {node: usage[node] for node in {row.source for row in model.inbox.values()}}
