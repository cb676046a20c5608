"""The documentation tells the truth: error codes, commands, links and packages are those of the code.

``python -m tests.test_docs`` writes docs/errors.md anew from the catalogue.
"""

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest

from meshd.cli import app
from meshd.errors import CATALOGUE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in [ROOT / "README.md", *DOCS.glob("*.md")] if path.exists())
ERRORS_PAGE = DOCS / "errors.md"
MESHCTL_PAGE = DOCS / "meshctl.md"

# --- docs/errors.md

ERRORS_HEAD = """# Error codes

Every error has a code that stays the same from version to version. `meshctl` shows it in brackets; `meshctl --json` and
the [local API](protocol-api.md) give it as `code`. `meshctl errors lookup CODE` says what is written here, without a
daemon.

This page is made from `CATALOGUE` in `meshd/errors.py`: `python -m tests.test_docs` writes it, and `tests/test_docs.py`
fails when it is out of date.
"""

ERROR_GROUPS = (
    ("E_", "Errors of a request, a message or a start", "What a person or an app asked for can't be done."),
    (
        "P_",
        "Errors of a peer",
        "Another device broke the protocol, or was turned away. It costs that device its link and nobody else anything. "
        "These codes are seen in the log, and as the last error of a device in `meshctl peers`.",
    ),
)


def errors_page() -> str:
    """docs/errors.md as it should be."""
    parts = [ERRORS_HEAD]
    for prefix, title, about in ERROR_GROUPS:
        parts.append(f"\n## {title}\n\n{about}\n\n| code | meaning | what to do |\n|---|---|---|\n")
        parts += [
            f"| `{code}` | {explanation.meaning} | {explanation.advice} |\n"
            for code, explanation in CATALOGUE.items()
            if code.startswith(prefix)
        ]
    return "".join(parts)


def test_errors_page_is_the_catalogue() -> None:
    assert ERRORS_PAGE.read_text(encoding="utf-8") == errors_page()


def test_every_code_is_of_a_documented_group() -> None:
    prefixes = tuple(prefix for prefix, _, _ in ERROR_GROUPS)
    assert [code for code in CATALOGUE if not code.startswith(prefixes)] == []


def test_codes_named_in_pages_exist() -> None:
    named = {
        (page.name, code)
        for page in PAGES
        for code in re.findall(r"\b[EP]_[A-Z][A-Z_]+\b", page.read_text(encoding="utf-8"))
    }
    assert {(page, code) for page, code in named if code not in CATALOGUE} == set()


if __name__ == "__main__":
    ERRORS_PAGE.write_text(errors_page(), encoding="utf-8")
