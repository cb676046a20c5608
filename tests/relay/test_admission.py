"""Who is let in by a relay: the handshake, and the judgement of what a dialer brings. Device 9 is the relay."""

import random

import attrs
import pytest

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import Epoch, MeshId
from meshd.relay.admission import Policy, admit
from meshd.trust.handshake import Applicant, DialerHandshake, RelayHandshake
from meshd.trust.identity import Identity
from meshd.trust.roster import Roster, found
from meshd.wire.frames import Challenge, Proof, Welcome
from tests.trust.people import added, device, granted, mesh_of, recovery, removed

RELAY = device(9)
ALPN = "meshd/1"
DIALERS, RELAYS = Epoch(3, b"dialer.."), Epoch(7, b"relay...")
ANY = Policy(meshes=(), max_meshes=2)


def with_relay(roster: Roster) -> Roster:
    return added(roster, 0, 9, "relay")


def proof_of(dialer: Identity, roster: Roster, relay: RelayHandshake) -> tuple[DialerHandshake, Proof]:
    """The dialer's side up to its proof."""
    dialing = DialerHandshake(dialer, roster, RELAY.node_id, RELAY.certificate, ALPN, DIALERS, None, random.Random(1))
    challenge = relay.receive(dialing.start())
    assert isinstance(challenge, Challenge)
    proof = dialing.receive(challenge)
    assert isinstance(proof, Proof)
    return dialing, proof


def applicant(dialer: Identity, roster: Roster) -> Applicant:
    """A dialer that has proven its key to the relay."""
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    _, proof = proof_of(dialer, roster, relay)
    assert relay.receive(proof) is None
    assert relay.applicant is not None
    return relay.applicant


def judge(asking: Applicant, known: Roster | None = None, policy: Policy = ANY, served: int = 0) -> Roster:
    """The judgement of a relay that serves so many other meshes."""
    others = {MeshId(bytes([number]) * 32) for number in range(served)}
    return admit(RELAY.node_id, asking, known, others, policy)[0]


def refusal(asking: Applicant, known: Roster | None = None, policy: Policy = ANY, served: int = 0) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        judge(asking, known, policy, served)
    return caught.value.code


def test_a_relay_learns_of_a_mesh_from_the_first_device_that_dials() -> None:
    roster = with_relay(mesh_of(1, 2))
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    dialing, proof = proof_of(device(2), roster, relay)
    relay.receive(proof)
    assert relay.applicant is not None
    learned, chain = admit(RELAY.node_id, relay.applicant, None, (), ANY)
    assert set(learned.members) == {device(0).node_id, device(2).node_id, RELAY.node_id}, "no more than was proven"
    welcome = relay.admit(learned, chain, RELAYS, None)
    assert dialing.receive(welcome) is None
    assert relay.done is not None
    assert (relay.done.peer, relay.done.peer_epoch, relay.done.chain) == (device(2).node_id, DIALERS, chain)
    assert dialing.done is not None
    assert dialing.done.peer_epoch == RELAYS


def test_a_chain_of_grants_is_followed() -> None:
    roster = granted(mesh_of(1), 0, 1)
    roster = added(with_relay(roster), 1, 5)
    assert device(5).node_id in judge(applicant(device(5), roster)).members


def test_the_chain_of_both_stays_within_its_bound() -> None:
    roster = with_relay(mesh_of(*range(1, 9)))
    chain = roster.chain_for(device(8).node_id, RELAY.node_id)
    assert chain[0] == roster.genesis
    assert (len(chain), len(set(chain))) == (3, 3)
    assert sum(map(len, chain)) <= 16 * 1024


def test_a_chain_without_the_relays_own_statement_is_refused() -> None:
    asking = applicant(device(1), with_relay(mesh_of(1)))
    bare = mesh_of(1).chain_for(device(1).node_id)
    assert refusal(attrs.evolve(asking, chain=bare)) == "P_NOT_MEMBER"


def test_a_relay_that_is_a_mere_member_is_refused() -> None:
    roster = added(mesh_of(1), 0, 9)
    chain = roster.chain_for(device(1).node_id, RELAY.node_id)
    asking = applicant(device(1), with_relay(mesh_of(1)))
    assert refusal(attrs.evolve(asking, chain=chain)) == "P_NOT_MEMBER"


