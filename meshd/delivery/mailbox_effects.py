"""What a mailbox is told at its start, and what it asks of the node."""

from typing import TypeAlias

import attrs

from meshd.delivery.shelf import Batch, Entry
from meshd.ids import Priority
from meshd.wire import codec

UNLIMITED_BYTES = 2**62
"""Room of a reader that bounds itself."""


@attrs.frozen(kw_only=True)
class Limits:
    """What one mailbox allows.

    Args:
        attempts: after this many, a message goes to the dead letters.
        idle_s: a consumer without a lease for this long expires.
        consumers: how many names.
    """

    attempts: int = 16
    idle_s: float = 30 * 86400.0
    consumers: int = 64


@attrs.frozen
class Backlog:
    """What was on disk at one priority when the daemon started: up to ``last_offset``."""

    priority: Priority
    last_offset: int


@attrs.frozen
class Delivery:
    """Neighbouring messages of one batch, for one subscription.

    Args:
        first_index: of the first one in the batch.
        redelivered: they may have been handed out before.
    """

    batch: Batch
    first_index: int
    count: int
    redelivered: bool

    @property
    def first_offset(self) -> int:
        """Offset of the first one."""
        return self.batch.entry.first_offset + self.first_index

    @property
    def messages(self) -> bytes:
        """The encoded list of them; taken apart only when they are not the whole batch."""
        if self.count == self.batch.entry.count:
            return self.batch.messages
        return codec.encode(codec.decode(self.batch.messages)[self.first_index : self.first_index + self.count])


@attrs.frozen
class Deliver:
    """Hand these to the client."""

    subscription: int
    deliveries: tuple[Delivery, ...]


@attrs.frozen
class DeadLetter:
    """The message was given back too often: keep it apart. For this consumer it counts as acked."""

    consumer: str
    batch: Batch
    index: int
    attempts: int


@attrs.frozen
class Consumed:
    """Every consumer that has to be is done with these: delete them. Comes after their DeadLetters."""

    entries: tuple[Entry, ...]


@attrs.frozen
class StoreCursor:
    """Keep the consumer's state."""

    consumer: str
    state: bytes


@attrs.frozen
class ConsumerExpired:
    """Nobody has read under this name for too long: delete its state, and tell a person."""

    consumer: str
    idle_s: float


@attrs.frozen
class Load:
    """Read released rows from ``offset`` on, and answer with ``loaded`` or ``load_failed``."""

    priority: Priority
    offset: int
    max_rows: int
    max_bytes: int


Effect: TypeAlias = Deliver | DeadLetter | Consumed | StoreCursor | ConsumerExpired | Load
