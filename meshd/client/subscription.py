"""Reading a service: messages as they come, and acks that gather while the previous ones travel."""

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import anyio
import attrs

from meshd.api.arguments import MAX_ACK_RANGES
from meshd.api.pacing import Window
from meshd.client import delivery
from meshd.client.connection import Connection
from meshd.client.delivery import Batch, Spans, each, read_batch
from meshd.client.sending import Together, plain_message
from meshd.client.session import SendResult
from meshd.errors import MeshdError

_BUFFER_BYTES = 8 * 1024 * 1024
_LEAVE_S = 1
"""How long leaving a subscription by an exception, or cancelled, may take, to hand over the acks given before it."""


@attrs.define(eq=False)
class Delivery(delivery.Delivery["Subscription"]):
    """One message of a :class:`Subscription`."""

    async def ack(self) -> None:
        """Return when the daemon has it on disk that this message is done. Raises MeshdError.

        Cancelled: it is handed over all the same.
        """
        self.reader.ack(self)
        await self.reader.flush()

    def nack(self) -> None:
        """Have the message delivered again, after a while."""
        self.reader.nack(self)

    async def reply(self, payload: bytes, *, headers: dict[str, str] | None = None) -> SendResult:
        """Answer to the service that the sender named. Raises MeshdError(E_USAGE) when it named none."""
        if self.reply_to is None:
            raise MeshdError("E_USAGE", "reply: the message names no service to answer to.")
        return await self.reader.reply(self.source, self.reply_to, plain_message(payload, headers, None))


