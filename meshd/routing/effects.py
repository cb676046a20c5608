"""What the router wants done, and how it looks from outside."""

import enum
from typing import TypeAlias

import attrs

from meshd.ids import Epoch, NodeId
from meshd.routing.seqno import Seqno
from meshd.wire.routing import RouteRequest, RouteUpdate, SeqnoRequest


@attrs.frozen
class Send:
    """Send this control frame over the link to ``neighbour``."""

    neighbour: NodeId
    frame: RouteUpdate | SeqnoRequest | RouteRequest


@attrs.frozen
class RouteChanged:
    """Mail for ``destination`` goes to ``next_hop`` from now on; None: it has to wait."""

    destination: NodeId
    next_hop: NodeId | None


@attrs.frozen
class EpochNeeded:
    """This device needs an epoch above ``above``: commit one, then call ``Router.renew``.

    Either its seqnos are used up, or the mesh has its own signed word for an epoch that it has forgotten.
    """

    above: Epoch


Effect: TypeAlias = Send | RouteChanged | EpochNeeded


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
