"""The spool: what waits for other devices, sent when there is a path, finished by receipts or expiry."""

import attrs

from meshd.delivery.outbox import Outbox, Recipient, flow_key, parse_flow_key
from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.delivery.receipts import Receipt, decode_receipt, encode_receipt
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import BundleId, BundleRef, Epoch, Flow, NodeId, Number, Priority
from meshd.node.effects import DataTimeout, SendBundle
from meshd.node.followers import Followers, Stage
from meshd.node.peers import Link, Peers
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import (
    ExpiredRow,
    FinishSpool,
    JournalEntry,
    Op,
    PutFact,
    ReadExpired,
    ReadSpool,
    SealSpool,
    Snapshot,
    SpoolRow,
    TraceRecord,
)
from meshd.wire.bundle import decode_head
from meshd.wire.codec import encode
from meshd.wire.frames import Ack, BundleFrame, Kind, Routed

TRACE_KEPT_MS = 7 * 24 * 3600 * 1000
_LOAD_ROWS = 512
_LOAD_BYTES = 4 * 1024 * 1024
_UNCONSUMED_ROWS = 16_384
_EXPIRE_ROWS = 512
REFUSED_RETRY_S = 60.0


@attrs.frozen
class _Load:
    """A read under way."""

    queue: SpoolQueue
    generation: int


