"""Many rows in few statements.

Each SQLite step gives the interpreter lock away and has to win it back, which takes up to a switch
interval while the event loop computes. So rows are inserted in statements of many rows each, and
row numbers are passed as one array.
"""

import array
import functools
import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import apsw

from meshd.ids import Epoch, Number

Value: TypeAlias = int | str | bytes | None
"""What a column holds."""

_ROWS_PER_STATEMENT = (64, 16, 4, 1)
"""A few fixed sizes, so that every statement stays in the statement cache."""

_BYTES_PER_STATEMENT = 1024 * 1024
"""SQLite copies what is bound: this bounds the copy."""

_NUMBER = struct.Struct(">Q8sQ")


@functools.cache
def _statement(insert: str, columns: int, rows: int, suffix: str) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"{insert} VALUES {','.join([row] * rows)} {suffix}"


def insert(cursor: apsw.Cursor, statement: str, rows: Sequence[tuple[Value, ...]], suffix: str = "") -> None:
    """Run ``statement`` (up to its VALUES) over ``rows``; the last column may be bulky."""
    if not rows:
        return
    columns = len(rows[0])
    bulk = max(len(last) if isinstance(last := row[-1], bytes) else 0 for row in rows)
    most = max(1, _BYTES_PER_STATEMENT // max(1, bulk))
    start = 0
    for size in _ROWS_PER_STATEMENT:
        if size > most:
            continue
        sql = _statement(statement, columns, size, suffix)
        while len(rows) - start >= size:
            cursor.execute(sql, [value for row in rows[start : start + size] for value in row])
            start += size


def numbers(rows: Iterable[int]) -> "apsw.CArrayBinding | None":
    """Row numbers for ``IN carray(?)``; None when there are none, since an empty array can't be bound."""
    values = array.array("q", rows)
    return apsw.carray(values) if values else None


def pack_number(number: Number) -> bytes:
    """A bundle's number as 24 bytes."""
    return _NUMBER.pack(number.epoch.counter, number.epoch.random, number.sequence)


def unpack_number(raw: bytes) -> Number:
    """Inverse of :func:`pack_number`."""
    counter, random, sequence = _NUMBER.unpack(raw)
    return Number(Epoch(counter, random), sequence)
