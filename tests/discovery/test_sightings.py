"""Who announced what: recognition, bounds, and strangers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.discovery.events import PeerGone, PeerSeen
from meshd.discovery.sightings import MAX_HOSTS, Advert, Heard, Lost, Sightings
from meshd.ids import NodeId
from meshd.transport.base import Address
from meshd.trust.roster import discovery_tag

GENESIS = bytes(32)
SALT = b"saltsalt"
ALICE, BOB, CAROL = (NodeId(bytes([number]) * 16) for number in (1, 2, 3))


def txt_of(advert: Advert) -> dict[bytes, bytes | None]:
    return {key.encode(): value for key, value in advert.to_txt().items()}


def advert_of(node: NodeId, *, salt: bytes = SALT, genesis: bytes = GENESIS) -> Advert:
    return Advert(salt, discovery_tag(genesis, salt, node), 7001, None)


def heard(advert: Advert, *hosts: str, interface: str = "eth0", instance: str = "one", loopback: bool = False) -> Heard:
    return Heard(interface, instance, txt_of(advert), hosts or ("192.168.1.5",), loopback)


def sightings(*members: NodeId, max_instances: int = 1024) -> Sightings:
    found = Sightings(max_instances=max_instances)
    found.enter_mesh(GENESIS)
    assert found.set_members(frozenset(members)) == ()
    return found


def seen(peer: NodeId, *hosts: str, interface: str = "eth0") -> PeerSeen:
    return PeerSeen(peer, tuple(Address("quic", host, 7001) for host in hosts or ("192.168.1.5",)), "mdns", interface)


def test_a_member_is_recognised() -> None:
    found = sightings(ALICE, BOB)
    assert found.heard(heard(advert_of(BOB))) == seen(BOB)


def test_what_is_known_already_is_not_told_again() -> None:
    found = sightings(BOB)
    assert found.heard(heard(advert_of(BOB))) == seen(BOB)
    assert found.heard(heard(advert_of(BOB))) is None
    assert found.heard(heard(advert_of(BOB), "192.168.1.6")) == seen(BOB, "192.168.1.6")
    assert found.heard(heard(advert_of(BOB, salt=b"otherone"), "192.168.1.6")) == seen(BOB, "192.168.1.6")


def test_both_transports_are_told() -> None:
    advert = Advert(SALT, discovery_tag(GENESIS, SALT, BOB), 1, 2)
    event = sightings(BOB).heard(heard(advert, "10.0.0.1", "fd00::1"))
    assert event is not None
    assert [str(address) for address in event.addresses] == [
        "quic://10.0.0.1:1",
        "quic://[fd00::1]:1",
        "websocket://10.0.0.1:2",
        "websocket://[fd00::1]:2",
    ]


@pytest.mark.parametrize("advert", [advert_of(CAROL), advert_of(BOB, genesis=b"\1" * 32)])
def test_strangers_and_other_meshes_are_nobody(advert: Advert) -> None:
    found = sightings(ALICE, BOB)
    assert found.heard(heard(advert)) is None
    assert found.statistics().strangers == 1
    assert found.lost(Lost("eth0", "one")) is None
    assert found.statistics().remembered == 0


def test_nobody_is_recognised_outside_a_mesh() -> None:
    found = Sightings()
    found.set_members(frozenset((BOB,)))
    assert found.heard(heard(advert_of(BOB))) is None


def test_one_heard_before_it_was_a_member_is_told_when_it_is() -> None:
    found = sightings(ALICE)
    assert found.heard(heard(advert_of(BOB))) is None
    assert found.set_members(frozenset((ALICE, BOB))) == (seen(BOB),)
    assert found.set_members(frozenset((ALICE, BOB))) == ()


def test_a_removed_member_is_a_stranger() -> None:
    found = sightings(BOB)
    assert found.heard(heard(advert_of(BOB))) == seen(BOB)
    assert found.set_members(frozenset()) == ()
    assert found.heard(heard(advert_of(BOB), "10.0.0.9")) is None
    assert found.lost(Lost("eth0", "one")) is None


def test_entering_another_mesh_forgets() -> None:
    found = sightings(BOB)
    found.heard(heard(advert_of(BOB)))
    found.enter_mesh(b"\1" * 32)
    assert found.statistics().remembered == 0
    assert found.heard(heard(advert_of(BOB))) is None
    assert found.heard(heard(advert_of(BOB, genesis=b"\1" * 32), instance="two")) == seen(BOB)


def test_a_peer_is_gone_with_its_last_announcement_on_the_interface() -> None:
    found = sightings(BOB)
    found.heard(heard(advert_of(BOB)))
    found.heard(heard(advert_of(BOB, salt=b"restarte"), instance="two"))
    found.heard(heard(advert_of(BOB), interface="wlan0"))
    assert found.lost(Lost("eth0", "one")) is None
    assert found.lost(Lost("eth0", "two")) == PeerGone(BOB, "eth0")
    assert found.lost(Lost("eth0", "two")) is None
    assert found.close_interface("wlan0") == (PeerGone(BOB, "wlan0"),)
    assert found.close_interface("wlan0") == ()


@pytest.mark.parametrize(
    ("hosts", "kept"),
    [
        (["fe80::5"], ["fe80::5%eth0"]),
        (["fe80::5%9"], ["fe80::5%eth0"]),
        (["2001:db8::5"], ["2001:db8::5"]),
        (["10.0.0.1", "10.0.0.1", "224.0.0.1", "0.0.0.0", "127.0.0.1", "::1", "::", "ff02::1"], ["10.0.0.1"]),
        ([f"10.0.0.{number}" for number in range(20)], [f"10.0.0.{number}" for number in range(MAX_HOSTS)]),
    ],
)
def test_addresses_worth_a_try(hosts: list[str], kept: list[str]) -> None:
    assert sightings(BOB).heard(heard(advert_of(BOB), *hosts)) == seen(BOB, *kept)


def test_on_loopback_only_loopback_addresses_count() -> None:
    found = sightings(BOB)
    event = found.heard(heard(advert_of(BOB), "10.0.0.1", "127.0.0.1", interface="lo", loopback=True))
    assert event == seen(BOB, "127.0.0.1", interface="lo")


GOOD = txt_of(Advert(SALT, b"tagtagta", 1, 65_535))


@pytest.mark.parametrize(
    "change",
    [
        {b"v": b"2"},
        {b"v": None},
        {b"s": b"short"},
        {b"s": None},
        {b"t": b"much too long"},
        {b"q": b"0"},
        {b"q": b"65536"},
        {b"q": b"x"},
        {b"q": b""},
        {b"q": b"\xc2\xb2"},
        {b"q": b"000001"},
        {b"w": b"-1"},
        {b"q": None, b"w": None},
    ],
)
def test_malformed_announcements_are_counted_and_ignored(change: dict[bytes, bytes | None]) -> None:
    found = sightings(BOB)
    assert found.heard(Heard("eth0", "one", GOOD | change, ("10.0.0.1",), False)) is None
    assert found.statistics().malformed == 1
    assert found.statistics().remembered == 0


def test_an_announcement_without_a_usable_address_is_malformed() -> None:
    found = sightings(BOB)
    assert found.heard(Heard("eth0", "one", GOOD, (), False)) is None
    assert found.statistics().malformed == 1


def test_unknown_keys_are_ignored() -> None:
    assert Advert.from_txt(GOOD | {b"x": b"1", b"y": None}) == Advert.from_txt(GOOD)


ports = st.none() | st.integers(1, 65_535)


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8), ports, st.integers(1, 65_535))
def test_an_advert_reads_what_it_writes(salt: bytes, tag: bytes, quic: int | None, websocket: int) -> None:
    advert = Advert(salt, tag, quic, websocket)
    assert Advert.from_txt(txt_of(advert)) == advert


@given(
    st.dictionaries(st.sampled_from([b"v", b"s", b"t", b"q", b"w"]), st.none() | st.binary(max_size=9) | st.just(b"1")),
    st.lists(st.ip_addresses().map(str)),
)
def test_any_announcement_is_taken_or_counted(txt: dict[bytes, bytes | None], hosts: list[str]) -> None:
    found = sightings(BOB)
    assert found.heard(Heard("eth0", "one", txt, tuple(hosts), False)) is None
    statistics = found.statistics()
    assert statistics.malformed + statistics.remembered == 1


def test_a_flood_of_strangers_pushes_out_no_member() -> None:
    found = sightings(BOB, max_instances=50)
    found.heard(heard(advert_of(BOB)))
    for number in range(500):
        stranger = Advert(number.to_bytes(8, "big"), bytes(8), 1, None)
        assert found.heard(heard(stranger, instance=f"stranger {number}")) is None
    statistics = found.statistics()
    assert (statistics.remembered, statistics.strangers, statistics.evicted) == (50, 49, 451)
    assert found.lost(Lost("eth0", "one")) == PeerGone(BOB, "eth0")


def test_copies_of_a_members_announcement_are_bounded_too() -> None:
    found = sightings(BOB, max_instances=50)
    for number in range(500):
        found.heard(heard(advert_of(BOB), instance=f"copy {number}"))
    assert found.statistics().remembered == 50
