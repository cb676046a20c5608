"""What admins say about the mesh: the genesis, and signed statements in a hash chain per issuer.

Both are a CBOR payload followed by 64 signature bytes, so that nobody but the signer can give the
same statement a second form, and thereby a second hash.
"""

import enum
import hashlib
from typing import Any, Literal, TypeAlias

import attrs

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import NODE_ID_SIZE, MeshId, NodeId, is_device_name
from meshd.trust.identity import (
    PUBLIC_KEY_SIZE,
    SIGNATURE_SIZE,
    Identity,
    certificate_key,
    key_node_id,
    verify,
)
from meshd.wire import codec
from meshd.wire.codec import array, blob, blob_up_to, converted, matching, optional, record, text, uint

MAX_STATEMENT_BYTES = 4096
MAX_NUMBER = 2**31 - 1
MAX_MESH_NAME = 63

Role: TypeAlias = Literal["admin", "member", "relay"]

_VERSION = 1
_HASH_SIZE = 32
_GENESIS_LABEL = "meshd/genesis/v1"
_STATEMENT_LABEL = "meshd/statement/v1"


class Kind(enum.IntEnum):
    """What a statement does, as its number on the wire."""

    ADD = 1
    REMOVE = 2
    GRANT = 3


@attrs.frozen
class Add:
    """``device`` belongs to the mesh, as ``member`` or ``relay``, under this name."""

    certificate: bytes
    name: str
    role: Role

    @property
    def device(self) -> NodeId:
        """Whom it is about."""
        return key_node_id(certificate_key(self.certificate))


@attrs.frozen
class Remove:
    """``device`` is out of the mesh.

    ``honoured`` is (number, hash) of the device's own last statement that still counts; None when none does.
    """

    device: NodeId
    honoured: tuple[int, bytes] | None


@attrs.frozen
class Grant:
    """``device`` is an admin. Names it in full, so that it stands without the statement that added it."""

    certificate: bytes
    name: str

    @property
    def device(self) -> NodeId:
        """Whom it is about."""
        return key_node_id(certificate_key(self.certificate))


Act: TypeAlias = Add | Remove | Grant


@attrs.frozen
class Statement:
    """One link of an issuer's chain.

    Args:
        id: SHA-256 of ``data``.
        number: from 1; previous: id of the issuer's statement before, the mesh id for the first.
        act: None for a kind of a later version: kept and passed on, without effect here.
    """

    id: bytes
    data: bytes = attrs.field(repr=False)
    issuer: NodeId
    number: int
    previous: bytes
    act: Act | None


@attrs.frozen
class Genesis:
    """How a mesh began.

    Args:
        mesh_id: SHA-256 of ``data``.
        recovery_key: raw public half of the offline key that stands above every admin.
    """

    mesh_id: MeshId
    data: bytes = attrs.field(repr=False)
    mesh_name: str
    founder_name: str
    founder_certificate: bytes
    recovery_key: bytes

    @property
    def founder(self) -> NodeId:
        """The first admin."""
        return key_node_id(certificate_key(self.founder_certificate))

    @property
    def recovery(self) -> NodeId:
        """The issuer id of the recovery key; no device."""
        return key_node_id(self.recovery_key)


def is_mesh_name(name: str) -> bool:
    """1..63 printable characters, with no blank at either end."""
    return 0 < len(name) <= MAX_MESH_NAME and name.isprintable() and name == name.strip()


def _certificate(value: bytes) -> bytes:
    try:
        certificate_key(value)
    except RemoteProtocolError as error:
        raise codec.ShapeError(error.reason) from error
    return value


def _anything(value: Any) -> Any:
    return value


certificate = converted(blob_up_to(1024), _certificate)
device_name = matching(text(MAX_MESH_NAME), is_device_name, "a device name")
role = matching(text(16), ("admin", "member", "relay").__contains__, "a role")

