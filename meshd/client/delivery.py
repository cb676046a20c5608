"""What a subscription hands out: batches as they come, and the messages in them."""

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from meshd.errors import MeshdError
from meshd.ids import BundleRef, NodeId, Priority, format_message_id, to_text
from meshd.wire import codec
from meshd.wire.codec import array, boolean, converted, mapping, matching, optional, record, text, uint

PlainMessage: TypeAlias = bytes | tuple[bytes, dict[str, str], str | None]

Reader = TypeVar("Reader")


@attrs.frozen
class Missing:
    """Mail of the same source that will not come, right before a message.

    Args:
        bundles: how many bundles; None when nobody can know.
        reason: one short line.
    """

    bundles: int | None
    reason: str


@attrs.frozen
class Batch:
    """Messages that travelled together.

    Args:
        priority: and ``first_offset``: the place of the first in the service's mailbox.
        count: how many; their offsets follow each other.
        ref: first half of the messages' ids; ``first_index`` is the first one's second half.
        source: text id of the device that sent them; ``source_name`` its name.
        age_ms: since they were accepted there.
        redelivered: they may have been handed out before.
        late: they come out of order, after a gap was given up.
        missing: what was given up right before them.
        messages: each its payload, or a tuple of payload, headers, reply-to.
    """

    priority: Priority
    first_offset: int
    count: int
    ref: BundleRef
    source: NodeId
    source_name: str
    age_ms: int
    redelivered: bool
    late: bool
    missing: Missing | None
    messages: tuple[PlainMessage, ...]
    first_index: int = 0

    @property
    def payloads(self) -> list[bytes]:
        """The bodies alone."""
        return [message if isinstance(message, bytes) else message[0] for message in self.messages]


@attrs.define(eq=False)
class Delivery(Generic[Reader]):
    """One message, as read from a subscription. ``index`` is its place in the batch."""

    reader: Reader
    batch: Batch
    index: int
    payload: bytes
    headers: dict[str, str]
    reply_to: str | None

    @property
    def id(self) -> str:
        """The message id, as its sender and ``meshctl trace`` know it."""
        return format_message_id(self.batch.ref, self.batch.first_index + self.index)

    @property
    def source(self) -> str:
        """The text id of the device that sent it."""
        return to_text(self.batch.source)

    @property
    def source_name(self) -> str:
        """The name of the device that sent it."""
        return self.batch.source_name

    @property
    def sequence(self) -> int:
        """Its offset in the mailbox, rising within a priority."""
        return self.batch.first_offset + self.index

    @property
    def priority(self) -> Priority:
        """How urgent its sender said it is."""
        return self.batch.priority

    @property
    def age_s(self) -> float:
        """Seconds since it was accepted, as far as the clocks on its way could tell."""
        return self.batch.age_ms / 1000

    @property
    def redelivered(self) -> bool:
        """Whether it may have been handed out before."""
        return self.batch.redelivered

    @property
    def late(self) -> bool:
        """Whether it comes out of order, after its gap was given up."""
        return self.batch.late

    @property
    def missing(self) -> Missing | None:
        """What of the same source will not come, right before this message."""
        return self.batch.missing if self.index == 0 else None


def _messages(data: Any) -> tuple[PlainMessage, ...]:
    if type(data) is not bytes:
        raise codec.ShapeError("expected encoded messages")
    return tuple(array(_message, 256)(codec.decode(data)))


def _message(value: Any) -> PlainMessage:
    if isinstance(value, bytes):
        return value
    checked: PlainMessage = _WHOLE(value)
    return checked


_bytes = matching(lambda value: value, lambda value: type(value) is bytes, "bytes")
_WHOLE = record(lambda *parts: parts, _bytes, mapping(32, text(64), text(2048)), optional(text(128)))


def _missing(value: Any) -> Missing:
    if type(value) is not dict or type(value.get("reason")) is not str:
        raise codec.ShapeError("expected what is missing")
    return Missing(optional(uint())(value.get("bundles")), value["reason"])


_SHAPES = (
    converted(uint(3), Priority),
    uint(),
    uint(256, 1),
    _bytes,
    _bytes,
    optional(text(64)),
    uint(),
    boolean,
    boolean,
    optional(_missing),
    _messages,
)
_index = uint(255)


def read_batch(value: Any) -> Batch:
    """Check one batch of an Item. Raises MeshdError(E_UNSUPPORTED): the daemon sent something else."""
    try:
        if type(value) is not list or len(value) not in (11, 12):
            raise codec.ShapeError("a batch is a list of eleven, or twelve")
        fields: list[Any] = [shape(item) for shape, item in zip(_SHAPES, value, strict=False)]
        fields.append(_index(value[11]) if len(value) == 12 else 0)
        if len(fields[10]) != fields[2]:
            raise codec.ShapeError("a batch has as many messages as it says")
    except codec.ShapeError as error:
        raise MeshdError("E_UNSUPPORTED", f"The daemon delivered something else than messages: {error}.") from error
    fields[5] = fields[5] or to_text(fields[4])
    return Batch(*fields)


Made = TypeVar("Made")


def each(batch: Batch, make: Callable[..., Made], reader: object) -> list[Made]:
    """The messages of ``batch`` one by one, as the Delivery class ``make`` of ``reader``."""
    return [
        make(reader, batch, index, message, {}, None)
        if isinstance(message, bytes)
        else make(reader, batch, index, message[0], message[1], message[2])
        for index, message in enumerate(batch.messages)
    ]


class Spans:
    """Offsets to acknowledge, gathered until the next request: consecutive ones become one span."""

    def __init__(self) -> None:
        self._spans: dict[int, list[list[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._spans)

    def add(self, priority: int, first: int, last: int) -> None:
        """Add the offsets ``first`` to ``last``."""
        spans = self._spans.get(priority)
        if spans is None:
            self._spans[priority] = [[first, last]]
        elif spans[-1][1] + 1 == first:
            spans[-1][1] = last
        else:
            spans.append([first, last])

    def take(self, maximum: int) -> list[list[int]]:
        """Remove and return up to ``maximum`` spans per priority, as the protocol has them."""
        taken = []
        for priority, spans in list(self._spans.items()):
            taken += [[priority, first, last] for first, last in spans[:maximum]]
            if len(spans) > maximum:
                self._spans[priority] = spans[maximum:]
            else:
                del self._spans[priority]
        return taken
