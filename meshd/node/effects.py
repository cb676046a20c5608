"""What the node decides. The loop carries effects out; none of them answers by return."""

from typing import Any, TypeAlias

import attrs

from meshd.delivery.receipts import Receipt
from meshd.errors import MeshdError
from meshd.ids import Epoch, NodeId, Number, Priority
from meshd.node.insight.metrics import Family
from meshd.node.requests import Port, Query, Reply, Request
from meshd.store.ops import Op
from meshd.store.reads import Read
from meshd.transport.base import Address
from meshd.wire.frames import BundleFrame, Frame
from meshd.wire.inquiry import Topic


@attrs.frozen
class Commit:
    """Write ``ops`` in one transaction; a Committed event with the ticket follows.

    ``chained`` ops tell of a state that all earlier chained ones led to: after one has failed, all fail.
    """

    ticket: int
    ops: tuple[Op, ...]
    urgent: bool = True
    chained: bool = False


@attrs.frozen
class Load:
    """Read; a Loaded event with the ticket follows."""

    ticket: int
    read: Read


@attrs.frozen
class SendControl:
    """Queue a control frame on a link."""

    link: int
    frame: Frame


@attrs.frozen
class SendBundle:
    """Queue a bundle on a link, behind its control frames."""

    link: int
    frame: BundleFrame


@attrs.frozen
class CloseLink:
    """Say goodbye and close."""

    link: int
    code: str
    reason: str


@attrs.frozen
class Answer:
    """Reply to a request."""

    port: Port
    id: int
    reply: Reply


@attrs.frozen
class RenderMetrics:
    """Answer a request with these metrics as OpenMetrics text."""

    port: Port
    id: int
    families: tuple[Family, ...]


@attrs.frozen
class ChangeLogLevel:
    """Log more or less from now on, and answer the request. None: all components; the configured level."""

    request: Request
    component: str | None
    level: str | None


@attrs.frozen
class TellAlert:
    """Tell an alert to the hooks. ``change``: ``raised``, ``worsened`` or ``resolved``; ``alert`` is plain data."""

    change: str
    alert: dict[str, Any]


@attrs.frozen
class SeekPeer:
    """Keep a link to this peer, dialing these addresses among others. ``certificate`` (DER) is what to pin."""

    peer: NodeId
    certificate: bytes
    addresses: tuple[tuple[Address, str], ...]


@attrs.frozen
class WantLink:
    """Whether to dial this peer while there is no link to it; ``unhurried``: at leisure, when there is news of it."""

    peer: NodeId
    wanted: bool
    unhurried: bool = False


@attrs.frozen
class LeavePeer:
    """No link to this peer is wanted any more."""

    peer: NodeId


@attrs.frozen
class DataTimeout:
    """The peer swallows data without acks: its breaker should know."""

    peer: NodeId


@attrs.frozen
class DataAcked:
    """The peer acked data: the path carries."""

    peer: NodeId


@attrs.frozen
class ExpectLife:
    """A link's peer speaks to us another way: report the link as suspect unless something comes over it soon."""

    link: int


@attrs.frozen
class CloseBreaker:
    """A person closes the peer's breaker."""

    peer: NodeId


@attrs.frozen
class LocalReceipt:
    """Our receipt for our own mail; the node takes it itself once it is durable."""

    receipt: Receipt


@attrs.frozen
class EndStored:
    """The ends of bundles of earlier lives are on disk, ``lowest`` among them; the node takes it itself."""

    destination: NodeId
    priority: Priority
    lowest: Number


@attrs.frozen
class EpochStored:
    """A higher epoch of ours is on disk; the node takes it itself."""

    epoch: Epoch


@attrs.frozen
class Fail:
    """State in memory is ahead of a disk that failed: stop, and start again from the disk."""

    error: str
    reason: str


@attrs.frozen
class Announce:
    """Be visible on the LAN as a member of this mesh (None: of none)."""

    genesis_hash: bytes | None


@attrs.frozen
class AdmitAnswer:
    """The admission with this ticket is on disk: these go to the joiner. With ``error``, it is refused."""

    ticket: int
    genesis: bytes
    statements: tuple[bytes, ...]
    cards: tuple[bytes, ...]
    error: MeshdError | None = None


@attrs.frozen
class StartJoin:
    """Carry out a join with this code; a JoinFinished event follows."""

    ticket: int
    code: str
    name: str


@attrs.frozen
class InquiryEnded:
    """What an Inquire event with this ticket has found: decoded answers, how many seconds ago each was made,
    and why others did not answer."""

    ticket: int
    answers: dict[NodeId, Any]
    ages: dict[NodeId, float]
    silent: dict[NodeId, str]


@attrs.frozen
class Assist:
    """Do what a peer asks for and the node can't: an event Assisted with source and token follows.

    ``argument`` is what the topic has; ``remote`` where the peer's link comes from, None without one.
    """

    source: NodeId
    token: int
    topic: Topic
    argument: Any
    remote: Address | None


@attrs.frozen
class Examine:
    """Answer a request about what the node does not know itself: its configuration and its surroundings."""

    request: Query


@attrs.frozen
class FetchCertificate:
    """See which certificate is shown at this address; a CertificateFetched event follows."""

    ticket: int
    address: Address


@attrs.frozen
class Log:
    """A log line: ``event`` is a fixed name, ``fields`` never hold payloads, keys or codes."""

    level: str
    event: str
    fields: dict[str, Any]


Effect: TypeAlias = (
    Commit
    | Load
    | SendControl
    | SendBundle
    | CloseLink
    | ExpectLife
    | Answer
    | RenderMetrics
    | TellAlert
    | ChangeLogLevel
    | SeekPeer
    | WantLink
    | LeavePeer
    | DataTimeout
    | DataAcked
    | CloseBreaker
    | LocalReceipt
    | EndStored
    | EpochStored
    | Fail
    | Announce
    | AdmitAnswer
    | StartJoin
    | Examine
    | Assist
    | InquiryEnded
    | FetchCertificate
    | Log
)
