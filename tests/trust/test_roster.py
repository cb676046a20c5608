import hashlib
import hmac
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, MeshdError, RemoteProtocolError
from meshd.ids import NodeId, to_text
from meshd.trust.identity import Identity
from meshd.trust.roster import (
    MAX_CHAIN_BYTES,
    MAX_PENDING,
    MAX_STATEMENTS,
    RESERVED_STATEMENTS,
    Roster,
    discovery_tag,
    found,
)
from meshd.trust.standing import MAX_LEVEL
from meshd.trust.statement import (
    MAX_NUMBER,
    MAX_STATEMENT_BYTES,
    Add,
    Grant,
    Remove,
    decode_statement,
    open_genesis,
    sign_genesis,
    sign_statement,
)
from meshd.wire import codec
from tests.trust.outcomes import code_of, view
from tests.trust.people import added, current, device, founded, granted, mesh_of, recovery, removed

# founding


def test_a_new_mesh_has_its_founder_as_admin():
    roster = founded()
    (member,) = roster.members.values()
    assert (member.id, member.name, member.role, member.removed) == (device(0).node_id, "d0", "admin", False)
    assert roster.mesh_id == hashlib.sha256(roster.genesis).digest()
    assert roster.mesh_name == "home"
    assert roster.is_admin(device(0).node_id)
    assert roster.is_admin(roster.recovery_id)
    assert roster.recovery_id == recovery().node_id
    assert roster.recovery_id not in roster.members


@pytest.mark.parametrize(("mesh", "name"), [("x", "d"), ("x" * 63, "d"), ("a b", "d" * 63)])
def test_fit_names_are_taken(mesh: str, name: str):
    assert found(device(0), mesh, name, recovery().public_key).mesh_name == mesh


@pytest.mark.parametrize(
    ("mesh", "name"), [("", "d"), (" home", "d"), ("ho\nme", "d"), ("x" * 64, "d"), ("home", "-d"), ("home", "d" * 64)]
)
def test_unfit_names_are_refused(mesh: str, name: str):
    assert code_of(found, device(0), mesh, name, recovery().public_key) == "E_USAGE"


def test_a_mesh_is_known_by_its_genesis():
    roster = founded()
    assert Roster.from_genesis(roster.genesis).members == roster.members
    changed = roster.genesis[:-1] + bytes([roster.genesis[-1] ^ 1])
    assert code_of(Roster.from_genesis, changed) == "P_AUTH"


def test_a_recovery_key_that_is_the_founders_is_refused():
    genesis = sign_genesis(device(0), "home", "d0", device(0).public_key)
    assert code_of(Roster.from_genesis, genesis) == "P_MALFORMED"


def test_the_discovery_tag_is_a_keyed_hash():
    roster, salt, node = founded(), b"saltsalt", device(1).node_id
    assert discovery_tag(roster.mesh_id, salt, node) == hmac.digest(roster.mesh_id, salt + node, "sha256")[:8]


# adding, granting, removing


def test_an_admin_adds_devices():
    roster = added(mesh_of(1), 0, 2, "relay")
    member = roster.members[device(2).node_id]
    assert (member.name, member.role, member.certificate) == ("d2", "relay", device(2).certificate)
    assert current(roster) == {"d0", "d1", "d2"}


def test_what_an_admin_can_not_do():
    roster = removed(mesh_of(1, 2, 3), device(0), 3)
    roster = added(roster, 0, 4, "relay")
    founder, node = device(0), device(5).node_id
    assert code_of(roster.add, device(1), device(5).certificate, "d5", "member") == "E_NOT_ADMIN"
    assert code_of(roster.remove, device(1), device(2).node_id) == "E_NOT_ADMIN"
    assert code_of(roster.grant, device(1), device(2).node_id) == "E_NOT_ADMIN"
    assert code_of(roster.add, founder, device(5).certificate, "D1", "member") == "E_NAME_TAKEN"
    assert code_of(roster.add, founder, device(1).certificate, "d9", "member") == "E_ALREADY_IN_MESH"
    assert code_of(roster.add, founder, device(3).certificate, "d9", "member") == "E_REMOVED_DEVICE"
    assert code_of(roster.add, founder, device(5).certificate, "no name", "member") == "E_USAGE"
    assert code_of(roster.add, founder, b"no certificate", "d5", "member") == "P_AUTH"
    assert code_of(roster.remove, founder, node) == "E_UNKNOWN_DEVICE"
    assert code_of(roster.remove, founder, device(3).node_id) == "E_REMOVED_DEVICE"
    assert code_of(roster.remove, founder, founder.node_id) == "E_NOT_ADMIN"
    assert code_of(roster.grant, founder, node) == "E_UNKNOWN_DEVICE"
    assert code_of(roster.grant, founder, device(3).node_id) == "E_REMOVED_DEVICE"
    assert code_of(roster.grant, founder, device(4).node_id) == "E_USAGE"


