"""Removals: who can remove whom, what of a removed admin still counts, and what nobody can do about it."""

import hashlib

import pytest

from meshd.trust.roster import Roster
from meshd.trust.statement import Add, Grant, Remove, decode_statement, sign_statement
from tests.trust.outcomes import code_of, view
from tests.trust.people import added, current, device, founded, granted, mesh_of, recovery, removed


def chained(
    issuer: int, roster: Roster, *acts: Add | Grant | Remove, after: bytes = b"", number: int = 1
) -> list[bytes]:
    """The issuer's statements for these acts, one behind the other; from the beginning, or after the one given."""
    previous, made = hashlib.sha256(after).digest() if after else bytes(roster.mesh_id), list[bytes]()
    for act in acts:
        made.append(sign_statement(device(issuer), roster.mesh_id, number, previous, act))
        number, previous = number + 1, hashlib.sha256(made[-1]).digest()
    return made


def adding(number: int) -> Add:
    return Add(device(number).certificate, f"d{number}", "member")


def granting(number: int) -> Grant:
    return Grant(device(number).certificate, f"d{number}")


def test_an_admin_is_removed_only_from_above():
    roster = added(added(founded(), 0, 1, "admin"), 0, 2, "admin")
    assert code_of(roster.remove, device(1), device(2).node_id) == "E_NOT_ADMIN"
    assert code_of(roster.remove, device(1), device(0).node_id) == "E_NOT_ADMIN"
    forged = sign_statement(device(1), roster.mesh_id, 1, roster.mesh_id, Remove(device(2).node_id, None))
    assert current(roster.merge([forged])[0]) == {"d0", "d1", "d2"}
    assert current(removed(roster, device(0), 2)) == {"d0", "d1"}


def test_a_cut_from_beside_has_no_effect():
    roster = added(added(added(founded(), 0, 1, "admin"), 0, 2, "admin"), 2, 3)
    forged = sign_statement(device(1), roster.mesh_id, 1, roster.mesh_id, Remove(device(2).node_id, None))
    assert current(roster.merge([forged])[0]) == {"d0", "d1", "d2", "d3"}


def test_the_recovery_key_removes_the_founder_and_adds_an_admin():
    roster = removed(mesh_of(1), recovery(), 0)
    assert current(roster) == {"d1"}
    assert code_of(roster.add, device(0), device(2).certificate, "d2", "member") == "E_NOT_ADMIN"
    roster = roster.merge([roster.grant(recovery(), device(1).node_id)])[0]
    assert current(added(roster, 1, 2)) == {"d1", "d2"}


def test_after_a_cut_nothing_of_the_admin_counts_removals_included():
    before = added(added(founded(), 0, 1, "admin"), 0, 5)
    honest = added(before, 1, 2)
    stolen = removed(added(honest, 1, 3), device(1), 5)
    cut = removed(honest, device(0), 1)
    merged = cut.merge(stolen.all_statements())[0]
    assert current(merged) == {"d0", "d2", "d5"}
    assert view(stolen.merge(cut.all_statements())[0]) == view(merged)


def test_a_cut_can_name_an_earlier_statement():
    roster = added(added(added(founded(), 0, 1, "admin"), 1, 2), 1, 3)
    assert current(removed(roster, device(0), 1)) == {"d0", "d2", "d3"}
    assert current(removed(roster, device(0), 1, honoured=1)) == {"d0", "d2"}
    assert current(removed(roster, device(0), 1, honoured=0)) == {"d0"}


def test_the_earliest_cut_wins():
    roster = added(added(added(founded(), 0, 1, "admin"), 1, 2), 1, 3)
    late, early = removed(roster, device(0), 1), removed(roster, recovery(), 1, honoured=1)
    for first, second in ((late, early), (early, late)):
        assert current(first.merge(second.all_statements())[0]) == {"d0", "d2"}


def test_a_backdated_fork_does_not_pass_a_cut():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2)
    cut = removed(roster, device(0), 1)
    fork = sign_statement(device(1), roster.mesh_id, 1, roster.mesh_id, Add(device(3).certificate, "d3", "member"))
    assert current(cut.merge([fork])[0]) == {"d0", "d2"}


def test_a_cut_whose_last_statement_is_unknown_honours_nothing_until_it_comes():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2)
    with_cut = removed(roster, device(0), 1)
    by_founder = [data for data in with_cut.all_statements() if decode_statement(data).issuer == device(0).node_id]
    partial = Roster.from_statements(roster.genesis, by_founder)
    assert current(partial) == {"d0"}
    assert current(partial.merge(roster.all_statements())[0]) == {"d0", "d2"}


def test_admins_that_a_cut_admin_made_before_stay():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2, "admin")
    assert current(added(removed(roster, device(0), 1), 2, 3)) == {"d0", "d2", "d3"}


def test_removal_wins_over_adds_and_grants_from_below():
    roster = added(mesh_of(1), 0, 2, "admin")
    gone = removed(roster, device(0), 1)
    again = granted(roster, 2, 1)
    merged = again.merge(gone.all_statements())[0]
    assert current(merged) == {"d0", "d2"}
    add = sign_statement(device(2), roster.mesh_id, 1, roster.mesh_id, Add(device(1).certificate, "d1b", "member"))
    assert current(gone.merge([add])[0]) == {"d0", "d2"}