def test_a_dialer_that_its_chain_does_not_prove_is_refused() -> None:
    roster = with_relay(mesh_of(1))
    asking = applicant(device(1), roster)
    chain = roster.chain_for(RELAY.node_id)
    assert refusal(attrs.evolve(asking, chain=chain)) == "P_NOT_MEMBER"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_forged_statement_is_refused(position: int) -> None:
    asking = applicant(device(1), with_relay(mesh_of(1)))
    forged = bytearray(asking.chain[position])
    forged[-1] ^= 1
    chain = (*asking.chain[:position], bytes(forged), *asking.chain[position + 1 :])
    code = refusal(attrs.evolve(asking, chain=chain))
    assert code in ("P_AUTH", "P_MALFORMED")


def test_a_removal_that_the_relay_knows_counts_whatever_the_dialer_brings() -> None:
    before = with_relay(mesh_of(1, 2))
    asking = applicant(device(1), before)
    assert refusal(asking, removed(before, device(0), 1)) == "P_REMOVED"
    assert refusal(asking, removed(before, device(0), 9)) == "P_REMOVED"
    assert judge(asking, removed(before, device(0), 2)).is_current(device(1).node_id)


def test_the_proof_of_another_key_is_refused_before_anything_is_read() -> None:
    roster = with_relay(mesh_of(1, 2))
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    _, proof = proof_of(device(1), roster, relay)
    stolen = attrs.evolve(proof, certificate=device(2).certificate)
    with pytest.raises(RemoteProtocolError) as caught:
        relay.receive(stolen)
    assert caught.value.code == "P_AUTH"
    assert relay.applicant is None
    assert relay.rejection is not None


def test_without_a_chain_there_is_no_mesh() -> None:
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    _, proof = proof_of(device(1), with_relay(mesh_of(1)), relay)
    with pytest.raises(RemoteProtocolError, match="genesis"):
        relay.receive(attrs.evolve(proof, chain=()))


def test_nobody_is_admitted_before_the_proof_or_after_a_refusal() -> None:
    roster = with_relay(mesh_of(1))
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    with pytest.raises(LocalProtocolError):
        relay.admit(roster, (), RELAYS, None)
    _, proof = proof_of(device(1), roster, relay)
    relay.receive(proof)
    relay.refuse(RemoteProtocolError("P_RELAY", "not here"))
    assert relay.rejection is not None
    assert relay.rejection.code == "P_RELAY"
    with pytest.raises(LocalProtocolError):
        relay.admit(roster, (), RELAYS, None)


def test_the_welcome_is_for_members_alone_also_when_the_judgement_forgot() -> None:
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    _, proof = proof_of(device(1), with_relay(mesh_of(1)), relay)
    relay.receive(proof)
    with pytest.raises(RemoteProtocolError):
        relay.admit(with_relay(mesh_of(2)), (), RELAYS, None)
    assert relay.done is None


def test_the_owner_says_which_meshes_are_served_and_how_many() -> None:
    roster = with_relay(mesh_of(1))
    asking = applicant(device(1), roster)
    assert refusal(asking, policy=Policy(meshes=(bytes(16),), max_meshes=9)) == "P_RELAY"
    assert judge(asking, policy=Policy(meshes=(roster.mesh_id[:16],), max_meshes=9)).mesh_id == roster.mesh_id
    assert judge(asking, served=1).mesh_id == roster.mesh_id
    assert refusal(asking, served=2) == "P_RELAY"
    assert admit(RELAY.node_id, asking, roster, {roster.mesh_id, MeshId(bytes(32))}, ANY)[0].mesh_id == roster.mesh_id


def test_another_mesh_is_judged_by_its_own_statements() -> None:
    other = found(device(20), "work", "d20", recovery().public_key)
    other = other.merge([other.add(device(20), RELAY.certificate, "relay", "relay")])[0]
    mine, theirs = applicant(device(1), with_relay(mesh_of(1))), applicant(device(20), other)
    assert judge(mine).mesh_id != judge(theirs).mesh_id
    mixed = (theirs.chain[0], *mine.chain[1:])
    assert refusal(attrs.evolve(mine, chain=mixed)) in (
        "P_AUTH",
        "P_NOT_MEMBER",
    )


def test_a_welcome_of_the_relay_is_bound_to_its_mesh() -> None:
    """The same two keys in two meshes: what is signed for one is nothing in the other."""
    roster = with_relay(mesh_of(1))
    relay = RelayHandshake(RELAY, ALPN, random.Random(2))
    dialing, proof = proof_of(device(1), roster, relay)
    relay.receive(proof)
    welcome = relay.admit(roster, (), RELAYS, None)
    with pytest.raises(RemoteProtocolError):
        dialing.receive(Welcome(welcome.epoch, welcome.seen, bytes(64)))
