"""Networks of other shapes than one LAN, and what every mesh on them must do."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from .lab import Host, Lab, eventually
from .test_core import linked, mesh, peer, receive

ROUTE_S = 60.0
"""Generous: two slow cores run every daemon."""


def hear_only(lab: Lab, *pairs: tuple[Host, Host]) -> None:
    """From now on only these pairs hear each other."""
    allowed = {pair for a, b in pairs for pair in ((a.number, b.number), (b.number, a.number))}
    for one in lab.hosts:
        for other in lab.hosts:
            if one is not other and (one.number, other.number) not in allowed:
                lab.network.between(one, other, loss=1.0)


def shaped(lab: Lab, *pairs: tuple[int, int]) -> list[Host]:
    """One mesh of all hosts, made on one LAN; then only these pairs (counted from 0) hear each other."""
    hosts = mesh(lab)
    linked(*hosts)
    hear_only(lab, *((hosts[a], hosts[b]) for a, b in pairs))
    return hosts


def route(host: Host, destination: Host) -> dict[str, Any]:
    """The selected route; empty when there is none."""
    rows: list[dict[str, Any]] = host.ctl("routes")
    return next((row for row in rows if row["name"] == destination.name and row["state"] == "selected"), {})


def routed(host: Host, destination: Host, *via: Host) -> None:
    """Wait until ``host`` reaches ``destination`` over one of ``via``."""
    names = [hop.name for hop in via]
    wait(
        lambda: route(host, destination).get("next_hop_name") in names,
        f"{host.name} reaches {destination.name} via {' or '.join(names)}",
    )


def converse(here: Host, there: Host, *ways: Sequence[Host]) -> None:
    """Both ways: a message, its receipt, what every hop of one of ``ways`` tells of it, and a ping.

    Each of ``ways`` names all devices from ``here`` to ``there``.
    """
    for source, destination, paths in ((here, there, ways), (there, here, [way[::-1] for way in ways])):
        text = f"from {source.name} to {destination.name}"
        sent = source.ctl("send", destination.name, text, "--wait", "delivered", timeout=ROUTE_S)
        assert receive(destination, 1, timeout=ROUTE_S) == [text]
        wait(lambda s=source, m=sent["id"]: s.ctl("trace", m)["state"] == "consumed", f"{source.name} has the receipt")
        wait(lambda m=sent["id"], p=paths: any(passed(m, path) for path in p), f"hops tell of {text}")
        names = [[host.name for host in path] for path in paths]
        wait(
            lambda s=source, d=destination, n=names: s.ctl("ping", d.name, timeout=ROUTE_S)["path"] in n,
            f"a ping from {source.name} to {destination.name} by one of {names}",
        )


def passed(message: str, path: Sequence[Host]) -> bool:
    """Whether every hop between the ends tells that it had the message from the one before, and handed it on."""
    for before, hop in itertools.pairwise(path[:-1]):
        told = {(event["event"], event["detail"]) for event in hop.ctl("trace", message)["events"]}
        if ("custody", before.name) not in told or not any(event == "forwarded" for event, _ in told):
            return False
    return True


def wait(check: Callable[..., object], what: str) -> None:
    """Look until it is so."""
    eventually(check, within_s=ROUTE_S, what=what)


def unlinked(*pairs: tuple[Host, Host]) -> None:
    """Wait until these have noticed that they do not hear each other."""
    for one, other in pairs:
        wait(lambda a=one, b=other: peer(a, b)["state"] == "down", f"{one.name} misses {other.name}")


def at_rest(*hosts: Host) -> None:
    """Wait until no host keeps mail."""
    for host in hosts:
        wait(lambda h=host: h.ctl("queue") == [], f"{host.name} keeps nothing")
