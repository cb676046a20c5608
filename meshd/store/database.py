"""One SQLite file and the one connection to it. Everything here blocks: it belongs on a thread of its own.

WAL with ``synchronous=FULL``: what :meth:`Database.apply` reports as committed is on the disk.
"""

import errno
import os
from collections.abc import Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeAlias

import apsw
import attrs

from meshd.errors import MeshdError
from meshd.store import apply as operations
from meshd.store.ops import Committed, Op
from meshd.store.reads import Read, Snapshot
from meshd.store.reserve import DISK_FULL, Reserve, has_room
from meshd.store.schema import SMALL_TABLES, migrate

Batch: TypeAlias = tuple[int, Sequence[Op]]
"""A ticket and its ops: all of them are committed, or none."""

CHECKED_WHOLE_BYTES = 32 * 1024 * 1024
"""A file up to this size is checked as a whole at its opening (under a second on an SD card). In a
larger one the small tables are, and mail when it is read: SQLite notices damaged pages then."""

MAKE_ROOM = "Make room on that disk."
"""What to do where there is no space for the file itself: mail that leaves, or a larger quota, gives it none."""

_CACHE_KIB = 2048
_CHECKPOINT_PAGES = 1000
_LOG_KEPT_BYTES = 8 * 1024 * 1024
_PAGE_BYTES = 4096
_RELIEF_PAGES = 1024
"""Pages (4 MiB) by which the file may still grow on a full disk, for what lets mail leave."""
_SETTLED_BYTES = 64 * 1024  # SQLite's file layer takes less than 128 KiB at once
_NO_PAGE_LIMIT = 0xFFFFFFFE
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@attrs.frozen
class _Failure:
    """Why a transaction was rolled back: a code of the catalogue, and SQLite's words."""

    code: str
    reason: str


_CODES: MappingProxyType[type[apsw.Error], str] = MappingProxyType(
    {
        apsw.FullError: "E_FULL",
        apsw.IOError: "E_DATABASE",
        apsw.CorruptError: "E_DATABASE",
        apsw.NotADBError: "E_DATABASE",
        apsw.CantOpenError: "E_DATABASE",
        apsw.ReadOnlyError: "E_DATABASE",
        apsw.NoMemError: "E_DATABASE",
    }
)
"""What SQLite reports -> what the caller is told; anything else is our own defect, E_INTERNAL."""


def _failure(error: apsw.Error, connection: apsw.Connection) -> _Failure:
    code = _CODES.get(type(error), "E_INTERNAL")
    # SQLite has a word of its own for a full disk where it writes, not where it syncs.
    if isinstance(error, apsw.IOError) and connection.system_errno in DISK_FULL:
        code = "E_FULL"
    return _Failure(code, str(error))


