"""The node: every event goes in here, every effect comes out. It joins the parts and decides little itself.

One turn takes the events of a moment, lets each part act, then packs, plans and commits once for all
of them. Nothing here waits, reads a clock, or touches a socket or a file.
"""

import random
import sys
from collections.abc import Callable, Iterable
from typing import Any

from meshd.discovery.events import PeerSeen, ThriftChanged
from meshd.ids import Epoch, NodeId, Priority
from meshd.links.events import AcceptFailed, DialFailed, FramesReceived, LinkDown, LinkMeasured, LinkUp
from meshd.links.peer import PeerStatistics
from meshd.node.admission import AdmitDevice, JoinEnded
from meshd.node.assembly import Circumstances, assemble
from meshd.node.clients import Clients, Listening
from meshd.node.effects import (
    Announce,
    Effect,
    EndStored,
    EpochStored,
    Fail,
    InquiryEnded,
    LocalReceipt,
    SeekPeer,
)
from meshd.node.enlisting import CertificateFetched
from meshd.node.insight.inquiries import Assisted, Inquire
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import Survey
from meshd.node.requests import Request
from meshd.node.settings import Settings
from meshd.node.tally import count_reason
from meshd.node.turn import Turn
from meshd.store.ops import Committed, DeleteFact, Purge, PutFact
from meshd.store.reads import Loaded, Snapshot
from meshd.transport.base import Address
from meshd.trust.identity import Identity
from meshd.trust.seal import SourceSession
from meshd.wire import codec
from meshd.wire.frames import plain_epoch

UPKEEP_INTERVAL_S = 600.0
SESSION_KEPT_MS = 7 * 24 * 3600 * 1000
"""Beyond the longest lifetime: for bundles that aged slowly on devices that were off."""

JOURNAL_KEPT_MS = 7 * 24 * 3600 * 1000
JOURNAL_ROWS_MAX = 1_000_000
"""In the journal; the oldest go first."""


