"""Logging: structlog, for a person on a terminal or as JSON for a collector."""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias

# structlog imports rich when it is there, for tracebacks that are never drawn here: 4 MB of every daemon. So
# nothing but this module imports structlog.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None is the documented way to keep a module out

import structlog  # noqa: E402

Logger: TypeAlias = structlog.typing.FilteringBoundLogger
"""What writes log lines, with the fields bound to it."""

get_logger = structlog.get_logger
"""``get_logger("meshd.part")``: the logger of a component."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(level: str, form: str, levels: Mapping[str, str]) -> None:
    """Set up logging for the process.

    Args:
        level: the lowest that is shown. form: ``console``, ``json``, or ``auto`` (console on a terminal).
        levels: other lowest levels, by the beginning of a component's name (``meshd.`` may be left out).
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if console and sys.stderr.isatty():
        from structlog.dev import ConsoleRenderer  # 5 MB that a service does not need

        renderer = ConsoleRenderer()
    elif console:
        renderer = structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    else:
        renderer = structlog.processors.JSONRenderer()
    lowest = min([_LEVELS[level], *(_LEVELS[name] for name in levels.values())])
    structlog.configure(
        processors=[
            _Filter(_LEVELS[level], {name.removeprefix("meshd."): _LEVELS[value] for name, value in levels.items()}),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=_named_logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")


class _Logger(structlog.PrintLogger):
    """Knows its name, which the filter needs."""

    def __init__(self, name: str) -> None:
        super().__init__(sys.stderr)
        self.name = name


def _named_logger(*args: Any) -> _Logger:
    return _Logger(str(args[0]) if args else "meshd")


class _Filter:
    """Drops what is below its component's level."""

    def __init__(self, level: int, levels: Mapping[str, int]) -> None:
        self._level = level
        self._levels = levels

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        component = logger.name.removeprefix("meshd.")
        event["component"] = component
        found = [name for name in self._levels if component == name or component.startswith(f"{name}.")]
        lowest = self._levels[max(found, key=len)] if found else self._level
        if _LEVELS.get(method, 50) < lowest:
            raise structlog.DropEvent
        return event
