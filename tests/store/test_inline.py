"""The simulator's store: virtual delays, crashes, drawn failures."""

import random

import trio
import trio.testing

from meshd.ids import Priority
from meshd.store.database import Database
from meshd.store.inline import InlineStore
from meshd.store.ops import Committed, PutFact
from meshd.store.reads import Loaded, ReadSpool
from meshd.store.requests import Requests
from tests.store.builders import ANNA, put_spool
from tests.store.clock import Log, run_virtual


def test_it_answers_like_the_worker_after_a_virtual_delay() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        log = Log()
        store = InlineStore(Database.in_memory(), requests, random.Random(1), delay_s=(1.0, 2.0))
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run, log.post)
            start = trio.current_time()
            requests.commit_nowait(1, [put_spool(1)])
            await log.wait(1)
            assert 1.0 <= trio.current_time() - start <= 2.0
            requests.commit_nowait(2, [put_spool(2)], urgent=False)
            requests.read_nowait(3, ReadSpool(ANNA, Priority.NORMAL, 0, 10, 10**6))
            requests.close_nowait()
        rows = [put_spool(1).row, put_spool(2).row]
        assert log.events == [Committed((1,)), Committed((2,)), Loaded(3, rows)]

    run_virtual(test)


def test_cancelled_it_finishes_what_was_asked_for() -> None:
    async def test() -> None:
        database = Database.in_memory()
        requests = Requests(lambda: 0)
        log = Log()
        async with trio.open_nursery() as nursery:
            await nursery.start(InlineStore(database, requests, random.Random(1)).run, log.post)
            requests.commit_nowait(1, [put_spool(1)])
            await trio.testing.wait_all_tasks_blocked()
            requests.commit_nowait(2, [put_spool(2)], urgent=False)
            nursery.cancel_scope.cancel()
        assert log.events == [Committed((1,)), Committed((2,))]
        assert database.snapshot().next_spool_row == 3

    run_virtual(test)


def test_a_crash_loses_what_is_not_committed_and_tells_nobody() -> None:
    outcomes: set[tuple[int, int]] = set()

    rng = random.Random(1)

    async def test() -> None:
        database = Database.in_memory()
        requests = Requests(lambda: 0)
        log = Log()
        store = InlineStore(database, requests, rng, delay_s=(0.01, 0.01))
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run, log.post)
            requests.commit_nowait(1, [put_spool(1)])
            await trio.sleep(rng.uniform(0, 0.012))
            requests.commit_nowait(2, [put_spool(2)], urgent=False)
            store.crash()
        told = sum(len(event.tickets) for event in log.events if isinstance(event, Committed))
        outcomes.add((database.snapshot().next_spool_row - 1, told))

        again = Requests(lambda: 0)
        again.commit_nowait(3, [put_spool(3)])
        again.close_nowait()
        await InlineStore(database, again, rng).run(log.post)
        assert log.events[-1] == Committed((3,))

    for _ in range(40):
        run_virtual(test)
    assert outcomes == {(0, 0), (1, 0), (1, 1)}  # lost, committed unknown to anybody, committed and told


def test_drawn_failures_refuse_mail_only_and_repeat_with_the_seed() -> None:
    def refused(seed: int) -> list[int]:
        log = Log()

        async def test() -> None:
            requests = Requests(lambda: 0)
            store = InlineStore(Database.in_memory(), requests, random.Random(seed), full_chance=0.5)
            async with trio.open_nursery() as nursery:
                await nursery.start(store.run, log.post)
                for ticket in range(1, 41):
                    requests.commit_nowait(ticket, [put_spool(ticket)] if ticket % 2 else [PutFact("k", b"", b"")])
                    await log.wait(ticket)
                requests.close_nowait()

        run_virtual(test)
        return [event.tickets[0] for event in log.events if isinstance(event, Committed) and event.error == "E_FULL"]

    assert refused(1) == refused(1) != refused(2)
    assert refused(1)
    assert all(ticket % 2 for ticket in refused(1))
