"""Devices finding each other over real multicast, on loopback alone."""

import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from meshd.config import Discovery
from meshd.discovery.events import Announce, Members, NetworkChanged, PeerGone, PeerSeen, Resumed
from meshd.discovery.interfaces import interfaces
from meshd.discovery.mdns import Input, run_mdns
from meshd.discovery.sightings import Sightings
from meshd.ids import NodeId
from meshd.transport.base import Address

GENESIS = os.urandom(32)
"""A mesh of this process: other tests announce themselves on the same loopback at the same time."""
ALICE, BOB, CAROL = (NodeId(bytes([number]) * 16) for number in (1, 2, 3))
LOOPBACK = Discovery(interfaces=("lo",))
LIMIT_S = 20


@attrs.define(eq=False)
class Device:
    """A device's discovery: what it is told, and what it reports."""

    node: NodeId
    inputs: trio.MemorySendChannel[Input]
    events: trio.MemoryReceiveChannel[PeerSeen | PeerGone]
    sightings: Sightings
    ended: trio.Event

    @property
    def members(self) -> int:
        """How many members it knows to be there."""
        found = self.sightings.statistics()
        return found.remembered - found.strangers

    async def until(self, wanted: Callable[[PeerSeen | PeerGone], bool]) -> PeerSeen | PeerGone:
        with trio.fail_after(LIMIT_S):
            async for event in self.events:
                if wanted(event):
                    return event
        raise AssertionError("the events ended")

    async def sees(self, peer: NodeId) -> PeerSeen:
        event = await self.until(lambda event: isinstance(event, PeerSeen) and event.peer == peer)
        assert isinstance(event, PeerSeen)
        return event


@asynccontextmanager
async def device(
    node: NodeId,
    *members: NodeId,
    genesis: bytes | None = GENESIS,
    settings: Discovery = LOOPBACK,
    quic: int | None = 7001,
    websocket: int | None = 7002,
) -> AsyncIterator[Device]:
    """A device whose discovery runs within the context; leaving it closes its inputs and waits for the goodbye."""
    send_input, receive_input = trio.open_memory_channel[Input](8)
    send_event, receive_event = trio.open_memory_channel[PeerSeen | PeerGone](100)
    found = Device(node, send_input, receive_event, Sightings(), trio.Event())

    async def run() -> None:
        await run_mdns(
            receive_input,
            send_event.send,
            settings=settings,
            sightings=found.sightings,
            rng=random.SystemRandom(),
            rebuild_interval_s=0.05,
        )
        found.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await send_input.send(NetworkChanged(interfaces()))
        await send_input.send(Members(frozenset((node, *members))))
        await send_input.send(Announce(genesis, node, quic, websocket))
        yield found
        send_input.close()
        with trio.fail_after(LIMIT_S):
            await found.ended.wait()


def test_two_devices_see_each_other_and_the_goodbye() -> None:
    async def main() -> None:
        async with device(ALICE, BOB, CAROL) as alice:
            async with device(BOB, ALICE, quic=7003, websocket=None) as bob:
                assert await alice.sees(BOB) == PeerSeen(BOB, (Address("quic", "127.0.0.1", 7003),), "mdns", "lo")
                seen = await bob.sees(ALICE)
                assert seen.addresses == (
                    Address("quic", "127.0.0.1", 7001),
                    Address("websocket", "127.0.0.1", 7002),
                )
            assert await alice.until(lambda event: isinstance(event, PeerGone)) == PeerGone(BOB, "lo")

    trio.run(main)


def test_devices_of_another_mesh_and_strangers_are_not_seen() -> None:
    async def main() -> None:
        async with (
            device(ALICE, BOB, CAROL) as alice,
            device(BOB, ALICE, genesis=b"\1" * 32) as stranger,
            device(CAROL, ALICE) as carol,
        ):
            assert (await alice.sees(CAROL)).peer == CAROL
            await carol.sees(ALICE)
            with trio.fail_after(LIMIT_S):
                while alice.sightings.statistics().strangers < 1 or stranger.sightings.statistics().strangers < 2:
                    await trio.sleep(0.01)
            assert alice.events.statistics().current_buffer_used == 0
            assert stranger.events.statistics().current_buffer_used == 0

    trio.run(main)


