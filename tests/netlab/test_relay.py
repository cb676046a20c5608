"""Networks that only a relay joins: devices that never hear each other, and a server that both can reach.

a ... r ... b      (a and b lose every frame of each other)
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from .lab import Host, Lab, eventually
from .test_core import found, join, peer, receive

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
PATH_S = 30.0
QUIET = "[discovery]\nmdns = false\n"


def apart(lab: Lab, *hosts: Host) -> None:
    """None of these hears another one."""
    for one in hosts:
        for other in hosts:
            if one is not other:
                lab.network.between(one, other, loss=1.0)


def add_relay(admin: Host, relay: Host, *more: str) -> None:
    relay.start_relay()
    url = f"wss://{relay.ipv4}:443"
    added = admin.ctl("relay", "add", url, "--certificate", relay.certificate_hash(), *more)
    assert added["url"] == url


def two_networks(lab: Lab) -> tuple[Host, Host, Host]:
    """a and b in one mesh, which from now on only r joins."""
    a, b, r = lab.hosts
    a.start("a", QUIET)
    b.start("b", QUIET)
    found(a)
    join(a, b)
    add_relay(a, r, "--name", "r")
    eventually(lambda: [row["state"] for row in b.ctl("relay", "list")] == ["up"], within_s=PATH_S, what="b knows r")
    apart(lab, a, b)
    by_relay(a, b)
    by_relay(b, a)
    return a, b, r


def by_relay(host: Host, other: Host) -> None:
    eventually(
        lambda: peer(host, other).get("transport") == "relay",
        within_s=PATH_S,
        what=f"{host.name} reaches {other.name} through the relay",
    )


def test_messages_receipts_and_pings_cross_the_relay(lab: Make) -> None:
    a, b, r = two_networks(lab(3))
    sent = a.ctl("send", "b", "across", "--wait", "delivered")
    assert receive(b, 1) == ["across"]
    eventually(lambda: a.ctl("trace", sent["id"])["state"] == "consumed", within_s=PATH_S, what="a has the receipt")
    assert a.ctl("ping", "b")["path"] == ["a", "r", "b"]
    b.ctl("send", "a", "and back")
    assert receive(a, 1) == ["and back"]
    [row] = a.ctl("status")["relays"]
    assert row == {"url": f"wss://{r.ipv4}:443", "state": "up"}


def test_a_stopped_device_gets_its_mail_from_the_relay_when_its_sender_is_off(lab: Make) -> None:
    a, b, r = two_networks(lab(3))
    b.stop()
    eventually(lambda: peer(a, b)["state"] == "down", within_s=PATH_S, what="a misses b")
    for number in range(20):
        a.ctl("send", "b", f"kept {number}")
    [waiting] = a.ctl("queue")
    assert waiting["reason"] == "at-relay"
    eventually(lambda: has_copies(r, 20), within_s=PATH_S, what="the relay has every copy")
    a.stop()
    r.kill()
    r.start_relay()
    b.start()
    assert receive(b, 20, timeout=60.0) == [f"kept {number}" for number in range(20)]
    a.start()
    eventually(lambda: a.ctl("queue") == [], within_s=60.0, what="a has the receipts")


def has_copies(relay: Host, count: int) -> bool:
    """Whether so many bundles are on the relay's disk, as its own log of commits has it."""
    [path] = (relay.directory / "state" / "meshes").glob("*.db")
    return path.exists() and stored_bundles(path) >= count


def stored_bundles(path: Path) -> int:
    """Rows of the spool in a copy of the store: the relay holds the file itself."""
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                shutil.copy(source, Path(directory) / f"copy.db{suffix}")
        connection = apsw.Connection(str(Path(directory) / "copy.db"))
        [(count,)] = connection.execute("SELECT count(*) FROM spool")
        connection.close()
        assert isinstance(count, int)
        return count
