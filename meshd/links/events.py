"""What links tell the node. Posted to its inbox; a link never calls into the node."""

from typing import Protocol, TypeAlias

import attrs

from meshd.ids import Epoch, NodeId
from meshd.transport.base import Address
from meshd.wire.frames import BundleFrame, Frame


class Mailbox(Protocol):
    """What the node writes into to send over a link. Nothing here waits; after the link's end it does nothing."""

    @property
    def queued_bytes(self) -> int:
        """Bytes handed over here and not yet to the transport."""

    def send_control(self, frame: Frame) -> None:
        """Queue a small frame; it overtakes bundles. Too many unsent ones end the link with P_FLOOD."""

    def send_bundle(self, frame: BundleFrame) -> None:
        """Queue a bundle with its whole body. The caller bounds how many wait (the hop-ack window)."""

    def close(self, code: str, reason: str) -> None:
        """Say Bye after the control frames queued so far, then end the link. Queued bundles are dropped."""

    def probe(self) -> None:
        """Doubt the link: four quick pings, and it is down when none is answered within about 1 s."""

    def expect(self) -> None:
        """There is reason to doubt the link unless something comes over it soon; without, it is reported as suspect."""


@attrs.frozen
class LinkUp:
    """A handshake ended in ``welcome``: frames may flow.

    Args:
        link: number of the link, unique in this process.
        dialed: whether this side opened it.
        epoch: the peer's epoch; seen: the highest epoch of ours that the peer knows.
        chain: the statements that came with the peer's proof, to be merged into the roster.
        tag: the same at both ends (``trust.handshake``), for logs.
        outgoing: the way to send; None only where nothing is sent (tests of the pure node).
    """

    link: int
    peer: NodeId
    transport: str
    remote: Address
    dialed: bool
    epoch: Epoch
    seen: Epoch | None
    chain: tuple[bytes, ...] = ()
    tag: str = ""
    outgoing: Mailbox | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class LinkDown:
    """The link is gone; nothing more will come from it.

    ``code`` is from errors.CATALOGUE, or ``closed`` (on purpose, by either side), or ``lost`` (the connection broke).
    """

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
    """A new round-trip sample, seconds; ``suspect`` while the peer is silent for longer than usual.

    Args:
        answered: pings answered in time since the last such event; lost: pings that were not.
        throughput: bytes per second while bundles were waiting to be sent; None when not measured.
    """

    link: int
    rtt: float | None
    suspect: bool
    answered: int = 0
    lost: int = 0
    throughput: float | None = None


@attrs.frozen
class DialFailed:
    """One attempt on one address ended without a link.

    ``proof``: statements, not checked, that are to show who was removed from the mesh.
    """

    peer: NodeId
    address: Address
    code: str
    reason: str
    proof: tuple[bytes, ...] = ()


@attrs.frozen
class AcceptFailed:
    """Somebody connected, and no link came of it."""

    remote: Address
    code: str
    reason: str


LinkEvent: TypeAlias = LinkUp | LinkDown | FramesReceived | LinkMeasured | DialFailed | AcceptFailed
