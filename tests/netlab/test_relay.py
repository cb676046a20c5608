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
from .test_core import deliver_through_kills, found, join, peer, receive

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
PATH_S = 30.0
KILLS = 100
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


@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_relay_killed_a_hundred_times_under_load_loses_and_repeats_nothing(lab: Make) -> None:
    a, b, r = two_networks(lab(3))
    deliver_through_kills(a, b, 60 * KILLS, [(60 * number + 40, (r,)) for number in range(KILLS)])
    eventually(lambda: a.ctl("queue") == [], within_s=90.0, what="a has every receipt")


def test_the_relay_is_left_for_a_direct_path_and_taken_again_when_that_is_gone(lab: Make) -> None:
    laboratory = lab(3)
    a, b, _ = two_networks(laboratory)
    laboratory.network.between(a, b, loss=0.0)
    laboratory.network.between(b, a, loss=0.0)
    a.ctl("breaker", "reset", "b")
    b.ctl("breaker", "reset", "a")
    eventually(
        lambda: peer(a, b).get("transport") in ("quic", "websocket"), within_s=60.0, what="a is linked with b itself"
    )
    eventually(  # a better route has to hold for 5 s before it is taken
        lambda: a.ctl("ping", "b")["path"] == ["a", "b"], within_s=PATH_S, what="the relay is left"
    )
    apart(laboratory, a, b)
    a.ctl("send", "b", "around", "--wait", "delivered")
    assert receive(b, 1) == ["around"]
    by_relay(a, b)


def test_of_two_relays_the_second_takes_over_and_the_first_comes_back(lab: Make) -> None:
    laboratory = lab(4)
    a, b, r, q = laboratory.hosts
    for host, name in ((a, "a"), (b, "b")):
        host.start(name, QUIET)
    found(a)
    join(a, b)
    add_relay(a, r, "--name", "r")
    add_relay(a, q, "--name", "q")
    eventually(lambda: len(b.ctl("relay", "list")) == 2, within_s=PATH_S, what="b knows both")
    apart(laboratory, a, b)
    by_relay(a, b)
    assert [row["name"] for row in a.ctl("relay", "list")] == ["r", "q"]
    r.kill()
    a.ctl("send", "b", "by the other", "--wait", "delivered", timeout=60.0)
    assert receive(b, 1) == ["by the other"]
    assert a.ctl("ping", "b")["path"] == ["a", "q", "b"]
    r.start_relay()
    eventually(lambda: a.ctl("relay", "list")[0]["state"] == "up", within_s=60.0, what="the first is back")
    assert a.ctl("relay", "list")[1]["state"] == "up", "and the second is not left before it has proven itself"
    a.ctl("relay", "remove", "q")
    eventually(
        lambda: [row["name"] for row in b.ctl("relay", "list")] == ["r"], within_s=PATH_S, what="b has heard of it"
    )
