"""One lane's window, without a network: what is granted, what counts against it, and who waits for more."""

import trio
import trio.testing

from meshd.transport.framing import PREFIX_BYTES, encode_batches, encode_grant
from meshd.transport.lanes import INITIAL_WINDOW_BYTES, LaneWindow


def encoded(*frames: bytes) -> bytes:
    return b"".join(encode_batches(frames))


def test_what_is_read_is_granted_again_once_it_is_a_good_part_of_the_window() -> None:
    lane = LaneWindow(0)
    part = INITIAL_WINDOW_BYTES // 8 - PREFIX_BYTES
    assert lane.take_in(encoded(bytes(part), bytes(part)), end=False) is None
    assert lane.take_grant(INITIAL_WINDOW_BYTES) == 0, "nothing has been read"
    lane.pop()
    assert lane.take_grant(INITIAL_WINDOW_BYTES) == 0, "an eighth has been read"
    lane.pop()
    assert lane.take_grant(INITIAL_WINDOW_BYTES) == INITIAL_WINDOW_BYTES // 4
    assert lane.take_grant(INITIAL_WINDOW_BYTES) == 0, "that is granted already"


def test_a_larger_window_is_granted_without_anything_read() -> None:
    assert LaneWindow(0).take_grant(4 * INITIAL_WINDOW_BYTES) == 3 * INITIAL_WINDOW_BYTES


def test_more_than_was_granted_is_a_flood() -> None:
    full = encoded(bytes(INITIAL_WINDOW_BYTES - PREFIX_BYTES))
    lane = LaneWindow(0)
    assert lane.take_in(full, end=False) is None
    error = lane.take_in(encoded(b"more"), end=False)
    assert error is not None
    assert error.code == "P_FLOOD"


def test_a_grant_is_no_frame_and_wakes_whoever_waits_for_credit() -> None:
    lane = LaneWindow(0)

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lane.wait_for_credit)
            await trio.testing.wait_all_tasks_blocked()
            assert lane.take_in(encode_grant(1000) + encoded(b"frame"), end=False) is None

    trio.run(body)
    assert lane.credit == INITIAL_WINDOW_BYTES + 1000
    assert list(lane.frames) == [b"frame"]


def test_when_there_will_be_no_more_credit_nobody_waits_for_it() -> None:
    lane = LaneWindow(0)
    lane.end_credit()
    trio.run(lane.wait_for_credit)
    assert lane.credit == INITIAL_WINDOW_BYTES


def test_the_last_bytes_end_it() -> None:
    lane = LaneWindow(0)
    assert not lane.is_open
    lane.take_in(encoded(b"last"), end=True)
    assert (lane.is_open, lane.is_finished, lane.pop()) == (True, True, b"last")
