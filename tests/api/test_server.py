"""The server over real sockets: what a client can do to it, and what it does for a client."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from meshd.api import protocol
from meshd.api.server import post_last
from meshd.errors import MeshdError
from meshd.node import requests
from tests.api.node import Node, daemon


class Raw:
    """A client by hand: bytes out, decoded frames in."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.splitter = protocol.FrameSplitter()
        self.frames: list[bytes] = []
        self.last_id = 0

    async def frame(self) -> bytes | None:
        """The next frame; None at the end."""
        while not self.frames:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self.frames += self.splitter.feed(bytes(data))
        return self.frames.pop(0)

    async def reply(self) -> protocol.Reply:
        """The next reply."""
        with trio.fail_after(10):
            frame = await self.frame()
        assert frame is not None, "the daemon closed"
        return protocol.decode_reply(frame)

    async def ask(self, op: str, **arguments: Any) -> int:
        """Send a request; returns its id."""
        self.last_id += 1
        await self.stream.send_all(protocol.encode_request(self.last_id, op, arguments))
        return self.last_id

    async def closed(self) -> bool:
        """Whether nothing more comes."""
        with trio.fail_after(10):
            return await self.frame() is None


@contextlib.asynccontextmanager
async def raw(path: str, hello: bytes | None = None) -> AsyncIterator[Raw]:
    """A client by hand that has exchanged hellos."""
    async with await trio.open_unix_socket(path) as stream:
        client = Raw(stream)
        await stream.send_all(protocol.encode_hello("test") if hello is None else hello)
        frame = await client.frame()
        assert frame is not None
        assert protocol.decode_hello(frame).protocol == protocol.PROTOCOL_VERSION
        yield client


def with_daemon(body: Callable[[Node, Any, str], Awaitable[None]], tmp_path: Path, **options: int) -> None:
    """Run ``body(node, server, path)`` against a daemon."""

    async def main() -> None:
        with trio.fail_after(60):
            async with daemon(tmp_path, **options) as (node, server, path):
                await body(node, server, path)

    trio.run(main)


async def works(path: str) -> bool:
    """Whether a fresh client is served."""
    async with raw(path) as client:
        await client.ask("status")
        return (await client.reply())[1] == protocol.RESULT


