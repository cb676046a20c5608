"""Messages, receipts, pings and traces on networks of other shapes than one LAN."""

import threading
from collections.abc import Callable

import pytest

from .lab import Host, Lab, eventually
from .scenes import ROUTE_S, at_rest, converse, hear_only, routed, shaped, unlinked, wait
from .test_core import join, linked, mesh, peer, receive

pytestmark = [pytest.mark.netlab, pytest.mark.system, pytest.mark.timeout(600)]

Make = Callable[..., Lab]


def test_a_ring_of_four_carries_both_ways_round_and_on_when_a_device_fails(lab: Make) -> None:
    """a --- b --- c --- d --- a"""
    a, b, c, d = shaped(lab(4), (0, 1), (1, 2), (2, 3), (3, 0))
    unlinked((a, c), (b, d))
    routed(a, c, b, d)
    routed(b, d, a, c)
    converse(a, c, [a, b, c], [a, d, c])
    b.kill()
    routed(a, c, d)
    a.ctl("send", "c", "the other way round")
    assert receive(c, 1, timeout=ROUTE_S) == ["the other way round"]
    a.ctl("send", "b", "when you are back")
    b.start()
    assert receive(b, 1, timeout=ROUTE_S) == ["when you are back"]
    at_rest(a, c, d)


def test_a_star_carries_everything_over_its_centre(lab: Make) -> None:
    """b, c and d each hear a alone."""
    a, b, c, d = shaped(lab(4), (0, 1), (0, 2), (0, 3))
    unlinked((b, c), (b, d), (c, d))
    for one, other in ((b, c), (c, d), (b, d)):
        routed(one, other, a)
        routed(other, one, a)
        converse(one, other, [one, a, other])
    at_rest(a, b, c, d)


def two_lans(lab: Lab) -> list[Host]:
    """``a`` and ``b`` on one LAN, ``d`` and ``e`` on another; ``c`` is on both, by an interface each."""
    a, b, c, d, e = hosts = lab.hosts
    lab.network.partition([a, b, c], [c.second_port, d, e])
    for host in (d, e):
        host.readdress(host.number, subnet=79)
    c.add_interface(subnet=79)
    return hosts


def test_two_networks_joined_by_one_laptop_are_one_mesh(lab: Make) -> None:
    a, b, c, d, e = two_lans(lab(5, two_interfaces=[2]))
    for host, name in zip((a, b, c, d, e), "abcde", strict=True):
        host.start(name)
    c.ctl("init", "home")
    for host in (a, b, d, e):
        join(c, host)
    linked(a, b, c)
    linked(c, d, e)
    assert peer(a, d).get("state") != "up"
    for one, other in ((a, d), (b, e)):
        routed(one, other, c)
        routed(other, one, c)
        converse(one, other, [one, c, other])
    c.kill()
    a.ctl("send", "d", "when the laptop is back")
    c.start()
    assert receive(d, 1, timeout=ROUTE_S) == ["when the laptop is back"]
    at_rest(a, b, c, d, e)


def test_a_mesh_in_two_parts_goes_on_in_each_and_is_one_again_afterwards(lab: Make) -> None:
    made = lab(4)
    a, b, c, d = mesh(made)
    linked(a, b, c, d)
    made.network.partition([a, b], [c, d])
    unlinked((a, c), (a, d), (b, c), (b, d))
    converse(a, b, [a, b])
    converse(c, d, [c, d])
    a.ctl("send", "d", "to the other side")
    d.ctl("send", "a", "and back")
    made.network.heal()
    assert receive(d, 1, timeout=ROUTE_S) == ["to the other side"]
    assert receive(a, 1, timeout=ROUTE_S) == ["and back"]
    linked(a, b, c, d)
    converse(b, c, [b, c], [b, a, c], [b, d, c])
    at_rest(a, b, c, d)


def test_a_path_that_loses_one_way_is_left_for_a_longer_one_that_does_not(lab: Make) -> None:
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    made.network.between(a, c, loss=0.6)
    for number in range(20):
        a.ctl("send", "c", f"{number}")
        c.ctl("send", "a", f"{number}")
    wanted = [f"{number}" for number in range(20)]
    assert receive(c, 20, timeout=120.0) == wanted
    assert receive(a, 20, timeout=120.0) == wanted
    routed(a, c, b)
    routed(c, a, b)
    converse(a, c, [a, b, c])


def test_one_way_deafness_is_a_dead_path(lab: Make) -> None:
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    made.network.between(a, c, loss=1.0)
    unlinked((a, c), (c, a))
    routed(a, c, b)
    routed(c, a, b)
    converse(a, c, [a, b, c])


def test_where_quic_is_throttled_bulk_still_comes_and_a_fast_neighbour_is_preferred(lab: Make) -> None:
    """The direct path is slow and far, the one over b is fast and near."""
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    for one, other in ((a, c), (c, a)):
        made.network.between(one, other, rate_bps=400_000.0, delay_s=0.15)
    routed(a, c, b)
    routed(c, a, b)
    converse(a, c, [a, b, c])
    with a.client() as client:
        client.send("c", bytes(1_000_000))
    (got,) = c.ctl_lines("receive", "--count", "1", timeout=ROUTE_S)
    assert len(got["payload_b64"] if "payload_b64" in got else got["payload"]) >= 1_000_000


def test_each_side_takes_the_transport_that_its_network_lets_through(lab: Make) -> None:
    """a --- b over TCP alone, b --- c over UDP alone."""
    made = lab(3)
    a, b, c = mesh(made)
    linked(a, b, c)
    hear_only(made, (a, b), (b, c))
    for one, other in ((a, b), (b, a)):
        made.network.between(one, other, blocked=[("udp", None)])
    for one, other in ((b, c), (c, b)):
        made.network.between(one, other, blocked=[("tcp", None)])
    eventually(lambda: peer(a, b).get("transport") == "websocket", within_s=ROUTE_S, what="TCP between a and b")
    wait(lambda: peer(b, c).get("transport") == "quic", "QUIC between b and c")
    routed(a, c, b)
    routed(c, a, b)
    converse(a, c, [a, b, c])


def test_messages_stay_in_order_while_links_change_between_quic_and_websocket(lab: Make) -> None:
    made = lab(2)
    a, b = mesh(made)
    linked(a, b)
    sent: list[str] = []
    is_over = threading.Event()

    def send() -> None:
        with a.client() as client:
            while not is_over.wait(0.02):
                client.send("b", str(len(sent)).encode())
                sent.append(str(len(sent)))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    for number in range(3):
        made.network.block(("udp", None))
        wait(lambda: peer(a, b).get("transport") == "websocket", f"WebSocket, time {number}")
        made.network.block()
        b.readdress(100 + number)  # a change of the network earns the better transport another dial
        wait(lambda: peer(a, b).get("transport") == "quic", f"QUIC, time {number}")
    is_over.set()
    thread.join(20.0)
    assert receive(b, len(sent), timeout=120.0) == sent
    assert len(sent) > 100
    seen = peer(a, b)
    assert seen["upgrades"] >= 3, seen
    assert seen["downgrades"] >= 3, seen
