"""Which end-to-end keys are in use: ours towards each destination, and each source's towards us."""

import random
from collections import OrderedDict
from collections.abc import Callable

import attrs

from meshd.ids import BundleId, NodeId
from meshd.trust.card import Card
from meshd.trust.identity import Identity
from meshd.trust.seal import DestinationSession, SourceSession
from meshd.wire.bundle import Head, bundle_id
from meshd.wire.frames import BundleFrame

SESSION_LIFETIME_S = 3600.0
SESSION_BUNDLES = 100_000
_FRAME_COST_BYTES = 1024
"""What a held bundle takes beside its body."""

MAX_SESSIONS = 1024
"""Of one source, kept here; it is asked to offer again what is needed of older ones."""

HELD_BYTES = 4 * 1024 * 1024
"""Bundles kept unopened, in all, until their session's offer comes."""

NEED_OFFER_INTERVAL_S = 1.0

EPHEMERAL_HELD_S = 5.0
"""An ephemeral bundle waits no longer than this for its session's offer."""


@attrs.define(eq=False)
class _Outgoing:
    session: SourceSession
    card_version: int
    destination: NodeId
    started: float
    made_ms: int
    next_counter: int = 1
    stored: bool = False
    confirmed: bool = False


class OutgoingSessions:
    """Our sessions, one current per destination. Roots of all that pending mail used are kept."""

    def __init__(self, identity: Identity, rng: random.Random) -> None:
        self._identity = identity
        self._rng = rng
        self._current: dict[NodeId, _Outgoing] = {}
        self._by_id: dict[bytes, _Outgoing] = {}

    def for_destination(
        self, destination: NodeId, public_key: bytes, card: Card, now: float
    ) -> tuple[SourceSession, int, bool]:
        """The session to seal with, the counter to use, and whether its root has still to be :meth:`stored`."""
        current = self._current.get(destination)
        fresh = (
            current is None
            or now - current.started > SESSION_LIFETIME_S
            or current.next_counter > SESSION_BUNDLES
            or current.card_version != card.version
        )
        if current is None or fresh:
            session = SourceSession.create(self._identity, public_key, card, self._rng)
            current = _Outgoing(session, card.version, destination, now, int(now * 1000))
            self._current[destination] = current
            self._by_id[session.id] = current
        counter = current.next_counter
        current.next_counter += 1
        return current.session, counter, not current.stored

    def stored(self, session_id: bytes) -> None:
        """The root is on disk: a bundle of this session may be stored without it."""
        if session_id in self._by_id:
            self._by_id[session_id].stored = True

    def restore(self, destination: NodeId, session: SourceSession, made_ms: int) -> None:
        """A session of an earlier life, for rewrapping and for reading our own pending mail."""
        self._by_id[session.id] = _Outgoing(session, 0, destination, 0.0, made_ms)

    def find(self, session_id: bytes) -> SourceSession | None:
        """The session with this id, if we still have it."""
        outgoing = self._by_id.get(session_id)
        return None if outgoing is None else outgoing.session

    def offer_for(self, session_id: bytes) -> bytes | None:
        """The offer to send beside bundles of this session, until the destination has confirmed it."""
        outgoing = self._by_id.get(session_id)
        if outgoing is None or outgoing.confirmed or not outgoing.session.offer:
            return None
        return outgoing.session.offer

    def confirm(self, session_id: bytes) -> None:
        """A bundle of this session was receipted."""
        outgoing = self._by_id.get(session_id)
        if outgoing is not None:
            outgoing.confirmed = True

    def rewrap(self, session_id: bytes, card: Card) -> bytes | None:
        """A new offer of the same root for the destination's newer prekey; None unless the session is with it."""
        outgoing = self._by_id.get(session_id)
        if outgoing is None or outgoing.destination != card.node:  # whoever sees a bundle can name its session
            return None
        return outgoing.session.rewrap(card)

    def forget_before(self, made_ms: int) -> list[tuple[NodeId, bytes]]:
        """Drop the sessions made before then; return (destination, id) of each."""
        outdated = [(item.destination, id) for id, item in self._by_id.items() if item.made_ms < made_ms]
        for destination, id in outdated:
            outgoing = self._by_id.pop(id)
            if self._current.get(destination) is outgoing:
                del self._current[destination]
        return outdated


