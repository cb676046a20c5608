"""The roster: who is in the mesh, as a value that merges.

A roster is the genesis and a set of signed statements; what it means is in ``standing``. Merging is
set union, so any two devices that have exchanged statements agree, in whatever order they came.
"""

import functools
import hashlib
import hmac
from collections.abc import Iterable, Mapping

import attrs

from meshd.errors import MeshdError, RemoteProtocolError
from meshd.ids import MeshId, NodeId, is_device_name, to_text
from meshd.trust.heads import Chain
from meshd.trust.identity import Identity, certificate_key, key_node_id
from meshd.trust.recovery import new_recovery, recovery_seed, recovery_words
from meshd.trust.standing import MAX_LEVEL, Admin, Member, Standing, evaluate
from meshd.trust.statement import (
    MAX_MESH_NAME,
    MAX_NUMBER,
    Act,
    Add,
    Genesis,
    Grant,
    Remove,
    Role,
    Statement,
    decode_statement,
    is_authentic,
    is_mesh_name,
    open_genesis,
    sign_genesis,
    sign_statement,
)

__all__ = [
    "Member",
    "Role",
    "Roster",
    "discovery_tag",
    "found",
    "new_recovery",
    "recovery_seed",
    "recovery_words",
]

MAX_STATEMENTS = 16 * 1024
"""No more are taken in; years of a large mesh are a tenth of it."""

RESERVED_STATEMENTS = 256
"""So many more for each level above the lowest: an admin that fills the roster can still be removed from above."""

MAX_PENDING = 256
"""Statements kept whose issuer isn't known as an admin (yet); the newest stay."""

MAX_CHAIN_BYTES = 16 * 1024
TAG_SIZE = 8

_MIN_PREFIX = 4


def discovery_tag(genesis_hash: bytes, salt: bytes, node_id: NodeId) -> bytes:
    """8 bytes by which members recognise ``node_id`` on the local network, and strangers don't."""
    return hmac.digest(genesis_hash, salt + node_id, "sha256")[:TAG_SIZE]


def found(identity: Identity, mesh_name: str, device_name: str, recovery_public_key: bytes) -> "Roster":
    """A new mesh with ``identity`` as its first admin. Raises MeshdError (``E_USAGE``) for an unfit name."""
    if not is_mesh_name(mesh_name):
        raise MeshdError("E_USAGE", "A mesh name has 1 to 63 printable characters.", "Choose another name.")
    _check_device_name(device_name)
    return Roster.from_genesis(sign_genesis(identity, mesh_name, device_name, recovery_public_key))


def _check_device_name(name: str) -> None:
    if not is_device_name(name):
        raise MeshdError(
            "E_USAGE",
            f"Not a device name: {name[:80]!r}.",
            "Use letters, digits, dot, underscore and hyphen, up to 63.",
        )


def _room(issuer: Admin) -> int:
    """How many statements there may be when one of this issuer is taken in."""
    return MAX_STATEMENTS + RESERVED_STATEMENTS * (MAX_LEVEL - issuer.level)


