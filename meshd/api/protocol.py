"""The local protocol: frames, the hello, requests and replies.

Pure, and shared by the daemon and its clients; specified in ``docs/protocol-api.md``. A frame is a
length (4 bytes, big-endian) and one CBOR item. A value that came from the other side is checked here
(arguments: in ``arguments``) and nowhere else. Bytes that break the framing raise ShapeError: that
connection is over.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import attrs

from meshd.errors import MeshdError
from meshd.wire import codec
from meshd.wire.codec import ShapeError, mapping, text, uint

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 2 * 1024 * 1024
MAX_IN_FLIGHT = 1024
"""Requests of one client without a final answer, beside its subscriptions."""

MAX_SUBSCRIPTIONS = 64
MAX_ID = 2**53
"""Of a request."""

RESULT, ERROR, ITEM = 0, 1, 2
"""What a reply carries: the answer, the error instead of it, or one element of a stream."""

CONNECTION = 0
"""The request id of an error that ends the connection."""

UNANSWERED = frozenset(("cancel", "credit"))
"""Operations that get no answer, unless they are malformed."""

_MAGIC = "meshd-api"
_LENGTH_BYTES = 4

DAEMON_IS_OLDER = "Restart the daemon, so that the version that is installed now runs: systemctl restart meshd"
CLIENT_IS_OLDER = "Update the program that you called, or call the one that came with this meshd."

Reply: TypeAlias = tuple[int, int, Any]
"""(request id, RESULT | ERROR | ITEM, value)."""


def frame(value: Any) -> bytes:
    """One frame holding plain data."""
    data = codec.encode(value)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


class FrameSplitter:
    """Cuts a byte stream into the CBOR items of its frames. Holds at most one frame and one read."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = _LENGTH_BYTES

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what has become whole with ``data``; to be exhausted before the next call.

        Raises ShapeError at a frame over the limit, after yielding what came before it.
        """
        self._chunks.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._wanted_bytes:  # a large frame is joined once, when it is whole
            return
        if len(self._chunks) > 1:
            data = b"".join(self._chunks)
        position, size = 0, len(data)
        while True:
            body = position + _LENGTH_BYTES
            if body > size:
                self._wanted_bytes = _LENGTH_BYTES
                break
            end = body + int.from_bytes(data[position:body], "big")
            if end - body > MAX_FRAME_BYTES:
                raise ShapeError(f"a frame of {end - body} bytes, the limit is {MAX_FRAME_BYTES}")
            if end > size:
                self._wanted_bytes = end - position
                break
            yield data[body:end]
            position = end
        rest = data[position:]
        self._chunks = [rest] if rest else []
        self._held_bytes = len(rest)


@attrs.frozen
class Hello:
    """The first frame of either side."""

    protocol: int
    program: str


def encode_hello(program: str) -> bytes:
    """The framed hello of a program of this version."""
    return frame([_MAGIC, PROTOCOL_VERSION, program])


def decode_hello(data: bytes) -> Hello:
    """Read the first frame. Raises ShapeError: the other side speaks something else."""
    value = codec.decode(data)
    # Later versions may append to the hello, so that they can still be told apart by name.
    if type(value) is not list or len(value) < 3 or value[0] != _MAGIC:
        raise ShapeError("the first frame is no hello")
    return Hello(uint(2**16)(value[1]), text(64)(value[2]))


def require_same_version(*, daemon: Hello, client: Hello) -> None:
    """Raises MeshdError(E_UNSUPPORTED), naming both programs, when the two can't talk."""
    if daemon.protocol != client.protocol:
        is_older = daemon.protocol < client.protocol
        raise MeshdError(
            "E_UNSUPPORTED",
            f"meshd {daemon.program} speaks version {daemon.protocol} of the local protocol, "
            f"this client ({client.program}) version {client.protocol}: "
            f"the daemon is {'older' if is_older else 'newer'}.",
            DAEMON_IS_OLDER if is_older else CLIENT_IS_OLDER,
        )


def encode_request(request_id: int, op: str, arguments: dict[str, Any]) -> bytes:
    """A framed request.

    Raises MeshdError: E_TOO_LARGE when it is over the frame limit, E_USAGE for what is no plain data.
    """
    for name, value in arguments.items():
        if not _is_plain(value):
            raise MeshdError("E_USAGE", f"{op}: argument {name!r} is nothing that can be sent: {value!r:.60}.")
    try:
        data = frame([request_id, op, arguments])
    except UnicodeEncodeError as error:  # half a character
        raise MeshdError("E_USAGE", f"{op}: {ascii(error.object)[:80]} is not UTF-8.") from error
    if len(data) > MAX_FRAME_BYTES + _LENGTH_BYTES:
        raise MeshdError("E_TOO_LARGE", f"A request of {len(data)} bytes; the limit is {MAX_FRAME_BYTES}.")
    return data


def _is_plain(value: Any) -> bool:
    """Whether the daemon can read it: what CBOR has tags for (a date, a very large number) ends the connection."""
    if isinstance(value, bytes | bytearray | str):
        return True
    if isinstance(value, int):
        return -(2**64) <= value < 2**64
    if isinstance(value, dict):
        return all(isinstance(key, str | bytes) for key in value) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list | tuple) else value is None or isinstance(value, float)


def decode_request(data: bytes) -> tuple[int, str, dict[str, Any]]:
    """The request's id, operation and unchecked arguments. Raises ShapeError."""
    value = codec.decode(data)
    if type(value) is not list or len(value) != 3:
        raise ShapeError("a request is a list of id, operation, arguments")
    request_id, op, arguments = value
    if type(request_id) is not int or not 0 < request_id <= MAX_ID:
        raise ShapeError("a request's id is a positive integer")
    if type(op) is not str or len(op) > 32 or type(arguments) is not dict:
        raise ShapeError("a request's operation is text, and its arguments are a map")
    return request_id, op, arguments


def encode_reply(request_id: int, kind: int, value: Any) -> bytes:
    """A framed reply; it is the caller's to keep it below the limit."""
    return frame([request_id, kind, value])


def encode_error(request_id: int, error: MeshdError) -> bytes:
    """A framed error reply."""
    return frame([request_id, ERROR, {"code": error.code, "message": error.message, "hint": error.hint}])


def decode_reply(data: bytes) -> Reply:
    """A reply; the value of an ERROR is a MeshdError. Raises ShapeError."""
    value = codec.decode(data)
    if type(value) is not list or len(value) != 3:
        raise ShapeError("a reply is a list of three")
    request_id, kind, item = value
    if type(request_id) is not int or type(kind) is not int or not RESULT <= kind <= ITEM:
        raise ShapeError("a reply begins with its request's id and its kind")
    if kind == ERROR:
        fields = mapping(16, text(64), text(65_536))(item)
        if "code" not in fields or "message" not in fields:
            raise ShapeError("an error has a code and a message")
        # The code may be newer than our catalogue: its advice comes along.
        item = MeshdError(fields["code"], fields["message"], fields.get("hint", ""))
    return request_id, kind, item