@attrs.frozen
class HeldBundle:
    """A bundle that waits unopened, at most ``until`` (mesh-local seconds), and the link it came over."""

    link: int
    frame: BundleFrame
    head: Head
    until: float

    @classmethod
    def of(cls, link: int, frame: BundleFrame, head: Head, now: float) -> "HeldBundle":
        """It came just now."""
        remaining_s = max(0, head.lifetime_ms - frame.age_ms) / 1000
        return cls(
            link, frame, head, now + (min(remaining_s, EPHEMERAL_HELD_S) if head.flow.ephemeral else remaining_s)
        )

    @property
    def key(self) -> tuple[NodeId, bytes]:
        """Source and session."""
        return self.head.flow.source, self.head.session

    @property
    def id(self) -> BundleId:
        """What its hop calls it."""
        return bundle_id(self.frame.head, self.frame.body)


class IncomingSessions:
    """Sessions that others offered us, and the bundles that wait unopened for an offer."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[NodeId, bytes], DestinationSession] = {}
        self._made_ms: dict[tuple[NodeId, bytes], int] = {}
        self._by_source: dict[NodeId, dict[bytes, None]] = {}
        self._stored: set[tuple[NodeId, bytes]] = set()
        self._held: OrderedDict[tuple[NodeId, bytes], list[HeldBundle]] = OrderedDict()
        self._held_bytes = 0
        self.next_end: float | None = None
        """When the first of what is held unopened may have waited long enough, mesh-local seconds."""
        self._asked: dict[tuple[NodeId, bytes], float] = {}

    def add(self, source: NodeId, session: DestinationSession, made_ms: int, *, stored: bool) -> bytes | None:
        """A session is known; ``stored`` when its root is on disk already.

        Returns the id of the source's oldest one when that had to go for it.
        """
        self._sessions[source, session.id] = session
        self._made_ms[source, session.id] = made_ms
        if stored:
            self._stored.add((source, session.id))
        ids = self._by_source.setdefault(source, {})
        ids[session.id] = None
        if len(ids) <= MAX_SESSIONS:
            return None
        oldest = next(iter(ids))
        self._forget((source, oldest))
        return oldest

    def _forget(self, key: tuple[NodeId, bytes]) -> None:
        del self._sessions[key], self._made_ms[key], self._by_source[key[0]][key[1]]
        self._stored.discard(key)

    def find(self, source: NodeId, session_id: bytes) -> DestinationSession | None:
        """The session that opens ``source``'s bundles of this id."""
        return self._sessions.get((source, session_id))

    def must_store(self, source: NodeId, session_id: bytes) -> bool:
        """Whether the root has to be committed together with the bundle at hand; says so once."""
        key = (source, session_id)
        if key in self._stored:
            return False
        self._stored.add(key)
        return True

    def hold(self, held: HeldBundle, now: float) -> bool:
        """Keep a bundle unopened; return whether the offer should be asked for now."""
        key = held.key
        self._held.setdefault(key, []).append(held)
        self._held_bytes += _cost(held.frame)
        self.next_end = held.until if self.next_end is None else min(self.next_end, held.until)
        if now - self._asked.get(key, -NEED_OFFER_INTERVAL_S) < NEED_OFFER_INTERVAL_S:
            return False
        self._asked[key] = now
        return True

    def evict(self) -> list[HeldBundle]:
        """Let go of the oldest while there is no room for all; they are to be sent again."""
        evicted: list[HeldBundle] = []
        while self._held_bytes > HELD_BYTES:
            evicted += self.take_held(*next(iter(self._held)))
        return evicted

    def take_held(self, source: NodeId, session_id: bytes) -> list[HeldBundle]:
        """The bundles that waited for this session, in the order they came."""
        self._asked.pop((source, session_id), None)
        held = self._held.pop((source, session_id), [])
        self._held_bytes -= sum(_cost(item.frame) for item in held)
        return held

    def take_held_where(self, is_over: Callable[[HeldBundle], bool]) -> list[HeldBundle]:
        """The bundles that need not wait for their session any longer."""
        taken: list[HeldBundle] = []
        for key, waiting in list(self._held.items()):
            over = [held for held in waiting if is_over(held)]
            if len(over) == len(waiting):
                self.take_held(*key)
            elif over:
                self._held[key] = [held for held in waiting if held not in over]
                self._held_bytes -= sum(_cost(held.frame) for held in over)
            taken += over
        self.next_end = min((held.until for waiting in self._held.values() for held in waiting), default=None)
        return taken

    def forget_before(self, made_ms: int) -> list[tuple[NodeId, bytes]]:
        """Drop the sessions made before then; return (source, id) of each."""
        outdated = [key for key, made in self._made_ms.items() if made < made_ms]
        for key in outdated:
            self._forget(key)
        return outdated


def _cost(frame: BundleFrame) -> int:
    return len(frame.body) + _FRAME_COST_BYTES
