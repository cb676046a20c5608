"""The listening side: what happens to each connection that a transport hands over."""

from meshd.errors import RemoteProtocolError
from meshd.links.context import LinkContext
from meshd.links.events import AcceptFailed
from meshd.links.outgoing import Outgoing
from meshd.links.session import announce, hear_dialer, hold_link, open_as_listener
from meshd.transport.base import Connection, TransportError
from meshd.trust.handshake import ListenerHandshake


async def accept(connection: Connection, *, context: LinkContext) -> None:
    """Find out who dialed us, and run the link; the handler for ``Transport.serve``.

    Posts LinkUp ... LinkDown, or AcceptFailed. The caller closes the connection.
    """
    credentials = context.credentials()
    handshake = ListenerHandshake(
        credentials.identity, credentials.roster, connection.alpn, credentials.epoch, credentials.seen, context.rng
    )
    try:
        result = await open_as_listener(connection, handshake)
        heard = await hear_dialer(connection)
    except RemoteProtocolError as error:
        await context.post(AcceptFailed(connection.remote, error.code, error.reason))
        return
    except TransportError as error:
        await context.post(AcceptFailed(connection.remote, "lost", error.reason))
        return
    outgoing = Outgoing()
    await hold_link(connection, announce(connection, result, outgoing, context), outgoing, context, heard=heard)
