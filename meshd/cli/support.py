"""``support-bundle``: what somebody who helps needs to see, in one file, and nothing that is secret.

Redacted by construction: only fields that are listed here go in. The daemon's log, messages, keys and codes
are never read; a setting goes in only when its key is listed, or its value is a number or a yes or no.
"""

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs
import click

from meshd import __version__
from meshd.cli import screen
from meshd.cli.doctor import TIMEOUT_S
from meshd.cli.session import Command, Session, pass_session
from meshd.errors import MeshdError

_SHOWN_SETTINGS = ("listen.", "discovery.mdns", "discovery.interfaces", "links.", "store.", "api.", "log.")
_EVENTS = 1000
_MAX_FILE_BYTES = 256 * 1024
_SYSTEM_FILES = (
    "/etc/os-release",
    "/proc/version",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/net/if_inet6",
    "/proc/net/route",
    "/proc/net/igmp",
    "/proc/net/arp",
)
"""The network's state and the system's version: interfaces, addresses, routes, groups; no file of a program."""

_ABOUT = """\
What `meshctl support-bundle` has collected, to be sent to somebody who helps.

In it: names and ids of your devices, their network addresses, the state of links, routes and queues, the last
events, the doctor's findings, and the settings. Not in it: messages, headers, keys, invitation codes, recovery
words, the log. Settings that might hold a secret say "(set)". Look through it before you send it.
"""

_PEER = (
    *("id", "name", "state", "transport", "address", "rtt_ms", "loss", "quality", "grade", "breaker", "last_error"),
)
_ROUTE = ("destination", "name", "next_hop", "next_hop_name", "metric", "seqno", "feasibility_distance", "state")


@attrs.frozen
class _View:
    """An operation of the daemon, its arguments, and the fields of its answer that go in."""

    op: str
    fields: tuple[str, ...]
    arguments: Mapping[str, object] = {}
    timeout_s: float | None = None


_VIEWS = (
    _View(
        "status",
        ("version", "device", "mesh", "removed", "uptime_s", "peers_up", "peers_known", "spool", "relays", "listen"),
    ),
    _View("members", ("id", "name", "role", "state")),
    _View("peers", _PEER),
    _View("routes", _ROUTE),
    _View("queue", ("destination", "name", "priority", "messages", "bytes", "oldest_age_s", "reason", "own")),
    _View("graph", ("nodes", "edges")),
    _View("events", ("at", "event", "peer", "name", "detail", "transport", "address", "code"), {"last": _EVENTS}),
    _View("alerts", ("name", "severity", "since", "detail", "state")),
    _View("config", ("key", "value", "source")),
    _View("doctor", ("check", "verdict", "detail", "fix"), timeout_s=TIMEOUT_S),
)


@click.command("support-bundle", cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@pass_session
def support_bundle(session: Session, file: Path | None) -> None:
    """Collect in one file what somebody who helps needs to see.

    FILE is meshd-support-DATE.tar.gz in this directory unless given. No messages, keys or codes are
    in it; names and network addresses of your devices are. Without a daemon, what is left is collected.
    """
    now = time.time()
    target = file or Path(time.strftime("meshd-support-%Y%m%d-%H%M%S.tar.gz", time.localtime(now)))
    parts = {"README.txt": _ABOUT.encode(), **_versions(), **_system(), **_views(session)}
    _write(target, parts, now)
    if session.as_json:
        screen.document({"file": str(target), "parts": sorted(parts)})
        return
    screen.line(f"Wrote {target}. No messages, keys or codes are in it; names and addresses of your devices are.")
    screen.hint(f"Look through it before you send it: tar -xzOf {target} | less")


def _versions() -> dict[str, bytes]:
    system = {"meshctl": __version__, "python": platform.python_version(), "machine": platform.machine()}
    return {"versions.json": _json(system)}


def _system() -> dict[str, bytes]:
    found = {}
    for name in _SYSTEM_FILES:
        try:
            with open(name, "rb") as file:
                found[f"system{name}"] = file.read(_MAX_FILE_BYTES)
        except OSError as error:
            found[f"system{name}"] = f"(not read: {error.strerror})\n".encode()
    return found


def _views(session: Session) -> dict[str, bytes]:
    found = {}
    for view in _VIEWS:
        try:
            answer = session.ask(view.op, view.arguments, timeout=view.timeout_s)
        except MeshdError as error:
            found[f"{view.op}.json"] = _json({"error": error.code, "message": error.message})
            continue
        redact = _setting if view.op == "config" else lambda row: row
        found[f"{view.op}.json"] = _json(_picked(answer, view.fields, redact))
    return found


_Row = Mapping[object, object]


def _picked(answer: object, fields: Iterable[str], redact: Callable[[_Row], _Row]) -> object:
    """Only the listed fields of an answer, which is a map or a list of maps."""
    if isinstance(answer, list):
        return [_picked(row, fields, redact) for row in answer]
    if not isinstance(answer, Mapping):
        return None
    return redact({name: answer[name] for name in fields if name in answer})


def _setting(row: _Row) -> _Row:
    key, value = str(row.get("key")), row.get("value")
    is_harmless = key.startswith(_SHOWN_SETTINGS) or isinstance(value, (bool, int, float)) or value in ("", [], {})
    return row if is_harmless or row.get("source") == "default" else {**row, "value": "(set)"}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, default=str) + "\n").encode()


def _write(target: Path, parts: Mapping[str, bytes], now: float) -> None:
    """The archive, for its owner alone. Raises MeshdError E_USAGE when it can't be made."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, content in sorted(parts.items()):
                entry = tarfile.TarInfo(f"meshd-support/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(now), 0o600
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise MeshdError("E_USAGE", f"{target} can't be written: {error.strerror}.", "Give another FILE.") from error
