"""Disk space kept back, so that mail can still leave when the disk is full."""

import errno
import os
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024
"""Holds the write-ahead log at its longest (database.py), with room for what lets mail leave."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Reserve:
    """A file of real blocks beside the database, deleted when the disk is full and made again later.

    Args:
        path: where the file is.
        size_bytes: how large.
    """

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self.held = False

    def hold(self) -> bool:
        """Take the space, if it isn't held; False when the disk doesn't have it. Raises OSError for anything else."""
        if self.held:
            return True
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
            self.held = True
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            self._path.unlink()
        finally:
            os.close(descriptor)
        return self.held

    def regain(self) -> bool:
        """Take the space again once the disk has it twice: less would only be full again at once."""
        if self.held:
            return True
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize >= 2 * self._size_bytes and self.hold()

    def release(self) -> bool:
        """Give the space back to the disk; False when it was not held."""
        if not self.held:
            return False
        self._path.unlink(missing_ok=True)
        self.held = False
        return True
