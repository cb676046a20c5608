"""Seals of what arrives: the sessions that were offered to us, and the bundles that wait for an offer unopened."""

from collections.abc import Callable

import attrs

from meshd.delivery.sessions import HeldBundle, IncomingSessions
from meshd.errors import RemoteProtocolError
from meshd.ids import BundleId, NodeId
from meshd.node.membership import Membership
from meshd.node.peers import Link
from meshd.node.turn import Turn
from meshd.store.ops import DeleteFact, PutFact
from meshd.store.reads import Snapshot
from meshd.trust.seal import DestinationSession, UnknownPrekey, accept_offer, sign_need_offer
from meshd.wire import codec
from meshd.wire.bundle import Head
from meshd.wire.frames import MAX_HOPS, NOT_AUTHENTIC, BundleFrame, Busy, Kind, Refused, Routed

RETRY_AFTER_MS = 5_000


@attrs.frozen
class Arrival:
    """A bundle that came over a link, with what is known of it without opening it."""

    link: Link
    frame: BundleFrame
    head: Head
    id: BundleId

    @property
    def source(self) -> NodeId:
        """Who sealed it."""
        return self.head.flow.source


class Opening:
    """Opens bundles. What it held comes back to its caller, as if it had just arrived, once that is of use."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._sessions = IncomingSessions()

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the sessions of the last life that bundles were opened with."""
        sessions = [(*codec.decode(value), key) for key, value in snapshot.facts.get("session", {}).items()]
        for made_ms, root, key in sorted(sessions):
            source, session = NodeId(key[:16]), key[16:]
            self._sessions.add(source, DestinationSession(session, root), made_ms, stored=True)

    def session(self, turn: Turn, arrival: Arrival) -> DestinationSession | None:
        """What opens a bundle. None when nothing does yet: the bundle is held, and its source asked for the offer."""
        session = self._sessions.find(arrival.source, arrival.head.session)
        if session is None:
            self._hold(turn, arrival)
        return session

    def open(self, turn: Turn, arrival: Arrival) -> bytes | None:
        """The plaintext, or None: held for an offer, or not authentic (that costs the bundle, never the link)."""
        head, source = arrival.head, arrival.source
        session = self.session(turn, arrival)
        if session is None:
            return None
        try:
            plaintext = session.open(arrival.frame.head, head.counter, arrival.frame.body)
        except RemoteProtocolError:
            turn.tally.unauthentic += 1
            turn.turned_away[arrival.link.number].append(Refused(arrival.id, NOT_AUTHENTIC))
            turn.log("warning", "bundle not authentic", source=source, link=arrival.link.number)
            return None
        if self._sessions.must_store(source, head.session):
            value = codec.encode([turn.now_ms, session.root])
            turn.ops.append(PutFact("session", source + head.session, value))
        return plaintext

    def _hold(self, turn: Turn, arrival: Arrival) -> None:
        held = HeldBundle.of(arrival.link.number, arrival.frame, arrival.head, turn.now)
        if self._sessions.hold(held, turn.now):
            self._ask_for_offer(turn, arrival.link, arrival.source, arrival.head.session)
        for evicted in self._sessions.evict():
            _answer_unopened(turn, evicted, Busy(evicted.id, RETRY_AFTER_MS))

    def _ask_for_offer(self, turn: Turn, link: Link, source: NodeId, session: bytes) -> None:
        card = self._membership.own_card
        if card is not None:
            body = sign_need_offer(self._membership.identity, source, session, card)
            turn.send(link.number, Routed(self._membership.me, source, MAX_HOPS, Kind.NEED_OFFER, body))

    def offered(self, turn: Turn, link: Link, source: NodeId, offer: bytes) -> list[HeldBundle]:
        """A session offer came. Returns what waited for it. Raises RemoteProtocolError."""
        public_key = self._membership.public_key(source)
        if public_key is None:
            return []
        try:
            accepted = accept_offer(self._membership.identity, public_key, offer, self._membership.prekeys)
        except UnknownPrekey as unknown:
            self._ask_for_offer(turn, link, source, unknown.session)
            return []
        if self._sessions.find(source, accepted.id) is None:
            session = DestinationSession(accepted.id, accepted.root)
            crowded_out = self._sessions.add(source, session, turn.now_ms, stored=False)
            if crowded_out is not None:
                turn.lazy_ops.append(DeleteFact("session", source + crowded_out))
        return self._sessions.take_held(source, accepted.id)

    @property
    def next_deadline(self) -> float | None:
        """When :meth:`end_waits` may have something to do, mesh-local seconds; never None while something is held."""
        return self._sessions.next_end

    def end_waits(self, turn: Turn) -> None:
        """Let go of what has waited long enough."""
        if self._sessions.next_end is not None and self._sessions.next_end <= turn.now:
            for ended in self._sessions.take_held_where(lambda held: held.until <= turn.now):
                _answer_unopened(turn, ended, Refused(ended.id, "expired"))

    def take_held_where(self, is_over: Callable[[HeldBundle], bool]) -> list[HeldBundle]:
        """The bundles that need not be opened any more."""
        return self._sessions.take_held_where(is_over)

    def forget_before(self, turn: Turn, made_ms: int) -> None:
        """Sessions made before then are of no more use."""
        outdated = self._sessions.forget_before(made_ms)
        turn.lazy_ops += [DeleteFact("session", source + session) for source, session in outdated]


def _answer_unopened(turn: Turn, held: HeldBundle, verdict: Busy | Refused) -> None:
    """Whoever handed it over waits for an answer, and has less room for other mail until one comes."""
    if not held.head.flow.ephemeral:  # that was answered for when it came
        turn.turned_away[held.link].append(verdict)
