"""What can be asked of the store, and what it answers. Times and rows are as in ``ops``."""

from typing import TypeAlias

import attrs

from meshd.ids import BundleRef, NodeId, Number, Priority
from meshd.store.ops import InboxRow, JournalEntry


@attrs.frozen
class ReadSpool:
    """Waiting rows of one destination and priority with ``row > after``, in order: our own, or others'.

    Answer: ``list[SpoolRow]``, at most ``max_rows``, and stopping after ``max_bytes`` of bodies.
    """

    destination: NodeId
    priority: Priority
    after: int
    max_rows: int
    max_bytes: int
    own: bool = True


@attrs.frozen
class ReadExpired:
    """Answer: ``tuple[list[ExpiredRow], next_expiry_ms | None]``: waiting spool rows whose time is over."""

    now_ms: int
    max_rows: int


@attrs.frozen
class ReadHeld:
    """Others' waiting rows of one flow with ``row > after``, in order; ``carried``: only copies, no custody.

    Answer: ``list[ExpiredRow]``, at most ``max_rows``.
    """

    source: NodeId
    destination: NodeId
    priority: Priority
    after: int
    max_rows: int
    carried: bool


@attrs.frozen
class ReadInbox:
    """Released rows of one service and priority with ``first_offset + count > offset``, in order.

    Answer: ``list[InboxRow]``, limits as in ReadSpool.
    """

    service: str
    priority: Priority
    offset: int
    max_rows: int
    max_bytes: int


@attrs.frozen
class ReadExpiredInbox:
    """Answer: ``tuple[list[InboxRow], next_expiry_ms | None]``: inbox rows (without messages) whose time is over."""

    now_ms: int
    max_rows: int


@attrs.frozen
class ReadTrace:
    """Answer: ``TraceRecord | None`` for a bundle of ours or one that passed."""

    ref: BundleRef


@attrs.frozen
class ReadKey:
    """Answer: the remembered ``bytes`` answer, or None."""

    principal: str
    key: str


Read: TypeAlias = ReadSpool | ReadHeld | ReadExpired | ReadInbox | ReadExpiredInbox | ReadTrace | ReadKey


@attrs.frozen(kw_only=True)
class ExpiredRow:
    """A waiting spool row that ends, because it outlived its lifetime or else; what accounting needs, no body."""

    row: int
    ref: BundleRef
    source: NodeId
    destination: NodeId
    priority: Priority
    number: Number
    messages: int
    size_bytes: int
    own: bool = True


@attrs.frozen(kw_only=True)
class Unread:
    """Where a bundle lies that arrived here and is not consumed; ``first_offset`` is None until it has its turn."""

    ref: BundleRef
    service: str
    priority: Priority
    source: NodeId
    first_offset: int | None
    count: int


@attrs.frozen(kw_only=True)
class TraceRecord:
    """What the store knows of one bundle.

    ``state``: ``pending``, ``delivered``, ``consumed``, ``expired``, ``refused``; None when only the
    journal knows it, as are the fields of the row.
    """

    state: str | None
    reason: str | None
    destination: NodeId | None
    messages: int
    journal: tuple[JournalEntry, ...]
    priority: Priority | None = None
    number: Number | None = None
    unread: Unread | None = None


@attrs.frozen(kw_only=True)
class Backlog:
    """What waits for one destination at one priority: one entry for our own bundles, one for others'.

    ``oldest_accepted_ms`` is that of the destination and priority, whoever's bundle it is.
    """

    destination: NodeId
    priority: Priority
    rows: int
    messages: int
    bytes: int
    oldest_accepted_ms: int
    own: bool


@attrs.frozen(kw_only=True)
class Mailbox:
    """What a service's inbox holds at one priority, up to ``last_offset``: released rows only."""

    service: str
    priority: Priority
    last_offset: int
    messages: int
    bytes: int


@attrs.frozen(kw_only=True)
class Snapshot:
    """Everything the node needs to start; bounded by devices and services, not by messages.

    Args:
        clock_ms: the mesh-local clock as of the last commit.
        facts: kind -> key -> value.
        held: inbox rows without an offset, with empty ``messages``.
        inbox_usage: source -> bytes held in the inbox.
    """

    clock_ms: int
    facts: dict[str, dict[bytes, bytes]]
    next_spool_row: int
    next_inbox_row: int
    backlogs: tuple[Backlog, ...]
    mailboxes: tuple[Mailbox, ...]
    held: tuple[InboxRow, ...]
    inbox_usage: dict[NodeId, int]


@attrs.frozen
class Loaded:
    """Event: the answer to a read; ``error`` as in Committed."""

    ticket: int
    answer: object
    error: str | None = None
