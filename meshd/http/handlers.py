"""What is done for each operation of the table."""

import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import trio

from meshd.api.server import Inbox
from meshd.delivery.mailbox import RUN_BITS
from meshd.errors import MeshdError
from meshd.http.answers import Answer, document, failure, text
from meshd.http.calls import ANSWER_S, Call, ask
from meshd.http.exchange import Exchange
from meshd.http.leases import Leases, Name, Resume
from meshd.http.openapi import description
from meshd.http.position import format_position, parse_position
from meshd.http.sending import Send, read_acknowledgement, read_json, read_send

READY_S = 2.0
DOCTOR_S = 30.0
"""Examinations take up to 8 s, and wait for each other."""

HEARTBEAT_S = 15.0
"""Of streams: a comment, so that proxies keep them open and a client that is gone shows."""

_QUIET_S = 0.3
"""A mailbox that hands out nothing for this long is taken for empty: what waits may be on disk."""

_RETRY_MS = 1000
_EVENTS_AHEAD = 500
_MESSAGES_AHEAD = 256
_ANSWER_BYTES = 1024 * 1024
"""Of payload in one answer; a larger message comes alone."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What handlers work with.

    Args:
        name_of: whose token a text is. run: which life of the daemon this is, as ``delivery.mailbox`` counts them.
    """

    inbox: Inbox
    leases: Leases
    name_of: Callable[[str], str | None]
    rng: random.Random
    run: int


Handler = Callable[[Surroundings, Exchange], Awaitable[Answer | None]]
"""Answers, or None when it has streamed."""


# --- looking


async def healthz(_around: Surroundings, _exchange: Exchange) -> Answer:
    """The process turns its loop: nothing more is asked."""
    return document({"status": "ok"})


async def readyz(around: Surroundings, exchange: Exchange) -> Answer:
    """The node answers in time."""
    try:
        await ask(around.inbox, exchange.principal, "status", timeout_s=READY_S)
    except MeshdError as error:
        return failure(error, status=503)
    return document({"status": "ok"})


async def openapi(_around: Surroundings, _exchange: Exchange) -> Answer:
    """The description of all this."""
    return document(description())


async def metrics(around: Surroundings, exchange: Exchange) -> Answer:
    """OpenMetrics."""
    told = await ask(around.inbox, exchange.principal, "metrics")
    return text(told["text"], told["content_type"])


def _view(op: str, *names: str, timeout_s: float = ANSWER_S) -> Handler:
    async def view(around: Surroundings, exchange: Exchange) -> Answer:
        arguments = {name: exchange.arguments[name] for name in names}
        return document(await ask(around.inbox, exchange.principal, op, arguments, timeout_s))

    return view


async def follow(around: Surroundings, exchange: Exchange) -> None:
    """Events of the mesh, until the client goes."""
    call = Call(around.inbox, exchange.principal)
    try:
        arguments = {"last": exchange.arguments["last"], "follow": True, "credit": _EVENTS_AHEAD}
        request_id = await call.start("events", arguments)
        await exchange.begin_stream()
        await exchange.feed(f"retry: {_RETRY_MS}\n\n".encode())
        while True:
            news = call.news
            events = [event for told in call.items(request_id) for event in told]
            if events:
                await exchange.feed(b"".join([_event(event) for event in events]))
                await call.start("credit", {"subscription": request_id, "messages": len(events)})
            else:
                await _until(news, exchange)
    finally:
        await call.close()


def _event(data: Any, position: str | None = None) -> bytes:
    """One server-sent event (HTML Living Standard section 9.2)."""
    head = "" if position is None else f"id: {position}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def _until(news: trio.Event, exchange: Exchange) -> None:
    with trio.move_on_after(HEARTBEAT_S) as waiting:
        await news.wait()
    if waiting.cancelled_caught:
        await exchange.feed(b": still here\n\n")


# --- sending


async def send(around: Surroundings, exchange: Exchange) -> Answer:
    """Send, and wait for the state that was asked for."""
    wanted = read_send(read_json(exchange.body), exchange.headers.get("idempotency-key"))
    state = wanted.arguments.get("wait", "accepted")
    if state == "accepted" or wanted.arguments.get("ephemeral"):
        return _sent(await ask(around.inbox, exchange.principal, "send", wanted.arguments), 200)
    return await _send_and_wait(around, exchange, wanted)


