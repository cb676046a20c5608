"""Ops and rows with defaults, so that a test names only what it is about."""

from meshd.ids import BundleId, BundleRef, Epoch, NodeId, Number, Priority
from meshd.store.ops import InboxRow, PutInbox, PutSpool, SpoolRow

HERE = NodeId(b"h" * 16)
ANNA = NodeId(b"a" * 16)
BERT = NodeId(b"b" * 16)
EPOCH = Epoch(3, b"8 random")


def ref(number: int) -> BundleRef:
    return BundleRef(number.to_bytes(10, "big"))


def number(sequence: int) -> Number:
    return Number(EPOCH, sequence)


def spool_row(row: int, **changes: object) -> SpoolRow:
    fields: dict[str, object] = {
        "row": row,
        "ref": ref(row),
        "bundle": BundleId(b"i" * 20),
        "source": HERE,
        "destination": ANNA,
        "priority": Priority.NORMAL,
        "number": number(row),
        "head": b"head",
        "body": b"body %d" % row,
        "service": "notes",
        "messages": 2,
        "from_peer": None,
        "principal": "uid:1000",
        "hop_limit": 16,
        "copies": 1,
        "lifetime_ms": 60_000,
        "accepted_ms": 1_000 + row,
        "expires_ms": 61_000 + row,
        "size_bytes": 100,
    }
    return SpoolRow(**(fields | changes))  # type: ignore[arg-type]


def put_spool(row: int, **changes: object) -> PutSpool:
    return PutSpool(spool_row(row, **changes))


def inbox_row(row: int, **changes: object) -> InboxRow:
    fields: dict[str, object] = {
        "row": row,
        "service": "notes",
        "priority": Priority.NORMAL,
        "first_offset": row * 10,
        "count": 10,
        "ref": ref(row),
        "source": ANNA,
        "number": number(row),
        "prev": None,
        "late": False,
        "missing": None,
        "age_ms": 5,
        "arrived_ms": 1_000 + row,
        "expires_ms": 61_000 + row,
        "messages": b"messages %d" % row,
    }
    return InboxRow(**(fields | changes))  # type: ignore[arg-type]


def put_inbox(row: int, **changes: object) -> PutInbox:
    return PutInbox(inbox_row(row, **changes))
