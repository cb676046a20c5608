"""What a relay's owner sees: ``meshd-relay --status`` and ``--metrics``, over a Unix socket in the state directory."""

import math
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import trio

from meshd import __version__
from meshd.api.listener import SocketSettings, unix_listener
from meshd.errors import MeshdError
from meshd.logs import get_logger
from meshd.relay.metrics import Figures

SOCKET_NAME = "relay.sock"
SOCKET_MODE = 0o600
"""For the relay's own user and root: the names of meshes are nobody else's business."""

ANSWER_SECONDS = 5.0
_LONGEST_QUESTION_BYTES = 64
_MIB = 1024 * 1024
_SLOW_PASS_S = 0.1

log = get_logger("meshd.relay")

Answers = Mapping[str, Callable[[], str]]
"""By question."""


async def serve_reports(
    state_dir: Path, answers: Answers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Answer one question per connection, until cancelled. Raises MeshdError as :func:`unix_listener`."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                question = await stream.receive_some(_LONGEST_QUESTION_BYTES)
                answer = answers.get(question.decode(errors="replace").strip())
                await stream.send_all(b"" if answer is None else answer().encode())
                await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("report not taken")
        finally:
            await trio.aclose_forcefully(stream)

    with unix_listener(SocketSettings(str(state_dir / SOCKET_NAME), None, SOCKET_MODE)) as listener:
        task_status.started()
        await trio.serve_listeners(handle, [listener])
    raise AssertionError("serve_listeners returns only by an exception")


def ask_relay(state_dir: Path, question: str) -> str:
    """Ask the relay that runs on ``state_dir``. Raises MeshdError E_NO_DAEMON, E_PERMISSION, E_UNSUPPORTED."""
    path = state_dir / SOCKET_NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(ANSWER_SECONDS)
            asking.connect(str(path))
            asking.sendall(f"{question}\n".encode())
            answer = b"".join(iter(lambda: asking.recv(65536), b""))
    except PermissionError as error:
        raise MeshdError(
            "E_PERMISSION", f"{path} is the relay's own.", "Ask as root, or as the relay's user."
        ) from error
    except OSError as error:
        reason = f"No relay answers on {path}: {error.strerror or error}."
        raise MeshdError("E_NO_DAEMON", reason, "Start it, or name its --state-dir.") from error
    if not answer:
        raise MeshdError("E_UNSUPPORTED", f"The relay that runs can't tell its {question}.", "Restart the relay.")
    return answer.decode()


def status_document(
    figures: Figures,
    *,
    device: str,
    listen: Sequence[str],
    reached_at: Sequence[str],
    alerts: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What ``--status --json`` prints."""
    passes = dict(figures.loop.buckets)
    return {
        "version": __version__,
        "device": device,
        "uptime_s": round(figures.uptime_s, 3),
        "listen": list(listen),
        "reached_at": list(reached_at),
        "links": figures.links,
        "refusals": dict(sorted(figures.refusals.items())),
        "free_bytes": figures.free_bytes,
        "commits": figures.commits.buckets[-1][1],
        "loop": {"passes": passes[math.inf], "over_100_ms": passes[math.inf] - passes[_SLOW_PASS_S]},
        "meshes": [
            {
                "id": mesh.name,
                "devices": mesh.devices,
                "linked": mesh.linked,
                "bundles": mesh.bundles,
                "bytes": mesh.size_bytes,
                "quota_bytes": mesh.quota_bytes,
            }
            for mesh in figures.meshes
        ],
        "alerts": list(alerts),
    }


def status_text(document: Mapping[str, Any]) -> str:
    """The status for people."""
    loop = document["loop"]
    refusals = ", ".join(f"{code} {count}" for code, count in document["refusals"].items()) or "none"
    lines = [
        f"relay    {document['device']}",
        f"listens  {', '.join(document['listen']) or 'nowhere'}",
        f"reached  {', '.join(document['reached_at']) or 'unknown'}",
        f"links    {document['links']} since the start; refused: {refusals}",
        f"disk     {document['free_bytes'] // _MIB} MiB free; {document['commits']} commits",
        f"loop     {loop['passes']} passes, {loop['over_100_ms']} of them over 100 ms",
        f"version  {document['version']}, up for {document['uptime_s']:.0f} s",
    ]
    lines += [
        f"mesh     {mesh['id']}  {mesh['linked']} of {mesh['devices']} devices linked; "
        f"{mesh['bundles']} bundles wait, {mesh['bytes'] / _MIB:.1f} of {mesh['quota_bytes'] / _MIB:.0f} MiB"
        for mesh in document["meshes"]
    ]
    lines += [
        f"ALERT    {row['name']} ({row['severity']}): {row['detail']}" for row in document["alerts"] if not row["until"]
    ]
    return "\n".join(lines)
