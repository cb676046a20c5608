"""Configured places become sightings."""

from meshd.discovery.events import PeerSeen
from meshd.discovery.static import static_sightings
from meshd.ids import NodeId
from meshd.kinds import StaticPeer
from meshd.transport.base import Address

ALICE, BOB = NodeId(b"\1" * 16), NodeId(b"\2" * 16)


def test_a_place_with_an_id_is_that_devices_alone() -> None:
    assert static_sightings([StaticPeer("pi", 9, BOB)], {ALICE, BOB}, ["quic", "websocket"]) == (
        PeerSeen(BOB, (Address("quic", "pi", 9), Address("websocket", "pi", 9)), "static", None),
    )


def test_a_place_without_an_id_may_be_anybodys_after_their_own() -> None:
    places = [StaticPeer("anybody", 9), StaticPeer("pi", 9, BOB)]
    assert static_sightings(places, {BOB, ALICE}, ["quic"]) == (
        PeerSeen(ALICE, (Address("quic", "anybody", 9),), "static", None),
        PeerSeen(BOB, (Address("quic", "pi", 9), Address("quic", "anybody", 9)), "static", None),
    )


def test_strangers_and_no_transports_give_nothing() -> None:
    assert static_sightings([StaticPeer("pi", 9, BOB)], {ALICE}, ["quic"]) == ()
    assert static_sightings([StaticPeer("pi", 9)], {ALICE}, []) == ()
