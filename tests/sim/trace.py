"""What happened in a run: lines for people, and a digest that two equal runs share."""

import hashlib
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog
import trio

HOST: ContextVar[str] = ContextVar("HOST", default="-")
"""Whose task this is; inherited by the tasks that it starts."""


class Trace:
    """Collects lines. Nothing secret or drawn by the operating system may be in them.

    Args:
        echo: print each line as it comes.
    """

    def __init__(self, *, echo: bool = False) -> None:
        self._echo = echo
        self._digest = hashlib.sha256()
        self.lines = 0

    def note(self, event: str, /, **fields: object) -> None:
        """One line: the virtual time, whose task, what, and its details."""
        try:
            now = trio.current_time()
        except RuntimeError:  # before or after the run
            now = 0.0
        details = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        line = f"{now:10.4f} {HOST.get():6} {event:24} {details}".rstrip()
        self._digest.update(line.encode() + b"\n")
        self.lines += 1
        if self._echo:
            print(line)

    def digest(self) -> str:
        """Of all lines so far."""
        return self._digest.hexdigest()

    def take_logs(self) -> None:
        """From now on, what meshd logs becomes lines here."""
        structlog.configure(processors=[self._log], cache_logger_on_first_use=False)

    def _log(self, _logger: object, method: str, event: MutableMapping[str, Any]) -> Any:
        name = event.pop("event")
        error = event.pop("exc_info", None)
        if error:
            event["traceback"] = _traceback(error)
        self.note(f"{method}: {name}", **event)
        raise structlog.DropEvent


def _traceback(error: object) -> str:
    return structlog.processors._format_exception(structlog.processors._figure_out_exc_info(error))


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
