"""Packing: messages accepted in the same moment for the same place travel as one bundle."""

from collections import defaultdict

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


def message_size(message: Message) -> int:
    """What a message weighs in a bundle, bytes, a little more than the truth."""
    size = len(message.payload) + _MESSAGE_OVERHEAD_BYTES
    if message.headers:
        size += sum(4 * len(name) + 4 * len(value) + 6 for name, value in message.headers.items())
    return size


class Packer:
    """Collects submissions until they are taken as packs. Order within a key is kept."""

    def __init__(self) -> None:
        self._pending: dict[PackKey, list[tuple[int, tuple[Message, ...]]]] = defaultdict(list)
        self.pending_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, token: int, key: PackKey, messages: tuple[Message, ...], size_bytes: int) -> None:
        """Queue the messages of one submission."""
        self._pending[key].append((token, messages))
        self.pending_bytes += size_bytes

    def take(self) -> list[Pack]:
        """Everything queued, as packs of at most 256 messages and 64 KiB (or one larger message)."""
        pending, self._pending = self._pending, defaultdict(list)
        self.pending_bytes = 0
        packs: list[Pack] = []
        for key, submissions in pending.items():
            packs += _pack(key, submissions)
        return packs


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
