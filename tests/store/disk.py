"""A disk that misbehaves: counts what SQLite does to files, fails the k-th operation, and records all for a power cut.

It stands between SQLite and its own VFS for this system, in C's terms: table entries are replaced by functions that
count, record, fail, or go on to the real ones. So ``Database`` runs as it always does, with its real locks, log and
syncs, and SQLite gets plain result codes. (A VFS written with apsw raises exceptions instead, which come out even where
SQLite goes on after an error, as it does when a checkpoint at the end of a commit fails.) Log and index need no shared
memory here, because the store is locked for one process.
"""

import contextlib
import ctypes
import enum
import errno
import functools
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import attrs

_int, _long, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
_function = functools.partial(ctypes.CFUNCTYPE, _int, _pointer, use_errno=True)
_OPEN = _function(_pointer, _pointer, _int, _pointer)
_DELETE = _function(_pointer, _int)
_ACCESS = _function(_pointer, _int, _pointer)
_MOVE = _function(_pointer, _int, _long)
_TRUNCATE = _function(_long)
_SYNC = _function(_int)
_SIZE = _function(_pointer)


class _Vfs(ctypes.Structure):
    """The beginning of sqlite3_vfs."""

    _fields_ = (
        *((name, _int) for name in ("version", "file_bytes", "name_max")),
        *((name, _pointer) for name in ("next", "name", "data", "xOpen", "xDelete", "xAccess")),
    )


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("version", _int),
        *((name, _pointer) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize")),
        *((f"other{number}", _pointer) for number in range(12)),
    )


class Op(enum.Enum):
    """What is done to a file. The last two are never counted or failed, only recorded."""

    OPEN = enum.auto()
    ACCESS = enum.auto()
    READ = enum.auto()
    SIZE = enum.auto()
    WRITE = enum.auto()
    TRUNCATE = enum.auto()
    SYNC = enum.auto()
    DELETE = enum.auto()
    SYNC_FAILED = enum.auto()
    SYNC_NAMES = enum.auto()


class Fault(enum.Enum):
    """How an operation fails."""

    EIO = enum.auto()
    TORN = enum.auto()
    """As EIO, but a write has written its first half."""
    FULL = enum.auto()
    """ENOSPC, after the first half of a write."""
    UNSYNCED = enum.auto()
    """EIO of syncs alone: what was written is read again until the power is cut, and may be lost then."""


_EIO = {
    Op.OPEN: apsw.SQLITE_CANTOPEN,
    Op.ACCESS: apsw.SQLITE_IOERR_ACCESS,
    Op.READ: apsw.SQLITE_IOERR_READ,
    Op.SIZE: apsw.SQLITE_IOERR_FSTAT,
    Op.WRITE: apsw.SQLITE_IOERR_WRITE,
    Op.TRUNCATE: apsw.SQLITE_IOERR_TRUNCATE,
    Op.SYNC: apsw.SQLITE_IOERR_FSYNC,
    Op.DELETE: apsw.SQLITE_IOERR_DELETE,
}
CODES = {
    Fault.EIO: _EIO,
    Fault.TORN: {Op.WRITE: apsw.SQLITE_IOERR_WRITE},
    Fault.FULL: {Op.OPEN: apsw.SQLITE_CANTOPEN, Op.WRITE: apsw.SQLITE_FULL, Op.SYNC: apsw.SQLITE_IOERR_FSYNC},
    Fault.UNSYNCED: {Op.SYNC: apsw.SQLITE_IOERR_FSYNC},
}
"""Which operations a fault can meet, and what SQLite's own VFS answers then."""


@attrs.frozen
class Step:
    """One change of a file. ``data``: what was written; ``number``: where, or the size after a truncation."""

    op: Op
    name: str
    number: int = 0
    data: bytes = b""


