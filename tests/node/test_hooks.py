"""Hooks, told for real: a program that runs, an HTTP server that listens on loopback."""

import json
import os
import random
import signal
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from meshd.node.insight.alerts import Level
from meshd.node.insight.hooks import HookFailed, HookSettings, execute, post, run_hooks

ALERT: dict[str, Any] = {
    "id": 3,
    "name": "disk-low",
    "severity": "warning",
    "state": "active",
    "change": "raised",
    "detail": "12 MiB are free",
    "peer": None,
}


class Receiver:
    """An HTTP server: answers with ``statuses`` one after the other, then 204; keeps what it was sent."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.holds = threading.Event()
        self.holds.set()
        self.mark: Path | None = None
        """Is made when a request is here as a whole."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.mark is not None:
                    receiver.mark.touch()
                receiver.holds.wait(10)
                receiver.requests.append((dict(self.headers), json.loads(body)))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts?from=meshd"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.holds.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def program(place: Path, text: str) -> str:
    """An executable file with this shell script."""
    place.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return str(place)


async def tell(settings: HookSettings, *alerts: dict[str, Any], until: int) -> list[dict[str, Any]]:
    """Run the hooks with these alerts, until so many log lines are there; returns them."""
    send, receive = trio.open_memory_channel[dict[str, Any]](64)
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_hooks, receive, settings, random.Random(1))
            for alert in alerts:
                await send.send(alert)
            with trio.fail_after(30):
                while len(logs) < until:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    return list(logs)


def test_a_webhook_gets_the_alert_and_the_token(receiver: Receiver) -> None:
    trio.run(post, receiver.url, "s3cret", ALERT)
    [(headers, body)] = receiver.requests
    assert body == ALERT
    assert headers["Authorization"] == "Bearer s3cret"
    assert headers["Content-Type"] == "application/json"


def test_a_webhook_that_answers_badly_or_not_at_all(receiver: Receiver) -> None:
    receiver.statuses = [500]
    with pytest.raises(HookFailed, match="500"):
        trio.run(post, receiver.url, "", ALERT)
    assert "Authorization" not in receiver.requests[0][0]
    with pytest.raises(HookFailed, match="ConnectError"):
        trio.run(post, "http://127.0.0.1:1/", "", ALERT)


def test_it_is_tried_again_until_it_succeeds_and_order_is_kept(receiver: Receiver) -> None:
    receiver.statuses = [503]
    settings = HookSettings(url=receiver.url, attempts=3)
    logs = trio.run(lambda: tell(settings, ALERT, ALERT | {"id": 4}, until=3))
    assert [body["id"] for _, body in receiver.requests] == [3, 3, 4]
    assert [(line["event"], line["attempt"]) for line in logs] == [
        ("alert not told", 1),
        ("alert told", 2),
        ("alert told", 1),
    ]
    assert "503" in logs[0]["reason"]
    assert logs[0]["retry_s"] > 0


def test_it_is_given_up_and_the_next_one_is_told(receiver: Receiver) -> None:
    receiver.statuses = [500, 500]
    settings = HookSettings(url=receiver.url, attempts=2)
    logs = trio.run(lambda: tell(settings, ALERT, ALERT | {"id": 4}, until=3))
    assert [line["event"] for line in logs] == ["alert not told", "alert not told", "alert told"]
    assert logs[1]["retry_s"] is None


def test_a_webhook_that_never_answers_is_timed_out(receiver: Receiver) -> None:
    receiver.holds.clear()
    settings = HookSettings(url=receiver.url, attempts=1, timeout_s=0.2)
    [line] = trio.run(lambda: tell(settings, ALERT, until=1))
    assert line["reason"] == "no end within 0.2 s"


def test_a_program_gets_the_alert_on_its_input_and_as_variables(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = program(tmp_path / "hook", f'echo "$1 $MESHD_ALERT_NAME $MESHD_ALERT_PEER." > {told}; cat >> {told}')
    trio.run(execute, (script, "--loud"), ALERT)
    first, rest = told.read_text(encoding="utf-8").split("\n", 1)
    assert first == "--loud disk-low ."
    assert json.loads(rest) == ALERT


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    script = program(tmp_path / "hook", "echo 'no phone' >&2; exit 3")
    with pytest.raises(HookFailed, match="exited with 3: no phone"):
        trio.run(execute, (script,), ALERT)
    with pytest.raises(HookFailed, match="can't be run"):
        trio.run(execute, (str(tmp_path / "none"),), ALERT)


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = program(tmp_path / "hook", f"echo $$ > {alive}; exec sleep 600")
    settings = HookSettings(command=(script,), attempts=1, timeout_s=2.0)
    [line] = trio.run(lambda: tell(settings, ALERT, until=1))
    assert line["reason"] == "no end within 2 s"
    assert not Path(f"/proc/{alive.read_text(encoding='utf-8').strip()}").exists()


def test_a_slow_hook_does_not_hold_up_the_other(receiver: Receiver, tmp_path: Path) -> None:
    receiver.holds.clear()
    receiver.mark = tmp_path / "mark"
    waits = program(tmp_path / "hook", f"until [ -e {receiver.mark} ]; do sleep 0.02; done")
    settings = HookSettings(command=(waits,), url=receiver.url)
    [line] = trio.run(lambda: tell(settings, ALERT, until=1))
    assert (line["hook"], line["event"]) == ("exec", "alert told")


def test_what_is_less_severe_than_wanted_is_not_told(receiver: Receiver) -> None:
    settings = HookSettings(url=receiver.url, least=Level.CRITICAL)
    trio.run(lambda: tell(settings, ALERT, ALERT | {"severity": "critical", "id": 9}, until=1))
    assert [body["id"] for _, body in receiver.requests] == [9]


def test_the_token_is_not_in_what_is_printed_of_the_settings() -> None:
    assert "s3cret" not in repr(HookSettings(url="http://127.0.0.1/", token="s3cret"))


def test_a_program_may_leave_others_running(tmp_path: Path) -> None:
    left = program(tmp_path / "hook", f"sleep 20 & echo $! > {tmp_path}/left; exit 0")
    try:
        logs = trio.run(lambda: tell(HookSettings(command=(left,), timeout_s=10), ALERT, until=1))
        assert [entry["event"] for entry in logs] == ["alert told"]
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "settings",
    [
        HookSettings(url="http://two..dots/alerts", attempts=1),
        HookSettings(url=f"http://{'a' * 64}.example/alerts", attempts=1),
        HookSettings(command=("true",), attempts=1),
    ],
    ids=["no-name", "long-name", "no-text"],
)
def test_what_can_not_even_be_tried_is_logged_and_ends_nothing(settings: HookSettings) -> None:
    odd = {**ALERT, "detail": "a NUL: \0"}
    logs = trio.run(lambda: tell(settings, odd, odd, until=2))
    assert [entry["event"] for entry in logs] == ["alert not told"] * 2


def test_a_token_of_any_letters_is_sent(receiver: Receiver) -> None:
    trio.run(lambda: post(receiver.url, "schlüssel", ALERT))
    [(headers, _)] = receiver.requests
    assert headers["Authorization"].encode("latin-1").decode() == "Bearer schlüssel"
