"""Reading what the daemon answered: each field is checked where text is made of it.

A daemon of another version, or something else on the socket, must never end in a traceback.
"""

from collections.abc import Mapping, Sequence

import attrs

from meshd.errors import MeshdError


def garbled(expected: str) -> MeshdError:
    """The error for an answer that is not what the contract says."""
    return MeshdError(
        "E_INTERNAL",
        f"The daemon's answer makes no sense: expected {expected}.",
        "Run meshctl and meshd of one version; if they are, please report it with the daemon's log.",
    )


@attrs.frozen
class Fields:
    """The named fields of one map in an answer. Every reader raises MeshdError (``E_INTERNAL``) on the wrong type."""

    values: Mapping[str, object]

    def text(self, name: str) -> str:
        """A text that has to be there."""
        value = self.values.get(name)
        if not isinstance(value, str):
            raise garbled(f"a text as {name!r}")
        return value

    def text_or(self, name: str, default: str = "") -> str:
        """A text, or ``default`` when it is null or missing."""
        return default if self.values.get(name) is None else self.text(name)

    def integer(self, name: str) -> int:
        """A whole number that has to be there."""
        value = self.values.get(name)
        if type(value) is not int:
            raise garbled(f"a whole number as {name!r}")
        return value

    def number(self, name: str) -> float:
        """A number that has to be there."""
        value = self.values.get(name)
        if type(value) not in (int, float):
            raise garbled(f"a number as {name!r}")
        return float(str(value))

    def number_or_none(self, name: str) -> float | None:
        """A number, or None when it is null or missing."""
        return None if self.values.get(name) is None else self.number(name)

    def inner(self, name: str) -> "Fields":
        """A map that has to be there."""
        return fields_of(self.values.get(name), name)

    def inner_or_none(self, name: str) -> "Fields | None":
        """A map, or None when it is null or missing."""
        return None if self.values.get(name) is None else self.inner(name)

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty when missing."""
        return [item for item in items_of(self.values.get(name, []), name) if isinstance(item, str)]

    def rows(self, name: str) -> list["Fields"]:
        """A list of maps; empty when missing."""
        return rows_of(self.values.get(name, []), name)


def fields_of(value: object, what: str = "the answer") -> Fields:
    """Read ``value`` as a map with text keys. Raises MeshdError (``E_INTERNAL``)."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise garbled(f"a map as {what}")
    return Fields(value)


def items_of(value: object, what: str = "the answer") -> Sequence[object]:
    """Read ``value`` as a list. Raises MeshdError (``E_INTERNAL``)."""
    if not isinstance(value, (list, tuple)):
        raise garbled(f"a list as {what}")
    return value


def rows_of(value: object, what: str = "the answer") -> list[Fields]:
    """Read ``value`` as a list of maps. Raises MeshdError (``E_INTERNAL``)."""
    return [fields_of(item, what) for item in items_of(value, what)]
