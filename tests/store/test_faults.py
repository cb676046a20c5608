"""Any operation on the disk fails, once or from then on: what was reported committed stays, the rest is whole."""

import bisect
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import attrs
import pytest

from meshd.errors import MeshdError
from meshd.store.database import Database
from meshd.store.ops import Op, PutFact
from tests.store.disk import Disk, Fault, watched
from tests.store.disk import Op as FileOp
from tests.store.powercut import after_cut
from tests.store.test_powercut import NAME, checked, contents, lay_out
from tests.store.workload import model, transactions, view

CODES = {"E_FULL", "E_DATABASE"}
Group = tuple[Sequence[Op], int]
"""The ops of one ticket, and the clock they were committed with."""


def calls(seed: int) -> list[list[list[list[Op]]]]:
    """Sittings of calls of tickets of ops; one call in three has several tickets."""
    rng = random.Random(seed)
    groups = transactions(rng, 1, 24)
    sittings: list[list[list[list[Op]]]] = [[], []]
    while groups:
        size = min(len(groups), rng.choice((1, 1, 3)))
        sittings[len(groups) <= 12].append(groups[:size])
        del groups[:size]
    return sittings


@attrs.frozen
class Moment:
    """What a cut after so many steps must leave, and what it may leave on top of that, one of these."""

    steps: int
    committed: tuple[Group, ...]
    may: Sequence[Sequence[Group]]


@attrs.define(eq=False)
class Trial:
    """A store on a bad disk, and what it has reported.

    Args:
        committed: in this order.
        doubtful: attempts since the last success that failed; a start may find one of them, whole.
        codes: with which errors.
    """

    path: Path
    disk: Disk
    committed: list[Group] = attrs.field(factory=list)
    doubtful: list[list[Group]] = attrs.field(factory=list)
    codes: Counter[str] = attrs.field(factory=Counter)
    moments: list[Moment] = attrs.field(factory=list)

    def _mark(self, pending: Sequence[Group] = ()) -> None:
        may = [[], *self.doubtful, *(list(some) for n in range(len(pending)) for some in combinations(pending, n + 1))]
        self.moments.append(Moment(len(self.disk.steps), tuple(self.committed), may))

    def check_cut(self, directory: Path, cut: int, rng: random.Random) -> None:
        """What a cut after so many steps leaves is everything that was reported, and perhaps what was under way."""
        path = lay_out(directory, after_cut({}, self.disk.steps[:cut], rng))
        database = Database.open(path)
        found = view(database)
        database.close()
        place = bisect.bisect_right(self.moments, cut, key=lambda moment: moment.steps)
        for moment in reversed(self.moments[max(0, place - 1) : place + 1]):
            if any(view(model([*moment.committed, *more])) == found for more in moment.may):
                break
        else:
            raise AssertionError(f"cut after {cut} of {len(self.disk.steps)}: something is missing")
        checked(path)

    def open(self) -> Database:
        """As the daemon starts: at once, and when that fails, once the disk is well; nothing reported is missing."""
        try:
            database = self._open()
        except MeshdError as error:
            self._note(error.code)
            self.disk.heal()
            database = self._open()
        found = self.look(database)
        if found is None:
            return self.open()
        self.settle(found)
        return database

    def _open(self) -> Database:
        return Database.open(self.path)

    def look(self, database: Database) -> tuple[object, ...] | None:
        """Everything in it; None, and it is closed, when it can't be read, as the daemon ends then."""
        try:
            return view(database)
        except MeshdError as error:
            self._note(error.code)
            database.close()
            self.disk.heal()
            return None

    def settle(self, found: tuple[object, ...]) -> None:
        """After a start: one doubtful attempt may have come true, whole."""
        for attempt in ([], *self.doubtful):
            seen = model([*self.committed, *attempt])
            if view(seen) == found:
                self.committed += attempt
                break
        else:
            raise AssertionError("neither what was reported, nor that and a whole attempt")
        self.doubtful.clear()
        self._mark()

    def apply(self, database: Database, groups: Sequence[Sequence[Op]], clock_ms: int) -> bool:
        """One call with a ticket for each group, the last one chained; False when the daemon would end."""
        tickets = dict(enumerate(groups))
        self._mark([(group, clock_ms) for group in groups])
        events = database.apply(list(tickets.items()), clock_ms, frozenset({len(groups) - 1}))
        assert sorted(ticket for event in events for ticket in event.tickets) == list(tickets)
        failed = [ticket for event in events if event.error for ticket in event.tickets]
        done = [(tickets[ticket], clock_ms) for ticket in tickets if ticket not in failed]
        if done:
            self.committed += done
            self.doubtful.clear()
        else:
            self.doubtful.append([(group, clock_ms) for group in groups])
        self.doubtful += [[(tickets[ticket], clock_ms)] for ticket in failed]
        for event in events:
            if event.error is not None:
                self._note(event.error)
        self._mark()
        return len(groups) - 1 not in failed

    def _note(self, code: str) -> None:
        assert code in CODES, code
        self.codes[code] += 1

    def run(self, sittings: Sequence[Sequence[Sequence[Sequence[Op]]]]) -> None:
        """Open, use and close it; where the daemon would end, start it again."""
        clock_ms = 0
        for sitting in sittings:
            database = self.open()
            for groups in sitting:
                clock_ms += 1
                failed = self.disk.failed
                went_well = self.apply(database, groups, clock_ms)
                if self.disk.failed > failed:
                    found = self.look(database)
                    assert found in (None, view(model(self.committed))), "what failed is not to be seen"
                    went_well = went_well and found is not None
                    if found is None:
                        database = self.open()
                        continue
                if not went_well:
                    database.close()
                    database = self.open()
            database.close()

    def end(self) -> None:
        """The disk is well again, and everything works."""
        self.disk.heal()
        database = self.open()
        assert self.apply(database, [[PutFact("after", b"", b"the fault")]], 10**6)
        self.settle(view(database))
        database.close()
        checked(self.path)


