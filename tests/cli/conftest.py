"""Running meshctl in this process, as its entry point does, against a daemon of the test's making."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshd.cli.app import run
from tests.cli.daemon import FakeDaemon


@attrs.frozen
class Outcome:
    """What a run of meshctl left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def documents(self) -> list[Any]:
        """One JSON document per line of standard output."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, str]:
        """The error document on standard error."""
        (line,) = self.err.splitlines()
        error: dict[str, str] = json.loads(line)["error"]
        assert set(error) == {"code", "message", "hint"}
        return error


Meshctl = Callable[..., Outcome]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="meshctl-") as name:
        yield Path(name)


@pytest.fixture
def daemon(directory: Path) -> Iterator[FakeDaemon]:
    """A running daemon without any answers yet."""
    with FakeDaemon(directory / "meshd.sock", {}) as running:
        yield running


@pytest.fixture
def meshctl(directory: Path, capfd: pytest.CaptureFixture[str]) -> Meshctl:
    """Run meshctl with these arguments on the daemon's socket. No run may ever show a traceback."""
    assert "MESHD_DEBUG" not in os.environ

    def call(*arguments: str) -> Outcome:
        code = run(["--socket", str(directory / "meshd.sock"), *arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    return call
