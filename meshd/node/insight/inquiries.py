"""Questions to other devices, for people's sake: asked of many at once, also through hops, and answered.

Nothing here is stored or repeated: a device that does not answer in time is reported as silent. What a device
answers is shown to people and trusted for nothing else.
"""

import random
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from meshd import __version__
from meshd.errors import RemoteProtocolError
from meshd.ids import NodeId
from meshd.node.effects import Assist
from meshd.node.mailboxes import Mailboxes
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.turn import Tickets, Turn
from meshd.store.reads import ReadTrace, TraceRecord
from meshd.trust.seal import sign_blob
from meshd.wire.codec import ShapeError
from meshd.wire.frames import MAX_HOPS, Kind, Routed
from meshd.wire.inquiry import (
    MAX_TRACE_EVENTS,
    About,
    Answer,
    Question,
    Status,
    Topic,
    Trace,
    TraceEvent,
    decode_answer,
    decode_argument,
    decode_question,
    decode_value,
    encode_answer,
    encode_question,
    encode_value,
    known_topic,
)

QUESTION_LABEL = "meshd/question/v1"
ANSWER_LABEL = "meshd/answer/v1"

QUESTIONS_AT_ONCE = 32
QUESTIONS_PER_S = 4.0
"""What one device may ask of this one: this many, and then as many a second."""

NO_PATH = "there is no path to it now"
_REFUSALS = {Status.UNKNOWN_TOPIC: "its meshd is too old to be asked this", Status.BUSY: "it was asked too often"}
_MAX_TOKEN = 2**53


@attrs.frozen(kw_only=True)
class Inquire:
    """Event: ask ``nodes``; an effect InquiryEnded with the ``ticket`` follows within ``within_s``."""

    ticket: int
    topic: Topic
    argument: bytes
    nodes: tuple[NodeId, ...]
    within_s: float


@attrs.frozen
class Assisted:
    """Event: the loop has done what an Assist asked for; ``value`` is None when it had too much in hand."""

    source: NodeId
    token: int
    value: Any


@attrs.frozen
class Findings:
    """How an inquiry ended.

    Args:
        ticket: of the Inquire, if any.
        answers: decoded. moments: when each was made, on this device's mesh-local clock, to half a round trip.
        silent: why others did not answer.
    """

    number: int
    ticket: int | None
    answers: dict[NodeId, Any]
    moments: dict[NodeId, float]
    silent: dict[NodeId, str]


@attrs.define(eq=False)
class _Inquiry:
    number: int
    topic: Topic
    token: int
    began: float
    due: float
    silence: str
    ticket: int | None
    waiting: set[NodeId] = attrs.field(factory=set)
    answers: dict[NodeId, Any] = attrs.field(factory=dict)
    moments: dict[NodeId, float] = attrs.field(factory=dict)
    silent: dict[NodeId, str] = attrs.field(factory=dict)


@attrs.define(eq=False)
class _Budget:
    """What a device may still ask, as of ``at``."""

    left: float
    at: float


