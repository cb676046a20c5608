"""One way to set up each transport, for tests that hold for all of them."""

import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs
import structlog.testing
import trio
from trio.testing import MockClock

from meshd.transport.base import Address, Connection, Handler, Pin, Transport, TransportError
from meshd.transport.memory import MemoryNetwork
from meshd.transport.quic import QuicTransport
from meshd.transport.serving import HalfOpenLimits
from meshd.transport.websocket import WebsocketTransport
from meshd.wire.frames import MAX_FRAME_BYTES
from tests.transport import certificates

KINDS = ("memory", "quic", "websocket")
SERVER = certificates.make("server.meshd")
CLIENT = certificates.make("client.meshd")
STRANGER = certificates.make("server.meshd")
GENEROUS = HalfOpenLimits(per_address=100, total=200)


class Dialing(Protocol):
    """The dialing half of a transport."""

    def dial(self, address: Address, pin: Pin) -> contextlib.AbstractAsyncContextManager[Connection]:
        """See the contract."""


@attrs.frozen
class Pair:
    """A listener that serves, and a transport that can dial it."""

    client: Dialing
    address: Address
    stop: Callable[[], None]
    """Ends the listener with all its connections."""

    def dial(self, pin: Pin = SERVER.pin) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Dial the listener."""
        return self.client.dial(self.address, pin)


def make(kind: str, certificate: certificates.Certificate, network: MemoryNetwork, host: str) -> Transport:
    """A transport of this kind."""
    if kind == "memory":
        return network.transport(host, certificate.der)
    settings: dict[str, Any] = {
        "listen": [("::", 0)],
        "certificate_pem": certificate.pem,
        "private_key_pem": certificate.key_pem,
        "limits": GENEROUS,
    }
    return QuicTransport(**settings) if kind == "quic" else WebsocketTransport(**settings)


@contextlib.asynccontextmanager
async def serving(kind: str, handler: Handler, loopback: str = "127.0.0.1") -> AsyncIterator[Pair]:
    """Two transports of a kind, both serving."""
    network = MemoryNetwork(random.Random(1))
    server, client = make(kind, SERVER, network, "server"), make(kind, CLIENT, network, "client")
    scope = trio.CancelScope()

    async def listen(*, task_status: trio.TaskStatus[Sequence[Address]]) -> None:
        with scope:
            await server.serve(handler, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(client.serve, no_handler)
        (address,) = await nursery.start(listen)
        if kind != "memory":
            address = attrs.evolve(address, host=loopback)
        yield Pair(client, address, scope.cancel)
        nursery.cancel_scope.cancel()


async def no_handler(connection: Connection) -> None:
    """Nobody is expected here."""
    raise AssertionError(f"{connection.remote} was not expected")


async def echo(connection: Connection) -> None:
    """Send back what comes, until the other side closes."""
    connection.set_limit(MAX_FRAME_BYTES)
    with contextlib.suppress(TransportError):
        while True:
            await connection.send(await connection.receive())


async def collect(connection: Connection, count: int) -> list[bytes]:
    """Receive ``count`` frames."""
    frames: list[bytes] = []
    while len(frames) < count:
        frames.extend(await connection.receive())
    assert len(frames) == count
    return frames


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; the test's own limit bounds the wait."""
    while not condition():
        await trio.sleep(0.01)


async def settle(kind: str) -> None:
    """Wait until everything on the way has arrived."""
    await trio.sleep(5 if kind == "memory" else 0.25)


def run(kind: str, body: Callable[[], Awaitable[None]], *, seconds: float = 20, failures: int = 0) -> None:
    """Run a test: on virtual time in memory, on real time elsewhere.

    Checks that no descriptor is left open, and that ``failures`` connections have ended by a defect.
    """

    async def limited() -> None:
        with trio.fail_after(3600 if kind == "memory" else seconds):
            await body()

    before = len(os.listdir("/proc/self/fd"))
    with structlog.testing.capture_logs() as logs:
        trio.run(limited, clock=MockClock(autojump_threshold=0) if kind == "memory" else None)
    defects = [log for log in logs if log["event"] in ("connection.failed", "quic.failed")]
    assert len(defects) == failures, defects
    assert len(os.listdir("/proc/self/fd")) == before
