"""An HTTP request's way to the node and back: the same requests as the native API's, one port for each."""

from collections import deque
from typing import Any

import trio

from meshd.api.handlers import build
from meshd.api.server import Inbox, post_last
from meshd.errors import MeshdError
from meshd.node.requests import Disconnected, Failure, Item, Reply, Request, Result

ANSWER_S = 10.0
"""How long the node may take for what waits for nobody else."""


class Call:
    """A port of its own for one client's requests. The node only calls ``reply_nowait``."""

    def __init__(self, inbox: Inbox, principal: str) -> None:
        self._inbox = inbox
        self.principal = principal
        self._answers: dict[int, Result | Failure] = {}
        self._asked = 0
        self._is_known = False
        self._items: deque[Any] = deque()
        self._changed = trio.Event()

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        """Keep the reply for whoever waits for it."""
        if isinstance(reply, Item):
            self._items.append(reply.value)
        else:
            self._answers[request_id] = reply
        self._changed.set()
        self._changed = trio.Event()

    async def start(self, op: str, arguments: dict[str, Any]) -> int:
        """Post a request; return its id. Raises MeshdError when the arguments are wrong."""
        self._asked += 1
        request = build(op, arguments, port=self, request_id=self._asked, principal=self.principal)
        await post(self._inbox, request)
        self._is_known = True
        return self._asked

    async def answer(self, request_id: int, timeout_s: float = ANSWER_S) -> Any:
        """Wait for a request's answer. Raises MeshdError: the node's, or E_TIMEOUT."""
        with trio.move_on_after(timeout_s):
            while request_id not in self._answers:
                await self._changed.wait()
        if request_id not in self._answers:
            raise MeshdError("E_TIMEOUT", f"No answer within {timeout_s:g} s.", "Ask again, with more time.")
        return self._take(request_id)

    async def ask(self, op: str, arguments: dict[str, Any], timeout_s: float = ANSWER_S) -> Any:
        """Post a request and wait for its answer. Raises MeshdError."""
        return await self.answer(await self.start(op, arguments), timeout_s)

    def _take(self, request_id: int) -> Any:
        reply = self._answers.pop(request_id)
        if isinstance(reply, Failure):
            raise reply.error
        return reply.value

    def items(self, request_id: int) -> list[Any]:
        """What the stream has brought since the last call. Raises MeshdError once it has failed."""
        if request_id in self._answers and not self._items:
            self._take(request_id)
            raise MeshdError("E_STOPPING", "The stream has ended.")
        items = list(self._items)
        self._items.clear()
        return items

    @property
    def news(self) -> trio.Event:
        """Set at the next reply of any kind. To be taken before looking at what has come, waited for after that."""
        return self._changed

    async def close(self) -> None:
        """Nobody waits any more: the node forgets what this port had open. Cancelled, it still tries for a second."""
        if not self._is_known:
            return
        try:
            await post_last(self._inbox, Disconnected(port=self, id=0, principal=self.principal))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the node stopped first, and holds nothing for anybody any more


async def post(inbox: Inbox, request: Request) -> None:
    """Put a request into the node's inbox; waits while that is full."""
    try:
        inbox.send_nowait(request)
    except trio.WouldBlock:
        await inbox.send(request)


async def ask(
    inbox: Inbox, principal: str, op: str, arguments: dict[str, Any] | None = None, timeout_s: float = ANSWER_S
) -> Any:
    """One request and its answer, over a port of its own. Raises MeshdError. Cancelled, the node is told."""
    call = Call(inbox, principal)
    request_id = await call.start(op, arguments or {})
    answered = False
    try:
        answer = await call.answer(request_id, timeout_s)
        answered = True
        return answer
    except MeshdError as error:
        answered = error.code != "E_TIMEOUT"
        raise
    finally:
        if not answered:
            await call.close()
