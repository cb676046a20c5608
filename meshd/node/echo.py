"""``meshctl ping``: round trips through the mesh, and the path they took."""

import itertools

import attrs

from meshd.errors import MeshdError
from meshd.ids import NodeId
from meshd.node.effects import SendControl
from meshd.node.peers import Peers
from meshd.node.requests import Echo as EchoRequest
from meshd.node.requests import Port, Result
from meshd.node.turn import Turn
from meshd.wire.frames import MAX_HOPS, Echo

INTERVAL_S = 0.1
ANSWER_WITHIN_S = 2.0


@attrs.define(eq=False)
class _Run:
    """One request. ``token`` is the echo under way; ``due`` when to send the next or give up on it."""

    request: EchoRequest
    destination: NodeId
    token: int | None = None
    sent: int = 0
    sent_at: float = 0.0
    due: float = 0.0
    rtts_ms: list[float] = attrs.field(factory=list)
    path: tuple[NodeId, ...] = ()


class Echoes:
    """The pings that this device is doing for its clients."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._tokens = itertools.count(1)
        self._runs: list[_Run] = []
        self.names: dict[NodeId, str] = {}

    def start(self, turn: Turn, request: EchoRequest, destination: NodeId, peers: Peers) -> None:
        """Begin. Raises MeshdError E_UNREACHABLE when there is no path now."""
        if destination == self._me:
            names = [self.names.get(self._me, "")]
            rtt = {"min": 0.0, "p50": 0.0, "p99": 0.0, "max": 0.0}
            count = request.count
            turn.answer(request, Result({"sent": count, "received": count, "rtt_ms": rtt, "path": names}))
            return
        if peers.toward(destination) is None:
            raise MeshdError("E_UNREACHABLE", "There is no path to the device now.")
        run = _Run(request, destination)
        self._runs.append(run)
        self._send(turn, run, peers)

    def _send(self, turn: Turn, run: _Run, peers: Peers) -> None:
        run.sent += 1
        run.token = next(self._tokens)
        run.sent_at = turn.now
        run.due = turn.now + min(ANSWER_WITHIN_S, run.request.timeout_s)
        link = peers.toward(run.destination)
        if link is not None:
            frame = Echo(self._me, run.destination, MAX_HOPS, run.token, answer=False, path=(self._me,))
            turn.emit(SendControl(link.number, frame))

    def received(self, turn: Turn, frame: Echo, peers: Peers) -> None:
        """An echo came for this device: turn it round, or count it."""
        if not frame.answer:
            link = peers.toward(frame.source)
            if link is not None:
                path = (*frame.path, self._me)[: MAX_HOPS + 1]
                answer = Echo(self._me, frame.source, MAX_HOPS, frame.token, answer=True, path=path)
                turn.emit(SendControl(link.number, answer))
            return
        for run in self._runs:
            if run.token == frame.token and run.destination == frame.source:
                run.rtts_ms.append((turn.now - run.sent_at) * 1000)
                run.path = frame.path
                run.token = None
                run.due = turn.now + INTERVAL_S
                self._finish_if_done(turn, run)
                return

    def pass_on(self, turn: Turn, frame: Echo, peers: Peers) -> None:
        """An echo for another device: note that it came through here."""
        link = peers.toward(frame.destination)
        if link is not None and frame.hop_limit > 0 and len(frame.path) <= MAX_HOPS:
            path = frame.path if frame.answer else (*frame.path, self._me)
            turn.send(link.number, attrs.evolve(frame, hop_limit=frame.hop_limit - 1, path=path))

    def poll(self, turn: Turn, peers: Peers) -> None:
        """Send what is due; give up on what did not come back."""
        for run in list(self._runs):
            if run.due > turn.now:
                continue
            run.token = None
            if not self._finish_if_done(turn, run):
                self._send(turn, run, peers)

    def _finish_if_done(self, turn: Turn, run: _Run) -> bool:
        if run.sent < run.request.count:
            return False
        self._runs.remove(run)
        rtt = None
        if run.rtts_ms:
            ordered = sorted(run.rtts_ms)
            p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
            values = {"min": ordered[0], "p50": p50, "p99": p99, "max": ordered[-1]}
            rtt = {name: round(value, 3) for name, value in values.items()}
        path = [self.names.get(node, "") for node in run.path]
        answer = {"sent": run.sent, "received": len(run.rtts_ms), "rtt_ms": rtt, "path": path}
        turn.answer(run.request, Result(answer))
        return True

    def drop_port(self, port: Port, request_id: int | None = None) -> None:
        """The client is gone, or gave up."""
        self._runs = [
            run
            for run in self._runs
            if run.request.port is not port or (request_id is not None and run.request.id != request_id)
        ]

    def next_deadline(self) -> float | None:
        """When :meth:`poll` has something to do."""
        return min((run.due for run in self._runs), default=None)
