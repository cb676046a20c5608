"""meshctl as a process of its own, against the daemon's real socket server."""

import json
import sys
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import trio

from tests.api.node import Node, daemon


async def meshctl(path: str, *arguments: str) -> "CompletedProcess[bytes]":
    """Run meshctl to its end."""
    command = [sys.executable, "-m", "meshd.cli", "--json", "--socket", path, *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


def test_what_is_sent_is_received_once(directory: Path) -> None:
    async def main() -> None:
        async with daemon(directory) as (node, _, path):
            sent = await meshctl(path, "send", "kitchen/alarms", "smoke", "--wait", "delivered")
            assert json.loads(sent.stdout)["state"] == "delivered"
            received = await meshctl(path, "receive", "alarms", "--count", "1")
            assert json.loads(received.stdout)["payload"] == "smoke"
            assert json.loads(received.stdout)["id"] == json.loads(sent.stdout)["id"]
            assert node.acked["alarms"] == {0}
            again = await meshctl(path, "receive", "alarms")
            assert (again.returncode, again.stdout, again.stderr) == (0, b"", b"")

    trio.run(main)


def test_refusals_and_time_outs_come_through(directory: Path) -> None:
    async def main() -> None:
        async with daemon(directory) as (_, _, path):
            for destination, code, exit_code in (
                ("nobody", "E_UNKNOWN_DEVICE", 1),
                ("not a name", "E_USAGE", 2),
                ("slow", "E_TIMEOUT", 4),
            ):
                refused = await meshctl(path, "send", destination, "hello", "--timeout", "1")
                assert (refused.returncode, refused.stdout) == (exit_code, b"")
                assert json.loads(refused.stderr)["error"]["code"] == code

    trio.run(main)


def test_the_views_ask_for_themselves(directory: Path) -> None:
    async def main() -> None:
        async with daemon(directory) as (_, _, path):
            for view in ("status", "queue"):
                shown = await meshctl(path, view)
                assert json.loads(shown.stdout) == {"view": view, "argument": None}

    trio.run(main)


def test_a_client_that_is_gone_leaves_no_lease(directory: Path) -> None:
    async def main() -> None:
        async with daemon(directory) as (node, _, path), trio.open_nursery() as nursery:
            command = [sys.executable, "-m", "meshd.cli", "--socket", path, "receive", "--follow"]
            process = await nursery.start(partial(trio.run_process, command, check=False))
            await node.until(subscribed)
            taken = await meshctl(path, "receive")
            assert json.loads(taken.stderr)["error"]["code"] == "E_LEASED"
            process.kill()
            await node.until(lambda node: not subscribed(node))

    def subscribed(node: Node) -> bool:
        return bool(node.subscriptions)

    trio.run(main)
