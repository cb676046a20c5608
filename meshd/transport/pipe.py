"""One direction of a connection in the memory network: what is on the way, what has come, what holds it up."""

import math
from collections import deque

import attrs
import trio

from meshd.transport.base import Lane


@attrs.frozen(kw_only=True)
class Rule:
    """How one direction between two hosts behaves.

    Args:
        delay: seconds one way.
        jitter: up to this many seconds more, evenly spread.
        loss: probability that a frame's packet is lost and has to be sent again.
        cut: probability, for each frame, that the connection breaks instead.
        bandwidth: bytes per second, shared by all connections of the pair; control has its own share.
    """

    delay: float = 0.001
    jitter: float = 0.0
    loss: float = 0.0
    cut: float = 0.0
    bandwidth: float = math.inf


@attrs.define(eq=False)
class Queue:
    """One lane's frames with their times of arrival, on the way or unread."""

    frames: deque[tuple[float, bytes]] = attrs.field(factory=deque)
    size_bytes: int = 0
    last_arrival: float = 0.0


@attrs.define(eq=False)
class Pipe:
    """One direction. Its sender is ``source``.

    Args:
        end: when the goodbye arrives; ``ending`` once it is sent.
        stalled_since: when it last stopped carrying anything; infinite while it carries.
        dead: a host has crashed: it never carries anything again.
        fault: why the connection is broken *as its sender sees it*; empty while it is not.
    """

    source: str
    target: str
    lanes: dict[Lane, Queue] = attrs.field(factory=lambda: {lane: Queue() for lane in Lane})
    end: float = math.inf
    ending: bool = False
    stalled_since: float = math.inf
    dead: bool = False
    fault: str = ""
    changed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_stalled(self) -> bool:
        """Whether nothing gets through now."""
        return self.stalled_since < math.inf

    @property
    def is_finished(self) -> bool:
        """Whether its sender is done with it."""
        return self.ending or bool(self.fault)

    @property
    def next_arrival(self) -> float:
        """When something next comes out."""
        arrivals = (queue.frames[0][0] for queue in self.lanes.values() if queue.frames)
        return min(self.end, *arrivals, math.inf)

    def wake(self) -> None:
        """Let both ends look again."""
        self.changed.set()
        self.changed = trio.Event()

    def put(self, lane: Lane, frame: bytes, arrival: float) -> None:
        """Send a frame. It arrives after all others of its lane, and not before the pipe carries again."""
        queue = self.lanes[lane]
        queue.last_arrival = math.inf if self.is_stalled else max(queue.last_arrival, arrival)
        queue.frames.append((queue.last_arrival, frame))
        queue.size_bytes += len(frame)
        self.wake()

    def finish(self, arrival: float) -> None:
        """Send the goodbye, after all frames."""
        self.ending = True
        self.end = max(arrival, *(queue.last_arrival for queue in self.lanes.values()))
        if self.is_stalled:
            self.end = math.inf
        self.wake()

    def stall(self, now: float) -> None:
        """Hold all that has not arrived yet."""
        self.stalled_since = now
        for queue in self.lanes.values():
            queue.frames = deque((at if at <= now else math.inf, frame) for at, frame in queue.frames)
            queue.last_arrival = queue.frames[-1][0] if queue.frames else now
        if self.end > now:
            self.end = math.inf
        self.wake()

    def resume(self, arrival: float) -> None:
        """Carry again: what was held arrives at ``arrival``."""
        self.stalled_since = math.inf
        for queue in self.lanes.values():
            queue.frames = deque((min(at, arrival), frame) for at, frame in queue.frames)
            queue.last_arrival = min(queue.last_arrival, arrival)
        if self.ending:
            self.end = min(self.end, arrival)
        self.wake()
