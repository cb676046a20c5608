"""The apps of the benchmarks: one process each, told by lines of JSON what to do.

Run as ``python -m tests.bench.apps SOCKET``. Times are of CLOCK_MONOTONIC, which all processes share.
"""

import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from meshd.client import connect
from meshd.client.asynchronous import Client
from meshd.errors import MeshdError

_STAMP = struct.Struct("<d")
_VARIANTS = 512
"""Different payloads in turn, so that no two neighbours are the same."""

_BUSY_PAUSE_S = 0.001


def payloads(kind: str, size: int) -> list[bytes]:
    """Payloads of ``size`` bytes: ``random`` bytes, or ``text``, readings as JSON."""
    rng = random.Random(size)
    if kind == "random":
        return [rng.randbytes(size) for _ in range(_VARIANTS)]
    made = []
    for number in range(_VARIANTS):
        readings = [
            {
                "sensor": f"{rng.choice(('kitchen', 'garage', 'attic', 'greenhouse'))}-{rng.randrange(40)}",
                "at": 1_700_000_000 + number * 60 + rng.randrange(60),
                "celsius": round(rng.gauss(21, 4), 2),
                "humidity": round(rng.uniform(30, 70), 1),
                "ok": rng.random() < 0.97,
            }
            for _ in range(size // 80 + 1)
        ]
        made.append(json.dumps(readings).encode()[:size].ljust(size))
    return made


async def flood(client: Client, *, to: str, messages: int, kind: str, size: int) -> dict[str, Any]:
    """Send durable messages, many in flight; ends when the last one is confirmed consumed."""
    bodies = payloads(kind, size)
    began = time.monotonic()
    async with client.publisher(to, "bench", wait="consumed", window_bytes=64 * 1024 * 1024) as publisher:
        for number in range(messages):
            await publisher.send(bodies[number % _VARIANTS])
    return {"began": began, "seconds": time.monotonic() - began}


async def flood_ephemeral(client: Client, *, to: str, messages: int, kind: str, size: int) -> dict[str, Any]:
    """Send ephemeral messages, many in flight; those that find the path busy are not sent again."""
    bodies = payloads(kind, size)
    began = time.monotonic()
    refused = 0
    publisher = client.publisher(to, "bench", ephemeral=True, window_bytes=4 * 1024 * 1024)
    for number in range(messages):
        try:
            await publisher.send(bodies[number % _VARIANTS])
        except MeshdError as error:
            if error.code != "E_BUSY":
                raise
            refused += 1
            with trio.CancelScope(shield=True):
                try:
                    await publisher.flush()
                except MeshdError:
                    await trio.sleep(_BUSY_PAUSE_S)
    try:
        await publisher.flush()
    except MeshdError:
        refused += 1
    return {"began": began, "seconds": time.monotonic() - began, "refusals": refused}


async def one_by_one(client: Client, *, to: str, messages: int, size: int) -> dict[str, Any]:
    """Send stamped durable messages, each when the one before is confirmed consumed."""
    filler = os.urandom(size - _STAMP.size)
    for _ in range(messages):
        await client.send(to, _STAMP.pack(time.monotonic()) + filler, service="bench", wait="consumed")
    return {}


async def count(client: Client, *, messages: int, idle_s: float = 0.0, acks: bool = True) -> dict[str, Any]:
    """Read and ack so many messages, or until none comes for ``idle_s``. Says when the last one came."""
    received, ended = 0, time.monotonic()
    async with client.subscribe("bench", "bench", credit=65_536) as subscription:
        say({"ready": True})
        while received < messages:
            with trio.move_on_after(idle_s or float("inf")) as scope:
                batch = await subscription.next_batch()
            if scope.cancelled_caught:
                if received:
                    break
                continue
            received += batch.count
            if acks:
                subscription.ack(batch)
            ended = time.monotonic()
    return {"received": received, "ended": ended}


async def take_stamps(client: Client, *, messages: int) -> dict[str, Any]:
    """Read and ack stamped messages; the seconds that each was under way."""
    took: list[float] = []
    async with client.subscribe("bench", "bench") as subscription:
        say({"ready": True})
        async for message in subscription:
            took.append(time.monotonic() - _STAMP.unpack_from(message.payload)[0])
            subscription.ack(message)
            if len(took) == messages:
                break
    return {"took": took}


async def echo(client: Client, *, to: str, messages: int) -> dict[str, Any]:
    """Send so many ephemeral messages back."""
    async with client.subscribe("ping", "bench") as subscription:
        say({"ready": True})
        left = messages
        async for message in subscription:
            await client.send(to, message.payload, service="pong", ephemeral=True)
            left -= 1
            if not left:
                break
    return {}


async def round_trips(client: Client, *, to: str, messages: int, size: int) -> dict[str, Any]:
    """Send ephemeral messages to an echo, one at a time; the seconds that each took."""
    body = os.urandom(size)
    took: list[float] = []
    async with client.subscribe("pong", "bench") as subscription:
        await client.status()  # the subscription has begun
        for _ in range(messages):
            began = time.monotonic()
            await client.send(to, body, service="ping", ephemeral=True)
            await anext(subscription)
            took.append(time.monotonic() - began)
    return {"took": took}


async def paced(client: Client, *, to: str, rate: int, seconds: float, size: int) -> dict[str, Any]:
    """Send durable messages at a steady rate, in steps of 10 ms."""
    bodies = payloads("text", size)
    began = trio.current_time()
    sent = 0
    async with client.publisher(to, "bench", wait="consumed") as publisher:
        while (passed := trio.current_time() - began) < seconds:
            while sent < rate * passed:
                await publisher.send(bodies[sent % _VARIANTS])
                sent += 1
            await trio.sleep(0.01)
    return {"sent": sent, "seconds": trio.current_time() - began}


async def query(client: Client, *, clients: int, seconds: float, pause_s: float) -> dict[str, Any]:
    """Ask ``peers`` over so many connections at once, each again ``pause_s`` after its answer."""
    took: list[float] = []

    async def one(delay: float) -> None:
        async with connect(sys.argv[1]) as own:
            await trio.sleep(delay)
            while True:
                began = time.monotonic()
                await own.peers()
                took.append(time.monotonic() - began)
                await trio.sleep(pause_s)

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(one, pause_s * number / clients)
    return {"took": took}


_COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (flood, flood_ephemeral, one_by_one, count, take_stamps, echo, round_trips, paced, query)
}


def say(answer: dict[str, Any]) -> None:
    """One line to the bench."""
    print(json.dumps(answer), flush=True)


async def main(arguments: Sequence[str]) -> None:
    """Connect, then do as told until the input ends."""
    async with connect(arguments[0]) as client:
        say({"connected": True})
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            command = json.loads(line)
            say(await _COMMANDS[command.pop("do")](client, **command))


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
