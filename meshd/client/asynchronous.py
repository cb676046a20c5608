"""The async client: ``connect`` and what can be asked of a daemon."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc

from meshd.client.connection import Connection
from meshd.client.sending import Call, Publisher, Together, plain_message
from meshd.client.session import SendResult, lifetime_in_ms
from meshd.client.sockets import candidates, explain
from meshd.client.subscription import Subscription
from meshd.errors import MeshdError


class Client:
    """A connection to the daemon of this device, for many tasks at once. Made by :func:`connect`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._together: dict[tuple[object, ...], Together] = {}

    async def call(self, op: str, args: dict[str, Any] | None = None) -> Any:
        """Ask one thing of the daemon; the answer is plain data. Raises MeshdError."""
        return await Call(self._connection, op, args or {}).answer()

    async def send(
        self,
        destination: str,
        payload: bytes,
        *,
        service: str = "default",
        priority: str = "normal",
        lifetime: float | None = None,
        ephemeral: bool = False,
        wait: str = "accepted",
        key: str | None = None,
        headers: dict[str, str] | None = None,
        reply_to: str | None = None,
    ) -> SendResult:
        """Send one message and return when it has reached the state ``wait``.

        What many tasks send to one place in one moment travels as one request.

        Args:
            destination: a device's name, id, or unambiguous start of its id.
            payload: up to 1 MiB.
            priority: critical, high, normal or bulk.
            lifetime: seconds; None for the daemon's default.
            ephemeral: now or never, kept on no disk: ``sent`` is all that can be known, whatever ``wait`` and ``key``.
            wait: accepted (on disk here), sent, delivered or consumed.
            key: makes a repeated send harmless: it gets the first one's id, once that has reached ``wait``.
            headers: small text values for the receiver.
            reply_to: the service on this device that answers should go to.

        Raises:
            MeshdError: why it was refused. ``E_NO_DAEMON`` when the connection ended before the
                answer: whether it was accepted is unknown, and repeating with the same key is safe.

        Cancelled: the message may be sent or not.
        """
        message = plain_message(payload, headers, reply_to)
        arguments = _place(destination, service, priority, lifetime, ephemeral)
        arguments["wait"] = wait
        if key is not None or wait != "accepted":
            # These are answered for each message: one that takes long must not hold back the others.
            answer = await self.call("send", {**arguments, "messages": [message], "key": key})
            return SendResult(answer["ids"][0], answer["state"])
        place = tuple(arguments.values())
        together = self._together.get(place)
        if together is None:
            together = self._together[place] = Together(self._connection, arguments)
        try:
            return await together.send(message)
        finally:
            if together.idle and self._together.get(place) is together:
                del self._together[place]

    def publisher(
        self,
        destination: str,
        service: str = "default",
        *,
        priority: str = "normal",
        lifetime: float | None = None,
        ephemeral: bool = False,
        wait: str = "accepted",
        window_messages: int = 4096,
        window_bytes: int = 8 * 1024 * 1024,
    ) -> Publisher:
        """Send many messages to one place without waiting for each; at most a window is unanswered.

            async with client.publisher("kitchen-pi", "readings") as publisher:
                for reading in readings:
                    await publisher.send(reading)

        Leaving the block waits until all have reached the state ``wait``, and raises if any can't.
        """
        return Publisher(
            self._connection,
            {**_place(destination, service, priority, lifetime, ephemeral), "wait": wait},
            window_messages=window_messages,
            window_bytes=window_bytes,
        )

    def subscribe(self, service: str = "default", consumer: str = "default", *, credit: int = 4096) -> Subscription:
        """Read a service as a durable named consumer, ``credit`` messages ahead of the app at most.

            async with client.subscribe("alarms") as messages:
                async for message in messages:
                    handle(message.payload)
                    messages.ack(message)

        What is not acknowledged is delivered again, to the next who reads with the same name.
        """
        return Subscription(self._connection, service, consumer, credit)

    async def wait(self, message_id: str, state: str = "delivered") -> str:
        """Return the state of a message once it has reached ``state``. Raises MeshdError when it can't."""
        return str((await self.call("await", {"id": message_id, "state": state}))["state"])

    async def init(self, name: str) -> Any:
        """Found a mesh with this device as its admin."""
        return await self.call("init", {"name": name})

    async def invite(self, *, expires_s: int = 600, role: str = "member") -> Any:
        """Make a single-use code for another device."""
        return await self.call("invite", {"expires_s": expires_s, "role": role})

    async def join(self, code: str, name: str | None = None) -> Any:
        """Enter a mesh with a code."""
        return await self.call("join", {"code": code, "name": name})

    async def remove(self, device: str) -> Any:
        """Revoke a device for ever."""
        return await self.call("remove", {"device": device})

    async def ping(self, destination: str, *, count: int = 1, timeout_s: float = 5.0) -> Any:
        """Measure round trips through the mesh."""
        return await self.call("ping", {"destination": destination, "count": count, "timeout_s": timeout_s})

    async def trace(self, message_id: str) -> Any:
        """The life of one message."""
        return await self.call("trace", {"id": message_id})

    async def status(self) -> Any:
        """This device at a glance."""
        return await self.call("status")

    async def peers(self) -> Any:
        """Who is linked, and how well."""
        return await self.call("peers")

    async def members(self) -> Any:
        """The roster."""
        return await self.call("members")

    async def queue(self) -> Any:
        """What waits, for whom, and why."""
        return await self.call("queue")

    async def routes(self) -> Any:
        """The routing table."""
        return await self.call("routes")

    async def version(self) -> Any:
        """The daemon's version, and its protocol's."""
        return await self.call("version")


def _place(destination: str, service: str, priority: str, lifetime: float | None, ephemeral: bool) -> dict[str, Any]:
    return {
        "destination": destination,
        "service": service,
        "priority": priority,
        "lifetime_ms": lifetime_in_ms(lifetime),
        "ephemeral": ephemeral,
    }


@contextlib.asynccontextmanager
async def connect(socket: str | None = None) -> AsyncIterator[Client]:
    """Connect to the daemon; works under Trio and asyncio.

    Args:
        socket: path of its socket; None to look where ``meshctl`` looks.

    Raises MeshdError: ``E_NO_DAEMON`` naming what was tried, ``E_PERMISSION``, ``E_BUSY``, ``E_UNSUPPORTED`` for a
    daemon of another protocol version. A daemon lost later fails every call with ``E_NO_DAEMON``.
    """
    stream = await _open(socket)
    connection = Connection(stream)
    failure: Exception | SystemExit | KeyboardInterrupt | None = None
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        try:
            await connection.greeted.wait()
            if connection.failure is not None:
                raise connection.failure
            yield Client(connection)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            failure = error  # raised below: in a group of one no caller, nor the interpreter, would know it
        finally:
            await connection.close(MeshdError("E_NO_DAEMON", "This client is closed."))
    if failure is not None:
        raise failure


async def _open(explicit: str | None) -> anyio.abc.SocketStream:
    tried = candidates(explicit, os.environ)
    errors: list[OSError] = []
    for path in tried:
        try:
            return await anyio.connect_unix(path)
        except OSError as error:
            errors.append(error)
    raise explain(tried, errors)