def test_the_name_of_a_removed_device_is_free_again():
    roster = removed(mesh_of(1), device(0), 1)
    assert roster.free_name("d1") == "d1"
    assert current(roster) == {"d0"}


def test_free_name_counts_on():
    roster = mesh_of(1)
    roster = roster.merge([roster.add(device(0), device(2).certificate, "D1-2", "member")])[0]
    assert roster.free_name("d1") == "d1-3"
    long = "x" * 63
    roster = roster.merge([roster.add(device(0), device(3).certificate, long, "member")])[0]
    assert roster.free_name(long) == "x" * 61 + "-2"


def test_a_granted_member_adds_and_so_on_down():
    roster = added(granted(mesh_of(1), 0, 1), 1, 2)
    roster = added(granted(roster, 1, 2), 2, 3)
    assert current(roster) == {"d0", "d1", "d2", "d3"}
    assert roster.members[device(2).node_id].role == "admin"


def test_adding_as_admin_is_a_grant():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2)
    assert current(roster) == {"d0", "d1", "d2"}


def test_grants_end_at_a_depth():
    roster = founded()
    for level in range(1, MAX_LEVEL):
        roster = added(roster, level - 1, level, "admin")
    last = device(MAX_LEVEL - 1)
    assert code_of(roster.add, last, device(99).certificate, "deep", "admin") == "E_NOT_ADMIN"
    assert code_of(added(roster, 0, 98).grant, last, device(98).node_id) == "E_NOT_ADMIN"
    assert roster.merge([roster.add(last, device(99).certificate, "deep", "member")])[0].is_current(device(99).node_id)
    for level in (MAX_LEVEL, MAX_LEVEL + 1):
        act = Grant(device(level).certificate, f"d{level}")
        roster = roster.merge([sign_statement(device(level - 1), roster.mesh_id, 1, roster.mesh_id, act)])[0]
    assert not roster.is_current(device(MAX_LEVEL + 1).node_id)


def test_a_removed_admin_issues_nothing_more():
    roster = removed(added(founded(), 0, 1, "admin"), device(0), 1)
    assert not roster.is_admin(device(1).node_id)
    assert code_of(roster.add, device(1), device(2).certificate, "d2", "member") == "E_NOT_ADMIN"


# merging


def test_merge_returns_what_is_new_once():
    roster = mesh_of(1, 2)
    start = founded()
    merged, new = start.merge([*roster.all_statements(), *roster.all_statements()])
    assert new == roster.all_statements()
    assert merged.merge(roster.all_statements()) == (merged, ())
    assert current(start) == {"d0"}


def test_a_statement_waits_for_the_grant_of_its_issuer():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2)
    grant, add = roster.all_statements()
    waiting, new = founded().merge([add])
    assert (new, waiting.pending, current(waiting)) == ((), 1, {"d0"})
    settled, new = waiting.merge([grant])
    assert (new, settled.pending, current(settled)) == ((grant, add), 0, {"d0", "d1", "d2"})


def test_a_member_can_not_fill_the_memory():
    roster = mesh_of(1)
    flood = [
        sign_statement(device(1), roster.mesh_id, n, bytes(32), Remove(device(0).node_id, None))
        for n in range(1, MAX_PENDING + 50)
    ]
    flooded, new = roster.merge(flood)
    assert (new, flooded.pending, current(flooded)) == ((), MAX_PENDING, {"d0", "d1"})
    assert flooded.merge(flood[:20])[0].pending == MAX_PENDING


def test_a_statement_with_a_missing_predecessor_counts_and_is_healed_by_gossip():
    roster = mesh_of(1, 2, 3)
    partial, new = founded().merge(roster.chain_for(device(3).node_id)[1:])
    assert len(new) == 1
    assert current(partial) == {"d0", "d3"}
    assert partial.heads() == ()
    assert view(partial.merge(roster.statements_beyond(partial.heads()))[0]) == view(roster)


