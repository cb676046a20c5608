"""CBOR in and out, with every limit that untrusted bytes need.

A *shape* is a function that takes a decoded value and returns it, checked and made immutable, or
raises :class:`ShapeError`. Frames and statements are described by shapes, so that validation
happens once, here, and the rest of the program handles typed values only.
"""

import io
from collections.abc import Callable
from typing import Any, NoReturn

import cbor2

from meshd.errors import RemoteProtocolError

Shape = Callable[[Any], Any]

MAX_DEPTH = 12
_BUILT_IN_TAGS = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)


class ShapeError(ValueError):
    """A decoded value is not of the shape that was asked for."""


def _refuse_tag(*_: object) -> NoReturn:
    # Tags can cost far more than their bytes (big floats, regular expressions), and we use none.
    raise ShapeError("tagged values are not used")


_NO_TAGS = dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag)


def encode(value: Any) -> bytes:
    """Return the CBOR bytes of plain data (int, bytes, str, bool, None, float, list, tuple, dict)."""
    return cbor2.dumps(value)


def decode(data: bytes) -> Any:
    """Return the plain data in ``data``. Raises ShapeError on anything but one small, untagged CBOR item."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError, MemoryError, TypeError) as error:
        raise ShapeError(f"not CBOR: {error}") from error
    if stream.tell() != len(data):
        raise ShapeError("bytes after the CBOR item")
    return value


def parse(data: bytes, shape: Shape, *, code: str = "P_MALFORMED") -> Any:
    """Decode ``data`` and check it. Raises RemoteProtocolError(code): the sender's fault."""
    try:
        return shape(decode(data))
    except ShapeError as error:
        raise RemoteProtocolError(code, str(error)) from error


def uint(maximum: int = 2**63 - 1, minimum: int = 0) -> Shape:
    """An integer within bounds (a bool is none)."""

    def check(value: Any) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise ShapeError(f"expected an integer {minimum}..{maximum}")
        return value

    return check


def blob(size: int) -> Shape:
    """Exactly ``size`` bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise ShapeError(f"expected {size} bytes")
        return value

    return check


def blob_up_to(maximum: int) -> Shape:
    """At most ``maximum`` bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > maximum:
            raise ShapeError(f"expected at most {maximum} bytes")
        return value

    return check


def text(maximum: int) -> Shape:
    """At most ``maximum`` characters."""

    def check(value: Any) -> str:
        if type(value) is not str or len(value) > maximum:
            raise ShapeError(f"expected at most {maximum} characters")
        return value

    return check


def boolean(value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise ShapeError("expected true or false")
    return value


def optional(shape: Shape) -> Shape:
    """Null, or ``shape``."""
    return lambda value: None if value is None else shape(value)


def matching(shape: Shape, test: Callable[[Any], bool], what: str) -> Shape:
    """``shape``, and ``test`` holds too."""

    def check(value: Any) -> Any:
        checked = shape(value)
        if not test(checked):
            raise ShapeError(f"expected {what}")
        return checked

    return check


def converted(shape: Shape, convert: Callable[[Any], Any]) -> Shape:
    """``shape``, then ``convert``; a ValueError in it is a ShapeError."""

    def check(value: Any) -> Any:
        checked = shape(value)
        try:
            return convert(checked)
        except ValueError as error:
            raise ShapeError(str(error)) from error

    return check


def array(shape: Shape, maximum: int) -> Shape:
    """A list of at most ``maximum`` items, each of ``shape``, as a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > maximum:
            raise ShapeError(f"expected a list of at most {maximum}")
        return tuple([shape(item) for item in value])

    return check


def record(make: Callable[..., Any], *shapes: Shape) -> Shape:
    """A list with one item per shape, made into ``make(*items)``."""
    size = len(shapes)

    def check(value: Any) -> Any:
        if type(value) is not list or len(value) != size:
            raise ShapeError(f"expected a list of exactly {size}")
        return make(*[shape(item) for shape, item in zip(shapes, value, strict=True)])

    return check


def mapping(maximum: int, key: Shape, item: Shape) -> Shape:
    """A map of at most ``maximum`` entries."""

    def check(value: Any) -> dict[Any, Any]:
        if type(value) is not dict or len(value) > maximum:
            raise ShapeError(f"expected a map of at most {maximum}")
        return {key(k): item(v) for k, v in value.items()}

    return check
