"""systemd's journal as a place for log lines: an entry with fields, over its native protocol.

As specified in "Native Journal Protocol" of systemd's documentation: a datagram of ``NAME=value`` lines, values with
line breaks with their length in front, and what no datagram holds in a sealed memory file.
"""

import array
import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

SOCKET_PATH = "/run/systemd/journal/socket"
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""syslog(3), by the level of a line."""

_STDERR = 2
_LENGTH = struct.Struct("<Q")
_NAME_CHARACTERS = 64
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9_]")
_UNSAID = frozenset(("event", "level", "timestamp"))
_TOO_LONG = frozenset((errno.EMSGSIZE, errno.ENOBUFS))
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_journal(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether what is written to the descriptor goes to the journal: ``JOURNAL_STREAM`` of systemd.exec(5)."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def entry(event: Mapping[str, Any], program: str) -> dict[str, str]:
    """A line's fields as the journal has them: a MESSAGE for people, and ``MESHD_*`` for whoever searches."""
    told = {name: _text(value) for name, value in event.items() if name not in _UNSAID and value is not None}
    details = " ".join(f"{name}={value}" for name, value in told.items() if name not in ("component", "exception"))
    trace = f"\n{told['exception']}" if "exception" in told else ""
    return {
        "MESSAGE": f"{event['event']} {details}".rstrip() + trace,
        "PRIORITY": str(PRIORITIES[event["level"]]),
        "SYSLOG_IDENTIFIER": program,
        "MESHD_EVENT": str(event["event"]),
        **{_name(name): value for name, value in told.items()},
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(field: str) -> str:
    return f"MESHD_{_NOT_IN_A_NAME.sub('_', field.upper())}"[:_NAME_CHARACTERS]


def write_line(text: str) -> None:
    """Write a line to standard error, past Python's buffer.

    What it doesn't take is lost: a full disk, or a reader that went away, is no reason to end, and there is nowhere
    else to say so.
    """
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"{text}\n".encode(errors="backslashreplace"))


def encode(fields: Mapping[str, str]) -> bytes:
    """The fields as a datagram."""
    lines: list[bytes] = []
    for name, text in fields.items():
        value = text.encode(errors="replace")
        if b"\n" in value:
            lines += [name.encode(), b"\n", _LENGTH.pack(len(value)), value, b"\n"]
        else:
            lines += [name.encode(), b"=", value, b"\n"]
    return b"".join(lines)


class Journal:
    """Sends entries. When the journal doesn't take one, it is written to standard error, as JSON."""

    def __init__(self, path: str = SOCKET_PATH) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def send(self, fields: Mapping[str, str]) -> None:
        """Hand one entry over. Never waits: a journal that is busy must not hold up a daemon."""
        data = encode(fields)
        try:
            try:
                self._socket.sendto(data, self._path)
            except OSError as error:
                if error.errno not in _TOO_LONG:
                    raise
                self._send_file(data)
        except OSError:
            write_line(json.dumps(fields))

    def close(self) -> None:
        """Send no more."""
        self._socket.close()

    def _send_file(self, data: bytes) -> None:
        descriptor = os.memfd_create("meshd-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            self._socket.sendmsg([b""], passed, 0, self._path)
