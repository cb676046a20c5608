"""End-to-end keys: sessions from one source to one destination, and small signed notices.

A session is a 32-byte root that its source chose. The *offer* brings it to the destination: wrapped
by HPKE (RFC 9180, base mode) to one of the destination's prekeys, and signed by the source. Bundles
are sealed with ChaCha20-Poly1305 (RFC 8439) under a key derived from the root, with the bundle's
counter as nonce and its encoded head as associated data.
"""

import random

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import NODE_ID_SIZE, Epoch, NodeId, Priority
from meshd.trust.card import MAX_CARD_BYTES, PREKEY_ID_SIZE, Card, Prekeys, open_card
from meshd.trust.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, key_node_id, signed_bytes, verify
from meshd.wire import codec
from meshd.wire.bundle import SESSION_ID_SIZE
from meshd.wire.codec import blob, blob_up_to, boolean, converted, record, uint
from meshd.wire.frames import epoch as epoch_shape
from meshd.wire.frames import plain_epoch

ROOT_SIZE = 32
MAX_SESSION_BUNDLES = 100_000
"""A source makes a new session after this many bundles, or ``MAX_SESSION_S`` seconds."""

MAX_SESSION_S = 3600.0
MAX_OFFER_BYTES = 512

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_WRAPPED_SIZE = 32 + ROOT_SIZE + 16  # encapsulated key, root, tag
_VERSION = 1
_OFFER_LABEL = "meshd/offer/v1"
_WRAP_LABEL = "meshd/offer-wrap/v1"
_KEY_LABEL = "meshd/bundle-key/v1"
_NEED_LABEL = "meshd/need-offer/v1"
_STALE_LABEL = "meshd/stale-epoch/v1"


def sign_blob(identity: Identity, label: str, payload: bytes) -> bytes:
    """``payload`` with a signature behind it; ``label`` is the purpose, unique in the project."""
    return payload + identity.sign(label, payload)


def open_blob(public_key: bytes, label: str, data: bytes) -> bytes:
    """The payload that the holder of ``public_key`` signed. Raises RemoteProtocolError (``P_AUTH``)."""
    payload, signature = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
    if not verify(public_key, signature, label, payload):
        raise RemoteProtocolError("P_AUTH", "a notice with a wrong signature")
    return payload


class UnknownPrekey(Exception):
    """The offer is authentic, but for a prekey that is not here (any more): ask for another one."""

    def __init__(self, session: bytes) -> None:
        super().__init__("the offer is for a prekey that is not known here")
        self.session = session


@attrs.frozen
class OfferHead:
    """What an offer says in clear; nothing of it is verified."""

    session: bytes
    source: NodeId
    destination: NodeId
    prekey: bytes


_OFFER = record(
    lambda version, session, source, destination, prekey, wrapped: (
        OfferHead(session, source, destination, prekey),
        wrapped,
    ),
    uint(_VERSION, _VERSION),
    blob(SESSION_ID_SIZE),
    blob(NODE_ID_SIZE),
    blob(NODE_ID_SIZE),
    blob(PREKEY_ID_SIZE),
    blob(_WRAPPED_SIZE),
)


def peek_offer(offer: bytes) -> OfferHead:
    """Read what an offer is for. Raises RemoteProtocolError (``P_MALFORMED``)."""
    return _parse_offer(offer)[0]


def is_authentic_offer(source_public_key: bytes, destination_public_key: bytes, offer: bytes) -> bool:
    """Whether the holder of the one key made this offer for the holder of the other. Raises RemoteProtocolError."""
    head = peek_offer(offer)
    payload, signature = offer[:-SIGNATURE_SIZE], offer[-SIGNATURE_SIZE:]
    return (
        head.source == key_node_id(source_public_key)
        and head.destination == key_node_id(destination_public_key)
        and verify(source_public_key, signature, _OFFER_LABEL, destination_public_key, payload)
    )


def _parse_offer(offer: bytes) -> tuple[OfferHead, bytes]:
    if len(offer) > MAX_OFFER_BYTES:
        raise RemoteProtocolError("P_OVERSIZED", f"an offer of {len(offer)} bytes")
    parsed: tuple[OfferHead, bytes] = codec.parse(offer[:-SIGNATURE_SIZE], _OFFER)
    return parsed


