"""What a device tells its neighbours of whom it meets, and whether it carries mail for others."""

from collections.abc import Mapping

import attrs

from meshd.ids import NodeId
from meshd.wire import codec
from meshd.wire.codec import array, boolean, record, uint
from meshd.wire.frames import node_id

MAX_TOLD = 1024
_SCALE = 65_535
"""Predictabilities travel as this part of 1 (RFC 6693 section 4.3.2.2)."""


@attrs.frozen
class Encounters:
    """``carries``: whether it takes copies now; ``met``: how likely it is to meet others, 0 to 1."""

    carries: bool
    met: Mapping[NodeId, float]


_ENCOUNTERS = record(
    lambda carries, met: Encounters(carries, {node: p / _SCALE for node, p in met}),
    boolean,
    array(record(lambda node, p: (node, p), node_id, uint(_SCALE)), MAX_TOLD),
)


def encode_encounters(encounters: Encounters) -> bytes:
    """Its bytes; of more than :data:`MAX_TOLD` devices the most likely."""
    ranked = sorted(encounters.met.items(), key=lambda item: (-item[1], item[0]))[:MAX_TOLD]
    return codec.encode([encounters.carries, [[node, round(p * _SCALE)] for node, p in ranked]])


def decode_encounters(data: bytes) -> Encounters:
    """Inverse of :func:`encode_encounters`. Raises RemoteProtocolError."""
    encounters: Encounters = codec.parse(data, _ENCOUNTERS)
    return encounters
