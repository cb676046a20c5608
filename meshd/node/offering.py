"""Offers of sessions: what opens a bundle goes before it, once on each link."""

from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import NodeId
from meshd.node.peers import Link
from meshd.node.turn import Turn
from meshd.wire.frames import MAX_HOPS, Kind, Routed


class Offers:
    """Sends them; ``Link.offered`` says which went where."""

    def __init__(self, me: NodeId, sessions: OutgoingSessions) -> None:
        self._me = me
        self._sessions = sessions

    def send_once(self, turn: Turn, link: Link, destination: NodeId, session: bytes) -> None:
        """The offer of a session whose bundle is about to leave on a link, unless the destination has it."""
        offer = self.take_once(link, session)
        if offer is not None:
            turn.send(link.number, Routed(self._me, destination, MAX_HOPS, Kind.OFFER, offer))

    def take_once(self, link: Link, session: bytes) -> bytes | None:
        """The same, for whoever sends it in another way."""
        if session in link.offered:
            return None
        link.offered.add(session)
        return self._sessions.offer_for(session)