def test_principal_is_what_the_kernel_says(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            await client.ask("status")
            await client.reply()
        assert node.seen[0].principal == f"uid:{os.getuid()}"

    with_daemon(body, tmp_path)


def test_version_is_answered_without_the_node(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            await client.ask("version")
            assert await client.reply() == (1, protocol.RESULT, {"version": "0.1.0", "protocol": 1})
        assert not any(isinstance(request, requests.Query) for request in node.seen)

    with_daemon(body, tmp_path)


def test_other_version_is_told_both(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path, hello=protocol.frame(["meshd-api", 2, "9.9"])) as client:
            request_id, kind, error = await client.reply()
            assert (request_id, kind, error.code) == (protocol.CONNECTION, protocol.ERROR, "E_UNSUPPORTED")
            assert "9.9" in error.message
            assert "0.1.0" in error.message
            assert await client.closed()

    with_daemon(body, tmp_path)


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    protocol.frame("no hello"),
    protocol.encode_hello("x") + b"\xff\xff\xff\xff",
    protocol.encode_hello("x") + b"\x00\x00\x00\x01\xff",
    protocol.encode_hello("x") + protocol.frame([0, "status", {}]),
    protocol.encode_hello("x") + protocol.frame([1, "status"]),
    protocol.encode_hello("x") + protocol.frame([1, [], {}]),
    protocol.encode_hello("x") + protocol.frame([1, "send", {"destination": "slow", "messages": [b""]}]) * 2,
    protocol.encode_hello("x") + protocol.frame([1, "subscribe", {"service": "s"}]) + protocol.frame([1, "status", {}]),
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_malformed_bytes_end_that_connection_only(tmp_path: Path, garbage: bytes) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as innocent:
            async with raw(path, hello=garbage) as client:
                request_id, kind, error = await client.reply()
                assert (request_id, kind, error.code) == (protocol.CONNECTION, protocol.ERROR, "E_USAGE")
                assert await client.closed()
            await innocent.ask("status")
            assert (await innocent.reply())[1] == protocol.RESULT

    with_daemon(body, tmp_path)


@pytest.mark.parametrize("sent", [0, 3])
def test_who_does_not_say_hello_is_told_and_closed_and_asks_nothing(tmp_path: Path, sent: int) -> None:
    """Also who says it byte by byte, so that something always comes."""

    async def main() -> None:
        async with daemon(tmp_path) as (node, _, path), raw(path, hello=b"") as client:
            start = trio.current_time()
            for byte in protocol.encode_hello("test")[:sent]:
                await trio.sleep(3)
                await client.stream.send_all(bytes([byte]))
            frame = await client.frame()
            assert frame is not None
            request_id, kind, error = protocol.decode_reply(frame)
            assert (request_id, kind, error.code) == (protocol.CONNECTION, protocol.ERROR, "E_USAGE")
            assert "no hello" in error.message
            assert await client.closed()
            assert 10 <= trio.current_time() - start < 12
            assert not [request for request in node.seen if not isinstance(request, requests.Disconnected)]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_has_said_hello_may_be_silent_for_long(tmp_path: Path) -> None:
    async def main() -> None:
        async with daemon(tmp_path) as (_, _, path), raw(path) as client:
            await trio.sleep(3600)
            await client.ask("status")
            assert (await client.reply())[1] == protocol.RESULT

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_request_in_place_of_the_hello_is_not_carried_out(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path, hello=protocol.encode_request(1, "send", {"destination": "pi", "messages": [b""]})) as it:
            assert (await it.reply())[2].code == "E_USAGE"
            assert await it.closed()
        assert node.bundles == 0

    with_daemon(body, tmp_path)


def test_wrong_arguments_end_nothing(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            for op, arguments, code in (
                ("status", {"x": 1}, "E_USAGE"),
                ("version", {"x": 1}, "E_USAGE"),
                ("frobnicate", {}, "E_UNSUPPORTED"),
                ("send", {"destination": "pi", "messages": [bytes(2**20 + 1)]}, "E_TOO_LARGE"),
            ):
                request_id = await client.ask(op, **arguments)
                reply = await client.reply()
                assert (reply[0], reply[1], reply[2].code) == (request_id, protocol.ERROR, code)
            await client.ask("status")
            assert (await client.reply())[1] == protocol.RESULT

    with_daemon(body, tmp_path)


def test_requests_that_came_before_garbage_are_answered(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            good = protocol.encode_request(1, "version", {})
            await client.stream.send_all(good + b"\xff\xff\xff\xff")
            assert (await client.reply())[:2] == (1, protocol.RESULT)
            assert (await client.reply())[0] == protocol.CONNECTION

    with_daemon(body, tmp_path)


def test_disconnect_reaches_the_node_and_frees_the_lease(tmp_path: Path) -> None:
    async def body(node: Node, server: Any, path: str) -> None:
        async with raw(path) as first, raw(path) as second:
            await first.ask("subscribe", credit=1)
            await node.until(lambda node: node.subscriptions)
            await second.ask("subscribe", credit=1)
            assert (await second.reply())[2].code == "E_LEASED"
            await first.stream.aclose()
            await node.until(lambda node: not node.subscriptions)
            await second.ask("subscribe", credit=1)
            await node.until(lambda node: node.subscriptions)
        await node.until(lambda node: sum(isinstance(r, requests.Disconnected) for r in node.seen) == 2)
        while server.clients:
            await trio.lowlevel.checkpoint()

    with_daemon(body, tmp_path)


def test_lease_of_a_client_that_closes_is_free_before_its_last_words_are_out(tmp_path: Path) -> None:
    async def body(node: Node, server: Any, path: str) -> None:
        async with raw(path) as first, raw(path) as second:
            await first.ask("subscribe", credit=1)
            await first.ask("send", destination="slow", messages=[b""])
            await node.until(lambda node: any(isinstance(r, requests.Submit) for r in node.seen))
            unread = next(r for r in node.seen if isinstance(r, requests.Submit))
            unread.port.reply_nowait(unread.id, requests.Result(bytes(2**20)))  # more than the socket holds
            await first.stream.send_eof()
            await node.until(lambda node: not node.subscriptions)
            assert server.clients == 2
            await second.ask("subscribe", credit=1)
            await node.until(lambda node: node.subscriptions)
        await node.until(lambda node: sum(isinstance(r, requests.Disconnected) for r in node.seen) == 2)

    with_daemon(body, tmp_path)


def test_cancelled_request_gets_no_answer(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            target = await client.ask("send", destination="slow", messages=[b""])
            await client.ask("cancel", target=target)
            await client.ask("cancel", target=99)  # unknown: nothing happens
            await node.until(lambda node: any(isinstance(r, requests.Cancel) for r in node.seen))
            late = next(r for r in node.seen if isinstance(r, requests.Submit))
            late.port.reply_nowait(late.id, requests.Result("too late"))
            status = await client.ask("status")
            assert (await client.reply())[0] == status
            assert sum(isinstance(r, requests.Cancel) for r in node.seen) == 1

    with_daemon(body, tmp_path)


def test_requests_beyond_the_limits_are_busy(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            many = [
                protocol.encode_request(n + 1, "send", {"destination": "slow", "messages": [b""]})
                for n in range(protocol.MAX_IN_FLIGHT + 1)
            ]
            await client.stream.send_all(b"".join(many))
            request_id, _, error = await client.reply()
            assert (request_id, error.code) == (protocol.MAX_IN_FLIGHT + 1, "E_BUSY")
            client.last_id = 5000
            for n in range(protocol.MAX_SUBSCRIPTIONS):
                await client.ask("subscribe", service=f"s{n}")
            extra = await client.ask("subscribe", service="extra")
            request_id, _, error = await client.reply()
            assert (request_id, error.code) == (extra, "E_BUSY")

    with_daemon(body, tmp_path)


def test_clients_beyond_the_limit_are_told(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path), raw(path) as two:
            async with raw(path) as three:
                request_id, _, error = await three.reply()
                assert (request_id, error.code) == (protocol.CONNECTION, "E_BUSY")
                assert await three.closed()
            await two.stream.aclose()
            with trio.fail_after(10):
                while server.clients > 1:  # type: ignore[attr-defined]
                    await trio.sleep(0.01)
            assert await works(path)

    with_daemon(body, tmp_path, max_clients=2)


def test_fifty_clients_at_once(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async def client(number: int) -> None:
            async with raw(path) as mine:
                for _ in range(20):
                    await mine.ask("send", destination="pi", service=f"s{number}", messages=[b"%d" % number] * 5)
                ids = [await mine.reply() for _ in range(20)]
                assert [reply[0] for reply in ids] == list(range(1, 21))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(client, number)
        assert node.offsets == {f"s{n}": 100 for n in range(50)}

    with_daemon(body, tmp_path)


def test_client_that_reads_gets_large_messages_whatever_its_credit(tmp_path: Path) -> None:
    """40 MiB wait, and the reader is ready for all of it: the queue's bound must not close it."""

    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as sender, raw(path) as reader:
            for _ in range(40):
                await sender.ask("send", destination="pi", messages=[bytes(2**20)])
                await sender.reply()
            subscription = await reader.ask("subscribe", credit=10_000)
            offsets = []
            while len(offsets) < 40:
                request_id, kind, batches = await reader.reply()
                assert (request_id, kind) == (subscription, protocol.ITEM)
                offsets += [batch[1] for batch in batches]
            assert offsets == list(range(40))

    with_daemon(body, tmp_path)


def test_client_that_does_not_read_is_closed_and_others_are_not(tmp_path: Path) -> None:
    async def body(node: Node, server: Any, path: str) -> None:
        async with raw(path) as lazy, raw(path) as other:
            target = await lazy.ask("send", destination="slow", messages=[b""])
            await node.until(lambda node: node.seen)
            port = node.seen[0].port
            for _ in range(20):
                port.reply_nowait(target, requests.Item(bytes(2**20)))
            await node.until(lambda node: any(isinstance(r, requests.Disconnected) for r in node.seen))
            assert server.clients == 1
            port.reply_nowait(target, requests.Item(b"gone"))  # does nothing
            await other.ask("status")
            assert (await other.reply())[1] == protocol.RESULT

    with_daemon(body, tmp_path)


def test_items_over_the_frame_limit_are_split_and_results_are_errors(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        async with raw(path) as client:
            target = await client.ask("send", destination="slow", messages=[b""])
            await node.until(lambda node: node.seen)
            port = node.seen[0].port
            port.reply_nowait(target, requests.Item([bytes(2**20), bytes(2**20), b"end"]))
            assert [len(item) for item in [(await client.reply())[2] for _ in range(2)]] == [1, 2]
            port.reply_nowait(target, requests.Result(bytes(3 * 2**20)))
            assert (await client.reply())[2].code == "E_TOO_LARGE"

    with_daemon(body, tmp_path)


def test_full_inbox_holds_the_client_back_and_loses_nothing(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        node.gate = trio.Event()
        async with raw(path) as client:
            asked = [protocol.encode_request(n, "status", {}) for n in range(1, 601)]  # the inbox takes 256
            await client.stream.send_all(b"".join(asked))
            with trio.move_on_after(0.05):
                await client.reply()
                raise AssertionError("the gate is shut")
            node.gate.set()
            assert [(await client.reply())[0] for _ in range(600)] == list(range(1, 601))

    with_daemon(body, tmp_path)


def test_stopping_removes_the_socket_and_closes_clients(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with daemon(tmp_path) as (_, _, path):
                client = await stack.enter_async_context(raw(path))
            assert await client.closed()
            assert not os.path.exists(path)

    trio.run(main)


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    async def body(node: Node, server: object, path: str) -> None:
        with pytest.RaisesGroup(MeshdError, flatten_subgroups=True) as caught:
            async with daemon(tmp_path):
                raise AssertionError("it started")
        assert "E_RUNNING" in [error.code for error in caught.value.exceptions if isinstance(error, MeshdError)]
        assert await works(path)

    with_daemon(body, tmp_path)


class FullInbox:
    """A node that does not come to its inbox until ``opened``."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.told: list[requests.Request] = []

    def send_nowait(self, value: requests.Request, /) -> None:
        raise trio.WouldBlock

    async def send(self, value: requests.Request, /) -> None:
        await self.opened.wait()
        self.told.append(value)


def test_a_node_that_is_busy_for_long_still_hears_that_a_client_is_gone() -> None:
    """Else it would keep the client's leases until it is started again."""

    async def main() -> None:
        inbox = FullInbox()
        gone = requests.Disconnected(port=Node(), id=0, principal="uid:1")  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post_last, inbox, gone)
            await trio.sleep(60)
            inbox.opened.set()
        assert inbox.told == [gone]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_daemon_that_stops_waits_a_second_for_the_node_to_hear_it() -> None:
    async def main() -> float:
        gone = requests.Disconnected(port=Node(), id=0, principal="uid:1")  # type: ignore[arg-type]
        with trio.move_on_after(10) as stopping:
            await post_last(FullInbox(), gone)
        assert stopping.cancelled_caught
        return trio.current_time()

    assert 11 <= trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) < 12
