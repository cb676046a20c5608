import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.ids import Epoch, NodeId
from meshd.links.choice import Candidate, Contender, LocalNetwork, interleave, preferred, rank
from meshd.transport.base import Address

HOME = LocalNetwork(interface="wlan0", network=ipaddress.ip_network("192.168.1.0/24"))
DOCKER = LocalNetwork(interface="docker0", network=ipaddress.ip_network("172.17.0.0/16"), bridge=True)
LINK_LOCAL = LocalNetwork(interface="wlan0", network=ipaddress.ip_network("fe80::/64"))
DOCKER_LINK_LOCAL = LocalNetwork(interface="docker0", network=ipaddress.ip_network("fe80::/64"), bridge=True)
NETWORKS = [HOME, DOCKER, LINK_LOCAL, DOCKER_LINK_LOCAL]


def at(host: str, transport: str = "quic", source: str = "mdns", **known: object) -> Candidate:
    return Candidate(address=Address(transport, host, 7843), source=source, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (at("192.168.1.9", "websocket"), at("10.0.0.9", last_success=99.0)),
        (at("10.0.0.9", "websocket", last_success=99.0), at("10.0.0.8")),
        (at("10.0.0.9"), at("10.0.0.9", "websocket")),
        (at("10.0.0.9", source="static"), at("10.0.0.8", source="card")),
        (at("10.0.0.9", last_success=99.0), at("10.0.0.8", last_success=98.0)),
        (at("10.0.0.9"), at("192.168.1.9", last_error="refused", last_tried=95.0)),
        (at("192.168.1.9", last_error="refused", last_tried=30.0), at("10.0.0.9")),
        (at("fe80::1%wlan0"), at("fd00::1")),
        (at("192.168.1.9"), at("kitchen.example")),
    ],
)
def test_the_better_candidate_comes_first(better: Candidate, worse: Candidate) -> None:
    assert rank([worse, better], NETWORKS, 100.0) == [better, worse]
    assert rank([better, worse], NETWORKS, 100.0) == [better, worse]


def test_addresses_behind_our_own_bridges_are_left_out_unless_configured() -> None:
    inside, scoped = at("172.17.0.5"), at("fe80::5%docker0")
    meant = at("172.17.0.6", source="static")
    assert rank([inside, scoped, meant], NETWORKS, 0.0) == [meant]


def test_a_real_network_with_the_bridges_range_wins() -> None:
    office = LocalNetwork(interface="eth0", network=ipaddress.ip_network("172.16.0.0/12"))
    inside = at("172.17.0.5")
    assert rank([inside], [*NETWORKS, office], 0.0) == [inside]


def test_transports_take_turns() -> None:
    a, b, c = at("10.0.0.1"), at("10.0.0.2"), at("10.0.0.3")
    x, y = at("10.0.0.1", "websocket"), at("10.0.0.2", "websocket")
    assert interleave([a, b, c, x, y]) == [a, x, b, y, c]
    assert interleave([]) == []


LOW, HIGH = NodeId(b"\x01" * 16), NodeId(b"\x02" * 16)
OLD, NEW = Epoch(1, b"a" * 8), Epoch(2, b"b" * 8)


def link(number: int, transport: str = "quic", dialer: NodeId = LOW, epoch: Epoch = NEW) -> Contender:
    return Contender(link=number, transport=transport, dialer=dialer, peer_epoch=epoch)


@pytest.mark.parametrize(
    ("kept", "closed"),
    [
        (link(1, "quic", HIGH), link(2, "websocket", LOW)),
        (link(2, "quic", LOW), link(1, "quic", HIGH)),
        (link(2), link(1)),
        (link(2, "websocket", HIGH, NEW), link(1, "quic", LOW, OLD)),
    ],
)
def test_which_link_is_kept(kept: Contender, closed: Contender) -> None:
    assert preferred([kept, closed]) == preferred([closed, kept]) == kept


@given(
    st.lists(st.tuples(st.sampled_from(["quic", "websocket"]), st.sampled_from([LOW, HIGH])), min_size=1), st.integers()
)
def test_both_ends_keep_the_same_link(links: list[tuple[str, NodeId]], seed: int) -> None:
    # Numbers differ between the ends, and so does the order of links that different sides dialed; the
    # order of those that one side dialed does not.
    here = [link(10 + n, transport, dialer, NEW) for n, (transport, dialer) in enumerate(links)]
    order = sorted(range(len(links)), key=lambda n: (links[n][1], n))
    there = [link(100 + place, *links[n], OLD) for place, n in enumerate(order)]
    random.Random(seed).shuffle(here)
    mine, theirs = preferred(here).link - 10, order[preferred(there).link - 100]
    assert mine == theirs
