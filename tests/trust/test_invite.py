import hashlib
import random
from collections.abc import Iterable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, MeshdError, RemoteProtocolError
from meshd.trust.card import CardAddress
from meshd.trust.identity import Identity
from meshd.trust.invite import Invitations, InviteCode, InviterExchange, JoinerExchange
from meshd.trust.joining import (
    MAX_ANSWER_BYTES,
    MAX_JOIN_FRAME_BYTES,
    JoinAnswer,
    JoinChallenge,
    JoinFrame,
    JoinHello,
    JoinPart,
    JoinProof,
    JoinRefusal,
    decode_join_frame,
    encode_join_frame,
)
from meshd.trust.roster import Role, Roster, found
from meshd.wire import codec
from tests.trust.people import added, current, device, founded, mesh_of, recovery, removed

INVITER, JOINER, STRANGER = device(0), device(1), device(9)


def hash_of(identity: Identity) -> bytes:
    return hashlib.sha256(identity.certificate).digest()


class Household:
    """The inviting device as its daemon would run it: roster, register, and the transaction."""

    def __init__(self, roster: Roster | None = None, identity: Identity = INVITER) -> None:
        self.identity = identity
        self.roster = roster or founded()
        self.invitations = Invitations()
        self.now = 0.0
        self.seed = 0

    def invite(self, role: Role = "member") -> InviteCode:
        self.seed += 1
        return self.invitations.create(
            self.now,
            600.0,
            role,
            genesis_hash=self.roster.mesh_id,
            certificate_hash=hash_of(self.identity),
            addresses=(CardAddress("websocket", "192.0.2.1", 7843),),
            rng=random.Random(self.seed),
        )

    def exchange(self, host: str = "192.0.2.7") -> InviterExchange:
        return InviterExchange(
            self.identity, self.invitations, self.roster, hash_of(self.identity), self.now, host, random.Random(5)
        )

    def commit(self, inviter: InviterExchange, cards: tuple[bytes, ...] = ()) -> tuple[bytes, ...]:
        admission = inviter.admission
        assert admission is not None
        if not admission.repeat:
            self.invitations.consume(admission.code_id, admission.public_key, self.now)
            add = self.roster.add(self.identity, admission.certificate, admission.name, admission.role)
            self.roster = self.roster.merge([add])[0]
        return inviter.admitted(self.roster.genesis, self.roster.all_statements(), cards)


def joining(code: InviteCode, identity: Identity = JOINER, name: str = "laptop", seen: bytes | None = None):
    return JoinerExchange(identity, code, name, code.certificate_hash if seen is None else seen, random.Random(6))


def talk(joiner: JoinerExchange, inviter: InviterExchange) -> None:
    (challenge,) = inviter.receive(joiner.start())
    (proof,) = joiner.receive(challenge)
    assert inviter.receive(proof) == ()


def deliver(joiner: JoinerExchange, frames: Iterable[bytes]) -> None:
    for frame in frames:
        assert len(frame) <= MAX_JOIN_FRAME_BYTES
        assert joiner.receive(frame) == ()


def prove(household: Household, joiner: JoinerExchange, host: str = "192.0.2.7") -> InviterExchange:
    inviter = household.exchange(host)
    talk(joiner, inviter)
    return inviter


def join(household: Household, joiner: JoinerExchange, cards: tuple[bytes, ...] = ()) -> None:
    deliver(joiner, household.commit(prove(household, joiner), cards))


def refusal(household: Household, joiner: JoinerExchange, host: str = "192.0.2.7") -> str:
    """The code that the inviter refuses with, which is also the one that the joiner gets to see."""
    inviter = household.exchange(host)
    with pytest.raises(MeshdError) as caught:
        talk(joiner, inviter)
    assert inviter.admission is None
    assert inviter.rejection is not None
    with pytest.raises(MeshdError) as told:
        joiner.receive(inviter.rejection)
    assert told.value.code == caught.value.code
    return told.value.code


def test_a_device_joins():
    household = Household(mesh_of(2, 3))
    joiner = joining(household.invite())
    join(household, joiner, (b"card",))
    assert joiner.joined is not None
    assert current(joiner.joined.roster) == {"d0", "d2", "d3", "laptop"}
    assert dict(joiner.joined.roster.members) == dict(household.roster.members)
    assert (joiner.joined.inviter, joiner.joined.name, joiner.joined.cards) == (INVITER.node_id, "laptop", (b"card",))


def test_the_role_is_the_codes():
    household = Household()
    join(household, joining(household.invite("relay")))
    assert household.roster.members[JOINER.node_id].role == "relay"


def test_a_long_answer_comes_in_parts():
    household = Household()
    joiner = joining(household.invite())
    join(household, joiner, tuple(bytes([n]) * 4000 for n in range(40)))
    assert joiner.joined is not None
    assert len(joiner.joined.cards) == 40


