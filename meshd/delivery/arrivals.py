"""What has arrived from one source at one priority: duplicates, order, gaps, and what to receipt.

The rules (design, section 5). A number that arrived is never delivered again. A bundle gets its
turn after the bundle of the same service that its ``prev`` names. A wait ends early in two ways
only: the origin's floor passes what is waited for (it will not come), or the waiting bundle's own
lifetime ends. Either leaves a note of what is missing; nothing is skipped silently.
"""

import enum
from typing import Any

import attrs

from meshd.delivery.receipts import MAX_EPOCHS, MAX_REFUSALS, UNREAD, Receipt, epoch_receipts
from meshd.delivery.sequences import SequenceSet
from meshd.ids import Epoch, Number, Priority
from meshd.wire import codec
from meshd.wire.codec import array, mapping, optional, record, text, uint
from meshd.wire.frames import epoch as epoch_shape
from meshd.wire.frames import number as number_shape
from meshd.wire.frames import plain_epoch, plain_number

MAX_SERVICES = 4096


class Verdict(enum.Enum):
    """What to do with a number that came in."""

    NEW = "new"
    DUPLICATE = "duplicate"
    STALE_EPOCH = "stale-epoch"
    """Below the floor and of an epoch never seen: a restored image. Never called a duplicate."""
    NO_ROOM = "no-room"
    """Too far out of order to remember: the hop tries again later."""


@attrs.frozen
class Held:
    """A bundle on disk that waits for ``prev``, at most until ``until_ms``."""

    row: int
    service: str
    number: Number
    prev: Number
    until_ms: int


@attrs.frozen
class Release:
    """A bundle whose turn it is.

    Args:
        missing: why earlier mail of the service is not there, or None when nothing is missing.
        late: it comes after mail that was sent after it.
    """

    row: int
    missing: str | None
    late: bool