@attrs.frozen(eq=False)
class Roster:
    """The devices of one mesh. Immutable: ``merge`` returns another one."""

    _genesis: Genesis
    _settled: Mapping[bytes, Statement] = attrs.field(factory=dict, repr=False)
    _pending: Mapping[bytes, Statement] = attrs.field(factory=dict, repr=False)
    _standing: Standing = attrs.field(repr=False)

    @_standing.default
    def _evaluated(self) -> Standing:
        return evaluate(self._genesis, self._settled)

    @classmethod
    def from_genesis(cls, genesis: bytes) -> "Roster":
        """The roster of a mesh of one. Raises RemoteProtocolError when ``genesis`` is not authentic."""
        return cls(open_genesis(genesis))

    @classmethod
    def from_statements(cls, genesis: bytes, statements: Iterable[bytes]) -> "Roster":
        """The roster that these statements make, in any order. Raises RemoteProtocolError."""
        return cls.from_genesis(genesis).merge(statements)[0]

    @property
    def genesis(self) -> bytes:
        """The founding statement, as bytes."""
        return self._genesis.data

    @property
    def mesh_id(self) -> MeshId:
        """SHA-256 of the genesis."""
        return self._genesis.mesh_id

    @property
    def mesh_name(self) -> str:
        """What the founder called the mesh."""
        return self._genesis.mesh_name

    @property
    def recovery_id(self) -> NodeId:
        """The issuer id of the recovery key."""
        return self._genesis.recovery

    @property
    def members(self) -> Mapping[NodeId, Member]:
        """Every device that is or was in the mesh, by id."""
        return self._standing.members

    @property
    def pending(self) -> int:
        """How many statements wait for the grant of their issuer."""
        return len(self._pending)

    def is_current(self, node: NodeId) -> bool:
        """Whether the device is in the mesh now."""
        member = self.members.get(node)
        return member is not None and not member.removed

    def is_doubted(self, node: NodeId) -> bool:
        """Whether a device that is not in the mesh may turn out to be, by statements that are still on their way."""
        return node in self._standing.doubted

    def relays(self) -> tuple[Member, ...]:
        """The relays in the mesh now, first added first: the same order on every device."""
        relays = [member for member in self.members.values() if member.role == "relay" and not member.removed]
        return tuple(sorted(relays, key=self._added))

    def _added(self, member: Member) -> tuple[int, int, bytes]:
        """When a member was added: by the highest issuer, then by number."""
        origin = self._standing.origins[member.id]
        return self._standing.admins[origin.issuer].level, origin.number, member.id

    def is_admin(self, node: NodeId) -> bool:
        """Whether this device, or the recovery key, may issue statements now."""
        return node in self._standing.admins and (node == self.recovery_id or self.is_current(node))

    # exchange

    @functools.cached_property
    def _by_issuer(self) -> dict[NodeId, list[Statement]]:
        """Statements of the issuers that are read, highest issuer first, lowest number first."""
        found: dict[NodeId, list[Statement]] = {issuer: [] for issuer in self._standing.admins}
        for statement in self._settled.values():
            if statement.issuer in found:
                found[statement.issuer].append(statement)
        return {issuer: sorted(those, key=lambda s: (s.number, s.id)) for issuer, those in found.items() if those}

    @functools.cached_property
    def _chains(self) -> dict[NodeId, Chain]:
        return {issuer: Chain.of(self.mesh_id, those) for issuer, those in self._by_issuer.items()}

    def heads(self) -> tuple[tuple[NodeId, int], ...]:
        """How far each issuer's chain is known, for ``statements_beyond`` on another device.

        The integer holds the number and, in its low 32 bits, a digest of the chain up to it, so that
        two devices that know different statements under one number find out.
        """
        return tuple((issuer, chain.head) for issuer, chain in self._chains.items() if chain.digests)

    def statements_beyond(self, heads: Iterable[tuple[NodeId, int]]) -> tuple[bytes, ...]:
        """What a device with these heads lacks, in an order that merges without waiting."""
        known = dict(heads)
        return tuple(
            statement.data
            for issuer, those in self._by_issuer.items()
            for after in (self._chains[issuer].shared_with(known.get(issuer, 0)),)
            for statement in those
            if statement.number > after
        )

    def all_statements(self) -> tuple[bytes, ...]:
        """Everything that counts, in an order that merges without waiting; the genesis is not among them."""
        return self.statements_beyond(())

    def facts(self) -> tuple[tuple[bytes, bytes], ...]:
        """Every statement that counts, each with the key that it is stored under."""
        return tuple((hashlib.sha256(data).digest(), data) for data in self.all_statements())

    def merge(self, statements: Iterable[bytes]) -> tuple["Roster", tuple[bytes, ...]]:
        """Take in statements in any order; known ones are no news.

        Returns the roster with them, and those that are new and verified: to be stored and passed on.
        A statement waits, in bounds, until its issuer is known as an admin. Missing predecessors don't
        hold one up: a cut follows the hashes, and voids what can't be shown to lie before it.

        Raises:
            RemoteProtocolError: ``P_MALFORMED`` or ``P_AUTH``, when a statement is provably bad; nobody
                honest passes such a one on.
        """
        given = {s.id: s for s in map(self._decode, statements) if s is not None}
        if not given:
            return self, ()
        settled, waiting = dict(self._settled), {**self._pending, **given}
        standing, new = self._standing, list[bytes]()
        while ready := [s for s in waiting.values() if s.issuer in standing.admins]:
            known = len(settled)
            for statement in ready:
                del waiting[statement.id]
                if not is_authentic(statement, self.mesh_id, standing.admins[statement.issuer].public_key):
                    if statement.id in given:
                        raise RemoteProtocolError("P_AUTH", "a statement that its issuer did not sign")
                elif len(settled) < _room(standing.admins[statement.issuer]):
                    settled[statement.id] = statement
                    new.append(statement.data)
            if len(settled) == known:
                break
            standing = evaluate(self._genesis, settled)
        pending = dict(list(waiting.items())[-MAX_PENDING:])
        return Roster(self._genesis, settled, pending, standing), tuple(new)

    def _decode(self, data: bytes) -> Statement | None:
        if (id := hashlib.sha256(data).digest()) in self._settled or id in self._pending:
            return None
        return decode_statement(data)

    def chain_for(self, *nodes: NodeId) -> tuple[bytes, ...]:
        """What proves to any device of the mesh that ``nodes`` are in it: the genesis, then the grants from the
        top down to who added each, then its own. At most 16 KiB: of a longer one, the lower end.

        Raises MeshdError (``E_UNKNOWN_DEVICE``).
        """
        chain: dict[bytes, None] = {}
        room = MAX_CHAIN_BYTES - len(self.genesis)
        for node in nodes:
            if node not in self.members:
                raise MeshdError("E_UNKNOWN_DEVICE", f"No device {to_text(node)} in this mesh.")
            above: list[bytes] = []
            link = self._standing.origins.get(node)
            while link is not None and link.data not in chain and len(link.data) <= room:
                above.append(link.data)
                room -= len(link.data)
                link = self._standing.admins[link.issuer].grant
            chain.update(dict.fromkeys(reversed(above)))
        return (self.genesis, *chain)

    def removal_of(self, node: NodeId, chain: Iterable[bytes] = ()) -> tuple[bytes, ...]:
        """What proves to any device of the mesh that ``node`` is in it no more: the grants from the top down to who
        removed it, or an admin that its ``chain`` rests on, each followed by that removal. At most 16 KiB.

        Empty when nobody was removed: then it never was in the mesh, as far as is known here.
        """
        proof: dict[bytes, None] = {}
        for device in (node, *(decode_statement(data).issuer for data in chain)):
            statement, below = self._standing.removals.get(device), list[bytes]()
            while statement is not None:
                below.append(statement.data)
                statement = self._standing.admins[statement.issuer].grant
            if sum(map(len, (*proof, *below))) <= MAX_CHAIN_BYTES:
                proof.update(dict.fromkeys(reversed(below)))
        return tuple(proof)

    # issuing

    def add(self, identity: Identity, certificate: bytes, name: str, role: Role) -> bytes:
        """Issue the statement that takes a device in; merge it to make it so.

        Raises:
            MeshdError: ``E_NOT_ADMIN``, ``E_USAGE`` for the name, ``E_NAME_TAKEN``, ``E_REMOVED_DEVICE``, or
                ``E_ALREADY_IN_MESH``.
            RemoteProtocolError: ``P_AUTH`` when ``certificate`` is none of a device.
        """
        self._check_admin(identity)
        _check_device_name(name)
        device = key_node_id(certificate_key(certificate))
        if member := self.members.get(device):
            if member.removed:
                raise MeshdError("E_REMOVED_DEVICE", f"{member.name} was removed from this mesh.")
            raise MeshdError("E_ALREADY_IN_MESH", f"The device is in this mesh as {member.name}.")
        if self.free_name(name) != name:
            raise MeshdError("E_NAME_TAKEN", f"Another device is called {name}.")
        if role == "admin":
            self._check_level(identity)
            return self._issue(identity, Grant(certificate, name))
        return self._issue(identity, Add(certificate, name, role))

    def grant(self, identity: Identity, node: NodeId) -> bytes:
        """Issue the statement that makes a member an admin.

        Raises MeshdError: ``E_NOT_ADMIN``, ``E_UNKNOWN_DEVICE``, ``E_REMOVED_DEVICE``, ``E_USAGE`` for a relay.
        """
        self._check_admin(identity)
        member = self._current(node)
        if member.role == "relay":
            raise MeshdError("E_USAGE", f"{member.name} is a relay.", "Only devices of people become admins.")
        self._check_level(identity)
        return self._issue(identity, Grant(member.certificate, member.name))

    def remove(self, identity: Identity, node: NodeId, *, honoured: int | None = None) -> bytes:
        """Issue the statement that shuts a device out for ever.

        Args:
            honoured: when the device is an admin: number of its last own statement that still counts; all
                that are known when not given.

        Raises:
            MeshdError: ``E_NOT_ADMIN`` (also when the device is an admin that ``identity`` is not above),
                ``E_UNKNOWN_DEVICE``, ``E_REMOVED_DEVICE``.
        """
        self._check_admin(identity)
        member = self._current(node)
        admin = self._standing.admins.get(node)
        if admin is not None and identity.node_id not in admin.above:
            raise MeshdError(
                "E_NOT_ADMIN",
                f"{member.name} is an admin, and not through this device.",
                "Use the device that made it an admin, or the recovery words.",
            )
        last = self._last(node, MAX_NUMBER if honoured is None else honoured)
        return self._issue(identity, Remove(node, (last.number, last.id) if last else None))

    def free_name(self, name: str) -> str:
        """``name``, or with ``-2``, ``-3``, ... after it, so that no device of the mesh has it (in any case)."""
        taken = {member.name.casefold() for member in self.members.values() if not member.removed}
        free, count = name, 1
        while free.casefold() in taken:
            count += 1
            suffix = f"-{count}"
            free = name[: MAX_MESH_NAME - len(suffix)] + suffix
        return free

    def resolve(self, text: str) -> Member:
        """The device in the mesh with this name (in any case), id, or beginning of an id (4 or more characters).

        Raises MeshdError: ``E_UNKNOWN_DEVICE``, ``E_AMBIGUOUS_DEVICE``.
        """
        wanted = text.casefold()
        current = [member for member in self.members.values() if not member.removed]
        matches = [member for member in current if member.name.casefold() == wanted]
        if not matches and len(wanted) >= _MIN_PREFIX:
            matches = [member for member in current if to_text(member.id).startswith(wanted)]
        if not matches:
            is_gone = any(member.removed and member.name.casefold() == wanted for member in self.members.values())
            what = f"{text} was removed from this mesh." if is_gone else f"No device {text[:80]!r} in this mesh."
            raise MeshdError("E_UNKNOWN_DEVICE", what)
        if len(matches) > 1:
            ids = ", ".join(to_text(member.id)[:8] for member in matches[:4])
            raise MeshdError("E_AMBIGUOUS_DEVICE", f"{len(matches)} devices match {text[:80]!r}: {ids}.")
        return matches[0]

    def _current(self, node: NodeId) -> Member:
        member = self.members.get(node)
        if member is None:
            raise MeshdError("E_UNKNOWN_DEVICE", f"No device {to_text(node)} in this mesh.")
        if member.removed:
            raise MeshdError("E_REMOVED_DEVICE", f"{member.name} was removed from this mesh.")
        return member

    def _check_admin(self, identity: Identity) -> Admin:
        if not self.is_admin(identity.node_id):
            raise MeshdError("E_NOT_ADMIN", "This device is no admin of the mesh.")
        return self._standing.admins[identity.node_id]

    def _check_level(self, identity: Identity) -> None:
        if self._check_admin(identity).level >= MAX_LEVEL:
            raise MeshdError("E_NOT_ADMIN", "The chain of admins above this device is too long.", "Use one higher up.")

    def _last(self, issuer: NodeId, highest: int = MAX_NUMBER) -> Statement | None:
        those = [s for s in self._by_issuer.get(issuer, ()) if s.number <= highest]
        return min(those, key=lambda s: (-s.number, s.id), default=None)

    def _issue(self, identity: Identity, act: Act) -> bytes:
        if len(self._settled) >= _room(self._standing.admins[identity.node_id]):
            raise MeshdError(
                "E_FULL",
                f"The roster has {len(self._settled)} statements, and takes no more from this device.",
                "Use a device that is nearer to the founder, or the recovery words.",
            )
        last = self._last(identity.node_id)
        number, previous = (last.number + 1, last.id) if last else (1, bytes(self.mesh_id))
        return sign_statement(identity, self.mesh_id, number, previous, act)