class Database:
    """The open store. One thread at a time may use it; :meth:`open` may run on another than the rest."""

    def __init__(self, connection: apsw.Connection, reserve: Reserve | None) -> None:
        self._connection = connection
        self._reserve = reserve
        self._full_pages = int(connection.pragma("page_count"))
        """How large the file was when the disk became full; meaningful while the reserve isn't held."""
        self.spare_bytes = int(connection.pragma("freelist_count")) * _PAGE_BYTES
        """What the file has room for without the disk, as of the last commit. May be read from any thread."""
        self._broken: _Failure | None = None
        """Why the first chained batch failed that did; no later one is taken."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file, check it, and bring it to the newest format.

        Args:
            path: the file; its directory exists. The reserve and SQLite's log stand beside it.

        Raises:
            MeshdError: E_RUNNING (another process has it), E_STATE_DIR (can't be read or written),
                E_DATABASE (damaged; left as it is), E_NEWER_STATE, E_FULL (no space even to start).
        """
        reserve = Reserve(path.with_name(path.name + ".reserve"))
        try:
            # SQLite gives its log the mode of the file, so this decides for both.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = apsw.Connection(str(path))
        except (OSError, apsw.Error) as error:
            raise _opening_error(path, error) from error
        try:
            _prepare(connection, path)
            try:
                _settle_log(path)
            except apsw.FullError:  # what writes nothing in place (btrfs) takes room for this too
                reserve.discard()
                _settle_log(path)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            _check(connection, path)
            migrate(connection)
            reserve.hold()
            database = cls(connection, reserve)
        except BaseException as error:
            system_errno = connection.system_errno
            connection.close(True)
            if isinstance(error, apsw.Error | OSError):
                raise _opening_error(path, error, system_errno) from error
            raise
        return database

    @classmethod
    def in_memory(cls) -> Self:
        """A store that lives as long as this object: for simulations and tests."""
        connection = apsw.Connection(":memory:")
        migrate(connection)
        return cls(connection, None)

    def apply(self, batches: Sequence[Batch], clock_ms: int, chained: Set[int] = frozenset()) -> list[Committed]:
        """Commit all batches in one transaction; when that fails, each in its own, so that only the bad ones fail.

        Args:
            batches: tickets with their ops, in the order they were asked for.
            clock_ms: the mesh-local clock, stored with them.
            chained: tickets of batches that rest on each other. Once one has failed, all later ones fail with
                its error as long as this object lives: what they say is true only together with what is missing.

        Returns:
            One Committed for all tickets that are on disk, and one for each that is not.
        """
        if not batches:
            return []
        try:
            self._regain()
        except (OSError, apsw.Error) as error:
            return self.refuse([ticket for ticket, _ in batches], "E_DATABASE", str(error), chained)
        if self._broken is not None:
            return self._apply_each(batches, clock_ms, chained)
        failure = self._attempt(batches, clock_ms)
        if failure is None:
            return [Committed(tuple(ticket for ticket, _ in batches))]
        relieved = failure.code == "E_FULL" and self._give_way()
        if len(batches) == 1 and not relieved:
            return self.refuse([batches[0][0]], failure.code, failure.reason, chained)
        return self._apply_each(batches, clock_ms, chained)

    def _apply_each(self, batches: Sequence[Batch], clock_ms: int, chained: Set[int]) -> list[Committed]:
        done: list[int] = []
        failed: list[Committed] = []
        for batch in batches:
            failure = self._broken if batch[0] in chained else None
            failure = failure or self._attempt([batch], clock_ms)
            if failure is None:
                done.append(batch[0])
            else:
                failed += self.refuse([batch[0]], failure.code, failure.reason, chained)
        return ([Committed(tuple(done))] if done else []) + failed

    def refuse(self, tickets: Sequence[int], code: str, reason: str, chained: Set[int]) -> list[Committed]:
        """The batches of these tickets are not carried out; see :meth:`apply` for what follows for later ones."""
        if self._broken is None and not chained.isdisjoint(tickets):
            self._broken = _Failure(code, reason)
        return [Committed((ticket,), code, reason) for ticket in tickets]

    def _attempt(self, batches: Sequence[Batch], clock_ms: int) -> _Failure | None:
        """One transaction over all of ``batches``; None when it is on disk."""
        ops = [op for _, batch in batches for op in batch]
        connection = self._connection
        try:
            self._limit_growth(operations.grows(ops))
            cursor = connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            operations.apply(cursor, ops, clock_ms)
            spare_pages = int(cursor.execute("PRAGMA freelist_count").get)
            cursor.execute("COMMIT")
            self.spare_bytes = spare_pages * _PAGE_BYTES
        except apsw.Error as error:
            return _failure(error, connection)
        finally:
            # SQLite has rolled back by itself after some errors, not after others.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return None

    def read(self, ask: Read) -> object:
        """Answer a read (``reads`` names the types). Raises MeshdError E_DATABASE when the file can't be read."""
        try:
            return operations.answer(self._connection, ask)
        except apsw.Error as error:
            failure = _failure(error, self._connection)
            raise MeshdError(failure.code, f"The store can't be read: {failure.reason}.") from error

    def snapshot(self) -> Snapshot:
        """What the node needs to start. Raises MeshdError E_DATABASE."""
        try:
            return operations.take_snapshot(self._connection)
        except apsw.Error as error:
            failure = _failure(error, self._connection)
            raise MeshdError(failure.code, f"The store can't be read: {failure.reason}.") from error

    def close(self) -> None:
        """Move the log into the file and close. Nothing is lost when it can't be moved: the next start reads it."""
        self._connection.close()

    # A full disk. While the reserve is held, nothing is limited. When SQLite finds no space, the
    # reserve goes: from then on mail may only come in as far as the file has free pages, and what
    # lets mail leave may use the space that the reserve gave back. This ends when the reserve can
    # be held again.

    def _regain(self) -> None:
        if self._reserve is not None and not self._reserve.held and self._reserve.regain():
            self._connection.pragma("max_page_count", _NO_PAGE_LIMIT)

    def _give_way(self) -> bool:
        try:
            if self._reserve is None or not self._reserve.release():
                return False
            # The freed space goes to the file before the log can take it, and the log starts anew.
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (OSError, apsw.Error):
            return False  # others took the space at once, or the disk fails: the commit has failed anyway
        finally:
            self._full_pages = int(self._connection.pragma("page_count"))
        return True

    def _limit_growth(self, growing: bool) -> None:
        if self._reserve is None or self._reserve.held:
            return
        limit = self._full_pages + (0 if growing else _RELIEF_PAGES)
        self._connection.pragma("max_page_count", limit)


