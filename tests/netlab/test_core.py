"""What the mesh promises, with real daemons on a network that has no way out.

Devices are called a, b, c; ``a`` founds the mesh.
"""

import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from meshd.client.blocking import Client
from meshd.errors import MeshdError

from .lab import Host, Lab, Refused, eventually

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(240)]

Make = Callable[[int], Lab]
LINK_S = 20.0
"""Generous: two slow cores run every daemon. What is promised is tested where time is virtual, or measured."""


def found(host: Host) -> None:
    host.ctl("init", "home")


def join(admin: Host, newcomer: Host) -> None:
    code = admin.ctl("invite")["code"]
    assert newcomer.ctl("join", code, "--name", newcomer.name)["device"]["name"] == newcomer.name


def mesh(lab: Lab) -> list[Host]:
    """Start a daemon on every host, and make one mesh of them."""
    for host, name in zip(lab.hosts, "abcdef", strict=False):
        host.start(name)
    found(lab.hosts[0])
    for host in lab.hosts[1:]:
        join(lab.hosts[0], host)
    return lab.hosts


def peer(host: Host, other: Host) -> dict[str, Any]:
    """What ``host`` says of the other; empty when it does not know it."""
    with host.client() as client:
        rows: list[dict[str, Any]] = client.call("peers")
    return next((row for row in rows if row["name"] == other.name), {})


def linked(*hosts: Host) -> None:
    """Wait until each has a link to each."""
    for host in hosts:
        for other in hosts:
            if other is not host:
                eventually(
                    lambda host=host, other=other: peer(host, other).get("state") == "up",  # type: ignore[misc]
                    within_s=LINK_S,
                    what=f"{host.name} linked with {other.name}",
                )


def receive(host: Host, count: int, timeout: float = LINK_S) -> list[str]:
    return [line["payload"] for line in host.ctl_lines("receive", "--count", str(count), timeout=timeout)]


