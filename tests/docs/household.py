"""Two devices, as the pages have them: real daemons on loopback, driven by what a reader would type."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs

from meshd.cli.processes import Daemon
from meshd.client.blocking import Client

from .page import Run

RUN_TIMEOUT_S = 90.0
_CODE = re.compile(r"meshd1-\S+")
_MESSAGE_ID = re.compile(r"\b[a-z2-7]{16}-\d+\b")
_ENVIRONMENT = Path(sys.executable).parent

_SYSTEMCTL = """#!/bin/sh
# What the pages do with systemctl, done to this device's daemon.
case "$1" in
    stop)
        kill -TERM "$(cat pid)"
        # One that the test started stays as a zombie until the test looks at it.
        while grep -qs '^State:.[^Z]' "/proc/$(cat pid)/status"; do sleep 0.05; done ;;
    start) {start} >> log 2>&1 < /dev/null & echo $! > pid ;;
    restart) "$0" stop && "$0" start ;;
    *) echo "systemctl $*: not in this test" >&2; exit 1 ;;
esac
case "$1" in start | restart) until meshctl status > /dev/null 2>&1; do sleep 0.1; done ;; esac
"""
_SUDO = '#!/bin/sh\nexec "$@"\n'


@attrs.define(eq=False)
class Device:
    """One of them: a daemon, a directory to work in, and the programs a reader would call."""

    daemon: Daemon
    background: list[subprocess.Popen[str]] = attrs.field(factory=list)

    @property
    def directory(self) -> Path:
        """The reader's working directory there."""
        return self.daemon.directory

    def set_up(self) -> None:
        """Start the daemon, and lay out ``sudo`` and ``systemctl``."""
        self.daemon.start()
        process = self.daemon._process
        assert process is not None
        programs = self.directory / "bin"
        programs.mkdir()
        start = " ".join(f"'{word}'" for word in self.daemon._command())
        for name, text in (("sudo", _SUDO), ("systemctl", _SYSTEMCTL.format(start=start))):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (self.directory / "pid").write_text(f"{process.pid}\n")

    def environment(self) -> dict[str, str]:
        """Nothing of this process's but where programs are."""
        path = f"{self.directory / 'bin'}:{_ENVIRONMENT}:{os.environ['PATH']}"
        return {
            "PATH": path,
            "HOME": str(self.directory),
            "MESHD_SOCKET": str(self.daemon.socket_path),
            "HTTP_SOCKET": str(self.daemon.socket_path.with_name("http.sock")),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, run: Run, code: str) -> str:
        """Run a block; return what it printed. Raises AssertionError unless it ends well."""
        command = [sys.executable, "-c", code] if run.language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        if run.background:
            self.background.append(
                subprocess.Popen(command, env=self.environment(), cwd=self.directory, start_new_session=True, text=True)
            )
            return ""
        with subprocess.Popen(
            command,
            env=self.environment(),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=RUN_TIMEOUT_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # whatever the block has started
                raise
        assert process.returncode == 0, f"on {self.daemon.name}: {code}\nexit {process.returncode}: {output}"
        return output

    def tear_down(self) -> None:
        """End what runs there, whatever started it."""
        for process in self.background:
            process.kill()
            process.wait()
        pid = int((self.directory / "pid").read_text())
        self.daemon.abandon()  # reaps the first daemon; a later one is no child of ours
        try:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + 10.0
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


class Household:
    """``laptop`` and ``kitchen-pi``. ``CODE`` and ``ID`` in a block become the last ones printed."""

    def __init__(self, directory: Path) -> None:
        self.devices = {name: Device(Daemon(name, directory / name)) for name in ("laptop", "kitchen-pi")}
        self._code = self._message_id = ""

    def __enter__(self) -> "Household":
        for device in self.devices.values():
            device.set_up()
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.devices.values():
            device.tear_down()

    def become_a_mesh(self) -> None:
        """What the quickstart does, for pages that begin after it."""
        laptop, kitchen = (Client(device.daemon.socket_path, 40.0) for device in self.devices.values())
        with laptop, kitchen:
            laptop.call("init", {"name": "home"})
            kitchen.call("join", {"code": laptop.call("invite")["code"], "name": "kitchen-pi"})
            sent = laptop.call("send", {"destination": "kitchen-pi", "messages": [b"x"], "wait": "delivered"})
            assert sent["state"] == "delivered"

    def configure(self, device: str, text: str) -> None:
        """Add to a device's configuration."""
        with (self.devices[device].directory / "meshd.toml").open("a") as file:
            file.write(f"\n{text}")

    def run(self, run: Run) -> None:
        """Run one block of a page, where it says."""
        parts = [run.code]
        if run.language == "sh" and re.search(r"\bID\b", run.code):
            parts = run.code.splitlines(keepends=True)  # the ID may be that of a line before
        output = ""
        for part in parts:
            code = re.sub(r"\bCODE\b", self._code, re.sub(r"\bID\b", self._message_id, part))
            output += self.devices[run.device].run(run, code)
            self._code = next(iter(_CODE.findall(output)), self._code)
            self._message_id = next(iter(_MESSAGE_ID.findall(output)[-1:]), self._message_id)
        assert run.prints is None or run.prints in output, f"{run.code} printed: {output}"
