"""Carriers: devices that move between networks, and take copies along. Who is one, and which to choose. Pure.

Every device tells its neighbours whom it tends to meet, and whether it carries. A neighbour that is about as likely
as this device, or likelier, to meet a destination without a path is given copies. Before anybody knows anything of
the destination, any neighbour is.
"""

import attrs

from meshd.ids import NodeId
from meshd.node.membership import Membership
from meshd.node.peers import Link, Peers
from meshd.node.turn import Turn
from meshd.routing.predictability import Known, Predictabilities, aged
from meshd.store.ops import DeleteFact, PutFact
from meshd.store.reads import Snapshot
from meshd.wire import codec
from meshd.wire.encounters import Encounters, decode_encounters, encode_encounters
from meshd.wire.frames import Kind, Routed

CARRY_BYTES = 128 * 1024 * 1024
SETTLE_S = 5.0
"""How long a link must last, and a destination be away, before copies are given: most losses are mended sooner."""
TELL_INTERVAL_S = 60.0
"""Between what a device tells its neighbours of its meetings, but for the first time on a link."""
HEAR_INTERVAL_S = 10.0
"""What a neighbour tells sooner than that after the last time is not heard."""
BEARERS = 3
"""So many carriers are given each receipt and each floor."""

_ABOUT_AS_LIKELY = 0.8
_FACT = "encounter"


@attrs.define(eq=False)
class _Told:
    """What a neighbour said over one link."""

    encounters: Encounters
    at: float
    settles_at: float | None

    def of(self, node: NodeId, now: float) -> float:
        return aged(self.encounters.met.get(node, 0.0), now - self.at)


