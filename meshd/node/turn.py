"""One turn of the node: the events of a moment in, everything that follows from them out."""

from collections import defaultdict
from typing import Any

import attrs

from meshd.ids import BundleId
from meshd.node.effects import Answer, Commit, Effect, Load, Log, SendBundle, SendControl
from meshd.node.requests import Reply, Request
from meshd.node.tally import Tally, count
from meshd.store.ops import AddJournal, JournalEntry, Op
from meshd.store.reads import Read
from meshd.wire.frames import Ack, BundleFrame, Busy, Frame, Refused

_ACKS_PER_FRAME = 512


@attrs.define(eq=False)
class Turn:
    """Collects what one turn decides.

    Args:
        now: mesh-local seconds; see ``store.ops`` for that clock.
        tally: counts what happens, over all turns.
        effects: to be carried out now.
        ops: to be committed at once, in one transaction.
        when_durable: effects that wait for that commit, and for all before it.
        lazy_ops: to be committed whenever the next commit happens.
        when_written: effects that wait for the commit of ``lazy_ops``; tried again with the ends in it when it fails.
    """

    now: float
    tally: Tally = attrs.field(factory=Tally)
    effects: list[Effect] = attrs.field(factory=list)
    ops: list[Op] = attrs.field(factory=list)
    when_durable: list[Effect] = attrs.field(factory=list)
    lazy_ops: list[Op] = attrs.field(factory=list)
    when_written: list[Effect] = attrs.field(factory=list)
    loads: list[Load] = attrs.field(factory=list)
    """Reads: carried out after this turn's commits, whose rows they must see."""
    journal: list[JournalEntry] = attrs.field(factory=list)
    stored: dict[int, list[BundleId]] = attrs.field(factory=lambda: defaultdict(list))
    """Per link, bundles to ack once this turn's ops are durable."""
    turned_away: dict[int, list[Busy | Refused]] = attrs.field(factory=lambda: defaultdict(list))

    @property
    def now_ms(self) -> int:
        """``now`` in whole milliseconds."""
        return int(self.now * 1000)

    def emit(self, effect: Effect) -> None:
        """Carry out ``effect`` now."""
        self.effects.append(effect)

    def load(self, ticket: int, read: Read) -> None:
        """Ask the disk."""
        self.loads.append(Load(ticket, read))

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request now."""
        self.effects.append(Answer(request.port, request.id, reply))

    def answer_when_durable(self, request: Request, reply: Reply) -> None:
        """Answer a request when this turn's ops are on disk."""
        self.when_durable.append(Answer(request.port, request.id, reply))

    def send(self, link: int, frame: Frame) -> None:
        """Queue a control frame."""
        self.effects.append(SendControl(link, frame))

    def send_bundle(self, link: int, transport: str, frame: BundleFrame) -> None:
        """Queue a bundle."""
        count(self.tally.sent, transport)
        count(self.tally.sent_bytes, transport, frame.total)
        self.effects.append(SendBundle(link, frame))

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Log a line."""
        self.effects.append(Log(level, event, fields))

    def ack_frames(self) -> None:
        """Turn the collected hop acks into frames: stored ones wait for the commit, others leave now."""
        for link, ids in self.stored.items():
            for start in range(0, len(ids), _ACKS_PER_FRAME):
                self.when_durable.append(SendControl(link, Ack(tuple(ids[start : start + _ACKS_PER_FRAME]))))
        for link, verdicts in self.turned_away.items():
            for start in range(0, len(verdicts), _ACKS_PER_FRAME):
                part = verdicts[start : start + _ACKS_PER_FRAME]
                busy = tuple(item for item in part if isinstance(item, Busy))
                refused = tuple(item for item in part if isinstance(item, Refused))
                self.send(link, Ack((), busy, refused))


class Tickets:
    """Numbers for commits and reads, and the effects that wait for each commit."""

    def __init__(self) -> None:
        self._next = 1
        self._waiting: dict[int, tuple[Effect, ...]] = {}
        self._waiting_lazily: dict[int, tuple[Effect, ...]] = {}

    def take(self) -> int:
        """A fresh ticket."""
        self._next += 1
        return self._next - 1

    def commit(self, turn: Turn) -> int | None:
        """Emit the commits for a turn's ops, then its reads; effects that wait for no commit are carried out now.

        Returns the ticket of the lazy commit.
        """
        turn.ack_frames()
        if turn.journal:
            turn.lazy_ops.append(AddJournal(tuple(turn.journal)))
        if turn.ops:
            ticket = self.take()
            self._waiting[ticket] = tuple(turn.when_durable)
            turn.emit(Commit(ticket, tuple(turn.ops), chained=True))
        elif turn.when_durable and self._waiting:  # what it says may rest on what is still on its way to the disk
            last = next(reversed(self._waiting))
            self._waiting[last] += tuple(turn.when_durable)
        else:
            turn.effects += turn.when_durable
        lazy = self.take() if turn.lazy_ops else None
        if lazy is not None:
            if turn.when_written:
                self._waiting_lazily[lazy] = tuple(turn.when_written)
            turn.emit(Commit(lazy, tuple(turn.lazy_ops), urgent=False))
        turn.effects += turn.loads
        return lazy

    def committed(self, ticket: int) -> tuple[Effect, ...] | None:
        """The effects that waited for ``ticket``; None for a lazy one."""
        return self._waiting.pop(ticket, None)

    def written(self, ticket: int) -> tuple[Effect, ...]:
        """The effects that waited for the lazy commit ``ticket``."""
        return self._waiting_lazily.pop(ticket, ())