def test_a_removal_proves_itself_to_a_roster_that_has_not_heard_of_it():
    before = added(added(added(mesh_of(1), 0, 2, "admin"), 2, 3, "admin"), 3, 4)
    after = removed(before, device(3), 4)
    proof = after.removal_of(device(4).node_id)
    assert len(proof) == 3  # two grants, and the removal
    outdated = added(mesh_of(4), 0, 9)  # where the victim is a member, and neither grant is known
    assert not outdated.merge(proof)[0].is_current(device(4).node_id)
    assert after.removal_of(device(1).node_id) == ()
    assert after.removal_of(device(9).node_id) == ()


def test_the_removal_of_who_took_it_in_proves_that_a_device_is_out():
    before = added(added(founded(), 0, 1, "admin"), 1, 2)
    after = removed(before, device(0), 1, honoured=0)
    assert device(2).node_id not in after.members
    proof = after.removal_of(device(2).node_id, before.chain_for(device(2).node_id)[1:])
    assert current(before.merge(proof)[0]) == {"d0"}


def test_of_several_removals_of_an_admin_the_earliest_cut_is_the_proof():
    before = added(added(added(founded(), 0, 1, "admin"), 1, 2), 1, 3)
    late, early = removed(before, device(0), 1), removed(before, recovery(), 1, honoured=1)
    after = late.merge(early.all_statements())[0]
    assert current(before.merge(after.removal_of(device(1).node_id))[0]) == {"d0", "d2"}


def test_either_of_two_grantors_can_remove():
    roster = added(added(mesh_of(3), 0, 1, "admin"), 0, 2, "admin")
    both = granted(roster, 1, 3).merge(granted(roster, 2, 3).all_statements())[0]
    for issuer in (1, 2, 0):
        assert current(removed(both, device(issuer), 3)) == {"d0", "d1", "d2"}


# one admin's worst


@pytest.mark.parametrize("late", range(4, 12))
def test_a_cut_that_gives_a_late_statement_an_early_number_honours_none(late: int):
    """Device 1 is above 2, and covers for what 2 did after the founder had cut it: whichever hash is the lower."""
    roster = granted(granted(mesh_of(1, 2), 0, 1), 1, 2)
    roster = added(added(roster, 2, 3), 2, late)
    statements = [decode_statement(data) for data in roster.all_statements()]
    (last,) = [s for s in statements if (s.issuer, s.number) == (device(2).node_id, 2)]
    own = [s for s in statements if s.issuer == device(1).node_id]
    cover = sign_statement(device(1), roster.mesh_id, len(own) + 1, own[-1].id, Remove(device(2).node_id, (1, last.id)))
    cut = roster.remove(recovery(), device(2).node_id, honoured=1)
    assert f"d{late}" not in current(roster.merge([cut])[0])
    assert f"d{late}" not in current(roster.merge([cut, cover])[0])


def test_a_cut_honours_nothing_of_another_that_the_chain_was_led_to():
    """Device 2 goes on from a statement of 1's that is void, which would count again once 2 is cut behind it."""
    roster = added(added(founded(), 0, 1, "admin"), 0, 2, "admin")
    own = roster.all_statements()
    (void,) = (data for data in added(roster, 1, 9).all_statements() if data not in own)
    cut = added(removed(roster, device(0), 1, honoured=0), 2, 4).merge([void])[0]
    assert current(cut) == {"d0", "d2", "d4"}
    led = sign_statement(
        device(2), roster.mesh_id, 3, hashlib.sha256(void).digest(), Add(device(3).certificate, "d3", "member")
    )
    after = removed(cut.merge([led])[0], device(0), 2)
    assert current(after) == {"d0", "d3"}
    assert not after.is_doubted(device(4).node_id)  # nothing is missing of that chain


def test_in_doubt_is_who_was_added_before_what_is_missing_and_whom_these_added():
    """Of device 1's chain the fourth is missing when it is cut at the fifth."""
    roster = added(founded(), 0, 1, "admin")
    own = chained(1, roster, granting(2), Remove(device(20).node_id, None), adding(4), adding(5), adding(6), adding(7))
    fork = chained(1, roster, adding(8), after=own[2], number=4)
    below = [*chained(2, roster, granting(3), adding(9)), *chained(3, roster, granting(2))]  # in a ring
    cut = removed(roster.merge(own[:5])[0], device(0), 1).all_statements()
    known = roster.merge([*own[:3], *own[4:], *fork, *below])[0].merge(set(cut) - {own[3]})[0]
    assert current(known) == {"d0", "d6"}
    assert [number for number in range(1, 21) if known.is_doubted(device(number).node_id)] == [2, 3, 4, 9]
    whole = known.merge([own[3]])[0]
    assert current(whole) == {"d0", "d2", "d3", "d4", "d5", "d6", "d9"}
    assert not any(whole.is_doubted(device(number).node_id) for number in range(21))


@pytest.mark.parametrize("act", [Add, Grant])
def test_nobody_says_anything_of_the_founder_or_the_recovery_key_but_their_removal(act: type):
    roster = added(founded(), 0, 1, "admin")
    for issuer in (device(1), device(0), recovery()):
        for about in (device(0), recovery()):
            fields = (about.certificate, "other", "relay") if act is Add else (about.certificate, "other")
            statement = sign_statement(issuer, roster.mesh_id, 9, bytes(32), act(*fields))
            assert dict(roster.merge([statement])[0].members) == dict(roster.members)


def test_an_admin_can_make_an_admin_of_whom_another_beside_it_removed():
    """The price of letting nobody remove an admin but from above; whoever is above both has the last word."""
    roster = added(added(mesh_of(1), 0, 2, "admin"), 0, 3, "admin")
    back = removed(roster, device(3), 1).merge([roster.grant(device(2), device(1).node_id)])[0]
    assert "d1" in current(back)
    assert "d1" not in current(removed(back, device(0), 1))