def _prepare(connection: apsw.Connection, path: Path) -> None:
    """Take the file for this process alone, and set what holds for the connection."""
    connection.set_busy_timeout(0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # until the log can be trusted
    connection.pragma("locking_mode", "exclusive")
    connection.pragma("page_size", _PAGE_BYTES)
    try:
        connection.pragma("journal_mode", "wal")
        connection.execute("BEGIN IMMEDIATE; COMMIT")
    except (apsw.BusyError, apsw.LockedError) as error:
        raise MeshdError("E_RUNNING", f"Another process uses {path}.") from error
    connection.pragma("synchronous", "full")
    connection.pragma("cache_size", -_CACHE_KIB)
    connection.pragma("cell_size_check", True)
    connection.pragma("temp_store", "memory")
    connection.pragma("wal_autocheckpoint", _CHECKPOINT_PAGES)
    connection.pragma("journal_size_limit", _LOG_KEPT_BYTES)


def _settle_log(path: Path) -> None:
    """Write anew what an earlier process left in the log, so that what is read from it is on the disk.

    After a sync that failed, the system may go on showing what never reached the disk, and no later sync tells. What
    is committed behind such a gap would be lost with the power, and pages moved from there to the file would not fit
    what the log then still holds. Raises apsw.Error; the file is not touched then.
    """
    log = path.with_name(path.name + "-wal")
    if not log.exists():
        return
    file = apsw.VFSFile("", str(log), [apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_WAL, 0])
    try:
        size = file.xFileSize()
        for start in range(0, size, _SETTLED_BYTES):
            file.xWrite(file.xRead(min(_SETTLED_BYTES, size - start), start), start)
        file.xSync(apsw.SQLITE_SYNC_FULL)
    finally:
        file.xClose()


def _check(connection: apsw.Connection, path: Path) -> None:
    """Raise MeshdError E_DATABASE when the file is damaged, as far as a start has the time to look."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    scopes = [f"({table})" for table in SMALL_TABLES if table in tables]
    if path.stat().st_size <= CHECKED_WHOLE_BYTES:
        scopes = ["(10)"]
    for scope in scopes:
        found = [text for (text,) in connection.execute(f"PRAGMA quick_check{scope}")]
        if found != ["ok"]:
            raise MeshdError("E_DATABASE", f"{path} is damaged: {found[0]}.")


def _opening_error(path: Path, error: apsw.Error | OSError, system_errno: int = 0) -> MeshdError:
    """What a start that failed is told: E_STATE_DIR is not tried again, because only a person can mend it."""
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return MeshdError("E_RUNNING", f"Another process uses {path}.")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return MeshdError("E_DATABASE", f"{path} is damaged: {error}.")
    number = error.errno if isinstance(error, OSError) else system_errno
    takes_none = isinstance(error, apsw.CantOpenError) and not has_room(path.parent)
    if isinstance(error, apsw.FullError) or number in DISK_FULL or takes_none:
        return MeshdError("E_FULL", f"There is no space left for {path}.", MAKE_ROOM)
    fails = isinstance(error, apsw.IOError | apsw.CantOpenError) and number not in _FORBIDDEN
    code = "E_DATABASE" if fails or number == errno.EIO else "E_STATE_DIR"
    return MeshdError(code, f"{path} can't be used: {_reason(error)}.")


def _reason(error: apsw.Error | OSError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
