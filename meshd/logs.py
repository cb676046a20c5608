"""Logging: structlog, for a person on a terminal, as fields of systemd's journal, or as JSON for a collector.

What must not be in a log is kept out by construction: every value is made of plain, short text before it is
rendered (``masking``), and the rendered line is searched for whatever looks like a secret, or was said to be one.
Levels can be changed while the daemon runs. A line that keeps coming is written now and then, with a count.
"""

import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from meshd.journal import Journal, entry, is_journal, write_line
from meshd.masking import plain_event, scrub

# structlog imports rich when it is there, for tracebacks that are never drawn here: 4 MB of every daemon. So
# nothing but this module imports structlog.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None is the documented way to keep a module out

import structlog  # noqa: E402

Logger: TypeAlias = structlog.typing.FilteringBoundLogger
"""What writes log lines, with the fields bound to it."""

get_logger = structlog.get_logger
"""``get_logger("meshd.part")``: the logger of a component."""

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

REPEATS = 10
REPEAT_S = 10.0
"""So many lines of one kind at once, then one in so many seconds. Lines at debug are never held back."""

_KINDS_MAX = 512
_LIBRARY_LEVEL = logging.ERROR


class _Levels:
    """The lowest level of every component, by the longest beginning of its name that has one."""

    def __init__(self) -> None:
        self.level = LEVELS["info"]
        self.levels: dict[str, int] = {}
        self._found: dict[str, int] = {}

    def of(self, component: str) -> int:
        """The level of a component. Asked for each commit: remembered until something changes."""
        level = self._found.get(component)
        if level is None:
            fitting = [name for name in self.levels if component == name or component.startswith(f"{name}.")]
            level = self._found[component] = self.levels[max(fitting, key=len)] if fitting else self.level
        return level

    def changed(self) -> None:
        """To be called after every change."""
        self._found.clear()


_levels = _Levels()
_configured = _Levels()


class _Logger:
    """Writes lines to standard error. Knows its component, and whether it is to be heard."""

    def __init__(self, component: str) -> None:
        self.component = component

    def hears(self, level: int) -> bool:
        """Whether a line of this level is written now."""
        return level >= _levels.of(self.component)

    def write(self, line: str) -> None:
        """One line. Named by its level, as structlog has it."""
        write_line(line)

    debug = info = warning = error = write


class _Sender:
    """In the place of :class:`_Logger` where the journal is written to. ``hears`` as there."""

    def __init__(self, component: str, journal: Journal) -> None:
        self.component = component
        self._journal = journal

    def hears(self, level: int) -> bool:
        """Whether a line of this level is written now."""
        return level >= _levels.of(self.component)

    def send(self, fields: Mapping[str, str]) -> None:
        """One line. Named by its level, as structlog has it."""
        self._journal.send(fields)

    debug = info = warning = error = send


class _Bound(structlog.BoundLoggerBase):
    """A logger with fields; the levels that it obeys may change at any time."""

    def debug(self, event: str, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        self._write("error", event, {"exc_info": True, **fields})

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if self._logger.hears(LEVELS[level]):
            self._proxy_to_logger(level, event, **fields)


def configure(level: str, form: str, levels: Mapping[str, str], program: str = "meshd") -> None:
    """Set up logging for the process. Levels that were changed at run time are forgotten.

    Args:
        level: the lowest that is shown.
        form: ``console``, ``json``, ``journal``, or ``auto``: console on a terminal, fields where standard error is
            the journal, else JSON.
        levels: other lowest levels, by the beginning of a component's name (``meshd.`` may be left out).
        program: what the journal is told to be writing.
    """
    to_journal = form == "journal" or (form == "auto" and is_journal(os.environ))
    _configured.level = LEVELS[level]
    _configured.levels = {_component(name): LEVELS[value] for name, value in levels.items()}
    _reset()
    structlog.configure(
        processors=[
            _name_component,
            structlog.processors.add_log_level,
            Repeats(time.monotonic),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            plain_event,
            *((_entry(program),) if to_journal else (_renderer(form), _scrubbed)),
        ],
        wrapper_class=_Bound,
        logger_factory=_named_sender if to_journal else _named_logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=_LIBRARY_LEVEL, handlers=[_Libraries()], force=True)


def _renderer(form: str) -> structlog.typing.Processor:
    on_terminal = sys.stderr.isatty()
    if form == "json" or (form == "auto" and not on_terminal):
        return structlog.processors.JSONRenderer()
    if on_terminal:
        from structlog.dev import ConsoleRenderer  # 5 MB that a service does not need

        return ConsoleRenderer()
    return structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)


