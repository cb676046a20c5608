"""One device of the simulation: a disk that lasts, and one life of the daemon after the other."""

import math
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import apsw
import attrs
import trio

from meshd.discovery.events import NetworkChanged, PeerSeen
from meshd.discovery.interfaces import IFF_RUNNING, IFF_UP, Interface, InterfaceAddress, InterfaceKind
from meshd.errors import MeshdError
from meshd.links.peer import PeerStatistics
from meshd.node.clients import Listening
from meshd.node.epochs import next_epoch
from meshd.node.inbox import Inbox
from meshd.node.loop import Loop, Surroundings
from meshd.node.requests import Request
from meshd.node.settings import Settings
from meshd.node.step import Node
from meshd.store.database import Database
from meshd.store.inline import InlineStore
from meshd.store.ops import Op, PutFact
from meshd.store.requests import Requests
from meshd.store.schema import migrate
from meshd.transport.base import Address, Connection, Handler, Pin
from meshd.transport.memory import MemoryConnection, MemoryNetwork, MemoryTransport
from meshd.trust.identity import Identity
from tests.sim.trace import HOST, Trace

TRANSPORTS = {"quic": 1, "websocket": 2}
"""Names of the real ones, for the rules that depend on names, and their ports."""

QUOTA_BYTES = 8 * 1024 * 1024
LIFETIME_MS = 7 * 24 * 3600 * 1000


_TICKS_PER_S = 2**20


def address_of(number: int) -> str:
    """Where a host is on the network."""
    return f"10.0.0.{number + 1}"


class NamedTransport(MemoryTransport):
    """The memory transport under the name of a real one."""

    def __init__(self, network: MemoryNetwork, host: str, certificate: bytes, name: str) -> None:
        super().__init__(network, host, certificate, TRANSPORTS[name])
        self.name = name
        self.address = Address(name, host, TRANSPORTS[name])

    @asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[MemoryConnection]:
        async with super().dial(address, pin) as connection:
            connection.transport = self.name
            yield connection

    def handling(self, handler: Handler) -> Handler:
        """``handler`` for accepted connections, which go by the name too."""

        async def handle(connection: Connection) -> None:
            connection.transport = self.name
            await handler(connection)

        return handle


@attrs.frozen(kw_only=True)
class Disk:
    """How a life's disk behaves: see InlineStore."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    full_chance: float = 0.0


class Life:
    """From a start of the daemon to its end."""

    def __init__(self, node: Node, loop: Loop, inbox: Inbox, store: InlineStore) -> None:
        self.node = node
        self.loop = loop
        self.inbox = inbox
        self.store = store
        self.scope = trio.CancelScope()
        self.ending = trio.Event()
        """Clients are cut off."""
        self.over = trio.Event()

    def post(self, request: Request) -> None:
        """A client's request; lost once the life is ending."""
        if not self.ending.is_set():
            self.inbox.post_nowait(request)


