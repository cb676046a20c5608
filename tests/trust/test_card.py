import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.trust.card import WEEK_S, Card, CardAddress, Prekeys, is_host, open_card, peek_card_node, sign_card
from meshd.wire import codec
from tests.trust.people import device

DAY_S = 24 * 3600.0
LONGEST_HOST = "a." * 126 + "a"


def card_of(number: int, **fields: object) -> Card:
    card = Card(
        node=device(number).node_id,
        version=3,
        name=f"d{number}",
        prekeys=((b"prekey-1", b"k" * 32), (b"prekey-0", b"j" * 32)),
        addresses=(CardAddress("quic", "192.0.2.1", 7843), CardAddress("websocket", "fe80::1%eth0", 7843)),
        facts={"relay": 1, "later": "yes"},
    )
    return attrs.evolve(card, **fields)


def test_a_card_comes_back_as_it_was_signed():
    data = sign_card(device(1), card_of(1))
    assert open_card(data, device(1).public_key) == card_of(1)
    assert peek_card_node(data) == device(1).node_id


def test_only_its_device_can_make_a_card():
    data = sign_card(device(1), card_of(1))
    payload = data[:-64]
    for forged, key in (
        (data, device(2).public_key),
        (payload + device(2).sign("meshd/card/v1", payload), device(2).public_key),
        (payload + device(2).sign("meshd/card/v1", payload), device(1).public_key),
        (payload + device(1).sign("meshd/other/v1", payload), device(1).public_key),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            open_card(forged, key)
        assert caught.value.code == "P_AUTH"


@pytest.mark.parametrize(
    "fields",
    [
        {"node": device(2).node_id},
        {"name": "no name"},
        {"version": -1},
        {"addresses": (CardAddress("quic", "192.0.2.1", 0),)},
        {"addresses": (CardAddress("QUIC", "192.0.2.1", 1),)},
        {"addresses": (CardAddress("quic", "no host", 1),)},
        {"addresses": (CardAddress("quic", "192.0.2.1", 1),) * 17},
        {"prekeys": ((b"short", b"k" * 32),)},
        {"prekeys": ((b"prekey-1", b"k" * 32),) * 5},
        {"facts": {"Bad Name": 1}},
        {"facts": {"fine": -1}},
        {"facts": {f"f{n}": "x" * 128 for n in range(32)}},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_card_that_others_would_refuse_is_our_bug(fields: dict[str, object]):
    with pytest.raises(LocalProtocolError):
        sign_card(device(1), card_of(1, **fields))


@pytest.mark.parametrize(
    "host",
    ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "fe80::1%2", "pi.local", "pi", "a.b-c.d.", "x" * 63, LONGEST_HOST],
)
def test_hosts(host: str):
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *("", "a b", "-a", "a..b", "192.0.2.1%eth0", "pi%eth0", "fe80::1%", "fe80::1%e/0", "a\n", "é.de"),
        *("x" * 64, LONGEST_HOST + "a"),
    ],
)
def test_no_hosts(host: str):
    assert not is_host(host)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_card_or_an_error(data: bytes):
    with pytest.raises(RemoteProtocolError):
        open_card(data, device(1).public_key)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 2**40) | st.binary(max_size=40) | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=8),
        max_leaves=20,
    )
)
def test_any_cbor_is_a_card_or_an_error(value: object):
    payload = codec.encode(value)
    with pytest.raises(RemoteProtocolError):
        open_card(payload + device(1).sign("meshd/card/v1", payload), device(1).public_key)


@pytest.mark.parametrize(("size", "code"), [(4096, "P_MALFORMED"), (4097, "P_OVERSIZED")])
def test_an_overlong_card_is_refused(size: int, code: str):
    with pytest.raises(RemoteProtocolError) as caught:
        peek_card_node(bytes(size))
    assert caught.value.code == code


# prekeys


def test_prekeys_rotate_weekly_and_are_dropped_late():
    rng, prekeys = random.Random(1), Prekeys(longest_lifetime_s=30 * DAY_S)
    assert prekeys.published == ()
    assert prekeys.advance(100.0, rng)
    first = prekeys.published[0][0]
    assert prekeys.deadline == 100.0 + WEEK_S
    assert not prekeys.advance(100.0 + WEEK_S - 1, rng)
    assert prekeys.advance(100.0 + WEEK_S, rng)
    assert [id for id, _ in prekeys.published][1] == first
    assert prekeys.published[0][0] != first
    assert not prekeys.advance(100.0 + WEEK_S, rng)
    for week in range(2, 6):
        prekeys.advance(100.0 + week * WEEK_S, rng)
    assert len(prekeys.published) == 2
    # Sealed on its last day as the current one, with the longest lifetime: still readable to the end.
    prekeys.advance(100.0 + WEEK_S + 30 * DAY_S, rng)
    assert prekeys.private(first) is not None
    prekeys.advance(100.0 + WEEK_S + 30 * DAY_S + 1, rng)
    assert prekeys.private(first) is None


def test_a_device_that_slept_for_long_starts_over():
    rng, prekeys = random.Random(1), Prekeys(longest_lifetime_s=DAY_S)
    prekeys.advance(0.0, rng)
    before = prekeys.published
    prekeys.advance(1000 * DAY_S, rng)
    assert len(prekeys.published) == 1
    assert prekeys.published != before


def test_prekeys_survive_a_restart():
    rng, prekeys = random.Random(1), Prekeys(longest_lifetime_s=DAY_S)
    prekeys.advance(0.0, rng)
    prekeys.advance(WEEK_S, rng)
    restored = Prekeys.restore(DAY_S, prekeys.export())
    assert restored.published == prekeys.published
    assert restored.deadline == prekeys.deadline
    assert restored.export() == prekeys.export()
    with pytest.raises(ValueError, match="CBOR"):
        Prekeys.restore(DAY_S, {b"prekey-1": b"\xff"})


def test_an_unknown_prekey_has_no_private_half():
    assert Prekeys(longest_lifetime_s=DAY_S).private(b"prekey-1") is None