def test_a_member_that_was_heard_before_the_roster_knew_it_is_seen() -> None:
    async def main() -> None:
        async with device(ALICE) as alice, device(BOB, ALICE) as bob:
            await bob.sees(ALICE)
            with trio.fail_after(LIMIT_S):
                while alice.sightings.statistics().strangers < 1:
                    await trio.sleep(0.01)
            await alice.inputs.send(Members(frozenset((ALICE, BOB))))
            await alice.sees(BOB)

    trio.run(main)


def test_a_device_outside_any_mesh_announces_nothing_until_it_joins() -> None:
    async def main() -> None:
        async with device(ALICE, BOB) as alice, device(BOB, ALICE, genesis=None) as bob:
            await trio.sleep(0.5)
            assert alice.members == 0
            await bob.inputs.send(Announce(GENESIS, BOB, 7001, None))
            await alice.sees(BOB)
            await bob.sees(ALICE)

    trio.run(main)


def test_a_device_that_takes_no_links_looks_without_announcing() -> None:
    async def main() -> None:
        async with device(BOB, ALICE, quic=None, websocket=None) as bob, device(ALICE, BOB) as alice:
            await bob.sees(ALICE)
            assert alice.members == 0

    trio.run(main)


def test_it_starts_before_the_network_and_survives_its_loss() -> None:
    async def main() -> None:
        async with device(ALICE, BOB) as alice, device(BOB, ALICE) as bob:
            await alice.sees(BOB)
            await bob.inputs.send(NetworkChanged(()))
            assert await alice.until(lambda event: isinstance(event, PeerGone)) == PeerGone(BOB, "lo")
            await bob.inputs.send(NetworkChanged(interfaces()))
            await alice.sees(BOB)

    trio.run(main)


def test_after_sleep_it_announces_and_looks_again() -> None:
    async def main() -> None:
        async with device(ALICE, BOB) as alice, device(BOB, ALICE) as bob:
            await alice.sees(BOB)
            await bob.sees(ALICE)
            await bob.inputs.send(Resumed(60))
            await bob.sees(ALICE)
            assert bob.members == 1

    trio.run(main)


def test_changed_ports_are_announced() -> None:
    async def main() -> None:
        async with device(ALICE, BOB) as alice, device(BOB, ALICE) as bob:
            await alice.sees(BOB)
            await bob.inputs.send(Announce(GENESIS, BOB, 7009, None))
            moved = Address("quic", "127.0.0.1", 7009)
            await alice.until(lambda event: isinstance(event, PeerSeen) and event.addresses == (moved,))

    trio.run(main)


def test_loopback_is_left_alone_unless_named() -> None:
    async def main() -> None:
        only_loopback = tuple(interface for interface in interfaces() if interface.name == "lo")
        async with device(ALICE, BOB) as alice, device(BOB, ALICE, settings=Discovery(), genesis=None) as bob:
            await bob.inputs.send(NetworkChanged(only_loopback))
            await bob.inputs.send(Announce(GENESIS, BOB, 7001, None))
            with trio.move_on_after(0.5) as quiet:
                await alice.sees(BOB)
            assert quiet.cancelled_caught
            assert bob.members == 0

    trio.run(main)


def labels(*parts: bytes) -> bytes:
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def announcement(instance: bytes, txt: bytes) -> bytes:
    """A multicast DNS response (RFC 6762) with PTR, SRV, TXT and A records, as a stranger may write it."""
    service = (b"_meshd", b"_udp", b"local")
    host = labels(b"stranger", b"local")
    records = [
        (labels(*service), 12, labels(instance, *service)),
        (labels(instance, *service), 33, struct.pack(">HHH", 0, 0, 1) + host),
        (labels(instance, *service), 16, txt),
        (host, 1, socket.inet_aton("127.0.0.1")),
    ]
    head = struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0)
    return head + b"".join(name + struct.pack(">HHIH", kind, 1, 120, len(data)) + data for name, kind, data in records)


async def hear_query(ear: socket.socket) -> None:
    """Wait until somebody asks for our service."""
    data = b""
    while b"_meshd" not in data or data[2] & 0x80:
        await trio.lowlevel.wait_readable(ear)
        data = ear.recv(9000)


