"""Credit passed on within a bound of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from meshd.api.pacing import Window

MIB = 1024 * 1024


def test_first_grant_assumes_the_largest_messages() -> None:
    assert Window(5000).grant(8 * MIB) == 8


def test_small_messages_open_the_window_at_once() -> None:
    window = Window(5000)
    granted = window.grant(8 * MIB)
    window.delivered(256, 256 * 64)
    assert window.grant(8 * MIB) == 5000 - granted


def test_large_messages_close_it_and_are_remembered() -> None:
    window = Window(100_000)
    window.grant(8 * MIB)
    window.delivered(8, 8 * MIB)
    window.delivered(1, 10)  # one small one among them does not open it wide
    assert window.grant(8 * MIB) <= 8 + 9 + 8


def test_nothing_is_granted_without_room_and_all_is_in_the_end() -> None:
    window = Window(30)
    assert window.grant(0) == 0
    total = 0
    for _ in range(30):
        granted = window.grant(8 * MIB)
        total += granted
        window.delivered(granted, granted * MIB)
    assert total == 30


def test_grants_come_by_halves() -> None:
    window = Window(10_000)
    window.grant(8 * MIB)
    window.delivered(8, 8 * 64 * 1024)
    assert window.grant(8 * MIB) == 128
    window.delivered(1, 64 * 1024)
    assert window.grant(8 * MIB) == 0


@given(st.integers(1, 10_000), st.lists(st.tuples(st.integers(1, 300), st.integers(0, MIB)), max_size=50))
def test_no_more_is_granted_than_the_reader_gave(credit: int, batches: list[tuple[int, int]]) -> None:
    window = Window(credit)
    granted = window.grant(8 * MIB)
    for messages, each in batches:
        window.delivered(messages, messages * each)
        granted += window.grant(8 * MIB)
        assert granted <= credit