class Subscription:
    """Messages of one service; an async iterator within its ``async with``.

    Leaving the block hands over the acks given, and releases the lease. One task reads.
    """

    def __init__(self, connection: Connection, service: str, consumer: str, credit: int) -> None:
        self._connection = connection
        self._arguments = {"service": service, "consumer": consumer}
        self._id: int | None = None
        self._window = Window(credit)
        self._credit = 0
        self._batches: deque[tuple[Batch, int]] = deque()
        self._buffered_bytes = 0
        self._current: deque[Delivery] = deque()
        self._acks = Spans()
        self._nacks = Spans()
        self._up_to: dict[int, int] = {}
        self._ack_in_flight = False
        self._ack_error: MeshdError | None = None
        self._in_ready = False
        self._is_entered = False
        self._end: MeshdError | None = None
        self._moved = anyio.Event()

    async def __aenter__(self) -> "Subscription":
        self._wake_writer()
        self._is_entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            if self._connection.failure is None:
                with anyio.move_on_after(_LEAVE_S, shield=True):
                    await self._settle()
            if self._id is not None:
                self._connection.give_up(self._id)
            self._end = self._end or MeshdError("E_USAGE", "The subscription has been left.")

    # --- reading ----------------------------------------------------------------------------

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Delivery:
        """The next message; waits for one. Raises MeshdError when the subscription has ended."""
        while not self._current:
            self._current.extend(each(await self.next_batch(), Delivery, self))
        return self._current.popleft()

    def batches(self) -> AsyncIterator[Batch]:
        """Iterate over messages as they travelled, many at once; ``ack`` takes a batch too."""
        return _Batches(self)

    async def next_batch(self) -> Batch:
        """The next messages that travelled together. Cancel-safe. Raises as ``__anext__`` does."""
        if not self._is_entered:
            raise MeshdError(
                "E_USAGE",
                "The subscription is read outside its block.",
                "Enter it first: async with client.subscribe(...) as messages",
            )
        while not self._batches:
            if self._end is not None:
                raise self._end.again()
            await self._move()
        batch, size = self._batches.popleft()
        self._buffered_bytes -= size
        self._window.add(batch.count)
        self._grant()
        return batch

    # --- acknowledging ----------------------------------------------------------------------

    def ack(self, what: "delivery.Delivery[Subscription] | Batch") -> None:
        """Mark a message, or a batch, as done. Handed over soon; :meth:`flush` waits until it is on disk."""
        self._add(self._acks, what)

    def ack_up_to(self, what: "delivery.Delivery[Subscription]") -> None:
        """Mark as done this message and all before it of the same priority, read or not."""
        self._up_to[what.priority] = max(what.sequence, self._up_to.get(what.priority, 0))
        self._wake_writer()

    def nack(self, what: "delivery.Delivery[Subscription] | Batch") -> None:
        """Have a message, or a batch, delivered again after a while."""
        self._add(self._nacks, what)

    def _add(self, spans: Spans, what: "delivery.Delivery[Subscription] | Batch") -> None:
        if isinstance(what, Batch):
            spans.add(what.priority, what.first_offset, what.first_offset + what.count - 1)
        else:
            offset = what.batch.first_offset + what.index
            spans.add(what.batch.priority, offset, offset)
        if not self._in_ready and not self._ack_in_flight:
            self._wake_writer()

    async def flush(self) -> None:
        """Return when every ack so far is on disk. Raises MeshdError when one could not be taken."""
        await self._settle()
        error, self._ack_error = self._ack_error, None
        if error is not None:
            raise error.again()

    async def _settle(self) -> None:
        while (self._ack_in_flight or self._acks or self._nacks or self._up_to) and self._ack_error is None:
            if self._connection.failure is not None:
                self._ack_error = self._connection.failure
            else:
                await self._move()

    async def reply(self, device: str, service: str, message: bytes | list[Any]) -> SendResult:
        """Send ``message`` to a device's service over the same connection."""
        return await Together(self._connection, {"destination": device, "service": service}).send(message)

    async def _move(self) -> None:
        if self._moved.is_set():
            self._moved = anyio.Event()
        await self._moved.wait()

    # --- as a source of requests, and the one who waits for them ----------------------------

    @property
    def is_patient(self) -> bool:
        """Acks are answered soon, and others may be waiting for them."""
        return False

    def _wake_writer(self) -> None:
        if not self._in_ready:
            self._connection.ready(self)
            self._in_ready = True

    def _grant(self) -> None:
        granted = self._window.grant(_BUFFER_BYTES - self._buffered_bytes)
        if granted > 0:
            self._credit += granted
            if self._end is None:
                self._wake_writer()

    def issue(self) -> None:
        self._in_ready = False
        if self._id is None:
            if self._end is None:  # else it was left before its turn: nobody would give the lease back
                arguments = {**self._arguments, "credit": self._window.grant(_BUFFER_BYTES)}
                self._id = self._connection.request("subscribe", arguments, self)
            if self._id is None:
                return
        if self._credit:
            self._connection.tell("credit", {"subscription": self._id, "messages": self._credit})
            self._credit = 0
        if not self._ack_in_flight and (self._acks or self._nacks or self._up_to):
            self._ack_in_flight = True
            up_to, self._up_to = self._up_to, {}
            arguments = {
                "subscription": self._id,
                "ranges": self._acks.take(MAX_ACK_RANGES),
                "nack": self._nacks.take(MAX_ACK_RANGES),
                "up_to": [[int(priority), offset] for priority, offset in up_to.items()],
            }
            self._connection.request("ack", arguments, _Acknowledged(self))

    def acknowledged(self, error: MeshdError | None) -> None:
        """The acks in flight are on disk, or never will be."""
        self._ack_in_flight = False
        self._ack_error = self._ack_error or error
        if (self._acks or self._nacks or self._up_to) and self._connection.failure is None:
            self._wake_writer()
        self._moved.set()

    def on_item(self, value: Any) -> None:
        try:
            for plain in value:
                batch = read_batch(plain)
                size = len(plain[10])
                self._window.delivered(batch.count, size)
                self._batches.append((batch, size))
                self._buffered_bytes += size
        except MeshdError as error:
            self._end = error
        self._grant()
        self._moved.set()

    def on_result(self, value: Any) -> None:
        self._end = MeshdError("E_STOPPING", "The daemon ended the subscription.")
        self._moved.set()

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        self._end = error
        if self._acks or self._nacks or self._up_to:
            self._ack_error = self._ack_error or error
        self._moved.set()


class _Batches:
    """Not a generator: breaking off a loop over it leaves nothing to be closed."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> "_Batches":
        return self

    async def __anext__(self) -> Batch:
        return await self._subscription.next_batch()


class _Acknowledged:
    """Waits for the answer to one ``ack``."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def on_item(self, value: Any) -> None:
        """An ack has no items."""

    def on_result(self, value: Any) -> None:
        self._subscription.acknowledged(None)

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        self._subscription.acknowledged(error)
