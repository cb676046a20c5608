"""The async client on Trio and on asyncio, against a daemon in another thread."""

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import meshd.client
from meshd.client import Client
from meshd.errors import MeshdError
from meshd.node import requests
from tests.api.node import Node
from tests.client.served import Served, served

pytestmark = pytest.mark.parametrize("backend", ["trio", "asyncio"])

Body = Callable[[Client, Served], Awaitable[None]]


def with_client(body: Body, tmp_path: Path, backend: str) -> None:
    """Run ``body(client, daemon)`` on one event loop."""
    with served(tmp_path) as daemon:

        async def main() -> None:
            with anyio.fail_after(30):
                async with meshd.client.connect(daemon.path) as client:
                    await body(client, daemon)

        anyio.run(main, backend=backend)


async def aside(function: Callable[..., Any], *args: object) -> Any:
    """Run something of the daemon's without holding up the client."""
    return await anyio.to_thread.run_sync(function, *args)


def submits(node: Node) -> list[requests.Submit]:
    return [request for request in node.seen if isinstance(request, requests.Submit)]


def test_calls_and_their_errors(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        assert await client.status() == {"view": "status", "argument": None}
        assert (await client.version())["protocol"] == 1
        result = await client.send("pi", b"hello", wait="delivered")
        assert result.state == "delivered"
        assert await client.wait(result.id, "consumed") == "consumed"
        assert (await client.trace(result.id))["argument"] == result.id
        for thin in (client.peers, client.members, client.queue, client.routes):
            assert (await thin())["view"] == thin.__name__
        assert (await client.init("home"))["request"] == "InitMesh"
        assert (await client.invite())["request"] == "Invite"
        assert (await client.join("code"))["request"] == "Join"
        assert (await client.remove("pi"))["request"] == "Remove"
        assert (await client.ping("pi"))["request"] == "Echo"
        with pytest.raises(MeshdError) as caught:
            await client.send("nobody", b"")
        assert caught.value.code == "E_UNKNOWN_DEVICE"
        with pytest.raises(MeshdError) as caught:
            await client.send("pi", b"", headers={"a": "b" * 3000})
        assert caught.value.code in ("E_TOO_LARGE", "E_USAGE")

    with_client(body, tmp_path, backend)


def test_sends_of_one_moment_to_one_place_travel_together(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        results = {}

        async def one(number: int) -> None:
            results[number] = await client.send("pi", b"%d" % number, service="abc"[number % 3])

        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(one, number)
        sent = await aside(daemon.look, submits)
        assert len(sent) <= 30
        assert len({result.id for result in results.values()}) == 300
        for submit in sent:  # and everybody got the id of their own message
            ids = {results[int(message.payload)].id[:16] for message in submit.messages}
            assert len(ids) == 1
            assert {"abc"[int(message.payload) % 3] for message in submit.messages} == {submit.service}

    with_client(body, tmp_path, backend)


def test_sends_with_a_key_travel_alone(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(lambda number=number: client.send("pi", b"x", key=str(number)))
        sent = await aside(daemon.look, submits)
        assert sorted(submit.key or "" for submit in sent) == [str(number) for number in range(10)]

    with_client(body, tmp_path, backend)


def test_refused_request_fails_each_of_its_sends(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        codes = []

        async def one() -> None:
            with pytest.raises(MeshdError) as caught:
                await client.send("full", b"x")
            codes.append(caught.value.code)

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
        assert codes == ["E_FULL"] * 20
        assert (await client.send("pi", b"after")).state == "accepted"

    with_client(body, tmp_path, backend)


def test_cancelled_call_is_given_up(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async def ask_and_cancel(already: int, **how: Any) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(client.send, "slow", b"x", **how))
                await aside(daemon.until, lambda node: len(submits(node)) > already)
                tasks.cancel_scope.cancel()

        await ask_and_cancel(0, wait="consumed")
        await aside(daemon.until, lambda node: any(isinstance(r, requests.Cancel) for r in node.seen))
        await ask_and_cancel(1)  # of a group: nobody to tell, nothing breaks
        assert (await client.status())["view"] == "status"

    with_client(body, tmp_path, backend)


def test_more_calls_than_the_daemon_allows_wait_their_turn(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        done = []

        async def one(number: int) -> None:
            await client.send("pi", b"x", key=str(number))
            done.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(1500):
                tasks.start_soon(one, number)
        assert len(done) == 1500

    with_client(body, tmp_path, backend)


def test_publisher_keeps_order_and_batches(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.publisher("pi", "readings", priority="bulk") as publisher:
            for number in range(10_000):
                await publisher.send(b"%d" % number)
            await publisher.send(b"last", headers={"a": "b"}, reply_to="answers")
        sent = await aside(daemon.look, submits)
        payloads = [message.payload for submit in sent for message in submit.messages]
        assert payloads == [*(b"%d" % number for number in range(10_000)), b"last"]
        assert sent[-1].messages[-1].reply_to == "answers"
        assert len(sent) < 1000

    with_client(body, tmp_path, backend)


@pytest.mark.parametrize("limits", [{"window_messages": 10}, {"window_bytes": 10}])
def test_publisher_waits_at_its_window(tmp_path: Path, backend: str, limits: dict[str, int]) -> None:
    async def body(client: Client, daemon: Served) -> None:
        publisher = client.publisher("slow", **limits)
        sent = 0

        async def publish() -> None:
            nonlocal sent
            while True:
                await publisher.send(b"x")
                sent += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            while sent < 10:
                await anyio.sleep(0)
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        assert sent == 10

    with_client(body, tmp_path, backend)


def test_publisher_says_what_was_refused_and_can_go_on(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        publisher = client.publisher("full")
        await publisher.send(b"x")
        await publisher.send(b"y")
        with pytest.raises(MeshdError, match="2 messages") as caught:
            await publisher.flush()
        assert caught.value.code == "E_FULL"
        await publisher.flush()  # told once
        with pytest.raises(MeshdError) as caught:
            await publisher.send(bytes(2**20 + 1))
        assert caught.value.code == "E_TOO_LARGE"

    with_client(body, tmp_path, backend)


def test_messages_are_read_and_acknowledged(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.publisher("pi") as publisher:
            for number in range(3000):
                await publisher.send(b"%d" % number)
        got = []
        async with client.subscribe() as messages:
            async for message in messages:
                got.append((message.sequence, message.payload))
                messages.ack(message)
                if len(got) == 3000:
                    break
            await messages.flush()
            assert await aside(daemon.look, lambda node: node.acked["default"]) == set(range(3000))
        assert got == [(number, b"%d" % number) for number in range(3000)]
        acks = await aside(daemon.look, lambda node: [r for r in node.seen if isinstance(r, requests.Acknowledge)])
        assert len(acks) < 500

    with_client(body, tmp_path, backend)


def test_single_ack_is_durable_when_it_returns_and_a_reply_goes_back(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        await client.send("pi", b"question", reply_to="answers")
        async with client.subscribe() as messages:
            message = await messages.__anext__()
            await message.reply(b"answer")
            await message.ack()
            assert await aside(daemon.look, lambda node: node.acked["default"]) == {0}
        answer = (await aside(daemon.look, submits))[-1]
        assert (answer.destination, answer.service) == (message.source, "answers")
        assert answer.messages[0].payload == b"answer"
        async with client.subscribe("answers") as answers:
            with pytest.raises(MeshdError) as caught:
                await (await answers.__anext__()).reply(b"to whom")
            assert caught.value.code == "E_USAGE"

    with_client(body, tmp_path, backend)


def test_batches_are_read_whole(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.publisher("pi") as publisher:
            for _ in range(1000):
                await publisher.send(b"x")
        total = 0
        async with client.subscribe() as messages:
            async for batch in messages.batches():
                assert batch.payloads == [b"x"] * batch.count
                messages.ack(batch)
                total += batch.count
                if total == 1000:
                    break
        assert await aside(daemon.look, lambda node: node.acked["default"]) == set(range(1000))

    with_client(body, tmp_path, backend)


def test_nack_and_ack_up_to_reach_the_daemon(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.publisher("pi") as publisher:
            for _ in range(4):
                await publisher.send(b"x")
        async with client.subscribe() as messages:
            got = [await messages.__anext__() for _ in range(4)]
            messages.ack_up_to(got[1])
            got[3].nack()
            await messages.flush()
        acks = await aside(daemon.look, lambda node: [r for r in node.seen if isinstance(r, requests.Acknowledge)])
        assert {2: 1} in [ack.up_to for ack in acks]
        assert {2: ((3, 3),)} in [ack.nack for ack in acks]

    with_client(body, tmp_path, backend)


def test_leaving_by_an_exception_hands_over_acks_and_raises_it_bare(tmp_path: Path, backend: str) -> None:
    class Oops(Exception):
        pass

    async def body(client: Client, daemon: Served) -> None:
        await client.send("pi", b"1")

        async def leave() -> None:
            async with client.subscribe() as messages:
                messages.ack(await messages.__anext__())
                raise Oops

        with pytest.raises(Oops):
            await leave()
        await aside(daemon.until, lambda node: not node.subscriptions)
        assert await aside(daemon.look, lambda node: node.acked["default"]) == {0}
        with pytest.raises(Oops):
            async with meshd.client.connect(daemon.path):
                raise Oops

    with_client(body, tmp_path, backend)


def test_app_that_is_slow_is_not_sent_more_than_its_credit(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        for _ in range(50):
            await client.send("pi", b"x", key="k")
        async with client.subscribe(credit=8) as messages:
            await messages.__anext__()
            await client.status()
            (position,) = await aside(daemon.look, lambda node: [at for _, at in node.subscriptions.values()])
            assert position <= 9
            for _ in range(49):
                await messages.__anext__()

    with_client(body, tmp_path, backend)


def test_leased_service_says_so(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.subscribe():
            await aside(daemon.until, lambda node: node.subscriptions)
            async with client.subscribe() as second:
                with pytest.raises(MeshdError) as caught:
                    await second.__anext__()
                assert caught.value.code == "E_LEASED"

    with_client(body, tmp_path, backend)


def test_lost_daemon_fails_everybody_once(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        failures: dict[str, MeshdError] = {}

        async def failing(name: str, act: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(MeshdError) as caught:
                await act()
            failures[name] = caught.value

        publisher = client.publisher("slow")
        await publisher.send(b"x")
        async with client.subscribe("empty") as messages, anyio.create_task_group() as tasks:
            tasks.start_soon(failing, "send", lambda: client.send("slow", b"x"))
            tasks.start_soon(failing, "keyed", lambda: client.send("slow", b"x", key="k"))
            tasks.start_soon(failing, "read", messages.__anext__)
            tasks.start_soon(failing, "flush", publisher.flush)
            await aside(daemon.until, lambda node: len(submits(node)) == 3)
            await aside(daemon.stop)
        await failing("after", client.status)
        await failing("send after", lambda: client.send("pi", b"x"))
        await failing("publish after", lambda: publisher.send(b"x"))
        assert {error.code for error in failures.values()} == {"E_NO_DAEMON"}
        for unknown in ("send", "keyed", "flush"):
            assert "unknown" in failures[unknown].message
            assert "same key" in failures[unknown].hint
        assert "unknown" not in failures["send after"].message

    with_client(body, tmp_path, backend)


def test_no_daemon(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        with pytest.raises(MeshdError) as caught:
            async with meshd.client.connect(str(tmp_path / "none")):
                raise AssertionError("connected")
        assert caught.value.code == "E_NO_DAEMON"

    anyio.run(main, backend=backend)


def test_something_else_on_the_socket(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        async with await anyio.create_unix_listener(tmp_path / "s") as listener, anyio.create_task_group() as tasks:

            async def serve() -> None:
                async with await listener.accept() as stream:
                    await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            tasks.start_soon(serve)
            with pytest.raises(MeshdError) as caught:
                async with meshd.client.connect(str(tmp_path / "s")):
                    raise AssertionError("connected")
            assert caught.value.code == "E_UNSUPPORTED"

    anyio.run(main, backend=backend)
