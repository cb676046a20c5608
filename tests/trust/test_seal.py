import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import Epoch, Priority
from meshd.trust.card import Card, Prekeys, sign_card
from meshd.trust.identity import Identity
from meshd.trust.seal import (
    DestinationSession,
    SourceSession,
    UnknownPrekey,
    accept_offer,
    is_authentic_offer,
    open_blob,
    open_need_offer,
    open_stale_epoch,
    peek_offer,
    sign_blob,
    sign_need_offer,
    sign_stale_epoch,
)
from meshd.wire import codec
from tests.trust.people import device

SOURCE, DESTINATION, OTHER = device(1), device(2), device(3)


def prekeys(seed: int = 1) -> Prekeys:
    made = Prekeys(longest_lifetime_s=3600.0)
    made.advance(0.0, random.Random(seed))
    return made


def card_of(identity: Identity, keys: Prekeys) -> Card:
    return Card(node=identity.node_id, version=1, name="d", prekeys=keys.published)


def session_to(keys: Prekeys) -> SourceSession:
    return SourceSession.create(SOURCE, DESTINATION.public_key, card_of(DESTINATION, keys), random.Random(7))


def refused(code: str, call, *args) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        call(*args)
    assert caught.value.code == code


def test_what_the_source_seals_the_destination_opens():
    keys = prekeys()
    source = session_to(keys)
    session = accept_offer(DESTINATION, SOURCE.public_key, source.offer, keys)
    assert (session.id, session.root) == (source.id, source.root)
    destination = DestinationSession(session.id, session.root)
    sealed = source.seal(b"head", 0, b"plain")
    assert b"plain" not in sealed
    assert len(sealed) == 5 + 16
    assert destination.open(b"head", 0, sealed) == b"plain" == source.open(b"head", 0, sealed)


def test_a_changed_head_counter_body_or_session_does_not_open():
    keys = prekeys()
    source = session_to(keys)
    destination = DestinationSession(source.id, source.root)
    sealed = source.seal(b"head", 5, b"plain")
    refused("P_BUNDLE", destination.open, b"Head", 5, sealed)
    refused("P_BUNDLE", destination.open, b"head", 6, sealed)
    refused("P_BUNDLE", destination.open, b"head", 5, b"")
    refused("P_BUNDLE", DestinationSession(bytes(16), source.root).open, b"head", 5, sealed)
    refused("P_BUNDLE", DestinationSession(source.id, bytes(32)).open, b"head", 5, sealed)
    for at in range(len(sealed)):
        refused("P_BUNDLE", destination.open, b"head", 5, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])


def test_a_nonce_never_comes_twice():
    source = session_to(prekeys())
    source.seal(b"head", 3, b"one")
    for counter in (3, 2):
        with pytest.raises(LocalProtocolError):
            source.seal(b"head", counter, b"two")
    assert source.seal(b"head", 4, b"two")


def test_the_offer_says_whom_it_is_for():
    keys = prekeys()
    head = peek_offer(session_to(keys).offer)
    assert (head.source, head.destination) == (SOURCE.node_id, DESTINATION.node_id)
    assert head.prekey == keys.published[0][0]


def test_every_byte_of_an_offer_is_signed():
    keys = prekeys()
    offer = session_to(keys).offer
    for at in range(len(offer)):
        with pytest.raises(RemoteProtocolError):
            accept_offer(DESTINATION, SOURCE.public_key, offer[:at] + bytes([offer[at] ^ 1]) + offer[at + 1 :], keys)


def test_an_offer_of_another_source_or_for_another_destination_is_refused():
    keys = prekeys()
    offer = session_to(keys).offer
    refused("P_AUTH", accept_offer, DESTINATION, OTHER.public_key, offer, keys)
    refused("P_AUTH", accept_offer, OTHER, SOURCE.public_key, offer, keys)


@pytest.mark.parametrize("place", [2, 3], ids=["source", "destination"])
def test_an_offer_that_is_signed_but_names_another_device_is_refused(place: int):
    keys = prekeys()
    offer = session_to(keys).offer
    assert is_authentic_offer(SOURCE.public_key, DESTINATION.public_key, offer)
    fields = codec.decode(offer[:-64])
    fields[place] = OTHER.node_id
    payload = codec.encode(fields)
    signed = payload + SOURCE.sign("meshd/offer/v1", DESTINATION.public_key, payload)
    assert not is_authentic_offer(SOURCE.public_key, DESTINATION.public_key, signed)
    refused("P_AUTH", accept_offer, DESTINATION, SOURCE.public_key, signed, keys)


def test_a_stolen_wrapping_signed_by_a_thief_does_not_unwrap():
    keys = prekeys()
    offer = session_to(keys).offer
    fields = codec.decode(offer[:-64])
    fields[2] = OTHER.node_id
    payload = codec.encode(fields)
    stolen = payload + OTHER.sign("meshd/offer/v1", DESTINATION.public_key, payload)
    refused("P_BUNDLE", accept_offer, DESTINATION, OTHER.public_key, stolen, keys)


