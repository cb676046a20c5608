"""Messages of local apps on their way into the spool: checked, packed, numbered, sealed, committed, answered."""

from collections.abc import Callable, Iterable, Set

import attrs

from meshd.delivery.outbox import Draft, Outbox, Recipient, Sealed, flow_key, parse_flow_key
from meshd.delivery.packing import Pack, Packer, PackKey, Share, message_size
from meshd.errors import MeshdError
from meshd.ids import BundleRef, NodeId, Priority, format_message_ids
from meshd.node.deposits import COPIES
from meshd.node.effects import Commit
from meshd.node.followers import STAGES, Follower, Followers, Stage
from meshd.node.loading import session_fact
from meshd.node.membership import Membership
from meshd.node.outcomes import TRACE_KEPT_MS
from meshd.node.peers import NO_ROW, Peers, Unacked
from meshd.node.requests import Failure, Result, Submit
from meshd.node.spool import Spool
from meshd.node.tally import count
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import AddJournal, JournalEntry, Op, PutFact, PutKey, PutSpool, SpoolRow
from meshd.store.reads import Snapshot
from meshd.store.reserve import REGAIN_BYTES
from meshd.wire.bundle import MAX_MESSAGE_BYTES
from meshd.wire.codec import encode
from meshd.wire.frames import MAX_HOPS, BundleFrame

MIN_FREE_BYTES = REGAIN_BYTES
"""Left free on the disk: room for the log of the store, for acks, and for everybody else."""

_LOG_BYTES = MIN_FREE_BYTES // 2
_PACK_AT_ONCE_BYTES = 1024 * 1024
_ROW_OVERHEAD_BYTES = 256


@attrs.frozen(kw_only=True)
class Limits:
    """What the configuration allows; ``neighbour_bytes`` of what one neighbour hands over for others.

    ``free_bytes``: what the disk still takes; ``spare_bytes``: what the store's file has room for without it.
    """

    quota_bytes: int
    default_lifetime_ms: int
    max_lifetime_ms: int
    free_bytes: Callable[[], int]
    spare_bytes: Callable[[], int]
    neighbour_bytes: int | None = None

    @property
    def is_disk_full(self) -> bool:
        """Whether the disk is so full that no more mail may be taken."""
        free = self.free_bytes()
        # A file does not become shorter when mail leaves. What is new goes where that was, by way of the log.
        is_roomy = free >= _LOG_BYTES and self.spare_bytes() >= MIN_FREE_BYTES
        return free < MIN_FREE_BYTES and not is_roomy


@attrs.define(eq=False)
class _Submission:
    """One request whose messages wait to be packed."""

    request: Submit
    refs: list[tuple[BundleRef, int, int]] = attrs.field(factory=list)
    """(bundle, first message, how many) in order."""

    def ids(self) -> list[str]:
        return [message_id for part in self.refs for message_id in format_message_ids(*part)]


@attrs.frozen
class _Stored:
    """A bundle whose commit is under way."""

    draft: Draft
    row: SpoolRow


@attrs.define(eq=False)
class _Accepting:
    """One commit of accepted messages, and who is answered after it."""

    ops: list[Op] = attrs.field(factory=list)
    journal: list[JournalEntry] = attrs.field(factory=list)
    stored: list[_Stored] = attrs.field(factory=list)
    flows: set[tuple[NodeId, Priority]] = attrs.field(factory=set)
    followers: list[tuple[Follower, list[str]]] = attrs.field(factory=list)
    """With the ids of the messages."""
    sessions: dict[bytes, Op] = attrs.field(factory=dict)
    """Roots that go to disk with this commit."""