def _wrap_info(source_key: bytes, destination_key: bytes, session: bytes, prekey: bytes) -> bytes:
    return signed_bytes(_WRAP_LABEL, source_key, destination_key, session, prekey)


def _make_offer(identity: Identity, destination_key: bytes, session: bytes, root: bytes, card: Card) -> bytes:
    if card.node != key_node_id(destination_key):
        raise LocalProtocolError("the card is of another device than the session")
    if not card.prekeys:
        raise RemoteProtocolError("P_MALFORMED", f"the card of {card.name} offers no prekey")
    prekey, public_bytes = card.prekeys[0]
    info = _wrap_info(identity.public_key, destination_key, session, prekey)
    try:
        wrapped = _SUITE.encrypt(root, X25519PublicKey.from_public_bytes(public_bytes), info=info)
    except ValueError as error:  # a point of low order
        raise RemoteProtocolError("P_MALFORMED", f"the card of {card.name} offers no usable prekey") from error
    payload = codec.encode([_VERSION, session, identity.node_id, card.node, prekey, wrapped])
    return payload + identity.sign(_OFFER_LABEL, destination_key, payload)


def _cipher(session: bytes, root: bytes) -> ChaCha20Poly1305:
    # The root is uniformly random already, so RFC 5869's expand step alone is enough.
    return ChaCha20Poly1305(HKDFExpand(SHA256(), 32, signed_bytes(_KEY_LABEL, session)).derive(root))


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _open(cipher: ChaCha20Poly1305, head: bytes, counter: int, ciphertext: bytes) -> bytes:
    try:
        return cipher.decrypt(_nonce(counter), ciphertext, head)
    except InvalidTag as error:
        raise RemoteProtocolError("P_BUNDLE", "the bundle was not sealed by its source for us") from error


_EXPORT = record(
    lambda _, *fields: fields,
    uint(_VERSION, _VERSION),
    blob(SESSION_ID_SIZE),
    blob(ROOT_SIZE),
    blob(PUBLIC_KEY_SIZE),
    blob_up_to(MAX_OFFER_BYTES),
)


class SourceSession:
    """The sending end. Made by ``create``, or by ``restore`` to go on serving bundles sealed before a restart."""

    def __init__(
        self, identity: Identity, destination_key: bytes, id: bytes, root: bytes, offer: bytes, *, may_seal: bool
    ) -> None:
        self.id = id
        self.root = root
        self.offer = offer
        self._identity = identity
        self._destination_key = destination_key
        self._cipher = _cipher(id, root)
        self._may_seal = may_seal
        self._next_counter = 0

    @classmethod
    def create(
        cls, identity: Identity, destination_public_key: bytes, card: Card, rng: random.Random
    ) -> "SourceSession":
        """A new session, wrapped to the current prekey of ``card`` (opened, so its signature holds).

        Raises RemoteProtocolError (``P_MALFORMED``) when the card has no usable prekey.
        """
        id, root = rng.randbytes(SESSION_ID_SIZE), rng.randbytes(ROOT_SIZE)
        offer = _make_offer(identity, destination_public_key, id, root, card)
        return cls(identity, destination_public_key, id, root, offer, may_seal=True)

    def seal(self, head: bytes, counter: int, plaintext: bytes) -> bytes:
        """The sealed body of the bundle with this encoded head.

        Raises LocalProtocolError unless counters rise from call to call (a nonce must never come
        twice), and for a session from before a restart, whose counters are forgotten.
        """
        if not self._may_seal:
            raise LocalProtocolError("a restored session seals nothing new")
        if counter < self._next_counter:
            raise LocalProtocolError(f"counter {counter} after {self._next_counter - 1}")
        self._next_counter = counter + 1
        return self._cipher.encrypt(_nonce(counter), plaintext, head)

    def open(self, head: bytes, counter: int, ciphertext: bytes) -> bytes:
        """What one of our own bundles holds. Raises RemoteProtocolError (``P_BUNDLE``)."""
        return _open(self._cipher, head, counter, ciphertext)

    def rewrap(self, card: Card) -> bytes:
        """A new offer of the *same* root, to the current prekey of a newer card; also the session's from now on.

        Raises as ``create`` does.
        """
        self.offer = _make_offer(self._identity, self._destination_key, self.id, self.root, card)
        return self.offer

    def export(self) -> bytes:
        """Secret bytes for the store, to be kept while bundles of the session wait."""
        return codec.encode([_VERSION, self.id, self.root, self._destination_key, self.offer])

    @classmethod
    def restore(cls, identity: Identity, stored: bytes) -> "SourceSession":
        """Inverse of ``export``, but for sealing. Raises ShapeError when the store gives back something else."""
        id, root, destination_key, offer = _EXPORT(codec.decode(stored))
        return cls(identity, destination_key, id, root, offer, may_seal=False)


