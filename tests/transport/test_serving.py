"""Who gets a place among the half-open, who has to go, and where errors end."""

import random

import pytest
import structlog.testing
import trio
import trio.testing

from meshd.transport.base import Address, TransportError
from meshd.transport.serving import HalfOpen, HalfOpenLimits, Slot, contained, deadline, plain_nursery

LIMITS = HalfOpenLimits(per_address=2, total=8, kept=3)


def enter(half_open: HalfOpen, *hosts: str) -> list[Slot | None]:
    return [half_open.enter(host, trio.CancelScope()) for host in hosts]


def cancelled(slots: list[Slot | None]) -> list[str]:
    async def look() -> list[str]:  # scopes answer within trio only
        return [slot.host for slot in slots if slot is not None and slot.scope.cancel_called]

    return trio.run(look)


def test_an_address_has_its_share_and_no_more() -> None:
    half_open = HalfOpen(LIMITS, frozenset, random.Random(0))
    first, second, third = enter(half_open, "a", "a", "a")
    assert first is not None
    assert second is not None
    assert third is None
    half_open.leave(first)
    half_open.leave(first)
    assert len(half_open) == 1
    assert enter(half_open, "a") != [None]


def test_who_has_proven_its_address_takes_the_place_of_whoever_claims_it() -> None:
    half_open = HalfOpen(LIMITS, frozenset, random.Random(0))
    claims = [half_open.enter("a", trio.CancelScope(), proven=False) for _ in range(2)]
    assert half_open.wants_proof("a")
    assert not half_open.wants_proof("b")
    assert half_open.enter("a", trio.CancelScope(), proven=False) is None
    assert claims[0] is not None
    half_open.prove(claims[0])
    real = half_open.enter("a", trio.CancelScope())
    assert real is not None
    assert cancelled(claims) == ["a"]
    assert claims[1] not in half_open._slots
    assert half_open.enter("a", trio.CancelScope()) is None
    assert len(half_open) == 2


def test_it_takes_no_place_of_who_is_elsewhere() -> None:
    half_open = HalfOpen(LIMITS, frozenset, random.Random(0))
    elsewhere = half_open.enter("b", trio.CancelScope(), proven=False)
    assert None not in enter(half_open, "a", "a")
    assert enter(half_open, "a") == [None]
    assert cancelled([elsewhere]) == []
    assert len(half_open) == 3


def test_strangers_push_out_strangers_and_never_take_the_kept_places() -> None:
    half_open = HalfOpen(LIMITS, lambda: {"friend", "mate"}, random.Random(0))
    strangers = enter(half_open, *"abcde")
    assert cancelled(strangers) == []
    friends = enter(half_open, "friend", "friend", "mate")
    assert cancelled(strangers) == []
    late = enter(half_open, *"fghij")
    assert None not in late
    assert cancelled(friends) == []
    assert len(cancelled(strangers + late)) == 5
    assert len(half_open) == LIMITS.total


def test_the_remembered_push_out_strangers_first_then_each_other() -> None:
    known = {str(number) for number in range(20)}
    half_open = HalfOpen(LIMITS, lambda: known, random.Random(0))
    strangers = enter(half_open, "a", "b")
    friends = enter(half_open, *(str(number) for number in range(8)))
    assert sorted(cancelled(strangers)) == ["a", "b"]
    assert cancelled(friends) == []
    friends += enter(half_open, "9")
    assert len(cancelled(friends)) == 1


def test_crowded_means_half_full() -> None:
    half_open = HalfOpen(LIMITS, frozenset, random.Random(0))
    enter(half_open, *"abc")
    assert not half_open.is_crowded
    enter(half_open, "d")
    assert half_open.is_crowded


def test_the_same_rng_evicts_the_same_one() -> None:
    def evicted() -> list[str]:
        half_open = HalfOpen(LIMITS, frozenset, random.Random(42))
        return cancelled(enter(half_open, *"abcdefghijklmnop"))

    assert evicted() == evicted()


def test_a_plain_nursery_passes_errors_on_as_they_are_and_ends_its_tasks() -> None:
    ended = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async def body() -> None:
        async def fail() -> None:
            async with plain_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert ended == [True]

    trio.run(body)


def test_a_deadline_is_a_transport_error() -> None:
    async def body() -> None:
        with pytest.raises(TransportError, match=r"no answer within 0\.5 s"), deadline(0.5):
            await trio.sleep_forever()

    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))


def test_what_opens_a_connection_fails_alone() -> None:
    remote = Address("websocket", "192.0.2.1", 1)
    with structlog.testing.capture_logs() as logs:
        with contained("websocket", remote):
            raise TransportError("too many")
        with contained("websocket", remote):
            raise ExceptionGroup("tasks", [UnicodeError("no ASCII")])
        with pytest.raises(KeyboardInterrupt), contained("websocket", remote):
            raise KeyboardInterrupt
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("connection.refused", "info"),
        ("connection.failed", "error"),
    ]
    assert logs[0]["reason"] == "too many"