class FlowArrivals:
    """The durable state of one flow at its destination, and the rules that move it."""

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.floor: Number | None = None
        self._arrived: dict[Epoch, SequenceSet] = {}
        self._consumed: dict[Epoch, SequenceSet] = {}
        self._released: dict[str, Number] = {}
        self._refused: dict[Number, str] = {}
        self._held: dict[str, list[Held]] = {}

    def judge(self, number: Number) -> Verdict:
        """Whether ``number`` may come in. Changes nothing."""
        known = self._arrived.get(number.epoch)
        if known is None:
            if self.floor is not None and number < self.floor:
                return Verdict.STALE_EPOCH
            return Verdict.NEW if len(self._arrived) < MAX_EPOCHS else Verdict.NO_ROOM
        if number.sequence in known:
            return Verdict.DUPLICATE
        return Verdict.NEW if known.has_room_for(number.sequence) else Verdict.NO_ROOM

    def take(
        self, row: int, service: str, number: Number, prev: Number | None, floor: Number | None, until_ms: int
    ) -> Release | None:
        """Count ``number`` (judged NEW) as arrived; return its release, or None while it must wait.

        Other bundles may be ready now too: call :meth:`releases` after.
        """
        self._count(number)
        self._raise_floor(floor)
        released = self._released.get(service)
        if released is not None and number < released:
            return Release(row, None, late=True)
        held = Held(row, service, number, prev, until_ms) if prev is not None else None
        if held is not None and (self._held.get(service) or not self._is_over(held)):
            waiting = self._held.setdefault(service, [])
            waiting.append(held)
            waiting.sort(key=lambda item: item.number)
            return None
        self._released[service] = number
        return Release(row, self._missing(released, prev), late=False)

    def refuse(self, number: Number, code: str) -> None:
        """Count ``number`` as arrived and turned down: it is never delivered, and nothing waits for it.

        Call :meth:`releases` after.
        """
        self._count(number)
        self._consumed[number.epoch].add(number.sequence)
        self._refused[number] = code
        self._forget_finished_epochs()
        while len(self._refused) > MAX_REFUSALS:
            del self._refused[min(self._refused)]

    def raise_floor(self, floor: Number) -> bool:
        """The origin says that nothing below ``floor`` will come. Returns whether that was news."""
        before = self.floor
        self._raise_floor(floor)
        return self.floor != before

    def consume(self, number: Number) -> None:
        """The apps are done with ``number``."""
        if number.epoch in self._consumed:
            self._consumed[number.epoch].add(number.sequence)
            self._forget_finished_epochs()

    def restore_held(self, held: Held) -> None:
        """After a restart: a held bundle is on disk."""
        self._held.setdefault(held.service, []).append(held)
        self._held[held.service].sort(key=lambda item: item.number)

    def releases(self, now_ms: int) -> list[Release]:
        """Take every held bundle whose turn it is, in order."""
        ready: list[Release] = []
        for service in list(self._held):
            waiting = self._held[service]
            # Whoever's wait has ended takes along all before it, so that order holds.
            due = max((index for index, held in enumerate(waiting, 1) if held.until_ms <= now_ms), default=0)
            while waiting and (due > 0 or self._is_over(waiting[0])):
                due -= 1
                held = waiting.pop(0)
                released = self._released.get(service)
                if released is not None and held.number < released:
                    ready.append(Release(held.row, None, late=True))
                    continue
                ready.append(Release(held.row, self._missing(released, held.prev), late=False))
                self._released[service] = held.number
            if not waiting:
                del self._held[service]
        return ready

    def next_deadline_ms(self) -> int | None:
        """When the first wait ends by itself."""
        return min((held.until_ms for waiting in self._held.values() for held in waiting), default=None)

    def has_room_for_service(self, service: str) -> bool:
        """Whether one more service can be remembered."""
        return service in self._released or len(self._released) + len(self._held) < MAX_SERVICES

    def receipt(self, order: tuple[int, int], credit_bytes: int) -> Receipt:
        """The receipt of this moment."""
        epochs = [(epoch, arrived, self._consumed[epoch]) for epoch, arrived in self._arrived.items()]
        return Receipt(
            priority=self.priority,
            order=order,
            credit_bytes=credit_bytes,
            floor=self.floor,
            epochs=epoch_receipts(sorted(epochs, key=lambda item: item[0])),
            refused=tuple(self._refused.items()),
        )

    def _count(self, number: Number) -> None:
        if number.epoch not in self._arrived:
            self._arrived[number.epoch] = SequenceSet()
            self._consumed[number.epoch] = SequenceSet()
        self._arrived[number.epoch].add(number.sequence)

    def _raise_floor(self, floor: Number | None) -> None:
        if floor is None or (self.floor is not None and floor <= self.floor):
            return
        self.floor = floor
        if floor.sequence > 1 and floor.epoch not in self._arrived and len(self._arrived) < MAX_EPOCHS:
            # Nothing of it came, and what is below the floor is finished: as told of any other epoch. Else a source
            # that has forgotten it (an old disk) would be told nothing at all, and ask until its mail expires.
            self._arrived[floor.epoch] = SequenceSet()
            self._consumed[floor.epoch] = SequenceSet()
        for epoch, arrived in self._arrived.items():
            below = floor.sequence if epoch == floor.epoch else arrived.highest + 1 if epoch < floor.epoch else 1
            for first, last in list(arrived.missing_below(below)):
                # What will not come has not to be consumed either.
                self._consumed[epoch].add_span(first, last)
            arrived.raise_to(below - 1)
        # The origin has heard of what was turned down on arrival, else it would not call it finished.
        # Of what expired unread it may not have heard yet.
        self._refused = {number: code for number, code in self._refused.items() if number >= floor or code == UNREAD}
        self._forget_finished_epochs()

    def _forget_finished_epochs(self) -> None:
        if self.floor is None:
            return
        for epoch in list(self._arrived):
            if epoch < self.floor.epoch and self._consumed[epoch].watermark >= self._arrived[epoch].highest:
                del self._arrived[epoch], self._consumed[epoch]

    def _is_over(self, held: Held) -> bool:
        """Whether what ``held`` waits for was released or refused, or will never come."""
        released = self._released.get(held.service)
        return (
            (released is not None and held.prev <= released)
            or (self.floor is not None and held.prev < self.floor)
            or held.prev in self._refused
        )

    def _missing(self, released: Number | None, prev: Number | None) -> str | None:
        if prev is None or (released is not None and prev <= released):
            return None
        if prev in self._refused:
            return "refused"
        return "expired" if self.floor is not None and prev < self.floor else "waited"

    def encode(self) -> bytes:
        """The durable state; held bundles are rows of the inbox."""
        return codec.encode(
            [
                self.floor and plain_number(self.floor),
                [
                    [
                        plain_epoch(epoch),
                        arrived.watermark,
                        [list(span) for span in arrived.spans],
                        self._consumed[epoch].watermark,
                        [list(span) for span in self._consumed[epoch].spans],
                    ]
                    for epoch, arrived in self._arrived.items()
                ],
                {service: plain_number(number) for service, number in self._released.items()},
                [[plain_number(number), code] for number, code in self._refused.items()],
            ]
        )

    @classmethod
    def decode(cls, priority: Priority, data: bytes) -> "FlowArrivals":
        """Inverse of :meth:`encode`. Raises ShapeError: the store is damaged."""
        flow = cls(priority)
        floor, epochs, released, refused = _STATE(codec.decode(data))
        flow.floor = floor
        for epoch, arrived, arrived_spans, consumed, consumed_spans in epochs:
            flow._arrived[epoch] = SequenceSet(arrived, arrived_spans)
            flow._consumed[epoch] = SequenceSet(consumed, consumed_spans)
        flow._released = released
        flow._refused = dict(refused)
        return flow


def _items(*items: Any) -> tuple[Any, ...]:
    return items


_spans = array(record(_items, uint(), uint()), 1 << 20)
_STATE = record(
    _items,
    optional(number_shape),
    array(record(_items, epoch_shape, uint(), _spans, uint(), _spans), 1 << 20),
    mapping(1 << 20, text(64), number_shape),  # our own word: a limit of another version must not keep us from starting
    array(record(_items, number_shape, text(32)), MAX_REFUSALS),
)
