"""Numbers and tables for people, and spans of time from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.cli import screen, units


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("1h30m", 5_400_000), ("7d", 604_800_000), ("0.5s", 500)],
)
def test_spans_are_read(text: str, expected_ms: int) -> None:
    assert units.parse_span(text) == expected_ms


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1s", "0s", "1y", "1e3s", "99999w", "7D", "1h 30m"])
def test_what_is_no_span_is_refused_with_an_example_or_the_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"for example|between"):
        units.parse_span(text)


@given(st.text(max_size=20))
def test_no_text_breaks_the_span_reader(text: str) -> None:
    try:
        assert units.parse_span(text) >= 1
    except ValueError:
        return


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.milliseconds(3.24), "3.2 ms"),
        (units.milliseconds(250.4), "250 ms"),
        (units.milliseconds(1500), "1.5 s"),
        (units.milliseconds(None), "-"),
        (units.size(0), "0 B"),
        (units.size(1023), "1023 B"),
        (units.size(12_698), "12.4 KiB"),
        (units.size(1024**3), "1.0 GiB"),
        (units.size(5 * 1024**6), "5242880.0 TiB"),
        (units.age(0.04), "0.0 s"),
        (units.age(59.6), "60 s"),
        (units.age(190), "3 min"),
        (units.age(7300), "2 h"),
        (units.age(3 * 86_400), "3 d"),
        (units.age(None), "-"),
        (units.percent(0.004), "0.4 %"),
        (units.percent(0.25), "25 %"),
        (units.percent(0), "0 %"),
        (units.count(1, "message"), "1 message"),
        (units.count(0, "message"), "0 messages"),
    ],
)
def test_numbers_are_shown_with_their_unit(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_table_without_rows_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    screen.table(("NAME", "STATE"), [])
    assert capsys.readouterr().out == ""
    screen.table(("NAME", "STATE"), [("a", "up")])
    assert capsys.readouterr().out == "NAME  STATE\na     up\n"
