"""Bundles: the clear head that every hop reads, and the sealed content that only two devices do.

Layout of the content before sealing: one marker byte (0 plain, 1 zstd), then CBOR
``[service, prev, floor, count, hash, messages]`` where ``messages`` is itself an encoded CBOR
list, so that it can be stored and handed to an app without being taken apart.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import attrs
import zstandard

from meshd.errors import RemoteProtocolError
from meshd.ids import BUNDLE_ID_SIZE, BundleId, Flow, NodeId, Number, Priority, is_service_name
from meshd.wire import codec
from meshd.wire.codec import (
    array,
    blob,
    blob_up_to,
    boolean,
    converted,
    mapping,
    matching,
    optional,
    record,
    text,
    uint,
)
from meshd.wire.frames import MAX_BUNDLE_BYTES, node_id, number, plain_number

BUNDLE_VERSION = 1
SESSION_ID_SIZE = 16
TAG_SIZE = 16
"""Bytes that ChaCha20-Poly1305 adds."""

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_HEADERS_BYTES = 2048
MAX_MESSAGES = 256
PACK_BYTES = 64 * 1024
"""A bundle of several messages is not packed beyond this."""

COMPRESS_FROM_BYTES = 1024
_COMPRESS_LEVEL = 1
_CONTENT_HASH_SIZE = 16


@attrs.frozen
class Head:
    """A bundle's clear, immutable fields; its encoding is the AEAD's associated data.

    Args:
        flow: source, destination, priority, and whether the bundle is ephemeral.
        number: place in the flow.
        session: 16 bytes naming the key; counter: the AEAD nonce under that key.
        lifetime_ms: how old it may get.
        size: bytes of the sealed body.
    """

    flow: Flow
    number: Number
    session: bytes
    counter: int
    lifetime_ms: int
    size: int


def _head(
    version: int,
    source: NodeId,
    destination: NodeId,
    priority: Priority,
    ephemeral: bool,
    number: Number,
    session: bytes,
    counter: int,
    lifetime_ms: int,
    size: int,
) -> Head:
    return Head(Flow(source, destination, priority, ephemeral), number, session, counter, lifetime_ms, size)


_HEAD = record(
    _head,
    uint(BUNDLE_VERSION, BUNDLE_VERSION),
    node_id,
    node_id,
    converted(uint(3), Priority),
    boolean,
    number,
    blob(SESSION_ID_SIZE),
    uint(),
    uint(2**53),
    uint(MAX_BUNDLE_BYTES),
)


def encode_head(head: Head) -> bytes:
    """The bytes of ``head``."""
    flow = head.flow
    return codec.encode(
        [
            BUNDLE_VERSION,
            flow.source,
            flow.destination,
            int(flow.priority),
            flow.ephemeral,
            plain_number(head.number),
            head.session,
            head.counter,
            head.lifetime_ms,
            head.size,
        ]
    )


def decode_head(data: bytes) -> Head:
    """Inverse of :func:`encode_head`. Raises RemoteProtocolError."""
    head: Head = codec.parse(data, _HEAD)
    return head


def session_of(head: bytes) -> bytes:
    """The session in an encoded head that has been checked before, or is our own: a tenth of :func:`decode_head`."""
    session: bytes = codec.decode(head)[6]
    return session


def bundle_id(head: bytes, body: bytes) -> BundleId:
    """The id of the bundle with this encoded head and this body."""
    digest = hashlib.sha256(len(head).to_bytes(4, "big") + head)
    digest.update(body)
    return BundleId(digest.digest()[:BUNDLE_ID_SIZE])


@attrs.frozen
class Message:
    """What an app sends.

    Args:
        payload: up to 1 MiB.
        headers: small text values, among them ``traceparent``; 2 KiB in all with ``reply_to``.
        reply_to: ``service`` on the sender's device that an answer should go to.
    """

    payload: bytes
    headers: dict[str, str] = attrs.field(factory=dict)
    reply_to: str | None = None


@attrs.frozen
class Content:
    """What is sealed in a bundle.

    Args:
        service: the mailbox it is for.
        prev: number of the same service's previous bundle in the flow; None for the first ever.
        floor: the origin is done with every number below this one; they will not come.
        count: how many messages.
        messages: the encoded list of messages.
    """

    service: str
    prev: Number | None
    floor: Number | None
    count: int
    messages: bytes


_service = matching(text(64), is_service_name, "a service name")
_WHOLE = record(
    lambda *parts: parts, blob_up_to(MAX_MESSAGE_BYTES), mapping(32, text(64), text(2048)), optional(text(128))
)


def _content(
    service: str, prev: Number | None, floor: Number | None, count: int, content_hash: bytes, messages: bytes
) -> Content:
    if hashlib.sha256(messages).digest()[:_CONTENT_HASH_SIZE] != content_hash:
        raise codec.ShapeError("content hash mismatch")
    return Content(service, prev, floor, count, messages)


_CONTENT = record(
    _content,
    _service,
    optional(number),
    optional(number),
    uint(MAX_MESSAGES, 1),
    blob(_CONTENT_HASH_SIZE),
    blob_up_to(MAX_BUNDLE_BYTES),
)


def encode_messages(messages: Sequence[Message]) -> bytes:
    """The bytes of a list of messages; one without headers and reply-to is its payload alone."""
    return codec.encode(
        [m.payload if not m.headers and m.reply_to is None else [m.payload, m.headers, m.reply_to] for m in messages]
    )


def decode_messages(data: bytes, count: int) -> tuple[Message, ...]:
    """Inverse of :func:`encode_messages`. Raises ShapeError unless there are exactly ``count``."""
    return tuple([Message(*parts) for parts in _decode_parts(data, count)])


def _decode_parts(data: bytes, count: int) -> Sequence[tuple[Any, ...]]:
    """The checked fields of each message, most often only its payload."""
    parts: Sequence[tuple[Any, ...]] = _PARTS(codec.decode(data))
    if len(parts) != count:
        raise codec.ShapeError(f"expected {count} messages")
    return parts


def _parts(value: Any) -> tuple[Any, ...]:
    if type(value) is bytes and len(value) <= MAX_MESSAGE_BYTES:
        return (value,)
    parts: tuple[Any, ...] = _WHOLE(value)
    return parts


_PARTS = array(_parts, MAX_MESSAGES)


_compressor = zstandard.ZstdCompressor(level=_COMPRESS_LEVEL)
_decompressor = zstandard.ZstdDecompressor()


def pack_content(content: Content) -> bytes:
    """The plaintext of a bundle: compressed when over 1 KiB and that makes it smaller."""
    data = codec.encode(
        [
            content.service,
            content.prev and plain_number(content.prev),
            content.floor and plain_number(content.floor),
            content.count,
            hashlib.sha256(content.messages).digest()[:_CONTENT_HASH_SIZE],
            content.messages,
        ]
    )
    if len(data) > COMPRESS_FROM_BYTES:
        smaller = _compressor.compress(data)
        if len(smaller) < len(data):
            return b"\x01" + smaller
    return b"\x00" + data


def unpack_content(plaintext: bytes) -> Content:
    """Inverse of :func:`pack_content`.

    Raises RemoteProtocolError (``P_BUNDLE``): authentic, but malformed by its source. Messages
    themselves are checked too, so that what is stored can always be read.
    """
    try:
        content: Content = _CONTENT(codec.decode(_decompress(plaintext)))
        _decode_parts(content.messages, content.count)
    except codec.ShapeError as error:
        raise RemoteProtocolError("P_BUNDLE", str(error)) from error
    return content


def _decompress(plaintext: bytes) -> bytes:
    marker, data = plaintext[:1], plaintext[1:]
    if marker == b"\x00":
        return data
    if marker != b"\x01":
        raise codec.ShapeError("unknown compression")
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size > MAX_BUNDLE_BYTES:  # also when the size is not declared: that constant is huge
            raise codec.ShapeError("decompresses to more than a bundle may hold")
        return _decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise codec.ShapeError(f"not zstd: {error}") from error
