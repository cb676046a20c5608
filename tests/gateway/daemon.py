"""A real daemon with its gateway, as a child process."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx

from meshd.client.blocking import Client

NAME = "kitchen-pi"
START_S = 60.0
STOP_S = 5.0
_CONFIG = """
[listen]
quic = ["127.0.0.1:0"]
websocket = ["127.0.0.1:0"]
[discovery]
mdns = false
[http]
enabled = {enabled}
listen = [{listen}]
"""


@attrs.define(eq=False)
class Daemon:
    """One that runs. ``url`` is its TCP address, empty without one."""

    root: Path
    process: subprocess.Popen[bytes]
    url: str = ""
    log: str = ""

    @property
    def http_socket(self) -> Path:
        return self.root / "run" / "http.sock"

    @property
    def native_socket(self) -> Path:
        return self.root / "run" / "meshd.sock"

    def over_unix(self, **more: Any) -> httpx.Client:
        """A client that the kernel vouches for."""
        transport = httpx.HTTPTransport(uds=str(self.http_socket))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=30, trust_env=False, **more)

    def over_tcp(self, **more: Any) -> httpx.Client:
        """A client that nobody vouches for."""
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **more)

    def native(self) -> Client:
        return Client(str(self.native_socket))

    def meshctl(self, *arguments: str) -> str:
        """What it printed."""
        command = [sys.executable, "-m", "meshd.cli", "--socket", str(self.native_socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_S).stdout

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; it has to within the time it promises."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def _wait_for(self, text: str) -> str:
        assert self.process.stdout is not None
        while True:
            for line in self.log.splitlines():
                if text in line:
                    return line
            ready, _, _ = select.select([self.process.stdout], [], [], START_S)
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no {text} in the log: {self.log}"
            self.log += data.decode()

    def _close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def command(root: Path, *, enabled: bool = True, listen: tuple[str, ...] = ("127.0.0.1:0",)) -> list[str]:
    """How it is started; writes its configuration."""
    config = root / "meshd.toml"
    text = _CONFIG.format(enabled=str(enabled).lower(), listen=", ".join(f'"{item}"' for item in listen))
    config.write_text(text, encoding="utf-8")
    places = ["--config", config, "--state-dir", root / "state", "--runtime-dir", root / "run"]
    return ["-m", "meshd.daemon", *map(str, places), "--name", NAME, "--log-format", "json"]


@contextmanager
def daemon(root: Path, **more: Any) -> Iterator[Daemon]:
    """Start one on ``root``, found a mesh unless there is one, and end it."""
    process = subprocess.Popen(
        [sys.executable, *command(root, **more)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    running = Daemon(root, process)
    try:
        told = json.loads(running._wait_for('"event": "running"'))
        running.url = next((place for place in told["http"] if place.startswith("http://")), "")
        with running.native() as client:
            if client.call("status")["mesh"] is None:
                client.call("init", {"name": "home"})
        yield running
    finally:
        running._close()