@attrs.frozen
class Session:
    """A session as the destination stores it, together with the first bundle that used it."""

    id: bytes
    root: bytes = attrs.field(repr=False)


def accept_offer(identity: Identity, source_public_key: bytes, offer: bytes, prekeys: Prekeys) -> Session:
    """Verify and unwrap an offer.

    Raises:
        UnknownPrekey: answer with ``sign_need_offer``.
        RemoteProtocolError: ``P_MALFORMED``; ``P_AUTH`` when it is not by that source for us;
            ``P_BUNDLE`` when it does not unwrap.
    """
    head, wrapped = _parse_offer(offer)
    if not is_authentic_offer(source_public_key, identity.public_key, offer):
        raise RemoteProtocolError("P_AUTH", "an offer that is not by its source for us")
    private_key = prekeys.private(head.prekey)
    if private_key is None:
        raise UnknownPrekey(head.session)
    info = _wrap_info(source_public_key, identity.public_key, head.session, head.prekey)
    try:
        root = _SUITE.decrypt(wrapped, private_key, info=info)
    except (InvalidTag, ValueError) as error:
        raise RemoteProtocolError("P_BUNDLE", "the offer does not unwrap") from error
    return Session(head.session, root)


class DestinationSession:
    """The receiving end: opens what its source sealed."""

    def __init__(self, id: bytes, root: bytes) -> None:
        self.id = id
        self.root = root
        self._cipher = _cipher(id, root)

    def open(self, head: bytes, counter: int, ciphertext: bytes) -> bytes:
        """The plaintext. Raises RemoteProtocolError (``P_BUNDLE``) when head, counter or body were altered."""
        return _open(self._cipher, head, counter, ciphertext)


@attrs.frozen
class NeedOffer:
    """The destination can't open a session: its source is to wrap the root anew, to this card.

    Args:
        card_data: the signed card, to be kept and passed on; card: what it says.
    """

    source: NodeId
    session: bytes
    card_data: bytes = attrs.field(repr=False)
    card: Card


@attrs.frozen
class StaleEpoch:
    """The destination knows a newer epoch of the source's flow than the bundle had."""

    source: NodeId
    priority: Priority
    ephemeral: bool
    known: Epoch


_NEED = record(
    lambda _, *fields: fields,
    uint(_VERSION, _VERSION),
    blob(NODE_ID_SIZE),
    blob(SESSION_ID_SIZE),
    blob_up_to(MAX_CARD_BYTES),
)
_STALE = record(
    lambda _, *fields: StaleEpoch(*fields),
    uint(_VERSION, _VERSION),
    blob(NODE_ID_SIZE),
    converted(uint(3), Priority),
    boolean,
    epoch_shape,
)


def sign_need_offer(identity: Identity, source: NodeId, session: bytes, card: bytes) -> bytes:
    """Ask ``source`` for a new offer of ``session``, wrapped to our signed ``card``."""
    return sign_blob(identity, _NEED_LABEL, codec.encode([_VERSION, source, session, card]))


def open_need_offer(destination_public_key: bytes, data: bytes) -> NeedOffer:
    """The request, and the card in it, both verified. Raises RemoteProtocolError."""
    source, session, card = codec.parse(open_blob(destination_public_key, _NEED_LABEL, data), _NEED)
    return NeedOffer(source, session, card, open_card(card, destination_public_key))


def sign_stale_epoch(identity: Identity, source: NodeId, priority: Priority, ephemeral: bool, known: Epoch) -> bytes:
    """Tell ``source`` the highest epoch that we know of its flow to us."""
    payload = [_VERSION, source, int(priority), ephemeral, plain_epoch(known)]
    return sign_blob(identity, _STALE_LABEL, codec.encode(payload))


def open_stale_epoch(destination_public_key: bytes, data: bytes) -> StaleEpoch:
    """The notice, verified. Raises RemoteProtocolError."""
    notice: StaleEpoch = codec.parse(open_blob(destination_public_key, _STALE_LABEL, data), _STALE)
    return notice
