"""Founding, inviting, admitting, joining, removing: the node's side. The exchanges run in the loop."""

import hashlib
import random

import attrs

from meshd.errors import MeshdError
from meshd.ids import is_device_name, to_text
from meshd.node.effects import AdmitAnswer, StartJoin
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.requests import Failure, InitMesh, Invite, Join, Remove, Result
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import PutFact
from meshd.store.reads import Snapshot
from meshd.trust.card import CardAddress
from meshd.trust.identity import key_node_id
from meshd.trust.invite import Admission, Invitations, InviteCode, Joined

_ONLY = b""
_MAX_INVITE_S = 7 * 86400
_ROLES = {"member": "member", "relay": "relay", "admin": "admin"}


@attrs.frozen
class AdmitDevice:
    """Event: a joiner has proven its code. The loop holds the exchange under ``ticket``."""

    ticket: int
    admission: Admission


@attrs.frozen
class JoinEnded:
    """Event: a join that StartJoin began is over, well (``joined``) or not (``error``)."""

    ticket: int
    joined: Joined | None
    error: MeshdError | None


class Admissions:
    """Who comes in. Owns the register of invitations; the loop's exchanges read it."""

    def __init__(self, membership: Membership, tickets: Tickets, rng: random.Random) -> None:
        self._membership = membership
        self._tickets = tickets
        self._rng = rng
        self.invitations = Invitations()
        self._joining: dict[int, Join] = {}

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the codes of the last life."""
        stored = snapshot.facts.get("invitations", {}).get(_ONLY)
        if stored is not None:
            self.invitations = Invitations.restore(stored)

    def init(self, turn: Turn, request: InitMesh) -> None:
        """Found a mesh. Raises MeshdError."""
        self._check_no_join()
        words = self._membership.found(turn, request.name)
        turn.answer_when_durable(request, Result({**self._self_description(), "recovery_words": words}))

    def _self_description(self) -> dict[str, dict[str, str]]:
        roster = self._membership.require_roster()
        me = self._membership.me
        return {
            "mesh": {"id": to_text(roster.mesh_id[:16]), "name": roster.mesh_name},
            "device": {"id": to_text(me), "name": self._membership.name_of(me)},
        }

    def invite(self, turn: Turn, request: Invite, addresses: tuple[CardAddress, ...]) -> None:
        """Make a code. Raises MeshdError."""
        roster = self._membership.require_roster()
        if not roster.is_admin(self._membership.me):
            raise MeshdError("E_NOT_ADMIN", "This device is no admin of the mesh.")
        if request.role not in _ROLES:
            raise MeshdError("E_USAGE", f"There is no role {request.role[:40]!r}.", "Use member, relay or admin.")
        if not 0 < request.expires_s <= _MAX_INVITE_S:
            raise MeshdError("E_USAGE", "A code is good for 1 s to 7 days.", "Choose another --expires.")
        if not addresses:
            raise MeshdError(
                "E_JOIN_UNREACHABLE",
                "This device listens at no address that another could reach.",
                "Connect it to a network, and see listen.websocket in its configuration.",
            )
        code = self._create(turn, request, addresses)
        turn.ops.append(PutFact("invitations", _ONLY, self.invitations.export()))
        turn.answer_when_durable(request, Result({"code": str(code), "expires_in_s": request.expires_s}))

    def _create(self, turn: Turn, request: Invite, addresses: tuple[CardAddress, ...]) -> InviteCode:
        return self.invitations.create(
            turn.now,
            request.expires_s,
            _ROLES[request.role],  # type: ignore[arg-type]  # checked against the table
            genesis_hash=bytes(self._membership.require_roster().mesh_id),
            certificate_hash=hashlib.sha256(self._membership.identity.certificate).digest(),
            addresses=addresses,
            rng=self._rng,
        )

    def admit(self, turn: Turn, event: AdmitDevice, peers: Peers) -> None:
        """Take a device in: its statement and the used code in one transaction, then the answer."""
        admission = event.admission
        membership = self._membership
        try:
            if admission.repeat or self._has_used(admission):
                device = key_node_id(admission.public_key)
                if membership.public_key(device) is None:  # it was in when it proved the code
                    raise MeshdError("E_REMOVED_DEVICE", f"{admission.name} was removed from this mesh.")
            else:
                name = membership.require_roster().free_name(admission.name)
                statement = membership.require_roster().add(
                    membership.identity, admission.certificate, name, admission.role
                )
                self.invitations.consume(admission.code_id, admission.public_key, turn.now)
                membership.issue(turn, statement, peers)
                turn.ops.append(PutFact("invitations", _ONLY, self.invitations.export()))
                turn.log("info", "device admitted", name=name, role=admission.role)
        except MeshdError as error:
            turn.emit(AdmitAnswer(event.ticket, b"", (), (), error))
            return
        roster = membership.require_roster()
        cards = membership.all_cards()
        turn.when_durable.append(AdmitAnswer(event.ticket, roster.genesis, roster.all_statements(), cards))

    def _has_used(self, admission: Admission) -> bool:
        """Whether the same device came in with this code a moment ago, through another connection."""
        invitation = self.invitations.find(admission.code_id)
        return invitation is not None and invitation.used_by == admission.public_key

    def join(self, turn: Turn, request: Join) -> None:
        """Begin to join. Raises MeshdError."""
        membership = self._membership
        membership.check_free()
        self._check_no_join()
        name = request.name or membership.name
        if not is_device_name(name):
            raise MeshdError(
                "E_USAGE",
                f"{name[:70]!r} is no device name.",
                "1 to 63 letters, digits, dots, hyphens and underscores, beginning with a letter or digit.",
            )
        InviteCode.parse(request.code)
        ticket = self._tickets.take()
        self._joining[ticket] = request
        turn.emit(StartJoin(ticket, request.code, name))

    def _check_no_join(self) -> None:
        """Of two meshes that one device enters at a time, the last would take the place of the first."""
        if self._joining:
            raise MeshdError("E_BUSY", "A join is under way already.")

    def join_ended(self, turn: Turn, event: JoinEnded) -> None:
        """The exchange is over."""
        request = self._joining.pop(event.ticket)
        if event.joined is None:
            error = event.error or MeshdError("E_INTERNAL", "The join ended without a result.")
            turn.answer(request, Failure(error))
            return
        self._membership.name = event.joined.name
        turn.ops.append(PutFact("name", _ONLY, event.joined.name.encode()))
        self._membership.enter(turn, event.joined.roster, event.joined.cards)
        turn.answer_when_durable(request, Result(self._self_description()))

    def remove(self, turn: Turn, request: Remove, peers: Peers) -> None:
        """Shut a device out for ever. Raises MeshdError."""
        roster = self._membership.require_roster()
        member = roster.resolve(request.device)
        self._membership.issue(turn, roster.remove(self._membership.identity, member.id), peers)
        turn.answer_when_durable(request, Result({"id": to_text(member.id), "name": member.name}))
