"""Places of devices that a person wrote down (``discovery.static``)."""

from collections.abc import Collection, Sequence

from meshd.discovery.events import PeerSeen
from meshd.ids import NodeId
from meshd.kinds import StaticPeer
from meshd.transport.base import Address


def static_sightings(
    places: Sequence[StaticPeer], members: Collection[NodeId], transports: Sequence[str]
) -> tuple[PeerSeen, ...]:
    """One sighting for each member that has a configured place, with all its addresses.

    A place without a device id may be anybody's, so every member gets it, after the places of its own:
    the dialer trusts only the certificate of the peer it wants, so a wrong guess costs one handshake.

    Args:
        members: the other devices of the mesh; places of strangers are left out.
        transports: ``quic``, ``websocket``, in order of preference; each is tried on the place's port.
    """
    found = []
    for member in sorted(members):
        own = [place for place in places if place.node == member]
        anybody = [place for place in places if place.node is None]
        addresses = tuple(
            Address(transport, place.host, place.port) for place in own + anybody for transport in transports
        )
        if addresses:
            found.append(PeerSeen(member, addresses, "static", None))
    return tuple(found)
