"""Logging: what a value may look like, what is never written, levels that change, lines that keep coming."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from meshd.components import LOG_COMPONENTS, LOG_LEVELS
from meshd.logs import LEVELS, REPEAT_S, REPEATS, Repeats
from meshd.masking import MASK, TEXT_MAX, plain_event, scrub
from meshd.node.tokens import PREFIX
from meshd.trust.invitations import CODE_PREFIX

ROOT = Path(__file__).parents[1]


def plain(**fields: Any) -> dict[str, Any]:
    return dict(plain_event(None, "info", fields))


# --- masking


@given(st.binary(min_size=4), st.sampled_from(["value", "items", "inner"]))
def test_bytes_are_never_shown(data: bytes, place: str) -> None:
    value: Any = {"value": data, "items": [data, (data,)], "inner": {"a": {"b": data}}}[place]
    shown = json.dumps(plain(value=value))
    assert f"<{len(data)} bytes>" in shown
    assert repr(data) not in shown


class Holder:
    """Something whose repr would tell."""

    def __repr__(self) -> str:
        return "planted-secret"


@pytest.mark.parametrize("value", [Holder(), [Holder()], {"x": Holder()}, ValueError("planted-secret")])
def test_objects_are_named_and_not_shown(value: object) -> None:
    assert "planted" not in json.dumps(plain(value=value))


@pytest.mark.parametrize("name", ["payload", "body", "token", "key", "secret", "words"])
def test_secret_fields_are_masked_whatever_is_in_them(name: str) -> None:
    assert plain(**{name: "planted-secret"}) == {name: MASK}
    assert plain(inner={name: "planted-secret"}) == {"inner": {name: MASK}}


@pytest.mark.parametrize(
    "text",
    [
        "bad value b'planted-secret' found",
        'bad value b"planted-secret" found',
        "b'planted-secret",
        "(b'it\\'s planted-secret')",
        "bytearray(b'planted-secret')",
    ],
)
def test_bytes_in_the_text_of_an_exception_are_masked(text: str) -> None:
    assert "planted" not in json.dumps(plain(reason=text))
    assert "planted" not in json.dumps(plain(exception=f"Traceback\nValueError: {text}"))


def test_ordinary_text_stays_as_it_is() -> None:
    fields = {"peer": "b", "reason": "it's b", "address": "quic://[::1]:7843", "count": 3, "share": 0.5, "none": None}
    assert plain(**fields) == fields
    line = json.dumps(fields)
    assert scrub(line) == line


def test_long_text_is_cut() -> None:
    shown = plain(reason="x" * (TEXT_MAX + 5))["reason"]
    assert shown.startswith("x" * TEXT_MAX)
    assert shown.endswith(f"({TEXT_MAX + 5} characters)")


def test_what_looks_like_a_secret_is_found_in_any_line() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----"
    code = CODE_PREFIX + "abcdefgh234567" * 5
    token = PREFIX + "abcdefgh234567" * 3
    for secret in (pem, code, code.upper(), token):
        assert scrub(f"before {secret} after") == f"before {MASK} after"
    assert scrub('{"header": "Bearer abc.def"}') == '{"header": "Bearer ***"}'


# --- lines that keep coming


class Logger:
    component = "links"


def flood(repeats: Repeats, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Log the same line so often; returns what passes."""
    passed = []
    for _ in range(count):
        try:
            passed.append(dict(repeats(Logger(), "warning", {"component": "links", "event": "failed", **fields})))
        except structlog.DropEvent:
            continue
    return passed


def test_a_line_that_keeps_coming_is_written_now_and_then_with_a_count() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    assert len(flood(repeats, 1000)) == REPEATS
    now[0] += REPEAT_S
    [line, *none] = flood(repeats, 5)
    assert (line["repeats"], none) == (1000 - REPEATS, [])
    now[0] += 1000 * REPEAT_S
    assert len(flood(repeats, 1000)) == REPEATS


def test_each_peer_counts_for_itself_and_debug_is_never_held_back() -> None:
    repeats = Repeats(lambda: 0.0)
    assert len(flood(repeats, 50, peer="kitchen")) == len(flood(repeats, 50, peer="attic")) == REPEATS
    for _ in range(50):
        repeats(Logger(), "debug", {"component": "links", "event": "frame"})


def test_a_flood_of_different_lines_takes_bounded_memory() -> None:
    repeats = Repeats(lambda: 0.0)
    for number in range(5_000):
        flood(repeats, 1, peer=str(number))
    assert len(repeats._kinds) <= 512


# --- levels, in a process of its own: they are the process's

PROGRAM = """
import logging
from meshd.logs import configure, get_logger, is_debugged, levels_now, set_level
early = get_logger("meshd.links.dialer")
configure("info", "json", {"store": "error"})
early.info("1 said"); early.debug("1 unsaid"); get_logger("meshd.store.worker").warning("1 unsaid")
set_level("links", "debug")
early.bind(peer="attic").debug("2 said"); get_logger("meshd.node").debug("2 unsaid")
assert is_debugged("links") and not is_debugged("delivery")
set_level(None, "warning")
early.debug("3 said"); get_logger("meshd.node").info("3 unsaid")
set_level("links", None); set_level("store", "info")
early.info("4 unsaid"); get_logger("meshd.store.worker").info("4 said")
print(levels_now())
set_level(None, None)
early.info("5 said"); get_logger("meshd.store.worker").warning("5 unsaid")
configure("debug", "json", {})
early.debug("6 said")
logging.getLogger("quic").error("7 said %s", "by a library"); logging.getLogger("quic").info("7 unsaid")
try:
    raise ValueError("b'planted-secret'")
except ValueError:
    early.exception("8 said")
early.info("9 said", payload="planted-secret", frame=b"planted-secret")
"""


def test_levels_change_at_run_time_also_for_loggers_that_exist() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"].split()[0] for line in lines] == [str(number) for number in range(1, 10)]
    assert "unsaid" not in done.stderr
    assert "planted" not in done.stderr
    assert done.stdout.strip() == "{'level': 'warning', 'levels': {'store': 'info'}}"
    assert {line["component"] for line in lines} == {"links.dialer", "store.worker", "lib.quic"}
    assert lines[1]["peer"] == "attic"
    assert "ValueError" in lines[7]["exception"]


def test_the_local_api_knows_levels_and_components() -> None:
    assert tuple(LEVELS) == LOG_LEVELS
    packages = {path.name for path in (ROOT / "meshd").iterdir() if path.is_dir()}
    used = {line.partition(".")[2].partition('"')[0] for line in _logger_names()}
    assert {name.partition(".")[0] for name in used} <= set(LOG_COMPONENTS)
    assert set(LOG_COMPONENTS) - packages - used <= {"lib", "http"}


def _logger_names() -> list[str]:
    """The names that loggers are made with, ``meshd.part``."""
    names = []
    for path in set((ROOT / "meshd").rglob("*.py")) - {ROOT / "meshd" / "logs.py"}:
        text = path.read_text(encoding="utf-8")
        if "get_logger(__name__)" in text:
            names.append("meshd." + ".".join(path.relative_to(ROOT / "meshd").with_suffix("").parts))
        names += [found.split('"')[1] for found in text.split("get_logger(")[1:] if found.startswith('"meshd.')]
    return names
