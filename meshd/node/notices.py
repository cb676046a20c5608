"""What relays and carriers keep for absent devices beside their mail: offers, receipts and floors, the newest of each.

Without the offer of its session, mail that is handed out when its source is away could not be opened.
Each notice is signed by its source for its destination, and kept only when that holds.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

from meshd.delivery.outbox import FLOOR_LABEL, decode_floor
from meshd.delivery.receipts import RECEIPT_LABEL, Receipt, decode_receipt
from meshd.errors import RemoteProtocolError
from meshd.ids import NODE_ID_SIZE, NodeId, Priority
from meshd.node.carriers import Carriers
from meshd.node.membership import Membership
from meshd.node.peers import Link
from meshd.node.turn import Turn
from meshd.store.ops import DeleteFact, PutFact
from meshd.store.reads import Snapshot
from meshd.trust.identity import SIGNATURE_SIZE
from meshd.trust.seal import is_authentic_offer, open_blob, open_need_offer, peek_offer
from meshd.wire import codec
from meshd.wire.frames import MAX_HOPS, Kind, Routed

OFFERS_KEPT = 16
"""Of one source to one destination; the newest stay."""

NOTICES_KEPT = 16_384
"""By a relay, in one mesh."""
NOTICES_CARRIED = 1024
"""By a carrier."""
SOURCE_SHARE = 4
"""One device's notices may take this part of them: nobody fills up what others need."""
NOTICES_HANDED_ROUND = 256
"""To a carrier that is met, the newest."""


@attrs.frozen
class _Key:
    """One place for a notice: what comes into it replaces what was there."""

    destination: NodeId
    source: NodeId
    kind: int
    topic: bytes

    def encode(self) -> bytes:
        return self.destination + self.source + bytes((self.kind,)) + self.topic

    @classmethod
    def decode(cls, data: bytes) -> "_Key":
        at = 2 * NODE_ID_SIZE
        return cls(NodeId(data[:NODE_ID_SIZE]), NodeId(data[NODE_ID_SIZE:at]), data[at], data[at + 1 :])


@attrs.frozen
class _Kept:
    """A notice; ``order`` tells newer from older, None where the last one to come is the newest."""

    at_ms: int
    body: bytes
    order: Any = None