class Inquiries:
    """Asks, and answers.

    Args:
        wall: the wall clock, seconds since 1970, told to whoever asks.
    """

    def __init__(
        self,
        membership: Membership,
        mailboxes: Mailboxes,
        tickets: Tickets,
        rng: random.Random,
        wall: Callable[[], float],
    ) -> None:
        self._membership = membership
        self._mailboxes = mailboxes
        self._tickets = tickets
        self._rng = rng
        self._wall = wall
        self._numbers = 0
        self._open: dict[int, _Inquiry] = {}
        self._finished: list[Findings] = []
        self._budgets: dict[NodeId, _Budget] = {}
        self._reads: dict[int, tuple[NodeId, int]] = {}
        self._assisting: set[tuple[NodeId, int]] = set()

    # --- asking

    def ask(
        self,
        turn: Turn,
        topic: Topic,
        argument: bytes,
        nodes: Iterable[NodeId],
        peers: Peers,
        *,
        within_s: float,
        ticket: int | None = None,
    ) -> int:
        """Ask all of ``nodes`` the same; :meth:`take_finished` has the findings when all have answered, or then."""
        self._numbers += 1
        token = self._rng.randrange(_MAX_TOKEN)
        silence = f"no answer within {within_s:g} s"
        inquiry = _Inquiry(self._numbers, topic, token, turn.now, turn.now + within_s, silence, ticket)
        self._open[token] = inquiry
        body = encode_question(Question(token, topic, argument))
        for node in nodes:
            if self._send(turn, node, Kind.QUESTION, QUESTION_LABEL, body, peers):
                inquiry.waiting.add(node)
            else:
                inquiry.silent[node] = NO_PATH
        self._finish_if_done(inquiry)
        return inquiry.number

    def inquire(self, turn: Turn, event: Inquire, peers: Peers) -> None:
        """Ask for the loop."""
        self.ask(turn, event.topic, event.argument, event.nodes, peers, within_s=event.within_s, ticket=event.ticket)

    def take_finished(self) -> list[Findings]:
        """Inquiries that are over, each once."""
        finished, self._finished = self._finished, []
        return finished

    def answered(self, turn: Turn, source: NodeId, body: bytes) -> None:
        """An answer came. Raises RemoteProtocolError."""
        answer = decode_answer(body)
        inquiry = self._open.get(answer.token)
        if inquiry is None or source not in inquiry.waiting:
            return  # it came too late
        inquiry.waiting.discard(source)
        inquiry.moments[source] = (inquiry.began + turn.now) / 2
        try:
            if answer.status == Status.OK:
                inquiry.answers[source] = decode_value(inquiry.topic, answer.value)
            else:
                inquiry.silent[source] = _REFUSALS.get(Status(answer.status), "it refused")
        except (RemoteProtocolError, ValueError):  # of another version: no reason to lose a link
            inquiry.silent[source] = "its answer made no sense here"
        self._finish_if_done(inquiry)

    def poll(self, turn: Turn) -> None:
        """End the inquiries whose time is over."""
        for inquiry in [inquiry for inquiry in self._open.values() if inquiry.due <= turn.now]:
            inquiry.silent |= dict.fromkeys(inquiry.waiting, inquiry.silence)
            inquiry.waiting.clear()
            self._finish_if_done(inquiry)

    def next_deadline(self) -> float | None:
        """When :meth:`poll` has something to do."""
        return min((inquiry.due for inquiry in self._open.values()), default=None)

    def _finish_if_done(self, inquiry: _Inquiry) -> None:
        if not inquiry.waiting:
            del self._open[inquiry.token]
            self._finished.append(
                Findings(inquiry.number, inquiry.ticket, inquiry.answers, inquiry.moments, inquiry.silent)
            )

    # --- answering

    def asked(self, turn: Turn, source: NodeId, body: bytes, peers: Peers) -> None:
        """A member asks something. Raises RemoteProtocolError."""
        question = decode_question(body)
        try:
            topic: Topic = known_topic(question.topic)
        except ShapeError:
            self._refuse(turn, source, question.token, Status.UNKNOWN_TOPIC, peers)
            return
        argument = decode_argument(topic, question.argument)
        if not self._affords(turn, source):
            self._refuse(turn, source, question.token, Status.BUSY, peers)
            return
        match topic:
            case Topic.ABOUT:
                about = About(__version__, max(0, int(self._wall() * 1000)))
                self._answer(turn, source, question.token, about, peers)
            case Topic.TRACE:
                ticket = self._tickets.take()
                self._reads[ticket] = (source, question.token)
                turn.load(ticket, ReadTrace(argument))
            case Topic.DIAL_BACK | Topic.MULTICAST:
                if (source, question.token) not in self._assisting:
                    self._assisting.add((source, question.token))
                    link = peers.link_to(source)
                    turn.emit(Assist(source, question.token, topic, argument, None if link is None else link.up.remote))

    def _affords(self, turn: Turn, source: NodeId) -> bool:
        budget = self._budgets.setdefault(source, _Budget(QUESTIONS_AT_ONCE, turn.now))
        budget.left = min(QUESTIONS_AT_ONCE, budget.left + (turn.now - budget.at) * QUESTIONS_PER_S)
        budget.at = turn.now
        if budget.left < 1:
            return False
        budget.left -= 1
        return True

    def loaded(self, turn: Turn, ticket: int, record: TraceRecord | None, peers: Peers) -> bool:
        """A read came back. Returns whether it was one of ours."""
        if ticket not in self._reads:
            return False
        source, token = self._reads.pop(ticket)
        # Who reads here is nobody's business but that of the device that wrote.
        if record is not None and record.unread is not None and record.unread.source == source:
            record = self._mailboxes.explain(record, turn.now)
        events = () if record is None else record.journal[-MAX_TRACE_EVENTS:]
        told = tuple(
            TraceEvent(
                max(0, turn.now_ms - entry.at_ms),
                entry.event[:32],
                None if entry.reason is None else entry.reason[:64],
                None if entry.detail is None else entry.detail[:200],
            )
            for entry in events
        )
        self._answer(turn, source, token, Trace(None if record is None else record.state, told), peers)
        return True

    def assisted(self, turn: Turn, event: Assisted, peers: Peers) -> None:
        """The loop has done its part of an answer."""
        self._assisting.discard((event.source, event.token))
        if event.value is None:
            self._refuse(turn, event.source, event.token, Status.BUSY, peers)
        else:
            self._answer(turn, event.source, event.token, event.value, peers)

    def _answer(self, turn: Turn, source: NodeId, token: int, value: Any, peers: Peers) -> None:
        body = encode_answer(Answer(token, Status.OK, encode_value(value)))
        self._send(turn, source, Kind.ANSWER, ANSWER_LABEL, body, peers)

    def _refuse(self, turn: Turn, source: NodeId, token: int, status: Status, peers: Peers) -> None:
        self._send(turn, source, Kind.ANSWER, ANSWER_LABEL, encode_answer(Answer(token, status, b"")), peers)

    def _send(self, turn: Turn, node: NodeId, kind: int, label: str, body: bytes, peers: Peers) -> bool:
        link = peers.toward(node)
        if link is None:
            return False
        if link.peer != node:  # others pass it on: it is signed for its addressee
            body = sign_blob(self._membership.identity, label, node + body)
        turn.send(link.number, Routed(self._membership.me, node, MAX_HOPS, kind, body))
        return True