class Host:
    """See the module. ``run`` is to be started once per life."""

    def __init__(self, number: int, name: str, identity: Identity, network: MemoryNetwork, trace: Trace) -> None:
        self.number = number
        self.name = name
        self.address = address_of(number)
        self.identity = identity
        self.trace = trace
        self.life: Life | None = None
        self.lives = 0
        self.is_disk_full = False
        self.is_removed = False
        self.failures: list[str] = []
        """Codes with which lives ended by themselves."""
        self._network = network
        self._up = trio.Event()
        self._clock_offset = 0.0
        self._connection = apsw.Connection(":memory:")
        migrate(self._connection)

    @property
    def database(self) -> Database:
        """The disk, for looking at it and for preparing it."""
        return Database(self._connection, None)

    def prepare(self, ops: list[Op]) -> None:
        """Write to the disk while no life runs."""
        [committed] = self.database.apply([(0, ops)], 0)
        assert committed.error is None, committed

    @property
    def knows_its_removal(self) -> bool:
        """Whether it has heard that it was removed from the mesh."""
        return self.life is not None and self.life.node.membership.is_shut_out

    def inbox_rows(self) -> int:
        """Bundles in the inbox on disk."""
        count: int = self._connection.execute("SELECT count(*) FROM inbox").get
        return count

    def spool_rows(self) -> int:
        """Bundles that wait in the spool on disk."""
        count: int = self._connection.execute("SELECT count(*) FROM spool WHERE state = 0").get
        return count

    def copies(self) -> dict[bytes, int]:
        """How many copies of each bundle that waits are counted on disk, by its ref."""
        rows = self._connection.execute("SELECT ref, sum(copies) FROM spool WHERE state = 0 GROUP BY ref").fetchall()
        return {bytes(ref): int(count) for ref, count in rows}

    def now(self) -> float:
        """The mesh-local clock.

        It ticks, and a tick early: whoever wakes at a deadline finds that it is over. Virtual time does not
        creep on by itself where a rounding error leaves the deadline an instant ahead.
        """
        return math.ceil((trio.current_time() + self._clock_offset) * _TICKS_PER_S + 0.25) / _TICKS_PER_S

    def now_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.now() * 1000)

    def image(self) -> bytes:
        """A copy of the disk as it is now."""
        return self._connection.serialize("main")

    def restore(self, image: bytes) -> None:
        """Put an older copy in the disk's place. No life may run."""
        self._connection.close()
        self._connection = apsw.Connection(":memory:")
        self._connection.deserialize("main", image)

    def reboot(self) -> None:
        """The machine was off: the clock goes on where the disk last knew it, as after a new boot."""
        self._clock_offset = self.database.snapshot().clock_ms / 1000 + 0.001 - trio.current_time()

    async def alive(self) -> Life:
        """Wait for a life that takes requests."""
        while self.life is None or self.life.ending.is_set():
            await self._up.wait()
        return self.life

    def crash(self) -> None:
        """Pull the plug. The life is over a little later."""
        life = self.life
        if life is not None:
            self._cut_clients(life)
            life.store.crash()
            self._network.crash(self.address)
            life.scope.cancel()

    def _cut_clients(self, life: Life) -> None:
        if not life.ending.is_set():
            life.ending.set()
            self._up = trio.Event()

    async def stop(self) -> None:
        """As SIGTERM does; returns when the life is over."""
        life = self.life
        if life is not None:
            self._cut_clients(life)
            await life.loop.leave()
            life.scope.cancel()
            await life.over.wait()

    def see(self, peer: "Host") -> None:
        """Discovery has found ``peer``."""
        if self.life is not None:
            addresses = tuple(Address(name, peer.address, port) for name, port in TRANSPORTS.items())
            self.life.inbox.post_nowait(PeerSeen(peer.identity.node_id, addresses, "mdns", "lan0"))

    async def run(
        self, disk: Disk, rng: random.Random, *, task_status: trio.TaskStatus[Life] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One life. Errors that the daemon would end with are kept in ``failures``; defects are raised."""
        HOST.set(self.name)
        self.lives += 1
        life, requests = self._begin(disk, rng)
        self.trace.note("life begins", life=self.lives, epoch=life.node.epoch.counter)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(life.store.run, life.inbox.post_nowait)
                with life.scope:
                    async with trio.open_nursery() as serving:
                        await self._serve(life, serving)
                        self.life = life
                        self._up.set()
                        task_status.started(life)
                        await trio.sleep_forever()
                requests.close_nowait()
        except* MeshdError as group:
            self.failures += [error.code for error in _leaves(group)]
            self._network.crash(self.address)
        finally:
            self.trace.note("life ends", life=self.lives, failures=self.failures)
            self._cut_clients(life)
            self.life = None
            life.over.set()

    def _begin(self, disk: Disk, rng: random.Random) -> tuple[Life, Requests]:
        database = self.database
        snapshot = database.snapshot()
        epoch, fact = next_epoch(snapshot, rng)
        [committed] = database.apply([(0, [fact, PutFact("clock", b"", b"")])], self.now_ms())
        assert committed.error is None, committed
        statistics: list[Loop] = []

        def dialer(peer: object) -> PeerStatistics | None:
            return statistics[0].dialer_statistics(peer) if statistics else None  # type: ignore[arg-type]

        node = Node(
            identity=self.identity,
            settings=Settings(
                name=self.name, quota_bytes=QUOTA_BYTES, default_lifetime_ms=LIFETIME_MS, max_lifetime_ms=LIFETIME_MS
            ),
            snapshot=snapshot,
            epoch=epoch,
            now=self.now(),
            rng=rng,
            dialer=dialer,
            free_bytes=lambda: 0 if self.is_disk_full else sys.maxsize,
        )
        inbox, requests = Inbox(), Requests(self.now_ms)
        transports = {
            name: NamedTransport(self._network, self.address, self.identity.certificate, name) for name in TRANSPORTS
        }
        surroundings = Surroundings(clock=self.now, rng=rng, inbox=inbox, requests=requests, transports=transports)
        loop = Loop(node, surroundings)
        statistics.append(loop)
        store = InlineStore(database, requests, rng, delay_s=disk.delay_s, full_chance=disk.full_chance)
        self._transports = transports
        return Life(node, loop, inbox, store), requests

    async def _serve(self, life: Life, serving: trio.Nursery) -> None:
        await serving.start(life.loop.run)
        bound: list[Address] = []
        for transport in self._transports.values():
            bound += await serving.start(partial(transport.serve, transport.handling(life.loop.handle_connection)))
        addresses = (InterfaceAddress(self.address, 24),)
        lan = Interface("lan0", 1, addresses, IFF_UP | IFF_RUNNING, InterfaceKind.LAN)
        await life.inbox.send(NetworkChanged((lan,)))
        life.loop.listen(Listening(tuple(bound), ()))


def _leaves(group: BaseExceptionGroup[MeshdError]) -> list[MeshdError]:
    found: list[MeshdError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
