"""Whether a neighbour's link can be given up. Pure."""

from meshd.ids import NodeId
from meshd.routing.neighbour import NeighbourTable
from meshd.routing.route import Route, RouteTable


def can_spare(neighbour: NodeId, routes: RouteTable, neighbours: NeighbourTable) -> bool:
    """Whether ``neighbour``, and every destination whose selected route leads over it, is reached without it too.

    Feasibility (RFC 8966 section 3.5.1) would be too strict a test: among devices that are all as far from each
    other, no neighbour is nearer to the destination than this one. What is needed is an offer that does
    not lead back to here, and any that did would be longer than the route from here by at least a link.
    Half of the cheapest link allows for two ends that measure it differently. When the offer is not feasible,
    the destination is asked for a new seqno, as after any loss (section 3.8.2.1).
    """
    others = [entry.cost for entry in neighbours.values() if entry.id != neighbour]
    if not others:
        return False
    margin = min(others) / 2
    direct = routes.to(neighbour).get(neighbour)
    if direct is None or not _has_other(neighbour, direct, routes, margin):
        return False
    return all(
        _has_other(neighbour, selected, routes, margin)
        for selected in routes.selected.values()
        if selected.neighbour.id == neighbour
    )


def _has_other(neighbour: NodeId, selected: Route, routes: RouteTable, margin: float) -> bool:
    announcement = selected.announcement
    return any(
        route.neighbour.id != neighbour
        and route.announcement.seqno.epoch == announcement.seqno.epoch
        and route.offered < selected.metric + margin
        for route in routes.to(announcement.destination).values()
    )
