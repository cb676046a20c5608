"""Whole meshes on virtual time, by seed. A failing seed is printed, and replays exactly."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BATCH = 20


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the simulator in a process of its own: it fixes hashes and Trio's scheduler for the whole process."""
    command = [sys.executable, "-m", "tests.sim", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check(first: int, count: int) -> None:
    """Run seeds. All must end well."""
    ended = simulate("--seeds", f"{first}:{first + count}", "--keep-going")
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]


@pytest.mark.sim
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, 200, BATCH))
def test_what_was_promised_is_kept(first: int) -> None:
    check(first, BATCH)


@pytest.mark.sim
def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    once, again = (simulate("--seeds", "0:4", "--digests") for _ in range(2))
    assert once.returncode == 0, once.stdout + once.stderr
    lines = [line for line in once.stdout.splitlines() if line.startswith("seed ")]
    assert lines == [line for line in again.stdout.splitlines() if line.startswith("seed ")]
    digests = [line.split()[2] for line in lines]
    assert len(set(digests)) == len(digests) == 4


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1_000, 11_000, 100))
def test_what_was_promised_is_kept_by_ten_thousand_seeds(first: int) -> None:
    check(first, 100)
