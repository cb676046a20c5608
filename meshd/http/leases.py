"""The consumers that HTTP clients read as: each keeps its lease between two requests, for a while.

HTTP has no connection that a lease could end with. So the lease ends when no request has used it for as long
as the client asked for; then the node takes what was shown and not acknowledged as not worked off.
"""

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import NoReturn

import attrs
import trio

from meshd.api.arguments import MAX_ACK_RANGES
from meshd.api.pacing import Window
from meshd.api.server import Inbox
from meshd.errors import MeshdError
from meshd.http.calls import Call
from meshd.http.position import Place
from meshd.http.reader import Reader, Shown, spans
from meshd.logs import get_logger

MAX_LEASES = 64
_ROOM_BYTES = 2 * 1024 * 1024
"""Read ahead for one consumer; a batch may exceed it."""

_HANDOVER_S = 1.0
"""How long a request waits for the last one to let go."""

_MORE_S = 0.01
"""After the last message, for one more to come: the node hands out several times, and some from disk."""

_log = get_logger("meshd.http")


@attrs.frozen
class Name:
    """Who reads what under which name."""

    principal: str
    service: str
    consumer: str


@attrs.frozen
class Resume:
    """Where a request goes on.

    Args:
        position: the client has read up to here, and is done with it.
        again: what it has not acknowledged is to be shown again now, not when the lease ends.
    """

    position: dict[int, int]
    again: bool


@attrs.define(eq=False)
class Lease:
    """A live subscription of the node's, and its books.

    Args:
        idle_s: how long it outlives the last request that used it.
    """

    name: Name
    call: Call
    reader: Reader
    subscription: int = 0
    idle_s: float = 0.0
    window: Window = attrs.field(factory=lambda: Window(0))
    promised: int = 0
    """Messages asked for and not handed out yet; below zero when a batch brought more."""
    is_read: bool = True
    """A request is reading now."""
    ends_at: float = math.inf
    """Trio time; while nobody reads."""

    async def gather(self, messages: int, first_s: float) -> None:
        """Wait for so many: ``first_s`` for the first, then as long as more keep coming.

        Raises MeshdError when the lease has been lost.
        """
        await self.collect()
        while self.reader.waiting < messages and self.reader.waiting_bytes < _ROOM_BYTES // 2:
            news = self.call.news
            await self.want(messages)
            with trio.move_on_after(_MORE_S if self.reader.waiting else first_s) as waiting:
                await news.wait()
            if waiting.cancelled_caught:
                return
            await self.collect()

    async def want(self, messages: int) -> None:
        """Ask the node for so many, less what waits or is on its way."""
        missing = messages - self.reader.waiting - self.promised
        if missing > 0:
            self.window.add(missing)
            self.promised += missing
        granted = self.window.grant(_ROOM_BYTES - self.reader.waiting_bytes)
        if granted > 0:
            await self.call.start("credit", {"subscription": self.subscription, "messages": granted})

    async def collect(self) -> None:
        """Enter what the node has handed out. Raises MeshdError when the lease has been lost."""
        for batches in self.call.items(self.subscription):
            messages, size_bytes, known = self.reader.take(batches)
            self.promised -= messages
            self.window.delivered(messages, size_bytes)
            await self._acknowledge(known, [])

    async def acknowledge(self, done: dict[str, Place], returned: dict[str, Place]) -> None:
        """Tell the node; returns when it is on disk. Raises MeshdError."""
        self.reader.gave_back(returned)  # before: positions told meanwhile must not cover it
        await self._acknowledge(done.values(), returned.values())
        self.reader.acknowledged(done)

    async def _acknowledge(self, done: Iterable[Place], returned: Iterable[Place]) -> None:
        ranges, nack = spans(done), spans(returned)
        while ranges or nack:
            now, ranges = ranges[:MAX_ACK_RANGES], ranges[MAX_ACK_RANGES:]
            back, nack = nack[:MAX_ACK_RANGES], nack[MAX_ACK_RANGES:]
            await self.call.ask("ack", {"subscription": self.subscription, "ranges": now, "nack": back})

    def show(self, messages: int, size_bytes: int) -> list[Shown]:
        """What is here, as :meth:`Reader.show`."""
        return self.reader.show(messages, size_bytes)


