"""Power is cut at any operation: the store opens again, with all that was reported committed, and nothing in parts."""

import bisect
import random
from collections.abc import Sequence
from pathlib import Path

import apsw
import attrs
import pytest

from meshd.errors import MeshdError
from meshd.store.database import Database
from meshd.store.ops import Op, PutFact
from meshd.store.schema import MIGRATIONS, migrate, version_of
from tests.store.builders import put_spool
from tests.store.disk import Op as FileOp
from tests.store.disk import Step, watched
from tests.store.powercut import Files, after_cut
from tests.store.workload import model, transactions, view

NAME = "mesh.db"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name.startswith(NAME) and path.suffix != ".reserve"
    }


def lay_out(directory: Path, files: Files) -> Path:
    """Make these the files of ``directory``; the reserve stays, because to make it takes longest."""
    directory.mkdir(exist_ok=True)
    for name in contents(directory):
        (directory / name).unlink()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory / NAME


def checked(path: Path) -> None:
    """More than a start looks at: the indexes agree with the tables."""
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


@attrs.define(eq=False)
class Life:
    """What happened to a store while it was watched: before which step it had reported how many commits.

    Args:
        before: the files at its beginning.
        reported: [n]: how many steps there were when commit n was reported; the first is 0, for none.
        begun: [n]: how many there were when commit n + 1 was asked for.
        views: [n]: what it holds after n commits.
    """

    before: Files
    steps: list[Step] = attrs.field(factory=list)
    reported: list[int] = attrs.field(factory=lambda: [0])
    begun: list[int] = attrs.field(factory=list)
    views: list[tuple[object, ...]] = attrs.field(factory=list)

    def check_cut(self, directory: Path, cut: int, rng: random.Random) -> None:
        """Cut the power after so many steps, and open what is left."""
        path = lay_out(directory, after_cut(self.before, self.steps[:cut], rng))
        database = Database.open(path)
        found = view(database)
        least = bisect.bisect_right(self.reported, cut) - 1
        most = bisect.bisect_right(self.begun, cut)
        assert found in self.views[least : most + 1], f"cut after {cut} of {len(self.steps)}, {least} were reported"
        [committed] = database.apply([(1, [PutFact("after", b"", b"the cut")])], 10**6)
        assert committed.error is None
        found = view(database)
        database.close()
        checked(path)
        database = Database.open(path)
        assert view(database) == found
        database.close()


