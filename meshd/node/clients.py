"""What local apps and people ask: each request is carried out, or answered with why not."""

from typing import Any

import attrs

from meshd.errors import MeshdError
from meshd.ids import BundleRef, NodeId, format_message_id, is_service_name, parse_message_id, to_text
from meshd.node.assembly import Parts
from meshd.node.effects import ChangeLogLevel, CloseBreaker, Examine, RenderMetrics
from meshd.node.followers import STAGES, Follower, Stage
from meshd.node.requests import (
    Acknowledge,
    AddCredit,
    AddRelay,
    Await,
    Cancel,
    CreateToken,
    Disconnected,
    Echo,
    Failure,
    Follow,
    InitMesh,
    Invite,
    Join,
    Query,
    Remove,
    RemoveRelay,
    Request,
    ResetBreaker,
    Result,
    RevokeToken,
    SetLogLevel,
    Submit,
    Subscribe,
)
from meshd.node.tally import count
from meshd.node.turn import Turn
from meshd.store.reads import ReadKey, ReadTrace, TraceRecord
from meshd.transport.base import Address
from meshd.trust.card import CardAddress
from meshd.wire import codec

_MAX_PINGS = 1000
_OPERATIONS: dict[type[Request], str] = {
    Submit: "send",
    Await: "await",
    Subscribe: "subscribe",
    Follow: "events",
    AddCredit: "credit",
    Acknowledge: "ack",
    Cancel: "cancel",
    Disconnected: "disconnect",
    InitMesh: "init",
    Invite: "invite",
    Join: "join",
    Remove: "remove",
    Echo: "ping",
    ResetBreaker: "breaker-reset",
    SetLogLevel: "log-level",
}
"""What requests are counted as; a Query under the name of its view."""

_ENDS = {"expired": Stage.EXPIRED, "refused": Stage.REFUSED, "delivered": Stage.DELIVERED, "consumed": Stage.CONSUMED}


@attrs.frozen
class Listening:
    """Event: this device listens at these addresses, and may be reached by others at those."""

    bound: tuple[Address, ...]
    reachable: tuple[CardAddress, ...]


@attrs.frozen
class _TraceRead:
    """A look at the disk for one message; ``follower`` when somebody waits for it to come further."""

    request: Query | Await | Submit
    ref: BundleRef
    index: int
    follower: Follower | None = None


