"""Several hops: a line of devices of which only neighbours hear each other.

a --- b --- c --- d
"""

from collections.abc import Callable
from typing import Any

import pytest

from .lab import Host, Lab, eventually
from .test_core import deliver_through_kills, linked, mesh, peer, receive

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
ROUTE_S = 30.0


def line(lab: Lab) -> list[Host]:
    """One mesh of all hosts, then only neighbours hear each other."""
    hosts = mesh(lab)
    linked(*hosts)
    for here, one in enumerate(hosts):
        for there, other in enumerate(hosts):
            if abs(here - there) > 1:
                lab.network.between(one, other, loss=1.0)
    return hosts


def route(host: Host, destination: Host) -> dict[str, Any]:
    rows: list[dict[str, Any]] = host.ctl("routes")
    return next((row for row in rows if row["name"] == destination.name and row["state"] == "selected"), {})


def routed(host: Host, destination: Host, via: Host) -> None:
    eventually(
        lambda: route(host, destination).get("next_hop_name") == via.name,
        within_s=ROUTE_S,
        what=f"{host.name} reaches {destination.name} via {via.name}",
    )


def test_messages_receipts_and_pings_cross_a_line_of_four(lab: Make) -> None:
    a, b, c, d = line(lab(4))
    routed(a, d, b)
    routed(d, a, c)
    eventually(lambda: peer(a, d)["state"] == "down", within_s=ROUTE_S, what="a misses d itself")
    sent = a.ctl("send", "d", "end to end", "--wait", "delivered")
    assert receive(d, 1) == ["end to end"]
    eventually(lambda: a.ctl("trace", sent["id"])["state"] == "consumed", within_s=ROUTE_S, what="a knows")
    trace = a.ctl("trace", sent["id"])
    assert trace["unasked"] == []
    assert {"a", "d"} < {event["device"] for event in trace["events"]}, "the hops in between tell their part too"
    assert a.ctl("ping", "d")["path"] == ["a", "b", "c", "d"]
    d.ctl("send", "a", "and back")
    assert receive(a, 1) == ["and back"]
    eventually(lambda: b.ctl("queue") == [] and c.ctl("queue") == [], within_s=ROUTE_S, what="hops keep nothing")


def test_a_hop_keeps_mail_for_the_next_one_that_is_gone(lab: Make) -> None:
    a, b, c = line(lab(3))
    routed(a, c, b)
    c.kill()
    a.ctl("send", "c", "later")
    eventually(lambda: peer(b, c)["state"] == "down", within_s=ROUTE_S, what="b misses c")
    b.kill()
    b.start()
    c.start()
    assert receive(c, 1, timeout=60.0) == ["later"]
    eventually(lambda: a.ctl("queue") == [], within_s=60.0, what="a has the receipt")


def test_hops_and_ends_killed_in_turn_lose_and_repeat_nothing(lab: Make) -> None:
    a, b, c, d = line(lab(4))
    routed(a, d, b)
    routed(d, a, c)
    deliver_through_kills(a, d, 400, [(40, (b,)), (100, (c,)), (160, (b, c)), (220, (d,)), (280, (a,)), (340, (c,))])
    eventually(lambda: a.ctl("queue") == [], within_s=90.0, what="a has every receipt")
    for hop in (b, c):
        eventually(lambda hop=hop: hop.ctl("queue") == [], within_s=90.0, what=f"{hop.name} keeps nothing")  # type: ignore[misc]
