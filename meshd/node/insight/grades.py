"""What an examination comes to: how bad a thing is, in what words, and how to mend it. Pure."""

import enum
from collections.abc import Sequence
from typing import Any

import attrs


class Grade(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@attrs.frozen
class Verdict:
    """One check's outcome. ``fix`` is empty when there is nothing to do."""

    check: str
    verdict: Grade
    detail: str
    fix: str = ""

    def plain(self) -> dict[str, Any]:
        """As ``meshctl doctor --json`` has it."""
        return {"check": self.check, "verdict": str(self.verdict), "detail": self.detail, "fix": self.fix}


def ok(check: str, detail: str) -> Verdict:
    """Nothing to do."""
    return Verdict(check, Grade.OK, detail)


def listed(names: Sequence[str]) -> str:
    """Some of them, and how many more there are."""
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
