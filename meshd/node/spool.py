"""The spool: what waits for other devices, sent when there is a path.

Our own bundles stay until their destination's receipt, or the end of their lifetime. Others' bundles
are in our custody: kept until the next hop has them on its disk. Both wait in the same kind of queue.
"""

from collections.abc import Iterator

from meshd.delivery.outbox import Outbox, Recipient, flow_key, parse_flow_key
from meshd.delivery.queue import SpoolQueue, Waiting
from meshd.delivery.receipts import Receipt, decode_receipt, encode_receipt
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import BundleId, BundleRef, Epoch, Flow, NodeId, Number, Priority
from meshd.node.custody import Custody
from meshd.node.deposits import Deposits
from meshd.node.detours import Detours, bundle_frame
from meshd.node.effects import DataTimeout
from meshd.node.endings import Endings
from meshd.node.followers import Followers, Stage
from meshd.node.loading import Loading, waiting_of
from meshd.node.offering import Offers
from meshd.node.outcomes import Outcomes
from meshd.node.peers import Link, Peers, Unacked
from meshd.node.soonest import Soonest
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import JournalEntry, PutFact, SpoolRow
from meshd.store.reads import ExpiredRow, Snapshot, TraceRecord
from meshd.wire.bundle import session_of
from meshd.wire.frames import STALE_EPOCH

HANDED_BACK_RETRY_S = 5.0


