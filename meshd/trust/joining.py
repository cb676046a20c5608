"""Joining on the wire: the frames between a device with a code and the device that made it.

::

    joiner                                       inviter
      | -- hello(code id, certificate, nonce) ----> |
      | <--------- challenge(certificate, nonce) -- |
      | -- proof(name, mac, signature) -----------> |   yields the Admission: commit it
      | <--- answer(size, digest, mac, signature) - |
      | <--------------------------- part(bytes) .. |   genesis, statements, cards

The joiner has compared the certificate that TLS showed it with the code before it sends anything.
Both MACs and signatures cover that certificate as the joiner saw it, so nobody can stand in between.
"""

import hmac
from typing import Any

import attrs

from meshd.errors import RemoteProtocolError
from meshd.trust.identity import SIGNATURE_SIZE, Identity, signed_bytes, verify
from meshd.trust.invitations import CODE_ID_SIZE, HASH_SIZE
from meshd.trust.statement import MAX_STATEMENT_BYTES, certificate, device_name
from meshd.wire import codec
from meshd.wire.codec import array, blob, blob_up_to, record, text, uint

MAX_JOIN_FRAME_BYTES = 20 * 1024
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A mesh of thousands fits; the joiner has proof of its inviter before it takes the first byte."""

PART_BYTES = 16 * 1024
NONCE_SIZE = 32
JOIN_VERSION = 1
JOINER_LABEL = "meshd/join/joiner/v1"
INVITER_LABEL = "meshd/join/inviter/v1"


@attrs.frozen
class JoinHello:
    """Joiner, first: which code, and whose key (32-byte nonce)."""

    version: int
    code_id: bytes
    certificate: bytes
    nonce: bytes


@attrs.frozen
class JoinChallenge:
    """Inviter: whose key, and its nonce."""

    certificate: bytes
    nonce: bytes


@attrs.frozen
class JoinProof:
    """Joiner: the name it would like, and that it knows the code and holds its key."""

    name: str
    mac: bytes
    signature: bytes


@attrs.frozen
class JoinAnswer:
    """Inviter: how long the answer is, its SHA-256, and that it knows the code and holds its key."""

    size: int
    digest: bytes
    mac: bytes
    signature: bytes


@attrs.frozen
class JoinPart:
    """The next bytes of the answer; the last frame is the one that completes it."""

    data: bytes


@attrs.frozen
class JoinRefusal:
    """Inviter: why not, as a code of ``errors.CATALOGUE``. It closes after it."""

    code: str
    reason: str


JoinFrame = JoinHello | JoinChallenge | JoinProof | JoinAnswer | JoinPart | JoinRefusal

_TYPES: dict[type, int] = {JoinHello: 1, JoinChallenge: 2, JoinProof: 3, JoinAnswer: 4, JoinPart: 5, JoinRefusal: 6}
_SHAPES: dict[int, codec.Shape] = {
    1: record(JoinHello, uint(JOIN_VERSION, JOIN_VERSION), blob(CODE_ID_SIZE), certificate, blob(NONCE_SIZE)),
    2: record(JoinChallenge, certificate, blob(NONCE_SIZE)),
    3: record(JoinProof, device_name, blob(HASH_SIZE), blob(SIGNATURE_SIZE)),
    4: record(JoinAnswer, uint(MAX_ANSWER_BYTES, 1), blob(HASH_SIZE), blob(HASH_SIZE), blob(SIGNATURE_SIZE)),
    5: record(JoinPart, blob_up_to(PART_BYTES)),
    6: record(JoinRefusal, text(32), text(200)),
}
ROSTER_SHAPE = record(
    lambda *fields: fields,
    blob_up_to(MAX_STATEMENT_BYTES),
    array(blob_up_to(MAX_STATEMENT_BYTES), 64 * 1024),
    array(blob_up_to(MAX_STATEMENT_BYTES), 16 * 1024),
)
"""The answer, put together: genesis, statements, cards."""


def encode_join_frame(frame: JoinFrame) -> bytes:
    """The bytes of ``frame``."""
    fields = attrs.astuple(frame, recurse=False)
    return codec.encode([_TYPES[type(frame)], *fields])


def decode_join_frame(data: bytes) -> JoinFrame:
    """Inverse of :func:`encode_join_frame`. Raises RemoteProtocolError: ``P_OVERSIZED``, ``P_MALFORMED``."""
    if len(data) > MAX_JOIN_FRAME_BYTES:
        raise RemoteProtocolError("P_OVERSIZED", f"a join frame of {len(data)} bytes")

    def shape(value: Any) -> JoinFrame:
        kind = value[0] if type(value) is list and value else None
        found = _SHAPES.get(kind) if type(kind) is int else None
        if found is None:
            raise codec.ShapeError("not a frame of a join")
        frame: JoinFrame = found(value[1:])
        return frame

    decoded: JoinFrame = codec.parse(data, shape)
    return decoded


@attrs.frozen
class Transcript:
    """What both sides prove that they agree on."""

    genesis_hash: bytes
    joiner_key: bytes
    inviter_key: bytes
    joiner_nonce: bytes
    inviter_nonce: bytes
    certificate_hash: bytes

    def proof(self, label: str, key: bytes, identity: Identity, extra: bytes) -> tuple[bytes, bytes]:
        """Our MAC and our signature, in our role."""
        parts = (*attrs.astuple(self), extra)
        return hmac.digest(key, signed_bytes(label, *parts), "sha256"), identity.sign(label, *parts)

    def has_mac(self, mac: bytes, label: str, key: bytes, extra: bytes) -> bool:
        """Whether the other side made ``mac`` with the code's key."""
        parts = (*attrs.astuple(self), extra)
        return hmac.compare_digest(mac, hmac.digest(key, signed_bytes(label, *parts), "sha256"))

    def has_signature(self, signature: bytes, label: str, public_key: bytes, extra: bytes) -> bool:
        """Whether the other side holds the key that it named."""
        return verify(public_key, signature, label, *attrs.astuple(self), extra)
