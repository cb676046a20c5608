"""The real process: how it starts, how it refuses to, and how it stops."""

import fcntl
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from meshd.client.blocking import Client
from meshd.trust.identity import load_or_create
from tests.needs import require

CONFIG = """
[listen]
quic = ["127.0.0.1:0"]
websocket = ["127.0.0.1:0"]

[discovery]
mdns = false
"""
START_SECONDS = 40.0
STOP_SECONDS = 5.0


@attrs.frozen
class Place:
    """Where a daemon lives."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def config(self) -> Path:
        return self.root / "meshd.toml"

    def command(self, *more: str) -> list[str]:
        places = ["--config", self.config, "--state-dir", self.state, "--runtime-dir", self.root / "run"]
        return [sys.executable, "-m", "meshd.daemon", *map(str, places), "--name", "tested", *more]

    def run(self, *more: str, through: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """A daemon that is expected to end by itself; ``through`` another command that runs it."""
        command = [*through, *self.command(*more)]
        return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


class Running:
    """A daemon that is up."""

    def __init__(self, place: Place, through: Sequence[str] = ()) -> None:
        command = [*through, *place.command("--log-format", "json")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.log = ""
        self.wait_for('"running"')

    def wait_for(self, text: str) -> None:
        """Read the log until ``text`` is in it."""
        while text not in self.log:
            assert self.wait_for_more(), f"no {text} in the log: {self.log}"

    def wait_for_more(self) -> bool:
        """Read what the log says next; False when it says nothing more."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
        self.log += data.decode()
        return bool(data)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and return how it ended."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def close(self) -> None:
        """End it in any case."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "meshd.toml").write_text(CONFIG, encoding="utf-8")
    return Place(tmp_path)


@pytest.fixture
def running(place: Place) -> Iterator[Running]:
    daemon = Running(place)
    yield daemon
    daemon.close()


def check_refusal(ended: subprocess.CompletedProcess[str], code: int, name: str, *mentions: str) -> None:
    """It ended with ``code`` and one line that names the error, what it is about, and what to do."""
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    [line] = ended.stderr.strip().splitlines()
    assert line.startswith(("meshd: ", "meshd-relay: "))
    assert f"[{name}] " in line
    for mention in mentions:
        assert mention in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_and_at_once(running: Running, place: Place, number: int) -> None:
    assert (place.root / "run" / "meshd.sock").is_socket()
    assert running.stop(number) == 0


def test_a_reload_takes_the_log_level_and_says_what_it_can_not_take(running: Running, place: Place) -> None:
    place.config.write_text(CONFIG + '\n[log]\nlevel = "debug"\n\n[store]\nquota = "3 GB"\n', encoding="utf-8")
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("some sections take a restart")
    assert '"store"' in running.log
    place.config.write_text("nonsense = [", encoding="utf-8")
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("configuration not reloaded")
    assert running.stop() == 0


def test_it_tells_what_it_goes_by_and_from_where(running: Running, place: Place) -> None:
    def told() -> dict[str, tuple[object, str]]:
        with Client(place.root / "run" / "meshd.sock", timeout=START_SECONDS) as client:
            return {row["key"]: (row["value"], row["source"]) for row in client.call("config")}

    assert told()["discovery.mdns"] == (False, f"{place.config}:7")
    assert told()["log.format"] == ("json", "command line")
    assert told()["store.quota"] == ("1GiB", "default")
    place.config.write_text(CONFIG + '\n[log]\nlevels = { links = "debug" }\n\n[store]\nquota = "3 GB"\n')
    running.process.send_signal(signal.SIGHUP)
    running.wait_for("some sections take a restart")
    assert told()["log.levels"] == ({"links": "debug"}, f"{place.config}:10")
    assert told()["store.quota"] == ("1GiB", "default"), "it still goes by the old one"


@pytest.mark.parametrize("redirection", ["", "2>/dev/full", "<&- >&- 2>&-"], ids=["nobody reads", "full", "closed"])
def test_a_log_that_can_not_be_written_ends_nothing(place: Place, redirection: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(place.root / "notify"))
        ready.settimeout(START_SECONDS)
        command = ["sh", "-c", f'exec "$@" {redirection}', "sh", *place.command("--log-level", "debug")]
        environment = os.environ | {"NOTIFY_SOCKET": str(place.root / "notify")}
        with subprocess.Popen(command, stderr=writing, env=environment) as daemon:
            try:
                assert b"READY=1" in ready.recv(4096).splitlines()
                with Client(str(place.root / "run" / "meshd.sock")) as client:
                    client.call("init", {"name": "home"})
                    assert client.send("tested", b"x").state == "accepted"
                daemon.terminate()
                assert daemon.wait(STOP_SECONDS) == 0
            finally:
                daemon.kill()
                os.close(writing)
    refused = subprocess.run([*command, "--name", "no name"], check=False, stderr=subprocess.DEVNULL)
    assert refused.returncode == 2


@pytest.mark.parametrize("program", ["meshd.__main__", "meshd.relay"])
def test_ctrl_c_while_it_loads_ends_it_without_a_word(program: str) -> None:
    """Python tells what it has loaded: the first of many libraries, when the signal is sent."""
    command = [sys.executable, "-X", "importtime", "-c", f"from {program} import main; main()", "--check-config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as loading:
        assert loading.stderr is not None
        fcntl.fcntl(loading.stderr, fcntl.F_SETPIPE_SZ, 4096)  # what is not read holds it up
        assert any(line.endswith(" trio._version\n") for line in loading.stderr)
        loading.send_signal(signal.SIGINT)
        out, rest = loading.communicate()
    assert "Traceback" not in rest
    assert (loading.returncode, out) == (-signal.SIGINT, "")


def test_a_second_one_on_the_same_state_is_refused_and_the_first_runs_on(running: Running, place: Place) -> None:
    check_refusal(place.run(), 3, "E_RUNNING", str(place.state))
    assert running.stop() == 0


def test_it_starts_again_on_the_same_state(running: Running, place: Place) -> None:
    assert running.stop() == 0
    again = Running(place)
    try:
        assert again.stop() == 0
    finally:
        again.close()


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("[listen]\nquick = []\n", ("meshd.toml", "2", "listen.quick")),
        ("[log]\nlevel = 7\n", ("meshd.toml", "log.level")),
        ("[log\n", ("meshd.toml", "1")),
        ("[store]\nquota = -1\n", ("store.quota",)),
    ],
)
def test_a_wrong_configuration_is_named(place: Place, text: str, mentions: tuple[str, ...]) -> None:
    place.config.write_text(text, encoding="utf-8")
    check_refusal(place.run(), 2, "E_CONFIG", *mentions)
    assert not place.state.exists()


def test_a_missing_configuration_is_named(place: Place) -> None:
    place.config.unlink()
    check_refusal(place.run("--check-config"), 2, "E_CONFIG", "meshd.toml")


def test_usage(place: Place) -> None:
    ended = place.run("--nonsense")
    assert ended.returncode == 2
    assert "--nonsense" in ended.stderr
    check_refusal(place.run("--name", "no name"), 2, "E_USAGE", "--name")
    check_refusal(place.run("--name", "no name", "--check-config"), 2, "E_USAGE", "--name")


def test_a_fine_configuration_is_said_to_be_fine(place: Place) -> None:
    ended = place.run("--check-config")
    assert (ended.returncode, ended.stdout) == (0, "The configuration is fine.\n")
    assert not place.state.exists()


def test_a_state_directory_that_is_a_file(place: Place) -> None:
    place.state.write_text("", encoding="utf-8")
    check_refusal(place.run(), 2, "E_STATE_DIR", str(place.state))


def test_a_state_directory_that_nobody_may_make(place: Place) -> None:
    # Not even root makes a directory there, so that this says the same for every user.
    check_refusal(place.run("--state-dir", "/proc/meshd-state"), 2, "E_STATE_DIR", "/proc/meshd-state")


@pytest.mark.parametrize("program", ["meshd.daemon", "meshd.relay.server"])
def test_a_user_without_a_home_is_told_so(program: str) -> None:
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if shutil.which("unshare") is None or subprocess.run([*nobody, "true"], check=False).returncode:
        require("unshare --user")
    said = {"XDG_STATE_HOME", "STATE_DIRECTORY", "MESHD_STATE_DIR", "HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in said}
    command = [*nobody, sys.executable, "-c", f"import {program}; {program}.main()"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=START_SECONDS, check=False)
    check_refusal(ended, 2, "E_STATE_DIR", "--state-dir")


def test_a_damaged_database_is_kept_and_named(place: Place) -> None:
    place.state.mkdir(mode=0o700)
    damaged = b"not a database at all " * 500
    (place.state / "meshd.db").write_bytes(damaged)
    check_refusal(place.run(), 1, "E_DATABASE", "meshd.db")
    assert (place.state / "meshd.db").read_bytes() == damaged


@pytest.mark.parametrize("key", ["gone", "of another device"])
def test_state_without_its_key_is_refused(running: Running, place: Place, key: str) -> None:
    assert running.stop() == 0
    file = place.state / "identity.key"
    own = file.read_bytes()
    file.unlink()
    if key == "of another device":
        load_or_create(place.state, random.Random(1))
    check_refusal(place.run(), 2, "E_STATE_DIR", "identity.key", "backup")
    assert file.exists() == (key != "gone")

    file.write_bytes(own)
    file.chmod(0o600)
    again = Running(place)
    again.close()
