"""The sources of requests: single calls, sends that travel together, and publishers."""

from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel

from meshd.api.arguments import MAX_PAYLOAD_BYTES, MAX_SEND_MESSAGES, check_message
from meshd.client.connection import Connection
from meshd.client.session import SendResult, lost, outcome_unknown
from meshd.errors import MeshdError

PlainMessage: TypeAlias = bytes | list[Any]
"""A message as a request carries it: its payload, or a list of payload, headers, reply-to."""

_REQUEST_BYTES = 512 * 1024
"""Payload in one request of several messages."""

_REQUEST_MESSAGES = MAX_SEND_MESSAGES

_TOGETHER_REQUESTS = 2
"""Requests of single sends in flight to one place: one on its way while the other is being committed."""

_PUBLISHER_REQUESTS = 16
"""A publisher's requests in flight: with more, what gathers meanwhile makes larger requests instead."""

_BREATH = 64
"""Messages between two pauses of a publisher that never has to wait."""


def plain_message(payload: bytes, headers: dict[str, str] | None, reply_to: str | None) -> PlainMessage:
    """Raises MeshdError: ``E_TOO_LARGE``, ``E_USAGE``; checked here so that it can't fail others' messages."""
    message = [payload, headers or {}, reply_to] if headers or reply_to else payload
    try:
        check_message(message)
    except ValueError as error:  # a ShapeError, or text that is half a character
        raise MeshdError("E_USAGE", f"send: {error}.") from error
    return message


class Call:
    """One request and its answer."""

    def __init__(self, connection: Connection, op: str, arguments: dict[str, Any]) -> None:
        self._connection = connection
        self._op = op
        self._arguments = arguments
        self._id: int | None = None
        self._done = anyio.Event()
        self._value: Any = None
        self._error: MeshdError | None = None
        self.is_patient = op == "await" or arguments.get("wait", "accepted") != "accepted"

    async def answer(self) -> Any:
        """Ask, and wait for the answer. Cancelled, the daemon is told to forget the request."""
        self._connection.ready(self)
        try:
            await self._done.wait()
        finally:
            if not self._done.is_set():
                self._done.set()
                if self._id is not None:
                    self._connection.give_up(self._id)
        if self._error is not None:
            raise self._error
        return self._value

    def issue(self) -> None:
        if self._done.is_set():  # cancelled before its turn
            return
        self._id = self._connection.request(self._op, self._arguments, self)

    def on_item(self, value: Any) -> None:
        """Calls have no items; a daemon that sends some says nothing that was asked for."""

    def on_result(self, value: Any) -> None:
        self._value = value
        self._done.set()

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        self._error = outcome_unknown() if lost and self._op == "send" else error.again()
        self._done.set()


class _Parcel:
    """One message of :class:`Together`, and the event that its sender waits for."""

    __slots__ = ("done", "error", "message", "result")

    def __init__(self, message: PlainMessage) -> None:
        self.message = message
        self.done = anyio.Event()
        self.result: SendResult | None = None
        self.error: MeshdError | None = None


class Together:
    """Single sends to one place, made by many tasks.

    While two requests are in flight, what others send gathers and makes up the next.
    """

    def __init__(self, connection: Connection, arguments: dict[str, Any]) -> None:
        self._connection = connection
        self._arguments = arguments
        self._waiting: deque[_Parcel] = deque()
        self._in_ready = False
        self._requests = 0
        self.is_patient = False

    @property
    def idle(self) -> bool:
        """Whether no message waits, for its request or for its answer."""
        return not self._waiting and not self._requests

    async def send(self, message: PlainMessage) -> SendResult:
        """Add a message and wait for its answer. Cancelled, it is withdrawn if it has not left yet."""
        parcel = _Parcel(message)
        self._waiting.append(parcel)
        self._go_on()
        try:
            await parcel.done.wait()
        finally:
            if not parcel.done.is_set() and parcel in self._waiting:
                self._waiting.remove(parcel)
        if parcel.result is None:
            raise parcel.error or lost()
        return parcel.result

    def _go_on(self) -> None:
        if self._waiting and not self._in_ready and self._requests < _TOGETHER_REQUESTS:
            if self._connection.failure is not None:
                self.on_failure(self._connection.failure, lost=False)
            else:
                self._in_ready = True
                self._connection.ready(self)

    def issue(self) -> None:
        self._in_ready = False
        if not self._waiting:  # withdrawn
            return
        parcels: list[_Parcel] = []
        size = 0
        while self._waiting and len(parcels) < _REQUEST_MESSAGES:
            size += _size(self._waiting[0].message)
            if parcels and size > _REQUEST_BYTES:
                break
            parcels.append(self._waiting.popleft())
        self._requests += 1
        arguments = {**self._arguments, "messages": [parcel.message for parcel in parcels]}
        self._connection.request("send", arguments, _Answered(self, parcels))
        self._go_on()

    def settle(self) -> None:
        """One request has its answer."""
        self._requests -= 1
        self._go_on()

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        """Nothing of what waits was sent."""
        self._in_ready = False
        parcels, self._waiting = self._waiting, deque()
        _fail(parcels, error)