class Carriers:
    """Knows; ``spreading`` gives.

    Args:
        quota_bytes: how much may wait here for others before no more copies are taken; None: none ever are.
    """

    def __init__(self, membership: Membership, peers: Peers, *, quota_bytes: int | None) -> None:
        self._membership = membership
        self._peers = peers
        self.quota_bytes = quota_bytes
        self.table = Predictabilities()
        self._metered = False
        self._told: dict[int, _Told] = {}
        self._settling: dict[int, float] = {}
        self._away: dict[NodeId, float] = {}
        self._look_again: dict[NodeId, float] = {}
        self._told_at = 0.0
        self._tell_at: float | None = None

    def restore(self, snapshot: Snapshot) -> None:
        """Take up whom the last life has met."""
        stored = snapshot.facts.get(_FACT, {})
        self.table = Predictabilities({NodeId(node): Known(*codec.decode(value)) for node, value in stored.items()})

    @property
    def carries(self) -> bool:
        """Whether this device takes copies now. Not where every byte costs."""
        return self.quota_bytes is not None and not self._metered

    @property
    def _is_relay(self) -> bool:
        return self._membership.is_relay(self._membership.me)

    # --- meetings

    def link_changed(self, turn: Turn, peer: NodeId, before: Link | None, link: Link | None) -> None:
        """Another link to a device is in use now, the first one, or none any more."""
        if self._is_relay or self._membership.is_relay(peer):
            return
        if link is None:
            self.table.parted(peer, turn.now)
        elif before is None:
            self.table.met(peer, turn.now)
        self._store(turn)
        if link is not None:
            self._tell(turn, link)

    def link_ended(self, link: int) -> None:
        """What was said over a link counts no more."""
        self._told.pop(link, None)
        self._settling.pop(link, None)

    def heard(self, turn: Turn, link: Link, body: bytes) -> bool:
        """A neighbour told of its meetings; returns whether others may be chosen now. Raises RemoteProtocolError."""
        encounters = decode_encounters(body)
        before = self._told.get(link.number)
        if self._is_relay or (before is not None and turn.now < before.at + HEAR_INTERVAL_S):
            return False
        known = {node: p for node, p in encounters.met.items() if self._membership.public_key(node) is not None}
        encounters = attrs.evolve(encounters, met=known)
        settles_at = turn.now + SETTLE_S if before is None else before.settles_at
        self._told[link.number] = _Told(encounters, turn.now, settles_at)
        if before is None:
            self._settling[link.number] = turn.now + SETTLE_S
        elif encounters.carries and not before.encounters.carries and settles_at is None:
            self._settling[link.number] = turn.now
        self.table.heard(self._membership.me, link.peer, known, turn.now)
        self._store(turn)
        return settles_at is None

    def members_changed(self, turn: Turn) -> None:
        """The roster has changed."""
        self.table.retain({member.id for member in self._membership.members()})
        self._store(turn)

    def set_metered(self, turn: Turn, metered: bool) -> None:
        """Whether every byte costs from now on."""
        if metered != self._metered:
            self._metered = metered
            self._tell_all(turn)

    def _store(self, turn: Turn) -> None:
        for node, known in self.table.take_changed():
            if known is None:
                turn.lazy_ops.append(DeleteFact(_FACT, node))
                continue
            turn.lazy_ops.append(PutFact(_FACT, node, codec.encode([known.p, known.at, known.met_at])))
            if self._tell_at is None:
                self._tell_at = max(turn.now, self._told_at) + TELL_INTERVAL_S

    def _tell_all(self, turn: Turn) -> None:
        self._told_at, self._tell_at = turn.now, None
        for link in self._peers.links():
            self._tell(turn, link)

    def _tell(self, turn: Turn, link: Link) -> None:
        if self._is_relay or self._membership.is_relay(link.peer):
            return
        body = encode_encounters(Encounters(self.carries, self.table.vector(turn.now)))
        turn.send(link.number, Routed(self._membership.me, link.peer, 0, Kind.ENCOUNTERS, body))

    # --- choosing

    @property
    def is_alone(self) -> bool:
        """Whether nobody is to be given copies: no neighbour can be a carrier, or every byte costs."""
        return not self._told or self._metered

    def takers(self, destination: NodeId, now: float) -> list[Link]:
        """Neighbours to give copies for a device without a path to, the best first."""
        own = self.table.of(destination, now)
        ranked = [found for found in self._ranked(destination, now) if found[1].settles_at is None]
        is_known = own > 0 or any(told.of(destination, now) > 0 for _, told in ranked)
        wanted = own * _ABOUT_AS_LIKELY
        return [
            link
            for link, told in ranked
            if not is_known or (told.of(destination, now) > 0 and told.of(destination, now) >= wanted)
        ]

    def bearers(self, destination: NodeId, now: float) -> list[Link]:
        """Neighbours to give small signed state for a device without a path to, at once: they may soon be gone."""
        if not self._told or self._membership.public_key(destination) is None:
            return []
        return [link for link, _ in self._ranked(destination, now)[:BEARERS]]

    def _ranked(self, destination: NodeId, now: float) -> list[tuple[Link, _Told]]:
        found = []
        for link in self._peers.links():
            told = self._told.get(link.number)
            if told is None or not told.encounters.carries:
                continue
            if not (link.suspect or link.declines or link.peer == destination):
                found.append((link, told))
        # Who knows nothing of this destination, but meets many others, comes before who meets nobody.
        found.sort(
            key=lambda item: (-item[1].of(destination, now), -sum(item[1].encounters.met.values()), item[0].peer)
        )
        return found

    def is_away(self, destination: NodeId, now: float) -> bool:
        """Whether a destination without a path has been so for long enough; if not, :meth:`poll` tells when."""
        since = self._away.setdefault(destination, now)
        if now >= since + SETTLE_S:
            return True
        self._look_again[destination] = since + SETTLE_S
        return False

    def reached(self, destination: NodeId) -> None:
        """There is a path to a device."""
        if self._away:
            self._away.pop(destination, None)
            self._look_again.pop(destination, None)

    # --- time

    def next_deadline(self) -> float | None:
        """When :meth:`poll` has something to do, mesh-local seconds."""
        if not self._settling and not self._look_again:
            return self._tell_at
        dues = [*self._settling.values(), *self._look_again.values()]
        return min(dues if self._tell_at is None else [*dues, self._tell_at])

    def poll(self, turn: Turn) -> tuple[list[Link], list[NodeId]]:
        """Do what is due; return the neighbours that became carriers, and destinations that are away for good."""
        if self._tell_at is not None and self._tell_at <= turn.now:
            self._tell_all(turn)
        settled = [number for number, due in self._settling.items() if due <= turn.now]
        away = [node for node, due in self._look_again.items() if due <= turn.now]
        for node in away:
            del self._look_again[node]
        links = []
        for number in settled:
            del self._settling[number]
            told, link = self._told[number], self._peers.link(number)
            told.settles_at = None
            if link is not None and told.encounters.carries:
                links.append(link)
        return links, away