def test_bad_statements_are_the_peers_fault():
    roster = mesh_of(1)
    good = roster.all_statements()[0]
    other_mesh = found(device(0), "other", "d0", recovery().public_key)
    by_stranger = sign_statement(device(7), roster.mesh_id, 2, bytes(32), Remove(device(1).node_id, None))
    posing = by_stranger.replace(device(7).node_id, device(0).node_id)
    for bad, code in (
        (good[:-1] + bytes([good[-1] ^ 1]), "P_AUTH"),
        (posing, "P_AUTH"),
        (other_mesh.add(device(0), device(2).certificate, "d2", "member"), "P_AUTH"),
        (good[:40], "P_MALFORMED"),
        (b"", "P_MALFORMED"),
        (bytes(4097), "P_MALFORMED"),
    ):
        assert code_of(roster.merge, [bad]) == code
    assert roster.merge([by_stranger])[1] == ()


@pytest.mark.parametrize("act", [Add, Grant])
def test_a_statement_that_an_admin_signed_for_no_certificate_is_malformed(act: type):
    """Else it would be the whole roster that can't be read."""
    roster = mesh_of(1)
    changed = bytearray(device(2).certificate)
    changed[-1] ^= 1
    for certificate in (b"", b"no certificate", bytes(changed), device(2).certificate + b"x"):
        fields = (certificate, "d2", "member") if act is Add else (certificate, "d2")
        bad = sign_statement(device(0), roster.mesh_id, 2, bytes(32), act(*fields))
        assert code_of(decode_statement, bad) == code_of(roster.merge, [bad]) == "P_MALFORMED"


def test_statements_are_read_up_to_a_size():
    """Those of later versions too, which nothing but their size is known of."""
    roster = founded()
    sizes = list[int]()
    for filler in range(3800, 4000):
        payload = codec.encode([1, device(0).node_id, 1, bytes(roster.mesh_id), 9, bytes(filler)])
        data = payload + device(0).sign("meshd/statement/v1", roster.mesh_id, payload)
        if len(data) <= MAX_STATEMENT_BYTES:
            sizes.append(len(data))
            assert roster.merge([data])[1] == (data,)
        else:
            assert code_of(roster.merge, [data]) == "P_MALFORMED"
    assert sizes[-1] == MAX_STATEMENT_BYTES


@pytest.mark.parametrize(("number", "is_one"), [(0, False), (1, True), (MAX_NUMBER, True), (MAX_NUMBER + 1, False)])
def test_numbers_of_statements_fit_into_heads(number: int, is_one: bool):
    data = sign_statement(device(0), founded().mesh_id, number, bytes(32), Remove(device(1).node_id, None))
    if is_one:
        assert decode_statement(data).number << 32 | 2**32 - 1 < 2**63
    else:
        assert code_of(decode_statement, data) == "P_MALFORMED"


def test_an_unsigned_statement_that_waited_is_dropped_quietly():
    roster = added(added(founded(), 0, 1, "admin"), 1, 2)
    grant, add = roster.all_statements()
    waiting = founded().merge([add[:-1] + bytes([add[-1] ^ 1])])[0]
    settled, new = waiting.merge([grant])
    assert (new, settled.pending, current(settled)) == ((grant,), 0, {"d0", "d1"})


def test_a_kind_of_a_later_version_is_kept_and_passed_on():
    roster = founded()
    payload = codec.encode([1, device(0).node_id, 1, roster.mesh_id, 77, {"later": [1, 2]}])
    statement = payload + device(0).sign("meshd/statement/v1", roster.mesh_id, payload)
    roster, new = roster.merge([statement])
    assert new == (statement,) == roster.all_statements()
    assert current(added(roster, 0, 1)) == {"d0", "d1"}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_statement_or_an_error(data: bytes):
    for decode in (decode_statement, open_genesis):
        with pytest.raises(RemoteProtocolError):
            decode(data)


@given(st.integers(0, 2**31), st.binary(max_size=3))
def test_a_damaged_statement_is_an_error(at: int, noise: bytes):
    good = mesh_of(1).all_statements()[0]
    at %= len(good)
    damaged = good[:at] + noise + good[at + len(noise) :]
    if damaged != good:
        start = founded()
        try:
            _, new = start.merge([damaged])
        except RemoteProtocolError:
            return
        assert new == ()


def test_too_long_a_statement_is_our_bug():
    with pytest.raises(LocalProtocolError):
        sign_statement(device(0), founded().mesh_id, 1, bytes(32), Grant(bytes(4096), "x"))