class Acceptor:
    """From Submit to ``accepted``. At most one commit is under way; what comes meanwhile packs together."""

    def __init__(
        self, me: NodeId, outbox: Outbox, spool: Spool, followers: Followers, tickets: Tickets, limits: Limits
    ) -> None:
        self._me = me
        self._outbox = outbox
        self._spool = spool
        self._followers = followers
        self._tickets = tickets
        self._limits = limits
        self._packer = Packer()
        self._submissions: dict[int, _Submission] = {}
        self._accepting: dict[int, _Accepting] = {}
        self._keys: dict[tuple[str, str], list[Submit]] = {}
        """Idempotency keys being accepted, and the repeats that wait for the answer."""
        self._own_ephemeral: list[tuple[Draft, int]] = []

    def restore(self, snapshot: Snapshot) -> None:
        """Go on after the last life's predecessors."""
        for key, value in snapshot.facts.get("last", {}).items():
            self._outbox.restore_last(*parse_flow_key(key), value)

    @property
    def quota_bytes(self) -> int:
        """How much may wait in the spool."""
        return self._limits.quota_bytes

    def submit(self, request: Submit, destination: NodeId) -> None:
        """Take a request's messages to be packed. Raises MeshdError: nothing of it was taken."""
        if not request.messages:
            raise MeshdError("E_USAGE", "There is no message in the request.")
        if any(len(message.payload) > MAX_MESSAGE_BYTES for message in request.messages):
            raise MeshdError("E_TOO_LARGE", f"A message body is over {MAX_MESSAGE_BYTES} bytes.")
        limits = self._limits
        lifetime_ms = limits.default_lifetime_ms if request.lifetime_ms is None else request.lifetime_ms
        if not 0 < lifetime_ms <= limits.max_lifetime_ms:
            raise MeshdError(
                "E_USAGE",
                f"The lifetime must be over 0 and at most {limits.max_lifetime_ms / 86_400_000:.4g} days.",
                "Choose a shorter lifetime, or raise store.max_lifetime.",
            )
        size = sum(message_size(message) for message in request.messages)
        if not request.ephemeral and self._spool.size_bytes + self._packer.pending_bytes + size > limits.quota_bytes:
            raise MeshdError(
                "E_FULL",
                f"The spool holds {self._spool.size_bytes} of {limits.quota_bytes} bytes; {size} more do not fit.",
                "Retry after 5 s. What waits, and for whom: meshctl queue",
            )
        if not request.ephemeral and limits.is_disk_full:
            raise MeshdError("E_FULL", "The disk is full.", "Make room on the disk, then send again.")
        key = PackKey(destination, request.service, request.priority, request.ephemeral, lifetime_ms, request.principal)
        token = self._tickets.take()
        if request.key is not None and not request.ephemeral:
            self._keys[request.principal, request.key] = []
        self._submissions[token] = _Submission(request)
        self._packer.add(token, key, request.messages, size)

    def repeat(self, request: Submit) -> bool:
        """Whether a request with this idempotency key is being accepted now; then this one gets its answer."""
        repeats = self._keys.get((request.principal, request.key or ""))
        if repeats is not None:
            repeats.append(request)
        return repeats is not None

    def pack(self, turn: Turn, membership: Membership, peers: Peers) -> None:
        """Pack, number, seal and commit what was submitted, unless the last such commit still runs."""
        if not self._packer or (self._accepting and self._packer.pending_bytes < _PACK_AT_ONCE_BYTES):
            return
        if not self._accepting:
            self._outbox.forget_burnt()
        batch = _Accepting()
        for pack in self._packer.take():
            local = pack.key.destination == self._me  # never sealed: it does not leave
            recipient = None if local else membership.recipient(pack.key.destination)
            if pack.key.ephemeral:
                self._send_ephemeral(turn, pack, recipient, peers)
            else:
                # Forwarding starts while the commit runs, but not of what may be asked for again by its key: if the
                # commit fails, the repeat has another number, and the destination could not tell them for one.
                keep = peers.way(pack.key.destination)[0] is not None and not self._has_key(pack)
                self._store(turn, batch, pack, recipient, keep=keep)
        self._follow(turn, batch)
        if batch.stored:
            batch.ops += [PutFact("last", flow_key(*flow), self._outbox.encode_last(*flow)) for flow in batch.flows]
            batch.ops += batch.sessions.values()
            batch.ops.append(AddJournal(tuple(batch.journal)))
            ticket = self._tickets.take()
            self._accepting[ticket] = batch
            turn.emit(Commit(ticket, tuple(batch.ops)))

    def _has_key(self, pack: Pack) -> bool:
        submissions = [self._submissions[share.token] for share in pack.shares]
        return any(submission.request.key is not None for submission in submissions)

    def _store(self, turn: Turn, batch: _Accepting, pack: Pack, recipient: Recipient | None, *, keep: bool) -> None:
        key = pack.key
        draft = self._outbox.draft(pack, self._spool.floor(key.destination, key.priority))
        sealed: Sealed | None = None
        if recipient is not None:
            sealed = self._outbox.seal(draft.flow, draft.number, draft.plaintext, key.lifetime_ms, recipient, turn.now)
            if sealed.unstored is not None and sealed.session not in batch.sessions:
                exported = sealed.unstored.export()
                batch.sessions[sealed.session] = session_fact(key.destination, sealed.session, exported, turn)
        row = self._row(turn, pack, draft, sealed)
        batch.ops.append(PutSpool(row))
        batch.journal.append(JournalEntry(draft.ref, turn.now_ms, "accepted"))
        batch.stored.append(_Stored(draft, row))
        batch.flows.add((key.destination, key.priority))
        self._spool.put(row, keep=keep)
        self._note(pack.shares, draft.ref)

    def _row(self, turn: Turn, pack: Pack, draft: Draft, sealed: Sealed | None) -> SpoolRow:
        body = draft.plaintext if sealed is None else sealed.body
        return SpoolRow(
            row=self._spool.take_row(),
            ref=draft.ref,
            bundle=None if sealed is None else sealed.bundle,
            source=self._me,
            destination=pack.key.destination,
            priority=pack.key.priority,
            number=draft.number,
            head=None if sealed is None else sealed.head,
            body=body,
            service=pack.key.service,
            messages=len(pack.messages),
            from_peer=None,
            principal=pack.key.principal,
            hop_limit=MAX_HOPS,
            copies=COPIES,
            lifetime_ms=pack.key.lifetime_ms,
            accepted_ms=turn.now_ms,
            expires_ms=turn.now_ms + pack.key.lifetime_ms,
            size_bytes=len(body) + _ROW_OVERHEAD_BYTES,
        )

    def _send_ephemeral(self, turn: Turn, pack: Pack, recipient: Recipient | None, peers: Peers) -> None:
        # What failed in an earlier pack is answered, and gone.
        shares = [share for share in pack.shares if share.token in self._submissions]
        if not shares:
            return
        if pack.key.destination == self._me:
            self._own_ephemeral.append((self._outbox.draft(pack, None), pack.key.lifetime_ms))
            self._note(shares, self._own_ephemeral[-1][0].ref)
            return
        link = peers.toward(pack.key.destination)
        if link is None or recipient is None or not link.has_room:
            code = "E_BUSY" if link is not None and recipient is not None else "E_UNREACHABLE"
            error = MeshdError(code, "An ephemeral message needs a path that is free at this moment.")
            for share in shares:
                turn.answer(self._submissions.pop(share.token).request, Failure(error))
            return
        draft = self._outbox.draft(pack, None)
        lifetime_ms = pack.key.lifetime_ms
        sealed = self._outbox.seal(draft.flow, draft.number, draft.plaintext, lifetime_ms, recipient, turn.now)
        self._spool.offers.send_once(turn, link, recipient.node, sealed.session)
        unacked = Unacked(recipient.node, pack.key.priority, True, NO_ROW, len(sealed.body))
        link.sent(sealed.bundle, unacked)
        frame = BundleFrame(MAX_HOPS - 1, 0, 0, sealed.head, sealed.body, len(sealed.body))
        turn.send_bundle(link.number, link.transport, frame)
        turn.tally.ephemeral_sent += len(pack.messages)
        self._note(shares, draft.ref)

    def _note(self, shares: Iterable[Share], ref: BundleRef) -> None:
        for share in shares:
            self._submissions[share.token].refs.append((ref, share.first, share.count))

    def take_own_ephemeral(self) -> list[tuple[Draft, int]]:
        """Ephemeral bundles of this device to itself, with their lifetimes, since the last call."""
        taken, self._own_ephemeral = self._own_ephemeral, []
        return taken

    def _follow(self, turn: Turn, batch: _Accepting) -> None:
        """Everything submitted is packed: from here on, followers of the bundles hold the requests."""
        submissions, self._submissions = self._submissions, {}
        for submission in submissions.values():
            request = submission.request
            ids = submission.ids()
            if request.ephemeral:
                if ids:
                    turn.answer(request, Result({"ids": ids, "state": "sent"}))
                continue
            stage = STAGES[request.wait]
            refs = {ref for ref, _, _ in submission.refs} if stage > Stage.ACCEPTED else set()
            follower = Follower(request, stage, {"ids": ids, "state": request.wait}, accepted=False, pending=refs)
            self._followers.follow(follower)
            batch.followers.append((follower, ids))
            if request.key is not None:
                expires_ms = turn.now_ms + TRACE_KEPT_MS
                batch.ops.append(PutKey(request.principal, request.key, encode(ids), expires_ms))

    def committed(
        self, turn: Turn, ticket: int, error: str | None, reason: str | None
    ) -> Set[tuple[NodeId, Priority]] | None:
        """A commit ended; answer whom it accepted, or failed.

        Returns the flows whose numbers it burnt, which later bundles may name; None when it was none of ours.
        """
        batch = self._accepting.pop(ticket, None)
        if batch is None:
            return None
        if error is None:
            for session in batch.sessions:
                self._outbox.session_stored(session)
            self._count(turn, batch)
            for follower, ids in batch.followers:
                self._followers.accept(turn, follower)
                for repeat in self._take_repeats(follower):
                    self._followers.repeat(turn, repeat, ids)
            return frozenset()
        # The numbers are burnt. What was forwarded while the commit ran may still arrive: "unknown".
        for stored in batch.stored:
            self._spool.withdraw(stored.row)
            self._outbox.burn(stored.draft, stored.row.service or "")
            count(turn.tally.turned_down, error, stored.row.messages)
        failure = MeshdError(error, f"The messages could not be stored: {reason}.")
        for follower, _ in batch.followers:
            self._followers.fail(turn, follower, failure)
            for repeat in self._take_repeats(follower):
                turn.answer(repeat, Failure(failure))
        return batch.flows

    @staticmethod
    def _count(turn: Turn, batch: _Accepting) -> None:
        tally = turn.tally
        for stored in batch.stored:
            tally.accepted[stored.row.priority] += stored.row.messages
            tally.content_bytes += stored.draft.content_bytes
            tally.packed_bytes += len(stored.draft.plaintext)

    def _take_repeats(self, follower: Follower) -> list[Submit]:
        request = follower.request
        if not isinstance(request, Submit) or request.key is None:
            return []
        return self._keys.pop((request.principal, request.key), [])
