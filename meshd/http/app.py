"""The ASGI application: admits a request, finds its handler, and turns what comes of it into an answer."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import attrs
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from meshd.errors import MeshdError
from meshd.http.answers import Answer, failure
from meshd.http.exchange import Exchange, read_body, send_answer, while_connected
from meshd.http.guard import Caller, admit
from meshd.http.handlers import HANDLERS, Handler, Surroundings
from meshd.http.operations import OPERATIONS, Operation
from meshd.logs import get_logger

CALLER = "meshd.caller"
"""Where in a scope's state the connection says who calls."""

_JSON = "application/json"
_log = get_logger("meshd.http")


def application(around: Surroundings) -> ASGIApp:
    """Everything of the table, behind one door."""
    routes: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        routes.setdefault(operation.path, {})[operation.method] = operation
    doors = [Route(path, _Door(around, of_path)) for path, of_path in routes.items()]
    return Router(doors, default=_nowhere, redirect_slashes=False)


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """No such path."""
    error = MeshdError("E_UNSUPPORTED", "There is nothing at this path.", "What there is: /openapi.json")
    await _drain(receive)
    await send_answer(failure(error), scope, send, {})


async def _drain(receive: Receive) -> None:
    """Let the client finish sending, so that it reads the answer."""
    with suppress(MeshdError):
        await read_body(receive)


class _Door:
    """One path. Starlette calls it as an ASGI application."""

    def __init__(self, around: Surroundings, operations: Mapping[str, Operation]) -> None:
        self._around = around
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        operation = self._operation(scope["method"])
        if operation is None:
            await _drain(receive)
            await send_answer(self._wrong_method(scope["method"]), scope, send, headers)
            return
        exchange: Exchange | None = None
        try:
            body = await read_body(receive)
            exchange = self._admit(operation, scope, headers, body, send)
            answer = await self._answer(operation, exchange, receive)
        except MeshdError as error:
            if exchange is not None and exchange.is_streaming:
                await exchange.feed(b"event: error\ndata: " + failure(error).body + b"\n")
                await exchange.end_stream()
                return
            answer = failure(error)
        except Exception:  # the boundary of one request: a defect costs that one alone
            _log.exception("request_failed", path=scope["path"])
            if exchange is not None and exchange.is_streaming:
                return  # the connection is closed in the middle of the answer, which shows
            answer = failure(MeshdError("E_INTERNAL", "The request failed by a defect in meshd."))
        if answer is not None:
            await send_answer(answer, scope, send, headers)

    def _operation(self, method: str) -> Operation | None:
        operation = self._operations.get("GET" if method == "HEAD" else method)
        # What waits, and what hands out messages, must not be done for an answer without a body.
        return None if method == "HEAD" and operation is not None and operation.waits else operation

    def _wrong_method(self, method: str) -> Answer:
        allowed = ", ".join(self._operations)
        error = MeshdError("E_UNSUPPORTED", f"This path takes no {method[:20]}.", f"It takes {allowed}.")
        answer = failure(error, status=405)
        return attrs.evolve(answer, headers=answer.headers | {"allow": allowed})

    def _admit(
        self, operation: Operation, scope: Scope, headers: Mapping[str, str], body: bytes, send: Send
    ) -> Exchange:
        caller = scope["state"][CALLER]
        assert isinstance(caller, Caller)
        check = partial(admit, caller, headers, safe=operation.safe, name_of=self._around.name_of)
        principal = check()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if operation.body is not None and kind != _JSON:
            raise MeshdError("E_USAGE", f"The body must be {_JSON}.", f"Say so: Content-Type: {_JSON}")
        request = Request(scope)
        arguments = operation.arguments(request.path_params, request.query_params)
        return Exchange(principal=principal, arguments=arguments, headers=headers, body=body, send=send, check=check)

    async def _answer(self, operation: Operation, exchange: Exchange, receive: Receive) -> Answer | None:
        """None when it was streamed, or nobody is there to read it. Raises MeshdError."""
        handler: Handler = HANDLERS[operation.name]
        if not operation.waits:
            return await handler(self._around, exchange)
        outcome: list[Answer | MeshdError | None] = []

        async def work() -> None:
            try:
                outcome.append(await handler(self._around, exchange))
            except MeshdError as error:  # taken out of the nursery by hand: it would come as a group
                outcome.append(error)

        await while_connected(work, receive)
        [result] = outcome or [None]
        if isinstance(result, MeshdError):
            raise result
        return result


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name; values of a repeated one are joined (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
