"""The frames of routing: RFC 8966's update, seqno request and route request TLVs (section 4.6), as meshd sends them.

Over a link that is reliable and in order there are no hellos, acknowledgements or intervals.
"""

import attrs

from meshd.ids import NODE_ID_SIZE, Epoch, NodeId
from meshd.wire import codec
from meshd.wire.codec import array, blob, optional, record, uint

MAX_SEQNO = 2**32 - 1
METRIC_INFINITY = 0xFFFF
"""A route that is no more (RFC 8966 section 4.6.9)."""

MAX_ROUTES_PER_FRAME = 512
"""Each at most 112 bytes: a full frame stays under ``MAX_FRAME_BYTES``."""

MAX_REQUEST_HOPS = 127


@attrs.frozen
class RouteEntry:
    """A route that the sender offers, or retracts.

    Args:
        metric: the sender's own; 0 for the sender itself, ``METRIC_INFINITY`` retracts.
        epoch, seqno: the destination's, with its signature over them.
    """

    destination: NodeId
    epoch: Epoch
    seqno: int
    metric: int
    signature: bytes


@attrs.frozen
class RouteUpdate:
    """What has changed in the sender's routes (RFC 8966 section 4.6.9)."""

    routes: tuple[RouteEntry, ...]


@attrs.frozen
class SeqnoRequest:
    """Asks for a route to ``destination`` with this seqno or a newer one (RFC 8966 section 4.6.11)."""

    destination: NodeId
    epoch: Epoch
    seqno: int
    hops: int


@attrs.frozen
class RouteRequest:
    """Asks for an update about ``destination``; about all when None (RFC 8966 section 4.6.10)."""

    destination: NodeId | None


_node_id = blob(NODE_ID_SIZE)
_epoch = record(Epoch, uint(), blob(8))
_seqno = uint(MAX_SEQNO)

SHAPES: dict[int, codec.Shape] = {
    40: record(
        RouteUpdate,
        array(record(RouteEntry, _node_id, _epoch, _seqno, uint(METRIC_INFINITY), blob(64)), MAX_ROUTES_PER_FRAME),
    ),
    41: record(SeqnoRequest, _node_id, _epoch, _seqno, uint(MAX_REQUEST_HOPS)),
    42: record(RouteRequest, optional(_node_id)),
}
TYPES: dict[type, int] = {RouteUpdate: 40, SeqnoRequest: 41, RouteRequest: 42}
