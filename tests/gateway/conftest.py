"""Daemons for these tests: one for all that leave no trace, by the file."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.daemon import Daemon, daemon


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    """A daemon that the tests of one file share; its path is short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="meshd-") as root, daemon(Path(root)) as started:
        yield started


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for a daemon of the test's own."""
    with tempfile.TemporaryDirectory(prefix="meshd-") as name:
        yield Path(name)


@pytest.fixture
def client(running: Daemon) -> Iterator[httpx.Client]:
    """Over the Unix socket."""
    with running.over_unix() as connected:
        yield connected
