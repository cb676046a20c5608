"""What the router wants done."""

from typing import TypeAlias

import attrs

from meshd.ids import Epoch, NodeId
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