def test_an_offer_that_wraps_nothing_is_its_sources_fault():
    """The zeros are a point of low order: no key can be agreed on with it."""
    keys = prekeys()
    fields = codec.decode(session_to(keys).offer[:-64])
    for wrapped in (bytes(80), b"x" * 80):
        payload = codec.encode([*fields[:5], wrapped])
        offer = payload + SOURCE.sign("meshd/offer/v1", DESTINATION.public_key, payload)
        refused("P_BUNDLE", accept_offer, DESTINATION, SOURCE.public_key, offer, keys)


def test_an_unknown_prekey_is_answered_by_a_rewrap_of_the_same_root():
    old, new = prekeys(1), prekeys(2)
    source = session_to(old)
    sealed = source.seal(b"head", 0, b"plain")
    with pytest.raises(UnknownPrekey) as caught:
        accept_offer(DESTINATION, SOURCE.public_key, source.offer, new)
    assert caught.value.session == source.id
    card = sign_card(DESTINATION, card_of(DESTINATION, new))
    need = open_need_offer(DESTINATION.public_key, sign_need_offer(DESTINATION, SOURCE.node_id, source.id, card))
    assert (need.source, need.session, need.card_data) == (SOURCE.node_id, source.id, card)
    session = accept_offer(DESTINATION, SOURCE.public_key, source.rewrap(need.card), new)
    assert DestinationSession(session.id, session.root).open(b"head", 0, sealed) == b"plain"


def test_roots_of_waiting_bundles_survive_a_restart_of_the_source():
    old, new = prekeys(1), prekeys(2)
    source = session_to(old)
    sealed = source.seal(b"head", 0, b"plain")
    restored = SourceSession.restore(SOURCE, source.export())
    assert (restored.id, restored.offer) == (source.id, source.offer)
    assert restored.open(b"head", 0, sealed) == b"plain"
    session = accept_offer(DESTINATION, SOURCE.public_key, restored.rewrap(card_of(DESTINATION, new)), new)
    assert session.root == source.root
    with pytest.raises(LocalProtocolError):
        restored.seal(b"head", 1, b"more")


def test_cards_that_nothing_can_be_wrapped_to():
    no_prekeys = Card(node=DESTINATION.node_id, version=1, name="d")
    low_order = Card(node=DESTINATION.node_id, version=1, name="d", prekeys=((b"prekey-1", bytes(32)),))
    for card in (no_prekeys, low_order):
        refused("P_MALFORMED", SourceSession.create, SOURCE, DESTINATION.public_key, card, random.Random(1))
    with pytest.raises(LocalProtocolError):
        SourceSession.create(SOURCE, DESTINATION.public_key, card_of(OTHER, prekeys()), random.Random(1))


def test_notices_are_by_their_device_for_their_purpose():
    data = sign_blob(DESTINATION, "meshd/receipt/v1", b"payload")
    assert open_blob(DESTINATION.public_key, "meshd/receipt/v1", data) == b"payload"
    refused("P_AUTH", open_blob, OTHER.public_key, "meshd/receipt/v1", data)
    refused("P_AUTH", open_blob, DESTINATION.public_key, "meshd/other/v1", data)
    refused("P_AUTH", open_blob, DESTINATION.public_key, "meshd/receipt/v1", b"P" + data[1:])


def test_a_stale_epoch_is_told_with_the_known_one():
    known = Epoch(9, b"8 bytes.")
    data = sign_stale_epoch(DESTINATION, SOURCE.node_id, Priority.HIGH, True, known)
    notice = open_stale_epoch(DESTINATION.public_key, data)
    assert (notice.source, notice.priority, notice.ephemeral, notice.known) == (
        SOURCE.node_id,
        Priority.HIGH,
        True,
        known,
    )
    refused("P_AUTH", open_stale_epoch, OTHER.public_key, data)
    refused("P_AUTH", open_need_offer, DESTINATION.public_key, data)


def test_a_need_for_an_offer_with_the_card_of_another_is_refused():
    card = sign_card(OTHER, card_of(OTHER, prekeys()))
    data = sign_need_offer(DESTINATION, SOURCE.node_id, bytes(16), card)
    refused("P_AUTH", open_need_offer, DESTINATION.public_key, data)


@pytest.mark.parametrize(("size", "code"), [(512, "P_MALFORMED"), (513, "P_OVERSIZED")])
def test_an_overlong_offer_is_refused(size: int, code: str):
    refused(code, peek_offer, bytes(size))


@given(st.binary(max_size=600))
def test_any_bytes_are_a_notice_or_an_error(data: bytes):
    keys = prekeys()
    for call in (
        lambda: accept_offer(DESTINATION, SOURCE.public_key, data, keys),
        lambda: peek_offer(data),
        lambda: open_need_offer(DESTINATION.public_key, data),
        lambda: open_stale_epoch(DESTINATION.public_key, data),
        lambda: open_need_offer(DESTINATION.public_key, sign_blob(DESTINATION, "meshd/need-offer/v1", data)),
        lambda: open_stale_epoch(DESTINATION.public_key, sign_blob(DESTINATION, "meshd/stale-epoch/v1", data)),
        lambda: DestinationSession(bytes(16), bytes(32)).open(b"", 0, data),
    ):
        with pytest.raises(RemoteProtocolError):
            call()
