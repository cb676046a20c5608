"""Cards: what a device says about itself, signed; and the prekeys that its card offers."""

import ipaddress
import random
import re
from collections.abc import Mapping
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import NODE_ID_SIZE, NodeId
from meshd.trust.identity import SIGNATURE_SIZE, Identity, key_node_id, verify
from meshd.trust.statement import device_name
from meshd.wire import codec
from meshd.wire.codec import array, blob, mapping, matching, record, text, uint

MAX_CARD_BYTES = 4096
MAX_ADDRESSES = 16
MAX_PREKEYS = 4
MAX_FACTS = 32
PREKEY_ID_SIZE = 8
PREKEY_SIZE = 32

WEEK_S = 7 * 24 * 3600.0
"""How long one prekey is the current one, and how long private halves outlive the longest lifetime (seconds)."""

_LABEL = "meshd/card/v1"
_VERSION = 1
_TRANSPORT = re.compile(r"[a-z]{1,16}")
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_FACT = re.compile(r"[a-z][a-z0-9_]{0,31}")


def is_host(host: str) -> bool:
    """An IP literal (IPv6 link-local perhaps with ``%interface``), or a DNS name."""
    literal, percent, zone = host.partition("%")
    try:
        version = ipaddress.ip_address(literal).version
    except ValueError:
        return not percent and len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None
    return not percent or (version == 6 and _ZONE.fullmatch(zone) is not None)


@attrs.frozen
class CardAddress:
    """Where a device listens: the parts of a ``transport.base.Address``."""

    transport: str
    host: str
    port: int


@attrs.frozen(kw_only=True)
class Card:
    """A device's self-description.

    Args:
        version: of two cards of one device, the higher replaces the lower.
        prekeys: (id, X25519 public key), the current one first; up to 4.
        addresses: where it listens; up to 16.
        facts: what else others may use, by name; unknown names are kept and passed on.
    """

    node: NodeId
    version: int
    name: str
    prekeys: tuple[tuple[bytes, bytes], ...] = ()
    addresses: tuple[CardAddress, ...] = ()
    facts: Mapping[str, int | str] = attrs.field(factory=dict)


def _fact(value: Any) -> int | str:
    checked: int | str = text(128)(value) if type(value) is str else uint()(value)
    return checked


address = record(
    CardAddress,
    matching(text(16), lambda value: _TRANSPORT.fullmatch(value) is not None, "a transport"),
    matching(text(270), is_host, "a host"),
    uint(65535, 1),
)
_CARD = record(
    lambda _, node, version, name, prekeys, addresses, facts: Card(
        node=node, version=version, name=name, prekeys=prekeys, addresses=addresses, facts=facts
    ),
    uint(_VERSION, _VERSION),
    blob(NODE_ID_SIZE),
    uint(),
    device_name,
    array(record(lambda *pair: pair, blob(PREKEY_ID_SIZE), blob(PREKEY_SIZE)), MAX_PREKEYS),
    array(address, MAX_ADDRESSES),
    mapping(MAX_FACTS, matching(text(32), lambda name: _FACT.fullmatch(name) is not None, "a name"), _fact),
)


def plain_address(value: CardAddress) -> list[Any]:
    """The CBOR form of an address."""
    return [value.transport, value.host, value.port]


def sign_card(identity: Identity, card: Card) -> bytes:
    """The bytes of a card. Raises LocalProtocolError when others would refuse it."""
    payload = codec.encode(
        [
            _VERSION,
            card.node,
            card.version,
            card.name,
            [list(prekey) for prekey in card.prekeys],
            [plain_address(value) for value in card.addresses],
            dict(card.facts),
        ]
    )
    data = payload + identity.sign(_LABEL, payload)
    try:
        open_card(data, identity.public_key)
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"not a card of ours: {error.reason}") from error
    return data


def open_card(data: bytes, public_key: bytes) -> Card:
    """The card in ``data``, by the holder of ``public_key``.

    Raises RemoteProtocolError: ``P_MALFORMED``, or ``P_AUTH`` when somebody else made it.
    """
    card = _parse(data)
    payload, signature = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
    if card.node != key_node_id(public_key) or not verify(public_key, signature, _LABEL, payload):
        raise RemoteProtocolError("P_AUTH", "a card that its device did not sign")
    return card


def peek_card_node(data: bytes) -> NodeId:
    """Whose card ``data`` claims to be: to find the key to open it with. Raises RemoteProtocolError."""
    return _parse(data).node


def _parse(data: bytes) -> Card:
    if len(data) > MAX_CARD_BYTES:
        raise RemoteProtocolError("P_OVERSIZED", f"a card of {len(data)} bytes")
    card: Card = codec.parse(data[:-SIGNATURE_SIZE], _CARD)
    return card


@attrs.frozen
class _Prekey:
    private_key: X25519PrivateKey
    made_s: float


_KEPT = record(lambda *fields: fields, blob(PREKEY_SIZE), uint())


class Prekeys:
    """The private halves of a device's prekeys. Pure: the caller stores what ``export`` gives.

    Args:
        longest_lifetime_s: the oldest that a message may get. A prekey is dropped a week after what was
            sealed to it, on its last day as the current one, has expired.
    """

    def __init__(self, longest_lifetime_s: float) -> None:
        self._kept_s = longest_lifetime_s + WEEK_S
        self._keys: dict[bytes, _Prekey] = {}

    def _newest_first(self) -> list[bytes]:
        return sorted(self._keys, key=lambda id: (-self._keys[id].made_s, id))

    @property
    def published(self) -> tuple[tuple[bytes, bytes], ...]:
        """(id, public key) for the card: the current one, then the one before."""
        return tuple(
            (id, self._keys[id].private_key.public_key().public_bytes_raw()) for id in self._newest_first()[:2]
        )

    @property
    def deadline(self) -> float:
        """When ``advance`` is next due, in the seconds of its ``now``."""
        return max((key.made_s + WEEK_S for key in self._keys.values()), default=0.0)

    def advance(self, now: float, rng: random.Random) -> bool:
        """Make a new prekey when the current one is a week old, and drop the outlived.

        Returns whether anything changed: then store ``export`` *before* publishing a card.
        """
        before = set(self._keys)
        self._keys = {id: key for id, key in self._keys.items() if now - key.made_s <= self._kept_s}
        if now >= self.deadline or not self._keys:
            key = X25519PrivateKey.from_private_bytes(rng.randbytes(PREKEY_SIZE))
            self._keys[rng.randbytes(PREKEY_ID_SIZE)] = _Prekey(key, now)
        return set(self._keys) != before

    def private(self, prekey: bytes) -> X25519PrivateKey | None:
        """The private half of this id; None when unknown or dropped."""
        kept = self._keys.get(prekey)
        return kept.private_key if kept else None

    def export(self) -> dict[bytes, bytes]:
        """Everything, by prekey id, as secret bytes for the store."""
        return {
            id: codec.encode([key.private_key.private_bytes_raw(), int(key.made_s)]) for id, key in self._keys.items()
        }

    @classmethod
    def restore(cls, longest_lifetime_s: float, stored: Mapping[bytes, bytes]) -> "Prekeys":
        """Inverse of ``export``. Raises ShapeError (a ValueError) when the store gives back something else."""
        prekeys = cls(longest_lifetime_s)
        for id, value in stored.items():
            private_bytes, made_s = _KEPT(codec.decode(value))
            prekeys._keys[id] = _Prekey(X25519PrivateKey.from_private_bytes(private_bytes), float(made_s))
        return prekeys
