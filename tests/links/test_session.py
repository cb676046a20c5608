from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from meshd.errors import RemoteProtocolError
from meshd.links.accept import accept
from meshd.links.events import AcceptFailed, LinkUp
from meshd.links.session import open_as_dialer, open_as_listener, open_as_relay
from meshd.transport.base import Connection, Lane, TransportError
from meshd.trust.handshake import DialerHandshake, HandshakeResult, ListenerHandshake, RelayHandshake
from meshd.wire.frames import (
    ALPN_LINK,
    MAX_FRAME_BYTES,
    MAX_PROOF_FRAME_BYTES,
    Cards,
    Challenge,
    Frame,
    Hello,
    Ping,
    Pong,
    Reject,
    Welcome,
    decode_frame,
    encode_frame,
)
from tests.links.world import Device, World, connected, run

Listen = Callable[[Connection], Awaitable[None]]


def dialer(world: World) -> DialerHandshake:
    me, peer = world.low, world.high
    return DialerHandshake(
        me.identity, me.roster, peer.id, peer.identity.certificate, ALPN_LINK, me.epoch, None, me.rng
    )


def listener(me: Device) -> ListenerHandshake:
    return ListenerHandshake(me.identity, me.roster, ALPN_LINK, me.epoch, me.seen, me.rng)


async def until_closed(connection: Connection) -> list[Frame]:
    heard: list[Frame] = []
    try:
        while True:
            heard += [decode_frame(data) for data in await connection.receive()]
    except TransportError:
        return heard


def test_both_sides_learn_who_the_other_is_and_large_frames_may_flow() -> None:
    async def body() -> None:
        world = World.make()
        world.high.seen[world.low.id] = world.low.epoch
        results: list[HandshakeResult] = []
        large = encode_frame(Cards(tuple(bytes(4096) for _ in range(16))))
        assert len(large) > 64 * 1024
        got: list[bytes] = []

        async def listen(connection: Connection) -> None:
            results.append(await open_as_listener(connection, listener(world.high)))
            got.extend(await connection.receive())

        async with connected(world, use_accepted=listen) as connection:
            result = await open_as_dialer(connection, dialer(world))
            await connection.send([large], Lane.BULK)
            await trio.sleep(1)
        assert (result.peer, result.peer_epoch, result.seen) == (world.high.id, world.high.epoch, world.low.epoch)
        assert [(r.peer, r.peer_epoch) for r in results] == [(world.low.id, world.low.epoch)]
        assert got == [large]
        assert len(large) <= MAX_FRAME_BYTES

    run(body)


def relayed(
    world: World, *, is_let_in: bool, got: list[bytes] | None = None
) -> tuple[list[HandshakeResult], list[str], Listen]:
    """How a relay takes connections: by its judge's word. What it led to is noted, and in ``got`` what came then."""
    me = world.high
    results: list[HandshakeResult] = []
    codes: list[str] = []

    async def judge(handshake: RelayHandshake) -> Welcome:
        await trio.sleep(1)
        assert handshake.applicant is not None
        assert handshake.applicant.peer == world.low.id
        if is_let_in:
            return handshake.admit(me.roster, (), me.epoch, world.low.epoch)
        error = RemoteProtocolError("P_OTHER_MESH", "this relay serves other meshes")
        handshake.refuse(error)
        raise error

    async def listen(connection: Connection) -> None:
        try:
            results.append(await open_as_relay(connection, RelayHandshake(me.identity, ALPN_LINK, me.rng), judge))
        except RemoteProtocolError as error:
            codes.append(error.code)
        else:
            frames = await connection.receive()
            if got is not None:
                got.extend(frames)

    return results, codes, listen


def test_a_relay_lets_in_whom_its_judge_does_and_large_frames_may_flow() -> None:
    async def body() -> None:
        world = World.make()
        got: list[bytes] = []
        large = encode_frame(Cards(tuple(bytes(4096) for _ in range(16))))
        results, codes, listen = relayed(world, is_let_in=True, got=got)
        async with connected(world, use_accepted=listen) as connection:
            result = await open_as_dialer(connection, dialer(world))
            await connection.send([large], Lane.BULK)
            await trio.sleep(1)
        assert got == [large]
        assert (result.peer, result.seen) == (world.high.id, world.low.epoch)
        assert [(one.peer, one.peer_epoch) for one in results] == [(world.low.id, world.low.epoch)]
        assert codes == []

    run(body)


def test_a_relay_tells_whom_its_judge_refuses_why() -> None:
    async def body() -> None:
        world = World.make()
        results, codes, listen = relayed(world, is_let_in=False)
        async with connected(world, use_accepted=listen) as connection:
            with pytest.raises(RemoteProtocolError, match="this relay serves other meshes") as caught:
                await open_as_dialer(connection, dialer(world))
        assert (caught.value.code, codes, results) == ("P_OTHER_MESH", ["P_OTHER_MESH"], [])

    run(body)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([], "P_TIMEOUT"),
        ([encode_frame(Ping(1))], "P_UNEXPECTED"),
        ([b"x" * 5000], "P_OVERSIZED"),
        ([encode_frame(Hello((1,), bytes(32)))], "P_TIMEOUT"),
        ([encode_frame(Hello((1,), bytes(32))), encode_frame(Ping(1))], "P_UNEXPECTED"),
        ([encode_frame(Hello((1,), bytes(32))), bytes(MAX_PROOF_FRAME_BYTES + 1)], "P_OVERSIZED"),
    ],
)
def test_a_relay_hears_hello_and_proof_alone_and_not_for_long(frames: list[bytes], code: str) -> None:
    async def body() -> None:
        world = World.make()
        results, codes, listen = relayed(world, is_let_in=True)
        async with connected(world, use_accepted=listen) as connection:
            connection.set_limit(MAX_FRAME_BYTES)
            for frame in frames:
                await connection.send([frame], Lane.CONTROL)
                await trio.sleep(0.1)
            heard = await until_closed(connection)
            assert trio.current_time() <= 6.5
        assert (results, codes) == ([], [code])
        assert all(isinstance(frame, Challenge | Reject) for frame in heard)

    run(body)


