"""A laboratory: several hosts on one machine, each a network namespace with real daemons in it.

    with Lab(3) as lab:
        a, b, c = lab.hosts
        a.start("alpha")
        a.ctl("init", "home")
        lab.network.partition([a], [b, c])

The namespaces have no names: each is kept alive by a process that ends when its standard input
does, so that nothing outlives the laboratory, however it ends. There is no route to anywhere but
the hosts. Works as root, within ``unshare -Urnm``, and for a user who may make user namespaces.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, TypeVar

import attrs

from meshd.client.blocking import Client

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
"""The contract of SIGTERM."""

CTL_TIMEOUT_S = 20.0
_LOOK_INTERVAL_S = 0.05
_LOG_TAIL_LINES = 80
_ROOT = Path(__file__).parents[2]
_PROGRAMS = ("ip", "nsenter", "unshare", "setpriv")
_OPEN_SOCKET = (
    "import socket, sys\n"
    "with socket.socket(int(sys.argv[1]), int(sys.argv[2])) as made, socket.socket(fileno=0) as pipe:\n"
    "    socket.send_fds(pipe, [b'.'], [made.fileno()])\n"
)

T = TypeVar("T")


def missing() -> str | None:
    """What this machine lacks for a laboratory, exactly; None when nothing."""
    lacking = [program for program in _PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: iproute2, util-linux)"
    if not Path("/proc/sys/net/ipv6").exists():
        return "the kernel has no IPv6"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return None
    tried = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no network namespaces: {tried.stderr.strip()}"


def eventually(check: Callable[[], T], *, within_s: float, what: str) -> T:
    """Look until ``check`` returns something true, and return that. Raises AssertionError with what was seen last."""
    deadline = time.monotonic() + within_s
    while not (seen := check()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {within_s:g} s; last seen: {seen!r}")
        time.sleep(_LOOK_INTERVAL_S)
    return seen


class Refused(Exception):
    """``meshctl`` ended with a code other than 0."""

    def __init__(self, command: Iterable[str], exit_code: int, output: str) -> None:
        super().__init__(f"meshctl {' '.join(command)}: exit {exit_code}: {output.strip()}")
        self.exit_code = exit_code
        self.output = output

    @property
    def code(self) -> str:
        """The error's code, from the JSON on standard error."""
        code = json.loads(self.output.splitlines()[-1])["error"]["code"]
        assert isinstance(code, str)
        return code


@attrs.frozen
class Namespace:
    """A network namespace, kept by process ``pid``. ``outer``: how to enter what is around it."""

    pid: int
    outer: tuple[str, ...]

    def command(self, *argv: str) -> list[str]:
        """The command that runs ``argv`` inside; the process has the same pid, and dies with this one."""
        return [*self.outer, "nsenter", f"--net=/proc/{self.pid}/ns/net", "setpriv", "--pdeathsig", "KILL", *argv]


class Network:
    """Makes the network between the hosts bad, and good again. One-way unless said otherwise; None: every host."""

    def __init__(self, control: Path) -> None:
        self._switch = str(control)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"{control}.client")
        self._socket.settimeout(10.0)

    def close(self) -> None:
        """The switch goes on as it is."""
        self._socket.close()

    def between(self, source: "Host | None" = None, destination: "Host | None" = None, **changes: Any) -> None:
        """Change fields of ``switch.Conditions`` for frames from ``source`` to ``destination``."""
        self._order(
            {
                "op": "set",
                "from": source and source.number,
                "to": destination and destination.number,
                "changes": changes,
            }
        )

    def block(self, *what: tuple[str, int | None]) -> None:
        """Block (``udp`` or ``tcp``, port) everywhere; port None: all but mDNS. Without arguments: nothing."""
        self.between(blocked=what)

    def partition(self, *groups: Iterable["Host | int"]) -> None:
        """Only hosts (or ports) of one group hear each other; the others are together."""
        ports = [[member if isinstance(member, int) else member.number for member in group] for group in groups]
        self._order({"op": "partition", "groups": ports})

    def heal(self) -> None:
        """End the partition."""
        self.partition()

    def unplug(self, host: "Host") -> None:
        """Pull the cable: the host sees its link go down."""
        self._order({"op": "cable", "port": host.number, "plugged": False})

    def plug(self, host: "Host") -> None:
        """Put it back."""
        self._order({"op": "cable", "port": host.number, "plugged": True})

    def statistics(self) -> dict[str, int]:
        """Frames ``forwarded``, ``lost``, ``blocked``, ``overflowed``, ``unsent``."""
        counted: dict[str, int] = self._order({"op": "statistics"})["statistics"]
        return counted

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        self._socket.sendto(json.dumps(order).encode(), self._switch)
        answer: dict[str, Any] = json.loads(self._socket.recv(65536))
        assert "error" not in answer, answer
        return answer


