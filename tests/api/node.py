"""A node small enough to read at once: it answers requests from memory, the way the real one does."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from meshd.api.listener import SocketSettings
from meshd.api.server import Server
from meshd.errors import MeshdError
from meshd.ids import BundleRef, NodeId, Priority, format_message_id
from meshd.node import requests
from meshd.node.requests import Failure, Item, Request, Result
from meshd.wire.bundle import encode_messages

SOURCE = NodeId(b"s" * 16)


class Mail:
    """One stored batch of a service."""

    def __init__(self, first_offset: int, ref: BundleRef, request: requests.Submit) -> None:
        self.first_offset = first_offset
        self.count = len(request.messages)
        self.ref = ref
        self.priority = request.priority
        self.encoded = encode_messages(request.messages)
        self.handed_out = False

    def plain(self) -> list[object]:
        """The batch as an Item carries it."""
        return [int(self.priority), self.first_offset, self.count, self.ref, SOURCE, "sender", 1500,
                self.handed_out, False, None, self.encoded]  # fmt: skip


class Node:
    """Keeps mail per service and delivers it to subscriptions within their credit.

    The device ``nobody`` is unknown, ``slow`` never answers, ``full`` has no room.
    """

    def __init__(self) -> None:
        self.seen: list[Request] = []
        self.mail: dict[str, list[Mail]] = {}
        self.offsets: dict[str, int] = {}
        self.acked: dict[str, set[int]] = {}
        self.subscriptions: dict[tuple[int, int], tuple[requests.Subscribe, int]] = {}
        self.credit: dict[tuple[int, int], int] = {}
        self.room: dict[tuple[int, int], int] = {}
        self.bundles = 0
        self.gate = trio.Event()
        self.gate.set()
        self.moved = trio.Condition()
        self.inbox_send, self.inbox = trio.open_memory_channel[Request](256)

    async def run(self) -> None:
        """Answer for ever."""
        async for request in self.inbox:
            await self.gate.wait()
            self.seen.append(request)
            self.step(request)
            async with self.moved:
                self.moved.notify_all()

    async def until(self, condition) -> None:  # type: ignore[no-untyped-def]
        """Wait until ``condition(self)`` holds, checked after every request."""
        with trio.fail_after(10):
            async with self.moved:
                while not condition(self):
                    await self.moved.wait()

    def step(self, request: Request) -> None:
        """Answer one request."""
        match request:
            case requests.Submit():
                self.submit(request)
            case requests.Subscribe():
                self.subscribe(request)
            case requests.AddCredit():
                self.credit[id(request.port), request.subscription] += request.messages
                self.room[id(request.port), request.subscription] += request.room_bytes
                self.deliver()
            case requests.Acknowledge():
                self.acknowledge(request)
            case requests.Cancel():
                self.subscriptions.pop((id(request.port), request.target), None)
            case requests.Disconnected():
                for key in [key for key in self.subscriptions if key[0] == id(request.port)]:
                    del self.subscriptions[key]
            case requests.Query():
                self.answer(request, {"view": request.view, "argument": request.argument})
            case requests.Await():
                self.answer(request, {"id": format_message_id(request.ref, request.index), "state": request.state})
            case _:
                self.answer(request, {"request": type(request).__name__})

    def answer(self, request: Request, value: object) -> None:
        """The final answer."""
        request.port.reply_nowait(request.id, Result(value))

    def submit(self, request: requests.Submit) -> None:
        """Keep the messages, and say so."""
        if request.destination == "slow":
            return
        codes = {"nobody": "E_UNKNOWN_DEVICE", "full": "E_FULL"}
        if request.destination in codes:
            error = MeshdError(codes[request.destination], f"{request.destination}: no.")
            request.port.reply_nowait(request.id, Failure(error))
            return
        self.bundles += 1
        ref = BundleRef(self.bundles.to_bytes(10, "big"))
        offset = self.offsets.get(request.service, 0)
        self.offsets[request.service] = offset + len(request.messages)
        self.mail.setdefault(request.service, []).append(Mail(offset, ref, request))
        ids = [format_message_id(ref, index) for index in range(len(request.messages))]
        self.answer(request, {"ids": ids, "state": request.wait})
        self.deliver()

    def subscribe(self, request: requests.Subscribe) -> None:
        """Start delivering; one reader per service and consumer."""
        taken = {(other.service, other.consumer) for other, _ in self.subscriptions.values()}
        if (request.service, request.consumer) in taken:
            error = MeshdError("E_LEASED", "Somebody else reads with this name.")
            request.port.reply_nowait(request.id, Failure(error))
            return
        self.subscriptions[id(request.port), request.id] = (request, 0)
        self.credit[id(request.port), request.id] = request.credit
        self.room[id(request.port), request.id] = request.room_bytes
        self.deliver()

    def deliver(self) -> None:
        """Whole batches while there is credit."""
        for key, (request, position) in self.subscriptions.items():
            waiting = self.mail.get(request.service, [])
            acked = self.acked.get(request.service, set())
            while position < len(waiting) and self.credit[key] > 0 and self.room[key] > 0:
                mail = waiting[position]
                position += 1
                if acked.issuperset(range(mail.first_offset, mail.first_offset + mail.count)):
                    continue
                self.credit[key] -= mail.count
                self.room[key] -= len(mail.encoded)
                request.port.reply_nowait(request.id, Item([mail.plain()]))
                mail.handed_out = True
            self.subscriptions[key] = (request, position)

    def acknowledge(self, request: requests.Acknowledge) -> None:
        """Note what is done."""
        subscription = self.subscriptions.get((id(request.port), request.subscription))
        if subscription is None:
            error = MeshdError("E_USAGE", "ack: no such subscription.")
            request.port.reply_nowait(request.id, Failure(error))
            return
        acked = self.acked.setdefault(subscription[0].service, set())
        for spans in request.ranges.values():
            for first, last in spans:
                acked.update(range(first, last + 1))
        for last in request.up_to.values():
            acked.update(range(last + 1))
        self.answer(request, {})


@contextlib.asynccontextmanager
async def daemon(directory: Path, **options: int) -> AsyncIterator[tuple[Node, Server, str]]:
    """A node behind a real socket in ``directory``."""
    node = Node()
    server = Server(node.inbox_send, **options)
    settings = SocketSettings(str(directory / "meshd.sock"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        path = await nursery.start(server.serve, settings)
        yield node, server, path
        nursery.cancel_scope.cancel()


def normal(offset: int) -> tuple[Priority, int]:
    """A place in the mailbox at normal priority."""
    return Priority.NORMAL, offset
