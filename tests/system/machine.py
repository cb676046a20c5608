"""Whole Debian machines for tests: a real systemd as PID 1, in namespaces, over one shared tree.

    with Machine(tree, "alpha") as alpha:
        alpha.run("systemctl", "is-active", "meshd")

What a machine writes goes to memory. It is one process tree in one control group: leaving the block,
or the death of the test run, ends all of it, and its mounts go with its namespaces.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.netlab.lab import eventually

BOOT_TIMEOUT_S = 90.0
RUN_TIMEOUT_S = 120.0
PROGRAMS = ("ip", "mount", "nsenter", "setpriv", "unshare")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

# In namespaces of its own: lay a writable layer over the tree, enter it, become systemd. The root of a
# read-only machine is as from a card with its lock on; only its state directory is on another disk.
_BOOT = """
set -eu
tree=$1 name=$2 root=$3 access=$4
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir upper work machine
mount -t overlay -o "lowerdir=$tree,upperdir=$root/upper,workdir=$root/work" overlay machine
cd machine
echo "$name" > etc/hostname
hostname "$name"
if [ "$access" = ro ]; then
    echo "tmpfs /var/lib/meshd tmpfs mode=755 0 0" > etc/fstab
    mkdir -p var/lib/meshd
    mount -o remount,ro "$root/machine"
fi
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . mnt
cd /
umount -l /mnt
exec env -i container=test PATH="$PATH" /lib/systemd/systemd --system --unit=multi-user.target > /dev/null 2>&1
"""


def missing() -> str | None:
    """What this machine lacks to run machines, exactly; None when nothing."""
    if os.geteuid() != 0:
        return "not root (sudo make test-system)"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: iproute2, util-linux, mount)"
    if _control_groups() is None:
        return "no cgroup2 file system is mounted"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs (modprobe overlay)"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"no namespaces: {tried.stderr.strip()}"


def _control_groups() -> Path | None:
    for row in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = row.split()
        if kind == "cgroup2":
            return Path(place)
    return None


class Failed(AssertionError):
    """A command on a machine ended with another code than expected."""


class Machine:
    """One machine, booted by entering the context, with no network but its loopback.

    Args:
        tree: a Debian file tree, which is not changed.
        name: its host name.
        read_only: the root can't be written to.
    """

    def __init__(self, tree: Path, name: str, *, read_only: bool = False) -> None:
        self.name = name
        self._tree = tree
        self._access = "ro" if read_only else "rw"
        self._stack = ExitStack()
        self._pid = 0

    def __enter__(self) -> "Machine":
        with ExitStack() as stack:
            root = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshd-machine-"))
            group = self._group(stack)
            command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
            command += ["setpriv", "--pdeathsig", "KILL"]
            command += ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private"]
            command += ["--uts", "--ipc", "--net", "--cgroup"]
            command += ["sh", "-c", _BOOT, "boot", str(self._tree), self.name, root, self._access]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            stack.callback(self._end, process, group)
            self._await_boot(process)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def _group(self, stack: ExitStack) -> Path:
        groups = _control_groups()
        assert groups is not None
        group = Path(tempfile.mkdtemp(prefix="meshd-machine-", dir=groups))
        stack.callback(_remove_group, group)
        group.chmod(0o755)  # users' service managers make groups below it
        return group

    def _end(self, process: subprocess.Popen[str], group: Path) -> None:
        (group / "cgroup.kill").write_text("1")
        process.wait()
        assert process.stderr is not None
        process.stderr.close()

    def _await_boot(self, process: subprocess.Popen[str]) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def booted() -> bool:
            if process.poll() is not None:
                assert process.stderr is not None
                raise AssertionError(f"{self.name} did not boot: {process.stderr.read()}")
            self._pid = int(children.read_text().split()[0]) if children.read_text() else 0
            if not self._pid or Path(f"/proc/{self._pid}/comm").read_text() != "systemd\n":
                return False
            return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}

        eventually(booted, within_s=BOOT_TIMEOUT_S, what=f"{self.name} boots")

    def command(self, *argv: str, user: str | None = None) -> list[str]:
        """The command that runs ``argv`` on this machine, from outside."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        enter += ["--root", "env", "--chdir=/", "-i"]
        home = f"/home/{user}" if user else "/root"
        enter += [f"{name}={value}" for name, value in {**_ENVIRONMENT, "HOME": home}.items()]
        return [*enter, *(["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []), *argv]

    def run(
        self,
        *argv: str,
        user: str | None = None,
        stdin: str = "",
        check: bool = True,
        timeout: float = RUN_TIMEOUT_S,
    ) -> str:
        """Run a program as root, or as ``user``; return what it printed, errors too. Raises Failed."""
        done = subprocess.run(
            self.command(*argv, user=user),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise Failed(f"{self.name}: {' '.join(argv)}: exit {done.returncode}: {done.stdout}")
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as systemctl shows it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def log(self, unit: str = "meshd") -> str:
        """What the unit wrote."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, check=False)

    def path(self, inside: str) -> Path:
        """A file of the machine, as seen from outside."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def plug(self, other: "Machine", ours: str, theirs: str) -> None:
        """A cable from this machine's eth0 to the other's, with these addresses."""
        enter = ["nsenter", "--target", str(self._pid), "--net", "ip"]
        cable = ["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(other._pid)]
        subprocess.run([*enter, *cable], check=True)
        for machine, address in ((self, ours), (other, theirs)):
            lines = f"addr add {address} dev eth0\nlink set eth0 up\n"
            batch = ["nsenter", "--target", str(machine._pid), "--net", "ip", "-batch", "-"]
            subprocess.run(batch, input=lines, text=True, check=True)


def pair(inviting: Machine, joining: Machine) -> None:
    """Bring ``joining`` into the mesh of ``inviting``."""

    def paired() -> bool:
        # Asked anew each time: before the daemon has seen a new cable there is no address to put into a code.
        answer = inviting.run("meshctl", "--json", "invite", check=False)
        code = json.loads(answer).get("code") if answer.strip().startswith("{") else None
        if code is None:
            return False
        return '"mesh"' in joining.run("meshctl", "--json", "join", code, check=False)

    eventually(paired, within_s=20.0, what=f"{joining.name} joins")


def _remove_group(group: Path) -> None:
    """Remove a control group and those that systemd made in it, once the kernel has let go of the dead."""

    def removed() -> bool:
        for place, _, _ in os.walk(group, topdown=False):
            try:
                os.rmdir(place)
            except OSError:
                return False
        return True

    eventually(removed, within_s=10.0, what=f"{group} is empty")


def wait_for(seconds: float) -> None:
    """Let real time pass, where the thing tested is that nothing happens in it."""
    time.sleep(seconds)