def _entry(program: str) -> structlog.typing.Processor:
    """What the last step of the line is: arguments of :meth:`_Sender.send`."""

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        return ({name: scrub(value) for name, value in entry(event, program).items()},), {}

    return render


_journal = functools.cache(Journal)
"""One for the process, also when logging is set up anew."""


def _named_sender(*args: Any) -> _Sender:
    return _Sender(_component(str(args[0])) if args else "meshd", _journal())


def _component(name: str) -> str:
    return name.removeprefix("meshd.")


def _named_logger(*args: Any) -> _Logger:
    return _Logger(_component(str(args[0])) if args else "meshd")


def _name_component(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["component"] = logger.component
    return event


def _scrubbed(logger: Any, method: str, line: Any) -> str:
    return scrub(str(line))


# --- levels at run time


def set_level(component: str | None, level: str | None) -> None:
    """Change a level while the process runs.

    Args:
        component: the beginning of a component's name; None for all that have no level of their own.
        level: a key of LEVELS; None for what the configuration says.
    """
    if component is None:
        if level is None:
            _reset()
            return
        _levels.level = LEVELS[level]
    elif level is not None:
        _levels.levels[_component(component)] = LEVELS[level]
    elif _component(component) in _configured.levels:
        _levels.levels[_component(component)] = _configured.levels[_component(component)]
    else:
        _levels.levels.pop(_component(component), None)
    _levels.changed()


def _reset() -> None:
    _levels.level = _configured.level
    _levels.levels = dict(_configured.levels)
    _levels.changed()


def levels_now() -> dict[str, Any]:
    """``level``, and ``levels`` of single components, as words."""
    words = {number: word for word, number in LEVELS.items()}
    return {
        "level": words[_levels.level],
        "levels": {name: words[number] for name, number in sorted(_levels.levels.items())},
    }


def is_debugged(component: str) -> bool:
    """Whether lines at debug of this component are written: to be asked before they are made."""
    return _levels.of(component) <= LEVELS["debug"]


# --- lines that keep coming


class Repeats:
    """A processor that lets some lines of a kind pass, and counts the rest.

    A kind is a component's event about one peer. What was held back is told as ``repeats`` with the next line
    of the kind that passes. The store's thread logs too.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[object, ...], tuple[float, float, int]] = {}
        """By kind: lines that may pass, as of when, and how many were held back."""

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Pass it on, or raise structlog.DropEvent."""
        if method == "debug":
            return event
        kind = (event.get("component"), event.get("event"), str(event.get("peer") or event.get("source")))
        with self._lock:
            now = self._clock()
            left, at, held_back = self._kinds.pop(kind, (float(REPEATS), now, 0))
            left = min(float(REPEATS), left + (now - at) / REPEAT_S)
            passes = left >= 1
            if len(self._kinds) >= _KINDS_MAX:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = (left - 1, now, 0) if passes else (left, now, held_back + 1)
        if not passes:
            raise structlog.DropEvent
        if held_back:
            event["repeats"] = held_back
        return event


class _Libraries(logging.Handler):
    """What other libraries log goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log it as of ``lib`` and the library's name."""
        log = get_logger(f"lib.{record.name}")
        log.error(record.getMessage(), exc_info=record.exc_info or False)
