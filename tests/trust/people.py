"""Identities and meshes for the tests of trust: the same number, the same device."""

import functools

from meshd.trust.identity import Identity
from meshd.trust.roster import Role, Roster, found

RECOVERY_SEED = b"R" * 32


@functools.cache
def device(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


@functools.cache
def recovery() -> Identity:
    return Identity.from_seed(RECOVERY_SEED)


def founded() -> Roster:
    """A mesh with device 0 as its founder, called ``d0``."""
    return found(device(0), "home", "d0", recovery().public_key)


def added(roster: Roster, issuer: int, number: int, role: Role = "member") -> Roster:
    """``roster`` after ``issuer`` has added ``number`` as ``d<number>``."""
    return roster.merge([roster.add(device(issuer), device(number).certificate, f"d{number}", role)])[0]


def granted(roster: Roster, issuer: int, number: int) -> Roster:
    return roster.merge([roster.grant(device(issuer), device(number).node_id)])[0]


def removed(roster: Roster, issuer: Identity, number: int, honoured: int | None = None) -> Roster:
    return roster.merge([roster.remove(issuer, device(number).node_id, honoured=honoured)])[0]


def mesh_of(*numbers: int) -> Roster:
    """Device 0's mesh with these devices as members."""
    roster = founded()
    for number in numbers:
        roster = added(roster, 0, number)
    return roster


def current(roster: Roster) -> set[str]:
    return {member.name for member in roster.members.values() if not member.removed}