class _Answered:
    """Waits for the answer to one request of :class:`Together`."""

    def __init__(self, together: Together, parcels: list[_Parcel]) -> None:
        self._together = together
        self._parcels = parcels

    def on_item(self, value: Any) -> None:
        """A send has no items."""

    def on_result(self, value: Any) -> None:
        state = value["state"]
        for parcel, message_id in zip(self._parcels, value["ids"], strict=True):
            parcel.result = SendResult(message_id, state)
            parcel.done.set()
        self._together.settle()

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        _fail(self._parcels, outcome_unknown() if lost else error)
        self._together.settle()


def _fail(parcels: Iterable[_Parcel], error: MeshdError) -> None:
    for parcel in parcels:
        parcel.error = error.again()
        parcel.done.set()


class Publisher:
    """Sends to one place without waiting for each answer; see ``Client.publisher``.

    Messages arrive in the order they were sent. Not to be used by several tasks at once.
    """

    def __init__(
        self, connection: Connection, arguments: dict[str, Any], *, window_messages: int, window_bytes: int
    ) -> None:
        self._connection = connection
        self._arguments = arguments
        self._window_messages = window_messages
        self._window_bytes = window_bytes
        self._waiting: list[PlainMessage] = []
        self._open_messages = 0
        self._open_bytes = 0
        self._in_ready = False
        self._requests = 0
        self._error: MeshdError | None = None
        self._refused = 0
        self._moved = anyio.Event()
        self.is_patient = arguments["wait"] != "accepted"

    async def __aenter__(self) -> "Publisher":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            await self.flush()

    async def send(self, payload: bytes, *, headers: dict[str, str] | None = None, reply_to: str | None = None) -> None:
        """Queue one message; waits only while the window is full.

        Raises MeshdError: ``E_TOO_LARGE`` for this one, or why an earlier one was refused (then this
        one is not queued; ``flush`` clears that). Cancelled, the message is not queued.
        """
        if headers or reply_to or type(payload) is not bytes or len(payload) > MAX_PAYLOAD_BYTES:
            message = plain_message(payload, headers, reply_to)
        else:
            message = payload
        if self._open_messages % _BREATH == _BREATH - 1:
            # A sender that never waits would keep the writer from its turn until the window is full.
            await anyio.lowlevel.checkpoint()
        while self._open_messages >= self._window_messages or self._open_bytes >= self._window_bytes:
            await self._move()
        if self._error is not None:
            raise self._error.again()
        if not self._in_ready and self._requests < _PUBLISHER_REQUESTS:
            self._connection.ready(self)
            self._in_ready = True
        self._waiting.append(message)
        self._open_messages += 1
        self._open_bytes += len(payload)

    async def flush(self) -> None:
        """Return when every message so far has its answer: accepted, or what ``wait`` asked for.

        Raises MeshdError with the first reason why some were not; what was sent after a refused one
        may have been accepted.
        """
        while self._open_messages:
            await self._move()
        error, refused = self._error, self._refused
        self._error, self._refused = None, 0
        if error is not None:
            raise MeshdError(error.code, f"{error.message.rstrip('.')} ({refused} messages).", error.hint)

    async def _move(self) -> None:
        self._moved = anyio.Event()
        await self._moved.wait()

    def issue(self) -> None:
        self._in_ready = False
        waiting, size, count = self._waiting, 0, 0
        for message in waiting[:_REQUEST_MESSAGES]:
            size += _size(message)
            if count and size > _REQUEST_BYTES:
                size -= _size(message)
                break
            count += 1
        if not count:
            return
        messages, self._waiting = waiting[:count], waiting[count:]
        self._requests += 1
        self._connection.request("send", {**self._arguments, "messages": messages}, _Published(self, count, size))
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._in_ready and self._requests < _PUBLISHER_REQUESTS:
            self._in_ready = True
            self._connection.ready(self)

    def settle(self, messages: int, size_bytes: int, error: MeshdError | None) -> None:
        """So many messages have their answer."""
        self._requests -= 1
        self._open_messages -= messages
        self._open_bytes -= size_bytes
        if error is not None:
            self._error = self._error or error
            self._refused += messages
        if self._connection.failure is None:
            self._go_on()
        else:
            self._drop_waiting(self._connection.failure)
        self._moved.set()

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        self._in_ready = False
        self._drop_waiting(error)
        self._moved.set()

    def _drop_waiting(self, error: MeshdError) -> None:
        self._error = self._error or error
        self._refused += len(self._waiting)
        self._open_messages -= len(self._waiting)
        self._open_bytes -= sum(map(_size, self._waiting))
        self._waiting = []


class _Published:
    """Waits for the answer to one request of a publisher."""

    def __init__(self, publisher: Publisher, messages: int, size_bytes: int) -> None:
        self._publisher = publisher
        self._messages = messages
        self._size_bytes = size_bytes

    def on_item(self, value: Any) -> None:
        """A send has no items."""

    def on_result(self, value: Any) -> None:
        self._publisher.settle(self._messages, self._size_bytes, None)

    def on_failure(self, error: MeshdError, *, lost: bool) -> None:
        self._publisher.settle(self._messages, self._size_bytes, outcome_unknown() if lost else error)


def _size(message: PlainMessage) -> int:
    return len(message) if isinstance(message, bytes) else len(message[0])
