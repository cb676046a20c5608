"""No room for another file: a start says so, and does without its reserve."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.node.accepting import MIN_FREE_BYTES
from meshd.store.database import MAKE_ROOM
from tests.needs import require
from tests.store.test_database import run_program

STARTED = """
import sys
from pathlib import Path
from meshd.errors import MeshdError
from meshd.store.database import Database
from tests.store.builders import put_spool
try:
    database = Database.open(Path(sys.argv[1]) / "mesh.db")
    print(database.apply([(1, [put_spool(1)])], 1)[0].error)
    database.close()
except MeshdError as error:
    print(error.code, "advice:", error.hint)
"""

REFILLED = """
import os, sys
from pathlib import Path
from meshd.service import free_bytes
from meshd.store.database import Database
from tests.store.builders import put_spool
directory = Path(sys.argv[1])
database = Database.open(directory / "mesh.db")
with open(directory / "others", "wb") as others:
    for row, left in enumerate((1 << 17, 1 << 17, *map(int, sys.argv[2:]))):
        others.truncate(0)
        os.posix_fallocate(others.fileno(), 0, free_bytes(directory) - left)
        print(database.apply([(row, [put_spool(row, body=bytes(200_000))])], row)[0].error)
database.close()
"""


def unshared(script: str, *arguments: object) -> list[str]:
    """The command that runs a shell script with these arguments where it may mount."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        require("unshare -Urm")
    return [unshare, "-Urm", "sh", "-c", script, "sh", *map(str, arguments)]


@pytest.mark.parametrize(("files", "outcome"), [(0, "E_FULL"), (1, "E_FULL"), (2, "None"), (3, "None")])
def test_a_disk_takes_so_many_files(tmp_path: Path, files: int, outcome: str) -> None:
    """The store needs two: itself and its log. The third is the reserve."""
    script = f'mount -t tmpfs -o size=40m,nr_inodes={files + 1} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    with run_program(*unshared(script, tmp_path, sys.executable, STARTED)) as started:
        said, _, advice = started.communicate()[0].partition(" advice: ")
    assert (said.strip(), advice.strip()) == (outcome, MAKE_ROOM if outcome == "E_FULL" else "")


def test_where_mail_is_taken_again_the_file_may_grow_again(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=100m tmpfs "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    command = unshared(script, tmp_path, sys.executable, REFILLED, MIN_FREE_BYTES - (1 << 20), MIN_FREE_BYTES)
    with run_program(*command) as refilled:
        assert refilled.communicate()[0].split() == ["E_FULL"] * 3 + ["None"]