class Spool:
    """All queues, and the only place where they move."""

    def __init__(
        self, me: NodeId, outbox: Outbox, sessions: OutgoingSessions, followers: Followers, tickets: Tickets
    ) -> None:
        self._me = me
        self._outbox = outbox
        self.offers = Offers(me, sessions)
        self.detours = Detours(self.offers)
        self._queues: dict[NodeId, dict[tuple[Priority, bool], SpoolQueue]] = {}
        self.deposits = Deposits()
        self.endings = Endings(tickets, self.deposits)
        self.custody = Custody(self.endings)
        self.outcomes = Outcomes(me, outbox, sessions, followers, self.endings)
        self.loading = Loading(me, outbox, tickets)
        self._next_row = 1
        self._dirty: set[NodeId] = set()
        self._given_up: set[NodeId] = set()
        self._retries = Soonest()
        self.stranded: set[NodeId] = set()
        """Destinations without a path that were looked at; whoever finds carriers for them clears it."""
        self.saving_for: str | None = None  # why bulk mail is held back

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what the last life left; windows are loaded when there is a path."""
        self._next_row = snapshot.next_spool_row
        for backlog in snapshot.backlogs:
            queue = self.queue(backlog.destination, backlog.priority, own=backlog.own)
            queue.count(backlog.rows, backlog.messages, backlog.bytes, backlog.oldest_accepted_ms)
        for key, value in snapshot.facts.get("receipt", {}).items():
            self.queue(*parse_flow_key(key)).receipt = decode_receipt(value)

    # --- the queues

    def queue(self, destination: NodeId, priority: Priority, *, own: bool = True) -> SpoolQueue:
        """The queue of one destination and priority, made when first needed."""
        queues = self._queues.setdefault(destination, {})
        key = (priority, own)
        if key not in queues:
            queues[key] = SpoolQueue(destination, priority, own=own)
            self._queues[destination] = dict(sorted(queues.items()))
        return queues[key]

    def queues(self) -> Iterator[SpoolQueue]:
        """Every queue; for one destination, higher priorities first."""
        for queues in self._queues.values():
            yield from queues.values()

    def queues_for(self, destination: NodeId) -> Iterator[SpoolQueue]:
        """The queues of one destination, higher priorities first."""
        yield from self._queues.get(destination, {}).values()

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that waits."""
        return sum(queue.size_bytes for queue in self.queues())

    @property
    def others_bytes(self) -> int:
        """Bytes of what waits here for others."""
        return sum(queue.size_bytes for queue in self.queues() if not queue.own)

    @property
    def messages(self) -> int:
        """Messages that wait; a bundle of others counts as one."""
        return sum(queue.messages for queue in self.queues())

    def floor(self, destination: NodeId, priority: Priority) -> Number | None:
        """The lowest number that still waits, or the next one when nothing does; None when only the disk knows."""
        queue = self.queue(destination, priority)
        floor = self.next_number(destination, priority) if queue.rows == 0 else queue.floor()
        unwritten = self.outcomes.unwritten(destination, priority)
        return floor if floor is None or unwritten is None else min(floor, unwritten)

    def next_number(self, destination: NodeId, priority: Priority) -> Number:
        """The number that our next bundle of the flow will have."""
        return self._outbox.next_number(Flow(self._me, destination, priority))

    def take_row(self) -> int:
        """The number for a row that is about to be stored."""
        self._next_row += 1
        return self._next_row - 1

    def put(self, row: SpoolRow, *, keep: bool) -> None:
        """A row is being committed; with ``keep`` it stays in memory to be sent at once."""
        queue = self.queue(row.destination, row.priority, own=row.from_peer is None)
        waiting = waiting_of(row)
        kept = queue.put(waiting, keep=keep and row.head is not None)
        if row.from_peer is not None:
            self.custody.take(row.from_peer, row)
            self.custody.remember([waiting.bundle] if kept else [])
        self.touch(row.destination)
        self.endings.expires(row.expires_ms)

    def withdraw(self, row: SpoolRow) -> None:
        """The commit of a row of ours failed. It may have ended already: it was forwarded meanwhile."""
        if row.row not in self.endings:
            self.queue(row.destination, row.priority).finish_row(row.row, row.messages, row.size_bytes)

    def rewind(self, queue: SpoolQueue) -> None:
        """Forget a queue's window: it is read from disk again when there is a path."""
        self._forget_window(queue)
        queue.rewind()

    def _forget_window(self, queue: SpoolQueue) -> None:
        if not queue.own:
            self.custody.forget(waiting.bundle for waiting in (*queue.in_flight.values(), *queue.ready))

    def look_at(self, at: float | None) -> None:
        """A queue has something to do by itself then."""
        self._retries.note(at)

    def touch(self, destination: NodeId) -> None:
        """Look at this destination in the next plan."""
        self._dirty.add(destination)

    def touch_all(self) -> None:
        """Routes have changed: look at every destination."""
        self._dirty |= self._queues.keys()

    # --- sending

    def plan(self, turn: Turn, peers: Peers) -> None:
        """Send whatever may leave now to every destination that something has changed for."""
        dirty, self._dirty = self._dirty, set()
        for destination in dirty - {self._me}:
            self._plan_for(turn, destination, peers)
            for queue in self.queues_for(destination):
                self._retries.note(self._due(queue, peers))
        self.detours.send(turn, peers)

    def _plan_for(self, turn: Turn, destination: NodeId, peers: Peers) -> None:
        if destination in self._given_up:
            self._refuse_all(turn, destination)
            return
        link, relay = peers.way(destination)
        if link is None:
            self.stranded.add(destination)
            return
        for queue in self.queues_for(destination):
            if self.saving_for is not None and queue.priority is Priority.BULK:
                continue
            if self.deposits.direct(queue, relay, link, turn.now):
                self.rewind(queue)
            queue.take_way(link.peer)
            while link.has_room and queue.may_send(turn.now):
                if relay is not None and self.deposits.has(queue.ready[0].row, relay):
                    queue.send_next(turn.now)  # a copy is there already
                else:
                    self._send(turn, link, queue, relay)
            if relay is None:
                queue.wait_for_credit(turn.now)
            if queue.ready and not link.has_room:
                link.waiting.add(destination)
            if queue.wants_load():
                self.loading.start(turn, queue)

    def plan_local(self, turn: Turn) -> list[tuple[Waiting, Priority]]:
        """Our mail to ourselves: what is to be taken in now. It is never sealed, and read back from disk."""
        taken: list[tuple[Waiting, Priority]] = []
        for queue in self.queues_for(self._me):
            while queue.may_send(turn.now):
                taken.append((queue.send_next(turn.now), queue.priority))
            if queue.wants_load():
                self.loading.start(turn, queue)
        return taken

    def _send(self, turn: Turn, link: Link, queue: SpoolQueue, relay: NodeId | None) -> None:
        """Send the first ready row: to its destination, or a copy of it to ``relay``."""
        waiting = queue.send_next(turn.now)
        unacked = Unacked(queue.destination, queue.priority, queue.own, waiting.row, len(waiting.body), relay)
        link.sent(waiting.bundle, unacked)
        if queue.own:
            self.offers.send_once(turn, link, queue.destination, session_of(waiting.head))
            self.outcomes.sent(turn, waiting.ref, link.label if relay is None else "relay")
        else:
            event = "forwarded" if relay is None else "copied"
            turn.journal.append(JournalEntry(waiting.ref, turn.now_ms, event, None, link.label))
        turn.send_bundle(link.number, link.transport, bundle_frame(waiting, turn.now_ms))
        if link.suspect:
            self.detours.doubt(link, queue, waiting)

    # --- the disk

    def loaded(self, turn: Turn, ticket: int, rows: list[SpoolRow], recipient: Recipient | None) -> None:
        """A read came back. Rows that were stored unsealed are sealed now."""
        page = self.loading.take(turn, ticket, rows, self.endings)
        queue = page.queue
        ends = queue.destination in self._given_up
        if not page.is_outdated:
            if queue.destination != self._me and not ends:
                page = self.loading.seal(turn, page, recipient)
            # One that may take no more hops is held, not dropped: it stays where it is until its time is over.
            waiting = [waiting_of(row) for row in page.rows if row.hop_limit > 0 or ends]
            if not queue.own:
                self.custody.remember(item.bundle for item in waiting)
            queue.loaded(page.generation, waiting, up_to=page.up_to, complete=page.complete)
            self.outcomes.arrived(turn, queue, queue.arrived_before())
        if page.up_to or page.complete:  # else it would be read again at once, and in vain: touched when its card comes
            self.touch(queue.destination)

    def handed_back(self, turn: Turn, flow: Flow, bundle: BundleId, peers: Peers) -> None:
        """Our own bundle came back: a relay took the way over this device, and lets go of its copy.

        It is given another one, if there is still no path: not at once, as it may not have heard that there is none.
        """
        row = self.deposits.handed_back(bundle)
        link, relay = peers.way(flow.destination)
        if row is None or link is None or relay is None:
            return
        queue = self.queue(flow.destination, flow.priority)
        queue.unsend([row])
        queue.pause(turn.now + HANDED_BACK_RETRY_S, "loop", by=link.peer)
        self.touch(flow.destination)

    # --- what destinations say

    def receipted(self, turn: Turn, destination: NodeId, receipt: Receipt) -> None:
        """The destination says what it has of our own mail."""
        queue = self.queue(destination, receipt.priority)
        if queue.receipt is not None and receipt.order <= queue.receipt.order:
            return
        turn.lazy_ops.append(PutFact("receipt", flow_key(destination, receipt.priority), encode_receipt(receipt)))
        before = queue.receipt
        self.outcomes.arrived(turn, queue, queue.arrived(receipt, turn.now))
        self.outcomes.consumed(turn, destination, receipt, before)
        self.touch(destination)

    def watch(self, turn: Turn, ref: BundleRef, record: TraceRecord) -> None:
        """Somebody wants to hear of the consumption of a bundle that was delivered, perhaps in an earlier life."""
        if record.destination is not None and record.number is not None and record.priority is not None:
            self.outcomes.watch(record.destination, record.priority, record.number, ref, record.messages)
            if record.destination in self._given_up:
                self.outcomes.part(turn, record.destination)

    def stage_of_delivered(self, record: TraceRecord) -> Stage:
        """What became of a delivered bundle: expired unread, or consumed by its destination's last receipt."""
        if any(entry.event == "expired" for entry in record.journal):
            return Stage.EXPIRED
        if record.destination is None or record.number is None or record.priority is None:
            return Stage.DELIVERED
        receipt = self.queue(record.destination, record.priority).receipt
        return Stage.CONSUMED if receipt is not None and receipt.is_consumed(record.number) else Stage.DELIVERED

    def unread(self, peers: Peers) -> list[tuple[NodeId, Priority]]:
        """Our flows through others whose mail has arrived, and by the last receipt is not all consumed."""
        return [
            (queue.destination, queue.priority)
            for queue in self.queues()
            if queue.own and queue.receipt is not None and not queue.receipt.is_all_consumed()
            if (link := peers.toward(queue.destination)) is not None and link.peer != queue.destination
        ]

    def refuse_stale(self, turn: Turn, destination: NodeId, priority: Priority, known: Epoch) -> None:
        """The destination knows newer numbers than these from a copy of this device: they can't be delivered."""
        queue = self.queue(destination, priority)
        for waiting in [item for item in (*queue.in_flight.values(), *queue.ready) if item.number.epoch < known]:
            self.outcomes.refuse(turn, queue, waiting, STALE_EPOCH)

    # --- devices that left the mesh

    def give_up(self, turn: Turn, node: NodeId) -> None:
        """A device left the mesh. Mail for it is refused, or let go when it is others', as it comes into memory."""
        self._given_up.add(node)
        self.outcomes.part(turn, node)
        self.touch(node)
        for queue in self.queues_for(node):
            if not queue.own and queue.rows > queue.rows_in_memory:  # some may have been passed over, as not to leave
                self.rewind(queue)

    def take_back(self, node: NodeId) -> None:
        """A device is in the mesh: for the first time, or because what removed it turned out to be void."""
        self._given_up.discard(node)

    def _refuse_all(self, turn: Turn, destination: NodeId) -> None:
        for queue in self.queues_for(destination):
            for waiting in (*queue.in_flight.values(), *queue.ready):
                if queue.own:
                    self.outcomes.refuse(turn, queue, waiting, "removed")
                else:
                    self.custody.let_go(turn, queue, waiting, "removed")
            if queue.wants_load():
                self.loading.start(turn, queue)

    # --- timers

    def expired(self, turn: Turn, rows: list[ExpiredRow], next_expiry_ms: int | None) -> set[tuple[NodeId, Priority]]:
        """End the rows whose lifetime is over; return our own flows whose floor has moved."""
        rows = self.endings.take_expired(turn, rows, next_expiry_ms)
        for row in rows:
            queue = self.queue(row.destination, row.priority, own=row.own)
            waiting = queue.finish_row(row.row, row.messages, row.size_bytes)
            if waiting is not None and not row.own:
                self.custody.forget([waiting.bundle])
            self.touch(row.destination)
        own = [row for row in rows if row.own]
        self.outcomes.expired(turn, own)
        self.custody.expired(turn, [row for row in rows if not row.own])
        return {(row.destination, row.priority) for row in own}

    def retry(self, turn: Turn, peers: Peers) -> None:
        """Send again what is overdue."""
        if not self._retries.take(turn.now):
            return
        for queue in self.queues():
            due = self._due(queue, peers)
            if due is None or due > turn.now:
                self._retries.note(due)
                continue
            link = peers.toward(queue.destination)
            if link is not None and queue.in_flight:
                turn.log("warning", "receipt overdue", peer=queue.destination, bundles=len(queue.in_flight))
                turn.tally.resent += len(queue.in_flight)
                turn.emit(DataTimeout(link.peer))
                link.forget(queue.destination, queue.priority, own=queue.own)
                self._forget_window(queue)
                queue.retry()
            else:
                queue.resume()
            self.touch(queue.destination)

    def _due(self, queue: SpoolQueue, peers: Peers) -> float | None:
        """When a queue has something to do by itself; copies that a relay has are not given to it again."""
        if peers.toward(queue.destination) is not None:
            return queue.retry_at()
        return (queue.paused_until or None) if queue in self.deposits else None

    def next_deadline(self) -> float | None:
        """When a lifetime may end, or :meth:`retry` may have something to do, mesh-local seconds."""
        expiry_ms, retry = self.endings.next_deadline_ms(), self._retries.at
        if expiry_ms is None:
            return retry
        return expiry_ms / 1000 if retry is None else min(expiry_ms / 1000, retry)
