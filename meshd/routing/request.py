"""The table of pending seqno requests, our own and those passed on (RFC 8966 sections 3.2.7 and 3.8)."""

import attrs

from meshd.ids import NodeId
from meshd.routing.seqno import Seqno

RETRY_SECONDS = 0.5
RETRY_MAX_SECONDS = 60.0
"""Our own requests are repeated with doubled waits for as long as they are needed."""

SUPPRESS_SECONDS = 0.4
"""The same request isn't passed on again so soon: shorter than the first wait before a repetition."""

PENDING_SECONDS = 10.0
"""How long those who asked are remembered."""

REQUEST_HOPS = 127
"""How far a request may travel (section 3.8.2.1 asks for more than the diameter of the network)."""


@attrs.define(eq=False)
class Own:
    """What we ask for because we starve, or could do much better.

    Args:
        asked: the neighbours asked in this round.
        retry_at: when the next round begins; wait: seconds from then to the one after it.
    """

    wanted: Seqno
    retry_at: float
    wait: float = RETRY_SECONDS
    asked: set[NodeId] = attrs.field(factory=set)


@attrs.define(eq=False)
class PassedOn:
    """What neighbours asked for and we could not give.

    Args:
        wanted: the newest seqno that was asked for.
        fresh_until: until then a request for it is not passed on again.
        askers: each neighbour that waits, for which seqno, and until when.
    """

    wanted: Seqno
    fresh_until: float
    askers: dict[NodeId, tuple[Seqno, float]] = attrs.field(factory=dict)


class PendingRequests:
    """At most one request of each kind for each destination; the newer seqno replaces the older."""

    def __init__(self) -> None:
        self._own: dict[NodeId, Own] = {}
        self._passed_on: dict[NodeId, PassedOn] = {}

    def to_ask(
        self, destination: NodeId, wanted: Seqno, useful: list[NodeId], now: float
    ) -> tuple[list[NodeId], float]:
        """Which of the neighbours that may help have to be asked now, and when to come back to this."""
        own = self._own.get(destination)
        if own is None or wanted.is_newer_than(own.wanted):
            own = self._own[destination] = Own(wanted, now + RETRY_SECONDS)
        elif now >= own.retry_at:
            # Kept while nothing has to be asked: a route that comes and goes must not cost a request each time.
            was_idle = now >= own.retry_at + own.wait
            own.asked.clear()
            own.wait = RETRY_SECONDS if was_idle else min(2 * own.wait, RETRY_MAX_SECONDS)
            own.retry_at = now + own.wait
        new = [neighbour for neighbour in useful if neighbour not in own.asked]
        own.asked.update(new)
        return new, own.retry_at

    def pass_on(self, destination: NodeId, wanted: Seqno, asker: NodeId, now: float) -> bool:
        """Note that ``asker`` waits for ``wanted``. False when the request went out already."""
        pending = self._passed_on.get(destination)
        if pending is None:
            pending = self._passed_on[destination] = PassedOn(wanted, now)
        pending.askers[asker] = (wanted, now + PENDING_SECONDS)
        if not wanted.is_newer_than(pending.wanted) and now < pending.fresh_until:
            return False
        pending.wanted, pending.fresh_until = wanted, now + SUPPRESS_SECONDS
        return True

    def answerable(self, destination: NodeId, seqno: Seqno, now: float) -> list[NodeId]:
        """Whom to tell of a route with ``seqno``: all who wait for it or for an older one."""
        pending = self._passed_on.get(destination)
        if pending is None:
            return []
        # Each by its own wish: one who asks for an absurd seqno must not keep the others waiting.
        waiting = {asker: wish for asker, wish in pending.askers.items() if now < wish[1]}
        content = [asker for asker, (wanted, _) in waiting.items() if not wanted.is_newer_than(seqno)]
        pending.askers = {asker: wish for asker, wish in waiting.items() if asker not in content}
        if not pending.askers:
            del self._passed_on[destination]
        return content

    def forget(self, destination: NodeId) -> None:
        """Drop all about ``destination``."""
        self._own.pop(destination, None)
        self._passed_on.pop(destination, None)