def test_a_taken_name_gets_a_number():
    household = Household(mesh_of(2))
    joiner = joining(household.invite(), name="D2")
    join(household, joiner)
    assert joiner.joined is not None
    assert joiner.joined.name == "D2-2"


def test_an_admin_below_the_founder_invites():
    household = Household(added(founded(), 0, 5, "admin"), device(5))
    joiner = joining(household.invite())
    join(household, joiner)
    assert joiner.joined is not None


def test_a_retry_after_a_lost_answer_succeeds_and_changes_nothing():
    household = Household()
    code = household.invite()
    household.commit(prove(household, joining(code)))
    before = household.roster
    household.invitations = Invitations.restore(household.invitations.export())
    household.now = 5000.0
    again = joining(code)
    join(household, again)
    assert household.roster is before
    assert again.joined is not None
    assert again.joined.name == "laptop"


def test_a_member_with_another_code_leaves_that_code_open():
    household = Household()
    join(household, joining(household.invite()))
    second = household.invite()
    join(household, joining(second))
    join(household, joining(second, STRANGER, "tablet"))
    assert current(household.roster) == {"d0", "laptop", "tablet"}


def test_a_code_works_for_one_device():
    household = Household()
    code = household.invite()
    join(household, joining(code))
    assert refusal(household, joining(code, STRANGER)) == "E_CODE_USED"


def test_of_two_at_once_the_first_to_commit_is_in():
    household = Household()
    code = household.invite()
    first, second = joining(code), joining(code, STRANGER)
    one, two = prove(household, first), prove(household, second)
    household.commit(one)
    with pytest.raises(MeshdError) as caught:
        household.commit(two)
    assert caught.value.code == "E_CODE_USED"
    with pytest.raises(MeshdError) as told:
        second.receive(two.refuse(caught.value))
    assert told.value.code == "E_CODE_USED"
    assert two.admission is None


def test_an_expired_code():
    household = Household()
    code = household.invite()
    household.now = 600.0
    assert refusal(household, joining(code)) == "E_CODE_EXPIRED"


def test_a_removed_device_stays_out():
    household = Household(removed(mesh_of(1), device(0), 1))
    code = household.invite()
    assert refusal(household, joining(code)) == "E_REMOVED_DEVICE"
    join(household, joining(code, STRANGER))


def test_an_inviter_that_is_no_admin_any_more():
    household = Household(added(founded(), 0, 5, "admin"), device(5))
    code = household.invite()
    household.roster = removed(household.roster, device(0), 5)
    assert refusal(household, joining(code)) == "E_NOT_ADMIN"


def test_an_unknown_code_and_a_wrong_secret():
    household = Household()
    code = household.invite()
    unknown = attrs.evolve(code, secret=bytes(16))
    assert refusal(household, joining(unknown)) == "E_CODE_WRONG"

    class Guess(InviteCode):
        id = code.id

    guess = Guess(bytes(16), code.genesis_hash, code.certificate_hash, ())
    assert refusal(household, joining(guess, STRANGER)) == "E_CODE_WRONG"
    join(household, joining(code))


def test_wrong_guesses_are_slowed_and_burn_no_code():
    household = Household()
    code = household.invite()
    for _ in range(5):
        assert refusal(household, joining(attrs.evolve(code, secret=bytes(16)))) == "E_CODE_WRONG"
    assert refusal(household, joining(code)) == "E_JOIN_RATE"
    joiner = joining(code)
    deliver(joiner, household.commit(prove(household, joiner, "192.0.2.8")))
    assert joiner.joined is not None
    household.now = 60.0
    join(household, joining(code))


def test_another_certificate_ends_it_before_anything_is_sent():
    household = Household()
    joiner = joining(household.invite(), seen=hash_of(STRANGER))
    with pytest.raises(MeshdError) as caught:
        joiner.start()
    assert caught.value.code == "E_CODE_OTHER_MESH"
    with pytest.raises(RemoteProtocolError):
        joiner.receive(encode_join_frame(JoinChallenge(STRANGER.certificate, bytes(32))))


def test_an_unfit_name_ends_it_before_anything_is_sent():
    with pytest.raises(MeshdError) as caught:
        joining(Household().invite(), name="my laptop").start()
    assert caught.value.code == "E_USAGE"


def test_a_man_in_the_middle_is_noticed_by_both():
    """The joiner saw another certificate than the inviter showed: somebody terminates TLS in between."""
    household = Household()
    code = household.invite()
    joiner = joining(attrs.evolve(code, certificate_hash=hash_of(STRANGER)))
    inviter = household.exchange()
    (challenge,) = inviter.receive(joiner.start())
    with pytest.raises(MeshdError) as caught:
        joiner.receive(challenge)
    assert caught.value.code == "E_CODE_OTHER_MESH"

    joiner, inviter = (
        joining(code),
        InviterExchange(
            INVITER, household.invitations, household.roster, hash_of(STRANGER), 0.0, "192.0.2.7", random.Random(5)
        ),
    )
    (challenge,) = inviter.receive(joiner.start())
    (proof,) = joiner.receive(challenge)
    with pytest.raises(MeshdError) as caught:
        inviter.receive(proof)
    assert caught.value.code == "E_CODE_WRONG"


