"""Daemons and apps under measurement: whole processes, loopback only, gone when the context ends."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshd.cli.processes import Daemon
from meshd.client.blocking import Client

CALL_S = 60.0
"""Longest wait for one answer of a daemon, and for one command of an app."""

LINK_S = 60.0
QUIET_S = 110.0
"""After so long without mail links are pinged as seldom as they ever are (``links.liveness``)."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Node(Daemon):
    """A daemon, with the transports it may use."""

    def use(self, *transports: str) -> None:
        """Allow these from the next start on."""
        variable = f"MESHD_LINKS_TRANSPORTS={','.join(transports)}"
        # Compiled modules are written at the first start, as on any other machine.
        settings = ("-u", "PYTHONDONTWRITEBYTECODE", variable)
        self.program = ("/usr/bin/env", *settings, sys.executable, "-m", "meshd.daemon")

    def ask(self, op: str, **arguments: object) -> Any:
        """One question to the daemon."""
        with self.client() as client:
            return client.call(op, arguments)

    def client(self) -> Client:
        """A connection to the daemon."""
        return Client(str(self.socket_path), CALL_S)

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def mesh(*names: str) -> Iterator[tuple[Node, ...]]:
    """Paired daemons with these names, running and linked over any transport."""
    directory = Path(tempfile.mkdtemp(prefix="meshd-bench-"))
    nodes = tuple(Node(name, directory / name) for name in names)
    try:
        founder = nodes[0]
        founder.start()
        founder.ask("init", name="bench")
        for node in nodes[1:]:
            node.start()
            node.ask("join", code=founder.ask("invite")["code"], name=node.name)
        await_links(nodes)
        yield nodes
    except Exception:
        for node in nodes:
            print(f"The end of {node.name}'s log:", *node.log_tail(), sep="\n", file=sys.stderr)
        raise
    finally:
        for node in nodes:
            node.abandon()
        shutil.rmtree(directory, ignore_errors=True)


def restart(nodes: tuple[Node, ...], *transports: str) -> None:
    """Start the daemons again with these transports alone, and wait for their links."""
    for node in nodes:
        node.stop()
    for node in nodes:
        node.use(*transports)
        node.start()
    await_links(nodes)


def await_links(nodes: tuple[Node, ...]) -> None:
    """Return when every daemon is linked to all others. Raises TimeoutError."""
    deadline = time.monotonic() + LINK_S
    for node in nodes:
        while sum(peer["state"] == "up" for peer in node.ask("peers")) < len(nodes) - 1:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{node.name} has no links after {LINK_S:g} s: {node.log_tail()}")
            time.sleep(0.05)


class App:
    """An app process (``apps.py``) that carries out commands, one line of JSON each way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, **command: object) -> None:
        """Begin a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the end of the command begun. Raises RuntimeError when the app ended, TimeoutError."""
        assert self._process.stdout is not None
        # At most one line is on its way, so none hides in the reader's buffer.
        ready, _, _ = select.select([self._process.stdout], [], [], CALL_S)
        if not ready:
            raise TimeoutError(f"no answer from an app within {CALL_S:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the app ended with exit code {self._process.wait()}")
        return dict(json.loads(line))

    def do(self, **command: object) -> dict[str, Any]:
        """Carry out a command and return what came of it."""
        self.tell(**command)
        return self.answer()


@contextlib.contextmanager
def app(node: Node) -> Iterator[App]:
    """An app connected to ``node``."""
    command = [sys.executable, "-m", "tests.bench.apps", str(node.socket_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = App(process)
            found.answer()  # it is connected
            yield found
        finally:
            process.terminate()
