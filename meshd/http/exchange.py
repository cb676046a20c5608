"""One request and its answer: what a handler is given, and how the answer is sent."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio
from starlette.types import Receive, Scope, Send

from meshd.errors import MeshdError
from meshd.http.answers import Answer, fitted

MAX_BODY_BYTES = 2 * 1024 * 1024
_DRAIN_BYTES = 16 * 1024 * 1024
"""Of a body that is too large, before the answer: a client that still sends would not read it."""

BODY_S = 30.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


@attrs.define(eq=False, kw_only=True)
class Exchange:
    """A request that was admitted, with its arguments checked. ``headers`` have lower-case names.

    Args:
        principal: who asks. arguments: of path and query. body: the whole.
        check: raises MeshdError(E_TOKEN) when the token has been revoked since. Called before mail is handed out
            that was waited for.
    """

    principal: str
    arguments: dict[str, Any]
    headers: Mapping[str, str]
    body: bytes
    send: Send
    check: Callable[[], object]
    is_streaming: bool = False

    async def begin_stream(self) -> None:
        """From now on, events."""
        self.is_streaming = True
        await self.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})

    async def feed(self, data: bytes) -> None:
        """More of the stream."""
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self) -> None:
        """Nothing more comes."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request.

    Raises MeshdError: E_TOO_LARGE, E_TIMEOUT, E_USAGE when it was cut off. Read to its end in any case,
    within limits, so that the client gets to see the answer.
    """
    chunks: list[bytes] = []
    size_bytes = 0
    with trio.move_on_after(BODY_S) as scope:
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise MeshdError("E_USAGE", "The request was cut off.")
            chunk = message.get("body", b"")
            size_bytes += len(chunk)
            if size_bytes <= MAX_BODY_BYTES:
                chunks.append(chunk)
            if not message.get("more_body", False) or size_bytes > _DRAIN_BYTES:
                break
    if scope.cancelled_caught:
        raise MeshdError("E_TIMEOUT", f"The body did not come within {BODY_S:g} s.", "Send it faster.")
    if size_bytes > MAX_BODY_BYTES:
        raise MeshdError("E_TOO_LARGE", f"The body is over {MAX_BODY_BYTES} bytes.", "Send it in pieces.")
    return b"".join(chunks)


async def while_connected(work: Callable[[], Awaitable[None]], receive: Receive) -> None:
    """Do the work; give it up when the client goes."""
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await work()
        nursery.cancel_scope.cancel()


async def send_answer(answer: Answer, scope: Scope, send: Send, headers: Mapping[str, str]) -> None:
    """Send a whole answer, as the client of a GET wants it."""
    if scope["method"] in ("GET", "HEAD"):
        answer = fitted(answer, headers)
    fields = answer.headers if answer.status == 304 else answer.headers | {"content-length": str(len(answer.body))}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": answer.body})
