"""Which devices to be linked with, in a mesh that has more of them than a device keeps links. Pure.

A device looks for links until it has half of what it may keep, and takes those that others make until
it has all. Above that it gives up one at a time, the worst first, and never one that it may need: the
caller knows from its routes which those are. A link that was given up is not dialed again by either
end as long as the other can be reached. Whom a device can't reach at all, it dials whatever the
number: being connected comes before the budget, so ends of the only bridge between two parts of a
mesh may exceed it.

Which devices to try first is drawn by the hash of the pair, which both ends know: neighbours are spread over
the mesh evenly, and the mesh holds together when some fail.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable

import attrs

from meshd.ids import NodeId

SURPLUS = "E_SURPLUS"
"""How a link ends that was given up."""

SAVING_LINKS = 4
"""So many at most while the device saves power, or its connection is metered."""

DIALS_AT_ONCE = 4
DIAL_PATIENCE_SECONDS = 2.0
"""A dial that takes longer holds up no other: its device may well be off."""

SETTLE_SECONDS = 5.0
"""A device without a route is dialed after so long: routes are found later than links, and may be changing."""

YOUNG_SECONDS = 5.0
"""A link is not given up before: what it is needed for shows when routes have settled."""

DROP_PAUSE_SECONDS = (0.5, 1.5)
"""Between two links given up, at random: neighbours that do so at once see each other's routes change in between."""

RETRY_SECONDS = 5.0
"""When no link can be spared, it is looked again after so long."""

PARK_SECONDS = 600.0
"""A link that was given up may be made again after so long, by a device that has too few."""

_SCORE_STEP = 10
"""Links whose scores differ by less are equally good."""


@attrs.frozen(kw_only=True)
class Prospect:
    """Another device of the mesh.

    Args:
        score: quality of the link to it, 0..100; None without a link.
        since: when the link came up.
        is_busy: mail is under way on the link.
        is_routed: there is a path to the device now, over a link or over others.
    """

    peer: NodeId
    score: int | None = None
    since: float = 0.0
    is_busy: bool = False
    is_routed: bool = False


@attrs.frozen(kw_only=True)
class Plan:
    """What to do until ``again_at``, or until a link or a route changes.

    Args:
        wanted: devices to be dialed when there is no link to them, and to be kept when there is.
        unhurried: those of them that are only dialed because nobody seems to reach them. When one comes back,
            everybody hears of it at once, and those who are quick make routes for the others.
        give_up: the device whose link is to be closed with SURPLUS.
    """

    wanted: frozenset[NodeId]
    unhurried: frozenset[NodeId] = frozenset()
    give_up: NodeId | None = None
    again_at: float = math.inf


class LinkBudget:
    """See the module. ``now`` is monotonic seconds, the same clock in every call.

    Args:
        max_links: how many links to keep.
    """

    def __init__(self, me: NodeId, max_links: int, rng: random.Random) -> None:
        self._me = me
        self._rng = rng
        self.max_links = max_links
        self._parked: dict[NodeId, float] = {}
        self._unrouted: dict[NodeId, float] = {}
        self._sought: dict[NodeId, float] = {}
        self._places: dict[NodeId, bytes] = {}
        self._drop_at = -math.inf

    def given_up(self, peer: NodeId, now: float) -> None:
        """The link to ``peer`` ended as SURPLUS, by the decision of either end."""
        self._parked[peer] = now

    def plan(self, prospects: Iterable[Prospect], can_spare: Callable[[NodeId], bool], now: float) -> Plan:
        """Decide.

        Args:
            prospects: every other device of the mesh.
            can_spare: whether all that is reached over the link to a device stays reachable without it.
        """
        everybody = sorted(prospects, key=self._place)
        linked = [prospect for prospect in everybody if prospect.score is not None]
        self._forget_all_but(everybody)
        wanted, again_at = self._seek(everybody, len(linked), now)
        unhurried: frozenset[NodeId] = frozenset()
        if len(everybody) > self.max_links and len(linked) >= self._enough:
            unhurried = frozenset(wanted) - {prospect.peer for prospect in linked}
        give_up = None
        if len(linked) > self.max_links:
            give_up, drop_at = self._surplus(linked, can_spare, now)
            again_at = min(again_at, drop_at)
        return Plan(wanted=frozenset(wanted), unhurried=unhurried, give_up=give_up, again_at=again_at)

    @property
    def _enough(self) -> int:
        return max(1, self.max_links // 2)

    def _seek(self, everybody: list[Prospect], links: int, now: float) -> tuple[set[NodeId], float]:
        """Whom to dial or keep, and when to think again."""
        wanted: set[NodeId] = set()
        again_at = math.inf
        seats = DIALS_AT_ONCE
        for prospect in everybody:
            peer = prospect.peer
            if prospect.score is not None:
                wanted.add(peer)
                continue
            due = self._due(prospect, len(everybody) <= self.max_links, links < self._enough, now)
            if due > now or not seats:
                again_at = min(again_at, max(due, now + DIAL_PATIENCE_SECONDS))
                self._sought.pop(peer, None)
                continue
            wanted.add(peer)
            patient_until = self._sought.setdefault(peer, now) + DIAL_PATIENCE_SECONDS
            if now < patient_until and len(everybody) > self.max_links:
                seats -= 1
                again_at = min(again_at, patient_until)
        return wanted, again_at

    def _due(self, prospect: Prospect, are_few: bool, has_room: bool, now: float) -> float:
        """When to dial a device without a link; infinite: not before something changes."""
        peer = prospect.peer
        parked_at = self._parked.get(peer)
        if not prospect.is_routed:
            alone_at = self._unrouted.setdefault(peer, now)
            return now if parked_at is None and (are_few or has_room) else alone_at + SETTLE_SECONDS
        if parked_at is not None:
            return parked_at + PARK_SECONDS if has_room else math.inf
        return now if are_few or has_room else math.inf

    def _surplus(
        self, linked: list[Prospect], can_spare: Callable[[NodeId], bool], now: float
    ) -> tuple[NodeId | None, float]:
        """A link to give up now, if any, and when to look for the next one."""
        if now < self._drop_at:
            return None, self._drop_at
        old = [prospect for prospect in linked if now - prospect.since >= YOUNG_SECONDS]
        old.sort(key=lambda p: (p.is_busy, (p.score or 0) // _SCORE_STEP))
        for prospect in old:
            if can_spare(prospect.peer):
                self._drop_at = now + self._rng.uniform(*DROP_PAUSE_SECONDS)
                return prospect.peer, self._drop_at
        self._drop_at = now + RETRY_SECONDS
        return None, self._drop_at

    def _place(self, prospect: Prospect) -> bytes:
        peer = prospect.peer
        if peer not in self._places:
            pair = min(self._me, peer) + max(self._me, peer)
            self._places[peer] = hashlib.sha256(pair).digest()
        return self._places[peer]

    def _forget_all_but(self, everybody: list[Prospect]) -> None:
        """What was remembered of devices that are linked, or have left, is over."""
        unlinked = {prospect.peer: prospect.is_routed for prospect in everybody if prospect.score is None}
        for memory in (self._parked, self._sought, self._unrouted):
            for peer in memory.keys() - unlinked.keys():
                del memory[peer]
        for peer in [peer for peer in self._unrouted if unlinked[peer]]:
            del self._unrouted[peer]
        members = {prospect.peer for prospect in everybody}
        for peer in self._places.keys() - members:
            del self._places[peer]
