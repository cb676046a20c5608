"""Real daemons as child processes, for ``meshctl demo``: started, awaited, stopped, always cleaned up."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import attrs

from meshd.errors import MeshdError

START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 8.0
"""The daemon promises to stop within 5 s of SIGTERM."""

LOG_TAIL_LINES = 25

_CONFIG = """\
# Loopback only, any free ports: nothing of this reaches the network.
[listen]
quic = ["127.0.0.1:0"]
websocket = ["127.0.0.1:0"]

[discovery]
interfaces = ["lo"]
"""

_SUPERVISOR_VARIABLES = {"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


@attrs.define(eq=False)
class Daemon:
    """One meshd of the demo, with a directory of its own.

    Args:
        name: what the device is called.
        directory: holds its state, socket, configuration and log; made by :meth:`start`.
        program: what is run, before its options.
    """

    name: str
    directory: Path
    program: tuple[str, ...] = (sys.executable, "-m", "meshd.daemon")
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> Path:
        """The daemon's local API socket."""
        return self.directory / "run" / "meshd.sock"

    def start(self) -> None:
        """Run the daemon until it says that it is ready. Raises MeshdError when it does not."""
        notify_path = self.directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            try:
                for part in ("state", "run"):
                    (self.directory / part).mkdir(parents=True, exist_ok=True, mode=0o700)
                (self.directory / "meshd.toml").write_text(_CONFIG)
                notify_path.unlink(missing_ok=True)
                notify.bind(str(notify_path))
            except OSError as error:
                raise _unusable(self.directory, error) from error
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(notify_path),
                    start_new_session=True,  # Ctrl-C in the terminal is for meshctl, which then stops its daemons
                )
            self._await_ready(self._process, notify)

    def stop(self) -> None:
        """End the daemon as systemd would. Raises MeshdError when it does not end cleanly and in time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise MeshdError(
                "E_INTERNAL", f"The daemon {self.name} did not stop within {STOP_TIMEOUT_S:g} s."
            ) from error
        if code != 0:
            raise MeshdError("E_INTERNAL", f"The daemon {self.name} ended with exit code {code}.")

    def abandon(self) -> None:
        """End the daemon whatever its condition."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> list[str]:
        """The last lines the daemon wrote."""
        try:
            return (self.directory / "log").read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except FileNotFoundError:
            return []

    def _command(self) -> list[str]:
        return [
            *self.program,
            *("--state-dir", str(self.directory / "state")),
            *("--runtime-dir", str(self.directory / "run")),
            *("--name", self.name),
            *("--config", str(self.directory / "meshd.toml")),
        ]

    def _await_ready(self, process: subprocess.Popen[bytes], notify: socket.socket) -> None:
        """Sleep until the daemon notifies (sd_notify(3), ``READY=1``) or ends."""
        deadline = time.monotonic() + START_TIMEOUT_S
        ended = os.pidfd_open(process.pid)
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([notify.fileno(), ended], [], [], left_s)
                if notify.fileno() in ready and b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
                if ended in ready:
                    raise MeshdError(
                        "E_INTERNAL", f"The daemon {self.name} ended at once, with exit code {process.wait()}."
                    )
        finally:
            os.close(ended)
        raise MeshdError("E_INTERNAL", f"The daemon {self.name} was not ready within {START_TIMEOUT_S:g} s.")


def _unusable(directory: Path, error: OSError) -> MeshdError:
    """The error for a place where no daemon of the demo can live."""
    return MeshdError(
        "E_STATE_DIR",
        f"The temporary directory {directory} can't be used: {error.strerror or error}.",
        "Set TMPDIR to another, with some MiB of room and a short path, such as /tmp.",
    )


def _environment(notify_path: Path) -> dict[str, str]:
    """This process's environment without what would configure or supervise a meshd."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MESHD_", "LISTEN_")) and name not in _SUPERVISOR_VARIABLES
    }
    return kept | {"NOTIFY_SOCKET": str(notify_path)}


def stop_on_sigterm() -> None:
    """Make SIGTERM end the demo as Ctrl-C does, so that its daemons end too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
