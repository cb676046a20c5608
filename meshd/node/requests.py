"""What apps ask of the node, typed. The API decodes requests into these and posts them to the inbox.

The node answers through the request's ``port`` with one Result or Failure, after any number of
Items for the requests that stream. All results are plain data: what the command contract
(``docs/protocol.md``) shows as JSON, with message bodies as bytes.
"""

from typing import Any, Literal, Protocol, TypeAlias

import attrs

from meshd.delivery.mailbox_effects import UNLIMITED_BYTES
from meshd.errors import MeshdError
from meshd.ids import BundleRef, Priority
from meshd.wire.bundle import Message

WaitState: TypeAlias = Literal["accepted", "sent", "delivered", "consumed"]


@attrs.frozen
class Result:
    """The final answer. ``value`` is plain data."""

    value: Any


@attrs.frozen
class Failure:
    """The final answer when the request can't be carried out."""

    error: MeshdError


@attrs.frozen
class Item:
    """One element of a stream."""

    value: Any


Reply: TypeAlias = Result | Failure | Item


class Port(Protocol):
    """The way back to one API client. Never blocks: streams are bounded by the client's credit."""

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        """Queue ``reply`` for the client; does nothing when the client is gone."""


@attrs.frozen
class Request:
    """The common part: who asked (``port``), its number there, and the local principal (``uid:1000``)."""

    port: Port
    id: int
    principal: str


@attrs.frozen(kw_only=True)
class Submit(Request):
    """Send messages to one service of one device; all are accepted, or none.

    Result: ``{"ids": [message id, ...], "state": state}`` once ``wait`` is reached;
    for a refused or expired message a Failure with E_REFUSED / E_EXPIRED; E_GONE when nobody can tell that it is read.

    Args:
        destination: name, id or unambiguous id prefix.
        lifetime_ms: None for the configured default (7 days).
        key: idempotency key, up to 64 characters, per principal; a repeat gets the first answer.
    """

    destination: str
    service: str
    messages: tuple[Message, ...]
    priority: Priority = Priority.NORMAL
    lifetime_ms: int | None = None
    ephemeral: bool = False
    wait: WaitState = "accepted"
    key: str | None = None


@attrs.frozen(kw_only=True)
class Await(Request):
    """Answer when the message has reached ``state`` (or can't any more). Result: ``{"id","state"}``."""

    ref: BundleRef
    index: int
    state: WaitState


@attrs.frozen(kw_only=True)
class Subscribe(Request):
    """Read a service as a durable named consumer, with an exclusive lease while the client is there.

    Streams Items: lists of batches ``[priority, first_offset, count, ref, source, source_name, age_ms,
    redelivered, late, missing, messages, first_index]`` where ``messages`` is an encoded CBOR list
    (``wire.bundle.decode_messages``), offsets of a batch are consecutive, ``ref`` and ``source`` are
    bytes, ``first_index`` is the first message's index in its bundle (for message ids; not 0 when a
    batch is delivered again in part), and ``missing`` is null or ``{"bundles": n or null, "reason": text}``:
    mail of the same source that will not come, right before this batch.

    Args:
        credit: messages the client is ready to take; more by AddCredit.
        room_bytes: of messages, as their lists are encoded, that may be on their way to it; more by AddCredit.
    """

    service: str
    consumer: str
    credit: int
    room_bytes: int = UNLIMITED_BYTES


@attrs.frozen(kw_only=True)
class Follow(Request):
    """Hear of what happens to devices, links and routes.

    Streams Items: lists of events as ``meshctl events --json`` shows them. A client without credit misses
    the oldest once too many wait, and is told how many by an event ``missed``.

    Args:
        last: how many of the events before this request to begin with.
        credit: events the client is ready to take; more by AddCredit.
    """

    last: int
    credit: int


@attrs.frozen(kw_only=True)
class AddCredit(Request):
    """The client is ready for ``messages`` (or events) more on the subscription, and has read so much. No answer."""

    subscription: int
    messages: int
    room_bytes: int = 0


@attrs.frozen(kw_only=True)
class Acknowledge(Request):
    """Acks of one subscription. Result ``{}`` once durable: these are never delivered to it again.

    Args:
        up_to: per priority, everything up to this offset (inclusive), cumulative.
        ranges: per priority, single spans (first, last) beyond it; at most 1,024.
        nack: spans to deliver again.
    """

    subscription: int
    up_to: dict[int, int]
    ranges: dict[int, tuple[tuple[int, int], ...]]
    nack: dict[int, tuple[tuple[int, int], ...]]


@attrs.frozen(kw_only=True)
class Cancel(Request):
    """Give up on request ``target`` of the same port; a subscription's lease is released."""

    target: int


@attrs.frozen(kw_only=True)
class Disconnected(Request):
    """The client is gone: drop its subscriptions and waiters. No answer."""


@attrs.frozen(kw_only=True)
class InitMesh(Request):
    """Found a mesh with this device as admin. Result as ``meshctl init`` plus ``recovery_words``."""

    name: str


@attrs.frozen(kw_only=True)
class Invite(Request):
    """Make a single-use code. Result ``{"code", "expires_in_s"}``."""

    expires_s: int
    role: str


@attrs.frozen(kw_only=True)
class Join(Request):
    """Enter a mesh with a code. Result as ``meshctl join``."""

    code: str
    name: str | None


@attrs.frozen(kw_only=True)
class Remove(Request):
    """Revoke a device for ever. Result ``{"id", "name"}``."""

    device: str


@attrs.frozen(kw_only=True)
class AddRelay(Request):
    """Take a relay into the mesh, or note that it has moved. Result ``{"id", "name", "url"}``.

    Args:
        certificate: DER; or certificate_hash: SHA-256 of the one that the relay shows over TLS.
        name: of the relay in the mesh; made from the URL when not given.
    """

    url: str
    certificate: bytes | None = None
    certificate_hash: bytes | None = None
    name: str | None = None


@attrs.frozen(kw_only=True)
class RemoveRelay(Request):
    """Shut a relay out, by name, id or URL, for ever. Result ``{"id", "name"}``."""

    relay: str


@attrs.frozen(kw_only=True)
class Echo(Request):
    """Measure round trips through the mesh. Result as ``meshctl ping``."""

    destination: str
    count: int
    timeout_s: float


@attrs.frozen(kw_only=True)
class ResetBreaker(Request):
    """Close a peer's breaker by hand, and dial it at once. Result ``{"id", "name", "breaker", "before"}``."""

    peer: str


@attrs.frozen(kw_only=True)
class CreateToken(Request):
    """Make a token for the HTTP gateway. Result ``{"name", "token", "created"}``; shown this once."""

    name: str


@attrs.frozen(kw_only=True)
class RevokeToken(Request):
    """Make a token worthless, at once. Result ``{"name"}`` when that is durable."""

    name: str


@attrs.frozen(kw_only=True)
class SetLogLevel(Request):
    """Log more or less until the daemon ends or reloads. Result ``{"level", "levels"}``, as they are then.

    Args:
        component: the beginning of a component's name; None for all. level: None for the configured one.
    """

    component: str | None
    level: str | None


@attrs.frozen(kw_only=True)
class Query(Request):
    """Ask for a view, by the name of its ``meshctl`` command: ``status``, ``peers``, ``trace`` and so on.

    ``argument`` is the message id for ``trace``, the device for ``why``, and how many for ``events``.
    Results as in the command contract.
    """

    view: str
    argument: Any = None
