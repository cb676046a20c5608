"""From a fresh connection to a link that is up: the handshake's driver, and the announcement to the node.

The handshake itself is pure (``trust.handshake``); here are its deadline and its limits on size.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import trio

from meshd.errors import RemoteProtocolError
from meshd.links.context import LinkContext
from meshd.links.events import LinkDown, LinkUp
from meshd.links.link import run_link
from meshd.links.outgoing import Outgoing
from meshd.transport.base import Connection, Lane, TransportError
from meshd.trust.handshake import DialerHandshake, HandshakeResult, ListenerHandshake, RelayHandshake
from meshd.wire.frames import (
    MAX_FRAME_BYTES,
    MAX_HANDSHAKE_FRAME_BYTES,
    MAX_PROOF_FRAME_BYTES,
    Frame,
    Reject,
    Welcome,
    decode_frame,
    encode_frame,
)

HANDSHAKE_SECONDS = 5.0
REJECT_SECONDS = 1.0


async def open_as_dialer(connection: Connection, handshake: DialerHandshake) -> HandshakeResult:
    """Take the dialer's part until ``welcome``.

    Raises RemoteProtocolError (refused, a wrong proof, or P_TIMEOUT after 5 s) and TransportError.
    Cancelled, the connection is of no more use.
    """
    with _deadline():
        await _send(connection, handshake.start())
        while (result := handshake.done) is None:
            answer = handshake.receive(
                await _receive(connection, MAX_PROOF_FRAME_BYTES)
            )  # a Reject may prove its reason
            if answer is not None:
                await _send(connection, answer)
    connection.set_limit(MAX_FRAME_BYTES)
    return result


async def open_as_listener(connection: Connection, handshake: ListenerHandshake) -> HandshakeResult:
    """Take the listener's part; a dialer that is turned away is told why.

    Raises as :func:`open_as_dialer`.
    """
    limit = MAX_HANDSHAKE_FRAME_BYTES
    try:
        with _deadline():
            while True:
                answer = handshake.receive(await _receive(connection, limit))
                limit = MAX_PROOF_FRAME_BYTES  # the second frame is the proof
                if (result := handshake.done) is not None:
                    connection.set_limit(MAX_FRAME_BYTES)  # before Welcome: the dialer may answer it with anything
                if answer is not None:
                    await _send(connection, answer)
                if result is not None:
                    return result
    except RemoteProtocolError:
        if handshake.rejection is not None:
            await _reject(connection, handshake.rejection)
        raise


async def open_as_relay(
    connection: Connection, handshake: RelayHandshake, judge: Callable[[RelayHandshake], Awaitable[Welcome]]
) -> HandshakeResult:
    """Take the listener's part for whichever mesh the dialer proves to come from.

    Args:
        judge: lets ``handshake.applicant`` in or refuses it; raises RemoteProtocolError after a refusal.

    Raises as :func:`open_as_dialer`.
    """
    try:
        with _deadline():
            challenge = handshake.receive(await _receive(connection, MAX_HANDSHAKE_FRAME_BYTES))
            if challenge is not None:
                await _send(connection, challenge)
            handshake.receive(await _receive(connection, MAX_PROOF_FRAME_BYTES))
            welcome = await judge(handshake)
            connection.set_limit(MAX_FRAME_BYTES)  # before Welcome: the dialer may answer it with anything
            await _send(connection, welcome)
    except RemoteProtocolError:
        if handshake.rejection is not None:
            await _reject(connection, handshake.rejection)
        raise
    assert handshake.done is not None
    return handshake.done


def announce(connection: Connection, result: HandshakeResult, outgoing: Outgoing, context: LinkContext) -> LinkUp:
    """The event that tells the node of the new link."""
    return LinkUp(
        link=next(context.numbers),
        peer=result.peer,
        transport=connection.transport,
        remote=connection.remote,
        dialed=connection.dialed,
        epoch=result.peer_epoch,
        seen=result.seen,
        chain=result.chain,
        tag=result.tag,
        outgoing=outgoing,
    )


async def hear_dialer(connection: Connection) -> Sequence[bytes]:
    """Wait for the first frames of a dialer that has our welcome, at least its ping.

    A dialer that races several addresses drops all but one of the connections that reach ``welcome``. Only the
    one that it uses is a link. Raises RemoteProtocolError (P_TIMEOUT after 5 s) and TransportError.
    """
    with _deadline():
        return await connection.receive()


async def hold_link(
    connection: Connection, up: LinkUp, outgoing: Outgoing, context: LinkContext, *, heard: Sequence[bytes] = ()
) -> LinkDown:
    """Tell the node of the link, and run it to its end. See :func:`meshd.links.link.run_link`."""
    await context.post(up)
    return await run_link(
        connection,
        link=up.link,
        me=context.credentials().identity.node_id,
        peer=up.peer,
        outgoing=outgoing,
        post=context.post,
        clock=context.clock,
        rng=context.rng,
        ping_interval=context.ping_interval,
        heard=heard,
    )


@contextmanager
def _deadline() -> Iterator[None]:
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            yield
    except trio.TooSlowError as error:
        raise RemoteProtocolError("P_TIMEOUT", f"no handshake within {HANDSHAKE_SECONDS:.0f} s") from error


async def _send(connection: Connection, frame: Frame) -> None:
    await connection.send([encode_frame(frame)], Lane.CONTROL)


async def _receive(connection: Connection, limit: int) -> Frame:
    frames = await connection.receive()
    if len(frames) != 1:
        raise RemoteProtocolError("P_UNEXPECTED", "frames that nobody waits for, before the link is up")
    return decode_frame(frames[0], limit=limit)


async def _reject(connection: Connection, rejection: Reject) -> None:
    with trio.move_on_after(REJECT_SECONDS), suppress(TransportError):  # a courtesy: it is turned away either way
        await _send(connection, rejection)
