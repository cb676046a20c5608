"""What the daemon stands on: its disk, its directory, its socket, its clock. Looked at for the doctor; blocking."""

import ctypes
import grp
import os
import pwd
import stat
from pathlib import Path

import attrs

_TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock right."""

_TIMEX_BYTES = 256


@attrs.frozen(kw_only=True)
class Site:
    """Where the daemon keeps its things, and who is to use its socket."""

    state_dir: Path
    socket_path: Path
    socket_mode: int
    quota_bytes: int


HERE = Site(state_dir=Path(), socket_path=Path("meshd.sock"), socket_mode=0o660, quota_bytes=0)
"""The working directory, for a node that lives in no daemon."""


@attrs.frozen(kw_only=True)
class Premises:
    """What was found.

    Args:
        free_bytes, free_files: what the state directory's disk still takes; read_only: it takes nothing.
        open_to_others: paths of the state that other users can get at, with their modes.
        socket_group: its name; members: who is in it besides the daemon's own user.
        clock_kept: whether something (NTP) keeps the clock right; None when the kernel does not say.
    """

    state_dir: str
    free_bytes: int
    free_files: int
    read_only: bool
    quota_bytes: int
    open_to_others: tuple[tuple[str, int], ...]
    user: str
    socket_path: str
    socket_mode: int | None
    wanted_mode: int
    socket_group: str
    members: tuple[str, ...]
    clock_kept: bool | None


def look(site: Site) -> Premises:
    """Look at it. Raises OSError when the state directory is gone."""
    disk = os.statvfs(site.state_dir)
    modes = [
        (site.state_dir, _mode(site.state_dir), 0o007),
        (key := site.state_dir / "identity.key", _mode(key), 0o077),
    ]
    status = _status(site.socket_path)
    group = "" if status is None else _group(status.st_gid)
    return Premises(
        state_dir=str(site.state_dir),
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_files=disk.f_favail,
        read_only=bool(disk.f_flag & os.ST_RDONLY),
        quota_bytes=site.quota_bytes,
        open_to_others=tuple((str(path), mode) for path, mode, closed in modes if mode is not None and mode & closed),
        user=_user(os.geteuid()),
        socket_path=str(site.socket_path),
        socket_mode=None if status is None else stat.S_IMODE(status.st_mode),
        wanted_mode=site.socket_mode,
        socket_group=group,
        members=_members(group),
        clock_kept=_clock_kept(),
    )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _mode(path: Path) -> int | None:
    status = _status(path)
    return None if status is None else stat.S_IMODE(status.st_mode)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(group: str) -> tuple[str, ...]:
    try:
        return tuple(grp.getgrnam(group).gr_mem)
    except KeyError:
        return ()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _clock_kept() -> bool | None:
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zero: only asks
    state = int(ctypes.CDLL(None).adjtimex(timex))
    return None if state < 0 else state != _TIME_ERROR
