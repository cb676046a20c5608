"""The apps of a host: one that sends, and consumers that read, forget, give back, leave and return."""

import random
from collections import deque
from collections.abc import Callable

import attrs
import trio

from meshd.ids import Priority
from meshd.node.requests import (
    Acknowledge,
    AddCredit,
    Cancel,
    Disconnected,
    Failure,
    Item,
    Reply,
    Request,
    Result,
    Submit,
    Subscribe,
)
from meshd.wire.bundle import Message, decode_messages
from meshd.wire.frames import STALE_EPOCH
from tests.sim.host import Host, Life
from tests.sim.ledger import Arrived, Ledger, Reader, Sent

UID_BYTES = 8
_CREDIT = 64


class Session:
    """A client's connection to one life of a daemon; the Port that it is answered through."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self._next = 1
        self._handlers: dict[int, Callable[[Reply], None]] = {}

    @property
    def is_lost(self) -> bool:
        """Whether the daemon is gone."""
        return self.life.ending.is_set()

    def next_id(self, handler: Callable[[Reply], None] | None = None) -> int:
        """A number for a request; replies to it go to ``handler``."""
        self._next += 1
        if handler is not None:
            self._handlers[self._next] = handler
        return self._next

    def post(self, request: Request) -> None:
        """Hand a request over."""
        self.life.post(request)

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        """See Port. Nothing reaches a client whose daemon is dying."""
        handler = self._handlers.get(request_id)
        if handler is None or self.is_lost:
            return
        if not isinstance(reply, Item):
            del self._handlers[request_id]
        handler(reply)


@attrs.frozen(kw_only=True)
class Habits:
    """How a consumer behaves while faults are on; afterwards it acks everything at once."""

    ack_after_s: float = 0.5
    forget_chance: float = 0.1
    nack_chance: float = 0.05
    leave_chance: float = 0.1


class Consuming:
    """One consumer app."""

    def __init__(self, host: Host, ledger: Ledger, reader: Reader, rng: random.Random, habits: Habits) -> None:
        self._host = host
        self._ledger = ledger
        self._reader = reader
        self._rng = rng
        self.habits = habits
        self.is_tidy = False
        self._unacked: deque[tuple[int, int, int]] = deque()  # priority, offset, uid
        self._filled = trio.Event()
        self._taken = 0  # delivered since credit was last given
        self._refused = False

    def make_tidy(self) -> None:
        """From now on, ack everything at once, also what lies here."""
        self.is_tidy = True
        self._filled.set()

    async def run(self) -> None:
        """Read for ever."""
        while True:
            session = Session(await self._host.alive())
            await self._read(session)

    async def _read(self, session: Session) -> None:
        reader, life = self._reader, self._host.lives
        self._unacked.clear()
        self._taken = 0
        self._refused = False
        reader.lease += 1
        number = session.next_id(lambda reply: self._got(session, life, reply))
        ask = {"port": session, "principal": f"reader:{reader}"}
        session.post(
            Subscribe(id=number, service=reader.service, consumer=reader.name, credit=_CREDIT, **ask)  # type: ignore[arg-type]
        )
        self._confirm_since(session, number)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_lost, session, scope)
                await self._work(session, number)
                scope.cancel()

    async def _until_lost(self, session: Session, scope: trio.CancelScope) -> None:
        await session.life.ending.wait()
        scope.cancel()

    def _confirm_since(self, session: Session, number: int) -> None:
        """An empty ack is answered once the subscription is on disk: from then on, everything is ours to get."""
        if self._reader.since is None:

            def confirmed(reply: Reply) -> None:
                if isinstance(reply, Result) and self._reader.since is None:
                    self._reader.since = self._ledger.moment()

            self._ack(session, number, {}, {}, confirmed)

    async def _work(self, session: Session, number: int) -> None:
        """Until this client leaves."""
        rng, habits = self._rng, self.habits
        while not self._refused:
            if not self._unacked and not self._taken:
                await self._filled.wait()
            self._filled = trio.Event()
            if not self.is_tidy:
                await trio.sleep(rng.uniform(0, habits.ack_after_s))
            self._settle(session, number)
            if not self.is_tidy and rng.random() < habits.leave_chance:
                self._leave(session, number)
                await trio.sleep(rng.uniform(0, 3))
                return
        await trio.sleep(1)

    def _leave(self, session: Session, number: int) -> None:
        ask = {"port": session, "principal": "reader"}
        if self._rng.random() < 0.5:
            session.post(Cancel(id=session.next_id(), target=number, **ask))  # type: ignore[arg-type]
        else:
            session.post(Disconnected(id=session.next_id(), **ask))  # type: ignore[arg-type]
        session.reply_nowait = lambda request_id, reply: None  # type: ignore[method-assign]  # it reads no more

    def _settle(self, session: Session, number: int) -> None:
        """Ack some of what is here: from the start, in pieces, or not at all; give some back."""
        rng = self._rng
        acked: list[tuple[int, int, int]] = []
        returned: list[tuple[int, int, int]] = []
        count = len(self._unacked)
        for item in [self._unacked.popleft() for _ in range(count)]:
            draw = 1.0 if self.is_tidy else rng.random()
            if draw < self.habits.nack_chance:
                returned.append(item)
            elif draw < self.habits.nack_chance + self.habits.forget_chance:
                self._unacked.append(item)
            else:
                acked.append(item)
        for _, _, uid in returned:
            self._reader.seen[uid].given_back = True
        for _, _, uid in acked:
            self._reader.seen[uid].acked = True

        def confirmed(reply: Reply) -> None:
            if isinstance(reply, Result):
                for _, _, uid in acked:
                    self._reader.seen[uid].confirmed = True

        if acked or returned:
            self._ack(session, number, _spans(acked), _spans(returned), confirmed)
        if self._taken:
            credit, self._taken = self._taken, 0
            session.post(
                AddCredit(port=session, id=session.next_id(), principal="reader", subscription=number, messages=credit)
            )

    def _ack(
        self,
        session: Session,
        number: int,
        ranges: dict[int, tuple[tuple[int, int], ...]],
        nack: dict[int, tuple[tuple[int, int], ...]],
        confirmed: Callable[[Reply], None],
    ) -> None:
        up_to: dict[int, int] = {}
        session.post(
            Acknowledge(
                port=session,
                id=session.next_id(confirmed),
                principal="reader",
                subscription=number,
                up_to=up_to,
                ranges=ranges,
                nack=nack,
            )
        )

    def _got(self, session: Session, life: int, reply: Reply) -> None:
        if not isinstance(reply, Item):
            self._refused = True
            self._filled.set()
            return
        for batch in reply.value:
            priority, first, count, _, source, _, _, redelivered, late, missing, messages, _ = batch
            arrived = Arrived(
                source=source, priority=priority, life=life, redelivered=redelivered, late=late, missing=missing
            )
            for index, message in enumerate(decode_messages(messages, count)):
                uid = int.from_bytes(message.payload[:UID_BYTES], "big")
                self._host.trace.note(
                    "delivered", to=self._reader, uid=uid, offset=first + index, again=redelivered, late=late
                )
                self._ledger.delivered(self._reader, uid, arrived)
                self._taken += 1
                if not self._ledger.sent[uid].ephemeral:
                    self._unacked.append((priority, first + index, uid))
        self._filled.set()


def _spans(items: list[tuple[int, int, int]]) -> dict[int, tuple[tuple[int, int], ...]]:
    spans: dict[int, list[tuple[int, int]]] = {}
    for priority, offset, _ in items:
        spans.setdefault(priority, []).append((offset, offset))
    return {priority: tuple(found) for priority, found in spans.items()}


@attrs.frozen(kw_only=True)
class Traffic:
    """What a sender draws from. ``kinds``: long and short lifetimes, ephemeral, keyed."""

    destinations: tuple[str, ...]
    services: tuple[str, ...]
    sends: int
    over_s: float
    large_chance: float = 0.05
    short_chance: float = 0.1
    ephemeral_chance: float = 0.1
    keyed_chance: float = 0.15


class Sending:
    """One app that sends."""

    def __init__(self, host: Host, ledger: Ledger, rng: random.Random, traffic: Traffic) -> None:
        self._host = host
        self._ledger = ledger
        self._rng = rng
        self._traffic = traffic
        self._keys = 0
        self._session: Session | None = None

    async def run(self) -> None:
        """Send everything, in bursts and with pauses; a keyed request without an answer is repeated."""
        traffic, rng = self._traffic, self._rng
        mean = traffic.over_s / traffic.sends
        async with trio.open_nursery() as nursery:
            for _ in range(traffic.sends):
                if rng.random() < 0.6:
                    await trio.sleep(rng.expovariate(0.6 / mean))
                session = await self._connect()
                request, sent = self._draw(session)
                self._submit(session, request, sent)
                if request.key is not None and not request.ephemeral:
                    nursery.start_soon(self._insist, request, sent)

    async def _connect(self) -> Session:
        life = await self._host.alive()
        if self._session is None or self._session.life is not life:
            self._session = Session(life)
        return self._session

    async def _insist(self, request: Submit, sent: list[Sent]) -> None:
        """Repeat a keyed request: until it is answered, and at times once more."""
        repeats = self._rng.randrange(3)
        while sent[0].outcome == "unknown" or repeats:
            repeats = max(0, repeats - 1)
            await trio.sleep(self._rng.uniform(0.0, 2.0))
            if sent[0].outcome == "turned away" and not repeats:
                return  # asking again would make it unknown again, for ever
            session = await self._connect()
            self._submit(session, attrs.evolve(request, port=session, id=0), sent)

    def _draw(self, session: Session) -> tuple[Submit, list[Sent]]:
        traffic, rng = self._traffic, self._rng
        ephemeral = rng.random() < traffic.ephemeral_chance
        keyed = rng.random() < traffic.keyed_chance
        if keyed:
            self._keys += 1
        long_ms = rng.choice((None, 24 * 3600 * 1000))
        lifetime_ms = rng.randrange(500, 20_000) if rng.random() < traffic.short_chance else long_ms
        request = Submit(
            port=session,
            id=0,
            principal=rng.choice(("uid:1", "uid:2")),
            destination=rng.choice(traffic.destinations),
            service=rng.choice(traffic.services),
            messages=(),
            priority=Priority(rng.choice((0, 1, 2, 2, 2, 3))),
            lifetime_ms=lifetime_ms,
            ephemeral=ephemeral,
            wait=rng.choice(("accepted", "accepted", "sent", "delivered", "consumed")),
            key=f"key-{self._keys}" if keyed else None,
        )
        sent = [self._record(request) for _ in range(rng.choice((1, 1, 1, 2, 5, 20)))]
        payloads = [item.uid.to_bytes(UID_BYTES, "big") + bytes(self._size()) for item in sent]
        return attrs.evolve(request, messages=tuple(Message(payload) for payload in payloads)), sent

    def _size(self) -> int:
        if self._rng.random() < self._traffic.large_chance:
            return self._rng.randrange(200 * 1024)
        return self._rng.randrange(1500)

    def _record(self, request: Submit) -> Sent:
        ledger = self._ledger
        sent = Sent(
            uid=len(ledger.sent) + 1,
            source=self._host.name,
            destination=request.destination,
            service=request.service,
            priority=request.priority,
            lifetime_ms=request.lifetime_ms or 7 * 24 * 3600 * 1000,
            ephemeral=request.ephemeral,
            keyed=request.key is not None,
            posted=0,
        )
        ledger.add(sent)
        return sent

    def _submit(self, session: Session, request: Submit, sent: list[Sent]) -> None:
        for item in sent:
            item.posted = item.posted or self._ledger.moment()
            if item.outcome == "turned away":
                item.outcome = "unknown"  # asked again
        number = session.next_id(lambda reply: self._answered(request, sent, reply))
        self._host.trace.note(
            "submit",
            uids=f"{sent[0].uid}..{sent[-1].uid}",
            to=f"{request.destination}/{request.service}",
            priority=int(request.priority),
            lifetime=request.lifetime_ms,
            ephemeral=request.ephemeral,
            key=request.key,
            wait=request.wait,
        )
        session.post(attrs.evolve(request, id=number))

    def _answered(self, request: Submit, sent: list[Sent], reply: Reply) -> None:
        shown = reply.error.code if isinstance(reply, Failure) else reply.value["state"]  # type: ignore[union-attr]
        self._host.trace.note("answered", uids=f"{sent[0].uid}..{sent[-1].uid}", with_=shown)
        if isinstance(reply, Failure):
            if reply.error.code == "E_REFUSED" and STALE_EPOCH in reply.error.message:
                for item in filter(self._ledger.may_be_stale, sent):
                    self._ledger.told_stale(item)
            self._failed(sent, reply.error.code)
            return
        assert isinstance(reply, Result)
        ids = reply.value["ids"]
        assert len(ids) == len(sent), (ids, sent)
        for item, message_id in zip(sent, ids, strict=True):
            is_same = item.message_id in (None, message_id)
            assert is_same or item.excused, f"message {item.uid} has two ids"  # an old disk does not know its key
            item.message_id = message_id
            item.outcome = "accepted"
            item.answered = item.answered or self._ledger.moment()
            self._ledger.tell(item, reply.value["state"])

    def _failed(self, sent: list[Sent], code: str) -> None:
        for item in sent:
            match code:
                case "E_EXPIRED" | "E_REFUSED":
                    item.outcome = "accepted"
                    self._ledger.tell(item, "expired" if code == "E_EXPIRED" else "refused")
                case "E_GONE":
                    item.outcome = "accepted"
                    self._ledger.tell(item, "delivered")
                case "E_FULL":
                    pass  # when it is told by a commit that failed, the message may have left already
                case "E_UNREACHABLE" | "E_BUSY" if item.ephemeral:
                    pass  # a part of it may have left
                case "E_UNKNOWN_DEVICE":
                    item.outcome = "turned away" if item.outcome == "unknown" else item.outcome
                case "E_REMOVED_DEVICE" if self._host.is_removed:
                    item.outcome = "turned away" if item.outcome == "unknown" else item.outcome
                case _:
                    raise AssertionError(f"message {item.uid} was answered with {code}")
