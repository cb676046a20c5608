"""What discovery tells the node, and what it is told. Plain values over channels; no calls either way."""

from typing import Literal, TypeAlias

import attrs

from meshd.discovery.interfaces import Interface
from meshd.ids import NodeId
from meshd.transport.base import Address

Source: TypeAlias = Literal["mdns", "static", "card", "remembered"]


@attrs.frozen
class PeerSeen:
    """A member may be reached at ``addresses``: a hint, nothing is proven before the link's handshake.

    ``interface`` is the one it was heard on, None when it was not heard.
    """

    peer: NodeId
    addresses: tuple[Address, ...]
    source: Source
    interface: str | None


@attrs.frozen
class PeerGone:
    """No announcement of the peer is left on ``interface``. A hint only: live links know better."""

    peer: NodeId
    interface: str


@attrs.frozen
class NetworkChanged:
    """Interfaces or addresses are now these. The first one tells the state at the start."""

    interfaces: tuple[Interface, ...]


@attrs.frozen
class Resumed:
    """The machine slept for ``slept_s`` seconds and is awake again."""

    slept_s: float


@attrs.frozen(kw_only=True)
class ThriftChanged:
    """What this device is to be sparing with: its battery, a connection that is paid by volume."""

    on_battery: bool
    metered: bool

    @property
    def reason(self) -> str | None:
        """Why it saves, as one word; None when it does not."""
        return "metered" if self.metered else "battery" if self.on_battery else None


@attrs.frozen
class Announce:
    """What this device is to announce.

    Args:
        genesis_hash: of its mesh; None while it is in no mesh, and then nothing is announced or heard.
        quic_port, websocket_port: where it listens; None for a transport that it does not listen on.
    """

    genesis_hash: bytes | None
    node_id: NodeId
    quic_port: int | None
    websocket_port: int | None


@attrs.frozen
class Members:
    """Whom to look for: the roster's members that are not removed. This device itself may be among them."""

    ids: frozenset[NodeId]