class Notices:
    """Keeps and hands out. Does nothing on a device that is neither relay nor carrier."""

    def __init__(self, membership: Membership, carriers: Carriers) -> None:
        self._membership = membership
        self._carriers = carriers
        self._kept: dict[NodeId, dict[_Key, _Kept]] = {}
        self._count: Counter[NodeId] = Counter()
        """By source."""

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what the last life kept."""
        for data, value in snapshot.facts.get("notice", {}).items():
            key = _Key.decode(data)
            at_ms, body = codec.decode(value)
            self._kept.setdefault(key.destination, {})[key] = _Kept(at_ms, body, self._order(key, body))
            self._count[key.source] += 1

    def keep(self, turn: Turn, frame: Routed) -> None:
        """A notice for a device without a path. One that its source did not make is dropped."""
        if not self._carries:
            return
        try:
            key = self._key(frame)
        except RemoteProtocolError as error:
            turn.log("warning", "notice dropped", source=frame.source, reason=error.reason)
            return
        if key is None:
            return
        order = self._order(key, frame.body)
        kept = self._kept.setdefault(key.destination, {})
        before = kept.get(key)
        limit = NOTICES_KEPT if self._membership.is_relay(self._membership.me) else NOTICES_CARRIED
        if before is None and (self._count.total() >= limit or self._count[key.source] >= limit // SOURCE_SHARE):
            return
        if before is not None and before.order is not None and order <= before.order:
            return
        self._count[key.source] += before is None
        kept[key] = _Kept(turn.now_ms, frame.body, order)
        # Not lazily: it must be on disk before the mail that follows it is acked.
        turn.ops.append(PutFact("notice", key.encode(), codec.encode([turn.now_ms, frame.body])))
        if key.kind in (Kind.OFFER, Kind.NEED_OFFER):
            offers = [other for other in kept if (other.source, other.kind) == (key.source, key.kind)]
            self._drop(turn, sorted(offers, key=lambda other: kept[other].at_ms)[:-OFFERS_KEPT])

    @property
    def _carries(self) -> bool:
        return self._membership.is_relay(self._membership.me) or self._carriers.carries

    def _key(self, frame: Routed) -> _Key | None:
        """Where a notice is kept; None when its kind is not. Raises RemoteProtocolError for a forged one."""
        source_key = self._membership.public_key(frame.source)
        destination_key = self._membership.public_key(frame.destination)
        if source_key is None or destination_key is None:
            return None
        match frame.kind:
            case Kind.OFFER:
                if not is_authentic_offer(source_key, destination_key, frame.body):
                    raise RemoteProtocolError("P_AUTH", "an offer that is not by its source")
                topic = peek_offer(frame.body).session
            case Kind.NEED_OFFER:
                wanted = open_need_offer(source_key, frame.body)
                if wanted.source != frame.destination:
                    raise RemoteProtocolError("P_AUTH", "a notice that was signed for another device")
                topic = wanted.session
            case Kind.RECEIPT | Kind.FLOOR:
                label = RECEIPT_LABEL if frame.kind == Kind.RECEIPT else FLOOR_LABEL
                payload = open_blob(source_key, label, frame.body)
                if payload[:NODE_ID_SIZE] != frame.destination:
                    raise RemoteProtocolError("P_AUTH", "a notice that was signed for another device")
                topic = bytes((_priority(frame.kind, payload[NODE_ID_SIZE:]),))
            case _:
                return None
        return _Key(frame.destination, frame.source, frame.kind, topic)

    @staticmethod
    def _order(key: _Key, body: bytes) -> Any:
        payload = body[NODE_ID_SIZE:-SIGNATURE_SIZE]  # what is kept was verified
        if key.kind == Kind.RECEIPT:
            return decode_receipt(payload).order
        return decode_floor(payload)[1] if key.kind == Kind.FLOOR else None

    def hand_out(self, turn: Turn, destination: NodeId, link: int) -> None:
        """There is a path to a device, beginning with ``link``: tell it all that was kept for it."""
        for key, kept in self._kept.get(destination, {}).items():
            turn.send(link, Routed(key.source, key.destination, MAX_HOPS, key.kind, kept.body))

    def hand_round(self, turn: Turn, link: Link) -> None:
        """A carrier is met: it may meet whom they are for, or carry what they end."""
        found = [
            (notice.at_ms, key, notice.body)
            for kept in self._kept.values()
            for key, notice in kept.items()
            if link.peer not in (key.source, key.destination)
        ]
        found.sort(key=lambda item: item[0])
        for _, key, body in found[-NOTICES_HANDED_ROUND:]:
            turn.send(link.number, Routed(key.source, key.destination, MAX_HOPS, key.kind, body))

    def offer(self, destination: NodeId, source: NodeId, session: bytes) -> bytes | None:
        """The offer of a session, if it is kept."""
        kept = self._kept.get(destination, {}).get(_Key(destination, source, Kind.OFFER, session))
        return None if kept is None else kept.body

    def receipt(self, destination: NodeId, source: NodeId, priority: Priority) -> Receipt | None:
        """What ``source`` says that it has of the mail of ``destination``, if that is kept."""
        kept = self._kept.get(destination, {}).get(_Key(destination, source, Kind.RECEIPT, bytes((priority,))))
        return None if kept is None else decode_receipt(kept.body[NODE_ID_SIZE:-SIGNATURE_SIZE])

    def forget_before(self, turn: Turn, before_ms: int) -> None:
        """Drop what is older, and what is for or from devices that left the mesh."""
        known = self._membership.public_key
        outdated = [
            key
            for kept in self._kept.values()
            for key, notice in kept.items()
            if notice.at_ms < before_ms or known(key.destination) is None or known(key.source) is None
        ]
        self._drop(turn, outdated)

    def _drop(self, turn: Turn, keys: Iterable[_Key]) -> None:
        for key in keys:
            del self._kept[key.destination][key]
            self._count[key.source] -= 1
            turn.lazy_ops.append(DeleteFact("notice", key.encode()))


def _priority(kind: int, payload: bytes) -> int:
    if kind == Kind.RECEIPT:
        return decode_receipt(payload).priority
    return decode_floor(payload)[0]
