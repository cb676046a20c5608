"""What was measured: medians and spread, for people and as JSON."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Figure:
    """One figure, measured several times.

    Args:
        target: what it should be, as text for people; empty when there is none.
        extra: what else was seen, for the JSON.
    """

    name: str
    unit: str
    runs: tuple[float, ...]
    target: str = ""
    extra: dict[str, Any] = attrs.field(factory=dict)

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.runs)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0..1) of all are at or below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def line(figure: Figure) -> str:
    """One line of the table."""
    spread = f"{_shown(min(figure.runs))} .. {_shown(max(figure.runs))}"
    return (
        f"{figure.name:<42} {_shown(figure.median):>10} {figure.unit:<8} {spread:>22}  {len(figure.runs)}x  "
        f"{figure.target}".rstrip()
    )


HEADER = f"{'what':<42} {'median':>10} {'unit':<8} {'lowest .. highest':>22}  runs  target"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def document(figures: Sequence[Figure], load_before: float) -> dict[str, Any]:
    """Everything, as plain data."""
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "argv": sys.argv[1:],
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "figures": [
            {
                "name": figure.name,
                "unit": figure.unit,
                "median": figure.median,
                "lowest": min(figure.runs),
                "highest": max(figure.runs),
                "runs": list(figure.runs),
                "target": figure.target,
                **figure.extra,
            }
            for figure in figures
        ],
    }