def test_devices_find_each_other_pair_and_talk_without_any_way_out(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    assert [row["name"] for row in a.ctl("members")] == ["a", "b"]
    linked(a, b)
    sent = a.ctl("send", "b", "hello", "--wait", "delivered")
    (got,) = b.ctl_lines("receive", "--count", "1", timeout=LINK_S)
    assert (got["payload"], got["source_name"], got["id"]) == ("hello", "a", sent["id"])
    eventually(
        lambda: a.ctl("trace", sent["id"])["state"] == "consumed", within_s=LINK_S, what="a knows that b read it"
    )

    # What they remember of each other is wrong now: only multicast DNS can bring them together.
    for host in (a, b):
        host.stop()
        host.readdress(host.number + 100)
    for host in (a, b):
        host.start()
    linked(a, b)
    assert a.ipv4 in peer(b, a)["address"] or a.ipv6 in peer(b, a)["address"] or "fe80:" in peer(b, a)["address"]


def test_a_code_works_once(lab: Make) -> None:
    a, b, c = lab(3).hosts
    for host, name in zip((a, b, c), "abc", strict=True):
        host.start(name)
    found(a)
    code = a.ctl("invite")["code"]
    b.ctl("join", code)
    with pytest.raises(Refused) as refused:
        c.ctl("join", code)
    assert (refused.value.exit_code, refused.value.code) == (1, "E_CODE_USED")
    assert c.ctl("status")["mesh"] is None


def test_three_devices_are_all_linked(lab: Make) -> None:
    a, b, c = mesh(lab(3))
    linked(a, b, c)
    b.ctl("send", "c", "past a")
    assert receive(c, 1) == ["past a"]


def test_mail_for_a_stopped_device_arrives_when_it_starts(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    b.stop()
    assert a.ctl("send", "b", "later")["state"] == "accepted"
    (waiting,) = a.ctl("queue")
    assert (waiting["name"], waiting["messages"]) == ("b", 1)
    a.stop()  # it waits on disk, not in memory
    a.start()
    b.start()
    assert receive(b, 1) == ["later"]
    eventually(lambda: a.ctl("queue") == [], within_s=LINK_S, what="nothing waits any more")


def test_where_quic_is_blocked_websocket_is_used_and_quic_once_it_works(lab: Make) -> None:
    made = lab(2)
    made.network.block(("udp", None))
    a, b = mesh(made)
    linked(a, b)
    assert peer(a, b)["transport"] == "websocket"
    a.ctl("send", "b", "over TCP")
    assert receive(b, 1) == ["over TCP"]
    made.network.block()
    eventually(lambda: peer(a, b)["transport"] == "quic", within_s=90.0, what="the better transport is back")
    b.ctl("send", "a", "over QUIC")
    assert receive(a, 1) == ["over QUIC"]


def test_where_tcp_is_blocked_quic_is_used(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    for host in (a, b):
        host.stop()
    made.network.block(("tcp", None))
    for host in (a, b):
        host.start()
    linked(a, b)
    assert peer(a, b)["transport"] == "quic"
    b.ctl("send", "a", "over UDP")
    assert receive(a, 1) == ["over UDP"]


def test_a_network_that_loses_a_tenth_delays_but_loses_nothing(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    made.network.between(delay_s=0.05, loss=0.1)
    wanted = [f"{number}" for number in range(200)]
    with a.client() as client:
        for text in wanted:
            client.send("b", text.encode())
    assert receive(b, len(wanted), timeout=90.0) == wanted
    assert made.network.statistics()["lost"] > 0


def test_a_partition_heals(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    made.network.partition([a], [b])
    eventually(lambda: peer(a, b)["state"] == "down", within_s=LINK_S, what="a notices")
    a.ctl("send", "b", "across")
    made.network.heal()
    assert receive(b, 1, timeout=60.0) == ["across"]


def test_new_addresses_and_a_pulled_cable(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    b.readdress(202)
    a.ctl("send", "b", "moved")
    assert receive(b, 1) == ["moved"]
    made.network.unplug(b)
    a.ctl("send", "b", "plugged in again")
    made.network.plug(b)
    assert receive(b, 1) == ["plugged in again"]


def test_a_removed_device_is_cut_within_a_second(lab: Make) -> None:
    a, b, c = mesh(lab(3))
    linked(a, b, c)
    a.ctl("remove", "c")
    for host in (a, b):
        eventually(
            lambda host=host: peer(host, c).get("state") != "up",  # type: ignore[misc]
            within_s=1.0,
            what=f"{host.name} has cut it off",
        )
    with pytest.raises(Refused) as refused:
        b.ctl("send", "c", "are you there?")
    assert refused.value.code in ("E_UNKNOWN_DEVICE", "E_REMOVED_DEVICE")
    c.kill()
    c.start()
    b.ctl("send", "a", "between us")
    assert receive(a, 1) == ["between us"]
    assert peer(b, c).get("state") != "up"


def test_a_device_removed_while_it_was_off_learns_it_and_says_so(lab: Make) -> None:
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    made.network.unplug(c)
    waits = c.ctl("send", "a", "still under way")["id"]
    c.kill()
    a.ctl("remove", "c")
    made.network.plug(c)
    c.start()

    def state() -> str:
        return next(str(row["state"]) for row in c.ctl("members") if row["name"] == "c")

    eventually(lambda: state() == "removed", within_s=LINK_S, what="c was shown its removal")
    assert c.ctl("status")["removed"]
    with pytest.raises(Refused) as refused:
        c.ctl("send", "a", "are you there?")
    assert refused.value.code == "E_REMOVED_DEVICE"
    eventually(lambda: c.ctl("trace", waits)["state"] == "refused", within_s=LINK_S, what="its mail is refused")


TOTAL = 1000
BATCH = 20


@attrs.define(eq=False)
class Reading:
    """What an app sees: every delivery, and what it knows to be acked."""

    host: Host
    total: int = TOTAL
    seen: list[tuple[str, str]] = attrs.field(factory=list)  # id, payload
    confirmed: set[str] = attrs.field(factory=set)
    faults: list[str] = attrs.field(factory=list)

    def run(self) -> None:
        """Read until everything has come, through any number of dead daemons."""
        while len({message_id for message_id, _ in self.seen}) < self.total:
            try:
                with self.host.client(5.0) as client:
                    self._read(client)
            except MeshdError as error:
                if error.code not in ("E_NO_DAEMON", "E_STOPPING", "E_TIMEOUT"):
                    self.faults.append(repr(error))
                    return

    def _read(self, client: Client) -> None:
        with client.subscribe() as subscription:
            unconfirmed: list[str] = []
            while len({message_id for message_id, _ in self.seen}) < self.total:
                delivery = subscription.next(5.0)
                if delivery.id in self.confirmed:
                    self.faults.append(f"{delivery.id} again, after its ack was durable")
                self.seen.append((delivery.id, delivery.payload.decode()))
                unconfirmed.append(delivery.id)
                subscription.ack(delivery)
                if len(unconfirmed) == BATCH:
                    subscription.flush()
                    self.confirmed.update(unconfirmed)
                    unconfirmed.clear()


@attrs.define(eq=False)
class Sending:
    """An app that sends in order, and repeats with the same key what it does not know to be accepted."""

    host: Host
    destination: Host
    total: int = TOTAL
    faults: list[str] = attrs.field(factory=list)

    def run(self) -> None:
        for first in range(0, self.total, BATCH):
            while not self._send(first) and not self.faults:
                pass

    def _send(self, first: int) -> bool:
        messages = [str(number).encode() for number in range(first, first + BATCH)]
        try:
            with self.host.client(5.0) as client:
                client.call(
                    "send", {"destination": self.destination.name, "messages": messages, "key": f"from-{first}"}
                )
        except MeshdError as error:
            if error.code not in ("E_NO_DAEMON", "E_STOPPING", "E_TIMEOUT"):
                self.faults.append(repr(error))
            return False
        return True


Kills = list[tuple[int, tuple[Host, ...]]]
"""After how many messages which daemons are killed."""


def deliver_through_kills(source: Host, destination: Host, total: int, kills: Kills) -> None:
    """Send ``total`` messages while daemons die and come back: all arrive, once and in order."""
    reading, sending = Reading(destination, total), Sending(source, destination, total)
    threads = [threading.Thread(target=reading.run, daemon=True), threading.Thread(target=sending.run, daemon=True)]
    for thread in threads:
        thread.start()
    for target, victims in kills:
        eventually(
            lambda target=target: len(reading.seen) >= target or reading.faults or sending.faults,  # type: ignore[misc]
            within_s=90.0,
            what=f"{target} messages have come",
        )
        for victim in victims:
            victim.kill()
        for victim in victims:
            victim.start()
    for thread in threads:
        thread.join(120.0)
    assert sending.faults + reading.faults == []
    first_seen = dict.fromkeys(reading.seen)  # in the order of their first delivery
    assert [payload for _, payload in first_seen] == [str(number) for number in range(total)]


def test_daemons_killed_amid_a_thousand_messages_deliver_each_once_and_in_order(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    deliver_through_kills(a, b, TOTAL, [(100, (b,)), (300, (a,)), (500, (a, b)), (700, (b,)), (900, (a,))])
