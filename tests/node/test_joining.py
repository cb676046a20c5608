"""Joining over TLS on loopback: a device with a code on one side, a node and its doorkeeper on the other."""

import contextlib
import itertools
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import attrs
import pytest
import structlog.testing
import trio

from meshd.node.admission import JoinEnded
from meshd.node.clients import Listening
from meshd.node.effects import AdmitAnswer, StartJoin
from meshd.node.inbox import Inbox
from meshd.node.joining import Doorkeeper, join
from meshd.node.requests import Invite
from meshd.transport.base import Connection
from meshd.transport.websocket import WebsocketTransport
from meshd.trust.card import CardAddress
from meshd.trust.identity import Identity
from meshd.trust.invitations import MAX_GUESSES
from meshd.trust.invite import InviteCode
from tests.node.harness import Device, World
from tests.trust.people import device

JOINER = device(9)


async def no_link(_: Connection) -> None:
    raise AssertionError("nobody links here")


def transport(identity: Identity, *listen: tuple[str, int]) -> WebsocketTransport:
    return WebsocketTransport(
        listen=list(listen), certificate_pem=identity.certificate_pem(), private_key_pem=identity.private_key_pem()
    )


@attrs.define(eq=False)
class Door:
    """The inviting node, where it listens."""

    node: Device
    port: int
    asked: list[object] = attrs.field(factory=list)

    def code(self, *before: CardAddress) -> InviteCode:
        """A new one, with these addresses before the right one."""
        self.node.inbox.append(Listening((), (*before, CardAddress("websocket", "127.0.0.1", self.port))))
        made = self.node.result(self.node.ask(Invite, expires_s=600, role="member"))
        return InviteCode.parse(made["code"])


@contextlib.asynccontextmanager
async def opened(node: Device, *, late_s: float = 0.0) -> AsyncIterator[Door]:
    """Admit whoever proves a code; the node hears of it ``late_s`` of its own seconds later."""
    inbox = Inbox()
    door = Doorkeeper(
        node.node.membership, node.node.admissions, inbox, lambda: node.world.now, random.Random(1), itertools.count(1)
    )

    async def carry(found: Door) -> None:
        told = 0
        while True:
            events = await inbox.take()
            found.asked += events
            node.world.now += late_s
            node.inbox.extend(events)
            node.world.pump()
            answers = [effect for effect in node.other if isinstance(effect, AdmitAnswer)]
            for answer in answers[told:]:
                door.answer(answer)
            told = len(answers)

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(transport(node.identity, ("127.0.0.1", 0)).serve, no_link, door.handle)
        found = Door(node, address.port)
        nursery.start_soon(carry, found)
        yield found
        nursery.cancel_scope.cancel()


async def joined(code: InviteCode | str, *, identity: Identity = JOINER, can_dial: bool = True) -> JoinEnded:
    """How a join with this code ends."""
    inbox = Inbox()
    dialing = transport(identity) if can_dial else None
    await join(
        StartJoin(7, str(code), "laptop"), identity=identity, transport=dialing, inbox=inbox, rng=random.Random(2)
    )
    [ended] = await inbox.take()
    assert isinstance(ended, JoinEnded)
    assert ended.ticket == 7
    assert (ended.joined is None) != (ended.error is None)
    return ended


def refused(ended: JoinEnded) -> str:
    assert ended.error is not None
    return ended.error.code


def run(body: Callable[[], Awaitable[None]]) -> None:
    """Run a test. No connection may end by a defect."""

    async def main() -> None:
        with trio.fail_after(50):
            await body()

    with structlog.testing.capture_logs() as logs:
        trio.run(main)
    assert [log for log in logs if log["log_level"] == "error"] == []


def founder() -> Device:
    [one] = World(1).devices
    return one


def test_a_device_with_a_code_is_let_in() -> None:
    async def body() -> None:
        node = founder()
        async with opened(node) as door:
            ended = await joined(door.code())
        assert ended.joined is not None
        assert (ended.joined.name, ended.joined.inviter) == ("laptop", node.id)
        assert ended.joined.roster.genesis == node.node.membership.require_roster().genesis
        assert node.node.membership.public_key(JOINER.node_id) == JOINER.public_key

    run(body)


def test_a_second_device_with_the_same_code_is_not() -> None:
    async def body() -> None:
        node = founder()
        async with opened(node) as door:
            code = door.code()
            await joined(code)
            assert refused(await joined(code, identity=device(8))) == "E_CODE_USED"
        assert node.node.membership.public_key(device(8).node_id) is None

    run(body)


def test_what_the_node_refuses_is_told() -> None:
    """The code expires while its proof waits for the node."""

    async def body() -> None:
        node = founder()
        async with opened(node, late_s=600) as door:
            assert refused(await joined(door.code())) == "E_CODE_EXPIRED"
            assert len(door.asked) == 1
        assert node.node.membership.public_key(JOINER.node_id) is None

    run(body)


def test_wrong_codes_are_told_apart_and_slowed_and_never_reach_the_node() -> None:
    async def body() -> None:
        node = founder()
        async with opened(node) as door:
            code = door.code()
            for _ in range(MAX_GUESSES):
                assert refused(await joined(attrs.evolve(code, secret=bytes(16)))) == "E_CODE_WRONG"
            assert refused(await joined(code)) == "E_JOIN_RATE"
            assert door.asked == []
            node.world.now += 60
            assert (await joined(code)).joined is not None

    run(body)


def test_another_device_at_the_address_gets_no_code() -> None:
    async def body() -> None:
        node = founder()
        async with opened(node) as door:
            ended = await joined(attrs.evolve(door.code(), certificate_hash=bytes(32)))
            assert refused(ended) == "E_CODE_OTHER_MESH"
            assert door.asked == []

    run(body)


def test_addresses_where_nobody_is_do_not_matter() -> None:
    async def body() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # and does not listen
            nobody = CardAddress("websocket", "127.0.0.1", closed.getsockname()[1])
            async with opened(founder()) as door:
                code = door.code(nobody)
                assert (await joined(code)).joined is not None
            assert refused(await joined(attrs.evolve(code, addresses=(nobody,)))) == "E_JOIN_UNREACHABLE"

    run(body)


def test_a_device_without_a_mesh_lets_nobody_in() -> None:
    async def body() -> None:
        async with opened(founder()) as door:
            code = door.code()
        world = World(0)
        alone = Device(world, 0, None, 1 << 26)
        world.devices.append(alone)
        async with opened(alone) as other:
            there = CardAddress("websocket", "127.0.0.1", other.port)
            assert refused(await joined(attrs.evolve(code, addresses=(there,)))) == "E_JOIN_UNREACHABLE"

    run(body)


@pytest.mark.parametrize(
    ("can_dial", "expected", "mention"),
    [(True, "E_CODE_MALFORMED", "one word"), (False, "E_JOIN_UNREACHABLE", "links.transports")],
)
def test_what_can_not_be_tried_ends_at_once(can_dial: bool, expected: str, mention: str) -> None:
    async def body() -> None:
        ended = await joined("x", can_dial=can_dial)
        assert refused(ended) == expected
        assert ended.error is not None
        assert mention in ended.error.hint

    run(body)