def live(directory: Path, groups: Sequence[Sequence[Op]], *, sittings: int = 2) -> Life:
    """A store is opened, used and closed, ``sittings`` times, under watch."""
    life = Life(contents(directory))
    seen = Database.in_memory()
    if NAME in life.before:
        seen.close()
        raise AssertionError("a life begins with nothing here")
    life.views.append(view(seen))
    with watched(directory) as disk:
        done = 0
        for sitting in range(1, sittings + 1):
            database = Database.open(directory / NAME)
            for ticket, ops in enumerate(groups[done : len(groups) * sitting // sittings], start=done):
                life.begun.append(len(disk.steps))
                [committed] = database.apply([(ticket, ops)], ticket)
                assert committed.error is None
                life.reported.append(len(disk.steps))
                seen.apply([(ticket, ops)], ticket)
                life.views.append(view(seen))
                done = ticket + 1
            database.close()
        life.steps = disk.steps
    return life


def sweep(tmp_path: Path, life: Life, cuts: Sequence[int], seeds: int) -> None:
    left = tmp_path / "left"
    with watched(left):
        for cut in cuts:
            for seed in range(seeds):
                life.check_cut(left, cut, random.Random(f"{cut} {seed}"))


def made(tmp_path: Path) -> Path:
    path = tmp_path / "live"
    path.mkdir()
    return path


def test_a_cut_during_the_first_creation(tmp_path: Path) -> None:
    life = live(made(tmp_path), [], sittings=1)
    sweep(tmp_path, life, range(len(life.steps) + 1), seeds=1)


def test_a_cut_at_any_operation_of_two_sittings(tmp_path: Path) -> None:
    life = live(made(tmp_path), transactions(random.Random(1), 1, 16))
    assert any(step.op is FileOp.WRITE and step.name == NAME for step in life.steps), "checkpoints are among them"
    sweep(tmp_path, life, range(0, len(life.steps) + 1, 5), seeds=1)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(2, 8))
def test_cuts_at_each_operation_of_long_lives(tmp_path: Path, seed: int) -> None:
    life = live(made(tmp_path), transactions(random.Random(seed), 1, 32), sittings=3)
    sweep(tmp_path, life, range(len(life.steps) + 1), seeds=5)


def checkpointed(tmp_path: Path) -> tuple[Life, int]:
    """A life in which the log fills up and begins anew, and where the first page moves from it to the file."""
    groups: list[list[Op]] = [[put_spool(row, body=b"%03d" % row * 100_000)] for row in range(1, 19)]
    life = live(made(tmp_path), groups, sittings=1)
    logged = next(n for n, step in enumerate(life.steps) if n > 100 and step.name == NAME)
    assert logged < life.reported[-2] - 100, "in the middle, not at the end"
    return life, logged


def test_a_cut_while_a_full_log_moves_into_the_file(tmp_path: Path) -> None:
    life, first = checkpointed(tmp_path)
    last = next(n for n, step in enumerate(life.steps) if n > first and step.name == NAME and step.op is FileOp.SYNC)
    cuts = [*range(first, last, (last - first) // 10), *range(last - 1, last + 6), *range(last + 20, last + 300, 60)]
    sweep(tmp_path, life, cuts, seeds=1)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_cuts_all_the_while_a_full_log_moves_into_the_file(tmp_path: Path) -> None:
    life, first = checkpointed(tmp_path)
    sweep(tmp_path, life, range(first - 20, len(life.steps) + 1, 3), seeds=2)


def chain(directory: Path, lives: int, seed: int) -> None:
    """One life after the other, each ended by a power cut, on the files that the last one left."""
    rng = random.Random(seed)
    directory.mkdir()
    files: Files = {}
    certain: list[tuple[list[Op], int]] = []
    possible: list[tuple[list[Op], int]] = []
    clock_ms = 0
    for life in range(lives):
        with watched(directory) as disk:
            lay_out(directory, files)
            database = Database.open(directory / NAME)
            found = view(database)
            kept = next((n for n in range(len(possible) + 1) if view(model([*certain, *possible[:n]])) == found), None)
            assert kept is not None, f"seed {seed}, life {life}"
            certain += possible[:kept]
            marks = [(len(disk.steps), 0)]
            possible = []
            row = 1 + 200 * life
            for ops in transactions(rng, row, rng.randint(1, 12)):
                clock_ms += 1
                possible.append((ops, clock_ms))
                [committed] = database.apply([(clock_ms, ops)], clock_ms)
                assert committed.error is None
                marks.append((len(disk.steps), len(possible)))
            database.close()
            checked(directory / NAME)
            cut = rng.randint(0, len(disk.steps))
            files = after_cut(files, disk.steps[:cut], rng)
            reported = max((count for steps, count in marks if steps <= cut), default=0)
            certain += possible[:reported]
            possible = possible[reported:]


def test_one_cut_after_the_other(tmp_path: Path) -> None:
    chain(tmp_path / "disk", lives=12, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(2, 102))
def test_many_cuts_after_each_other(tmp_path: Path, seed: int) -> None:
    chain(tmp_path / "disk", lives=30, seed=seed)


NEXT = """
CREATE TABLE extra (row INTEGER PRIMARY KEY, ref BLOB NOT NULL);
INSERT INTO extra SELECT row, ref FROM spool;
CREATE INDEX spool_extra ON spool (source, row);
ALTER TABLE facts ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE facts SET at_ms = 7;
"""
"""As a later format might be made."""


def migrated(directory: Path, *migrations: str) -> None:
    connection = apsw.Connection(str(directory / NAME))
    connection.pragma("locking_mode", "exclusive")
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    migrate(connection, migrations)
    connection.close()


def test_a_cut_during_a_migration_leaves_the_old_format_or_the_new(tmp_path: Path) -> None:
    directory, left = made(tmp_path), tmp_path / "left"
    database = Database.open(directory / NAME)
    for ticket, ops in enumerate(transactions(random.Random(5), 1, 16)):
        database.apply([(ticket, ops)], ticket)
    held = view(database)
    database.close()
    before = contents(directory)
    with watched(directory) as disk:
        migrated(directory, *MIGRATIONS, NEXT)
    seen: set[int] = set()
    with watched(left):
        for cut in range(len(disk.steps) + 1):
            path = lay_out(left, after_cut(before, disk.steps[:cut], random.Random(cut)))
            connection = apsw.Connection(str(path))
            version = version_of(connection)
            connection.close()
            seen.add(version)
            checked(path)
            if version == len(MIGRATIONS):
                database = Database.open(path)
                assert view(database) == held
                database.close()
            else:
                with pytest.raises(MeshdError) as caught:
                    Database.open(path)
                assert caught.value.code == "E_NEWER_STATE"
    assert seen == {len(MIGRATIONS), len(MIGRATIONS) + 1}
