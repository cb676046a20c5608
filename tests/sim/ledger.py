"""What was sent and what came of it, as apps see it; every promise is checked here as it is kept or broken."""

import itertools
from collections import defaultdict

import attrs

from meshd.ids import NodeId, Priority
from tests.sim.trace import Trace

LONG_MS = 3_600_000
"""Messages that live for this long must arrive in every run."""


class BrokenPromise(AssertionError):
    """The mesh did what it promises not to do."""


@attrs.define(eq=False)
class Sent:
    """One message. ``posted`` and ``answered`` count the moments of the run, to tell what came before what.

    Args:
        outcome: ``unknown`` until the daemon answers; then ``accepted`` or ``turned away``.
        told: states that the source's daemon told of it.
        excused: why it may be lost or come twice: a disk was replaced by an old copy.
    """

    uid: int
    source: str
    destination: str
    service: str
    priority: Priority
    lifetime_ms: int
    ephemeral: bool
    keyed: bool
    posted: int
    answered: int | None = None
    outcome: str = "unknown"
    message_id: str | None = None
    told: set[str] = attrs.field(factory=set)
    excused: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether it must reach its consumers."""
        return self.outcome == "accepted" and self.lifetime_ms >= LONG_MS and not self.ephemeral and not self.excused


@attrs.define(eq=False)
class Seen:
    """What one consumer knows of one message."""

    life: int
    lease: int
    given_back: bool = False
    acked: bool = False
    confirmed: bool = False


@attrs.define(eq=False)
class Reader:
    """One durable consumer. ``since`` is the moment from which on everything sent must reach it."""

    host: str
    service: str
    name: str
    since: int | None = None
    lease: int = 0
    seen: dict[int, Seen] = attrs.field(factory=dict)
    order: dict[tuple[str, Priority], list[Sent]] = attrs.field(factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        return f"{self.host}/{self.service}/{self.name}"


@attrs.frozen(kw_only=True)
class Arrived:
    """One delivery of one message, with what the daemon said about it."""

    source: NodeId
    priority: int
    life: int
    redelivered: bool
    late: bool
    missing: object


class Ledger:
    """See the module."""

    def __init__(self, trace: Trace, names: dict[NodeId, str]) -> None:
        self._trace = trace
        self._names = names
        self._moments = itertools.count(1)
        self.sent: dict[int, Sent] = {}
        self.readers: dict[tuple[str, str, str], Reader] = {}
        self._removed: set[str] = set()
        self._restored: set[str] = set()
        self.gaps = 0
        self.deliveries = 0

    def add(self, sent: Sent) -> None:
        """A message is going to be sent."""
        if self._removed & {sent.source, sent.destination}:
            sent.excused = "its source or destination was removed"
        self.sent[sent.uid] = sent

    def name_of(self, node: NodeId) -> str:
        """A device's name."""
        return self._names[node]

    def moment(self) -> int:
        """The next moment."""
        return next(self._moments)

    def reader(self, host: str, service: str, name: str) -> Reader:
        """The record of a consumer."""
        return self.readers.setdefault((host, service, name), Reader(host, service, name))

    def delivered(self, reader: Reader, uid: int, arrived: Arrived) -> None:
        """A consumer was handed a message."""
        self.deliveries += 1
        sent = self.sent.get(uid)
        if sent is None:
            raise BrokenPromise(f"{reader} got a message that nobody sent: {uid}")
        where = (sent.destination, sent.service, sent.priority, sent.source)
        if where != (reader.host, reader.service, arrived.priority, self._names[arrived.source]):
            raise BrokenPromise(f"{reader} got message {uid} that was sent to {where}")
        if sent.outcome == "turned away":
            raise BrokenPromise(f"{reader} got message {uid} that its sender was told is not taken")
        self.gaps += arrived.missing is not None
        before = reader.seen.get(uid)
        if before is None:
            reader.seen[uid] = Seen(arrived.life, reader.lease)
            if not sent.ephemeral:
                self._check_order(reader, sent, arrived)
        else:
            self._check_again(reader, sent, before, arrived)
            before.life, before.lease, before.given_back = arrived.life, reader.lease, False

    def _check_again(self, reader: Reader, sent: Sent, before: Seen, arrived: Arrived) -> None:
        if sent.excused:
            return
        if sent.ephemeral:
            raise BrokenPromise(f"{reader} got ephemeral message {sent.uid} twice")
        if before.confirmed:
            raise BrokenPromise(f"{reader} got message {sent.uid} again after its ack was confirmed")
        if before.life == arrived.life:
            if before.lease == reader.lease and not before.given_back:
                raise BrokenPromise(f"{reader} got message {sent.uid} twice")
            if not arrived.redelivered:
                raise BrokenPromise(f"{reader} got message {sent.uid} again, and it is not flagged")

    def _check_order(self, reader: Reader, sent: Sent, arrived: Arrived) -> None:
        earlier = reader.order[sent.source, sent.priority]
        if not arrived.late and not sent.excused:
            for other in earlier:
                if precedes(sent, other) and not other.excused:
                    raise BrokenPromise(f"{reader} got message {sent.uid} after {other.uid}, which was sent after it")
        earlier.append(sent)

    def excuse(self, host: str, taken: int) -> None:
        """A host's disk is as it was at the moment ``taken``: what came and went since is out of its hands."""
        now = self.moment()
        for sent in self.sent.values():
            if host in (sent.source, sent.destination):
                sent.excused = f"{host}'s disk of moment {taken} came back at {now}"
        self._restored.add(host)

    def excuse_all_of(self, host: str) -> None:
        """A host leaves the mesh: nothing from it or for it is promised."""
        for sent in self.sent.values():
            if host in (sent.source, sent.destination):
                sent.excused = f"{host} was removed"
        self._removed.add(host)

    def may_be_stale(self, sent: Sent) -> bool:
        """Whether a message may be refused for its epoch, and then be told so.

        Whoever starts from an old disk numbers in an epoch that others have seen the end of, until it meets one of
        them. A message's id follows from its number, so it can't get another one; and an epoch that isn't newer may
        be one that is finished and forgotten, so its numbers can't be taken either (design, section 5).
        """
        return sent.source in self._restored and not sent.excused

    def told_stale(self, sent: Sent) -> None:
        """The source's daemon tells why a message that :meth:`may_be_stale` isn't delivered."""
        sent.excused = "refused: of an epoch from before the disk came back"

    def require_all(self) -> list[str]:
        """What is still owed to consumers."""
        return [owed for sent in self.sent.values() for owed in self.owed_of(sent)]

    def owed_of(self, sent: Sent) -> list[str]:
        """Which consumers one message is owed to."""
        if not sent.is_due:
            return []
        seen = {reader: reader.seen.get(sent.uid) for reader in self.readers_of(sent)}
        return [  # an ack whose confirmation was cut off may well count
            f"{reader} has not {'acked' if found else 'got'} message {sent.uid} of {sent.source}"
            for reader, found in seen.items()
            if found is None or not found.acked
        ]

    def readers_of(self, sent: Sent) -> list[Reader]:
        """The consumers that must get a message."""
        return [
            reader
            for reader in self.readers.values()
            if (reader.host, reader.service) == (sent.destination, sent.service)
            and reader.since is not None
            and reader.since < sent.posted
        ]

    def is_acked(self, sent: Sent) -> bool:
        """Whether any consumer has tried to ack it."""
        return any(
            seen.acked
            for reader in self.readers.values()
            if (reader.host, reader.service) == (sent.destination, sent.service)
            for seen in [reader.seen.get(sent.uid)]
            if seen is not None
        )

    def tell(self, sent: Sent, state: str) -> None:
        """The source's daemon says how far a message has come."""
        sent.told.add(state)
        if sent.excused or self.readers_of(sent) == []:
            return
        if state == "consumed" and not self.is_acked(sent):
            raise BrokenPromise(f"message {sent.uid} of {sent.source} is told consumed, and nobody has acked it")
        if state in ("expired", "refused") and sent.lifetime_ms >= LONG_MS and not sent.ephemeral:
            raise BrokenPromise(f"message {sent.uid} of {sent.source} is told {state}, with most of its life before it")


def precedes(one: Sent, other: Sent) -> bool:
    """Whether ``one`` was certainly sent before ``other``: answered first, or asked first in the same way."""
    if one.answered is not None and one.outcome == "accepted" and one.answered < other.posted:
        return True
    return one.keyed == other.keyed and one.posted < other.posted and not one.keyed