def test_a_code_of_another_mesh_is_noticed():
    household = Household()
    code = household.invite()
    joiner = joining(code)
    inviter = prove(household, joiner)
    household.commit(inviter)
    other = added(found(INVITER, "other", "d0", recovery().public_key), 0, 1)
    inviter = prove(household, joiner := joining(code))
    with pytest.raises(MeshdError) as caught:
        deliver(joiner, inviter.admitted(other.genesis, other.all_statements(), ()))
    assert caught.value.code == "E_CODE_OTHER_MESH"


@pytest.mark.parametrize("which", ["without the joiner", "joiner removed", "inviter removed", "forged"])
def test_an_answer_that_does_not_prove_the_membership_is_refused(which: str):
    household = Household()
    code = household.invite()
    joiner = joining(code)
    inviter = prove(household, joiner)
    member = added(household.roster, 0, 1)
    statements = {
        "without the joiner": (),
        "joiner removed": removed(member, device(0), 1).all_statements(),
        "inviter removed": removed(member, recovery(), 0).all_statements(),
        "forged": (member.all_statements()[0][:-1] + b"!",),
    }[which]
    with pytest.raises(RemoteProtocolError) as caught:
        deliver(joiner, inviter.admitted(member.genesis, statements, ()))
    assert caught.value.code == "P_AUTH"
    assert joiner.joined is None


@pytest.mark.parametrize("field", ["name", "mac", "signature"])
def test_every_field_of_the_proof_is_guarded(field: str):
    household = Household()
    joiner, inviter = joining(household.invite()), household.exchange()
    (challenge,) = inviter.receive(joiner.start())
    (data,) = joiner.receive(challenge)
    proof = decode_join_frame(data)
    assert isinstance(proof, JoinProof)
    value = {"name": "other", "mac": bytes(32), "signature": bytes(64)}[field]
    with pytest.raises((MeshdError, RemoteProtocolError)) as caught:
        inviter.receive(encode_join_frame(attrs.evolve(proof, **{field: value})))
    assert caught.value.code == ("P_AUTH" if field == "signature" else "E_CODE_WRONG")
    assert inviter.admission is None


@pytest.mark.parametrize("field", ["digest", "mac", "signature", "size"])
def test_every_field_of_the_answer_is_guarded(field: str):
    household = Household()
    joiner = joining(household.invite())
    first, *parts = household.commit(prove(household, joiner))
    answer = decode_join_frame(first)
    assert isinstance(answer, JoinAnswer)
    value = {"digest": bytes(32), "mac": bytes(32), "signature": bytes(64), "size": answer.size - 1}[field]
    with pytest.raises(RemoteProtocolError):
        deliver(joiner, (encode_join_frame(attrs.evolve(answer, **{field: value})), *parts))
    assert joiner.joined is None


@pytest.mark.parametrize(("change", "code"), [(b"", "P_OVERSIZED"), (b"!", "P_AUTH")])
def test_parts_that_are_empty_or_changed_are_refused(change: bytes, code: str):
    household = Household()
    joiner = joining(household.invite())
    first, data = household.commit(prove(household, joiner), (b"card",))
    part = decode_join_frame(data)
    assert isinstance(part, JoinPart)
    joiner.receive(first)
    with pytest.raises(RemoteProtocolError) as caught:
        joiner.receive(encode_join_frame(JoinPart(part.data[:-1] + change if change else b"")))
    assert caught.value.code == code
    assert joiner.joined is None


def test_frames_out_of_order_end_it():
    household = Household()
    inviter = household.exchange()
    with pytest.raises(RemoteProtocolError) as caught:
        inviter.receive(encode_join_frame(JoinProof("x", bytes(32), bytes(64))))
    assert caught.value.code == "P_UNEXPECTED"
    joiner = joining(household.invite())
    hello = joiner.start()
    with pytest.raises(RemoteProtocolError):
        inviter.receive(hello)
    with pytest.raises(RemoteProtocolError):
        joiner.receive(encode_join_frame(JoinPart(b"x")))
    with pytest.raises(RemoteProtocolError):
        joiner.receive(encode_join_frame(JoinChallenge(INVITER.certificate, bytes(32))))