_LOW_ROLE = matching(text(16), ("member", "relay").__contains__, "member or relay")
_LINK = record(lambda number, id: (number, id), uint(MAX_NUMBER, 1), blob(_HASH_SIZE))
_ACTS: dict[int, codec.Shape] = {
    Kind.ADD: record(Add, certificate, device_name, _LOW_ROLE),
    Kind.REMOVE: record(Remove, blob(NODE_ID_SIZE), optional(_LINK)),
    Kind.GRANT: record(Grant, certificate, device_name),
}
_STATEMENT = array(_anything, 6)
_STATEMENT_HEAD = record(
    lambda *fields: fields,
    uint(_VERSION, _VERSION),
    blob(NODE_ID_SIZE),
    uint(MAX_NUMBER, 1),
    blob(_HASH_SIZE),
    uint(255),
)
_GENESIS = record(
    lambda *fields: fields[1:],
    uint(_VERSION, _VERSION),
    matching(text(MAX_MESH_NAME), is_mesh_name, "a mesh name"),
    device_name,
    certificate,
    blob(PUBLIC_KEY_SIZE),
)


def _plain_act(act: Act) -> tuple[Kind, list[Any]]:
    match act:
        case Add():
            return Kind.ADD, [act.certificate, act.name, act.role]
        case Remove():
            return Kind.REMOVE, [act.device, act.honoured and list(act.honoured)]
        case Grant():
            return Kind.GRANT, [act.certificate, act.name]


def sign_statement(identity: Identity, mesh_id: MeshId, number: int, previous: bytes, act: Act) -> bytes:
    """The bytes of a new statement of ``identity``. Raises LocalProtocolError when they are too many."""
    kind, fields = _plain_act(act)
    payload = codec.encode([_VERSION, identity.node_id, number, previous, int(kind), fields])
    data = payload + identity.sign(_STATEMENT_LABEL, mesh_id, payload)
    if len(data) > MAX_STATEMENT_BYTES:
        raise LocalProtocolError(f"a statement of {len(data)} bytes")
    return data


def decode_statement(data: bytes) -> Statement:
    """The statement in ``data``, its signature not yet checked. Raises RemoteProtocolError."""
    payload = _payload(data)
    fields = codec.parse(payload, _STATEMENT)
    try:
        _, issuer, number, previous, kind = _STATEMENT_HEAD(list(fields[:-1]))
        shape = _ACTS.get(kind)
        act = shape(fields[-1]) if shape is not None else None
    except codec.ShapeError as error:
        raise RemoteProtocolError("P_MALFORMED", f"statement: {error}") from error
    return Statement(hashlib.sha256(data).digest(), data, NodeId(issuer), number, previous, act)


def is_authentic(statement: Statement, mesh_id: MeshId, public_key: bytes) -> bool:
    """Whether the holder of ``public_key`` made this statement, about this mesh."""
    payload, signature = statement.data[:-SIGNATURE_SIZE], statement.data[-SIGNATURE_SIZE:]
    return verify(public_key, signature, _STATEMENT_LABEL, mesh_id, payload)


def sign_genesis(identity: Identity, mesh_name: str, device_name: str, recovery_key: bytes) -> bytes:
    """The bytes of the genesis of a mesh founded by ``identity``."""
    payload = codec.encode([_VERSION, mesh_name, device_name, identity.certificate, recovery_key])
    return payload + identity.sign(_GENESIS_LABEL, payload)


def open_genesis(data: bytes) -> Genesis:
    """The genesis in ``data``. Raises RemoteProtocolError when malformed or not signed by its founder."""
    payload = _payload(data)
    mesh_name, founder_name, founder_certificate, recovery_key = codec.parse(payload, _GENESIS)
    key = certificate_key(founder_certificate)
    if not verify(key, data[-SIGNATURE_SIZE:], _GENESIS_LABEL, payload):
        raise RemoteProtocolError("P_AUTH", "the genesis is not signed by its founder")
    if recovery_key == key:
        raise RemoteProtocolError("P_MALFORMED", "the recovery key is the founder's own")
    mesh_id = MeshId(hashlib.sha256(data).digest())
    return Genesis(mesh_id, data, mesh_name, founder_name, founder_certificate, recovery_key)


def _payload(data: bytes) -> bytes:
    if not SIGNATURE_SIZE < len(data) <= MAX_STATEMENT_BYTES:
        raise RemoteProtocolError("P_MALFORMED", f"a statement of {len(data)} bytes")
    return data[:-SIGNATURE_SIZE]