def test_a_name_that_no_query_can_hold_keeps_nobody_from_asking(caplog: pytest.LogCaptureFixture) -> None:
    group = socket.inet_aton("224.0.0.251")
    poison = announcement(b"\xff" * 63, b"")

    async def main() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        ):
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                ear.setsockopt(socket.SOL_SOCKET, option, 1)
            ear.bind(("224.0.0.251", 5353))
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("127.0.0.1"))
            ear.setblocking(False)
            stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            with trio.fail_after(LIMIT_S):
                async with device(ALICE, BOB):
                    for _ in range(3):  # at once, after 1 s and after 5 s
                        await hear_query(ear)
                        stranger.sendto(poison, ("224.0.0.251", 5353))

    trio.run(main)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_hostile_announcements_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    good = b"\3v=1\x0as=saltsalt\x0at=tagtagta\4q=70"
    hostile = [
        announcement(b"empty", b""),
        announcement(b"torn", b"\xffv=1"),
        announcement(b"no-value", b"\1v\1s\1t\1q"),
        announcement(b"ports", good + b"\7w=99999"),
        announcement(b"\xff\xfe\0 .\r\n", good),
        announcement(b"x" * 63, good + b"\0\0=\0"),
        announcement(b"\xff" * 63, good),
        announcement(b"", good),
        announcement(b"cut", good)[:-7],
        *[announcement(b"flood-%d" % number, good) for number in range(100)],
        bytes(12),
        b"\xff" * 700,
    ]

    async def main() -> None:
        async with device(ALICE, BOB) as alice, device(BOB, ALICE) as bob:
            await alice.sees(BOB)
            await bob.sees(ALICE)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
                for packet in hostile:
                    stranger.sendto(packet, ("224.0.0.251", 5353))
                    await trio.sleep(0.001)
            with trio.fail_after(LIMIT_S):
                while alice.sightings.statistics().malformed < 3 or alice.sightings.statistics().strangers < 100:
                    await trio.sleep(0.01)
            async with device(CAROL, ALICE) as carol:
                await carol.sees(ALICE)
                assert alice.events.statistics().current_buffer_used == 0
                assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []

    trio.run(main)


@pytest.mark.system  # some 16 s; and a flood on loopback is heard by whatever else runs there
@pytest.mark.timeout(120)
def test_who_came_in_the_middle_of_a_flood_is_found_after_it() -> None:
    good = b"\3v=1\x0as=saltsalt\x0at=tagtagta\4q=70"

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sent = 0

            async def flood(count: int) -> None:
                nonlocal sent
                for _ in range(count):
                    sent += 1
                    stranger.sendto(announcement(b"flood-%d" % sent, good), ("224.0.0.251", 5353))
                    await trio.sleep(0.001)

            async with device(ALICE, BOB) as alice, trio.open_nursery() as nursery:
                with trio.fail_after(LIMIT_S):
                    while not alice.sightings.statistics().dropped:
                        await flood(50)
                nursery.start_soon(flood, 300)
                dropped = alice.sightings.statistics().dropped
                async with device(BOB, ALICE):
                    with trio.fail_after(LIMIT_S):
                        while alice.sightings.statistics().dropped < dropped + 100:
                            await trio.sleep(0.01)
                    assert alice.members == 0
                    with trio.fail_after(60):
                        await alice.sees(BOB)
                nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.5])
def test_cancellation_at_any_time_leaves_nothing(wait_s: float) -> None:
    async def main() -> None:
        with trio.move_on_after(wait_s):
            async with device(BOB, ALICE):
                await trio.sleep_forever()

    trio.run(main)


def test_cancellation_says_goodbye() -> None:
    async def main() -> None:
        async with device(ALICE, BOB) as alice:
            with trio.CancelScope() as cancelled:
                async with device(BOB, ALICE):
                    await alice.sees(BOB)
                    cancelled.cancel()
                    await trio.sleep_forever()
            assert await alice.until(lambda event: isinstance(event, PeerGone)) == PeerGone(BOB, "lo")

    trio.run(main)
