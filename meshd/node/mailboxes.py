"""The mailboxes of this device, and the clients that read them."""

from typing import Any

import attrs

from meshd.delivery.consumers import FACT_KIND, fact_key, parse_fact_key
from meshd.delivery.mailbox import Mailbox
from meshd.delivery.mailbox_effects import (
    Backlog,
    Consumed,
    ConsumerExpired,
    DeadLetter,
    Deliver,
    Delivery,
    Effect,
    Limits,
    StoreCursor,
)
from meshd.delivery.mailbox_effects import Load as LoadBatches
from meshd.delivery.receipts import UNREAD
from meshd.delivery.shelf import Batch, Entry
from meshd.errors import MeshdError
from meshd.ids import NodeId, Priority
from meshd.node.requests import Acknowledge, AddCredit, Item, Port, Result, Subscribe
from meshd.node.soonest import Soonest
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import DeleteFact, DeleteInbox, InboxRow, JournalEntry, PutFact
from meshd.store.reads import ReadExpiredInbox, ReadInbox, Snapshot, TraceRecord
from meshd.wire import codec

_EXPIRE_ROWS = 512
DEAD_LETTER_FACT = "dead-letter"
DEAD_LETTER_BYTES = 16 * 1024 * 1024
"""Kept of messages that were given back too often; beyond it the oldest go: they count against no quota."""


@attrs.define(eq=False)
class _Reader:
    """One live subscription."""

    request: Subscribe
    number: int


@attrs.frozen
class _Load:
    mailbox: Mailbox
    priority: Priority


