"""Disk space kept back, so that mail can still leave when the disk is full."""

import errno
import os
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024
"""Holds the write-ahead log at its longest (database.py), with room for what lets mail leave."""

REGAIN_BYTES = 24 * 1024 * 1024
"""Free on a disk that was full when the reserve is taken again. Mail is taken from there on too, and has to find room:
until then the file may not grow. With less the disk would only be full again at once."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when it has no more space for a file."""


def has_room(directory: Path) -> bool:
    """Whether the disk there can take another file at all. Some file systems don't count files: they say 0 of 0."""
    disk = os.statvfs(directory)
    return disk.f_bavail > 0 and (disk.f_favail > 0 or disk.f_files == 0)


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
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
                self.held = True
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self._path.unlink(missing_ok=True)
        return self.held

    def regain(self) -> bool:
        """Take the space again once the disk has enough."""
        if self.held:
            return True
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize >= REGAIN_BYTES and self.hold()

    def release(self) -> bool:
        """Give the space back to the disk; False when it was not held."""
        if not self.held:
            return False
        self.discard()
        return True

    def discard(self) -> None:
        """Give back what this process, or an earlier one, has held."""
        self._path.unlink(missing_ok=True)
        self.held = False
