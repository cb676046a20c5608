"""The daemon's Unix socket: made so that nobody sees it half ready, never stolen, never left behind."""

import contextlib
import fcntl
import grp
import os
import socket
import stat
import struct
from collections.abc import Iterator

import attrs
import trio

from meshd.errors import MeshdError

_PEER_CREDENTIALS = struct.Struct("iII")
"""pid, uid, gid (unix(7), SO_PEERCRED)."""

_BACKLOG = 128
_LONGEST_PATH_BYTES = 107 - 8
"""``sun_path`` (unix(7)), with room for the end of the temporary name."""


@attrs.frozen
class SocketSettings:
    """Where the socket is and who may use it.

    Args:
        group: name of the group that owns it; None for the process's own.
        mode: permission bits.
    """

    path: str
    group: str | None = None
    mode: int = 0o660


@contextlib.contextmanager
def unix_listener(settings: SocketSettings) -> Iterator[trio.SocketListener]:
    """Listen on the socket for as long as the context; then remove it, unless somebody replaced it.

    Raises MeshdError: ``E_RUNNING`` when a daemon answers there, ``E_RUNTIME_DIR`` when the directory
    or the path can't be used, ``E_CONFIG`` for a group that doesn't exist or may not be given.
    """
    path = settings.path
    try:
        with _claimed(os.path.dirname(path) or "."):
            _require_free(path)
            listening, identity = _bind(settings)
    except OSError as error:
        raise MeshdError("E_RUNTIME_DIR", f"The socket {path} can't be made: {error.strerror or error}.") from error
    try:
        with listening:
            yield trio.SocketListener(listening)
    finally:
        with contextlib.suppress(FileNotFoundError):
            if _identity(path) == identity:
                os.unlink(path)


def peer_uid(stream: trio.SocketStream) -> int:
    """The user id of the process that connected, as the kernel noted it then."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(raw)
    return int(uid)


@contextlib.contextmanager
def _claimed(directory: str) -> Iterator[None]:
    """Hold the directory's lock, so that two daemons can't both find the socket stale and replace it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise MeshdError("E_RUNNING", f"Another meshd is starting in {directory} right now.") from error
    finally:
        os.close(descriptor)


def _require_free(path: str) -> None:
    if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
        raise MeshdError("E_RUNTIME_DIR", f"The socket's path is over {_LONGEST_PATH_BYTES} bytes: {path}")
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise MeshdError("E_RUNTIME_DIR", f"{path} is there, and is no socket.", "Move it away.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # left behind by a process that is gone; the rename replaces it
        except BlockingIOError:
            pass  # it listens, and its queue of connections is full
    raise MeshdError("E_RUNNING", f"A daemon already answers on {path}.", "Use that one, or another --runtime-dir.")


def _bind(settings: SocketSettings) -> tuple[trio.socket.SocketType, tuple[int, int]]:
    # Mode and group are right before the socket has its name, and it listens before it does.
    temporary = f"{settings.path}.{os.getpid() % 10**7}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.bind(temporary)
        undo.callback(_remove, temporary)
        os.chmod(temporary, settings.mode)
        if settings.group is not None:
            _give(temporary, settings.group)
        bound.listen(_BACKLOG)
        identity = _identity(temporary)
        os.rename(temporary, settings.path)
        undo.pop_all()
    return trio.socket.from_stdlib_socket(bound), identity


def _give(path: str, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError as error:
        raise MeshdError(
            "E_CONFIG", f"api.group: there is no group {group!r}.", f"Make it, or name another: sudo groupadd {group}"
        ) from error
    except PermissionError as error:
        raise MeshdError(
            "E_CONFIG", f"api.group: this user may not give the socket to group {group!r}.", "Name a group it is in."
        ) from error


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path, follow_symlinks=False)
    return status.st_dev, status.st_ino
