"""The router's tables as people see them: ``meshctl routes``, and sizes and counts."""

import enum

import attrs

from meshd.ids import NodeId
from meshd.routing import metric
from meshd.routing.route import Route, RouteTable
from meshd.routing.seqno import Seqno
from meshd.routing.source import Source, SourceTable


class RouteState(enum.Enum):
    """What is to be said about an entry of the route table."""

    SELECTED = "selected"
    FEASIBLE = "feasible"
    UNFEASIBLE = "unfeasible"
    STALE = "stale"
    """Of an epoch that the destination has left."""
    UNREACHABLE = "unreachable"
    """No route; the destination is held for a while (RFC 8966 section 3.5.4)."""


@attrs.frozen(kw_only=True)
class RouteView:
    """One line of ``meshctl routes``.

    Args:
        next_hop: None when unreachable. metric: from here, 1..0xFFFF.
        feasibility_distance: metric part of the source's; None when nothing was ever offered.
    """

    destination: NodeId
    next_hop: NodeId | None
    metric: int
    seqno: Seqno
    feasibility_distance: int | None
    state: RouteState


@attrs.frozen(kw_only=True)
class RouterStatistics:
    """Sizes of the tables, and counts since the start."""

    neighbours: int
    sources: int
    routes: int
    updates_sent: int
    entries_sent: int
    requests_sent: int
    entries_ignored: int
    requests_ignored: int


def route_views(sources: SourceTable, routes: RouteTable) -> tuple[RouteView, ...]:
    """All routes by destination, the selected one of each first; a destination without any is shown as unreachable."""
    views = []
    for destination, source in sources.items():
        for route in routes.to(destination).values():
            state = _state(source, route, routes.selected.get(destination))
            views.append(_view(source, state, route.announcement.seqno, route.neighbour.id, route.metric))
        if not routes.to(destination):
            views.append(_view(source, RouteState.UNREACHABLE, source.newest.seqno, None, metric.INFINITY))
    return tuple(sorted(views, key=lambda v: (v.destination, v.state is not RouteState.SELECTED, v.metric)))


def _state(source: Source, route: Route, selected: Route | None) -> RouteState:
    if route is selected:
        return RouteState.SELECTED
    if route.announcement.seqno.epoch != source.epoch:
        return RouteState.STALE
    return RouteState.FEASIBLE if route.is_usable(source) else RouteState.UNFEASIBLE


def _view(source: Source, state: RouteState, seqno: Seqno, next_hop: NodeId | None, total: int) -> RouteView:
    return RouteView(
        destination=source.newest.destination,
        next_hop=next_hop,
        metric=total,
        seqno=seqno,
        feasibility_distance=None if source.feasibility is None else source.feasibility.metric,
        state=state,
    )
