"""Multicast probes: what they look like, and two devices on one loopback hearing each other."""

import random
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd.discovery.interfaces import interfaces
from meshd.discovery.kernel_routes import arp_silent, route_interface
from meshd.discovery.presence import places
from meshd.discovery.probes import Caught, Probe, decode_probe, encode_probe, exchange_probes, groups

NONCE = bytes(range(8))
PROBE = Probe(NONCE, "abcdefg2", 17, "a")


def test_a_probe_survives_its_datagram() -> None:
    assert decode_probe(encode_probe(PROBE)) == PROBE
    assert len(PROBE.label()) <= 63
    assert Probe.parse(PROBE.label()) == PROBE


@pytest.mark.parametrize(
    "label", ["", "x", PROBE.label() + "b", PROBE.label().upper(), "é" * 30, PROBE.label()[:-1] + "c"]
)
def test_other_labels_are_none(label: str) -> None:
    assert Probe.parse(label) is None


@given(st.binary(max_size=120))
def test_other_datagrams_are_none(data: bytes) -> None:
    assert decode_probe(data) is None
    assert decode_probe(encode_probe(PROBE)[:13] + data) is None


def test_groups_are_of_their_ranges_and_differ_by_nonce() -> None:
    one, other = groups(NONCE), groups(random.Random(1).randbytes(8))
    assert (one["4"], one["6"]) == (other["4"], other["6"]) == ("224.0.0.251", "ff02::fb")
    assert one["a"].startswith("239.255.")
    assert one["b"].startswith("ff12:")
    assert one["a"] != other["a"]
    assert one["b"] != other["b"]


def test_two_on_one_loopback_hear_each_other_and_not_themselves() -> None:
    async def main() -> None:
        here = places(interfaces(), {"lo"})
        heard: dict[str, frozenset[Caught]] = {}

        async def take_part(sender: str) -> None:
            heard[sender] = await exchange_probes(here, NONCE, sender, listen_s=1.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_part, "aaaaaaaa")
            nursery.start_soon(take_part, "bbbbbbbb")
        index = socket.if_nametoindex("lo")
        assert Caught("lo", Probe(NONCE, "bbbbbbbb", index, "4")) in heard["aaaaaaaa"]
        assert Caught("lo", Probe(NONCE, "aaaaaaaa", index, "a")) in heard["bbbbbbbb"]
        assert {caught.probe.sender for caught in heard["aaaaaaaa"]} == {"bbbbbbbb"}

    trio.run(main)


def test_the_kernel_says_where_packets_go() -> None:
    assert route_interface("127.0.0.1") == socket.if_nametoindex("lo")
    assert route_interface("::1") in (socket.if_nametoindex("lo"), None)
    assert "127.0.0.1" not in arp_silent()
