"""Where the daemon's socket is, and what to say when there is none or it is not for us."""

import grp
import os
import pwd
import socket
import stat
import time
from collections.abc import Mapping

from meshd.errors import MeshdError

SYSTEM_SOCKET = "/run/meshd/meshd.sock"
_START = "Start the daemon with: systemctl start meshd, or: meshd"


def candidates(explicit: str | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The sockets to try, in order. One that was named, by argument or ``MESHD_SOCKET``, is the only one."""
    named = explicit or environ.get("MESHD_SOCKET")
    if named:
        return (named,)
    runtime = environ.get("XDG_RUNTIME_DIR")
    return (os.path.join(runtime, "meshd", "meshd.sock"), SYSTEM_SOCKET) if runtime else (SYSTEM_SOCKET,)


def find_socket(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """The path of the first socket that a daemon answers on.

    Raises MeshdError: ``E_NO_DAEMON`` naming what was tried, ``E_PERMISSION`` with what to do, ``E_BUSY``.
    """
    with open_socket(explicit, environ) as found:
        path: str = found.getpeername()
    return path


def open_socket(
    explicit: str | None = None, environ: Mapping[str, str] = os.environ, timeout: float | None = None
) -> socket.socket:
    """Connect to the first socket that a daemon answers on. Raises as :func:`find_socket` does."""
    tried = candidates(explicit, environ)
    errors = []
    for path in tried:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            errors.append(error)
        else:
            return connection
    raise explain(tried, errors)


def deadline_after(timeout: float | None) -> float | None:
    """When ``timeout`` seconds from now are over."""
    return None if timeout is None else time.monotonic() + timeout


def remaining_s(deadline: float | None) -> float | None:
    """What to give a socket to wait; 0, which takes what is there already, once the deadline is over."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def explain(tried: tuple[str, ...], errors: list[OSError]) -> MeshdError:
    """The error for a person, when no socket of ``tried`` could be connected to."""
    for path, error in zip(tried, errors, strict=True):
        if isinstance(error, PermissionError):
            return MeshdError("E_PERMISSION", f"You may not use the socket {path}.", _permission_advice(path))
        if isinstance(error, BlockingIOError):  # unix(7): its queue of connections is full
            return MeshdError("E_BUSY", f"More programs than meshd takes at a time connect to {path}.")
    reasons = ", ".join(f"{path} ({_reason(path, error)})" for path, error in zip(tried, errors, strict=True))
    return MeshdError("E_NO_DAEMON", f"No meshd answers. Tried: {reasons}.", _START)


def _reason(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "not there"
    if isinstance(error, ConnectionRefusedError):
        # The kernel says the same of a file and of a directory.
        is_other = os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode)
        return "no socket" if is_other else "left behind by a daemon that is gone"
    return error.strerror or str(error)


def _permission_advice(path: str) -> str:
    """Whose group to join: the socket's, or that of the directory in the way."""
    for place in (path, os.path.dirname(path)):
        try:
            status = os.stat(place)
        except OSError:  # a directory above it is closed to us
            continue
        if status.st_mode & stat.S_IRGRP and status.st_gid != 0:
            group = _name_of_group(status.st_gid)
            return f"Join its group, then log in again: sudo usermod -aG {group} $USER"
        return f"Run this as the daemon's user: sudo -u {_name_of_user(status.st_uid)} ..."
    return "Join the daemon's group, or run as its user."


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
