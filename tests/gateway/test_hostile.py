"""What a client can do to the gateway by mistake or on purpose, byte by byte. It answers others all the while."""

import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshd.api.listener import SocketSettings
from meshd.http.connection import Limits
from meshd.http.gateway import Gateway
from meshd.http.handlers import Surroundings
from meshd.http.leases import Leases
from meshd.kinds import Endpoint
from tests.api.node import Node
from tests.gateway.daemon import NAME, Daemon, daemon

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ENOUGH_S = 20.0


def exchange(path: Path, data: bytes) -> bytes:
    """Send these bytes; everything that comes back until the daemon closes, or has answered once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ENOUGH_S)
        client.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65536):
                answer += chunk
        return answer


MALFORMED = [
    b"\x00" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
    b"hello\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n",
    POST + b"Transfer-Encoding: gzip\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 100\r\n\r\n{}",  # and then nothing
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" + b"\x81\xff" * 20,
    b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil.example/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    GET * 50 + b"nonsense\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_request_costs_that_connection_alone(running: Daemon, data: bytes) -> None:
    answer = exchange(running.http_socket, data)
    assert b" 500 " not in answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert exchange(running.http_socket, GET).startswith(b"HTTP/1.1 200 ")


def test_no_defect_was_logged_for_any_of_that(running: Daemon) -> None:
    for data in MALFORMED:
        exchange(running.http_socket, data)
    running.process.poll()
    with running.native() as native:
        native.call("status")
    assert running.process.stdout is not None
    os.set_blocking(running.process.stdout.fileno(), False)
    log = running.process.stdout.read() or b""
    os.set_blocking(running.process.stdout.fileno(), True)
    assert b"failed" not in log
    assert b"Traceback" not in log


def test_a_huge_head_is_refused_with_431(running: Daemon) -> None:
    huge = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Pad: " + b"x" * 100_000 + b"\r\n\r\n"
    assert exchange(running.http_socket, huge).startswith(b"HTTP/1.1 431 ")
    many = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"
    assert exchange(running.http_socket, many).startswith(b"HTTP/1.1 431 ")
    line = b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchange(running.http_socket, line).startswith(b"HTTP/1.1 431 ")


def test_a_daemon_stops_in_time_whatever_its_clients_do(root: Path) -> None:
    with daemon(root) as started, contextlib.ExitStack() as closing:
        with started.over_unix() as client:
            for _ in range(6):
                body = {"destination": NAME, "service": "big", "payload": "x" * 1_000_000, "wait": "delivered"}
                assert client.post("/v1/send", json=body).status_code == 200

        def connect(data: bytes) -> None:
            one = closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            one.connect(str(started.http_socket))
            one.sendall(data)

        connect(b"")
        connect(b"GET /healthz HT")
        connect(POST + b"Content-Length: 1000\r\n\r\n{")
        connect(b"GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connect(b"GET /v1/receive/empty?wait_s=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(4):  # does not read what it asked for
            connect(b"GET /v1/receive/big/stream HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET)
        with started.over_unix() as client:
            assert client.get("/readyz").status_code == 200
        assert started.stop() == 0


# --- in this process, with limits that don't take minutes to reach


@contextlib.asynccontextmanager
async def gateway(directory: Path, limits: Limits) -> AsyncIterator[tuple[Node, str, int]]:
    """A gateway before the tests' small node: the node, the socket's path, the TCP port."""
    node = Node()
    leases = Leases(node.inbox_send)
    around = Surroundings(inbox=node.inbox_send, leases=leases, name_of=lambda _: None, rng=random.Random(1), run=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        settings = SocketSettings(str(directory / "http.sock"))
        gateway = Gateway(around, limits)
        path = await nursery.start(gateway.serve, settings)
        url = await nursery.start(gateway.serve_tcp, Endpoint("127.0.0.1", 0))
        yield node, path, int(url.rpartition(":")[2])
        nursery.cancel_scope.cancel()


async def everything(stream: trio.SocketStream) -> bytes:
    """What comes until the gateway closes."""
    data = b""
    with trio.fail_after(ENOUGH_S):
        try:
            while chunk := await stream.receive_some(65536):
                data += bytes(chunk)
        except trio.BrokenResourceError:
            pass
    return data


async def answered(stream: trio.SocketStream) -> bytes:
    """One answer, with its body."""
    data = b""
    with trio.fail_after(ENOUGH_S):
        while chunk := await stream.receive_some(65536):
            data += bytes(chunk)
            head, end, body = data.partition(b"\r\n\r\n")
            if end and len(body) == int(head.lower().partition(b"content-length:")[2].split()[0]):
                break
    return data


def run(directory: Path, limits: Limits, test: object) -> None:
    async def main() -> None:
        async with gateway(directory, limits) as (node, path, port):
            await test(node, path, port)  # type: ignore[operator]

    trio.run(main)


def test_a_head_that_comes_in_drops_is_cut_off(root: Path) -> None:
    async def drip(_node: Node, path: str, _port: int) -> None:
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:

            async def feed() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
                    for _ in range(400):
                        await stream.send_all(b"A: b\r\n")
                        await trio.sleep(0.05)

            nursery.start_soon(feed)
            assert await everything(stream) == b""
            nursery.cancel_scope.cancel()
        async with await trio.open_unix_socket(path) as silent:
            assert await everything(silent) == b""

    run(root, Limits(head_s=0.3, idle_s=600), drip)


def test_a_connection_that_is_kept_open_is_closed_in_the_end_and_not_before(root: Path) -> None:
    async def keep(_node: Node, path: str, _port: int) -> None:
        async with await trio.open_unix_socket(path) as stream:
            for _ in range(3):
                await stream.send_all(GET)
                assert b" 200 " in await answered(stream)
                await trio.sleep(0.6)  # longer than a head may take
            assert await everything(stream) == b""

    run(root, Limits(head_s=0.5, idle_s=3), keep)


def test_a_client_that_does_not_read_is_cut_off_and_its_lease_ends(root: Path) -> None:
    async def stuff(node: Node, path: str, _port: int) -> None:
        async with await trio.open_unix_socket(path) as sender:
            for _ in range(4):
                body = b'{"destination": "pi", "service": "big", "payload": "%s"}' % (b"x" * 900_000)
                await sender.send_all(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                assert b" 200 " in await answered(sender)
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(
                b"GET /v1/receive/big/stream?lease_s=0 HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET * 10
            )
            await node.until(lambda node: node.subscriptions)
            await node.until(lambda node: not node.subscriptions)

    run(root, Limits(send_s=0.3), stuff)


def test_idle_connections_give_way_and_busy_ones_do_not(root: Path) -> None:
    async def crowd(_node: Node, path: str, _port: int) -> None:
        async with contextlib.AsyncExitStack() as closing:

            async def connect() -> trio.SocketStream:
                return await closing.enter_async_context(await trio.open_unix_socket(path))

            idle = [await connect() for _ in range(4)]
            for stream in idle:
                await stream.send_all(GET)
                assert b" 200 " in await answered(stream)
            late = await connect()  # one too many: the first has been idle for longest
            await late.send_all(GET)
            assert b" 200 " in await answered(late)
            assert await everything(idle[0]) == b""
            await idle[3].send_all(GET)
            assert b" 200 " in await answered(idle[3])
            busy = [idle[1], idle[2], idle[3], late]
            for number, stream in enumerate(busy):
                await stream.send_all(b"GET /v1/receive/s%d/stream HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
                with trio.fail_after(ENOUGH_S):
                    assert b" 200 " in await stream.receive_some(65536)
            refused = await connect()
            await refused.send_all(GET)
            told = await everything(refused)
            assert told.startswith(b"HTTP/1.1 503 ")
            assert b"E_BUSY" in told
            await busy[0].aclose()
            told = b" 503 "
            with trio.fail_after(ENOUGH_S):
                while b" 503 " in told:  # until the gateway has noticed
                    again = await connect()
                    await again.send_all(GET)
                    told = await answered(again)
            assert b" 200 " in told

    run(root, Limits(connections=4), crowd)


def test_a_client_that_goes_while_it_waits_takes_nothing_with_it(root: Path) -> None:
    async def leave(node: Node, path: str, _port: int) -> None:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"GET /v1/receive/x?wait_s=300&lease_s=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await node.until(lambda node: node.subscriptions)
        await node.until(lambda node: not node.subscriptions)

    run(root, Limits(), leave)


def test_requests_one_behind_the_other_are_answered_in_order(root: Path) -> None:
    async def pipeline(_node: Node, path: str, _port: int) -> None:
        async with await trio.open_unix_socket(path) as stream:
            paths = [b"/healthz", b"/nowhere", b"/v1/status", b"/healthz"]
            await stream.send_all(b"".join(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path for path in paths))
            data = b""
            with trio.fail_after(ENOUGH_S):
                while data.count(b"HTTP/1.1 ") < 4 or not data.endswith(b"\n"):
                    data += bytes(await stream.receive_some(65536))
            assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200", b"200"]

    run(root, Limits(), pipeline)


def test_a_crowd_on_tcp_keeps_nobody_from_the_unix_socket(root: Path) -> None:
    async def crowd(_node: Node, path: str, port: int) -> None:
        async with contextlib.AsyncExitStack() as closing:
            for _ in range(2):
                busy = await closing.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
                await busy.send_all(POST + b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n")
                with trio.fail_after(ENOUGH_S):
                    assert b" 100 " in await busy.receive_some(65536)
            refused = await closing.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await refused.send_all(GET)
            assert (await everything(refused)).startswith(b"HTTP/1.1 503 ")
            owner = await closing.enter_async_context(await trio.open_unix_socket(path))
            await owner.send_all(GET)
            assert b" 200 " in await answered(owner)

    run(root, Limits(connections=2), crowd)