class Clients:
    """Carries out requests."""

    def __init__(self, me: NodeId, parts: Parts, started: float) -> None:
        self._me = me
        self._parts = parts
        self._started = started
        self.listening = Listening((), ())
        self._trace_reads: dict[int, _TraceRead] = {}
        self._key_reads: dict[int, Submit] = {}
        self._keys: dict[tuple[str, str], list[Submit]] = {}
        """Submits with an idempotency key that is being looked up, the first one first."""

    def request(self, turn: Turn, request: Request) -> None:
        """Carry out one request; errors become its answer."""
        count(turn.tally.requests, request.view if type(request) is Query else _OPERATIONS.get(type(request), "other"))
        try:
            self._request(turn, request)
        except MeshdError as error:
            count(turn.tally.request_errors, error.code)
            if isinstance(request, Submit):
                count(turn.tally.turned_down, error.code, len(request.messages))
            turn.answer(request, Failure(error))

    def _request(self, turn: Turn, request: Request) -> None:
        parts = self._parts
        match request:
            case Submit():
                self._submit(turn, request)
            case Acknowledge():
                parts.mail.mailboxes.acknowledge(turn, request)
            case AddCredit():
                if not parts.mesh.chronicle.add_credit(request):
                    parts.mail.mailboxes.add_credit(turn, request)
            case Subscribe():
                self._check_service(request.service)
                parts.mail.mailboxes.subscribe(turn, request)
            case Await():
                self._await(turn, request)
            case Cancel():
                self._drop(turn, request, request.target)
            case Disconnected():
                parts.mail.followers.drop_port(request.port)
                parts.mesh.echoes.drop_port(request.port)
                parts.mesh.chronicle.drop_port(request.port)
                parts.mail.mailboxes.drop_port(turn, request.port)
            case Echo():
                if not 0 < request.count <= _MAX_PINGS:
                    raise MeshdError(
                        "E_USAGE", f"A ping is repeated 1 to {_MAX_PINGS} times.", "Choose another --count."
                    )
                destination = parts.mesh.membership.require_roster().resolve(request.destination).id
                parts.mesh.echoes.start(turn, request, destination, parts.mesh.peers)
            case InitMesh():
                parts.mesh.admissions.init(turn, request)
            case Invite():
                parts.mesh.admissions.invite(turn, request, self.listening.reachable)
            case Join():
                parts.mesh.admissions.join(turn, request)
            case Remove():
                parts.mesh.admissions.remove(turn, request, parts.mesh.peers)
            case AddRelay():
                parts.mesh.enlisting.add(turn, request, parts.mesh.peers)
            case RemoveRelay():
                parts.mesh.enlisting.remove(turn, request, parts.mesh.peers)
            case Follow():
                parts.mesh.chronicle.follow(request)
            case CreateToken():
                parts.tokens.create(turn, request, parts.sight.views.moment)
            case RevokeToken():
                parts.tokens.revoke(turn, request)
            case ResetBreaker():
                self._reset_breaker(turn, request)
            case SetLogLevel():
                turn.emit(ChangeLogLevel(request, request.component, request.level))
            case Query():
                self._query(turn, request)
            case _:
                raise MeshdError("E_UNSUPPORTED", f"The daemon does not know {type(request).__name__}.")

    def _check_service(self, service: str) -> None:
        if not is_service_name(service):
            raise MeshdError(
                "E_USAGE",
                f"{service[:70]!r} is no service name.",
                "1 to 64 letters, digits, dots, hyphens and underscores, beginning with a letter or digit.",
            )

    # --- sending

    def _submit(self, turn: Turn, request: Submit) -> None:
        self._check_service(request.service)
        if request.key is None or request.ephemeral:
            self._accept(request)
            return
        if self._parts.mail.acceptor.repeat(request):
            return
        key = (request.principal, request.key)
        waiting = self._keys.setdefault(key, [])
        waiting.append(request)
        if len(waiting) == 1:
            ticket = self._parts.tickets.take()
            self._key_reads[ticket] = request
            turn.load(ticket, ReadKey(*key))

    def _accept(self, request: Submit) -> None:
        membership = self._parts.mesh.membership
        roster = membership.require_roster()
        membership.check_not_removed()
        if membership.is_relay(membership.me):
            raise MeshdError(
                "E_USAGE",
                "This device is a relay: it passes mail on, and sends none itself.",
                "Send from another device; what is to send has to join as a member.",
            )
        member = roster.resolve(request.destination)
        if member.role == "relay":
            raise MeshdError("E_USAGE", f"{member.name} is a relay: it passes mail on, and takes none itself.")
        self._parts.mail.acceptor.submit(request, member.id)

    def _key_read(self, turn: Turn, request: Submit, answer: bytes | None) -> None:
        """The disk has told whether a key was used; repeats may have come meanwhile."""
        first, *repeats = self._keys.pop((request.principal, request.key or ""))
        try:
            if answer is None:
                self._accept(first)
        except MeshdError as error:
            for failed in (first, *repeats):
                turn.answer(failed, Failure(error))
            return
        if answer is not None:
            self._answer_again(turn, first, answer)
        for repeat in repeats:
            if answer is not None:
                self._answer_again(turn, repeat, answer)
            else:
                self._parts.mail.acceptor.repeat(repeat)

    def _answer_again(self, turn: Turn, request: Submit, answer: bytes) -> None:
        """Answer a repeat with the first one's ids, once that has come as far as the repeat asks."""
        follower = self._parts.mail.followers.repeat(turn, request, codec.decode(answer))
        for ref in sorted(follower.pending):
            self._read_trace(turn, _TraceRead(request, ref, 0, follower))

    # --- looking

    def _await(self, turn: Turn, request: Await) -> None:
        answer: dict[str, object] = {"id": format_message_id(request.ref, request.index), "state": request.state}
        follower = Follower(request, STAGES[request.state], answer, accepted=True, pending={request.ref})
        # From now on it hears of every stage; what was before, the disk tells.
        self._parts.mail.followers.follow(follower)
        self._read_trace(turn, _TraceRead(request, request.ref, request.index, follower))

    def _read_trace(self, turn: Turn, read: _TraceRead) -> None:
        ticket = self._parts.tickets.take()
        self._trace_reads[ticket] = read
        turn.load(ticket, ReadTrace(read.ref))

    def loaded(self, turn: Turn, ticket: int, answer: Any) -> bool:
        """A read came back. Returns whether it was one of ours."""
        if ticket in self._key_reads:
            self._key_read(turn, self._key_reads.pop(ticket), answer)
        elif ticket in self._trace_reads:
            self._trace_read(turn, self._trace_reads.pop(ticket), answer)
        else:
            return False
        return True

    def _trace_read(self, turn: Turn, read: _TraceRead, record: TraceRecord | None) -> None:
        request, follower = read.request, read.follower
        if follower is not None and not follower.pending:
            return  # answered meanwhile
        # Of what came from elsewhere the journal alone knows: not how many messages it was, nor what becomes of it.
        is_ours = record is not None and record.state is not None
        is_no_message = record is not None and is_ours and read.index >= record.messages
        if is_no_message or (follower is not None and not is_ours):
            error = MeshdError("E_UNKNOWN_MESSAGE", "This device has no record of the message.")
            if follower is not None:
                self._parts.mail.followers.fail(turn, follower, error)
            else:
                turn.answer(request, Failure(error))
        elif follower is not None and record is not None:
            self._parts.mail.followers.reach(turn, read.ref, self._stage_on_disk(record), record.reason)
            if follower.pending and record.state == "delivered":
                self._parts.mail.spool.watch(turn, read.ref, record)
        elif isinstance(request, Query):
            record = None if record is None else self._parts.mail.mailboxes.explain(record, turn.now)
            self._parts.sight.traces.start(turn, request, read.ref, read.index, record, self._parts.mesh.peers)

    def _stage_on_disk(self, record: TraceRecord) -> Stage:
        sent = any(entry.event == "sent" for entry in record.journal)
        stage = _ENDS.get(record.state or "", Stage.SENT if sent else Stage.ACCEPTED)
        return self._parts.mail.spool.stage_of_delivered(record) if stage is Stage.DELIVERED else stage

    def _query(self, turn: Turn, query: Query) -> None:
        views = self._parts.sight.views
        match query.view:
            case "status":
                turn.answer(query, Result(views.status(turn.now, self._started, self.listening.bound)))
            case "members":
                turn.answer(query, Result(views.members()))
            case "peers":
                turn.answer(query, Result(views.peer_list(turn.now)))
            case "queue":
                turn.answer(query, Result(views.queue(turn.now_ms)))
            case "relays":
                turn.answer(query, Result(views.relays.views()))
            case "routes":
                turn.answer(query, Result(views.routes()))
            case "trace":
                self._read_trace(turn, _TraceRead(query, *self._message_id(query.argument)))
            case "events":
                turn.answer(query, Result(views.events(int(query.argument), turn.now)))
            case "tokens":
                turn.answer(query, Result(self._parts.tokens.listed(turn.now, views.moment)))
            case "graph":
                turn.answer(query, Result(self._parts.sight.reasons.graph(turn.now)))
            case "alerts":
                turn.answer(query, Result(self._parts.sight.watch.documents(turn.now)))
            case "metrics":
                turn.emit(RenderMetrics(query.port, query.id, self._parts.sight.measures.families(turn.now)))
            case "why":
                turn.answer(query, Result(self._parts.sight.reasons.why(str(query.argument), turn.now)))
            case "config" | "doctor":
                turn.emit(Examine(query))
            case _:
                raise MeshdError("E_UNSUPPORTED", f"The daemon has no view called {query.view[:40]!r}.")

    @staticmethod
    def _message_id(text: object) -> tuple[BundleRef, int]:
        try:
            return parse_message_id(str(text))
        except ValueError as error:
            raise MeshdError(
                "E_USAGE", f"{str(text)[:40]!r} is no message id.", "As printed by: meshctl send"
            ) from error

    def _reset_breaker(self, turn: Turn, request: ResetBreaker) -> None:
        insight = self._parts.sight.reasons
        member = insight.find(request.peer)
        dialer = insight.dialer(member.id)
        if dialer is None:
            raise MeshdError("E_USAGE", f"{member.name} is not dialed at all.", f"See: meshctl why {member.name}")
        before = dialer.breaker.state.value
        turn.emit(CloseBreaker(member.id))
        self._parts.mesh.chronicle.breaker_reset(turn, member.id, before)
        answer = {"id": to_text(member.id), "name": member.name, "breaker": "closed", "before": before}
        turn.answer(request, Result(answer))

    def _drop(self, turn: Turn, request: Request, target: int) -> None:
        self._parts.mail.followers.drop_port(request.port, target)
        self._parts.mesh.echoes.drop_port(request.port, target)
        self._parts.mesh.chronicle.drop_port(request.port, target)
        self._parts.mail.mailboxes.cancel(turn, request.port, target)
