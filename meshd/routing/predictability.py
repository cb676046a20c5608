"""Delivery predictability: how likely this device is to meet another one, from whom it has met (RFC 6693). Pure.

Only the choice of carriers rests on it: a device that lies about its meetings attracts copies, and nothing else.
"""

import math
from collections.abc import Container, Iterable, Mapping

import attrs

from meshd.ids import NodeId

P_ENCOUNTER_MAX = 0.7
P_ENCOUNTER_FIRST = 0.5
P_FIRST_THRESHOLD = 0.1
"""Below this a device counts as never met (RFC 6693 section 2.1.2)."""
BETA = 0.9
"""What a meeting at second hand is worth."""
GAMMA = 0.999
"""What is left after one time unit."""
DELTA = 0.01
"""How far the best predictability stays below certainty."""
TIME_UNIT_S = 600.0
"""Seven eighths are left after a day, a third after a week: people come back daily or weekly."""
I_TYP_S = 1800.0
"""Meetings that are closer together than this count for less: a link that flaps is one meeting."""

MAX_KNOWN = 1024
"""Devices that are remembered; the least likely ones go first."""

_NEWS = 0.01


@attrs.frozen
class Known:
    """What is remembered of one device.

    Args:
        p: its predictability at the time ``at`` (mesh-local seconds).
        met_at: when the last meeting began or ended; None when it is known at second hand only.
    """

    p: float
    at: float
    met_at: float | None = None


def aged(p: float, seconds: float) -> float:
    """What is left of a predictability after so long (equation 2)."""
    return p * math.pow(GAMMA, max(0.0, seconds) / TIME_UNIT_S)


def encountered(p: float | None, interval_s: float) -> float:
    """The predictability after a meeting (equation 1); ``p`` is None at the first one.

    Args:
        interval_s: since the last meeting.
    """
    if p is None:
        return P_ENCOUNTER_FIRST
    p_encounter = P_ENCOUNTER_MAX * min(1.0, max(0.0, interval_s) / I_TYP_S)
    return max(p, p + (1 - DELTA - p) * p_encounter)


class Predictabilities:
    """One device's table. What changes is in ``changed`` until somebody takes it, to be stored."""

    def __init__(self, known: Mapping[NodeId, Known] | None = None) -> None:
        self._known: dict[NodeId, Known] = dict(known or {})
        self._here: set[NodeId] = set()
        self.changed: set[NodeId] = set()

    def __len__(self) -> int:
        return len(self._known)

    def known(self, node: NodeId) -> Known | None:
        """What is remembered of a device."""
        return self._known.get(node)

    def of(self, node: NodeId, now: float) -> float:
        """How likely a device is to be met; 0 when it is below the threshold, or was never met."""
        known = self._known.get(node)
        if known is None:
            return 0.0
        p = known.p if node in self._here else aged(known.p, now - known.at)
        return p if p >= P_FIRST_THRESHOLD else 0.0

    def vector(self, now: float) -> dict[NodeId, float]:
        """All that are above the threshold."""
        return {node: p for node in self._known if (p := self.of(node, now))}

    # --- what changes it

    def met(self, node: NodeId, now: float) -> None:
        """A meeting begins. It does not age while it lasts."""
        self._meet(node, now)
        self._here.add(node)

    def parted(self, node: NodeId, now: float) -> None:
        """A meeting ends: a long one counts again."""
        if node in self._here:
            self._meet(node, now)
            self._here.discard(node)

    def _meet(self, node: NodeId, now: float) -> None:
        before = self._known.get(node)
        p = self.of(node, now)
        if before is None or before.met_at is None:
            self._put(node, Known(max(p, encountered(None, 0)), now, now))
        else:
            self._put(node, Known(encountered(p or None, now - before.met_at), now, now))

    def heard(self, me: NodeId, peer: NodeId, vector: Mapping[NodeId, float], now: float) -> None:
        """What a device that is met now says of others (equation 3)."""
        p_peer = self.of(peer, now)
        for node, p in vector.items():
            before = self._known.get(node)
            p_transitive = p_peer * p * BETA
            if node in (me, peer) or node in self._here or p_transitive < P_FIRST_THRESHOLD:
                continue
            if p_transitive > self.of(node, now) + _NEWS:
                self._put(node, Known(p_transitive, now, None if before is None else before.met_at))

    def retain(self, members: Container[NodeId]) -> None:
        """Forget who is not in the mesh any more."""
        self._forget([node for node in self._known if node not in members])

    def _put(self, node: NodeId, known: Known) -> None:
        self._known[node] = known
        self.changed.add(node)
        if len(self._known) > MAX_KNOWN:
            others = (other for other in self._known if other != node)
            self._forget([min(others, key=lambda other: aged(self._known[other].p, known.at - self._known[other].at))])

    def _forget(self, nodes: Iterable[NodeId]) -> None:
        for node in nodes:
            del self._known[node]
            self._here.discard(node)
            self.changed.add(node)

    def take_changed(self) -> list[tuple[NodeId, Known | None]]:
        """What changed since the last call; None for what is forgotten."""
        changed, self.changed = self.changed, set()
        return [(node, self._known.get(node)) for node in sorted(changed)]