def clear(directory: Path) -> Path:
    return lay_out(directory, {})


def operations(directory: Path, fault: Fault, seed: int) -> int:
    """How many operations of a run could meet the fault."""
    with watched(directory, fault=fault) as disk:
        trial = Trial(clear(directory), disk)
        trial.run(calls(seed))
        done = disk.done
        trial.end()
    return done


def sweep(directory: Path, fault: Fault, lasting: bool, stride: int, seed: int = 1) -> Counter[str]:
    """Fail every ``stride``-th operation of a run, in a run each; then cut the power as well."""
    directory.mkdir(exist_ok=True)
    codes: Counter[str] = Counter()
    for fail_at in range(1 + seed % stride, operations(directory, fault, seed) + 1, stride):
        with watched(directory, fault=fault, fail_at=fail_at, lasting=lasting) as disk:
            trial = Trial(clear(directory), disk)
            trial.run(calls(seed))
            trial.end()
        assert disk.failed
        codes += trial.codes
        codes["runs"] += 1
    return codes


def cut_after_faults(directory: Path, lasting: bool, stride: int, seed: int, cuts: int) -> None:
    """Fail every ``stride``-th sync, and cut the power at moments after that."""
    rng = random.Random(seed)
    directory.mkdir(exist_ok=True)
    left = directory / "left"
    for fail_at in range(1 + seed % stride, operations(directory, Fault.UNSYNCED, seed) + 1, stride):
        with watched(directory, fault=Fault.UNSYNCED, fail_at=fail_at, lasting=lasting) as disk:
            trial = Trial(clear(directory), disk)
            trial.run(calls(seed))
            first = next(n for n, step in enumerate(disk.steps) if step.op is FileOp.SYNC_FAILED)
        with watched(left):
            for _ in range(cuts):
                trial.check_cut(left, rng.randint(first, len(disk.steps)), rng)


both = pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
faults = pytest.mark.parametrize("fault", Fault, ids=[fault.name for fault in Fault])


@both
@faults
def test_a_fault_at_some_operations(tmp_path: Path, fault: Fault, lasting: bool) -> None:
    codes = sweep(tmp_path / "disk", fault, lasting, stride=7 if fault is Fault.UNSYNCED else 53)
    assert codes["E_FULL" if fault is Fault.FULL else "E_DATABASE"]


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(2, 6))
@both
@faults
def test_a_fault_at_each_operation(tmp_path: Path, fault: Fault, lasting: bool, seed: int) -> None:
    sweep(tmp_path / "disk", fault, lasting, stride=1, seed=seed)


@both
def test_a_sync_fails_and_then_the_power(tmp_path: Path, lasting: bool) -> None:
    cut_after_faults(tmp_path / "disk", lasting, stride=4, seed=3, cuts=5)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(4, 12))
@both
def test_each_sync_fails_and_then_the_power(tmp_path: Path, lasting: bool, seed: int) -> None:
    cut_after_faults(tmp_path / "disk", lasting, stride=1, seed=seed, cuts=200)


def test_a_log_that_can_not_be_trusted_is_not_moved_into_the_file(tmp_path: Path) -> None:
    """A process was killed; the next one can't make sure that the log is on the disk, and ends."""
    killed, path = tmp_path / "killed", tmp_path / "next" / NAME
    killed.mkdir()
    database = Database.open(killed / NAME)
    assert database.apply([(1, calls(1)[0][0][0])], 1)[0].error is None
    lay_out(path.parent, contents(killed))
    held = view(database)
    database.close()
    with watched(path.parent, fault=Fault.UNSYNCED, fail_at=1) as disk:
        with pytest.raises(MeshdError) as caught:
            Database.open(path)
        assert (caught.value.code, disk.failed) == ("E_DATABASE", 1)
        assert {step.name for step in disk.steps} == {f"{NAME}-wal"}
        database = Database.open(path)
        assert view(database) == held
        database.close()


def test_where_even_the_log_takes_room_the_reserve_makes_it(tmp_path: Path) -> None:
    """As on btrfs, which writes nothing in place."""
    (tmp_path / "left").mkdir()
    database = Database.open(tmp_path / "left" / NAME)
    database.apply([(1, [PutFact("kind", b"key", b"value")])], 1)
    left = contents(tmp_path / "left")
    database.close()
    for fail_at in range(1, 20):
        path = lay_out(tmp_path / str(fail_at), left)
        reserve = path.with_name(f"{NAME}.reserve")
        reserve.write_bytes(b"of an earlier process")
        with watched(path.parent, fault=Fault.FULL, fail_at=fail_at) as disk:
            try:
                database = Database.open(path)
            except MeshdError:
                assert not disk.steps  # it was not a write that failed
                continue
            if disk.steps:
                assert disk.steps[0].op is FileOp.WRITE
                assert disk.failed
                assert not reserve.read_bytes().startswith(b"of")
                assert database.snapshot().facts["kind"] == {b"key": b"value"}
                database.close()
                return
            database.close()
    raise AssertionError("no write has failed")
