"""Bundles on their way in: checked, opened, deduplicated, put in order, stored, receipted.

How they are opened is told in ``opening``, how they are stored and held until their turn in ``releasing``.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable

from meshd.delivery.arrivals import FlowArrivals, Verdict
from meshd.delivery.outbox import Draft, decode_floor, flow_key, parse_flow_key
from meshd.delivery.queue import Waiting
from meshd.delivery.receipts import RECEIPT_LABEL, Receipt, encode_receipt
from meshd.delivery.sessions import HeldBundle
from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, Flow, NodeId, Number, Priority
from meshd.node.accepting import Limits
from meshd.node.carriers import Carriers
from meshd.node.effects import ExpectLife, LocalReceipt, SendControl
from meshd.node.mailboxes import Mailboxes
from meshd.node.membership import Membership
from meshd.node.opening import RETRY_AFTER_MS, Arrival, Opening
from meshd.node.passing import Passing
from meshd.node.peers import Link, Peers
from meshd.node.releasing import Releasing
from meshd.node.soonest import Soonest
from meshd.node.tally import count, count_reason
from meshd.node.turn import Turn
from meshd.store.ops import PutFact
from meshd.store.reads import Snapshot
from meshd.trust.seal import sign_blob, sign_stale_epoch
from meshd.wire import codec
from meshd.wire.bundle import Content, Head, bundle_id, decode_head, unpack_content
from meshd.wire.frames import MAX_HOPS, STALE_EPOCH, BundleFrame, Busy, Kind, Refused, Routed, plain_number
from meshd.wire.frames import number as number_shape

_EPHEMERAL_FACT = "ephemeral"


class Arriving:
    """The destination's side of delivery: what has come of every flow, how much of it waits, and whom to tell."""

    def __init__(
        self, me: NodeId, epoch: Epoch, membership: Membership, mailboxes: Mailboxes, passing: Passing, limits: Limits
    ) -> None:
        self._me = me
        self._epoch = epoch
        self._membership = membership
        self._mailboxes = mailboxes
        self._passing = passing
        self._limits = limits
        self._quota_bytes = limits.quota_bytes
        self.opening = Opening(membership)
        self.releasing = Releasing(mailboxes)
        self._flows: dict[tuple[NodeId, Priority], FlowArrivals] = {}
        self._usage: dict[NodeId, int] = defaultdict(int)
        self._dirty: set[tuple[NodeId, Priority]] = set()
        self._waits = Soonest()
        self._receipt_count = 0
        self._last_ephemeral: dict[tuple[NodeId, Priority], Number] = {}
        self._unnoted: set[tuple[NodeId, Priority]] = set()
        """Flows whose last ephemeral number the disk does not know."""

    @property
    def usage_bytes(self) -> int:
        """Bytes of mail that waits for apps here."""
        return sum(self._usage.values())

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what the last life knew of every flow and session."""
        self._usage.update(snapshot.inbox_usage)
        for key, value in snapshot.facts.get("arrivals", {}).items():
            source, priority = parse_flow_key(key)
            self._flows[source, priority] = FlowArrivals.decode(priority, value)
        self.opening.restore(snapshot)
        for row, held in self.releasing.restore(snapshot):
            self._flow(row.source, row.priority).restore_held(held)
        for key, value in snapshot.facts.get(_EPHEMERAL_FACT, {}).items():
            self._last_ephemeral[parse_flow_key(key)] = number_shape(codec.decode(value))
        self.greet(self._me)  # no link comes up that would bring the receipts which the last life did not store

    def start_epoch(self, epoch: Epoch) -> None:
        """This device lives in a higher epoch now: its receipts are newer than all that it ever sent."""
        self._epoch = epoch
        self._dirty |= self._flows.keys()

    def _flow(self, source: NodeId, priority: Priority) -> FlowArrivals:
        return self._flows.setdefault((source, priority), FlowArrivals(priority))

    # --- bundles

    def receive(self, turn: Turn, link: Link, frame: BundleFrame, peers: Peers) -> None:
        """A bundle came over a link. Raises RemoteProtocolError when the neighbour is at fault."""
        head = decode_head(frame.head)
        if head.size != len(frame.body) or frame.total != len(frame.body):
            raise RemoteProtocolError("P_BUNDLE", "the body is not of the size that its head names")
        arrival = Arrival(link, frame, head, bundle_id(frame.head, frame.body))
        count(turn.tally.received, link.transport)
        count(turn.tally.received_bytes, link.transport, len(frame.body))
        if self._membership.public_key(arrival.source) is None or self._membership.is_relay(arrival.source):
            turn.turned_away[link.number].append(Refused(arrival.id, "unknown-source"))
        elif head.flow.destination != self._me or self._membership.is_relay(self._me):
            self._passing.receive(turn, link, frame, head, arrival.id, peers)
        elif head.flow.ephemeral:
            self._take_ephemeral(turn, arrival)
        else:
            if link.peer != arrival.source and (own := peers.link_to(arrival.source)) is not None:
                turn.emit(ExpectLife(own.number))  # perhaps it is dead, and its other end found out first
            self._judge(turn, arrival)

    def _judge(self, turn: Turn, arrival: Arrival) -> None:
        head, source = arrival.head, arrival.source
        flow = self._flow(source, head.flow.priority)
        match flow.judge(head.number):
            case Verdict.DUPLICATE:
                turn.tally.duplicates += 1
                turn.stored[arrival.link.number].append(arrival.id)
                self._dirty.add((source, head.flow.priority))
            case Verdict.STALE_EPOCH:
                turn.turned_away[arrival.link.number].append(Refused(arrival.id, STALE_EPOCH))
                self._tell_stale(turn, arrival, flow)
            case Verdict.NO_ROOM:
                turn.turned_away[arrival.link.number].append(Busy(arrival.id, RETRY_AFTER_MS))
            case Verdict.NEW if self._usage[source] >= self._quota_bytes or self._limits.is_disk_full:
                turn.turned_away[arrival.link.number].append(Busy(arrival.id, RETRY_AFTER_MS))
            case Verdict.NEW:
                plaintext = self.opening.open(turn, arrival)
                if plaintext is not None:
                    self._take(turn, arrival, flow, plaintext)

    def _tell_stale(self, turn: Turn, arrival: Arrival, flow: FlowArrivals) -> None:
        if flow.floor is None:
            return
        body = sign_stale_epoch(
            self._membership.identity, arrival.source, flow.priority, ephemeral=False, known=flow.floor.epoch
        )
        turn.send(arrival.link.number, Routed(self._me, arrival.source, MAX_HOPS, Kind.STALE_EPOCH, body))
        turn.log("warning", "stale epoch", source=arrival.source, epoch=arrival.head.number.epoch.counter)

    def _take(self, turn: Turn, arrival: Arrival, flow: FlowArrivals, plaintext: bytes) -> None:
        """An authentic bundle that is new: it counts as arrived, whatever is in it."""
        head = arrival.head
        try:
            content = unpack_content(plaintext)
            refusal = "expired" if arrival.frame.age_ms >= head.lifetime_ms else None
            if refusal is None and not flow.has_room_for_service(content.service):
                refusal = "too-many-services"
        except RemoteProtocolError as error:
            turn.log("warning", "bundle malformed", source=arrival.source, reason=error.reason)
            refusal = "malformed"
        turn.stored[arrival.link.number].append(arrival.id)
        if refusal is not None:
            self._refuse(turn, head.flow, head.number, refusal)
            return
        self._accept(turn, head, content, arrival.frame.age_ms)

    def _refuse(self, turn: Turn, flow: Flow, number: Number, code: str) -> None:
        """Count a bundle as arrived and turned down; what waited for it waits no longer."""
        arrivals = self._flow(flow.source, flow.priority)
        self._dirty.add((flow.source, flow.priority))
        arrivals.refuse(number, code)
        self.releasing.release(turn, arrivals, turn.now_ms)

    def _accept(self, turn: Turn, head: Head, content: Content, age_ms: int) -> None:
        source, priority = head.flow.source, head.flow.priority
        self._dirty.add((source, priority))
        row = self.releasing.take(turn, self._flow(source, priority), head, content, age_ms)
        self._usage[source] += row.size_bytes

    def take_local(self, turn: Turn, waiting: Waiting, priority: Priority) -> None:
        """Mail from this device to itself."""
        flow = Flow(self._me, self._me, priority)
        if self._flow(self._me, priority).judge(waiting.number) is not Verdict.NEW:
            self._dirty.add((self._me, priority))
            return
        content = unpack_content(waiting.body)
        if not self._flow(self._me, priority).has_room_for_service(content.service):
            self._refuse(turn, flow, waiting.number, "too-many-services")
            return
        lifetime_ms = waiting.expires_ms - waiting.accepted_ms
        head = Head(flow, waiting.number, b"", 0, lifetime_ms, len(waiting.body))
        age_ms = max(0, turn.now_ms - waiting.accepted_ms)
        self._accept(turn, head, content, age_ms)

    def _take_ephemeral(self, turn: Turn, arrival: Arrival) -> None:
        """Hand an ephemeral bundle to whoever reads now. Its hop ack only opens the window."""
        head, source = arrival.head, arrival.source
        turn.stored[arrival.link.number].append(arrival.id)
        last = self._last_ephemeral.get((source, head.flow.priority))
        if last is not None and head.number <= last:
            turn.tally.duplicates += 1
            return
        session = self.opening.session(turn, arrival)
        if session is None:
            return
        try:
            content = unpack_content(session.open(arrival.frame.head, head.counter, arrival.frame.body))
        except RemoteProtocolError as error:
            turn.tally.unauthentic += 1
            turn.log("warning", "bundle not authentic", source=source, reason=error.reason)
            return
        self._last_ephemeral[source, head.flow.priority] = head.number
        self._unnoted.add((source, head.flow.priority))
        self.releasing.pass_through(turn, head, content, arrival.frame.age_ms)

    def take_own_ephemeral(self, turn: Turn, draft: Draft, lifetime_ms: int) -> None:
        """An ephemeral bundle from this device to itself."""
        head = Head(draft.flow, draft.number, b"", 0, lifetime_ms, len(draft.plaintext))
        self.releasing.pass_through(turn, head, unpack_content(draft.plaintext), 0)

    # --- sessions and floors

    def offered(self, turn: Turn, link: Link, source: NodeId, offer: bytes, peers: Peers) -> None:
        """A session offer came; open what waited for it. Raises RemoteProtocolError."""
        self._receive_again(turn, self.opening.offered(turn, link, source, offer), peers)

    def _receive_again(self, turn: Turn, bundles: list[HeldBundle], peers: Peers) -> None:
        for held in bundles:
            came_over = peers.link(held.link)
            if came_over is not None:  # else it is sent again over another link
                self.receive(turn, came_over, held.frame, peers)

    def _judge_held(self, turn: Turn, peers: Peers) -> None:
        """Answer for what need not be opened any more: its number came in another seal, or will never count."""
        if self.opening.next_deadline is None:
            return

        def is_void(held: HeldBundle) -> bool:
            flow = held.head.flow
            if flow.ephemeral or (flow.source, flow.priority) not in self._dirty:
                return False
            return self._flow(flow.source, flow.priority).judge(held.head.number) is not Verdict.NEW

        self._receive_again(turn, self.opening.take_held_where(is_void), peers)

    def floor_raised(self, turn: Turn, source: NodeId, payload: bytes) -> None:
        """The source says that nothing below a number will come. Raises RemoteProtocolError."""
        priority, floor = decode_floor(payload)
        flow = self._flow(source, priority)
        if flow.raise_floor(floor):
            self._dirty.add((source, priority))
            self.releasing.release(turn, flow, turn.now_ms)

    def give_up(self, turn: Turn, source: NodeId, peers: Peers) -> None:
        """The source left the mesh, and what its mail here waits for with it.

        What is held for its turn is released as it is; what is held unopened is turned away, as if it came now.
        """
        self._end_waits(turn, [flow for flow in self._flows if flow[0] == source], sys.maxsize)
        unopened = self.opening.take_held_where(lambda held: held.head.flow.source == source)
        self._receive_again(turn, unopened, peers)

    # --- timers and the end of a turn

    def poll(self, turn: Turn) -> None:
        """End the waits that are over."""
        if self._waits.take(turn.now):
            self._end_waits(turn, self._flows, turn.now_ms)
        self.opening.end_waits(turn)

    def _end_waits(self, turn: Turn, flows: Iterable[tuple[NodeId, Priority]], until_ms: int) -> None:
        for key in flows:
            due = self._flows[key].next_deadline_ms()
            if due is not None and due <= until_ms:
                self._dirty.add(key)
                self.releasing.release(turn, self._flows[key], until_ms)
            elif due is not None:
                self._waits.note(due / 1000)

    def next_deadline(self) -> float | None:
        """When :meth:`poll` may have something to do, mesh-local seconds."""
        due, session_end = self._waits.at, self.opening.next_deadline
        if due is None or session_end is None:
            return session_end if due is None else due
        return min(due, session_end)

    def finish(self, turn: Turn, peers: Peers, carriers: Carriers) -> None:
        """Write down the flows that have moved; their receipts leave when that is durable."""
        for entry, reason in self._mailboxes.take_finished():
            flow = self._flow(entry.source, entry.priority)
            if reason is None:
                flow.consume(entry.number)
                turn.tally.read[entry.priority] += entry.count
            else:
                flow.refuse(entry.number, reason)
                count_reason(turn.tally.unread, reason, entry.count)
            self._usage[entry.source] -= entry.size_bytes
            self._dirty.add((entry.source, entry.priority))
        self._judge_held(turn, peers)
        for source, priority in self._dirty:
            flow = self._flows[source, priority]
            due_ms = flow.next_deadline_ms()
            self._waits.note(None if due_ms is None else due_ms / 1000)
            turn.ops.append(PutFact("arrivals", flow_key(source, priority), flow.encode()))
            self._receipt_count += 1
            credit = max(0, self._quota_bytes - self._usage[source])
            receipt = flow.receipt((self._epoch.counter, self._receipt_count), credit)
            if source == self._me:
                turn.when_durable.append(LocalReceipt(receipt))
                continue
            link, _ = peers.way(source)
            for bearer in carriers.bearers(source, turn.now) if link is None else [link]:
                turn.when_durable.append(self._routed(bearer, source, receipt))
            if link is not None and link.suspect and (other := peers.other_way(source, link)) is not None:
                turn.when_durable.append(self._routed(other, source, receipt))
        self._dirty.clear()
        self._note_ephemeral(turn)

    def _note_ephemeral(self, turn: Turn) -> None:
        """Write the last numbers down with what is written anyway: ephemeral mail alone never wakes the disk.

        A hop that kept such a bundle could hand it over again to the next life, as far as this one did not note it.
        """
        if self._unnoted and (turn.ops or turn.lazy_ops or turn.journal):
            ops = turn.ops or turn.lazy_ops
            for flow in sorted(self._unnoted):
                last = plain_number(self._last_ephemeral[flow])
                ops.append(PutFact(_EPHEMERAL_FACT, flow_key(*flow), codec.encode(last)))
            self._unnoted.clear()

    def greet(self, source: NodeId) -> None:
        """There is a path to a device: make sure that it gets the receipts of this moment."""
        self._dirty |= {flow for flow in self._flows if flow[0] == source}

    def greet_absent(self, peers: Peers) -> None:
        """There is a carrier: it is to have the receipts of this moment for those without a path."""
        absent = {source for source, _ in self._flows if source != self._me and peers.way(source)[0] is None}
        self._dirty |= {flow for flow in self._flows if flow[0] in absent}

    def _routed(self, link: Link, source: NodeId, receipt: Receipt) -> SendControl:
        body = encode_receipt(receipt)
        if link.peer != source:  # passed on by others, it must speak for itself
            body = sign_blob(self._membership.identity, RECEIPT_LABEL, source + body)
        return SendControl(link.number, Routed(self._me, source, MAX_HOPS, Kind.RECEIPT, body))
