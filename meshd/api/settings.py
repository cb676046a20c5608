"""What is set, and where each value comes from: ``meshctl config show``. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from meshd.config import SETTINGS, given_settings, load_config
from meshd.errors import MeshdError

DEFAULT = "default"
COMMAND_LINE = "command line"
MASKED = "***"
"""In place of a secret."""


@attrs.frozen(kw_only=True)
class InEffect:
    """One key: ``value`` as TOML would have it, ``source`` is ``default``, FILE:LINE, or names a variable."""

    key: str
    value: object
    source: str

    def plain(self) -> dict[str, Any]:
        """As ``meshctl config show --json`` has it."""
        return attrs.asdict(self)


def in_effect(
    text: str | None,
    *,
    filename: str = "meshd.toml",
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[InEffect, ...]:
    """Every key with its value and source. Raises MeshdError E_CONFIG, as :func:`meshd.config.load_config`.

    Args:
        text: the file's content, None when there is none; named ``filename`` in sources.
        options: what the command line says, by key; it wins.
    """
    load_config(text, filename=filename, environ=environ)
    found = {name: InEffect(key=name, value=setting.default, source=DEFAULT) for name, setting in SETTINGS.items()}
    for setting, value, read, place in given_settings(text, filename, environ):
        toml = value if read == setting.kind.read else setting.kind.from_text(value)
        found[setting.name] = InEffect(key=setting.name, value=MASKED if setting.kind.is_secret else toml, source=place)
    for name, value in (options or {}).items():
        found[name] = InEffect(key=name, value=value, source=COMMAND_LINE)
    return tuple(found.values())


def read_file(path: str) -> str:
    """A configuration file's text. Raises MeshdError E_CONFIG when it can't be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # some editors put a mark before the text
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise MeshdError("E_CONFIG", f"{path} can't be read: {reason}.", "Check the path and its mode.") from error


def reloaded(before: Iterable[InEffect], after: Iterable[InEffect], sections: frozenset[str]) -> tuple[InEffect, ...]:
    """What is in effect once ``sections`` alone were read anew."""
    fresh = {row.key: row for row in after}
    return tuple(fresh[row.key] if row.key.partition(".")[0] in sections else row for row in before)
