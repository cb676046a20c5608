"""Packing: messages accepted in the same moment for the same place travel as one bundle."""

import attrs

from meshd.ids import NodeId, Priority
from meshd.wire.bundle import MAX_MESSAGES, PACK_BYTES, Message

_MESSAGE_OVERHEAD_BYTES = 16


@attrs.frozen
class PackKey:
    """Only messages that agree in all of this share a bundle (never two local principals)."""

    destination: NodeId
    service: str
    priority: Priority
    ephemeral: bool
    lifetime_ms: int
    principal: str


@attrs.frozen
class Share:
    """The messages of one submission in a bundle: ``count`` of them from index ``first``."""

    token: int
    first: int
    count: int


@attrs.frozen
class Pack:
    """The messages of one bundle, and whose they are."""

    key: PackKey
    messages: tuple[Message, ...]
    shares: tuple[Share, ...]


@attrs.define(eq=False)
class _Run:
    """Submissions (token, messages) that follow each other and may share bundles."""

    key: PackKey
    submissions: list[tuple[int, tuple[Message, ...]]] = attrs.field(factory=list)


def message_size(message: Message) -> int:
    """What a message weighs in a bundle, bytes, a little more than the truth."""
    size = len(message.payload) + _MESSAGE_OVERHEAD_BYTES
    if message.headers:
        size += sum(4 * len(name) + 4 * len(value) + 6 for name, value in message.headers.items())
    return size


class Packer:
    """Collects submissions until they are taken as packs.

    What goes to one service at one priority keeps its order: a submission that can't share a bundle with
    the one before it (another lifetime, say) begins a new one, and is not added to an earlier one.
    """

    def __init__(self) -> None:
        self._pending: list[_Run] = []
        self._last: dict[tuple[NodeId, str, Priority, bool], _Run] = {}
        self.pending_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, token: int, key: PackKey, messages: tuple[Message, ...], size_bytes: int) -> None:
        """Queue the messages of one submission."""
        lane = (key.destination, key.service, key.priority, key.ephemeral)
        run = self._last.get(lane)
        if run is None or run.key != key:
            run = self._last[lane] = _Run(key)
            self._pending.append(run)
        run.submissions.append((token, messages))
        self.pending_bytes += size_bytes

    def take(self) -> list[Pack]:
        """Everything queued, as packs of at most 256 messages and 64 KiB (or one larger message)."""
        pending, self._pending = self._pending, []
        self._last.clear()
        self.pending_bytes = 0
        return [pack for run in pending for pack in _pack(run.key, run.submissions)]


def _pack(key: PackKey, submissions: list[tuple[int, tuple[Message, ...]]]) -> list[Pack]:
    packs: list[Pack] = []
    messages: list[Message] = []
    shares: list[Share] = []
    size = 0

    def close() -> None:
        nonlocal messages, shares, size
        packs.append(Pack(key, tuple(messages), tuple(shares)))
        messages, shares, size = [], [], 0

    for token, submitted in submissions:
        first = len(messages)
        for message in submitted:
            weight = message_size(message)
            if messages and (len(messages) == MAX_MESSAGES or size + weight > PACK_BYTES):
                if len(messages) > first:
                    shares.append(Share(token, first, len(messages) - first))
                close()
                first = 0
            messages.append(message)
            size += weight
        shares.append(Share(token, first, len(messages) - first))
    close()
    return packs
