"""``demo``: every step is checked, a failure is told with the logs, nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshd.cli.demo import NAMES, Mesh, perform
from meshd.cli.processes import Daemon
from meshd.wire import codec
from tests.cli.daemon import FakeDaemon, Stream

REF = bytes(10)
MESSAGE_ID = "a" * 16 + "-0"


@attrs.define(eq=False)
class World:
    """What the actors below share: who is in the mesh, who is on, what was sent to whom."""

    members: list[str] = attrs.field(factory=list)
    running: set[str] = attrs.field(factory=set)
    mail: dict[str, list[tuple[str, bytes]]] = attrs.field(factory=dict)
    starts: int = 0
    broken: frozenset[str] = frozenset()


@attrs.define(eq=False)
class Actor(Daemon):
    """Plays one daemon: the real protocol, and only as much of a mesh as the demo can see."""

    world: World = attrs.field(kw_only=True)
    stage: FakeDaemon | None = None

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self.world.starts += 1
        port = 40_000 + (0 if "ports" in self.world.broken else self.world.starts)
        answers = {
            "status": {"version": "0.1.0", "listen": {"quic": [f"127.0.0.1:{port}"], "websocket": []}},
            "init": self.found,
            "invite": {"code": "code", "expires_in_s": 60},
            "join": self.join,
            "peers": self.peers,
            "send": self.send,
            "subscribe": self.subscribe,
            "ack": {},
            "await": lambda asked: {
                "id": asked["id"],
                "state": "delivered" if "ack" in self.world.broken else "consumed",
            },
            "queue": self.queue,
            "trace": {"id": MESSAGE_ID, "state": "consumed", "events": [{"event": "accepted"}, {"event": "consumed"}]},
        }
        self.stage = FakeDaemon(self.socket_path, answers)
        self.socket_path.parent.mkdir(exist_ok=True)
        self.stage.__enter__()
        self.world.running.add(self.name)

    def stop(self) -> None:
        if self.stage is not None:
            self.stage.__exit__(None, None, None)
            self.socket_path.unlink()
            self.stage = None
            self.world.running.discard(self.name)

    abandon = stop

    def log_tail(self) -> list[str]:
        return [f"last words of {self.name}"]

    def found(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.world.members.append(self.name)
        return {"mesh": {"id": "m" * 52, "name": asked["name"]}, "device": {"id": "k" * 26, "name": self.name}}

    def join(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = "someone" if "name" in self.world.broken else asked["name"]
        self.world.members.append(name)
        return {"mesh": {"id": "m" * 52, "name": "home"}, "device": {"id": "d" * 26, "name": name}}

    def peers(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        others = [name for name in self.world.members if name != self.name]
        return [{"name": name, "state": "up", "transport": "quic"} for name in others]

    def send(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.world.mail.setdefault(asked["destination"], []).append((self.name, asked["messages"][0]))
        return {"ids": [MESSAGE_ID], "state": asked["wait"]}

    def subscribe(self, _: dict[str, Any]) -> Stream:
        (source, payload) = self.world.mail[self.name].pop()
        if "payload" in self.world.broken:
            payload = b"something else"
        return Stream(([[2, 0, 1, REF, bytes(16), source, 5, False, False, None, codec.encode([payload])]],))

    def queue(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        if "queue" in self.world.broken:
            return []
        return [{"name": name, "messages": len(mail), "reason": "no-route"} for name, mail in self.world.mail.items()]


def cast(directory: Path, world: World) -> Mesh:
    return Mesh(*(Actor(name, directory / name, world=world) for name in NAMES))


def test_all_steps_are_shown_with_their_time(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World()
    assert perform(cast(directory, world), as_json=False) == 0
    told, errors = capsys.readouterr()
    assert errors == ""
    assert 'garage reads from attic: "Lunch is ready."' in told
    assert 'garage reads from attic: "The parcel for you is by the door."' in told
    assert "1 message for garage (no path to it now)" in told
    assert "All of it worked" in told
    assert world.running == set()


def test_as_json_each_step_is_a_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(cast(directory, World()), as_json=True) == 0
    *steps, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 12))
    assert last["ok"] is True
    assert last["steps"] == 11


@pytest.mark.parametrize(("broken", "step"), [("name", 3), ("ports", 5), ("payload", 7), ("queue", 9), ("ack", 10)])
def test_what_is_not_true_fails_the_demo_at_its_step(
    directory: Path, capsys: pytest.CaptureFixture[str], broken: str, step: int
) -> None:
    world = World(broken=frozenset((broken,)))
    assert perform(cast(directory, world), as_json=False) == 1
    told, errors = capsys.readouterr()
    assert "All of it worked" not in told
    assert f"error: Step {step} failed: " in errors
    for name in NAMES:
        assert f"last words of {name}" in errors
    assert world.running == set()


def test_real_processes_that_fail_leave_their_log_and_nothing_else(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (sys.executable, "-c", "raise SystemExit('the disk is on fire')")
    mesh = Mesh(*(Daemon(name, directory / name, program) for name in NAMES))
    assert perform(mesh, as_json=False) == 1
    errors = capsys.readouterr().err
    assert "Step 1 failed: The daemon kitchen ended at once, with exit code 1." in errors
    assert "  the disk is on fire" in errors
    assert "garage wrote no log." in errors


def test_a_failure_as_json_has_the_logs_too(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(cast(directory, World(broken=frozenset(("name",)))), as_json=True) == 1
    told, errors = capsys.readouterr()
    last = json.loads(told.splitlines()[-1])
    assert last == {"ok": False, "step": 3, "logs": {name: [f"last words of {name}"] for name in NAMES}}
    assert json.loads(errors)["error"]["message"].startswith("Step 3 failed: ")


WAITING_DAEMON = """
import os, signal, sys
with open(os.path.join(sys.argv[2], "../../told"), "w") as told:
    told.write(str(os.getpid()))
signal.pause()
"""
DEMO = """
import sys
from pathlib import Path
from meshd.cli.demo import NAMES, Mesh, perform
from meshd.cli.processes import Daemon, stop_on_sigterm
program = (sys.executable, "-c", sys.argv[2])
mesh = Mesh(*(Daemon(name, Path(sys.argv[1]) / name, program) for name in NAMES))
stop_on_sigterm()
try:
    perform(mesh, as_json=False)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_sigterm_ends_it_as_ctrl_c_does_and_ends_the_daemons(directory: Path) -> None:
    """The daemon here never gets ready; it tells its process id and waits."""
    os.mkfifo(directory / "told")
    demo = subprocess.Popen([sys.executable, "-c", DEMO, directory, WAITING_DAEMON], stdout=subprocess.DEVNULL)
    pid = int((directory / "told").read_text())
    assert Path(f"/proc/{pid}").exists()
    demo.send_signal(signal.SIGTERM)
    assert demo.wait() == 130
    assert not Path(f"/proc/{pid}").exists()
