"""Updates: what each neighbour is told, and when (RFC 8966 section 3.7)."""

from collections.abc import Iterable

import attrs

from meshd.ids import NodeId
from meshd.routing import metric
from meshd.routing.neighbour import Neighbour, NeighbourTable
from meshd.routing.origin import Origin
from meshd.routing.route import RouteTable
from meshd.routing.seqno import Announcement
from meshd.routing.source import Distance, SourceTable
from meshd.wire.routing import MAX_ROUTES_PER_FRAME, RouteEntry, RouteUpdate

INTERVAL_SECONDS = 300.0
"""Between periodic full updates (section 3.7.1), +-10 %. Rare, since links lose nothing: they only mend defects."""

GAP_SECONDS = 0.05
"""At least this between two rounds of triggered updates: what changes meanwhile goes into one frame."""
JITTER_SECONDS = 0.01
"""A first change after quiet waits no longer than this, so that its companions come along."""


@attrs.define(eq=False)
class Updates:
    """Compares what should be told with what was told, and tells the difference.

    Args:
        split_horizon: never offer a route to the neighbour it goes through (section 3.7.4). Saves traffic only.
    """

    origin: Origin
    sources: SourceTable
    routes: RouteTable
    neighbours: NeighbourTable
    split_horizon: bool = True
    _changed: dict[NodeId, None] = attrs.field(factory=dict)  # a set that keeps its order
    _earliest: float = float("-inf")

    @property
    def own(self) -> Announcement:
        """What this device says of itself."""
        return self.origin.announcement

    def changed(self, destination: NodeId) -> None:
        """The route to ``destination`` is another, or has another metric: a triggered update may be due (3.7.2)."""
        self._changed[destination] = None

    def earliest(self, now: float) -> float:
        """When the next round may be."""
        return max(now, self._earliest)

    def distance(self, destination: NodeId, neighbour: Neighbour) -> Distance | None:
        """What can truly be offered to ``neighbour`` now; None when nothing."""
        if destination == self.own.destination:
            return Distance(self.own.seqno, 0)
        route = self.routes.selected.get(destination)
        if route is None or destination == neighbour.id or (self.split_horizon and route.neighbour is neighbour):
            return None
        total = route.metric
        return None if total >= metric.INFINITY else Distance(route.announcement.seqno, total)

    def round(self, now: float) -> tuple[list[tuple[NodeId, RouteUpdate]], float | None]:
        """The updates to send, and when to make the next round if nothing else asks for one."""
        self._earliest = now + GAP_SECONDS
        entries: dict[NodeId, list[RouteEntry]] = {}
        retry_at: float | None = None
        for neighbour in self.neighbours.values():
            for destination in self._owed(neighbour):
                self._tell(destination, neighbour, entries)
        changed, self._changed = self._changed, {}
        for destination in changed:
            tellings = [n for n in self.neighbours.values() if self._is_news(destination, n)]
            source = self.sources.get(destination)
            if tellings and source is not None and not source.pace.take(now):
                self._changed[destination] = None
                ready_at = source.pace.ready_at(now)
                retry_at = ready_at if retry_at is None else min(retry_at, ready_at)
                continue
            for neighbour in tellings:
                self._tell(destination, neighbour, entries)
        updates = [
            (neighbour, RouteUpdate(tuple(told[at : at + MAX_ROUTES_PER_FRAME])))
            for neighbour, told in entries.items()
            for at in range(0, len(told), MAX_ROUTES_PER_FRAME)
        ]
        return updates, retry_at

    def _owed(self, neighbour: Neighbour) -> Iterable[NodeId]:
        owed, neighbour.owed = neighbour.owed, set()
        if not neighbour.owed_all:
            return sorted(owed)
        neighbour.owed_all = False
        everything = (self.own.destination, *self.routes.selected)
        owed.update(d for d in everything if self.distance(d, neighbour) is not None)
        return sorted(owed)

    def _is_news(self, destination: NodeId, neighbour: Neighbour) -> bool:
        told, distance = neighbour.told.get(destination), self.distance(destination, neighbour)
        if told is None or distance is None:
            return told is not distance
        return told.seqno.epoch != distance.seqno.epoch or metric.is_news(told.metric, distance.metric)

    def _tell(self, destination: NodeId, neighbour: Neighbour, entries: dict[NodeId, list[RouteEntry]]) -> None:
        source = self.sources.get(destination)
        distance = self.distance(destination, neighbour)
        if distance is None:
            neighbour.told.pop(destination, None)
            if source is None:
                return  # forgotten meanwhile: there is nothing left that could be said
            announcement, offered = source.newest, metric.INFINITY
        else:
            neighbour.told[destination] = distance
            announcement, offered = self._announcement(destination), distance.metric
            if source is not None:
                source.offered(distance)
        seqno = announcement.seqno
        entry = RouteEntry(destination, seqno.epoch, seqno.number, offered, announcement.signature)
        entries.setdefault(neighbour.id, []).append(entry)

    def _announcement(self, destination: NodeId) -> Announcement:
        if destination == self.own.destination:
            return self.own
        return self.routes.selected[destination].announcement
