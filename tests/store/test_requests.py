"""When requests are due, and how they are cut into transactions."""

import pytest
import trio

from meshd.errors import LocalProtocolError
from meshd.store.database import Database
from meshd.store.ops import Committed, PutFact
from meshd.store.reads import Loaded, ReadKey, ReadSpool
from meshd.store.requests import LAZY_OPS_MAX, LAZY_WAIT_S, TRANSACTION_BYTES, Ask, Commit, Requests, carry_out, split
from tests.store.builders import ANNA, put_inbox, put_spool
from tests.store.clock import run_virtual

FACT = PutFact("k", b"a", b"v")
READ = ReadKey("uid:1", "k")


def test_an_urgent_commit_is_due_at_once_and_takes_the_others_along() -> None:
    async def test() -> None:
        start = trio.current_time()
        requests = Requests(lambda: 42)
        requests.commit_nowait(1, [FACT], urgent=False)
        requests.commit_nowait(2, [FACT])
        due = await requests.take()
        assert (due.requests, due.clock_ms) == ((Commit(1, [FACT]), Commit(2, [FACT])), 42)
        assert trio.current_time() == start

    run_virtual(test)


def test_commits_that_are_not_urgent_wait_for_company_but_not_long() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        start = trio.current_time()
        requests.commit_nowait(1, [FACT], urgent=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.02)
            requests.commit_nowait(2, [FACT], urgent=False)
            due = await requests.take()
        assert trio.current_time() - start == pytest.approx(LAZY_WAIT_S)
        assert len(due.requests) == 2
        with trio.move_on_after(10) as waiting:
            await requests.take()
        assert waiting.cancelled_caught

        for ticket in range(LAZY_OPS_MAX // 10):
            requests.commit_nowait(ticket, [FACT] * 10, urgent=False)
        start = trio.current_time()
        await requests.take()
        assert trio.current_time() == start

    run_virtual(test)


def test_a_taker_that_waits_is_woken_and_a_cancelled_one_takes_nothing() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        with trio.move_on_after(1):
            await requests.take()
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await trio.sleep(1)
                requests.read_nowait(7, READ)

            nursery.start_soon(ask)
            assert (await requests.take()).requests == (Ask(7, READ),)

    run_virtual(test)


def test_after_closing_the_rest_is_taken_and_nothing_is_let_in() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        requests.commit_nowait(1, [FACT], urgent=False)
        requests.close_nowait()
        with pytest.raises(LocalProtocolError):
            requests.read_nowait(2, READ)
        assert (await requests.take()).requests == (Commit(1, [FACT]),)
        assert (await requests.take()).requests == ()

    run_virtual(test)


def test_what_is_due_pours_into_an_outlet_in_the_same_call() -> None:
    async def test() -> None:
        requests = Requests(lambda: 0)
        poured: list[tuple[int, ...]] = []
        requests.commit_nowait(1, [FACT], urgent=False)
        requests.pour_into(lambda due: poured.append(tuple(request.ticket for request in due.requests)))
        requests.commit_nowait(2, [FACT], urgent=False)
        assert poured == [(1,)]
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await trio.sleep(LAZY_WAIT_S / 2)
                requests.commit_nowait(3, [FACT])
                requests.commit_nowait(4, [FACT], urgent=False)

            nursery.start_soon(hurry)
            start = trio.current_time()
            due = await requests.take()
            assert [request.ticket for request in due.requests] == [4]
            assert trio.current_time() - start == pytest.approx(1.5 * LAZY_WAIT_S)
        assert poured == [(1,), (2, 3)]

    run_virtual(test)


def test_runs_keep_the_order_and_bound_a_transaction() -> None:
    half = b"x" * (TRANSACTION_BYTES // 2)
    commits = [Commit(ticket, [put_spool(ticket, body=half)]) for ticket in (1, 2, 3)]
    large = Commit(6, [put_inbox(1, messages=half * 3)])
    asks = [Ask(4, READ), Ask(5, READ)]
    small = Commit(7, [FACT])
    runs = [list(run) for run in split([*commits, *asks, large, small])]
    assert runs == [commits[:2], commits[2:], asks, [large], [small]]
    assert list(split([])) == []


def test_a_read_sees_the_commits_before_it_and_none_after() -> None:
    database = Database.in_memory()
    read = ReadSpool(ANNA, put_spool(1).row.priority, 0, 10, 10**6)
    requests = [Commit(1, [put_spool(1)]), Ask(2, read), Commit(3, [put_spool(2)]), Ask(4, read)]
    events = [event for run in split(requests) for event in carry_out(database, run, 0)]
    assert events == [
        Committed((1,)),
        Loaded(2, [put_spool(1).row]),
        Committed((3,)),
        Loaded(4, [put_spool(1).row, put_spool(2).row]),
    ]
