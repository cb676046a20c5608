"""The thread: group commit, ending, cancellation, a disk that hangs."""

import threading
import time
from collections.abc import Sequence, Set
from pathlib import Path

import pytest
import structlog.testing
import trio
import trio.testing

from meshd.histogram import Histogram
from meshd.ids import Priority
from meshd.store.database import Batch, Database
from meshd.store.ops import Committed
from meshd.store.reads import Loaded, ReadSpool
from meshd.store.requests import Ask, Commit, Requests
from meshd.store.worker import CLOSE_LIMIT_S, SLOW_COMMIT_S, Timing, run_worker
from tests.store.builders import ANNA, put_spool
from tests.store.clock import Log

READ = ReadSpool(ANNA, Priority.NORMAL, 0, 10, 10**6)


class HeldDatabase(Database):
    """A disk that answers when the test lets it; counts transactions."""

    gate: threading.Semaphore
    entered: threading.Semaphore
    sizes: list[int]

    @classmethod
    def make(cls) -> "HeldDatabase":
        database = cls.in_memory()
        database.gate = threading.Semaphore(0)
        database.entered = threading.Semaphore(0)
        database.sizes = []
        return database

    def apply(self, batches: Sequence[Batch], clock_ms: int, chained: Set[int] = frozenset()) -> list[Committed]:
        if batches:
            self.entered.release()
            self.gate.acquire()
            self.sizes.append(len(batches))
        return super().apply(batches, clock_ms, chained)


def test_commits_and_reads_are_answered_in_order_and_the_rest_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    log = Log()

    async def test() -> None:
        requests = Requests(lambda: 5)
        async with trio.open_nursery() as nursery:
            await nursery.start(run_worker, Database.open(path), requests, log.post)
            requests.commit_nowait(1, [put_spool(1)])
            requests.read_nowait(2, READ)
            await log.wait(2)
            requests.commit_nowait(3, [put_spool(2)], urgent=False)
            await log.wait(3)
            requests.commit_nowait(4, [put_spool(3)], urgent=False)
            requests.close_nowait()
        assert log.events == [Committed((1,)), Loaded(2, [put_spool(1).row]), Committed((3,)), Committed((4,))]

    trio.run(test)
    database = Database.open(path)
    assert database.snapshot().next_spool_row == 4
    database.close()


def test_what_waits_while_the_disk_works_shares_the_next_transaction() -> None:
    async def test() -> None:
        database = HeldDatabase.make()
        requests = Requests(lambda: 0)
        log = Log()
        async with trio.open_nursery() as nursery:
            await nursery.start(run_worker, database, requests, log.post)
            requests.commit_nowait(1, [put_spool(1)])
            await trio.to_thread.run_sync(database.entered.acquire)
            for ticket in range(2, 50):
                requests.commit_nowait(ticket, [put_spool(ticket)])
            await trio.testing.wait_all_tasks_blocked()  # the loop goes on while the disk hangs
            assert log.events == []
            database.gate.release(2)
            await log.wait(2)
            requests.close_nowait()
        assert log.events == [Committed((1,)), Committed(tuple(range(2, 50)))]
        assert database.sizes == [1, 48]

    trio.run(test)


def test_cancelled_it_finishes_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    log = Log()

    async def test() -> None:
        requests = Requests(lambda: 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(run_worker, Database.open(path), requests, log.post)
            for ticket in range(1, 20):
                requests.commit_nowait(ticket, [put_spool(ticket)], urgent=ticket % 2 == 0)
            nursery.cancel_scope.cancel()

    trio.run(test)
    tickets = [ticket for event in log.events if isinstance(event, Committed) for ticket in event.tickets]
    assert tickets == list(range(1, 20))
    database = Database.open(path)
    assert database.snapshot().backlogs[0].rows == 19
    database.close()


def test_a_disk_that_hangs_does_not_keep_the_daemon() -> None:
    database = HeldDatabase.make()
    ended: list[float] = []

    async def test() -> None:
        requests = Requests(lambda: 0)
        async with trio.open_nursery() as nursery:
            await nursery.start(run_worker, database, requests, Log().post)
            requests.commit_nowait(1, [put_spool(1)])
            await trio.to_thread.run_sync(database.entered.acquire)
            start = trio.current_time()
            nursery.cancel_scope.cancel()
        ended.append(trio.current_time() - start)

    trio.run(test, clock=trio.testing.MockClock(rate=50))
    database.gate.release()
    for thread in threading.enumerate():
        if thread.name == "store":
            thread.join(10)
            assert not thread.is_alive()
    assert ended[0] >= CLOSE_LIMIT_S


class SlowDatabase(Database):
    """A disk that takes a little too long."""

    def apply(self, batches: Sequence[Batch], clock_ms: int, chained: Set[int] = frozenset()) -> list[Committed]:
        time.sleep(1.1 * SLOW_COMMIT_S)
        return super().apply(batches, clock_ms, chained)


def test_a_slow_commit_is_logged() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        requests.commit_nowait(1, [put_spool(1)])
        requests.close_nowait()
        await run_worker(SlowDatabase.in_memory(), requests, Log().post)

    with structlog.testing.capture_logs() as logs:
        trio.run(test)
    assert [(entry["event"], entry["log_level"], entry["requests"]) for entry in logs] == [
        ("commit slow", "warning", 1)
    ]


class BrokenDatabase(Database):
    """Has a defect."""

    def apply(self, batches: Sequence[Batch], clock_ms: int, chained: Set[int] = frozenset()) -> list[Committed]:
        raise ZeroDivisionError


def test_a_defect_in_the_thread_ends_the_worker() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        requests.commit_nowait(1, [put_spool(1)])
        await run_worker(BrokenDatabase.in_memory(), requests, Log().post)

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(test)
    assert caught.group_contains(ZeroDivisionError)


def test_a_defect_in_the_receiver_ends_the_worker() -> None:
    def post(event: object) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        requests = Requests(lambda: 0)
        requests.commit_nowait(1, [put_spool(1)])
        await run_worker(Database.in_memory(), requests, post)

    with pytest.raises((ExceptionGroup, ZeroDivisionError)):
        trio.run(test)


def test_what_is_slow_is_a_matter_of_configuration_and_everything_is_counted() -> None:
    commits, reads = Histogram((0.1,)), Histogram((0.1,))
    timing = Timing(slow_s=0.5, commits=commits, reads=reads)
    with structlog.testing.capture_logs() as logs:
        for took_s in (0.2, 0.6):
            timing.note([Commit(1, ())], took_s)
            timing.note([Ask(2, READ)], took_s)
    assert [(line["event"], line["took_ms"], line["limit_ms"]) for line in logs] == [
        ("commit slow", 600, 500),
        ("read slow", 600, 500),
    ]
    assert commits.snapshot().buckets[-1][1] == reads.snapshot().buckets[-1][1] == 2
    assert commits.snapshot().total == pytest.approx(0.8)
