"""Who is in the mesh, and as what: the one pure function from a set of statements to its members.

Statements are read top-down. The recovery key stands above all; the founder, and whoever the
recovery key made an admin, below it; and so on down the grants. When the statements of one level
are read, everything that could cut them was said on a level above and is known. So the outcome
depends on the set alone, never on the order in which it came together.
"""

from collections.abc import Iterable, Mapping

import attrs

from meshd.ids import NodeId
from meshd.trust.identity import certificate_key
from meshd.trust.statement import Add, Genesis, Grant, Remove, Role, Statement

MAX_LEVEL = 16
"""Grants by admins this far below the recovery key have no effect, so that every proof stays short."""


@attrs.frozen
class Member:
    """A device of the mesh, or one that was removed from it."""

    id: NodeId
    name: str
    role: Role
    certificate: bytes = attrs.field(repr=False)
    removed: bool = False


@attrs.frozen
class Admin:
    """An issuer whose statements are read.

    Args:
        level: steps below the recovery key.
        above: the issuers that may cut it: its grantors, their grantors, up to the recovery key.
        grant: what made it an admin; None for the founder and the recovery key.
    """

    public_key: bytes
    level: int
    above: frozenset[NodeId]
    grant: Statement | None


@attrs.frozen
class Standing:
    """The outcome.

    Args:
        members: every device that was ever validly added.
        admins: issuers by level, top first; also those that were removed, as their earlier statements count.
        origins: the statement that each member but the founder stands on.
        removals: the statement that shut a device out, of several about an admin the one that honours least of it.
        doubted: no members, as far as is known: some of the statements between what added them and the cut are missing.
    """

    members: Mapping[NodeId, Member]
    admins: Mapping[NodeId, Admin]
    origins: Mapping[NodeId, Statement]
    removals: Mapping[NodeId, Statement]
    doubted: frozenset[NodeId]


def _honoured(removal: Statement) -> tuple[int, bytes]:
    """The last statement of the removed device that still counts, (0, b"") for none."""
    assert isinstance(removal.act, Remove)
    return removal.act.honoured or (0, b"")


@attrs.define(eq=False)
class _Reading:
    genesis: Genesis
    statements: Mapping[bytes, Statement]
    by_issuer: dict[NodeId, list[Statement]]
    admins: dict[NodeId, Admin] = attrs.field(factory=dict)
    adds: dict[NodeId, list[Statement]] = attrs.field(factory=dict)
    removals: dict[NodeId, list[Statement]] = attrs.field(factory=dict)
    gaps: dict[NodeId, int] = attrs.field(factory=dict)
    """By issuer that was cut: the highest number that should count, and is not known."""

    def honoured(self, issuer: NodeId) -> Iterable[Statement]:
        """The issuer's statements that count: all, or those up to the earliest cut from above."""
        cut = self.removal(issuer)
        if cut is None:
            return self.by_issuer.get(issuer, ())
        # Following the hashes down from the cut leaves out forks, and whatever can't be shown to lie before it.
        kept = []
        number, id = _honoured(cut)
        statement = self.statements.get(id)
        if statement is not None and statement.number != number:  # else a later one could pass for the earliest
            return []
        while statement is not None and statement.issuer == issuer:
            kept.append(statement)
            number = statement.number - 1
            statement = self.statements.get(statement.previous)
        if statement is None and number > 0:
            self.gaps[issuer] = number
        return kept

    def read(self, issuer: NodeId) -> None:
        for statement in self.honoured(issuer):
            match statement.act:
                case Add(device=device) | Grant(device=device):
                    self.adds.setdefault(device, []).append(statement)
                case Remove(device=device):
                    self.removals.setdefault(device, []).append(statement)
                case None:
                    pass

    def level_below(self, level: int) -> dict[NodeId, Admin]:
        """The admins that the issuers of ``level`` made, as far as no higher level did."""
        grants: dict[NodeId, list[Statement]] = {}
        for device, statements in self.adds.items():
            if device not in self.admins:
                granted = [s for s in statements if isinstance(s.act, Grant) and self.admins[s.issuer].level == level]
                if granted:
                    grants[device] = granted
        return {device: self.admin(level + 1, grants[device]) for device in sorted(grants)}

    def admin(self, level: int, grants: list[Statement]) -> Admin:
        above = frozenset(s.issuer for s in grants).union(*(self.admins[s.issuer].above for s in grants))
        first = min(grants, key=self.rank)
        assert isinstance(first.act, Grant)
        return Admin(certificate_key(first.act.certificate), level, above, first)

    def rank(self, statement: Statement) -> tuple[int, int, bytes]:
        """Which of several statements about one device names it: highest issuer, earliest, lowest hash."""
        return self.admins[statement.issuer].level, statement.number, statement.id

    def removal(self, device: NodeId) -> Statement | None:
        """What shut a device out; None while nothing did."""
        admin = self.admins.get(device)
        valid = [s for s in self.removals.get(device, ()) if admin is None or s.issuer in admin.above]
        return min(valid, key=lambda s: (_honoured(s), *self.rank(s)), default=None)

    def doubted(self) -> Iterable[NodeId]:
        """Whom the statements below the gaps add, and whom these add in turn."""
        below = [s for issuer, gap in self.gaps.items() for s in self.by_issuer.get(issuer, ()) if s.number < gap]
        found: set[NodeId] = set()
        while below:
            act = below.pop().act
            if isinstance(act, Add | Grant) and act.device not in found:
                found.add(act.device)
                below += self.by_issuer.get(act.device, ())
        return found


def evaluate(genesis: Genesis, statements: Mapping[bytes, Statement]) -> Standing:
    """The standing that ``statements`` (by id, signatures checked) lead to.

    Only statements of issuers that turn out to be admins have an effect.
    """
    by_issuer: dict[NodeId, list[Statement]] = {}
    for statement in statements.values():
        by_issuer.setdefault(statement.issuer, []).append(statement)
    recovery = genesis.recovery
    reading = _Reading(genesis, statements, by_issuer)
    reading.admins[recovery] = Admin(genesis.recovery_key, 0, frozenset(), None)
    reading.read(recovery)
    founder = Admin(certificate_key(genesis.founder_certificate), 1, frozenset((recovery,)), None)
    level, below = 1, {genesis.founder: founder} | reading.level_below(0)
    below[genesis.founder] = founder  # a grant adds nothing to being the founder
    while below and level <= MAX_LEVEL:
        reading.admins.update(below)
        for issuer in below:
            reading.read(issuer)
        below = reading.level_below(level)
        level += 1
    return _standing(reading)


def _standing(reading: _Reading) -> Standing:
    genesis, founder = reading.genesis, reading.genesis.founder
    removals = {device: removal for device in reading.removals if (removal := reading.removal(device)) is not None}
    members = {
        founder: Member(founder, genesis.founder_name, "admin", genesis.founder_certificate, founder in removals)
    }
    origins: dict[NodeId, Statement] = {}
    for device, statements in sorted(reading.adds.items()):
        if device in (founder, genesis.recovery):
            continue
        admin = reading.admins.get(device)
        origin = min(statements, key=reading.rank) if admin is None else admin.grant
        assert origin is not None
        assert isinstance(origin.act, Add | Grant)
        role: Role = origin.act.role if isinstance(origin.act, Add) else "admin"
        members[device] = Member(device, origin.act.name, role, origin.act.certificate, removed=device in removals)
        origins[device] = origin
    doubted = frozenset(reading.doubted()) - members.keys()
    return Standing(members, reading.admins, origins, removals, doubted)
