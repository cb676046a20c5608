"""Networks that change under running daemons. Each test prints how long it took until mail came through again.

A time is never asserted: two slow cores run every daemon. ``-rP`` shows the figures of tests that passed.
"""

import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from meshd.errors import MeshdError

from .lab import Host, Lab
from .scenes import ROUTE_S, wait
from .test_core import linked, mesh, peer

pytestmark = [pytest.mark.netlab, pytest.mark.system, pytest.mark.timeout(400)]

Make = Callable[..., Lab]
_MDNS = ("224.0.0.251", 5353)


def await_mail(what: str, *pairs: tuple[Host, Host]) -> None:
    """Wait for a message between each pair to be delivered, and print how long that took from now on."""
    for source, destination in pairs:
        since = time.monotonic()
        deadline = since + ROUTE_S
        while True:
            try:
                with source.client(ROUTE_S) as client:
                    client.call("send", {"destination": destination.name, "messages": [b"."], "wait": "delivered"})
                break
            except MeshdError:
                assert time.monotonic() < deadline, f"{what}: {source.name} to {destination.name}"
        took = time.monotonic() - since
        print(f"figure: {what}, {source.name} to {destination.name}: {took:.2f} s")


def candidates(host: Host, other: Host) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = host.ctl("why", other.name)["candidates"]
    return found


def test_an_interface_goes_down_and_up(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    b.interface_down()
    wait(lambda: peer(a, b)["state"] == "down", "a misses b")
    b.interface_up()
    await_mail("interface up again", (a, b), (b, a))
    linked(a, b)


def test_a_neighbour_tells_a_broken_path_from_a_device_without_power(lab: Make) -> None:
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)

    def word(listener: Host, cut: Callable[[], None], mend: Callable[[], None]) -> dict[str, Any]:
        """What it is told of b. On a busy machine the answer may be late now and then."""
        for _ in range(5):
            cut()
            wait(lambda: listener.ctl("why", "b")["hearsay"] is not None, f"{listener.name} has asked about b")
            found: dict[str, Any] = listener.ctl("why", "b")["hearsay"]
            if found["hears"] is not None:
                break
            mend()
            linked(a, b, c)
        return found

    def lose(share: float) -> None:
        made.network.between(a, b, loss=share)
        made.network.between(b, a, loss=share)

    heard = word(a, lambda: lose(1.0), lambda: lose(0.0))
    assert (heard["hears"], heard["detail"]) == (True, "c hears it: the path between is broken")
    lose(0.0)
    linked(a, b, c)
    heard = word(c, lambda: made.network.unplug(b), lambda: made.network.plug(b))
    assert heard["hears"] is False
    [*_, last] = [e for e in c.ctl_lines("events") if e["event"] == "link-down" and e["name"] == "b"]
    assert last["detail"].endswith("; a does not hear it either: it is probably off, asleep or away")
    linked(a, c)


def test_new_addresses_are_used_and_old_ones_are_not_first_in_line(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    old = {f"//{b.ipv4}:", f"//[{b.ipv6}]:"}
    b.readdress(202)
    await_mail("new address", (a, b), (b, a))
    linked(a, b)
    wait(lambda: any(f"//{b.ipv4}:" in c["address"] for c in candidates(a, b)), "a knows the new one")
    wait(lambda: not any(place in candidates(a, b)[0]["address"] for place in old), "no old one is first in line")


def test_a_lost_default_route_disturbs_nobody_on_the_lan(lab: Make) -> None:
    a, b = mesh(lab(2))
    b.run("ip", "route", "add", "default", "via", a.ipv4)
    linked(a, b)
    before = peer(a, b)["address"]
    b.run("ip", "route", "del", "default")
    await_mail("default route gone", (a, b), (b, a))
    time.sleep(3.0)
    assert (peer(a, b)["state"], peer(a, b)["address"]) == ("up", before)


def test_a_daemon_that_starts_before_its_network(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    b.stop()
    b.interface_down()
    b.run("ip", "addr", "flush", "dev", "eth0")
    b.start()
    wait(lambda: peer(b, a)["state"] == "down", "b is alone")
    time.sleep(5.0)
    b.interface_up()
    b.run("ip", "addr", "add", f"{b.ipv4}/24", "dev", "eth0")
    await_mail("network after the daemon", (a, b), (b, a))


def test_roaming_between_two_subnets_and_back(lab: Make) -> None:
    """``a`` is on both networks, ``b`` on one after the other."""
    made = lab(2, two_interfaces=[0])
    a, b = made.hosts
    a.add_interface(subnet=79)
    made.network.partition([a, b], [a.second_port])
    mesh(made)
    linked(a, b)
    for subnet, other, here in ((79, a.number, a.second_port), (78, a.second_port, a.number)):
        made.network.partition([other], [here, b])
        b.readdress(b.number, subnet=subnet)
        await_mail(f"roamed to subnet {subnet}", (a, b), (b, a))
        linked(a, b)
        wait(lambda: b.ipv4 in peer(a, b)["address"] or ":" in peer(a, b)["address"], "a uses an address of the subnet")


def test_a_daemon_that_was_frozen_for_long(lab: Make) -> None:
    """As a machine that slept. (The clocks of sleep itself can't be made to jump here.)"""
    a, b = mesh(lab(2))
    linked(a, b)
    assert b.daemon is not None
    b.daemon.send_signal(signal.SIGSTOP)
    try:
        wait(lambda: peer(a, b)["state"] == "down", "a misses b")
        time.sleep(10.0)
    finally:
        b.daemon.send_signal(signal.SIGCONT)
    await_mail("awake again", (a, b), (b, a))
    linked(a, b)


def test_a_network_that_flaps_is_announced_again_but_not_each_time(lab: Make) -> None:
    a, b = mesh(lab(2))
    linked(a, b)
    with a.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
        ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ears.bind(_MDNS)
        index = int(a.run("ip", "-o", "link", "show", "eth0").partition(":")[0])
        group = struct.pack("4s4si", socket.inet_aton(_MDNS[0]), bytes(4), index)
        ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        ears.settimeout(0.2)
        answers(ears, 2.0)
        for number in range(20):
            b.readdress(150 + number)
        heard = answers(ears, 4.0)
    new = [source for source, _ in heard if source == b.ipv4]
    print(f"figure: 20 changes of address: {len(heard)} announcements heard, {len(new)} from the last address")
    assert new, "it is not announced anew"
    assert len(heard) < 20
    await_mail("after 20 changes of address", (a, b), (b, a))


def answers(ears: socket.socket, seconds: float) -> list[tuple[str, bytes]]:
    """Responses heard within that time: their source and content."""
    heard, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            data, sender = ears.recvfrom(9000)
        except TimeoutError:
            continue
        if data[2] & 0x80:
            heard.append((sender[0], data))
    return heard
