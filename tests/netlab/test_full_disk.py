"""A device whose disk is really full: it says so, mail leaves it, nothing is lost, and room on the disk mends it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshd.errors import MeshdError
from tests.needs import require

from .lab import Host, Lab, eventually
from .test_core import LINK_S, linked, mesh

pytestmark = [pytest.mark.netlab, pytest.mark.system, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
PAYLOAD_BYTES = 48_000


@contextmanager
def small_disk(host: Host) -> Iterator[Path]:
    """The state directory of ``host`` is a disk of 96 MiB while the block runs, and the daemon is gone at its end."""
    state = host.directory / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "tmpfs", str(state)], check=True)
    try:
        yield state
    finally:
        host.kill()
        subprocess.run(["umount", str(state)], check=True)


def fill(path: Path) -> None:
    """Take what is left of the disk, to the last block."""
    with path.open("ab", buffering=0) as ballast:
        while os.statvfs(path).f_bavail:
            ballast.write(bytes(4096))


def payload(number: int) -> bytes:
    return b"%06d" % number + os.urandom(PAYLOAD_BYTES)


def send_until_full(host: Host, destination: str, first: int) -> int:
    """Send until the daemon takes no more, because it is full; how many it has taken."""
    with host.client() as client:
        for sent in range(10_000):
            try:
                client.send(destination, payload(first + sent))
            except MeshdError as error:
                if error.code != "E_FULL" or not error.hint:
                    raise
                return sent
    raise AssertionError("it is never full")


def read(host: Host, count: int) -> list[int]:
    """The numbers of the next messages, in the order they come."""
    with host.client() as client:
        return [int(each.payload[:6]) for each in client.receive(count=count, timeout=60.0)]


def test_mail_leaves_a_full_disk_and_comes_in_when_there_is_room(lab: Make) -> None:
    require(None if os.geteuid() == 0 else "root, to mount a disk")
    made = lab(2)
    with small_disk(made.hosts[0]) as disk:
        a, b = mesh(made)
        linked(a, b)
        b.stop()
        accepted = send_until_full(a, "b", 0)
        assert accepted > 100
        fill(disk / "ballast")
        assert os.statvfs(disk).f_bavail == 0
        assert send_until_full(a, "b", accepted) == 0

        a.kill()  # a full disk is no reason not to start
        a.start()
        assert send_until_full(a, "b", accepted) == 0
        b.start()
        linked(a, b)
        for number in range(20):
            b.ctl("send", "a", f"{number:06}")
        assert read(b, accepted) == list(range(accepted)), "all of them, in order, once"
        eventually(lambda: a.ctl("queue") == [], within_s=LINK_S, what="a knows that all have come")
        (disk / "ballast").unlink()  # what it gives back is less than a needs: the rest is where its mail was
        assert read(a, 20) == list(range(20))
        eventually(lambda: b.ctl("queue") == [], within_s=LINK_S, what="b knows that all have come")
        with a.client() as client:
            client.send("b", payload(accepted))
        assert read(b, 1) == [accepted]
        a.stop()
        a.start()  # it passes its own checks
        assert a.ctl("queue") == []