@attrs.define(eq=False)
class Disk:
    """What happened in ``directory``, and what is to happen.

    Args:
        steps: all changes so far.
        done: how many operations the fault could have met so far.
        fail_at: the operation that meets it, counted from 1; 0: none does.
        lasting: all later ones meet it too.
        failed: how many have met it.
    """

    directory: Path
    steps: list[Step] = attrs.field(factory=list)
    fault: Fault = Fault.EIO
    fail_at: int = 0
    lasting: bool = False
    done: int = 0
    failed: int = 0
    _names: dict[int, str] = attrs.field(factory=dict)
    _unsynced_names: set[str] = attrs.field(factory=set)
    _methods: dict[int, _Methods] = attrs.field(factory=dict)
    _kept: list[Any] = attrs.field(factory=list)

    def heal(self) -> None:
        """From now on nothing fails."""
        self.fail_at = 0

    def _met(self, op: Op) -> int:
        """The code to fail with, or 0."""
        code = CODES[self.fault].get(op, 0)
        if not code:
            return 0
        self.done += 1
        if not self.fail_at or self.done < self.fail_at or (self.done > self.fail_at and not self.lasting):
            return 0
        self.failed += 1
        ctypes.set_errno(errno.ENOSPC if self.fault is Fault.FULL else errno.EIO)
        return code

    def _name(self, raw: int | None) -> str | None:
        path = Path(os.fsdecode(ctypes.string_at(raw))) if raw else None
        return path.name if path is not None and path.parent == self.directory else None

    def install(self, vfs: _Vfs) -> None:
        """Replace the entries of SQLite's VFS."""
        opening, deleting, looking = _OPEN(vfs.xOpen), _DELETE(vfs.xDelete), _ACCESS(vfs.xAccess)

        def open_(self_: int, path: int, file: int, flags: int, out: int) -> int:
            name = self._name(path)
            if name is None:
                return opening(self_, path, file, flags, out)
            is_new = not (self.directory / name).exists()
            if code := self._met(Op.OPEN):
                _pointer.from_address(file).value = None
                return code
            code = opening(self_, path, file, flags, out)
            if code == apsw.SQLITE_OK:
                self._names[file] = name
                self._replace(_pointer.from_address(file))
                if is_new:
                    self.steps.append(Step(Op.OPEN, name))
                    self._unsynced_names.add(name)
            return code

        def delete(self_: int, path: int, sync: int) -> int:
            name = self._name(path)
            if name is None:
                return deleting(self_, path, sync)
            if code := self._met(Op.DELETE):
                return code
            code = deleting(self_, path, sync)
            if code == apsw.SQLITE_OK:
                self.steps.append(Step(Op.DELETE, name))
                if sync:
                    self.steps.append(Step(Op.SYNC_NAMES, name))
            return code

        def access(self_: int, path: int, flags: int, out: int) -> int:
            return (self._name(path) and self._met(Op.ACCESS)) or looking(self_, path, flags, out)

        vfs.xOpen, vfs.xDelete, vfs.xAccess = (
            self._keep(_OPEN(open_)),
            self._keep(_DELETE(delete)),
            self._keep(_ACCESS(access)),
        )

    def _keep(self, function: Any) -> int | None:
        self._kept.append(function)
        return ctypes.cast(function, _pointer).value

    def _replace(self, entry: ctypes.c_void_p) -> None:
        """Give an open file methods of ours."""
        assert entry.value is not None
        if entry.value not in self._methods:
            self._methods[entry.value] = self._wrapped(_Methods.from_address(entry.value))
        entry.value = ctypes.addressof(self._methods[entry.value])

    def _wrapped(self, real: _Methods) -> _Methods:
        reading, writing = _MOVE(real.xRead), _MOVE(real.xWrite)
        truncating, sizing = _TRUNCATE(real.xTruncate), _SIZE(real.xFileSize)

        def read(file: int, data: int, size: int, offset: int) -> int:
            return self._met(Op.READ) or reading(file, data, size, offset)

        def write(file: int, data: int, size: int, offset: int) -> int:
            failure = self._met(Op.WRITE)
            written = size // 2 if failure and self.fault is not Fault.EIO else 0 if failure else size
            if written:
                self.steps.append(Step(Op.WRITE, self._names[file], offset, ctypes.string_at(data, written)))
            return (writing(file, data, written, offset) if written else 0) or failure

        def truncate(file: int, size: int) -> int:
            if code := self._met(Op.TRUNCATE):
                return code
            self.steps.append(Step(Op.TRUNCATE, self._names[file], size))
            return truncating(file, size)

        def sync(file: int, flags: int) -> int:
            name = self._names[file]
            if code := self._met(Op.SYNC):
                self.steps.append(Step(Op.SYNC_FAILED, name))
                return code
            self.steps.append(Step(Op.SYNC, name))
            if name in self._unsynced_names:  # SQLite's VFS syncs the directory at the first sync of a new file
                self._unsynced_names.remove(name)
                self.steps.append(Step(Op.SYNC_NAMES, name))
            return apsw.SQLITE_OK  # no real power is cut, and thousands of real syncs would take minutes

        def size_of(file: int, out: int) -> int:
            return self._met(Op.SIZE) or sizing(file, out)

        ours = _Methods.from_buffer_copy(real)
        ours.xRead, ours.xWrite = self._keep(_MOVE(read)), self._keep(_MOVE(write))
        ours.xTruncate, ours.xSync = self._keep(_TRUNCATE(truncate)), self._keep(_SYNC(sync))
        ours.xFileSize = self._keep(_SIZE(size_of))
        return ours


_LATEST: deque[Disk] = deque(maxlen=50)
"""A file that a failed test left open would call what is gone; it is closed soon after."""


def _real_vfs() -> _Vfs:
    found = _pointer()
    with contextlib.closing(apsw.Connection(":memory:")) as connection:
        assert connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(found))
    assert found.value is not None
    return _Vfs.from_address(found.value)


@contextlib.contextmanager
def watched(directory: Path, *, fault: Fault = Fault.EIO, fail_at: int = 0, lasting: bool = False) -> Iterator[Disk]:
    """What SQLite does to files in ``directory`` goes through a Disk until the block ends; close all files before."""
    disk = Disk(directory, fault=fault, fail_at=fail_at, lasting=lasting)
    _LATEST.append(disk)
    vfs = _real_vfs()
    before = vfs.xOpen, vfs.xDelete, vfs.xAccess
    disk.install(vfs)
    try:
        yield disk
    finally:
        vfs.xOpen, vfs.xDelete, vfs.xAccess = before
