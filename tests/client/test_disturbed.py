"""The async client when something goes wrong: apps that are cancelled or ask nonsense, a daemon that is gone."""

import contextlib
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import Listener, SocketStream

import meshd.client
from meshd.api.protocol import MAX_IN_FLIGHT, encode_hello
from meshd.client import Client
from meshd.errors import MeshdError
from meshd.node import requests
from tests.client.served import Served, served
from tests.client.test_asynchronous import aside, submits, with_client

pytestmark = pytest.mark.parametrize("backend", ["trio", "asyncio"])


async def lose(daemon: Served, client: Client) -> None:
    """End the daemon, and wait until the client knows it."""
    await aside(daemon.stop)
    with pytest.raises(MeshdError):
        await client.status()


def test_subscription_that_is_left_before_its_turn_leases_nothing(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async with client.subscribe("alarms"):
            pass
        await client.status()
        assert not await aside(daemon.look, lambda node: [r for r in node.seen if isinstance(r, requests.Subscribe)])
        await client.send("pi", b"1", service="alarms")
        async with client.subscribe("alarms") as messages:
            assert (await messages.__anext__()).payload == b"1"

    with_client(body, tmp_path, backend)


@pytest.mark.parametrize("way", ["ack", "nack", "ack_up_to"])
def test_acks_that_come_after_the_daemon_was_lost_end_in_an_error(tmp_path: Path, backend: str, way: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        await client.send("pi", b"1")

        async def read() -> None:
            async with client.subscribe() as messages:
                message = await messages.__anext__()
                await lose(daemon, client)
                for _ in range(2):
                    with contextlib.suppress(MeshdError):
                        getattr(messages, way)(message)
                    with pytest.raises(MeshdError):
                        await messages.flush()

        with anyio.fail_after(10), pytest.raises(MeshdError) as caught:
            await read()
        assert caught.value.code == "E_NO_DAEMON"

    with_client(body, tmp_path, backend)


def test_what_had_not_left_when_the_daemon_was_lost_is_told_so_and_so_is_what_is_sent_then(
    tmp_path: Path, backend: str
) -> None:
    codes: list[str] = []

    async def failing(act: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(MeshdError) as caught:
            await act()
        codes.append(caught.value.code)

    async def body(client: Client, daemon: SocketStream) -> None:
        publisher = client.publisher("pi")
        async with client.subscribe() as messages, anyio.create_task_group() as tasks:

            async def read_and_tell() -> None:
                await failing(messages.__anext__)
                await failing(lambda: client.send("pi", b"y"))  # perhaps before the one below has heard of it

            tasks.start_soon(read_and_tell)
            tasks.start_soon(failing, lambda: client.send("slow", bytes(2**20)))
            await daemon.receive(1)
            await anyio.sleep(0.05)  # nothing more fits into the socket
            tasks.start_soon(failing, lambda: client.send("pi", b"x"))
            await publisher.send(b"x")
            await anyio.sleep(0.05)
            await daemon.aclose()
        await failing(publisher.flush)
        await failing(lambda: publisher.send(b"y"))
        await publisher.flush()  # nothing was queued

    async def main() -> None:
        accepted: list[SocketStream] = []

        async def serve(listener: Listener[SocketStream]) -> None:
            accepted.append(await listener.accept())
            await accepted[0].send(encode_hello("1.0"))

        with anyio.fail_after(10):
            async with await anyio.create_unix_listener(tmp_path / "s") as listener, anyio.create_task_group() as tasks:
                tasks.start_soon(serve, listener)
                async with meshd.client.connect(str(tmp_path / "s")) as client:
                    await body(client, accepted[0])

    anyio.run(main, backend=backend)
    assert codes == ["E_NO_DAEMON"] * 6


def test_publisher_that_is_cancelled_has_not_queued_the_message(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        queued = 0
        async with client.publisher("pi") as publisher:
            with anyio.CancelScope() as scope:
                scope.cancel()
                while True:
                    await publisher.send(b"x")
                    queued += 1
        assert queued == sum([len(submit.messages) for submit in await aside(daemon.look, submits)])

    with_client(body, tmp_path, backend)


NONSENSE = [
    {"destination": object()},
    {"service": "\udc80"},
    {"service": "x" * 3_000_000},
    {"lifetime": 1e20},
    {"key": object()},
    {"key": "k", "lifetime": 1e20},
    {"headers": {"a": "\udc80"}},
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_fails_its_own_request_alone(tmp_path: Path, backend: str, nonsense: dict[str, object]) -> None:
    async def body(client: Client, daemon: Served) -> None:
        codes: list[str] = []

        async def failing(act: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(MeshdError) as caught:
                await act()
            codes.append(caught.value.code)

        async def published() -> None:
            async with client.publisher(**place) as publisher:
                await publisher.send(b"x", headers=headers)

        async def read() -> None:
            async with client.subscribe(place.get("service", object())) as messages:
                await messages.__anext__()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(failing, lambda: client.send(payload=b"x", **{"destination": "pi", **nonsense}))
            if "key" not in nonsense:
                place = {"destination": "pi", **nonsense}
                headers = place.pop("headers", None)
                tasks.start_soon(failing, published)
                tasks.start_soon(failing, read)
            assert (await client.send("pi", b"good")).state == "accepted"
        assert set(codes) <= {"E_USAGE", "E_TOO_LARGE"}
        assert [message.payload for submit in await aside(daemon.look, submits) for message in submit.messages] == [
            b"good"
        ]

    with_client(body, tmp_path, backend)


def test_sends_that_wait_to_be_read_keep_nobody_from_reading(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        await client.send("pi", b"1")
        async with anyio.create_task_group() as tasks:
            for _ in range(MAX_IN_FLIGHT + 100):
                tasks.start_soon(lambda: client.send("slow", b"x", wait="consumed"))
            with anyio.fail_after(10):
                async with client.subscribe() as messages:
                    await (await messages.__anext__()).ack()
                assert (await client.send("pi", b"2")).state == "accepted"
            tasks.cancel_scope.cancel()

    with_client(body, tmp_path, backend)


def test_sends_that_had_to_wait_for_others_go_on_when_these_are_given_up(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as later, anyio.create_task_group() as tasks:
                for _ in range(MAX_IN_FLIGHT):
                    tasks.start_soon(lambda: client.send("slow", b"x", wait="consumed"))
                await client.status()
                later.start_soon(lambda: client.send("pi", b"later", wait="delivered"))
                await client.status()
                assert "pi" not in [submit.destination for submit in await aside(daemon.look, submits)]
                tasks.cancel_scope.cancel()
        assert (await aside(daemon.look, submits))[-1].destination == "pi"

    with_client(body, tmp_path, backend)


@pytest.mark.parametrize("is_leaving", [False, True])
def test_cancelled_with_its_client_a_reader_still_hands_over_its_acks(
    tmp_path: Path, backend: str, is_leaving: bool
) -> None:
    async def main(daemon: Served) -> None:
        with anyio.CancelScope() as scope:
            async with meshd.client.connect(daemon.path) as client:
                for _ in range(2):
                    await client.send("pi", b"x")
                async with client.subscribe() as messages:
                    first, second = await messages.__anext__(), await messages.__anext__()
                    await aside(daemon.look, lambda node: setattr(node, "gate", type(node.gate)()))
                    messages.ack(first)
                    await anyio.sleep(0.05)
                    messages.ack(second)  # while the first ack is under way
                    await aside(daemon.look, lambda node: node.gate.set())
                    scope.cancel()
                    if not is_leaving:
                        await messages.__anext__()

    with served(tmp_path) as daemon:
        anyio.run(main, daemon, backend=backend)
        daemon.until(lambda node: not node.subscriptions)
        assert daemon.look(lambda node: node.acked["default"]) == {0, 1}


@pytest.mark.parametrize("lifetime", [float("nan"), float("inf")])
def test_lifetime_that_is_no_number_of_seconds_is_named(tmp_path: Path, backend: str, lifetime: float) -> None:
    async def body(client: Client, daemon: Served) -> None:
        with pytest.raises(MeshdError) as caught:
            await client.send("pi", b"", lifetime=lifetime)
        assert caught.value.code == "E_USAGE"
        assert repr(lifetime) in caught.value.message

    with_client(body, tmp_path, backend)


def test_subscription_that_is_read_outside_its_block_says_so(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        with anyio.fail_after(10), pytest.raises(MeshdError) as caught:
            await anext(client.subscribe())
        assert caught.value.code == "E_USAGE"
        assert "async with" in caught.value.hint

    with_client(body, tmp_path, backend)


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_end_of_the_program_passes_a_client_as_it_is(tmp_path: Path, backend: str, end: BaseException) -> None:
    async def main(daemon: Served) -> None:
        async def ending() -> None:
            async with meshd.client.connect(daemon.path) as client, client.subscribe():
                await client.status()
                raise end

        # Caught in here: how a backend passes on what its main task raises is its own affair.
        with pytest.raises(type(end)) as caught:
            await ending()
        assert caught.value is end

    with served(tmp_path) as daemon:
        anyio.run(main, daemon, backend=backend)


def test_error_that_is_raised_again_does_not_grow(tmp_path: Path, backend: str) -> None:
    async def body(client: Client, daemon: Served) -> None:
        async def depth(act: Callable[[], Awaitable[object]]) -> int:
            with pytest.raises(MeshdError) as caught:
                await act()
            return len(list(traceback.walk_tb(caught.tb)))

        async with contextlib.AsyncExitStack() as left:
            messages = await left.enter_async_context(client.subscribe())
            publisher = client.publisher("pi")
            await lose(daemon, client)
            for act in (client.status, lambda: client.send("pi", b""), messages.__anext__, lambda: publisher.send(b"")):
                assert len({await depth(act) for _ in range(3)}) == 1

    with_client(body, tmp_path, backend)
