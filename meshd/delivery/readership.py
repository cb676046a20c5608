"""The consumers of one service: what they are done with together, and which of them have gone for good. Pure."""

from collections.abc import Iterator, Mapping

import attrs

from meshd.delivery.consumers import Consumer, Cursor
from meshd.delivery.mailbox_effects import Delivery
from meshd.delivery.shelf import Entry
from meshd.ids import Priority


@attrs.define(eq=False)
class Lease:
    """A consumer as one client reads it: ready for ``credit`` messages, and so many bytes of them."""

    id: int
    consumer: Consumer
    credit: int
    room_bytes: int

    @property
    def is_ready(self) -> bool:
        """Whether it takes another batch."""
        return self.credit > 0 and self.room_bytes > 0

    def hand_out(self, delivery: Delivery) -> None:
        """It gets these."""
        self.credit -= delivery.count
        self.room_bytes -= len(delivery.messages)


class Readership:
    """All consumers of a service, by name.

    Args:
        states: name -> state, as last encoded.
        idle_s: after this long without a lease, nothing waits for a consumer any more.

    Raises MeshdError E_DATABASE when a state can't be read.
    """

    def __init__(self, states: Mapping[str, bytes], idle_s: float) -> None:
        self._consumers = {name: Consumer.decode(name, state) for name, state in states.items()}
        self._idle_s = idle_s

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers.values())

    def __len__(self) -> int:
        return len(self._consumers)

    def get(self, name: str) -> Consumer | None:
        """The consumer of that name, if there is one."""
        return self._consumers.get(name)

    def add(self, consumer: Consumer) -> None:
        """A new one."""
        self._consumers[consumer.name] = consumer

    def drop(self, consumer: Consumer) -> None:
        """It is forgotten."""
        del self._consumers[consumer.name]

    def cursors(self, priority: Priority) -> Iterator[Cursor]:
        """Every consumer's place at a priority."""
        return (consumer.cursors[priority] for consumer in self._consumers.values())

    # --- what is consumed

    def completes(self, consumer: Consumer, entry: Entry) -> bool:
        """Whether the batch, which ``consumer`` is done with, waits for nobody else."""
        return all(other is consumer or other.has_done(entry) for other in self if other.requires(entry))

    def has_done(self, entry: Entry) -> bool:
        """Whether the batch waited for somebody, and for nobody any more."""
        required = [consumer for consumer in self if consumer.requires(entry)]
        return bool(required) and all(consumer.has_done(entry) for consumer in required)

    def behind(self, priority: Priority, first: int, last: int) -> list[str] | None:
        """The names of those that have to ack these offsets and have not; None when nobody has ever read here."""
        readers = [consumer for consumer in self if consumer.sweep is None]
        if not readers:
            return None
        late = [consumer for consumer in readers if consumer.cursors[priority].missing(first, last)]
        required = [consumer for consumer in late if first >= consumer.cursors[priority].since]
        return [consumer.name for consumer in required or late]

    def forget(self, priority: Priority, first_offset: int) -> None:
        """The batch is deleted: it counts as done."""
        for cursor in self.cursors(priority):
            cursor.forget(first_offset)

    # --- those that have gone

    def expire(self, now: float) -> None:
        """Nothing waits any more for consumers that were idle for too long; see ``Consumer.sweep``."""
        for consumer in self:
            if consumer.idle_since is not None and consumer.sweep is None and now - consumer.idle_since >= self._idle_s:
                self._begin_sweep(consumer)

    def next_expiry(self) -> float | None:
        """When the next one may have been idle for too long."""
        idle = (consumer.idle_since for consumer in self if consumer.sweep is None)
        return min((since + self._idle_s for since in idle if since is not None), default=None)

    def expired(self) -> list[Consumer]:
        """Those whose mail is being looked through for what waited for them alone."""
        return [consumer for consumer in self if consumer.sweep is not None]

    def _begin_sweep(self, consumer: Consumer) -> None:
        others = [other for other in self if other is not consumer and other.sweep is None]
        consumer.sweep = {
            priority: (
                cursor.done.watermark + 1,
                max((other.cursors[priority].end for other in others), default=0),
            )
            for priority, cursor in consumer.cursors.items()
        }
