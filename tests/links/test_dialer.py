import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import structlog.testing
import trio

from meshd.ids import NodeId
from meshd.links.breaker import State
from meshd.links.choice import Contender, preferred
from meshd.links.events import AcceptFailed, DialFailed, FramesReceived, LinkDown, LinkUp
from meshd.links.peer import Decision, PeerControl
from meshd.transport.base import Address, Pin
from meshd.transport.memory import MemoryConnection
from meshd.transport.pipe import Rule
from tests.links.world import Device, NamedTransport, World, bundle, run


@asynccontextmanager
async def dialing(world: World, *addresses: Address) -> AsyncIterator[tuple[PeerControl, trio.Nursery]]:
    """``low`` keeps itself linked to ``high``."""
    control = world.low.control_of(world.high)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.low.keep_linked, control)
        control.candidates_seen(addresses, "mdns", trio.current_time())
        yield control, nursery
        nursery.cancel_scope.cancel()


def both(device: Device, host: str | None = None) -> list[Address]:
    return [Address(name, host or device.host, t.address.port) for name, t in device.transports.items()]


def test_a_link_comes_up_on_both_sides_and_carries() -> None:
    async def body() -> None:
        world = World.make()
        world.high.seen[world.low.id] = world.low.epoch
        async with dialing(world, *both(world.high)) as (control, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            await world.high.until(lambda: world.high.live)
            (up,), (other,) = world.low.live, world.high.live
            assert (up.peer, up.transport, up.dialed, up.seen) == (world.high.id, "quic", True, world.low.epoch)
            assert (other.peer, other.transport, other.dialed) == (world.low.id, "quic", False)
            assert up.outgoing is not None
            assert other.outgoing is not None
            up.outgoing.send_bundle(bundle(b"there"))
            other.outgoing.send_bundle(bundle(b"back"))
            await world.high.until(lambda: world.high.of(FramesReceived))
            await world.low.until(lambda: world.low.of(FramesReceived))
            assert control.statistics(0.0).decision is Decision.LINKED

    run(body)


def test_a_removed_device_is_not_even_dialed() -> None:
    async def body() -> None:
        world = next(made for seed in range(50) if (made := World.make(seed)).low.roster.is_admin(made.low.id))
        roster = world.low.roster
        world.low.roster = roster.merge([roster.remove(world.low.identity, world.high.id)])[0]
        async with dialing(world, *both(world.high)) as (_, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.of(DialFailed))
            await trio.sleep(10)
        assert {failed.code for failed in world.low.of(DialFailed)} == {"P_NOT_MEMBER"}
        assert world.high.events == []

    run(body)


def test_quic_wins_when_both_work_and_the_loser_is_never_dialed() -> None:
    async def body() -> None:
        world = World.make()
        world.network.set_rule("low", "high", Rule(delay=0.02))
        async with dialing(world, *reversed(both(world.high))) as (_, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            assert [up.transport for up in world.low.of(LinkUp)] == ["quic"]
            await trio.sleep(5)
            assert len(world.high.of(LinkUp)) == 1
            assert not world.high.of(AcceptFailed)

    run(body)


def test_websocket_follows_after_a_quarter_second_when_quic_hangs() -> None:
    async def body() -> None:
        world = World.make()
        world.network.partition(["low"], ["blocked"])
        started = trio.current_time()
        quic, websocket = both(world.high)
        hanging = attrs.evolve(quic, host="blocked")
        async with dialing(world, hanging, websocket) as (_, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            assert world.low.live[0].transport == "websocket"
            assert 0.25 <= trio.current_time() - started < 0.5
            await trio.sleep(3)
            assert not world.low.of(DialFailed), "a cut attempt is no failure"

    run(body)


def test_websocket_follows_at_once_when_quic_is_refused() -> None:
    async def body() -> None:
        world = World.make()
        started = trio.current_time()
        async with dialing(world, *both(world.high)) as (_, nursery):
            await world.high.listen(nursery, "websocket")
            await world.low.until(lambda: world.low.live)
            assert trio.current_time() - started < 0.2
            (failure,) = world.low.of(DialFailed)
            assert (failure.address, failure.code) == (both(world.high)[0], "E_UNREACHABLE")

    run(body)


class Breaking(NamedTransport):
    """A library that meets what it does not expect."""

    @asynccontextmanager
    async def dial(self, address: Address, pin: Pin) -> AsyncIterator[MemoryConnection]:
        async with super().dial(address, pin):
            raise RuntimeError("not foreseen")
        yield


def test_a_defect_that_one_attempt_meets_ends_that_attempt_alone() -> None:
    async def body() -> None:
        world = World.make()
        low = world.low
        low.transports["quic"] = Breaking(world.network, low.host, low.identity.certificate, 1, "quic")
        with structlog.testing.capture_logs() as logs:
            async with dialing(world, *both(world.high)) as (_, nursery):
                await world.high.listen(nursery, "quic", "websocket")
                await low.until(lambda: low.live)
        assert low.of(LinkUp)[0].transport == "websocket"
        assert low.of(DialFailed)[0].code == "E_INTERNAL"
        assert "not foreseen" in low.of(DialFailed)[0].reason
        assert logs[0]["event"] == "dial-failed"

    run(body)


def test_a_slow_winner_cuts_the_others_without_a_trace_in_the_breaker() -> None:
    async def body() -> None:
        world = World.make()
        for pair in (("low", "high"), ("high", "low")):
            world.network.set_rule(*pair, Rule(delay=0.1))
        async with dialing(world, *both(world.high)) as (control, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            await trio.sleep(5)
            assert len(world.low.live) == 1
            assert len(world.high.of(LinkUp)) == 1, "the other was cut before its proof"
            breaker = control.statistics(0.0).breaker
            assert (breaker.recent_attempts, breaker.recent_failures) == (1, 0)

    run(body)


def test_an_attempt_that_reaches_welcome_too_late_is_no_link_to_the_other_side() -> None:
    async def body() -> None:
        world = World.make()
        for pair in (("low", "high"), ("high", "low")):
            world.network.set_rule(*pair, Rule(delay=0.3))  # both are past their proofs when one wins
        async with dialing(world, *both(world.high)) as (_, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            await trio.sleep(5)
            assert [up.transport for up in world.high.of(LinkUp)] == ["quic"]
            assert [failed.code for failed in world.high.of(AcceptFailed)] == ["lost"]

    run(body)


def test_an_address_heard_of_during_a_dial_joins_the_race() -> None:
    async def body() -> None:
        world = World.make()
        world.network.partition(["low"], ["old"])
        quic, _ = both(world.high)
        async with dialing(world, attrs.evolve(quic, host="old")) as (control, nursery):
            await world.high.listen(nursery, "quic")
            await trio.sleep(2)
            started = trio.current_time()
            control.candidates_seen([quic], "mdns", started)
            await world.low.until(lambda: world.low.live)
            assert trio.current_time() - started < 0.2

    run(body)


def test_a_dial_into_nothing_ends_after_eight_seconds() -> None:
    async def body() -> None:
        world = World.make()
        world.network.partition(["low"], ["old"])
        async with dialing(world, Address("quic", "old", 1)) as (control, _):
            await world.low.until(lambda: world.low.of(DialFailed))
            assert trio.current_time() == pytest.approx(8.0, abs=0.1)
            await trio.sleep(0.01)
            assert control.statistics(0.0).breaker.dial_failures == 1

    run(body)


def test_waking_abandons_a_dial_on_the_old_network() -> None:
    async def body() -> None:
        world = World.make()
        world.network.partition(["low"], ["high"])
        async with dialing(world, *both(world.high)) as (control, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await trio.sleep(1)
            world.network.heal()
            control.wake(trio.current_time())
            await world.low.until(lambda: world.low.live)
            assert trio.current_time() < 1.5
            assert control.statistics(0.0).breaker.dial_failures == 0

    run(body)


def test_what_failed_before_the_wake_is_not_held_against_the_peer() -> None:
    async def body() -> None:
        world = World.make()
        world.network.partition(["low"], ["old"])
        refused, hanging = both(world.high)[0], Address("websocket", "old", 1)
        async with dialing(world, refused, hanging) as (control, _):
            await world.low.until(lambda: world.low.of(DialFailed))
            control.wake(trio.current_time())
            await trio.sleep(0.01)
            assert control.statistics(0.0).breaker.dial_failures == 0

    run(body)


def test_the_breaker_opens_while_the_peer_is_away_and_closes_when_it_returns() -> None:
    async def body() -> None:
        world = World.make()
        async with dialing(world, *both(world.high)) as (control, nursery):
            await trio.sleep(400)
            breaker = control.statistics(0.0).breaker
            assert breaker.state is State.OPEN
            failures = len(world.low.of(DialFailed))
            assert failures < 2 * 20, "a hundred a minute would be a storm"
            await world.high.listen(nursery, "quic", "websocket")
            control.candidates_seen(both(world.high), "mdns", trio.current_time())
            started = trio.current_time()
            await world.low.until(lambda: world.low.live)
            assert trio.current_time() - started < 0.5, "its announcement is worth an early probe"
            assert control.statistics(0.0).breaker.state is State.HALF_OPEN
            for _ in range(2):
                control.answered(trio.current_time())
            assert control.statistics(0.0).breaker.state is State.CLOSED

    run(body)


def test_a_path_that_dies_is_noticed_and_the_link_comes_back_after_it_heals() -> None:
    async def body() -> None:
        world = World.make()
        async with dialing(world, *both(world.high)) as (control, nursery):
            await world.high.listen(nursery, "quic", "websocket")
            await world.low.until(lambda: world.low.live)
            await trio.sleep(30)
            world.network.partition(["low"], ["high"])
            died = trio.current_time()
            await world.low.until(lambda: world.low.of(LinkDown))
            assert trio.current_time() - died <= 6
            await trio.sleep(0.1)
            assert control.statistics(0.0).breaker.state is State.OPEN
            await trio.sleep(1)
            world.network.heal()
            await world.low.until(lambda: world.low.live)
            await world.high.until(lambda: world.high.live)
            assert trio.current_time() - died <= 15

    run(body)


def test_a_link_on_a_worse_transport_is_replaced_before_it_is_broken() -> None:
    async def body() -> None:
        world = World.make()
        async with dialing(world, *both(world.high)) as (_, nursery):
            await world.high.listen(nursery, "websocket")
            await world.low.until(lambda: world.low.live)
            await world.high.listen(nursery, "quic")
            await world.low.until(lambda: len(world.low.live) == 2)
            assert trio.current_time() < 60
            contenders = [
                Contender(link=up.link, transport=up.transport, dialer=world.low.id, peer_epoch=up.epoch)
                for up in world.low.live
            ]
            kept = preferred(contenders)
            assert kept.transport == "quic"
            for up in world.low.live:
                if up.link != kept.link:
                    assert up.outgoing is not None
                    up.outgoing.close("closed", "a better link is up")
            await trio.sleep(120)
            assert [up.transport for up in world.low.live] == ["quic"]
            assert [up.transport for up in world.high.live] == ["quic"]
            assert len(world.low.of(LinkUp)) == 2

    run(body)


def test_an_accepted_link_is_as_good_as_a_dialed_one() -> None:
    async def body() -> None:
        world = World.make()
        control = world.low.control_of(world.high)
        reverse = world.high.control_of(world.low)
        async with trio.open_nursery() as nursery:
            await world.high.listen(nursery, "quic")
            await world.low.listen(nursery, "quic")
            nursery.start_soon(world.low.keep_linked, control)
            nursery.start_soon(world.high.keep_linked, reverse)
            now = trio.current_time()
            reverse.candidates_seen(both(world.low), "mdns", now)
            await world.low.until(lambda: world.low.live)
            control.link_up(world.low.live[0], now)
            control.candidates_seen(both(world.high)[:1], "mdns", now)
            await trio.sleep(300)
            assert len(world.low.of(LinkUp)) == 1
            assert not world.low.live[0].dialed
            nursery.cancel_scope.cancel()

    run(body)


def test_both_dialing_at_once_end_with_the_link_of_the_lower_id() -> None:
    async def body() -> None:
        world = World.make()
        async with trio.open_nursery() as nursery:
            for device, peer in ((world.low, world.high), (world.high, world.low)):
                await device.listen(nursery, "quic")
                control = device.control_of(peer)
                nursery.start_soon(device.keep_linked, control)
                control.candidates_seen(both(peer)[:1], "mdns", trio.current_time())
            await world.low.until(lambda: world.low.live)
            assert world.low.live[0].dialed, "the higher id waits 100 ms"
            for device in (world.low, world.high):
                await device.until(lambda device=device: len(device.live) == 2)
                assert _kept(device, world).transport == "quic"
                assert [up.dialed for up in device.live if up.link == _kept(device, world).link] == [
                    device is world.low
                ]
            nursery.cancel_scope.cancel()

    run(body)


def _kept(device: Device, world: World) -> Contender:
    peer = world.high if device is world.low else world.low
    return preferred(
        [
            Contender(
                link=up.link,
                transport=up.transport,
                dialer=device.id if up.dialed else peer.id,
                peer_epoch=up.epoch,
            )
            for up in device.live
        ]
    )


def test_a_peer_that_is_not_in_the_mesh_is_never_dialed() -> None:
    async def body() -> None:
        world, other = World.make(1), World.make(2)
        stranger = NodeId(bytes(16))
        control = PeerControl(
            me=world.low.id, peer=stranger, transports=["quic"], rng=random.Random(1), now=trio.current_time()
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.low.keep_linked, control)
            control.candidates_seen(both(other.high), "mdns", trio.current_time())
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert {failure.code for failure in world.low.of(DialFailed)} == {"P_NOT_MEMBER"}
        assert control.statistics(0.0).breaker.state is State.CLOSED

    run(body)


def test_somebody_who_connects_and_says_nothing_leaves_no_link() -> None:
    async def body() -> None:
        world = World.make()
        async with trio.open_nursery() as nursery:
            await world.high.listen(nursery, "quic")
            transport = world.high.transports["quic"]
            async with world.low.transports["quic"].dial(transport.address, world.high.pin):
                await world.high.until(lambda: world.high.of(AcceptFailed))
            assert world.high.of(AcceptFailed)[0].code == "P_TIMEOUT"
            assert not world.high.of(LinkUp)
            nursery.cancel_scope.cancel()

    run(body)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.003, 0.006, 0.01, 0.3, 30.0])
def test_cancelled_at_any_time_every_link_that_came_up_goes_down_once(after: float) -> None:
    async def body() -> None:
        world = World.make()
        async with trio.open_nursery() as listening:
            await world.high.listen(listening, "quic", "websocket")
            async with dialing(world, *both(world.high)) as (control, _):
                await trio.sleep(after)
            await trio.sleep(10)
            for device in (world.low, world.high):
                ups = [up.link for up in device.of(LinkUp)]
                assert ups == [down.link for down in device.of(LinkDown)]
            assert control.statistics(0.0).links == ()
            listening.cancel_scope.cancel()

    run(body)
