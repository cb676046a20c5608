"""No room for another file: a start says so, and does without its reserve."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    print(error.code)
"""


@pytest.mark.parametrize(("files", "outcome"), [(0, "E_FULL"), (1, "E_FULL"), (2, "None"), (3, "None")])
def test_a_disk_takes_so_many_files(tmp_path: Path, files: int, outcome: str) -> None:
    """The store needs two: itself and its log. The third is the reserve."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs unshare -Urm")
    script = f'mount -t tmpfs -o size=40m,nr_inodes={files + 1} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = [unshare, "-Urm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, STARTED]
    with run_program(*command) as started:
        assert started.communicate()[0].split() == [outcome]
