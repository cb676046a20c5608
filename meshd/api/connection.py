"""One client of the daemon, without its socket: what it has asked, and what is queued for it."""

from collections.abc import Iterator
from typing import Any

import attrs
import trio

from meshd import __version__
from meshd.api import protocol
from meshd.api.arguments import check_arguments
from meshd.api.handlers import build
from meshd.api.pacing import Window
from meshd.errors import MeshdError
from meshd.node.requests import (
    AddCredit,
    Cancel,
    Disconnected,
    Follow,
    Item,
    Reply,
    Request,
    Result,
    Subscribe,
)
from meshd.wire.codec import ShapeError

MAX_QUEUED_BYTES = 16 * 1024 * 1024
"""Replies a client may leave unread before its connection is closed."""

_STREAM_BYTES = 8 * 1024 * 1024
"""Credit is passed on as long as this much is not queued, so that a client that reads stays far below the limit."""

_ROOM_BYTES = 2 * 1024 * 1024
"""Mail on its way to one subscription. Credit counts messages, and large ones may follow small ones: what is granted
by the size of those would be over any limit before the client has had the time to read it."""

_OURS = protocol.Hello(protocol.PROTOCOL_VERSION, __version__)


class Connection:
    """The port of one client. Owned by its reader and its writer task; the node only calls ``reply_nowait``.

    Args:
        principal: who it is, ``uid:1000``.
    """

    def __init__(self, principal: str) -> None:
        self.principal = principal
        self.overrun = trio.CancelScope()
        """Cancelled when the client leaves too much unread."""
        self.is_told_gone = False
        """Whether the node has been told that the client is gone."""
        self._splitter = protocol.FrameSplitter()
        self._greeted = False
        self._unanswered: set[int] = set()
        self._windows: dict[int, Window] = {}
        self._queue: list[bytes] = [protocol.encode_hello(__version__)]
        self._queued_bytes = len(self._queue[0])
        self._mail: dict[int, int] = {}
        """Bytes of messages that are queued, by subscription."""
        self._mail_on_its_way: dict[int, int] = {}
        """Of them, what the writer has taken; ``_mail`` is what it has not."""
        self._read: dict[int, int] = {}
        """What of its room a subscription has not been told to have back; little."""
        self._writer = trio.lowlevel.ParkingLot()
        self._finished = False

    @property
    def greeted(self) -> bool:
        """Whether the client's hello has come, and is of our version."""
        return self._greeted

    # --- in: what the client sends ----------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Request]:
        """Yield what the client asks of the node; answers what can be answered here.

        Raises ShapeError when the bytes are no request, MeshdError(E_UNSUPPORTED) for a client of
        another version: the connection has to end, with that as its last word.
        """
        for item in self._splitter.feed(data):
            if not self._greeted:
                hello = protocol.decode_hello(item)
                protocol.require_same_version(daemon=_OURS, client=hello)
                self._greeted = True
                continue
            request_id, op, arguments = protocol.decode_request(item)
            if request_id in self._unanswered or request_id in self._windows:
                raise ShapeError(f"request id {request_id} is in use")
            try:
                request = self._admit(request_id, op, arguments)
            except MeshdError as error:
                self._push(protocol.encode_error(request_id, error))
            else:
                if request is not None:
                    yield request

    def _admit(self, request_id: int, op: str, arguments: dict[str, Any]) -> Request | None:
        if op == "version":
            check_arguments(op, arguments)
            value = {"version": __version__, "protocol": protocol.PROTOCOL_VERSION}
            self._push(protocol.encode_reply(request_id, protocol.RESULT, value))
            return None
        request = build(op, arguments, port=self, request_id=request_id, principal=self.principal)
        if isinstance(request, AddCredit):
            window = self._windows.get(request.subscription)
            if window is None:  # it ended while the credit was on its way
                return None
            window.add(request.messages)
            return self._grant(request.subscription, window)
        if isinstance(request, Cancel):
            return request if self._forget(request.target) else None
        if isinstance(request, Subscribe | Follow):
            if len(self._windows) >= protocol.MAX_SUBSCRIPTIONS:
                raise MeshdError("E_BUSY", f"A client may have {protocol.MAX_SUBSCRIPTIONS} subscriptions.")
            window = self._windows[request_id] = Window(request.credit)
            granted = attrs.evolve(request, credit=window.grant(_STREAM_BYTES - self._queued_bytes))
            return attrs.evolve(granted, room_bytes=_ROOM_BYTES) if isinstance(granted, Subscribe) else granted
        if len(self._unanswered) >= protocol.MAX_IN_FLIGHT:
            raise MeshdError("E_BUSY", f"A client may have {protocol.MAX_IN_FLIGHT} requests without an answer.")
        self._unanswered.add(request_id)
        return request

    def _forget(self, request_id: int) -> bool:
        """Whether the request was open. Later replies to it go nowhere."""
        if request_id in self._unanswered:
            self._unanswered.remove(request_id)
            return True
        self._read.pop(request_id, None)
        return self._windows.pop(request_id, None) is not None

    # --- out: what the client is sent -------------------------------------------------------

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        """Queue ``reply``; does nothing when the request was given up or the client is gone."""
        window = self._windows.get(request_id)
        if window is None and request_id not in self._unanswered:
            return
        if isinstance(reply, Item):
            self._push_item(request_id, reply.value, window)
            return
        self._forget(request_id)
        if isinstance(reply, Result):
            data = protocol.encode_reply(request_id, protocol.RESULT, reply.value)
            if len(data) > protocol.MAX_FRAME_BYTES:
                error = MeshdError("E_TOO_LARGE", f"The answer is over {protocol.MAX_FRAME_BYTES} bytes.")
                data = protocol.encode_error(request_id, error)
            self._push(data)
        else:
            self._push(protocol.encode_error(request_id, reply.error))

    def _push_item(self, request_id: int, value: Any, window: Window | None) -> None:
        data = protocol.encode_reply(request_id, protocol.ITEM, value)
        if len(data) > protocol.MAX_FRAME_BYTES and len(value) > 1:
            half = len(value) // 2
            self._push_item(request_id, value[:half], window)
            self._push_item(request_id, value[half:], window)
            return
        if window is not None:
            window.delivered(sum([_credit(element) for element in value]), len(data))
            self._mail[request_id] = self._mail.get(request_id, 0) + sum([_mail_bytes(element) for element in value])
        self._push(data)

    def refuse(self, error: MeshdError) -> None:
        """Queue the connection's last word."""
        self._push(protocol.encode_error(protocol.CONNECTION, error))

    def _push(self, data: bytes) -> None:
        if self._finished:
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > MAX_QUEUED_BYTES + sum(self._mail.values()) + sum(self._mail_on_its_way.values()):
            self.finish()
            self._queue.clear()
            self.overrun.cancel()
        self._writer.unpark()

    def finish(self) -> None:
        """Nothing more will be queued: the writer ends when all is sent."""
        self._finished = True
        self._writer.unpark()

    async def next_bytes(self) -> bytes:
        """Wait for replies and return all there are, encoded; empty at the end. For the writer alone."""
        while not self._queue and not self._finished:
            await self._writer.park()
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._mail_on_its_way, self._mail = self._mail, {}
        return data

    def written(self, size_bytes: int) -> list[Request]:
        """The client took so much: the credit that can be passed on now."""
        self._queued_bytes -= size_bytes
        for subscription in self._mail_on_its_way.keys() & self._windows.keys():
            self._read[subscription] = self._read.get(subscription, 0) + self._mail_on_its_way[subscription]
        self._mail_on_its_way.clear()
        granted = [self._grant(subscription, window) for subscription, window in self._windows.items()]
        return [request for request in granted if request is not None]

    def _grant(self, subscription: int, window: Window) -> Request | None:
        messages = window.grant(_STREAM_BYTES - self._queued_bytes)
        room_bytes = self._read.get(subscription, 0)
        if messages <= 0 and 2 * room_bytes < _ROOM_BYTES:  # by halves, not one by one
            return None
        self._read.pop(subscription, None)
        return AddCredit(
            port=self,
            id=0,
            principal=self.principal,
            subscription=subscription,
            messages=messages,
            room_bytes=room_bytes,
        )

    def disconnected(self) -> Request:
        """What to tell the node when the client is gone."""
        return Disconnected(port=self, id=0, principal=self.principal)


def _credit(element: Any) -> int:
    """What one element of a stream takes of the credit: a batch its messages, an event one."""
    return 1 if isinstance(element, dict) else int(element[2])


def _mail_bytes(element: Any) -> int:
    """What one element of a stream takes of the room."""
    return 0 if isinstance(element, dict) else len(element[10])