class Node:
    """One device's part in the mesh.

    Args:
        snapshot: the disk at the start; epoch: of this life, on disk already.
        now: mesh-local seconds.
        dialer: what a peer's dialer knows, for people.
        free_bytes: what the disk still takes; near its end no mail is taken, from apps or peers.
        spare_bytes: what the store's file has room for without it.
        vitals: what the shell measures of itself.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        settings: Settings,
        snapshot: Snapshot,
        epoch: Epoch,
        now: float,
        rng: random.Random,
        dialer: Callable[[NodeId], PeerStatistics | None],
        free_bytes: Callable[[], int] = lambda: sys.maxsize,
        spare_bytes: Callable[[], int] = lambda: 0,
        vitals: Vitals | None = None,
    ) -> None:
        name = snapshot.facts.get("name", {}).get(b"")
        parts = assemble(
            Circumstances(
                identity=identity,
                settings=settings,
                name=settings.name if name is None else name.decode(),
                epoch=epoch,
                now=now,
                rng=rng,
                dialer=dialer,
                free_bytes=free_bytes,
                spare_bytes=spare_bytes,
                vitals=vitals or Vitals(),
            )
        )
        self.identity, self.dialer = identity, dialer
        self.epoch = self._highest_epoch = epoch
        self.membership, self.admissions, self.peers = parts.mesh.membership, parts.mesh.admissions, parts.mesh.peers
        self.spool, self.tokens, self.watch = parts.mail.spool, parts.tokens, parts.sight.watch
        self._parts, self._mesh, self._mail, self._sight = parts, parts.mesh, parts.mail, parts.sight
        self._clients = Clients(identity.node_id, parts, now)
        self._me = identity.node_id
        self._rng = rng
        self._is_changing_epoch = False
        self._max_lifetime_ms = settings.max_lifetime_ms
        self._upkeep_at = now + UPKEEP_INTERVAL_S
        self._restore(snapshot, now)

    def _restore(self, snapshot: Snapshot, now: float) -> None:
        self.membership.restore(snapshot)
        self._mesh.chronicle.restore()
        self.admissions.restore(snapshot)
        self.watch.restore(snapshot)
        self.tokens.restore(snapshot)
        self.spool.restore(snapshot)
        self._mail.acceptor.restore(snapshot)
        self._mail.mailboxes.restore(snapshot, now)
        self._mail.arriving.restore(snapshot)
        self._mesh.notices.restore(snapshot)
        self._mesh.carriers.restore(snapshot)
        self._mail.carried.restore()
        for key, value in snapshot.facts.get("own-session", {}).items():
            made_ms, exported = codec.decode(value)
            self._mail.sessions.restore(NodeId(key[:16]), SourceSession.restore(self.identity, exported), made_ms)
        for key, value in snapshot.facts.get("address", {}).items():
            transport, host, port = codec.decode(value)
            self.peers.seen(NodeId(key), [(Address(transport, host, port), "remembered")])

    # --- one turn

    def start(self, now: float) -> list[Effect]:
        """The first turn."""
        turn = Turn(now, self._parts.tally)
        roster = self.membership.roster
        if roster is not None:
            turn.emit(Announce(bytes(roster.mesh_id)))
            self.membership.refresh_card(turn)
        self.spool.touch(self._me)
        self._parts.exchange.owe_floors((self._me, priority) for priority in Priority)
        return self._finish(turn)

    def step(self, events: Iterable[object], now: float) -> list[Effect]:
        """Take the events of a moment; return what follows."""
        turn = Turn(now, self._parts.tally)
        for event in events:
            self._handle(turn, event)
        self._poll(turn)
        self.watch.look(turn)
        return self._finish(turn)

    def next_deadline(self) -> float | None:
        """When a turn without events has something to do, mesh-local seconds."""
        deadlines = (
            self.spool.next_deadline(),
            self._mail.mailboxes.next_deadline(),
            self._mail.arriving.next_deadline(),
            self._mesh.echoes.next_deadline(),
            self._sight.inquiries.next_deadline(),
            self._mesh.routes.next_deadline(),
            self._mesh.company.next_deadline(),
            self._mesh.relays.next_deadline(),
            self._mesh.carriers.next_deadline(),
            self.membership.next_deadline(),
            self._upkeep_at,
        )
        return min((due for due in deadlines if due is not None), default=None)

    def _poll(self, turn: Turn) -> None:
        self._mesh.routes.poll(turn)
        self.spool.endings.look(turn)
        self.spool.retry(turn, self.peers)
        self._mail.mailboxes.poll(turn)
        self._mail.arriving.poll(turn)
        self._mesh.echoes.poll(turn, self.peers)
        self._sight.inquiries.poll(turn)
        self._parts.spreading.poll(turn)
        rotation = self.membership.next_deadline()
        if rotation is not None and rotation <= turn.now:
            self.membership.refresh_card(turn, self.peers)
        if self._upkeep_at <= turn.now:
            self._upkeep_at = turn.now + UPKEEP_INTERVAL_S
            self._forget_sessions(turn, turn.now_ms - self._max_lifetime_ms - SESSION_KEPT_MS)
            turn.lazy_ops.append(Purge(turn.now_ms, turn.now_ms - JOURNAL_KEPT_MS, JOURNAL_ROWS_MAX))
            # A lost receipt that told of reading alone is missed by nobody; a floor through others brings another one.
            self._parts.exchange.owe_floors(self.spool.unread(self.peers))

    def _forget_sessions(self, turn: Turn, before_ms: int) -> None:
        """Sessions that no bundle alive can have used."""
        outdated = self._mail.sessions.forget_before(before_ms)
        turn.lazy_ops += [DeleteFact("own-session", destination + session) for destination, session in outdated]
        self._mail.arriving.opening.forget_before(turn, before_ms)
        self._mesh.notices.forget_before(turn, before_ms)

    def _finish(self, turn: Turn) -> list[Effect]:
        if self.membership.news:
            self._members_changed(turn)
        self._outdo_earlier_lives(turn)
        if not self._is_changing_epoch:
            self._mail.acceptor.pack(turn, self.membership, self.peers)
        for draft, lifetime_ms in self._mail.acceptor.take_own_ephemeral():
            self._mail.arriving.take_own_ephemeral(turn, draft, lifetime_ms)
        for waiting, priority in self.spool.plan_local(turn):
            self._mail.arriving.take_local(turn, waiting, priority)
        self._mesh.relays.plan(turn)
        self._parts.linking.routes_changed(turn)
        self._mesh.company.review(turn)
        self.spool.plan(turn, self.peers)
        self._parts.spreading.plan(turn)
        self._parts.exchange.send_floors(turn)
        self._mail.arriving.finish(turn, self.peers, self._mesh.carriers)
        for findings in self._sight.inquiries.take_finished():
            if self.watch.answered(findings):
                continue
            if findings.ticket is None:
                self._sight.traces.finished(turn, findings)
            else:
                ages = {node: turn.now - moment for node, moment in findings.moments.items()}
                turn.emit(InquiryEnded(findings.ticket, findings.answers, ages, findings.silent))
        self._mesh.chronicle.deliver(turn, self._sight.views.moment)
        lazy = self._parts.tickets.commit(turn)
        if lazy is not None:
            self.spool.endings.commit(lazy, turn.lazy_ops)
        return turn.effects

    def _members_changed(self, turn: Turn) -> None:
        news, self.membership.news = self.membership.news, set()
        if self._me in news and not self.membership.is_shut_out:  # it may have been, by what turned out to be void
            news |= self.membership.require_roster().members.keys()
            turn.emit(Announce(bytes(self.membership.require_roster().mesh_id)))
        self._mail.mailboxes.names = self._mesh.echoes.names = {
            node: member.name for node, member in self.membership.require_roster().members.items()
        }
        self._mesh.chronicle.members_changed(turn)
        self._mesh.routes.members_changed(turn, news)
        self._mesh.company.members_changed(news)
        self._mesh.carriers.members_changed(turn)
        for node in news:
            if self.membership.is_removed(node):
                self.spool.give_up(turn, node)
                self._mail.carried.removed(turn, node)
                self._mail.arriving.give_up(turn, node, self.peers)
            elif not self.membership.is_removed(self._me):
                self.spool.take_back(node)
        if self._me in news and self.membership.is_shut_out:
            turn.log("warning", "this device was removed from the mesh")
        if self._me in news and self.membership.is_removed(self._me):
            self._leave(turn)
        for member in self.membership.members():
            if member.id not in news:
                continue
            card = self.membership.card(member.id)
            addresses = [(Address(a.transport, a.host, a.port), "card") for a in (card.addresses if card else ())]
            self.peers.seen(member.id, addresses)
            if member.role != "relay":
                known = (*self.peers.lasting(member.id), *addresses)
                turn.emit(SeekPeer(member.id, member.certificate, known))
            self.spool.touch(member.id)
        self._mesh.relays.members_changed()

    def _leave(self, turn: Turn) -> None:
        """This device was removed from the mesh: nobody takes its mail any more.

        It dials on, as seldom as whatever fails: what removed it may turn out to be void, and nobody may have a way to
        tell it.
        """
        turn.emit(Announce(None))
        for peer in self.membership.members():
            self.spool.give_up(turn, peer.id)

    # --- events

    def _handle(self, turn: Turn, event: object) -> None:
        match event:
            case FramesReceived():
                self._parts.exchange.received(turn, event)
            case Request():
                self._clients.request(turn, event)
            case Committed():
                self._committed(turn, event)
            case Loaded():
                self._loaded(turn, event)
            case LinkUp():
                self._parts.linking.up(turn, event, self.epoch)
            case LinkDown():
                self._parts.linking.down(turn, event)
            case LinkMeasured():
                self._parts.linking.measured(turn, event)
            case ThriftChanged():
                self._parts.linking.thrift_changed(turn, event)
            case DialFailed():
                count_reason(turn.tally.dials, event.code)
                self.peers.dial_failed(event)
                self._mesh.chronicle.dial_failed(turn, event)
                self._mesh.relays.dial_failed(event.peer)
                if event.proof:
                    self.membership.hear_proof(turn, event.proof, self.peers)
            case AcceptFailed():
                count_reason(turn.tally.strangers, event.code)
                turn.log("info", "connection refused", remote=str(event.remote), code=event.code, reason=event.reason)
            case PeerSeen():
                self._peer_seen(turn, event)
            case Listening():
                self._clients.listening = event
                self.membership.listen(turn, event.reachable, self.peers)
            case Survey():
                self.watch.surveyed(event)
            case AdmitDevice():
                self.admissions.admit(turn, event, self.peers)
            case Inquire():
                self._sight.inquiries.inquire(turn, event, self.peers)
            case Assisted():
                self._sight.inquiries.assisted(turn, event, self.peers)
            case JoinEnded():
                self.admissions.join_ended(turn, event)
            case CertificateFetched():
                self._mesh.enlisting.fetched(turn, event, self.peers)

    def _peer_seen(self, turn: Turn, event: PeerSeen) -> None:
        member = None if self.membership.roster is None else self.membership.roster.members.get(event.peer)
        if member is None or member.removed or event.peer == self._me:
            return
        addresses = tuple((address, event.source) for address in event.addresses)
        self.peers.seen(event.peer, addresses)
        if member.role != "relay":  # those are sought at the end of the turn
            turn.emit(SeekPeer(event.peer, member.certificate, addresses))

    # --- this life

    def _outdo_earlier_lives(self, turn: Turn) -> None:
        """The mesh knows another life of ours that is not before this one: this disk is an old copy. Number above it.

        Of two lives with one counter neither is later: bundles tell them apart by all of the epoch, receipts do not.
        """
        seen = self._parts.linking.seen
        if seen is None or seen.counter < self._highest_epoch.counter:
            return
        turn.log("warning", "this device's state is older than its peers remember", seen=seen.counter)
        self._is_changing_epoch = True
        epoch = Epoch(seen.counter + 1, self._rng.randbytes(8))
        self._highest_epoch = epoch
        turn.ops.append(PutFact("epoch", b"", codec.encode(plain_epoch(epoch))))
        turn.when_durable.append(EpochStored(epoch))

    # --- the store

    def _committed(self, turn: Turn, event: Committed) -> None:
        turn.tally.commits_failed += event.error is not None
        for ticket in event.tickets:
            written = self._parts.tickets.written(ticket)
            self.spool.endings.committed(turn, ticket, event.error, written)
            burnt = self._mail.acceptor.committed(turn, ticket, event.error, event.reason)
            if burnt is not None:
                self._parts.exchange.owe_floors(burnt)
                self.spool.touch(self._me)
                continue
            waiting = self._parts.tickets.committed(ticket)
            if event.error is None:
                for effect in waiting or written:
                    self._when_durable(turn, effect)
            elif waiting is not None:
                turn.emit(Fail(event.error, event.reason or ""))
            else:  # lazy: memory knows it, the disk learns it when it happens again
                turn.log("warning", "commit failed", code=event.error, reason=event.reason)

    def _when_durable(self, turn: Turn, effect: Effect) -> None:
        match effect:
            case LocalReceipt():
                self.spool.receipted(turn, self._me, effect.receipt)
            case EndStored():
                self.spool.outcomes.end_stored(effect)
            case EpochStored():
                self.epoch = effect.epoch
                self._mail.outbox.start_epoch(effect.epoch)
                self._mail.arriving.start_epoch(effect.epoch)
                self._mesh.routes.renew(turn, effect.epoch)
                self._is_changing_epoch = effect.epoch != self._highest_epoch
            case _:
                turn.emit(effect)

    def _loaded(self, turn: Turn, event: Loaded) -> None:
        ticket = event.ticket
        answer: Any = event.answer  # of the type that the read's class names
        destination = self.spool.loading.destination(ticket)
        if event.error is not None:
            turn.emit(Fail(event.error, "the store can't be read"))
        elif destination is not None:
            self.spool.loaded(turn, ticket, answer, self.membership.recipient(destination))
        elif self._mail.carried.is_answer(ticket):
            self._mail.carried.loaded(turn, ticket, answer)
        elif self.spool.endings.is_answer(ticket):
            self._parts.exchange.owe_floors(self.spool.expired(turn, *answer))
        elif self._mail.mailboxes.is_expiry(ticket):
            self._mail.mailboxes.expired(turn, *answer)
        elif not self._clients.loaded(turn, ticket, answer) and not self._sight.inquiries.loaded(
            turn, ticket, answer, self.peers
        ):
            self._mail.mailboxes.loaded(turn, ticket, answer)
