"""The route table: what each neighbour offers for each destination, and which offer is used.

RFC 8966 sections 3.2.6 (route table), 3.5.3 (acquisition) and 3.6 (selection).
"""

from collections.abc import Iterable, Iterator, Mapping

import attrs

from meshd.ids import NodeId
from meshd.routing import metric
from meshd.routing.neighbour import Neighbour
from meshd.routing.seqno import Announcement
from meshd.routing.source import Distance, Source

EXPIRY_SECONDS = 1050.0
"""A route that isn't heard of for so long is dropped: 3.5 update intervals (RFC 8966 appendix B)."""

MAX_ROUTES_PER_NEIGHBOUR = 1024


@attrs.define(eq=False)
class Route:
    """One entry.

    Args:
        announcement: the destination's, as the neighbour passed it on last.
        offered: the neighbour's own metric, finite, as of its last update.
        closest: the closest distance it has offered since its link came up.
        heard_at: when the last update came.

    Feasibility is tested with ``closest``. The neighbour's own feasibility distance is never farther
    than that, which is all that loop freedom needs; so a route whose metric has only grown stays
    usable, where the RFC would call its update unfeasible (section 3.5.3) and wait for a new seqno.
    """

    neighbour: Neighbour
    announcement: Announcement
    offered: int
    closest: Distance
    heard_at: float

    @property
    def metric(self) -> int:
        """From here (section 3.5.2)."""
        return metric.extended(self.offered, self.neighbour.cost)

    def is_usable(self, source: Source) -> bool:
        """Of the destination's present epoch, reachable, and feasible."""
        is_present = self.announcement is source.newest or self.announcement.seqno.epoch == source.epoch
        return is_present and self.metric < metric.INFINITY and source.is_feasible(self.closest)

    def heard(self, announcement: Announcement, offered: int, now: float) -> None:
        """Take an update of this route."""
        self.announcement, self.offered, self.heard_at = announcement, offered, now
        distance = Distance(announcement.seqno, offered)
        if distance.is_closer_than(self.closest):
            self.closest = distance


def best(routes: Iterable[Route]) -> Route | None:
    """The one of the smallest metric; of equals, always the same one."""
    return min(routes, key=lambda route: (route.metric, route.neighbour.id), default=None)


def worth_a_request(routes: Iterable[Route], source: Source, selected: Route | None) -> list[NodeId]:
    """The neighbours whose routes would be selected, or replace the selected one, if a new seqno made them feasible.

    RFC 8966 sections 3.8.2.1 and 3.8.2.2.
    """
    limit = metric.INFINITY if selected is None else selected.metric * metric.SWITCH_RATIO
    return [r.neighbour.id for r in routes if r is not selected and r.metric < limit and not r.is_usable(source)]


class RouteTable:
    """All routes, by destination and neighbour, and the selected one of each destination."""

    def __init__(self) -> None:
        self._routes: dict[NodeId, dict[NodeId, Route]] = {}
        self._counts: dict[NodeId, int] = {}
        self.selected: dict[NodeId, Route] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[tuple[NodeId, Route]]:
        return iter([(to, route) for to, routes in self._routes.items() for route in routes.values()])

    def to(self, destination: NodeId) -> Mapping[NodeId, Route]:
        """The routes to ``destination``, by neighbour."""
        return self._routes.get(destination, {})

    def through(self, neighbour: NodeId) -> list[NodeId]:
        """The destinations that ``neighbour`` offers a route to."""
        return [destination for destination, routes in self._routes.items() if neighbour in routes]

    def heard(self, neighbour: Neighbour, announcement: Announcement, offered: int, now: float) -> bool:
        """Enter an update with a finite metric. False, and nothing done, when the neighbour has too many routes."""
        destination = announcement.destination
        route = self.to(destination).get(neighbour.id)
        if route is not None:
            route.heard(announcement, offered, now)
            return True
        count = self._counts.get(neighbour.id, 0)
        if count >= MAX_ROUTES_PER_NEIGHBOUR:
            return False
        self._counts[neighbour.id] = count + 1
        distance = Distance(announcement.seqno, offered)
        self._routes.setdefault(destination, {})[neighbour.id] = Route(neighbour, announcement, offered, distance, now)
        return True

    def remove(self, destination: NodeId, neighbour: NodeId) -> None:
        """Drop a route, if it is there; it isn't selected any more."""
        routes = self._routes.get(destination, {})
        route = routes.pop(neighbour, None)
        if route is None:
            return
        self._counts[neighbour] -= 1
        if not self._counts[neighbour]:
            del self._counts[neighbour]
        if not routes:
            del self._routes[destination]
        if self.selected.get(destination) is route:
            del self.selected[destination]


@attrs.define(eq=False)
class Selection:
    """Decides which route to use (section 3.6), with hysteresis.

    A working route is left only after another was much better for ``SWITCH_SECONDS``. The destination's own link is
    preferred unless another route is much better: devices that are linked with each other then offer the way to
    those around them, instead of each taking it over a third one (section 3.7.4 keeps that from being offered back).
    """

    _better_since: dict[NodeId, float] = attrs.field(factory=dict)

    def choose(self, destination: NodeId, source: Source, routes: RouteTable, now: float) -> float | None:
        """Set ``routes.selected``. Returns when to choose again if nothing happens until then."""
        usable = [route for route in routes.to(destination).values() if route.is_usable(source)]
        candidate = best(usable)
        direct = next((route for route in usable if route.neighbour.id == destination), None)
        if candidate and direct and not metric.is_much_better(candidate.metric, direct.metric):
            candidate = direct
        current = routes.selected.get(destination)
        if current is None or current not in usable:
            self._better_since.pop(destination, None)
            if candidate is None:
                routes.selected.pop(destination, None)
            else:
                routes.selected[destination] = candidate
            return None
        if candidate is None or not self._is_worth_it(candidate, current, direct):
            self._better_since.pop(destination, None)
            return None
        switch_at = self._better_since.setdefault(destination, now) + metric.SWITCH_SECONDS
        if now < switch_at:
            return switch_at
        del self._better_since[destination]
        routes.selected[destination] = candidate
        return None

    @staticmethod
    def _is_worth_it(candidate: Route, current: Route, direct: Route | None) -> bool:
        if candidate is current:
            return False
        return candidate is direct or metric.is_much_better(candidate.metric, current.metric)
