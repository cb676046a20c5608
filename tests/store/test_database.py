"""Opening, damage, failing tickets, a full disk, and kill -9."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from meshd.errors import MeshdError
from meshd.store.database import CHECKED_WHOLE_BYTES, Database
from meshd.store.ops import Committed, DeleteSpool, PutFact
from meshd.store.schema import MIGRATIONS, migrate, version_of
from tests.needs import require
from tests.store.builders import put_inbox, put_spool

ROOT = Path(__file__).parents[2]


def run_program(*command: str, **options: object) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def code_of_opening(path: Path) -> str:
    with pytest.raises(MeshdError) as caught:
        Database.open(path)
    return caught.value.code


def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    database = Database.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    batches = [(1, [put_spool(1), PutFact("k", b"a", b"v")]), (2, [put_inbox(4)]), (3, [])]
    assert database.apply(batches, 77) == [Committed((1, 2, 3))]
    assert database.apply([], 78) == []
    before = database.snapshot()
    database.close()
    database = Database.open(path)
    assert database.snapshot() == before
    assert before.clock_ms == 77
    database.close()


def test_only_the_bad_ticket_fails() -> None:
    database = Database.in_memory()
    database.apply([(1, [put_spool(1)])], 1)
    outcome = database.apply([(2, [put_spool(2)]), (3, [put_spool(3), put_spool(1)]), (4, [put_spool(4)])], 2)
    assert outcome[0] == Committed((2, 4))
    assert [(bad.tickets, bad.error) for bad in outcome[1:]] == [((3,), "E_INTERNAL")]
    (backlog,) = database.snapshot().backlogs
    assert backlog.rows == 3


def test_a_second_process_is_told_that_one_runs(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    database = Database.open(path)
    program = f"""
from pathlib import Path
from meshd.errors import MeshdError
from meshd.store.database import Database
try:
    Database.open(Path({str(path)!r}))
except MeshdError as error:
    print(error.code)
"""
    with run_program(sys.executable, "-c", program) as other:
        assert other.communicate()[0].strip() == "E_RUNNING"
    database.close()


def test_a_directory_that_can_not_be_used(tmp_path: Path) -> None:
    assert code_of_opening(tmp_path / "absent" / "mesh.db") == "E_STATE_DIR"
    (tmp_path / "mesh.db").mkdir()
    assert code_of_opening(tmp_path / "mesh.db") == "E_STATE_DIR"


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_older_format_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    path = tmp_path / "mesh.db"
    old = apsw.Connection(str(path))
    migrate(old, MIGRATIONS[:version])
    assert version_of(old) == version
    old.close()
    database = Database.open(path)
    assert database.apply([(1, [put_spool(1), put_inbox(1)])], 1) == [Committed((1,))]
    database.close()
    again = apsw.Connection(str(path))
    assert version_of(again) == len(MIGRATIONS)
    again.close()


def test_a_migration_that_fails_changes_nothing() -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection)
    with pytest.raises(apsw.SQLError):
        migrate(connection, (*MIGRATIONS, "CREATE TABLE one (x); CREATE TABLE one (x);"))
    assert version_of(connection) == len(MIGRATIONS)
    migrate(connection, (*MIGRATIONS, "CREATE TABLE one (x);"))
    assert version_of(connection) == len(MIGRATIONS) + 1


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    Database.open(path).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()
    assert code_of_opening(path) == "E_NEWER_STATE"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    path.write_bytes(b"no database at all " * 1000)
    assert code_of_opening(path) == "E_DATABASE"
    assert path.read_bytes().startswith(b"no database")


@pytest.mark.parametrize("rows", [200, 800])
def test_damage_is_found_and_the_file_kept(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "mesh.db"
    database = Database.open(path)
    body = b"b" * 50_000
    facts = [PutFact("k", row.to_bytes(4, "big"), b"v" * 500) for row in range(100)]
    for row in range(1, rows, 10):
        database.apply([(row, [*(put_spool(each, body=body) for each in range(row, row + 10)), *facts])], 1)
    database.close()
    assert (path.stat().st_size > CHECKED_WHOLE_BYTES) == (rows == 800)
    reader = apsw.Connection(str(path))
    page = reader.execute("SELECT min(pageno) FROM dbstat WHERE name = 'facts' AND pagetype = 'leaf'").get
    reader.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    size = path.stat().st_size
    assert code_of_opening(path) == "E_DATABASE"
    assert path.stat().st_size == size


KILLED = """
import sys
from pathlib import Path
from meshd.store.database import Database
from meshd.store.ops import (FinishSpool)
from tests.store.builders import put_spool
database = Database.open(Path(sys.argv[1]))
row = database.snapshot().next_spool_row
while True:
    ops = [put_spool(row, body=b"x" * 20000), put_spool(row + 1), FinishSpool((row + 1,), "delivered", None, 0)]
    (outcome,) = database.apply([(row, ops)], row)
    assert outcome.error is None
    print(row, flush=True)
    row += 2
