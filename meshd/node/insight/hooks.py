"""Telling alerts to the outside: a program that is run, an address that is posted to. Failures are logged."""

import importlib
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import attrs
import trio

from meshd.errors import MeshdError
from meshd.links.backoff import Backoff
from meshd.logs import get_logger
from meshd.node.insight.alerts import Level

log = get_logger("meshd.alerts")

QUEUED_ALERTS = 64
"""Waiting for one hook; more are dropped, and that is logged."""

RETRY_SECONDS = (1.0, 60.0)
"""Base and cap of the waits between attempts."""

_OUTPUT_BYTES = 4096
"""Of a program's output that goes to the log."""


@attrs.frozen(kw_only=True)
class HookSettings:
    """What is told, and to whom.

    Args:
        command: a program and its arguments; empty for none. url: http or https; empty for none.
        token: sent as ``Authorization: Bearer``; empty for none.
        timeout_s: for one attempt. attempts: until one succeeds.
        least: alerts below it are not told.
    """

    command: Sequence[str] = ()
    url: str = ""
    token: str = attrs.field(default="", repr=False)
    timeout_s: float = 10.0
    attempts: int = 4
    least: Level = Level.WARNING


class HookFailed(Exception):
    """One attempt came to nothing, for this reason."""


Deliver = Callable[[dict[str, Any]], Awaitable[None]]
"""Tells one alert, once. Raises HookFailed."""


async def run_hooks(
    alerts: trio.MemoryReceiveChannel[dict[str, Any]], settings: HookSettings, rng: random.Random
) -> None:
    """Tell every alert that comes in to all hooks, in order, each at its own pace. Ends with the channel.

    Each alert is a document as ``meshctl alerts --json`` shows it, with ``change`` and ``device`` added.
    Cancelled, what was not told yet is dropped, and a program that runs is ended.
    """
    hooks: dict[str, Deliver] = {}
    if settings.command:
        hooks["exec"] = partial(execute, settings.command)
    if settings.url:
        hooks["webhook"] = partial(post, settings.url, settings.token)
    async with trio.open_nursery() as nursery:
        queues: dict[str, trio.MemorySendChannel[dict[str, Any]]] = {}
        for name, deliver in hooks.items():
            queues[name], queue = trio.open_memory_channel[dict[str, Any]](QUEUED_ALERTS)
            nursery.start_soon(_serve, name, deliver, queue, settings, rng)
        async for alert in alerts:
            if Level[alert["severity"].upper()] < settings.least:
                continue
            for name, sender in queues.items():
                try:
                    sender.send_nowait(alert)
                except trio.WouldBlock:
                    log.warning("alert not told: too many wait", hook=name, alert=alert["name"])
        nursery.cancel_scope.cancel()


async def _serve(
    name: str,
    deliver: Deliver,
    queue: trio.MemoryReceiveChannel[dict[str, Any]],
    settings: HookSettings,
    rng: random.Random,
) -> NoReturn:
    while True:
        alert = await queue.receive()
        backoff = Backoff(*RETRY_SECONDS, rng)
        for attempt in range(1, settings.attempts + 1):
            reason = await _attempt(deliver, alert, settings.timeout_s)
            if reason is None:
                log.info("alert told", hook=name, alert=alert["name"], attempt=attempt)
                break
            is_last = attempt == settings.attempts
            wait_s = None if is_last else backoff.next_wait()
            log.warning(
                "alert not told", hook=name, alert=alert["name"], attempt=attempt, reason=reason, retry_s=wait_s
            )
            if wait_s is not None:
                await trio.sleep(wait_s)


async def _attempt(deliver: Deliver, alert: dict[str, Any], timeout_s: float) -> str | None:
    """Why it failed; None when it did not."""
    try:
        with trio.move_on_after(timeout_s) as limit:
            await deliver(alert)
    except HookFailed as error:
        return str(error)
    return f"no end within {timeout_s:g} s" if limit.cancelled_caught else None


def check_command(command: Sequence[str]) -> None:
    """See that the program is there and may be run. Raises MeshdError(E_HOOK)."""
    if shutil.which(command[0]) is None:
        found = shutil.which(command[0], os.F_OK) is not None
        why = "this user may not run it" if found else "there is no such program"
        raise MeshdError("E_HOOK", f"{command[0]}: {why}.")


async def execute(command: Sequence[str], alert: Mapping[str, Any]) -> None:
    """Run a program with the alert as JSON on its standard input, and its fields as ``MESHD_ALERT_*``.

    Raises HookFailed when it can't be run, or does not exit with 0. Cancelled, the program is ended.
    """
    fields = {f"MESHD_ALERT_{name.upper()}": "" if value is None else str(value) for name, value in alert.items()}
    try:
        with tempfile.TemporaryFile() as output:  # the end of a pipe would be waited for, which its children may hold
            done = await trio.run_process(
                list(command),
                stdin=json.dumps(alert).encode(),
                stdout=subprocess.DEVNULL,
                stderr=output,
                check=False,
                env={**os.environ, **fields},
            )
            output.seek(0)
            said = output.read(_OUTPUT_BYTES).decode(errors="replace").strip()
    except (OSError, ValueError) as error:  # what no process can be given, such as a NUL
        reason = error.strerror if isinstance(error, OSError) else None
        raise HookFailed(f"{command[0]} can't be run: {reason or error}") from error
    if done.returncode != 0:
        raise HookFailed(f"{command[0]} exited with {done.returncode}" + (f": {said}" if said else ""))


async def post(url: str, token: str, alert: Mapping[str, Any]) -> None:
    """Post the alert as JSON. Raises HookFailed unless the answer is 2xx. Redirects are not followed."""
    # The library is for those few that use it, and importing it takes longer than the event loop should wait.
    httpx = await trio.to_thread.run_sync(importlib.import_module, "httpx")
    headers = {"Authorization": f"Bearer {token}".encode()} if token else {}
    try:
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            answer = await client.post(url, json=dict(alert), headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # a host that is no name at all: UnicodeError
        raise HookFailed(f"{type(error).__name__}: {error}") from error
    if not answer.is_success:
        raise HookFailed(f"the answer was {answer.status_code} {answer.reason_phrase}")
