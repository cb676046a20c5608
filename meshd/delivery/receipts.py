"""Receipts: what a destination says it has, as signed state. The newest replaces the older.

One receipt speaks of one flow: which numbers arrived (and will never be delivered again), which
were refused, which the apps have consumed, and how many bytes the source may have under way.
"""

from collections.abc import Sequence

import attrs

from meshd.delivery.sequences import MAX_SPANS, SequenceSet
from meshd.ids import Epoch, Number, Priority
from meshd.wire import codec
from meshd.wire.codec import array, converted, record, text, uint
from meshd.wire.frames import epoch as epoch_shape
from meshd.wire.frames import number as number_shape
from meshd.wire.frames import plain_epoch, plain_number

FIRST_CREDIT_BYTES = 1024 * 1024
"""What an origin may have under way before the first receipt."""

MAX_EPOCHS = 64
MAX_REFUSALS = 256
UNREAD = "unread"
"""The refusal of a bundle that arrived, and whose lifetime ended before an app was done with it."""

MAX_SEQUENCE = 2**63 - 1
_SPANS_PER_RECEIPT = 512
"""So that the largest receipt fits into a Routed frame; further spans wait for a later one."""

RECEIPT_LABEL = "meshd/receipt/v1"


@attrs.frozen
class EpochReceipt:
    """What is known of the numbers of one epoch; spans are (first, last), beyond the watermark."""

    epoch: Epoch
    arrived: int
    arrived_spans: tuple[tuple[int, int], ...]
    consumed: int
    consumed_spans: tuple[tuple[int, int], ...]


@attrs.frozen(kw_only=True)
class Receipt:
    """The state of one flow at its destination.

    Args:
        order: (destination's epoch counter, count): the higher one is newer.
        credit_bytes: how much the source may have sent and not yet seen receipted.
        floor: numbers below it are finished on both sides; epochs before it are left out.
        refused: numbers that arrived and were turned down, with a code; the lowest go first when they are many.
    """

    priority: Priority
    order: tuple[int, int]
    credit_bytes: int
    floor: Number | None
    epochs: tuple[EpochReceipt, ...]
    refused: tuple[tuple[Number, str], ...]

    def highest(self) -> Number | None:
        """The highest number that arrived."""
        return max(
            (
                Number(entry.epoch, entry.arrived_spans[-1][1] if entry.arrived_spans else entry.arrived)
                for entry in self.epochs
            ),
            default=None,
        )

    def has_arrived(self, number: Number) -> bool:
        """Whether the destination holds, held, or refused this number."""
        return self._in(number, consumed=False)

    def is_consumed(self, number: Number) -> bool:
        """Whether the apps there are done with this number, which has arrived."""
        return self._is_left_out(number.epoch) or self._in(number, consumed=True)

    def is_all_consumed(self) -> bool:
        """Whether the apps there are done with all that arrived."""
        return all(
            (entry.arrived, entry.arrived_spans) == (entry.consumed, entry.consumed_spans) for entry in self.epochs
        )

    def newly_consumed(self, epoch: Epoch, before: "Receipt | None") -> list[tuple[int, int]]:
        """The spans of an epoch's numbers that are consumed, and were not in the receipt ``before``."""
        if self._is_left_out(epoch):
            return [(1, MAX_SEQUENCE)]
        known = SequenceSet()
        for entry in () if before is None else before.epochs:
            if entry.epoch == epoch:
                known = SequenceSet(entry.consumed, entry.consumed_spans)
        return [
            span
            for entry in self.epochs
            if entry.epoch == epoch
            for first, last in ((1, entry.consumed), *entry.consumed_spans)
            for span in known.missing_between(first, last)
        ]

    def _is_left_out(self, epoch: Epoch) -> bool:
        return (
            self.floor is not None
            and epoch < self.floor.epoch
            and not any(entry.epoch == epoch for entry in self.epochs)
        )

    def _in(self, number: Number, *, consumed: bool) -> bool:
        for entry in self.epochs:
            if entry.epoch == number.epoch:
                watermark = entry.consumed if consumed else entry.arrived
                spans = entry.consumed_spans if consumed else entry.arrived_spans
                return number.sequence <= watermark or any(a <= number.sequence <= b for a, b in spans)
        return False

    def refusal_of(self, number: Number) -> str | None:
        """The code with which this number was refused, if it was."""
        return next((code for refused, code in self.refused if refused == number), None)


def _receipt(
    priority: Priority,
    counter: int,
    count: int,
    credit_bytes: int,
    floor: Number | None,
    epochs: tuple[EpochReceipt, ...],
    refused: tuple[tuple[Number, str], ...],
) -> Receipt:
    return Receipt(
        priority=priority,
        order=(counter, count),
        credit_bytes=credit_bytes,
        floor=floor,
        epochs=epochs,
        refused=refused,
    )


_spans = array(record(lambda first, last: (first, last), uint(), uint()), MAX_SPANS)
_RECEIPT = record(
    _receipt,
    converted(uint(3), Priority),
    uint(),
    uint(),
    uint(),
    codec.optional(number_shape),
    array(record(EpochReceipt, epoch_shape, uint(), _spans, uint(), _spans), MAX_EPOCHS),
    array(record(lambda number, code: (number, code), number_shape, text(32)), MAX_REFUSALS),
)


def encode_receipt(receipt: Receipt) -> bytes:
    """The bytes of a receipt."""
    return codec.encode(
        [
            int(receipt.priority),
            *receipt.order,
            receipt.credit_bytes,
            receipt.floor and plain_number(receipt.floor),
            [
                [
                    plain_epoch(entry.epoch),
                    entry.arrived,
                    [list(span) for span in entry.arrived_spans],
                    entry.consumed,
                    [list(span) for span in entry.consumed_spans],
                ]
                for entry in receipt.epochs
            ],
            [[plain_number(number), code] for number, code in receipt.refused],
        ]
    )


def decode_receipt(data: bytes) -> Receipt:
    """Inverse of :func:`encode_receipt`. Raises RemoteProtocolError."""
    receipt: Receipt = codec.parse(data, _RECEIPT)
    return receipt


def epoch_receipts(epochs: Sequence[tuple[Epoch, SequenceSet, SequenceSet]]) -> tuple[EpochReceipt, ...]:
    """What to tell of each (epoch, arrived, consumed), within bounds that the epochs share."""
    share = _SPANS_PER_RECEIPT // (2 * max(1, len(epochs)))
    return tuple(
        EpochReceipt(epoch, arrived.watermark, arrived.spans[:share], consumed.watermark, consumed.spans[:share])
        for epoch, arrived, consumed in epochs
    )
