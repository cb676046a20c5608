"""Twenty daemons on one machine: more devices than a device keeps links."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.mesh import QUIET_S, Node, cpu_seconds
from tests.bench.report import Figure

DAEMONS = 20
MAX_LINKS = 16
"""As configured by default."""

SETTLE_S = 240.0
REST_S = 8.0
"""So long without a change of the links is taken for rest: longer than any pause of the budget."""


def degrees(nodes: list[Node]) -> list[int]:
    """How many links each daemon has."""
    return [node.ask("status")["peers_up"] for node in nodes]


def _is_whole(nodes: list[Node]) -> bool:
    """Whether every daemon has a route to every other."""
    return all(sum(row["state"] == "selected" for row in node.ask("routes")) == len(nodes) - 1 for node in nodes)


def await_rest(nodes: list[Node]) -> None:
    """Return when all is routed, and links have stayed the same for a while. Raises TimeoutError."""
    deadline = time.monotonic() + SETTLE_S
    before, since = degrees(nodes), time.monotonic()
    while time.monotonic() - since < REST_S or max(before) > MAX_LINKS or not _is_whole(nodes):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no rest within {SETTLE_S:g} s; links: {before}")
        time.sleep(1.0)
        now = degrees(nodes)
        if now != before:
            before, since = now, time.monotonic()


@contextlib.contextmanager
def crowd() -> Iterator[list[Node]]:
    """Twenty daemons in one mesh, at rest."""
    directory = Path(tempfile.mkdtemp(prefix="meshd-crowd-"))
    nodes = [Node(f"n{number:02}", directory / f"n{number:02}") for number in range(DAEMONS)]
    try:
        for node in nodes:  # before they have anything to do: a start takes a second of a whole core
            node.start()
        nodes[0].ask("init", name="crowd")
        for node in nodes[1:]:
            node.ask("join", code=nodes[0].ask("invite")["code"], name=node.name)
        await_rest(nodes)
        yield nodes
    except Exception:
        for node in nodes:
            print(f"The end of {node.name}'s log:", *node.log_tail()[-3:], sep="\n", file=sys.stderr)
        raise
    finally:
        for node in nodes:
            node.abandon()
        shutil.rmtree(directory, ignore_errors=True)


def idle_crowd(runs: int, seconds: float) -> Iterator[Figure]:
    """What all of them cost together while nothing happens."""
    shares = []
    with crowd() as nodes:
        links = sum(degrees(nodes)) // 2
        time.sleep(QUIET_S)
        for _ in range(runs):
            before, began = sum(cpu_seconds(node.pid) for node in nodes), time.monotonic()
            time.sleep(seconds)
            used = sum(cpu_seconds(node.pid) for node in nodes) - before
            shares.append(used / (time.monotonic() - began) * 100)
    yield Figure(
        name=f"idle, {DAEMONS} daemons in one mesh, CPU of all together",
        unit="% core",
        runs=tuple(shares),
        target="< 25",
        extra={"links": links},
    )