def test_nobody_is_admitted_before_the_proof_nor_twice_nor_after_a_refusal():
    household = Household()
    joiner, inviter = joining(household.invite()), household.exchange()

    def admitted() -> None:
        with pytest.raises(LocalProtocolError, match="nobody to admit"):
            inviter.admitted(founded().genesis, (), ())

    admitted()
    (challenge,) = inviter.receive(joiner.start())
    admitted()
    (proof,) = joiner.receive(challenge)
    inviter.receive(proof)
    household.commit(inviter)
    admitted()
    inviter = prove(household, joining(household.invite(), STRANGER))
    inviter.refuse(MeshdError("E_FULL", "the disk is full"))
    admitted()


def test_an_answer_that_no_joiner_would_take_is_not_sent():
    household = Household()
    empty = len(codec.encode([founded().genesis, [], [bytes(2**16)]])) - 2**16
    for size, is_sent in ((MAX_ANSWER_BYTES - empty, True), (MAX_ANSWER_BYTES - empty + 1, False)):
        inviter = prove(household, joining(household.invite()))
        if is_sent:
            assert decode_join_frame(inviter.admitted(founded().genesis, (), [bytes(size)])[0]).size == MAX_ANSWER_BYTES
        else:
            with pytest.raises(LocalProtocolError, match="an answer of"):
                inviter.admitted(founded().genesis, (), [bytes(size)])


def test_a_joiner_that_has_not_begun_takes_no_frame():
    with pytest.raises(RemoteProtocolError) as caught:
        joining(Household().invite()).receive(encode_join_frame(JoinChallenge(INVITER.certificate, bytes(32))))
    assert caught.value.code == "P_UNEXPECTED"


def test_a_refusal_is_shown_clean_and_only_with_a_code_for_people():
    joiner = joining(Household().invite())
    joiner.start()
    with pytest.raises(MeshdError) as caught:
        joiner.receive(encode_join_frame(JoinRefusal("E_CODE_USED", "gone\x1b[2J")))
    assert caught.value.message == "gone[2J"
    for code in ("P_AUTH", "E_NEVER_HEARD_OF"):
        joiner = joining(Household().invite())
        joiner.start()
        with pytest.raises(RemoteProtocolError) as refused:
            joiner.receive(encode_join_frame(JoinRefusal(code, "")))
        assert refused.value.code == "P_UNEXPECTED"


@pytest.mark.parametrize(
    ("fitting", "over"),
    [
        (
            JoinHello(1, bytes(16), JOINER.certificate, bytes(32)),
            JoinHello(2, bytes(16), JOINER.certificate, bytes(32)),
        ),
        (JoinChallenge(INVITER.certificate, bytes(32)), JoinChallenge(INVITER.certificate, bytes(33))),
        (JoinProof("x" * 63, bytes(32), bytes(64)), JoinProof("x" * 64, bytes(32), bytes(64))),
        (
            JoinAnswer(1, bytes(32), bytes(32), bytes(64)),
            JoinAnswer(0, bytes(32), bytes(32), bytes(64)),
        ),
        (
            JoinAnswer(16 * 1024 * 1024, bytes(32), bytes(32), bytes(64)),
            JoinAnswer(16 * 1024 * 1024 + 1, bytes(32), bytes(32), bytes(64)),
        ),
        (JoinPart(bytes(16 * 1024)), JoinPart(bytes(16 * 1024 + 1))),
        (JoinRefusal("x" * 32, ""), JoinRefusal("x" * 33, "")),
        (JoinRefusal("", "x" * 200), JoinRefusal("", "x" * 201)),
    ],
    ids=lambda frame: type(frame).__name__,
)
def test_over_the_limit_is_malformed(fitting: JoinFrame, over: JoinFrame):
    assert decode_join_frame(encode_join_frame(fitting)) == fitting
    with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
        decode_join_frame(encode_join_frame(over))


@pytest.mark.parametrize("value", [[], {}, "", [True, bytes(9)], [[5], b""], [5.0, b""], [None], [7], 5])
def test_no_other_value_is_a_frame(value: object):
    with pytest.raises(RemoteProtocolError, match="P_MALFORMED"):
        decode_join_frame(codec.encode(value))


def test_a_frame_is_read_up_to_a_size():
    for size, code in ((20 * 1024, "P_MALFORMED"), (20 * 1024 + 1, "P_OVERSIZED")):
        with pytest.raises(RemoteProtocolError, match=code):
            decode_join_frame(bytes(size))


@given(
    st.binary(max_size=200), st.integers(0, 9), st.lists(st.integers() | st.binary(max_size=40) | st.text(), max_size=5)
)
def test_any_bytes_are_a_frame_or_an_error(data: bytes, kind: int, fields: list[object]):
    for raw in (data, codec.encode([kind, *fields]), bytes(MAX_JOIN_FRAME_BYTES + 1)):
        try:
            frame = decode_join_frame(raw)
        except RemoteProtocolError:
            continue
        assert decode_join_frame(encode_join_frame(frame)) == frame