@pytest.mark.parametrize("side", ["dialer", "listener"])
def test_a_silent_other_side_is_given_up_after_five_seconds(side: str) -> None:
    async def body() -> None:
        world = World.make()
        codes: list[str] = []

        async def silent(_: Connection) -> None:
            await trio.sleep_forever()

        async def listen(connection: Connection) -> None:
            with pytest.raises(RemoteProtocolError) as caught:
                await open_as_listener(connection, listener(world.high))
            codes.append(caught.value.code)

        async with connected(world, use_accepted=silent if side == "dialer" else listen) as connection:
            start = trio.current_time()
            if side == "dialer":
                with pytest.raises(RemoteProtocolError) as caught:
                    await open_as_dialer(connection, dialer(world))
                codes.append(caught.value.code)
            else:
                with pytest.raises(TransportError):
                    await connection.receive()
            assert 4.9 <= trio.current_time() - start <= 5.1
        assert codes == ["P_TIMEOUT"]

    run(body)


def test_a_stranger_is_told_why_it_is_turned_away() -> None:
    async def body() -> None:
        world, other = World.make(1), World.make(2)
        codes: list[str] = []

        async def listen(connection: Connection) -> None:
            with pytest.raises(RemoteProtocolError) as caught:
                await open_as_listener(connection, listener(world.high))
            codes.append(caught.value.code)

        async with connected(world, use_accepted=listen) as connection:
            stranger = DialerHandshake(
                other.low.identity,
                other.low.roster,
                other.high.id,
                other.high.identity.certificate,
                ALPN_LINK,
                other.low.epoch,
                None,
                other.low.rng,
            )
            with pytest.raises(RemoteProtocolError) as caught:
                await open_as_dialer(connection, stranger)
        assert codes == ["P_OTHER_MESH"]
        assert caught.value.code == "P_OTHER_MESH"

    run(body)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\xff garbage"], "P_MALFORMED"),
        ([b"x" * 5000], "P_OVERSIZED"),
        ([encode_frame(Ping(1))], "P_UNEXPECTED"),
        ([encode_frame(Hello((1,), bytes(32)))] * 2, "P_UNEXPECTED"),
    ],
)
def test_nonsense_before_the_link_is_up_ends_the_handshake(frames: list[bytes], code: str) -> None:
    async def body() -> None:
        world = World.make()
        codes: list[str] = []

        async def listen(connection: Connection) -> None:
            with pytest.raises(RemoteProtocolError) as caught:
                await open_as_listener(connection, listener(world.high))
            codes.append(caught.value.code)

        async with connected(world, use_accepted=listen) as connection:
            await connection.send(frames, Lane.CONTROL)
            heard = await until_closed(connection)
        assert codes == [code]
        assert all(isinstance(frame, Challenge | Reject) for frame in heard)

    run(body)


def test_a_cancelled_handshake_ends_at_once() -> None:
    async def body() -> None:
        world = World.make()

        async def silent(_: Connection) -> None:
            await trio.sleep_forever()

        async with connected(world, use_accepted=silent) as connection:
            with trio.move_on_after(1) as scope:
                await open_as_dialer(connection, dialer(world))
            assert scope.cancelled_caught
            assert trio.current_time() < 2

    run(body)


def test_a_listener_says_and_tells_nothing_before_the_dialer_uses_the_link() -> None:
    async def body() -> None:
        world = World.make()
        async with connected(world, use_accepted=partial(accept, context=world.high.context)) as connection:
            await open_as_dialer(connection, dialer(world))
            with trio.move_on_after(2) as waited:
                await connection.receive()
            assert waited.cancelled_caught
            assert world.high.events == []
            await connection.send([encode_frame(Ping(7))], Lane.CONTROL)
            await world.high.until(lambda: world.high.of(LinkUp))
            [first] = await connection.receive()
            assert decode_frame(first) == Pong(7)

    run(body)


@pytest.mark.parametrize("silent", [True, False])
def test_a_connection_that_its_dialer_does_not_use_is_no_link(silent: bool) -> None:
    async def body() -> None:
        world = World.make()
        async with connected(world, use_accepted=partial(accept, context=world.high.context)) as connection:
            await open_as_dialer(connection, dialer(world))
            if not silent:
                await connection.aclose()
            await world.high.until(lambda: world.high.events)
        [failed] = world.high.events
        assert isinstance(failed, AcceptFailed)
        assert failed.code == ("P_TIMEOUT" if silent else "lost")

    run(body)