class Host:
    """One machine of the laboratory, with at most one daemon on it."""

    def __init__(self, number: int, namespace: Namespace, directory: Path) -> None:
        self.number = number
        self.name = f"host{number}"
        self.ipv4 = f"10.78.0.{number}"
        self.ipv6 = f"fd78::{number}"
        self.second_port = 0
        """Of its ``eth1``, when it has one."""
        self.namespace = namespace
        self.directory = directory
        self.daemon: subprocess.Popen[bytes] | None = None
        self.is_relay = False
        self.config = ""
        directory.mkdir()

    @property
    def socket_path(self) -> Path:
        """The daemon's local API."""
        return self.directory / "run" / "meshd.sock"

    def configure(self) -> None:
        """Addresses, and no route beyond the local network."""
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad")
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
        self._ip("link set lo up", "link set eth0 up", *self._addressing("add"))

    def _addressing(self, verb: str) -> tuple[str, str]:
        return f"addr {verb} {self.ipv4}/24 dev eth0", f"addr {verb} {self.ipv6}/64 dev eth0"

    def readdress(self, number: int, *, subnet: int = 78) -> None:
        """Take other addresses, as from another DHCP server; the old ones are gone first."""
        before = self._addressing("del")
        self.ipv4, self.ipv6 = f"10.{subnet}.0.{number}", f"fd{subnet}::{number:x}"
        self._ip(*before, *self._addressing("add"))

    def add_interface(self, *, subnet: int) -> None:
        """Set up ``eth1`` in another subnet."""
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_dad")
        host = f"10.{subnet}.0.{self.number}/24", f"fd{subnet}::{self.number:x}/64"
        self._ip("link set eth1 up", *(f"addr add {address} dev eth1" for address in host))

    def interface_down(self) -> None:
        """As ``ip link set eth0 down``: IPv6 addresses go with it, the IPv4 one stays."""
        self._ip("link set eth0 down")

    def interface_up(self) -> None:
        """And up again."""
        self._ip("link set eth0 up", f"addr replace {self.ipv6}/64 dev eth0")

    def _ip(self, *lines: str) -> None:
        self.run("ip", "-batch", "-", stdin="\n".join(lines))

    def run(self, *argv: str, stdin: str = "", timeout: float = 20.0) -> str:
        """Run a program on this host; return what it printed. Raises CalledProcessError."""
        command = self.namespace.command(*argv)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    def open_socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket of this process that lives on this host's network."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = self.namespace.command(sys.executable, "-c", _OPEN_SOCKET, str(int(family)), str(int(kind)))
            subprocess.run(command, stdin=theirs.fileno(), check=True, timeout=20.0)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptors[0])

    def start_relay(self, config: str | None = None) -> None:
        """Run ``meshd-relay`` instead of a daemon, from now on."""
        self.is_relay = True
        self.start(self.name, config)

    def certificate_hash(self) -> str:
        """What ``meshd-relay --certificate`` says of this host's relay."""
        command = [sys.executable, "-m", "meshd.relay", "--state-dir", str(self.directory / "state"), "--certificate"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(self.directory))
        return done.stderr.split()[-1]

    def start(
        self, name: str | None = None, config: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Run the daemon until it says that it is ready; later starts keep the name and the configuration."""
        assert self.daemon is None, f"{self.name} runs already"
        self.name = name or self.name
        for part in ("state", "run"):
            (self.directory / part).mkdir(exist_ok=True, mode=0o700)
        if config is not None:
            self.config = config
        (self.directory / "meshd.toml").write_text(self.config)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self._log_path.open("ab") as log:
            notify_path = self.directory / "notify"
            notify_path.unlink(missing_ok=True)
            notify.bind(str(notify_path))
            self.daemon = subprocess.Popen(
                self.namespace.command(*self._daemon_command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=_environment(self.directory) | {"NOTIFY_SOCKET": str(notify_path)} | dict(environment or {}),
            )
            self._await_ready(self.daemon, notify)

    def _daemon_command(self) -> list[str]:
        directory = self.directory
        if self.is_relay:
            program = [sys.executable, "-m", "meshd.relay", "--config", str(directory / "meshd.toml")]
            return [*program, "--state-dir", str(directory / "state")]
        return [
            *(sys.executable, "-m", "meshd.daemon", "--name", self.name, "--config", str(directory / "meshd.toml")),
            *("--state-dir", str(directory / "state"), "--runtime-dir", str(directory / "run")),
        ]

    def _await_ready(self, daemon: subprocess.Popen[bytes], notify: socket.socket) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        ended = os.pidfd_open(daemon.pid)
        try:
            while (left_s := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select([notify.fileno(), ended], [], [], left_s)
                if notify.fileno() in ready and b"READY=1" in notify.recv(4096).split(b"\n"):
                    return
                if ended in ready:
                    self.daemon = None
                    raise AssertionError(f"{self.name}: the daemon ended with exit code {daemon.wait()}\n{self.log()}")
        finally:
            os.close(ended)
        raise AssertionError(f"{self.name}: the daemon was not ready within {START_TIMEOUT_S:g} s\n{self.log()}")

    def stop(self) -> None:
        """SIGTERM: the daemon must end by itself, cleanly and in time."""
        daemon, self.daemon = self.daemon, None
        assert daemon is not None
        daemon.terminate()
        try:
            code = daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            raise AssertionError(f"{self.name}: still there {STOP_TIMEOUT_S:g} s after SIGTERM") from None
        assert code == 0, f"{self.name}: exit code {code} after SIGTERM"

    def kill(self) -> None:
        """SIGKILL, as a power cut: nothing is flushed, nobody is told."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            daemon.kill()
            daemon.wait()

    def ctl(self, *argv: str, timeout: float = CTL_TIMEOUT_S) -> Any:
        """``meshctl --json``: its one document. Raises Refused."""
        (document,) = self.ctl_lines(*argv, timeout=timeout)
        return document

    def ctl_lines(self, *argv: str, timeout: float = CTL_TIMEOUT_S) -> list[Any]:
        """``meshctl --json``: a document for each line. Raises Refused."""
        program = [sys.executable, "-m", "meshd.cli", "--socket", str(self.socket_path)]
        command = [*program, "--json", "--timeout", f"{timeout:g}", *argv]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environment(self.directory),
            timeout=timeout + 10.0,
            check=False,
        )
        if done.returncode != 0:
            raise Refused(argv, done.returncode, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def client(self, timeout: float = CTL_TIMEOUT_S) -> Client:
        """A client of this host's daemon."""
        return Client(self.socket_path, timeout)

    @property
    def _log_path(self) -> Path:
        return self.directory / "log"

    def log(self) -> str:
        """The end of what the daemon wrote."""
        lines = self._log_path.read_text(errors="replace").splitlines() if self._log_path.exists() else []
        return "\n".join(lines[-_LOG_TAIL_LINES:])


def _environment(home: Path) -> dict[str, str]:
    """Nothing of this process's environment but where programs are."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1"}


class Lab:
    """See the module. Leaving the block ends every process and removes the directory.

    Args:
        two_interfaces: indices of hosts that have an ``eth1`` too; it is down.
    """

    def __init__(self, hosts: int, two_interfaces: Iterable[int] = ()) -> None:
        self._size = hosts
        self._two_interfaces = tuple(two_interfaces)
        self._stack = ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> "Lab":
        with ExitStack() as stack:
            self._interrupt_on_sigterm(stack)
            self.directory = Path(tempfile.mkdtemp(prefix="netlab-"))
            stack.callback(shutil.rmtree, self.directory)
            self._outer: tuple[str, ...] = ()
            if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
                pid = self._keep(stack, ["unshare", "-Urn"])
                self._outer = ("nsenter", f"--user=/proc/{pid}/ns/user", "--preserve-credentials")
            for number in range(1, self._size + 1):
                host = Host(number, self._namespace(stack), self.directory / str(number))
                stack.callback(host.kill)
                self.hosts.append(host)
            self.network = self._start_switch(stack)
            for host in self.hosts:
                host.configure()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _namespace(self, stack: ExitStack) -> Namespace:
        return Namespace(self._keep(stack, [*self._outer, "unshare", "--net"]), self._outer)

    def _keep(self, stack: ExitStack, unshare: list[str]) -> int:
        """A process that keeps a namespace; its pid, once it is there."""
        return self._start(stack, [*unshare, "sh", "-c", "echo ready; exec cat"]).pid

    def _start_switch(self, stack: ExitStack) -> Network:
        control = self.directory / "switch"
        switch = str(Path(__file__).with_name("switch.py"))
        command = [sys.executable, switch, str(control), *(str(host.namespace.pid) for host in self.hosts)]
        for port, number in enumerate(self._two_interfaces, self._size + 1):
            self.hosts[number].second_port = port
            command.append(f"{self.hosts[number].namespace.pid}:eth1")
        self._start(stack, self._namespace(stack).command(*command))
        network = Network(control)
        stack.callback(network.close)
        return network

    def _start(self, stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
        """A process that lives until its standard input ends, once it says ``ready``."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        stack.callback(_end, process)
        assert process.stdout is not None
        with process.stdout as output:
            line = output.readline()
        assert line == b"ready\n", f"{command}: {line!r}"
        return process

    def _interrupt_on_sigterm(self, stack: ExitStack) -> None:
        """SIGTERM would end this process without a clean-up: make it an interrupt instead."""
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _interrupt)
            stack.callback(signal.signal, signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    pipe: IO[bytes] | None = process.stdin
    if pipe is not None:
        pipe.close()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
