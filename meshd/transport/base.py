"""What a transport is: it dials and listens, and its connections carry whole frames.

The contract that every transport passes is ``tests/transport/test_contract.py``.
"""

import enum
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn, Protocol

import attrs
import trio


class TransportError(Exception):
    """A connection could not be made, or is gone. ``reason`` is one short line for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Lane(enum.Enum):
    """Frames of one lane stay in order. Control never waits behind bulk."""

    CONTROL = "control"
    BULK = "bulk"


@attrs.frozen
class Address:
    """Where a transport listens. ``host`` is an IP literal (IPv6 link-local with ``%interface``), or a name."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a literal of this machine alone."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False


@attrs.frozen
class Pin:
    """The one certificate a dialer accepts: DER bytes, and the name in it."""

    certificate: bytes
    server_name: str


class Connection(Protocol):
    """A live, encrypted, ordered pipe of whole frames between two processes.

    One task receives, and at most one task sends on each lane: another concurrent caller is a bug.
    A sender that waits on the bulk lane does not hold up the sender of the control lane.
    """

    transport: str
    dialed: bool
    """Whether this side opened it."""
    local: Address
    remote: Address
    alpn: str
    listener_certificate: bytes
    """DER of the listening side's certificate, as this side knows it."""

    async def send(self, frames: Sequence[bytes], lane: Lane = Lane.BULK) -> None:
        """Hand over whole frames, in order within the lane.

        Waits while the receiver is slow. Cancelled in the middle, the connection is broken.
        Raises TransportError when the connection is gone.
        """

    async def receive(self) -> Sequence[bytes]:
        """Return the next frames, at least one; waits for them. Cancel-safe.

        Raises TransportError when the connection is gone, RemoteProtocolError when the other side
        sent a frame over the limit.
        """

    def set_limit(self, size_bytes: int) -> None:
        """Accept frames of up to this size from now on.

        Called once, when the handshake has ended well: until then the limit is
        ``MAX_PROOF_FRAME_BYTES``, and a listener counts the connection as half-open.
        """

    async def aclose(self) -> None:
        """Close. Frames already handed over are sent, within a second. Never raises but Cancelled."""


Handler = Callable[[Connection], Awaitable[None]]


class Transport(Protocol):
    """One way of reaching other devices: ``quic``, ``websocket`` or ``memory``."""

    name: str

    def dial(self, address: Address, pin: Pin) -> AbstractAsyncContextManager[Connection]:
        """Connect to ``address``, trusting exactly the pinned certificate.

        The connection lives as long as the context. Raises TransportError with the reason.
        ``serve`` must be running (QUIC shares one socket for both roles).
        """

    async def serve(
        self, handler: Handler, *, task_status: trio.TaskStatus[Sequence[Address]] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Listen until cancelled; run ``handler`` in a task per connection, which closes when it returns.

        Reports the bound addresses once ready. Raises OSError when the port can't be had.
        """
