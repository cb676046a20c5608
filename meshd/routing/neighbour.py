"""The neighbour table: devices with a link to here, and what each was told (RFC 8966 section 3.2.4).

The RFC's hello histories are missing: the link layer detects failure, and a link session is reliable
and in order. That is also why it is enough to tell a neighbour what has changed.
"""

import attrs

from meshd.ids import NodeId
from meshd.routing.budget import Budget
from meshd.routing.source import Distance

UPDATE_BURST = 32_768
UPDATES_PER_SECOND = 4096.0
"""Route entries taken from one neighbour. An honest one with 1,024 routes, all flapping, stays below
(``source.TRIGGERED_*``), with seconds to spare for what a slow link has held back."""

SIGNATURE_PRICE = 8
"""A new signature counts as so many entries: true ones can be replayed, and each costs 70 us to verify."""

REQUEST_BURST = 1024
REQUESTS_PER_SECOND = 100.0
"""Seqno and route requests answered or passed on for one neighbour; more are ignored, and come again."""

DUMP_BURST = 4
DUMPS_PER_SECOND = 0.1
"""Full updates given on request."""


@attrs.define(eq=False)
class Neighbour:
    """One entry; it lives as long as the link session.

    Args:
        cost: of the link to it, 1..0xFFFE.
        told: the last distance offered for each destination. Not told, or retracted: not here.
        owed: destinations to tell even if nothing changed, because it asked or is behind.
        owed_all: a full update is due.
    """

    id: NodeId
    cost: int
    told: dict[NodeId, Distance] = attrs.field(factory=dict)
    owed: set[NodeId] = attrs.field(factory=set)
    owed_all: bool = True
    updates: Budget = attrs.field(factory=lambda: Budget(UPDATE_BURST, UPDATES_PER_SECOND))
    requests: Budget = attrs.field(factory=lambda: Budget(REQUEST_BURST, REQUESTS_PER_SECOND))
    dumps: Budget = attrs.field(factory=lambda: Budget(DUMP_BURST, DUMPS_PER_SECOND))


NeighbourTable = dict[NodeId, Neighbour]
