"""WebSocket messages on a stream of bytes (RFC 6455 section 5), as far as two meshds need them. Pure.

Data travels as binary messages. Whatever a correct peer may send is taken in: fragments, masks, pings.
"""

import enum
import struct
from typing import TypeAlias

import attrs

from meshd.errors import RemoteProtocolError
from meshd.transport.framing import oversized

CLOSE_NORMAL = 1000  # RFC 6455 section 7.4.1

_FINAL, _RESERVED, _OPCODE = 0x80, 0x70, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_MAX_CONTROL_BYTES = 125
_SHORT, _MEDIUM, _LONG = struct.Struct(">BB"), struct.Struct(">BBH"), struct.Struct(">BBQ")
_KEY_BYTES = 4
_NO_KEY = bytes(_KEY_BYTES)


class Opcode(enum.IntEnum):
    """What a frame carries."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@attrs.frozen
class Ping:
    """To be answered with a pong of the same data."""

    data: bytes


@attrs.frozen
class Closed:
    """The other side sends nothing more."""


Event: TypeAlias = bytes | Ping | Closed
"""``bytes`` is the content of a binary message."""


def encode(opcode: Opcode, data: bytes, *, masked: bool) -> bytes:
    """One frame that is a whole message.

    ``masked`` is for the client, whose frames must carry a mask. Masks keep a script in a browser from choosing what a
    proxy that can't read WebSocket sees (RFC 6455 section 10.3). Here all of it is inside TLS between two daemons,
    so the mask is always the one that changes nothing.
    """
    bit, size = (_MASKED if masked else 0), len(data)
    if size < _LENGTH_16:
        head = _SHORT.pack(_FINAL | opcode, bit | size)
    elif size < 2**16:
        head = _MEDIUM.pack(_FINAL | opcode, bit | _LENGTH_16, size)
    else:
        head = _LONG.pack(_FINAL | opcode, bit | _LENGTH_64, size)
    return b"".join((head, _NO_KEY if masked else b"", data))


def encode_close(*, masked: bool) -> bytes:
    """The frame after which nothing is sent."""
    return encode(Opcode.CLOSE, CLOSE_NORMAL.to_bytes(2, "big"), masked=masked)


@attrs.frozen
class _Head:
    opcode: Opcode
    is_final: bool
    key: bytes
    start: int
    end: int


class MessageReader:
    """Turns bytes, however they were cut, into events.

    After a mistake of the other side nothing more is read: ``error`` is set, and stays.

    Args:
        masked: whether the other side is the client.
        limit: the longest message in bytes.
    """

    def __init__(self, *, masked: bool, limit: int) -> None:
        self.error: RemoteProtocolError | None = None
        self._masked = masked
        self._limit = limit
        self._partial = bytearray()
        self._needed = _SHORT.size
        self._fragments: list[bytes] = []
        self._fragmented = False

    def feed(self, data: bytes) -> list[Event]:
        """Return what ``data`` completes. Look at ``error`` afterwards."""
        events: list[Event] = []
        if self.error is not None:
            return events
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed:
                return events
            data = bytes(self._partial)
            self._partial.clear()
        position = 0
        try:
            while (head := self._head(data, position)) is not None:
                position = head.end
                event = self._take(head, _unmask(data[head.start : head.end], head.key))
                if event is not None:
                    events.append(event)
        except RemoteProtocolError as error:
            self.error = error
            return events
        self._partial += data[position:]
        return events

    def _head(self, data: bytes, position: int) -> _Head | None:
        """The frame that begins at ``position``, when all of it is there."""
        available = len(data) - position
        if available < _SHORT.size:
            self._needed = _SHORT.size
            return None
        first, second = data[position], data[position + 1]
        length = second & _LENGTH
        size_bytes = 2 if length == _LENGTH_16 else 8 if length == _LENGTH_64 else 0
        start = _SHORT.size + size_bytes + (_KEY_BYTES if self._masked else 0)
        if available < start:
            self._needed = start
            return None
        at = position + _SHORT.size
        size = int.from_bytes(data[at : at + size_bytes], "big") if size_bytes else length
        opcode = self._check(first, bool(second & _MASKED), size)
        if available < start + size:
            self._needed = start + size
            return None
        key = data[position + start - _KEY_BYTES : position + start] if self._masked else _NO_KEY
        return _Head(opcode, bool(first & _FINAL), key, position + start, position + start + size)

    def _check(self, first: int, masked: bool, size: int) -> Opcode:
        """Judge a frame by its head. Raises RemoteProtocolError."""
        number = first & _OPCODE
        if first & _RESERVED or number not in _OPCODES or masked is not self._masked:
            raise RemoteProtocolError("P_MALFORMED", "not a WebSocket frame")
        opcode = _OPCODES[number]
        if opcode >= Opcode.CLOSE:
            if size > _MAX_CONTROL_BYTES or not first & _FINAL:
                raise RemoteProtocolError("P_MALFORMED", "a WebSocket control frame that is long or in pieces")
        elif opcode is Opcode.TEXT:
            raise RemoteProtocolError("P_MALFORMED", "text where frames were expected")
        elif (opcode is Opcode.CONTINUATION) is not self._fragmented:
            raise RemoteProtocolError("P_MALFORMED", "pieces of WebSocket messages out of order")
        elif (whole := size + sum(map(len, self._fragments))) > self._limit:
            raise oversized(whole, self._limit)
        return opcode

    def _take(self, head: _Head, data: bytes) -> Event | None:
        if head.opcode is Opcode.CLOSE:
            return Closed()
        if head.opcode is Opcode.PING:
            return Ping(data)
        if head.opcode is Opcode.PONG:
            return None
        if head.is_final and not self._fragmented:
            return data
        if data:  # so that empty pieces take no memory
            self._fragments.append(data)
        self._fragmented = not head.is_final
        if self._fragmented:
            return None
        whole = b"".join(self._fragments)
        self._fragments.clear()
        return whole


_OPCODES = {opcode.value: opcode for opcode in Opcode}


def _unmask(data: bytes, key: bytes) -> bytes:
    """Every fourth byte has the same byte of the key."""
    if key == _NO_KEY:
        return data
    plain = bytearray(data)
    for place, mask in enumerate(key):
        plain[place::_KEY_BYTES] = data[place::_KEY_BYTES].translate(bytes(byte ^ mask for byte in range(256)))
    return bytes(plain)
