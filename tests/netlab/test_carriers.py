"""Two networks that never meet, and a laptop that is in one after the other.

A ... L     then     L ... D
"""

from collections.abc import Callable

import pytest

from .lab import Host, Lab, Refused
from .scenes import wait
from .test_core import found, join, linked, peer, receive

pytestmark = [pytest.mark.netlab, pytest.mark.timeout(300)]

Make = Callable[[int], Lab]
HOME, OFFICE = 78, 79
REFUSES = "[carry]\nenabled = false\n"


def go(lab: Lab, laptop: Host, *, subnet: int, to: Host, leave: Host) -> None:
    """The laptop leaves one network, and comes to the other, where it has another address."""
    lab.network.partition([laptop], [leave], [to])
    for one, other in ((laptop, leave), (leave, laptop), (to, leave)):
        wait(lambda a=one, b=other: peer(a, b).get("state") not in ("up", "suspect"), f"{one.name} misses {other.name}")
    lab.network.partition([leave], [laptop, to])
    laptop.readdress(laptop.number, subnet=subnet)
    linked(laptop, to)


def joined(admin: Host, newcomer: Host) -> bool:
    """Whether an invitation brought the newcomer in: it tells where the admin believes to be."""
    try:
        join(admin, newcomer)
    except Refused:
        return False
    return True


def apart(lab: Lab, config: str = "") -> list[Host]:
    """The laptop has founded the mesh, with ``a`` at home and ``d`` in the office: these two were never together."""
    a, d, laptop = lab.hosts
    d.readdress(d.number, subnet=OFFICE)
    lab.network.partition([a, laptop], [d])
    for host, name in ((a, "a"), (d, "d"), (laptop, "l")):
        host.start(name, config if host is laptop else "")
    found(laptop)
    join(laptop, a)
    lab.network.partition([a], [laptop, d])
    laptop.readdress(laptop.number, subnet=OFFICE)
    wait(lambda: joined(laptop, d), "d is in the mesh: the laptop knows of its new address")
    linked(laptop, d)
    go(lab, laptop, subnet=HOME, to=a, leave=d)
    wait(lambda: "d" in [row["name"] for row in a.ctl("members")], "a has heard of d")
    return [a, d, laptop]


def test_a_laptop_brings_messages_and_comes_back_with_the_receipt(lab: Make) -> None:
    made = lab(3)
    a, d, laptop = apart(made)
    sent = [a.ctl("send", "d", f"message {number}") for number in range(5)]
    wait(lambda: [row["reason"] for row in a.ctl("queue")] == ["carried"], "the laptop has copies")
    go(made, laptop, subnet=OFFICE, to=d, leave=a)
    assert receive(d, 5, timeout=60.0) == [f"message {number}" for number in range(5)]
    wait(lambda: laptop.ctl("queue") == [], "the laptop has handed out all of it")
    assert [row["reason"] for row in a.ctl("queue")] == ["carried"]
    go(made, laptop, subnet=HOME, to=a, leave=d)
    wait(lambda: a.ctl("queue") == [], "a has the receipts")
    wait(lambda: a.ctl("trace", sent[-1]["id"])["state"] == "consumed", "and knows that all were read")
    go(made, laptop, subnet=OFFICE, to=d, leave=a)
    d.ctl("send", "d", "from itself")
    assert receive(d, 1) == ["from itself"], "nothing came twice"


def test_a_laptop_that_refuses_brings_nothing(lab: Make) -> None:
    made = lab(3)
    a, d, laptop = apart(made, REFUSES)
    a.ctl("send", "d", "by whom?")
    go(made, laptop, subnet=OFFICE, to=d, leave=a)
    go(made, laptop, subnet=HOME, to=a, leave=d)
    assert [row["reason"] for row in a.ctl("queue")] == ["no-path"]
    assert laptop.ctl("queue") == []
