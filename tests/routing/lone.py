"""One router whose neighbours are played by the test."""

from typing import TypeVar

from meshd.ids import NodeId
from meshd.routing.effects import Effect, EpochNeeded, Send
from meshd.routing.metric import INFINITY
from meshd.routing.seqno import Announcement, Seqno
from meshd.wire.routing import RouteEntry, RouteRequest, RouteUpdate, SeqnoRequest
from tests.routing.simulation import make_router, node_id, seqno, signature

RoutingFrame = RouteUpdate | SeqnoRequest | RouteRequest
F = TypeVar("F", RouteUpdate, SeqnoRequest, RouteRequest)


def entry(destination: str, offered: int, number: int = 0, epoch: int = 1, forged: bool = False) -> RouteEntry:
    said = seqno(number, epoch)
    signed = bytes(64) if forged else signature(Announcement(node_id(destination), said, b""))
    return RouteEntry(node_id(destination), said.epoch, number, offered, signed)


class Lone:
    """A router named ``me``; ``sent`` holds what it sent since it was last asked."""

    def __init__(self, *neighbours: str, first: Seqno | None = None, split_horizon: bool = True) -> None:
        self.router = make_router("me", first=first, split_horizon=split_horizon)
        self.now = 100.0
        self.effects: list[Effect] = []
        for neighbour in neighbours:
            self.take(self.router.link_up(node_id(neighbour), 10, self.now))
        self.wait(1.0)
        self.effects.clear()

    def take(self, effects: tuple[Effect, ...]) -> None:
        self.effects.extend(effects)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.router.next_deadline) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            self.take(self.router.poll(self.now))
        self.now = until

    def hear(self, neighbour: str, *frames: RoutingFrame | RouteEntry) -> None:
        for frame in frames:
            whole = RouteUpdate((frame,)) if isinstance(frame, RouteEntry) else frame
            self.take(self.router.received(node_id(neighbour), whole, self.now))

    def retract(self, neighbour: str, destination: str, number: int = 0) -> None:
        self.hear(neighbour, entry(destination, INFINITY, number))

    def next_hop(self, destination: str) -> NodeId | None:
        return self.router.next_hop(node_id(destination))

    def told(self, neighbour: str) -> list[RouteEntry]:
        """The routes offered to ``neighbour``, taken off the record."""
        return [e for frame in self._sent(neighbour, RouteUpdate) for e in frame.routes]

    def asked(self, neighbour: str) -> list[SeqnoRequest]:
        return self._sent(neighbour, SeqnoRequest)

    def epochs_needed(self) -> list[int]:
        return [effect.above.counter for effect in self.effects if isinstance(effect, EpochNeeded)]

    def _sent(self, neighbour: str, kind: type[F]) -> list[F]:
        mine = [e for e in self.effects if isinstance(e, Send) and e.neighbour == node_id(neighbour)]
        mine = [e for e in mine if isinstance(e.frame, kind)]
        self.effects = [e for e in self.effects if e not in mine]
        return [e.frame for e in mine if isinstance(e.frame, kind)]