async def _send_and_wait(around: Surroundings, exchange: Exchange, wanted: Send) -> Answer:
    """What is not there in time is told by its ids: asked for under the same key, they are not sent again."""
    key = wanted.arguments["key"] or f"http-{around.rng.getrandbits(128):032x}"
    arguments = wanted.arguments | {"key": key}
    call = Call(around.inbox, exchange.principal)
    try:
        request_id = await call.start("send", arguments)
        try:
            answer = await call.answer(request_id, wanted.timeout_s)
        except MeshdError as error:
            if error.code != "E_TIMEOUT":
                raise
            answer = await call.ask("send", arguments | {"wait": "accepted"}, ANSWER_S)
    finally:
        await call.close()
    return _sent(answer, 200 if answer["state"] == arguments["wait"] else 202)


def _sent(answer: dict[str, Any], status: int) -> Answer:
    return document({"id": answer["ids"][0], **answer}, status=status)


# --- receiving


def _name(exchange: Exchange, consumer: str) -> Name:
    return Name(exchange.principal, exchange.arguments["service"], consumer)


def _position(around: Surroundings, text: str) -> dict[int, int]:
    """A place that a client says it has read up to. Raises MeshdError(E_USAGE).

    One that no life of this daemon has reached is from a state that is gone, or from another device. What comes up to
    there would be taken for read, and nobody has read it.
    """
    position = parse_position(text)
    if any(offset >> RUN_BITS > around.run for offset in position.values()):
        message = f"{text[:80]!r} is no position in the mailboxes that this device has now."
        raise MeshdError(
            "E_USAGE", message, "Start over with an empty position: what was not acknowledged comes again."
        )
    return position


async def receive(around: Surroundings, exchange: Exchange) -> Answer:
    """Messages that are here, or the first that comes."""
    wanted = exchange.arguments
    resume = Resume(_position(around, wanted["ack"] or ""), again=wanted["ack"] is not None)
    async with around.leases.reading(_name(exchange, wanted["consumer"]), resume, wanted["lease_s"]) as lease:
        await lease.gather(wanted["max"], max(_QUIET_S, wanted["wait_s"]))
        exchange.check()
        shown = lease.show(wanted["max"], _ANSWER_BYTES)
        messages = [message.document for message in shown]
        return document({"messages": messages, "position": format_position(lease.reader.position)})


async def stream(around: Surroundings, exchange: Exchange) -> None:
    """Messages as they come, until the client goes."""
    wanted = exchange.arguments
    position = wanted["ack"] if wanted["ack"] is not None else exchange.headers.get("last-event-id", "")
    resume = Resume(_position(around, position), again=True)
    async with around.leases.reading(_name(exchange, wanted["consumer"]), resume, wanted["lease_s"]) as lease:
        await exchange.begin_stream()
        await exchange.feed(f"retry: {_RETRY_MS}\n\n".encode())
        told = position
        while True:
            news = lease.call.news
            await lease.collect()
            await lease.want(_MESSAGES_AHEAD)
            exchange.check()
            chunk: list[bytes] = []
            size_bytes = 0
            while size_bytes < _ANSWER_BYTES and (shown := lease.show(1, _ANSWER_BYTES)):
                told = format_position(lease.reader.position)
                chunk.append(_event(shown[0].document, told))
                size_bytes += len(chunk[-1])
            if chunk:
                await exchange.feed(b"".join(chunk))
            elif (now := format_position(lease.reader.position)) != told:
                told = now  # something was given back: acknowledging by the last id must not cover it
                await exchange.feed(f"id: {told}\n\n".encode())
            else:
                await _until(news, exchange)


async def acknowledge(around: Surroundings, exchange: Exchange) -> Answer:
    """Messages that are done, and messages that are to come again."""
    wanted = read_acknowledgement(read_json(exchange.body))
    lease = around.leases.find(_name(exchange, wanted.consumer))
    reader = lease.reader
    returned = reader.named(wanted.nack)
    done = reader.up_to(parse_position(wanted.position)) | reader.named(wanted.ids)
    done = {name: place for name, place in done.items() if name not in returned}
    unknown = [name for name in (*wanted.ids, *wanted.nack) if name not in done and name not in returned]
    if done or returned:
        await lease.acknowledge(done, returned)
    await around.leases.rest(lease)
    return document({"acknowledged": len(done), "returned": len(returned), "unknown": unknown})


HANDLERS: Mapping[str, Handler] = {
    "healthz": healthz,
    "readyz": readyz,
    "openapi": openapi,
    "metrics": metrics,
    **{name: _view(name) for name in ("status", "peers", "routes", "members", "queue", "graph", "relays", "alerts")},
    "doctor": _view("doctor", timeout_s=DOCTOR_S),
    "trace": _view("trace", "id"),
    "why": _view("why", "peer"),
    "events": _view("events", "last"),
    "follow": follow,
    "send": send,
    "receive": receive,
    "stream": stream,
    "acknowledge": acknowledge,
}
"""By the name of the operation."""
