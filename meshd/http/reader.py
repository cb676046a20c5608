"""What one consumer was handed out, has shown, and has not acknowledged yet. Pure.

The node hands out whole batches; a reader shows single messages, in that order. A position tells what was
shown: everything at or below it, but for what was given back (nack) and has not been shown again since. So
acknowledging up to a position never covers a message that is still to come again.
"""

import base64
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from meshd.delivery.mailbox_effects import Limits
from meshd.http.position import Place
from meshd.ids import BundleRef, Priority, format_message_id, to_text
from meshd.wire.bundle import Message, decode_messages

_MAX_ATTEMPTS = Limits().attempts


@attrs.frozen
class Shown:
    """One message for a client. ``size_bytes`` counts its payload."""

    id: str
    place: Place
    size_bytes: int
    document: dict[str, Any]


class Reader:
    """The books of one lease.

    Args:
        resumed: the position that the client says it has read up to, in a lease before this one.
        returned: what it gave back there, and has not seen again.
    """

    def __init__(self, service: str, resumed: Mapping[int, int], returned: Iterable[Place] = ()) -> None:
        self._service = service
        self._resumed = dict(resumed)
        self._waiting: deque[Shown] = deque()
        self._unacked: dict[str, Place] = {}
        self._returned = set(returned)
        self._attempts: dict[Place, int] = {}
        self._highest: dict[int, int] = dict(resumed)
        self.waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """How many messages can be shown."""
        return len(self._waiting)

    @property
    def has_unacked(self) -> bool:
        """Whether anything that was shown is not acknowledged."""
        return bool(self._unacked)

    @property
    def is_spent(self) -> bool:
        """Whether the client has nothing in hand, and nothing is read ahead for it."""
        return not (self._unacked or self._waiting or self._returned)

    @property
    def returned(self) -> frozenset[Place]:
        """What was given back and has not been shown again."""
        return frozenset(self._returned)

    @property
    def position(self) -> dict[int, int]:
        """Everything up to here was shown, and is not to come again."""
        position = dict(self._highest)
        for priority, offset in self._returned:
            position[priority] = min(position.get(priority, offset - 1), offset - 1)
        return position

    def take(self, batches: Iterable[list[Any]]) -> tuple[int, int, list[Place]]:
        """The node handed these out.

        Returns how many messages, of how many bytes, and those that the client had read in an earlier
        lease: they are to be acknowledged, and are not shown again.
        """
        messages = size_bytes = 0
        known: list[Place] = []
        for batch in batches:
            messages += batch[2]
            size_bytes += len(batch[10])
            for shown in _messages(self._service, batch):
                priority, offset = shown.place
                if offset <= self._resumed.get(priority, -1) and shown.place not in self._returned:
                    known.append(shown.place)
                else:
                    self._waiting.append(shown)
                    self.waiting_bytes += shown.size_bytes
        return messages, size_bytes, known

    def show(self, messages: int, size_bytes: int) -> list[Shown]:
        """The next messages: at most so many, of at most so many bytes, but one in any case."""
        shown: list[Shown] = []
        while self._waiting and len(shown) < messages:
            if shown and size_bytes < self._waiting[0].size_bytes:
                break
            message = self._waiting.popleft()
            size_bytes -= message.size_bytes
            self.waiting_bytes -= message.size_bytes
            priority, offset = message.place
            self._unacked[message.id] = message.place
            self._returned.discard(message.place)
            self._highest[priority] = max(offset, self._highest.get(priority, -1))
            shown.append(message)
        return shown

    def up_to(self, position: Mapping[int, int]) -> dict[str, Place]:
        """The unacknowledged messages at or below a position."""
        return {
            name: (priority, offset)
            for name, (priority, offset) in self._unacked.items()
            if offset <= position.get(priority, -1)
        }

    def named(self, ids: Iterable[str]) -> dict[str, Place]:
        """Those of these messages that were shown and are not acknowledged."""
        return {name: self._unacked[name] for name in ids if name in self._unacked}

    def acknowledged(self, ids: Iterable[str]) -> None:
        """These are durably done."""
        for name in ids:
            place = self._unacked.pop(name, None)
            if place is not None:
                self._attempts.pop(place, None)

    def gave_back(self, ids: Iterable[str]) -> None:
        """These come again."""
        for name in ids:
            place = self._unacked.pop(name, None)
            if place is None:
                continue
            self._attempts[place] = self._attempts.get(place, 0) + 1
            if self._attempts[place] < _MAX_ATTEMPTS:  # after so many it is a dead letter, and does not come again
                self._returned.add(place)


def spans(places: Iterable[Place]) -> list[list[int]]:
    """Places as the API's lists of priority, first, last; neighbours as one span."""
    found: list[list[int]] = []
    for priority, offset in sorted(places):
        if found and found[-1][0] == priority and found[-1][2] + 1 == offset:
            found[-1][2] = offset
        else:
            found.append([priority, offset, offset])
    return found


def _messages(service: str, batch: list[Any]) -> Iterable[Shown]:
    priority, first_offset, count, ref, source, name, age_ms, redelivered, late, missing, encoded, *more = batch
    first_index = more[0] if more else 0
    for index, message in enumerate(decode_messages(encoded, count)):
        message_id = format_message_id(BundleRef(ref), first_index + index)
        document = {
            "id": message_id,
            "source": to_text(source),
            "source_name": name,
            "service": service,
            "sequence": first_offset + index,
            "priority": Priority(priority).name.lower(),
            "age_s": age_ms / 1000,
            **_payload(message),
            "headers": dict(message.headers),
            "reply_to": message.reply_to,
            "redelivered": redelivered,
            "late": late,
            "missing": missing if index == 0 else None,
        }
        yield Shown(message_id, (priority, first_offset + index), len(message.payload), document)


def _payload(message: Message) -> dict[str, str]:
    try:
        return {"payload": message.payload.decode()}
    except UnicodeDecodeError:
        return {"payload_b64": base64.b64encode(message.payload).decode()}