class Mailboxes:
    """All services of this device. A service exists once it has mail or a reader."""

    def __init__(self, tickets: Tickets, *, run: int) -> None:
        self._tickets = tickets
        self._run = run
        self._mailboxes: dict[str, Mailbox] = {}
        self._readers: dict[int, _Reader] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._loads: dict[int, _Load] = {}
        self._finished: list[tuple[Entry, str | None]] = []
        self._timers = Soonest()
        self._next_expiry_ms: int | None = 0
        self._expiry_ticket: int | None = None
        self._consumed_meanwhile: set[int] = set()
        """Rows that were consumed while the read for expired ones was under way."""
        self._dead_letters: dict[bytes, int] = {}
        """Their sizes by key, the oldest first."""
        self.names: dict[NodeId, str] = {}
        """Device names, for what readers see; kept by the node."""

    def restore(self, snapshot: Snapshot, now: float) -> None:
        """Take up the last life's mail and cursors."""
        backlogs: dict[str, list[Backlog]] = {}
        for box in snapshot.mailboxes:
            backlogs.setdefault(box.service, []).append(Backlog(box.priority, box.last_offset))
        consumers: dict[str, dict[str, bytes]] = {}
        for key, state in snapshot.facts.get(FACT_KIND, {}).items():
            service, consumer = parse_fact_key(key)
            consumers.setdefault(service, {})[consumer] = state
        letters = snapshot.facts.get(DEAD_LETTER_FACT, {})
        self._dead_letters = {
            key: len(letters[key]) for key in sorted(letters, key=lambda key: _buried_ms(letters[key]))
        }
        for service in backlogs.keys() | consumers.keys():
            self._mailboxes[service] = Mailbox(
                service,
                run=self._run,
                now=now,
                limits=Limits(),
                backlogs=backlogs.get(service, ()),
                consumers=consumers.get(service),
            )

    def mailbox(self, service: str, now: float) -> Mailbox:
        """The mailbox of a service, made when first needed."""
        if service not in self._mailboxes:
            self._mailboxes[service] = Mailbox(service, run=self._run, now=now, limits=Limits())
        return self._mailboxes[service]

    # --- mail

    def next_offset(self, service: str, priority: Priority, now: float) -> int:
        """The offset of the next bundle that is released."""
        return self.mailbox(service, now).next_offset(priority)

    def release(self, turn: Turn, service: str, batch: Batch) -> None:
        """A bundle got its turn; its row is being committed in this turn."""
        mailbox = self.mailbox(service, turn.now)
        self._apply(turn, mailbox, mailbox.release(batch, turn.now))

    def on_disk(self, turn: Turn, service: str, entry: Entry) -> None:
        """A held bundle got its turn; its messages are on disk only."""
        mailbox = self.mailbox(service, turn.now)
        self._apply(turn, mailbox, mailbox.release_stored(entry, turn.now))

    def is_read(self, service: str) -> bool:
        """Whether somebody reads the service now."""
        return any(reader.request.service == service for reader in self._readers.values())

    def explain(self, record: TraceRecord, now: float) -> TraceRecord:
        """The record of a bundle, with why it lies here unread, if it does, as its last entry."""
        unread = record.unread
        if unread is None:
            return record
        reason, detail = "out-of-order", unread.service
        if unread.first_offset is not None:
            last = unread.first_offset + unread.count - 1
            names = self.mailbox(unread.service, now).waits_for(unread.priority, unread.first_offset, last)
            if names is not None and not names:
                return record  # read by now, and that is on its way to the disk
            reason, detail = ("not-read", f"{detail} by {', '.join(names)}") if names else ("no-reader", detail)
        entry = JournalEntry(unread.ref, int(now * 1000), "waiting", reason, detail)
        return attrs.evolve(record, journal=(*record.journal, entry))

    def pass_through(self, turn: Turn, service: str, batch: Batch) -> None:
        """An ephemeral bundle: for whoever reads now."""
        mailbox = self.mailbox(service, turn.now)
        self._apply(turn, mailbox, mailbox.pass_through(batch, turn.now))

    def take_finished(self) -> list[tuple[Entry, str | None]]:
        """Bundles that left the inbox since the last call: consumed (None), or a reason why not."""
        finished, self._finished = self._finished, []
        return finished

    # --- readers

    def subscribe(self, turn: Turn, request: Subscribe) -> None:
        """A client starts reading. Raises MeshdError."""
        mailbox = self.mailbox(request.service, turn.now)
        number = self._tickets.take()
        effects = mailbox.subscribe(number, request.consumer, request.credit, turn.now, room_bytes=request.room_bytes)
        self._readers[number] = _Reader(request, number)
        self._numbers[id(request.port), request.id] = number
        self._apply(turn, mailbox, effects)

    def add_credit(self, turn: Turn, request: AddCredit) -> None:
        """A reader is ready for more."""
        reader = self._reader(request.port, request.subscription)
        if reader is not None:
            mailbox = self.mailbox(reader.request.service, turn.now)
            effects = mailbox.add_credit(reader.number, request.messages, turn.now, room_bytes=request.room_bytes)
            self._apply(turn, mailbox, effects)

    def acknowledge(self, turn: Turn, request: Acknowledge) -> None:
        """A reader is done with messages; it is told when that is durable. Raises MeshdError."""
        reader = self._reader(request.port, request.subscription)
        if reader is None:
            raise MeshdError("E_USAGE", "There is no such subscription.", "Subscribe again; unacked mail comes again.")
        mailbox = self.mailbox(reader.request.service, turn.now)
        effects = mailbox.acknowledge(reader.number, request.up_to, request.ranges, request.nack, turn.now)
        self._apply(turn, mailbox, effects)
        turn.answer_when_durable(request, Result({}))

    def cancel(self, turn: Turn, port: Port, request_id: int) -> None:
        """A reader gives up its lease."""
        reader = self._reader(port, request_id)
        if reader is not None:
            turn.answer(reader.request, Result({}))
            self._unsubscribe(turn, reader, lost=False)

    def drop_port(self, turn: Turn, port: Port) -> None:
        """A client is gone."""
        for reader in [reader for reader in self._readers.values() if reader.request.port is port]:
            self._unsubscribe(turn, reader, lost=True)

    def _unsubscribe(self, turn: Turn, reader: _Reader, *, lost: bool) -> None:
        del self._readers[reader.number]
        del self._numbers[id(reader.request.port), reader.request.id]
        mailbox = self.mailbox(reader.request.service, turn.now)
        self._apply(turn, mailbox, mailbox.unsubscribe(reader.number, turn.now, lost=lost))

    def _reader(self, port: Port, request_id: int) -> _Reader | None:
        number = self._numbers.get((id(port), request_id))
        return None if number is None else self._readers[number]

    # --- the disk

    def loaded(self, turn: Turn, ticket: int, rows: list[InboxRow] | None) -> bool:
        """A read came back (None: it failed). Returns whether it was one of ours."""
        load = self._loads.pop(ticket, None)
        if load is None:
            return False
        if rows is None:
            effects = load.mailbox.load_failed(load.priority, turn.now)
        else:
            batches = [Batch(entry_of(row), row.messages) for row in rows]
            effects = load.mailbox.loaded(load.priority, batches, turn.now)
        self._apply(turn, load.mailbox, effects)
        return True

    def note_expiry(self, expires_ms: int) -> None:
        """A row that expires then is being stored."""
        if self._next_expiry_ms is None or expires_ms < self._next_expiry_ms:
            self._next_expiry_ms = expires_ms

    def is_expiry(self, ticket: int) -> bool:
        """Whether this read asks for rows whose lifetime is over."""
        return ticket == self._expiry_ticket

    def expired(self, turn: Turn, rows: list[InboxRow], next_expiry_ms: int | None) -> None:
        """The answer to :meth:`poll`'s question for rows whose lifetime is over."""
        self._expiry_ticket = None
        if len(rows) == _EXPIRE_ROWS:
            next_expiry_ms = turn.now_ms
        if next_expiry_ms is not None:
            self.note_expiry(next_expiry_ms)
        consumed, self._consumed_meanwhile = self._consumed_meanwhile, set()
        for row in rows:
            if row.first_offset is None or row.row in consumed:
                continue  # held: its turn comes first
            mailbox = self.mailbox(row.service, turn.now)
            turn.ops.append(DeleteInbox((row.row,)))
            self._finished.append((entry_of(row), UNREAD))
            self._apply(turn, mailbox, mailbox.forget(row.priority, (row.first_offset,), turn.now))
            turn.log("warning", "mail expired unread", service=row.service, source=row.source, messages=row.count)

    def poll(self, turn: Turn) -> None:
        """Do what is due."""
        if self._timers.take(turn.now):
            for mailbox in list(self._mailboxes.values()):
                due = mailbox.next_deadline()
                if due is not None and due <= turn.now:
                    self._apply(turn, mailbox, mailbox.poll(turn.now))
                else:
                    self._timers.note(due)
        if self._expiry_ticket is None and self._next_expiry_ms is not None and self._next_expiry_ms <= turn.now_ms:
            self._next_expiry_ms = None  # until the answer, it is that of what the read may not have seen
            self._expiry_ticket = self._tickets.take()
            turn.load(self._expiry_ticket, ReadExpiredInbox(turn.now_ms, _EXPIRE_ROWS))

    def next_deadline(self) -> float | None:
        """When :meth:`poll` may have something to do, mesh-local seconds."""
        due = self._timers.at
        if self._next_expiry_ms is None or self._expiry_ticket is not None:
            return due
        expiry = self._next_expiry_ms / 1000
        return expiry if due is None else min(due, expiry)

    # --- what a mailbox asks for

    def _apply(self, turn: Turn, mailbox: Mailbox, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Deliver():
                    self._deliver(turn, effect)
                case Consumed():
                    rows = tuple(entry.row for entry in effect.entries)
                    turn.ops.append(DeleteInbox(rows))
                    self._finished += [(entry, None) for entry in effect.entries]
                    if self._expiry_ticket is not None:
                        self._consumed_meanwhile.update(rows)
                case StoreCursor():
                    turn.ops.append(PutFact(FACT_KIND, fact_key(mailbox.service, effect.consumer), effect.state))
                case LoadBatches():
                    ticket = self._tickets.take()
                    self._loads[ticket] = _Load(mailbox, effect.priority)
                    read = ReadInbox(mailbox.service, effect.priority, effect.offset, effect.max_rows, effect.max_bytes)
                    turn.load(ticket, read)
                case DeadLetter():
                    self._dead_letter(turn, mailbox, effect)
                case ConsumerExpired():
                    turn.ops.append(DeleteFact(FACT_KIND, fact_key(mailbox.service, effect.consumer)))
                    turn.log(
                        "warning",
                        "consumer expired",
                        service=mailbox.service,
                        consumer=effect.consumer,
                        idle_days=round(effect.idle_s / 86400, 1),
                    )
        self._timers.note(mailbox.next_deadline())

    def _deliver(self, turn: Turn, effect: Deliver) -> None:
        reader = self._readers[effect.subscription]
        batches = [self._plain(delivery, turn.now_ms) for delivery in effect.deliveries]
        turn.answer(reader.request, Item(batches))

    def _plain(self, delivery: Delivery, now_ms: int) -> list[Any]:
        entry = delivery.batch.entry
        return [
            int(entry.priority),
            delivery.first_offset,
            delivery.count,
            entry.ref,
            entry.source,
            self.names.get(entry.source),
            entry.age_ms + max(0, now_ms - entry.arrived_ms),
            delivery.redelivered,
            entry.late,
            None if entry.missing is None or delivery.first_index else codec.decode(entry.missing),
            delivery.messages,
            delivery.first_index,
        ]

    def _dead_letter(self, turn: Turn, mailbox: Mailbox, effect: DeadLetter) -> None:
        entry = effect.batch.entry
        offset = entry.first_offset + effect.index
        key = fact_key(mailbox.service, effect.consumer) + bytes((entry.priority,)) + offset.to_bytes(8, "big")
        message = codec.decode(effect.batch.messages)[effect.index]
        letter = codec.encode([entry.ref, entry.source, turn.now_ms, message])
        turn.ops.append(PutFact(DEAD_LETTER_FACT, key, letter))
        self._dead_letters[key] = len(letter)
        size_bytes = sum(self._dead_letters.values())
        while size_bytes > DEAD_LETTER_BYTES:
            oldest = next(iter(self._dead_letters))
            size_bytes -= self._dead_letters.pop(oldest)
            turn.ops.append(DeleteFact(DEAD_LETTER_FACT, oldest))
        turn.log(
            "warning",
            "dead letter",
            service=mailbox.service,
            consumer=effect.consumer,
            source=entry.source,
            attempts=effect.attempts,
        )


def _buried_ms(letter: bytes) -> int:
    at_ms: int = codec.decode(letter)[2]
    return at_ms


def entry_of(row: InboxRow) -> Entry:
    """What a mailbox keeps of a released row."""
    return Entry(
        row=row.row,
        priority=row.priority,
        first_offset=row.first_offset or 0,
        count=row.count,
        ref=row.ref,
        source=row.source,
        number=row.number,
        size_bytes=row.size_bytes,
        age_ms=row.age_ms,
        arrived_ms=row.arrived_ms,
        late=row.late,
        missing=row.missing,
    )