class Leases:
    """All leases of the gateway. :meth:`run` ends those that nobody uses."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._leases: dict[Name, Lease] = {}
        self._changed = trio.Event()

    async def run(self) -> NoReturn:
        """End leases when they have been idle for long enough."""
        while True:
            with trio.move_on_at(min((lease.ends_at for lease in self._leases.values()), default=math.inf)):
                await self._changed.wait()
            now = trio.current_time()
            for lease in list(self._leases.values()):
                if lease.ends_at > now:  # or has been taken up again while another one ended
                    continue
                _log.info("lease_ended", service=lease.name.service, consumer=lease.name.consumer)
                await self._end(lease)

    def _tell(self) -> None:
        """Somebody has stopped reading."""
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def reading(self, name: Name, resume: Resume, idle_s: float) -> AsyncIterator[Lease]:
        """The lease of a consumer, kept or new, for one request to read.

        Raises MeshdError: E_LEASED when another client, or another request, reads. What the node refuses
        within the context ends the lease.
        """
        lease = await self._free(name)
        if lease is not None:
            lease = await self._resumed(lease, resume)
        if lease is None:
            lease = await self._subscribe(name, Reader(name.service, resume.position))
        lease.is_read, lease.ends_at, lease.idle_s = True, math.inf, idle_s
        try:
            yield lease
        except MeshdError:
            await self._end(lease)
            raise
        finally:
            lease.is_read = False
            await self.rest(lease)

    async def rest(self, lease: Lease) -> None:
        """Nobody reads now. The lease stays while the client has something in hand, but not for ever."""
        if lease.is_read or self._leases.get(lease.name) is not lease:
            return
        lease.ends_at = trio.current_time() + lease.idle_s
        if lease.reader.is_spent or not lease.idle_s:
            await self._end(lease)
        self._tell()

    async def _free(self, name: Name) -> Lease | None:
        """The lease, if there is one, when no other request reads. A client that connects again is often faster
        than the news that its last connection is gone.
        """
        with trio.move_on_after(_HANDOVER_S):
            while (lease := self._leases.get(name)) is not None and lease.is_read:
                await self._changed.wait()
        lease = self._leases.get(name)
        if lease is not None and lease.is_read:
            raise MeshdError("E_LEASED", f"Another request is reading {name.service} as {name.consumer}.")
        return lease

    async def _resumed(self, lease: Lease, resume: Resume) -> Lease | None:
        """A lease as the client left it; a new one when it wants again what it has not acknowledged."""
        lease.is_read = True
        try:
            await lease.collect()
            await lease.acknowledge(lease.reader.up_to(resume.position), {})
        except BaseException:
            await self._end(lease)
            raise
        if not (resume.again and lease.reader.has_unacked):
            return lease
        # Kept on the node's disk, not here: a new subscription gets it from there.
        await self._end(lease, lost=not resume.position)
        return await self._subscribe(lease.name, Reader(lease.name.service, resume.position, lease.reader.returned))

    async def _subscribe(self, name: Name, reader: Reader) -> Lease:
        if len(self._leases) >= MAX_LEASES:
            raise MeshdError("E_BUSY", f"{MAX_LEASES} consumers are being read over HTTP.")
        if name in self._leases:  # of another request, while this one waited
            raise MeshdError("E_LEASED", f"Another request is reading {name.service} as {name.consumer}.")
        call = Call(self._inbox, name.principal)
        arguments = {"service": name.service, "consumer": name.consumer}
        lease = self._leases[name] = Lease(name, call, reader)
        try:
            lease.subscription = await call.start("subscribe", arguments)
            # Only a refusal is answered. Requests are answered in order: it is here before the answer to a next one.
            await call.ask("events", {"last": 0})
            await lease.collect()
        except BaseException:
            await self._end(lease, lost=False)
            raise
        return lease

    def find(self, name: Name) -> Lease:
        """The lease of a consumer. Raises MeshdError(E_NO_LEASE)."""
        lease = self._leases.get(name)
        if lease is None:
            raise MeshdError("E_NO_LEASE", f"Nobody is reading {name.service} as {name.consumer}.")
        return lease

    async def _end(self, lease: Lease, *, lost: bool = True) -> None:
        """``lost``: the client vanished, and what it worked on counts as an attempt that failed."""
        self._leases.pop(lease.name, None)
        try:
            if lease.subscription and not (lost and lease.reader.has_unacked):
                await lease.call.start("cancel", {"target": lease.subscription})
        finally:
            await lease.call.close()