def _history(rng: random.Random, steps: int) -> list[Roster]:
    """Replicas that issue, remove, cut and fork concurrently, exchanging only now and then."""
    issuers: list[Identity] = [recovery(), *(device(n) for n in range(6))]
    replicas = [founded() for _ in range(4)]
    for _ in range(steps):
        at = rng.randrange(len(replicas))
        roster, issuer, number = replicas[at], rng.choice(issuers), rng.randrange(1, 9)
        node = device(number).node_id
        try:
            match rng.randrange(5):
                case 0 | 1:
                    role = rng.choice(["member", "relay", "admin"])
                    made = [roster.add(issuer, device(number).certificate, f"d{number}", role)]
                case 2:
                    made = [roster.grant(issuer, node)]
                case 3:
                    made = [roster.remove(issuer, node, honoured=rng.choice([None, None, 1, 2]))]
                case _:
                    made = list(rng.choice(replicas).all_statements())
        except MeshdError:
            continue
        replicas[at] = roster.merge(made)[0]
    return replicas


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_order_with_duplicates_gives_the_same_members(seed: int):
    rng = random.Random(seed)
    replicas = _history(rng, 60)
    everything = list(dict.fromkeys(data for replica in replicas for data in replica.all_statements()))
    # What was cut off on one replica may count on another: gather what any of them ever read.
    expected = Roster.from_statements(replicas[0].genesis, everything)
    for _ in range(3):
        shuffled = everything + rng.sample(everything, len(everything) // 2)
        rng.shuffle(shuffled)
        roster = founded()
        while shuffled:
            size = rng.randrange(1, 6)
            roster, shuffled = roster.merge(shuffled[:size])[0], shuffled[size:]
        assert view(roster) == view(expected)
        assert set(roster.all_statements()) == set(expected.all_statements())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_gossip_of_heads_brings_replicas_together(seed: int):
    rng = random.Random(seed)
    replicas = _history(rng, 60)
    for _ in range(12):
        for one in range(len(replicas)):
            other = (one + 1) % len(replicas)
            replicas[other] = replicas[other].merge(replicas[one].statements_beyond(replicas[other].heads()))[0]
    assert all(view(replica) == view(replicas[0]) for replica in replicas)
    assert all(replicas[0].statements_beyond(replica.heads()) == () for replica in replicas)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_device_removed_by_the_recovery_key_never_comes_back(seed: int):
    rng = random.Random(seed)
    replicas = _history(rng, 30)
    victim = rng.choice(list(replicas[0].members.values()))
    if victim.removed:
        return
    gone = replicas[0].merge([replicas[0].remove(recovery(), victim.id)])[0]
    for replica in replicas[1:]:
        gone = gone.merge(replica.all_statements())[0]
        assert gone.members[victim.id].removed


def test_forks_of_one_issuer_all_count_and_are_found_out():
    base = mesh_of(1)
    left, right = added(base, 0, 2), added(base, 0, 3)
    assert left.heads() != right.heads()
    healed_left = left.merge(right.statements_beyond(left.heads()))[0]
    healed_right = right.merge(left.statements_beyond(right.heads()))[0]
    assert view(healed_left) == view(healed_right)
    assert current(healed_left) == {"d0", "d1", "d2", "d3"}
    assert current(added(healed_left, 0, 4)) == {"d0", "d1", "d2", "d3", "d4"}


def test_heads_ask_for_what_is_missing_only():
    roster = mesh_of(1, 2, 3)
    short = founded().merge(roster.all_statements()[:2])[0]
    assert roster.statements_beyond(short.heads()) == roster.all_statements()[2:]
    assert short.statements_beyond(roster.heads()) == ()
    stranger = NodeId(bytes(16))
    assert roster.statements_beyond([(stranger, 5)]) == roster.all_statements()


# chains


def test_a_chain_proves_a_member_to_who_knows_only_the_genesis():
    roster = added(added(added(mesh_of(8, 9), 0, 1, "admin"), 1, 2, "admin"), 2, 3)
    chain = roster.chain_for(device(3).node_id)
    assert chain[0] == roster.genesis
    assert len(chain) == 4
    assert current(Roster.from_statements(chain[0], chain[1:])) == {"d0", "d1", "d2", "d3"}
    assert roster.chain_for(device(0).node_id) == (roster.genesis,)
    assert code_of(roster.chain_for, device(50).node_id) == "E_UNKNOWN_DEVICE"


def test_the_deepest_chain_fits():
    name = "x" * 59
    roster = founded()
    for level in range(1, MAX_LEVEL):
        grant = roster.add(device(level - 1), device(level).certificate, f"{name}{level:03}", "admin")
        roster = roster.merge([grant])[0]
    chain = roster.chain_for(device(MAX_LEVEL - 1).node_id)
    assert len(chain) == MAX_LEVEL
    assert sum(map(len, chain)) <= MAX_CHAIN_BYTES


def test_of_two_chains_that_do_not_fit_the_lower_end_is_shown():
    """At a relay, which is shown its own place too."""
    roster = founded()
    for first, role in ((100, "member"), (200, "relay")):
        for number in range(first, first + MAX_LEVEL):
            issuer = device(number - 1 if number > first else 0)
            is_last = number == first + MAX_LEVEL - 1
            add = roster.add(issuer, device(number).certificate, f"{number:x<63}", role if is_last else "admin")
            roster = roster.merge([add])[0]
    own, relays = (device(first + MAX_LEVEL - 1).node_id for first in (100, 200))
    both, whole = roster.chain_for(own, relays), roster.chain_for(own) + roster.chain_for(relays)[1:]
    assert len(both) < len(whole)
    assert MAX_CHAIN_BYTES - 600 < sum(map(len, both)) <= MAX_CHAIN_BYTES
    assert both[:17] == whole[:17]
    assert both[17:] == whole[17 - len(both) :]


def test_the_relays_are_those_in_the_mesh_now_first_added_first():
    roster = mesh_of(1)
    for number in (5, 3, 4):
        roster = added(roster, 0, number, "relay")
    assert [member.name for member in roster.relays()] == ["d5", "d3", "d4"]
    assert [member.name for member in removed(roster, device(0), 3).relays()] == ["d5", "d4"]


# resolving


def test_devices_are_found_by_name_id_and_prefix():
    roster = mesh_of(1, 2)
    text = to_text(device(1).node_id)
    for wanted in ("d1", "D1", text, text[:10], text[:4], text.upper()):
        assert roster.resolve(wanted).id == device(1).node_id
    assert code_of(roster.resolve, text[:3]) == "E_UNKNOWN_DEVICE"
    assert code_of(roster.resolve, "") == "E_UNKNOWN_DEVICE"
    assert code_of(removed(roster, device(0), 1).resolve, "d1") == "E_UNKNOWN_DEVICE"
    with pytest.raises(MeshdError, match=r"^d1 was removed from this mesh\.$"):
        removed(roster, device(0), 1).resolve("d1")
    with pytest.raises(MeshdError, match=r"^No device 'd9' in this mesh\.$"):
        removed(roster, device(0), 1).resolve("d9")


def test_two_devices_of_one_name_are_ambiguous():
    base = mesh_of(1)
    one = base.merge([base.add(device(0), device(2).certificate, "twin", "member")])[0]
    other = base.merge([base.add(recovery(), device(3).certificate, "Twin", "member")])[0]
    both = one.merge(other.all_statements())[0]
    assert code_of(both.resolve, "twin") == "E_AMBIGUOUS_DEVICE"
    assert both.resolve(to_text(device(3).node_id)).name == "Twin"


def test_a_name_beats_a_prefix():
    roster = mesh_of(1)
    prefix = to_text(device(1).node_id)[:5]
    roster = roster.merge([roster.add(device(0), device(2).certificate, prefix, "member")])[0]
    assert roster.resolve(prefix).id == device(2).node_id


def test_a_large_mesh_is_evaluated_once():
    roster = founded()
    statements, previous = [], bytes(roster.mesh_id)
    for number in range(1, 301):
        act = Add(device(number).certificate, f"d{number}", "member")
        statements.append(sign_statement(device(0), roster.mesh_id, number, previous, act))
        previous = hashlib.sha256(statements[-1]).digest()
    roster = roster.merge(statements)[0]
    assert len(roster.members) == 301
    assert roster.members is roster.members
    assert len(roster.statements_beyond(founded().heads())) == 300


# one admin's worst


def rogue() -> tuple[Roster, list[bytes]]:
    """Device 1 is an admin by device 0, and has signed more than a roster takes in."""
    roster = granted(mesh_of(1), 0, 1)
    previous, flood = bytes(roster.mesh_id), list[bytes]()
    for number in range(1, MAX_STATEMENTS + RESERVED_STATEMENTS * MAX_LEVEL + 10):
        payload = codec.encode([1, device(1).node_id, number, previous, 9, None])
        flood.append(payload + device(1).sign("meshd/statement/v1", roster.mesh_id, payload))
        previous = hashlib.sha256(flood[-1]).digest()
    return roster, flood


@pytest.mark.system
def test_an_admin_that_fills_the_roster_can_be_removed_from_above():
    roster, flood = rogue()
    honest = roster
    roster, new = roster.merge(flood)
    assert MAX_STATEMENTS < len(new) < len(flood)
    assert code_of(roster.add, device(1), device(2).certificate, "d2", "member") == "E_FULL"
    assert roster.merge(flood[-3:])[1] == ()
    out = honest.remove(device(0), device(1).node_id)
    assert current(roster.merge([out])[0]) == {"d0"}
    assert current(roster.merge([roster.remove(recovery(), device(0).node_id)])[0]) == {"d1"}
