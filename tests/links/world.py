"""Two devices of one mesh on a network in memory, and Trio's mock clock to run them on."""

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio
from trio.testing import MockClock

from meshd.ids import Epoch, NodeId
from meshd.links.accept import accept
from meshd.links.context import Credentials, LinkContext
from meshd.links.dialer import keep_linked
from meshd.links.events import LinkDown, LinkUp
from meshd.links.peer import PeerControl
from meshd.transport.base import Address, Connection, Pin
from meshd.transport.memory import MemoryConnection, MemoryNetwork, MemoryTransport
from meshd.trust.identity import Identity, server_name
from meshd.trust.roster import Roster, found
from meshd.wire.frames import BundleFrame

T = TypeVar("T")


def run(body: Callable[[], Awaitable[T]]) -> T:
    """Run a test body in virtual time; a hang fails after ten virtual minutes."""

    async def limited() -> T:
        with trio.fail_after(600):
            return await body()

    return trio.run(limited, clock=MockClock(autojump_threshold=0))


class NamedTransport(MemoryTransport):
    """A memory transport that goes by the name of a real one, for the rules that depend on names."""

    def __init__(self, network: MemoryNetwork, host: str, certificate: bytes, port: int, name: str) -> None:
        super().__init__(network, host, certificate, port)
        self.name = name
        self.address = Address(name, host, port)

    @asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[MemoryConnection]:
        async with super().dial(address, pin) as connection:
            connection.transport = self.name
            yield connection


@attrs.define(eq=False)
class Device:
    """One daemon's links without its node: ``events`` is what the node would have got."""

    host: str
    identity: Identity
    epoch: Epoch
    roster: Roster
    network: MemoryNetwork
    rng: random.Random
    events: list[object] = attrs.field(factory=list)
    happened: trio.Event = attrs.field(factory=trio.Event)
    seen: dict[NodeId, Epoch] = attrs.field(factory=dict)
    transports: dict[str, NamedTransport] = attrs.field(factory=dict)
    full: trio.Event | None = None
    """While set, the inbox takes nothing until the event comes."""
    context: LinkContext = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.context = LinkContext(
            credentials=self.credentials,
            numbers=itertools.count(1),
            post=self.post,
            clock=trio.current_time,
            rng=self.rng,
        )
        for port, name in enumerate(("quic", "websocket"), start=1):
            self.transports[name] = NamedTransport(self.network, self.host, self.identity.certificate, port, name)

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    @property
    def pin(self) -> Pin:
        return Pin(self.identity.certificate, server_name(self.id))

    def credentials(self) -> Credentials:
        return Credentials(identity=self.identity, roster=self.roster, epoch=self.epoch, seen=self.seen)

    async def post(self, event: object) -> None:
        await trio.lowlevel.checkpoint()
        if self.full is not None:
            await self.full.wait()
        self.events.append(event)
        self.happened.set()
        self.happened = trio.Event()

    def of(self, kind: type[T]) -> list[T]:
        """The events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for events until ``condition`` holds."""
        while not condition():
            await self.happened.wait()

    @property
    def live(self) -> list[LinkUp]:
        """The links that are up."""
        gone = {down.link for down in self.of(LinkDown)}
        return [up for up in self.of(LinkUp) if up.link not in gone]

    async def listen(self, nursery: trio.Nursery, *names: str) -> None:
        """Serve on the named transports."""
        for name in names:

            async def handle(connection: Connection, *, name: str = name) -> None:
                connection.transport = name
                await accept(connection, context=self.context)

            await nursery.start(partial(self.transports[name].serve, handle))

    def control_of(self, peer: "Device") -> PeerControl:
        return PeerControl(me=self.id, peer=peer.id, transports=self.transports, rng=self.rng, now=trio.current_time())

    async def keep_linked(self, control: PeerControl) -> None:
        await keep_linked(control.peer, control=control, transports=self.transports, context=self.context)


@attrs.define(eq=False)
class World:
    """``low`` has the lower node id."""

    low: Device
    high: Device
    network: MemoryNetwork

    @classmethod
    def make(cls, seed: int = 1) -> "World":
        rng = random.Random(seed)
        one, two = Identity.generate(rng), Identity.generate(rng)
        recovery = Identity.generate(rng)
        roster = found(one, "home", "one", recovery.public_key)
        roster, _ = roster.merge([roster.add(one, two.certificate, "two", "member")])
        network = MemoryNetwork(rng)
        devices = [
            Device(host, identity, Epoch(1, host.encode().ljust(8)), roster, network, rng)
            for host, identity in zip(("low", "high"), sorted((one, two), key=lambda i: i.node_id), strict=True)
        ]
        return cls(*devices, network)


@asynccontextmanager
async def connected(
    world: World, *, use_accepted: Callable[[Connection], Awaitable[None]]
) -> AsyncIterator[Connection]:
    """A bare connection that ``low`` dialed to ``high``, whose end is given to ``use_accepted``."""
    async with trio.open_nursery() as nursery:
        transport = world.high.transports["quic"]
        await nursery.start(transport.serve, use_accepted)
        async with world.low.transports["quic"].dial(transport.address, world.high.pin) as connection:
            yield connection
        nursery.cancel_scope.cancel()


def bundle(body: bytes, *, head: bytes = b"head") -> BundleFrame:
    """A bundle frame with its whole body."""
    return BundleFrame(16, 0, 1, head, body, len(body))


def bundles_in(frames: Sequence[object]) -> list[BundleFrame]:
    """The bundles among frames."""
    return [frame for frame in frames if isinstance(frame, BundleFrame)]
