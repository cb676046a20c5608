"""Discovery between two machines with several networks: see :mod:`tests.discovery.namespaces`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import require

ROOT = Path(__file__).parent.parent.parent


def missing() -> str | None:
    """What this machine lacks for network namespaces."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"the program {program}"
    tried = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else None


@pytest.mark.netlab
def test_only_the_right_addresses_are_told_on_each_network_through_changes() -> None:
    require(missing())
    ended = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-W", "error", "-m", "tests.discovery.namespaces"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