"""


def test_every_confirmed_ticket_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    confirmed = 0
    for attempt in range(10):
        with run_program(sys.executable, "-c", KILLED, str(path)) as writer:
            assert writer.stdout is not None
            for lines, line in enumerate(writer.stdout, start=1):
                confirmed = int(line)
                if lines == 20 + 17 * attempt:
                    writer.send_signal(signal.SIGKILL)
    database = Database.open(path)
    snapshot = database.snapshot()
    (backlog,) = snapshot.backlogs
    assert snapshot.next_spool_row in (confirmed + 2, confirmed + 4)  # the last may have been cut off unconfirmed
    assert snapshot.clock_ms == snapshot.next_spool_row - 2
    assert backlog.rows * 2 == snapshot.next_spool_row - 1
    database.close()


FULL = """
import sys
from pathlib import Path
from meshd.store.database import Database
from meshd.store.ops import (AddJournal, DeleteSpool, JournalEntry, PutFact)
from meshd.store.reads import (ReadSpool)
from meshd.ids import Priority
from tests.store.builders import ANNA, put_spool, ref
path = Path(sys.argv[1]) / "mesh.db"
database = Database.open(path)
body = b"x" * 60000

def fill(row):
    while database.apply([(row, [put_spool(row, body=body)])], row)[0].error is None:
        row += 1
    return row

row = fill(1)
rows = database.snapshot().backlogs[0].rows
print("filled", row - 1 == rows > 100)

# mail can't come in, but acks, deletes and their notes can, for long, also together with mail
ack = [AddJournal((JournalEntry(ref(1), 1, "acked"),)), PutFact("mark", b"m", b"v" * 1000)]
mixed = database.apply([(1, [put_spool(row, body=body)]), (2, ack)], 1)
print("mixed", [(each.tickets, each.error) for each in mixed])
print("acks", all(database.apply([(n, [*ack, PutFact("n", n.to_bytes(4, "big"), b"")])], 1)[0].error is None
                  for n in range(2000)))
print("deletes", database.apply([(3, [DeleteSpool(tuple(range(1, rows // 2)))])], 1)[0].error)

# the room inside the file is used again, while the disk stays full
refilled = fill(row)
print("refilled", refilled - row > rows // 4, database.apply([(9, ack)], 1)[0].error)

# and when the disk has room again, everything is as before
(Path(sys.argv[1]) / "other").unlink()
print("room", fill(refilled) - refilled > 100)
waiting = database.snapshot().backlogs[0].rows
database.close()
database = Database.open(path)
print("reopened", database.snapshot().backlogs[0].rows == waiting)
"""


def test_a_full_disk_refuses_mail_and_lets_it_leave(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False, capture_output=True).returncode:
        require("unshare -Urm")
    script = 'mount -t tmpfs -o size=80m tmpfs "$1" && head -c 20M /dev/zero > "$1/other" && exec "$2" -c "$3" "$1"'
    with run_program(unshare, "-Urm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL) as filler:
        said = filler.communicate()[0].splitlines()
    assert said == [
        "filled True",
        "mixed [((2,), None), ((1,), 'E_FULL')]",
        "acks True",
        "deletes None",
        "refilled True None",
        "room True",
        "reopened True",
    ]


def test_deleted_rows_make_room_for_new_ones(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "mesh.db")
    assert database.spare_bytes == 0
    for row in range(1, 41, 20):
        database.apply([(row, [put_spool(each, body=b"x" * 50_000) for each in range(row, row + 20)])], 1)
        database.apply([(row, [DeleteSpool(tuple(range(row, row + 20)))])], 1)
        assert 1_000_000 < database.spare_bytes < 1_100_000
    database.close()
    database = Database.open(tmp_path / "mesh.db")
    assert database.spare_bytes > 1_000_000
    database.close()
    assert (tmp_path / "mesh.db").stat().st_size < 1_500_000