class Spool:
    """All queues, and the only place where they move."""

    def __init__(
        self, me: NodeId, outbox: Outbox, sessions: OutgoingSessions, followers: Followers, tickets: Tickets
    ) -> None:
        self._me = me
        self._outbox = outbox
        self._sessions = sessions
        self._followers = followers
        self._tickets = tickets
        self.queues: dict[NodeId, dict[Priority, SpoolQueue]] = {}
        self._unconsumed: dict[tuple[NodeId, Priority], dict[Epoch, dict[int, BundleRef]]] = {}
        """Delivered bundles whose consumption somebody may want to hear of."""
        self._loads: dict[int, _Load] = {}
        self._dirty: set[NodeId] = set()
        self._given_up: set[NodeId] = set()
        self._next_expiry_ms: int | None = 0
        self._expiry_ticket: int | None = None
        self._finished_meanwhile: set[int] = set()
        """Rows that were finished while the read for expired ones was under way."""

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that waits."""
        return sum(queue.size_bytes for queues in self.queues.values() for queue in queues.values())

    @property
    def messages(self) -> int:
        """Messages that wait."""
        return sum(queue.messages for queues in self.queues.values() for queue in queues.values())

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what the last life left; windows are loaded when there is a path."""
        for backlog in snapshot.backlogs:
            queue = self.queue(backlog.destination, backlog.priority)
            queue.count(backlog.rows, backlog.messages, backlog.bytes, backlog.oldest_accepted_ms)
        for key, value in snapshot.facts.get("receipt", {}).items():
            self.queue(*parse_flow_key(key)).receipt = decode_receipt(value)

    def queue(self, destination: NodeId, priority: Priority) -> SpoolQueue:
        """The queue of one destination and priority, made when first needed."""
        queues = self.queues.setdefault(destination, {})
        if priority not in queues:
            queues[priority] = SpoolQueue(destination, priority)
            self.queues[destination] = dict(sorted(queues.items()))
        return queues[priority]

    def floor(self, destination: NodeId, priority: Priority) -> Number | None:
        """The lowest number that still waits, or the next one when nothing does; None when only the disk knows."""
        queue = self.queue(destination, priority)
        if queue.rows == 0:
            return self._outbox.next_number(Flow(self._me, destination, priority))
        return queue.floor()

    def put(self, row: SpoolRow, *, keep: bool) -> None:
        """A row is being committed; with ``keep`` it stays in memory to be sent at once."""
        queue = self.queue(row.destination, row.priority)
        queue.put(_waiting(row), keep=keep and row.head is not None)
        self.touch(row.destination)
        if self._next_expiry_ms is None or row.expires_ms < self._next_expiry_ms:
            self._next_expiry_ms = row.expires_ms

    def touch(self, destination: NodeId) -> None:
        """Look at this destination in the next plan."""
        self._dirty.add(destination)

    def give_up(self, destination: NodeId) -> None:
        """The destination left the mesh: its mail is refused, as far as it is in memory in the next plan."""
        self._given_up.add(destination)
        self.touch(destination)

    def path_lost(self, destination: NodeId) -> None:
        """The link to the destination is gone: what was in flight waits again."""
        for queue in self.queues.get(destination, {}).values():
            queue.rewind()

    # --- sending

    def plan(self, turn: Turn, peers: Peers) -> None:
        """Send whatever may leave now to every destination that something has changed for."""
        dirty, self._dirty = self._dirty, set()
        for destination in dirty - {self._me}:
            if destination in self._given_up:
                self._refuse_all(turn, destination)
                continue
            link = peers.link_to(destination)
            if link is None:
                continue
            for queue in self.queues.get(destination, {}).values():
                while link.has_room and queue.may_send(turn.now):
                    self._send(turn, link, queue)
                if queue.wants_load():
                    self._load(turn, queue)

    def _refuse_all(self, turn: Turn, destination: NodeId) -> None:
        for queue in self.queues.get(destination, {}).values():
            for waiting in (*queue.in_flight.values(), *queue.ready):
                self._refuse(turn, queue, waiting, "removed")
            if queue.wants_load():
                self._load(turn, queue)

    def _refuse(self, turn: Turn, queue: SpoolQueue, waiting: Waiting, code: str) -> None:
        queue.finish(waiting)
        self._note_finished(waiting.row)
        turn.lazy_ops.append(FinishSpool((waiting.row,), "refused", code, turn.now_ms + TRACE_KEPT_MS))
        self._end(turn, waiting.ref, Stage.REFUSED, code)

    def plan_local(self, turn: Turn) -> list[tuple[Waiting, Priority]]:
        """Our mail to ourselves: what is to be taken in now. It is never sealed, and read back from disk."""
        taken: list[tuple[Waiting, Priority]] = []
        for queue in self.queues.get(self._me, {}).values():
            while queue.may_send(turn.now):
                taken.append((queue.send_next(turn.now), queue.priority))
            if queue.wants_load():
                self._load(turn, queue)
        return taken

    def _send(self, turn: Turn, link: Link, queue: SpoolQueue) -> None:
        waiting = queue.send_next(turn.now)
        offer = self.offer_once(link, decode_head(waiting.head).session)
        if offer is not None:
            turn.send(link.number, Routed(self._me, queue.destination, 0, Kind.OFFER, offer))
        link.sent(waiting.bundle, len(waiting.body), queue.priority)
        turn.emit(SendBundle(link.number, bundle_frame(waiting, turn.now_ms)))
        turn.journal.append(JournalEntry(waiting.ref, turn.now_ms, "sent", None, link.transport))
        self._followers.reach(turn, waiting.ref, Stage.SENT)

    def offer_once(self, link: Link, session: bytes) -> bytes | None:
        """The offer to send before a session's first bundle on a link, unless the destination has it."""
        if session in link.offered:
            return None
        link.offered.add(session)
        return self._sessions.offer_for(session)

    def _load(self, turn: Turn, queue: SpoolQueue) -> None:
        ticket = self._tickets.take()
        self._loads[ticket] = _Load(queue, queue.start_load())
        read = ReadSpool(queue.destination, queue.priority, queue.loaded_to, _LOAD_ROWS, _LOAD_BYTES)
        turn.load(ticket, read)

    def loaded(self, turn: Turn, ticket: int, rows: list[SpoolRow], recipient: Recipient | None) -> None:
        """A read came back. Rows that were stored unsealed are sealed now."""
        load = self._loads.pop(ticket)
        complete = not rows or (len(rows) < _LOAD_ROWS and sum(len(row.body) for row in rows) < _LOAD_BYTES)
        rows = [row for row in rows if row.expires_ms > turn.now_ms]  # the others' end is on its way
        if load.queue.destination not in (self._me, *self._given_up):
            if recipient is None:  # linked, but its card has not come yet: touched again when it does
                unsealed = next((index for index, row in enumerate(rows) if row.head is None), len(rows))
                complete = complete and unsealed == len(rows)
                rows = rows[:unsealed]
            else:
                rows = [row if row.head is not None else self._seal(turn, row, recipient) for row in rows]
        load.queue.loaded(load.generation, [_waiting(row) for row in rows], complete=complete)
        self._finish_all(turn, load.queue, load.queue.arrived_before())
        if rows or complete:  # else it would be read again at once, and in vain
            self.touch(load.queue.destination)

    def load_destination(self, ticket: int) -> NodeId | None:
        """Whose rows a read under way is for."""
        load = self._loads.get(ticket)
        return None if load is None else load.queue.destination

    def _seal(self, turn: Turn, row: SpoolRow, recipient: Recipient) -> SpoolRow:
        flow = Flow(self._me, row.destination, row.priority)
        sealed = self._outbox.seal(flow, row.number, row.body, row.lifetime_ms, recipient, turn.now)
        turn.lazy_ops.append(SealSpool(row.row, sealed.bundle, sealed.head, sealed.body))
        if sealed.new_session is not None:
            turn.lazy_ops.append(session_fact(row.destination, sealed.session, sealed.new_session.export(), turn))
        return attrs.evolve(row, bundle=sealed.bundle, head=sealed.head, body=sealed.body)

    # --- finishing

    def receipted(self, turn: Turn, destination: NodeId, receipt: Receipt) -> None:
        """The destination says what it has."""
        queue = self.queue(destination, receipt.priority)
        if queue.receipt is not None and receipt.order <= queue.receipt.order:
            return
        turn.lazy_ops.append(PutFact("receipt", flow_key(destination, receipt.priority), encode_receipt(receipt)))
        before = queue.receipt
        done = queue.arrived(receipt, turn.now)
        self._consumed(turn, destination, receipt, before)
        self._finish_all(turn, queue, done)
        self.touch(destination)

    def _finish_all(self, turn: Turn, queue: SpoolQueue, done: list[Waiting]) -> None:
        if not done or queue.receipt is None:
            return
        delivered: list[int] = []
        for waiting in done:
            self._note_finished(waiting.row)
            code = queue.receipt.refusal_of(waiting.number)
            if waiting.head:
                self._sessions.confirm(decode_head(waiting.head).session)
            if code is None:
                delivered.append(waiting.row)
                self._end(turn, waiting.ref, Stage.DELIVERED, None)
                if queue.receipt.is_consumed(waiting.number):
                    self._end(turn, waiting.ref, Stage.CONSUMED, None)
                else:
                    self._watch(queue, waiting)
            else:
                turn.lazy_ops.append(FinishSpool((waiting.row,), "refused", code, turn.now_ms + TRACE_KEPT_MS))
                self._end(turn, waiting.ref, Stage.REFUSED, code)
        if delivered:
            kept_until = turn.now_ms + TRACE_KEPT_MS
            turn.lazy_ops.append(FinishSpool(tuple(delivered), "delivered", None, kept_until))

    def _note_finished(self, row: int) -> None:
        if self._expiry_ticket is not None:
            self._finished_meanwhile.add(row)

    def _watch(self, queue: SpoolQueue, waiting: Waiting) -> None:
        epochs = self._unconsumed.setdefault((queue.destination, queue.priority), {})
        watched = epochs.setdefault(waiting.number.epoch, {})
        if len(watched) < _UNCONSUMED_ROWS or waiting.ref in self._followers:
            watched[waiting.number.sequence] = waiting.ref

    def _end(self, turn: Turn, ref: BundleRef, stage: Stage, reason: str | None) -> None:
        turn.journal.append(JournalEntry(ref, turn.now_ms, stage.name.lower(), reason))
        self._followers.reach(turn, ref, stage, reason)

    def _consumed(self, turn: Turn, destination: NodeId, receipt: Receipt, before: Receipt | None) -> None:
        epochs = self._unconsumed.get((destination, receipt.priority), {})
        for epoch, watched in list(epochs.items()):
            for first, last in receipt.newly_consumed(epoch, before):
                span = range(first, last + 1)
                for sequence in (
                    [number for number in watched if number in span] if last - first > len(watched) else span
                ):
                    ref = watched.pop(sequence, None)
                    if ref is not None:
                        reason = receipt.refusal_of(Number(epoch, sequence))
                        self._end(turn, ref, Stage.CONSUMED if reason is None else Stage.EXPIRED, reason)
            if not watched:
                del epochs[epoch]

    def is_consumed(self, record: TraceRecord) -> bool:
        """Whether the destination's last receipt says that its apps are done with a delivered bundle."""
        if record.destination is None or record.number is None or record.priority is None:
            return False
        receipt = self.queue(record.destination, record.priority).receipt
        return receipt is not None and receipt.is_consumed(record.number)

    def refuse_stale(self, turn: Turn, destination: NodeId, priority: Priority, known: Epoch) -> None:
        """The destination knows newer numbers than these from a copy of this device: they can't be delivered."""
        queue = self.queue(destination, priority)
        stale = [item for item in (*queue.in_flight.values(), *queue.ready) if item.number.epoch < known]
        for waiting in stale:
            self._refuse(turn, queue, waiting, "stale-epoch")

    def answered(self, turn: Turn, link: Link, ack: Ack) -> None:
        """The hop at the other end of a link answered for bundles."""
        for bundle in ack.stored:
            link.acked(bundle)
        for busy in ack.busy:
            self._turned_away(turn, link, busy.bundle, busy.retry_after_ms / 1000, "busy")
        for refused in ack.refused:
            self._turned_away(turn, link, refused.bundle, REFUSED_RETRY_S, refused.code)
        self.touch(link.peer)

    def _turned_away(self, turn: Turn, link: Link, bundle: BundleId, retry_s: float, code: str) -> None:
        unacked = link.acked(bundle)
        if unacked is None:
            return
        queue = self.queue(link.peer, unacked.priority)
        if queue.paused_until <= turn.now:
            turn.log("info", "bundle turned away", peer=link.peer, reason=code, retry_s=retry_s)
        queue.rewind()
        queue.pause(turn.now + retry_s, code)

    # --- timers

    def expire(self, turn: Turn) -> None:
        """Ask the disk for rows whose lifetime is over, when one may be."""
        if self._expiry_ticket is None and self._next_expiry_ms is not None and self._next_expiry_ms <= turn.now_ms:
            self._expiry_ticket = self._tickets.take()
            turn.load(self._expiry_ticket, ReadExpired(turn.now_ms, _EXPIRE_ROWS))

    def is_expiry(self, ticket: int) -> bool:
        """Whether this read is the one that :meth:`expire` asked for."""
        return ticket == self._expiry_ticket

    def expired(self, turn: Turn, rows: list[ExpiredRow], next_expiry_ms: int | None) -> set[tuple[NodeId, Priority]]:
        """End the rows whose lifetime is over; return the flows whose floor has moved."""
        self._expiry_ticket = None
        self._next_expiry_ms = turn.now_ms if len(rows) == _EXPIRE_ROWS else next_expiry_ms
        flows: set[tuple[NodeId, Priority]] = set()
        finished, self._finished_meanwhile = self._finished_meanwhile, set()
        numbers = tuple(row.row for row in rows if row.row not in finished)
        for row in rows:
            if row.row in finished:
                continue
            self.queue(row.destination, row.priority).finish_row(row.row, row.messages, row.size_bytes)
            flows.add((row.destination, row.priority))
            self.touch(row.destination)
            self._end(turn, row.ref, Stage.EXPIRED, "lifetime")
        if numbers:
            turn.lazy_ops.append(FinishSpool(numbers, "expired", "lifetime", turn.now_ms + TRACE_KEPT_MS))
        return flows

    def retry(self, turn: Turn, peers: Peers) -> None:
        """Send again what is overdue."""
        for destination, queues in self.queues.items():
            link = peers.link_to(destination)
            if link is None:
                continue
            for queue in queues.values():
                due = queue.retry_at()
                if due is None or due > turn.now:
                    continue
                if queue.in_flight:
                    turn.log("warning", "receipt overdue", peer=destination, bundles=len(queue.in_flight))
                    turn.emit(DataTimeout(destination))
                    link.forget_unacked()
                    queue.retry()
                else:
                    queue.paused_until = 0.0
                self.touch(destination)

    def next_deadline(self, peers: Peers) -> float | None:
        """When :meth:`expire` or :meth:`retry` has something to do, mesh-local seconds."""
        deadlines = [
            due
            for destination, queues in self.queues.items()
            if peers.link_to(destination) is not None
            for queue in queues.values()
            if (due := queue.retry_at()) is not None
        ]
        if self._next_expiry_ms is not None and self._expiry_ticket is None:
            deadlines.append(self._next_expiry_ms / 1000)
        return min(deadlines, default=None)


def bundle_frame(waiting: Waiting, now_ms: int) -> BundleFrame:
    """The frame that carries a waiting bundle, with its age of this moment."""
    age_ms = max(0, now_ms - waiting.accepted_ms)
    return BundleFrame(waiting.hop_limit, age_ms, waiting.copies, waiting.head, waiting.body, len(waiting.body))


def session_fact(destination: NodeId, session: bytes, exported: bytes, turn: Turn) -> Op:
    """What is stored of a session of ours, so that its pending mail can be offered again after a restart."""
    return PutFact("own-session", destination + session, encode([turn.now_ms, exported]))


def _waiting(row: SpoolRow) -> Waiting:
    return Waiting(
        row=row.row,
        ref=row.ref,
        bundle=row.bundle or BundleId(b""),
        number=row.number,
        head=row.head or b"",
        body=row.body,
        messages=row.messages,
        size_bytes=row.size_bytes,
        hop_limit=row.hop_limit,
        copies=row.copies,
        accepted_ms=row.accepted_ms,
        expires_ms=row.expires_ms,
    )
