"""A device that stays away: what a long queue costs the one that keeps it."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

from meshd.client.blocking import Client
from tests.bench.mesh import Node, app, mesh, resident_bytes
from tests.bench.report import Figure

_REQUEST = 250
"""Messages that are handed over together."""
_SIZE = 100
_SAMPLE = 20
"""The rate is that of so many parts of all: the first and the last one are compared."""


def backlog(messages: int) -> Iterator[Figure]:
    """So many messages wait for a device that is off; then both start again, and it reads them."""
    with mesh("source", "sink") as nodes:
        source, sink = nodes
        sink.stop()
        payloads = [random.Random(number).randbytes(_SIZE) for number in range(4096)]
        empty = resident_bytes(source.pid)
        with source.client() as client:
            rates = [_accept(client, payloads, messages // _SAMPLE) for _ in range(_SAMPLE)]
        grown = resident_bytes(source.pid) - empty
        source.stop()
        began = time.monotonic()
        source.start()
        ready = time.monotonic() - began
        [waiting] = [row["messages"] for row in source.ask("queue")]
        drained = _drain(sink, waiting)
    scale = f"{waiting:,} waiting"
    yield Figure(name=f"accept rate, {scale} : none", unit="ratio", runs=(rates[-1] / rates[0],), target=">= 0.9")
    yield Figure(name=f"memory for {scale}", unit="MB", runs=(grown / 1e6,), target="< 20")
    yield Figure(name=f"start, {scale}", unit="s", runs=(ready,), target="< 2")
    yield Figure(name=f"read when the device is back, {scale}", unit="msg/s", runs=(drained,))


def _accept(client: Client, payloads: Sequence[bytes], messages: int) -> float:
    """Messages a second, one request at a time."""
    began = time.monotonic()
    for first in range(0, messages, _REQUEST):
        batch: list[Any] = [payloads[(first + number) % len(payloads)] for number in range(_REQUEST)]
        client.call("send", {"destination": "sink", "messages": batch, "service": "bench"})
    return messages / (time.monotonic() - began)


def _drain(sink: Node, messages: int) -> float:
    began = time.monotonic()
    sink.start()
    with app(sink) as reader:
        reader.do(do="count", messages=messages)
        ended: float = reader.answer()["ended"]
    return messages / (ended - began)
