"""What links tell the node. Posted to its inbox; a link never calls into the node."""

import attrs

from meshd.ids import Epoch, NodeId
from meshd.transport.base import Address
from meshd.wire.frames import Frame


@attrs.frozen
class LinkUp:
    """A handshake ended in ``welcome``: frames may flow.

    Args:
        link: number of the link, unique in this process.
        dialed: whether this side opened it.
        epoch: the peer's epoch; seen: the highest epoch of ours that the peer knows.
        chain: the statements that came with the peer's proof, to be merged into the roster.
    """

    link: int
    peer: NodeId
    transport: str
    remote: Address
    dialed: bool
    epoch: Epoch
    seen: Epoch | None
    chain: tuple[bytes, ...] = ()


@attrs.frozen
class LinkDown:
    """The link is gone; nothing more will come from it. ``code`` is from errors.CATALOGUE or ``closed``."""

    link: int
    peer: NodeId
    code: str
    reason: str


@attrs.frozen
class FramesReceived:
    """Frames in the order they came. BundleFrame bodies are whole: parts are joined before."""

    link: int
    frames: tuple[Frame, ...]


@attrs.frozen
class LinkMeasured:
    """A new round-trip sample, seconds; ``suspect`` while the peer is silent for longer than usual."""

    link: int
    rtt: float | None
    suspect: bool


@attrs.frozen
class DialFailed:
    """One attempt on one address ended without a link."""

    peer: NodeId
    address: Address
    code: str
    reason: str
