import random
from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.trust.handshake import DialerHandshake, ListenerHandshake, TurnedAway
from meshd.trust.roster import MAX_CHAIN_BYTES, Roster, found
from meshd.trust.statement import Add, sign_statement
from meshd.wire.frames import (
    ALPN_LINK,
    MAX_HANDSHAKE_FRAME_BYTES,
    MAX_PROOF_FRAME_BYTES,
    Challenge,
    Frame,
    Hello,
    Ping,
    Proof,
    Reject,
    Welcome,
    decode_frame,
    encode_frame,
)
from tests.trust.people import added, device, founded, mesh_of, recovery, removed

DIALER, LISTENER, OTHER = device(1), device(2), device(3)
DIALER_EPOCH, LISTENER_EPOCH, SEEN = Epoch(4, b"dialer.."), Epoch(7, b"listener"), Epoch(3, b"earlier.")
SEEN_OF_LISTENER = Epoch(6, b"earlier2")
MESH = mesh_of(1, 2, 3)

Change = Callable[[Frame], Frame]


def dialer(roster: Roster = MESH, *, alpn: str = ALPN_LINK, seed: int = 1, **named: object) -> DialerHandshake:
    values: dict[str, object] = {
        "identity": DIALER,
        "roster": roster,
        "peer": LISTENER.node_id,
        "listener_certificate": LISTENER.certificate,
        "alpn": alpn,
        "epoch": DIALER_EPOCH,
        "seen": None,
        "rng": random.Random(seed),
    }
    return DialerHandshake(**{**values, **named})


def listener(
    roster: Roster = MESH,
    *,
    alpn: str = ALPN_LINK,
    seen: dict[NodeId, Epoch] | None = None,
    seed: int = 2,
    who=LISTENER,
) -> ListenerHandshake:
    return ListenerHandshake(who, roster, alpn, LISTENER_EPOCH, seen or {}, random.Random(seed))


def pump(one: DialerHandshake, two: ListenerHandshake, change: Change = lambda frame: frame) -> list[Frame]:
    """Carry frames between the two, each over the wire and through ``change``, until both are silent."""
    sent: list[Frame] = []
    frame: Frame | None = one.start()
    sides = (two, one)
    while frame is not None:
        limit = MAX_PROOF_FRAME_BYTES if isinstance(frame, Proof | Reject) else MAX_HANDSHAKE_FRAME_BYTES
        frame = decode_frame(encode_frame(change(frame)), limit=limit)
        sent.append(frame)
        frame = sides[0].receive(frame)
        sides = (sides[1], sides[0])
    return sent


def failing(one: DialerHandshake, two: ListenerHandshake, change: Change = lambda frame: frame) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        pump(one, two, change)
    return caught.value.code


def test_both_learn_who_the_other_is():
    one, two = dialer(seen=SEEN_OF_LISTENER), listener(seen={DIALER.node_id: SEEN})
    sent = pump(one, two)
    assert [type(frame) for frame in sent] == [Hello, Challenge, Proof, Welcome]
    assert one.done is not None
    assert two.done is not None
    assert (one.done.peer, one.done.peer_epoch, one.done.seen) == (LISTENER.node_id, LISTENER_EPOCH, SEEN)
    assert (two.done.peer, two.done.peer_epoch, two.done.seen) == (DIALER.node_id, DIALER_EPOCH, SEEN_OF_LISTENER)
    assert one.done.version == two.done.version == 1
    assert one.done.chain == two.done.chain == ()
    assert one.rejection is two.rejection is None


def test_nothing_is_up_before_welcome():
    one, two = dialer(), listener()
    challenge = two.receive(one.start())
    assert challenge is not None
    proof = one.receive(challenge)
    assert one.done is None
    assert two.done is None
    assert isinstance(proof, Proof)


def test_a_listener_that_missed_the_joining_learns_it():
    old = mesh_of(2)
    new = added(added(old, 0, 3, "admin"), 3, 1)
    one, two = dialer(new), listener(old)
    pump(one, two)
    assert two.done is not None
    assert old.merge(two.done.chain)[0].is_current(DIALER.node_id)
    assert not old.is_current(DIALER.node_id)


def test_a_stranger_is_refused_whatever_it_signs_itself():
    outsider = added(founded(), 0, 2)
    forged = sign_statement(DIALER, MESH.mesh_id, 1, MESH.mesh_id, Add(DIALER.certificate, "me", "member"))
    for chain in ((MESH.genesis,), (MESH.genesis, forged)):

        def change(frame: Frame, chain: tuple[bytes, ...] = chain) -> Frame:
            return attrs.evolve(frame, chain=chain) if isinstance(frame, Proof) else frame

        two = listener(outsider)
        assert failing(dialer(), two, change) == "P_NOT_MEMBER"
        assert two.done is None
        assert two.rejection is not None
        assert two.rejection.code == "P_NOT_MEMBER"


def test_a_removed_device_is_refused_although_its_chain_is_genuine():
    two = listener(removed(MESH, device(0), 1))
    assert failing(dialer(), two) == "P_REMOVED"


def test_a_removed_device_is_shown_its_removal():
    one, two = dialer(), listener(removed(MESH, device(0), 1))
    assert failing(one, two) == "P_REMOVED"
    assert two.rejection is not None
    waiting = dialer()
    waiting.start()
    with pytest.raises(TurnedAway) as caught:
        waiting.receive(decode_frame(encode_frame(two.rejection), limit=MAX_PROOF_FRAME_BYTES))
    assert not MESH.merge(caught.value.proof)[0].is_current(DIALER.node_id)


def test_who_has_not_proven_a_key_is_shown_nothing():
    two = listener(removed(MESH, device(0), 1))
    assert failing(dialer(), two, lambda f: attrs.evolve(f, signature=bytes(64)) if isinstance(f, Proof) else f) == (
        "P_AUTH"
    )
    assert two.rejection == Reject("P_AUTH", "a proof with a wrong signature")


def test_a_dialer_keeps_away_from_a_removed_listener():
    for roster, code in ((removed(MESH, device(0), 2), "P_REMOVED"), (mesh_of(1), "P_NOT_MEMBER")):
        one = dialer(roster)
        with pytest.raises(RemoteProtocolError) as caught:
            one.start()
        assert caught.value.code == code
        with pytest.raises(RemoteProtocolError):
            one.receive(Challenge(1, bytes(32)))


def test_another_certificate_in_tls_is_refused_before_anything_is_sent():
    with pytest.raises(RemoteProtocolError) as caught:
        dialer(listener_certificate=OTHER.certificate).start()
    assert caught.value.code == "P_AUTH"


def test_who_has_nothing_to_prove_itself_with_asks_with_the_genesis_alone():
    """What added it is void by what it knows: others may know more, or have added it again."""
    one, two = dialer(mesh_of(2)), listener()
    proof = pump(one, two)[2]
    assert isinstance(proof, Proof)
    assert proof.chain == (MESH.genesis,)
    assert two.done is not None
    assert failing(dialer(mesh_of(2)), listener(mesh_of(2))) == "P_NOT_MEMBER"


def test_so_does_it_at_a_relay_that_it_shows_the_relays_place():
    roster = added(founded(), 0, 2, "relay")
    proof = pump(dialer(roster), listener(added(roster, 0, 1)))[2]
    assert isinstance(proof, Proof)
    assert proof.chain == roster.chain_for(LISTENER.node_id)


def test_another_mesh_is_told_apart():
    other = found(device(0), "other", "d0", recovery().public_key)
    other = added(added(other, 0, 1), 0, 2)
    assert failing(dialer(other), listener()) == "P_OTHER_MESH"


def test_a_link_to_itself_is_refused():
    assert (
        failing(dialer(peer=DIALER.node_id, listener_certificate=DIALER.certificate), listener(who=DIALER)) == "P_AUTH"
    )


def test_both_must_speak_of_one_alpn_and_one_listener():
    assert failing(dialer(alpn="other/1"), listener()) == "P_AUTH"
    assert failing(dialer(), listener(who=OTHER)) == "P_AUTH"


def test_no_version_in_common():
    two = listener()
    assert (
        failing(dialer(), two, lambda f: attrs.evolve(f, versions=(9,)) if isinstance(f, Hello) else f) == "P_VERSION"
    )
    assert two.rejection is not None
    assert failing(dialer(), listener(), lambda f: attrs.evolve(f, version=2) if isinstance(f, Challenge) else f) == (
        "P_VERSION"
    )


EVIL = Epoch(99, b"evilevil")


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Hello, "versions", (1, 2)),
        (Hello, "nonce", bytes(32)),
        (Challenge, "nonce", bytes(32)),
        (Proof, "epoch", EVIL),
        (Proof, "seen", EVIL),
        (Proof, "seen", None),
        (Proof, "certificate", OTHER.certificate),
        (Proof, "certificate", b"none"),
        (Proof, "signature", bytes(64)),
        (Welcome, "epoch", EVIL),
        (Welcome, "seen", EVIL),
        (Welcome, "seen", None),
        (Welcome, "signature", bytes(64)),
    ],
)
def test_every_signed_field_is_guarded(kind: type, field: str, value: object):
    def change(frame: Frame) -> Frame:
        return attrs.evolve(frame, **{field: value}) if isinstance(frame, kind) else frame

    one, two = dialer(seen=SEEN_OF_LISTENER), listener(seen={DIALER.node_id: SEEN})
    assert failing(one, two, change) == "P_AUTH"
    assert one.done is None
    assert (two.done is None) == (kind is not Welcome)


def test_a_replayed_proof_is_refused():
    recorded = pump(dialer(), listener())
    two = listener(seed=3)
    two.receive(recorded[0])
    with pytest.raises(RemoteProtocolError) as caught:
        two.receive(recorded[2])
    assert caught.value.code == "P_AUTH"


def test_a_replayed_welcome_is_refused():
    recorded = pump(dialer(), listener())
    one = dialer(seed=5)
    one.start()
    one.receive(recorded[1])
    with pytest.raises(RemoteProtocolError) as caught:
        one.receive(recorded[3])
    assert caught.value.code == "P_AUTH"


def test_a_signature_does_not_reflect():
    """Who is dialed back by its own dialer can't answer it with what it said itself."""
    one, two = dialer(), listener()
    challenge = two.receive(one.start())
    assert challenge is not None
    proof = one.receive(challenge)
    assert isinstance(proof, Proof)
    with pytest.raises(RemoteProtocolError) as caught:
        one.receive(Welcome(LISTENER_EPOCH, None, proof.signature))
    assert caught.value.code == "P_AUTH"


def test_a_proof_relayed_to_another_listener_is_refused():
    """OTHER, dialed by DIALER, passes all on to LISTENER: TLS showed the dialer another certificate."""
    one, two = dialer(peer=OTHER.node_id, listener_certificate=OTHER.certificate), listener()
    assert failing(one, two) == "P_AUTH"


def test_frames_out_of_order_end_it():
    for frame in (Ping(1), Welcome(LISTENER_EPOCH, None, bytes(64)), Challenge(1, bytes(32))):
        two = listener()
        with pytest.raises(RemoteProtocolError) as caught:
            two.receive(frame)
        assert caught.value.code == "P_UNEXPECTED"
        with pytest.raises(RemoteProtocolError):
            two.receive(Hello((1,), bytes(32)))


ANY_FRAME = (
    Hello((1,), bytes(32)),
    Challenge(1, bytes(32)),
    Proof(DIALER.certificate, DIALER_EPOCH, None, MESH.chain_for(DIALER.node_id), bytes(64)),
    Welcome(LISTENER_EPOCH, None, bytes(64)),
    Reject("P_REMOVED", "gone"),
    Ping(1),
)


@pytest.mark.parametrize("waiting_for", [Challenge, Welcome])
@pytest.mark.parametrize("frame", ANY_FRAME, ids=lambda frame: type(frame).__name__)
def test_the_dialer_takes_the_next_frame_and_no_other(frame: Frame, waiting_for: type):
    one, two = dialer(), listener()
    challenge = two.receive(one.start())
    assert challenge is not None
    if waiting_for is Welcome:
        one.receive(challenge)
    if not isinstance(frame, (waiting_for, Reject)):
        with pytest.raises(RemoteProtocolError) as caught:
            one.receive(frame)
        assert caught.value.code == "P_UNEXPECTED"
        assert one.rejection is not None


@pytest.mark.parametrize("frame", ANY_FRAME, ids=lambda frame: type(frame).__name__)
def test_after_the_end_and_after_an_error_every_frame_is_one_too_many(frame: Frame):
    one, two = dialer(), listener()
    pump(one, two)
    for side in (one, two):
        for _ in range(2):  # the first is after the end, the second after an error
            with pytest.raises(RemoteProtocolError) as caught:
                side.receive(frame)
            assert caught.value.code == "P_UNEXPECTED"
            assert side.done is None


def test_a_second_hello_ends_it():
    one, two = dialer(), listener()
    hello = one.start()
    two.receive(hello)
    with pytest.raises(RemoteProtocolError):
        two.receive(hello)
    assert two.rejection == Reject("P_UNEXPECTED", "Hello in state: challenge sent")


def test_a_reject_tells_why_and_is_not_answered():
    one = dialer()
    one.start()
    with pytest.raises(RemoteProtocolError) as caught:
        one.receive(Reject("P_REMOVED", "gone\x1b[2J"))
    assert caught.value.code == "P_REMOVED"
    assert caught.value.reason == "the peer refused: gone[2J"
    assert one.rejection is None
    for code in ("E_FULL", "P_NEVER_HEARD_OF"):
        one = dialer()
        one.start()
        with pytest.raises(RemoteProtocolError) as caught:
            one.receive(Reject(code, ""))
        assert caught.value.code == "P_UNEXPECTED"


def test_an_overlong_or_forged_chain_is_refused():
    def forged(frame: Frame) -> Frame:
        statement = sign_statement(device(0), bytes(32), 9, bytes(32), Add(OTHER.certificate, "x", "member"))
        return attrs.evolve(frame, chain=(*frame.chain, statement)) if isinstance(frame, Proof) else frame

    def empty(frame: Frame) -> Frame:
        return attrs.evolve(frame, chain=()) if isinstance(frame, Proof) else frame

    def of(size: int) -> Change:
        rest = size - len(MESH.genesis)
        parts = tuple(bytes(min(4096, rest - at)) for at in range(0, rest, 4096))
        return lambda frame: attrs.evolve(frame, chain=(MESH.genesis, *parts)) if isinstance(frame, Proof) else frame

    assert failing(dialer(), listener(), of(MAX_CHAIN_BYTES + 1)) == "P_OVERSIZED"
    assert failing(dialer(), listener(), of(MAX_CHAIN_BYTES)) == "P_MALFORMED"  # read, and found to be no statement
    assert failing(dialer(), listener(), forged) == "P_AUTH"
    assert failing(dialer(), listener(), empty) == "P_OTHER_MESH"


@given(st.lists(st.sampled_from(["hello", "challenge", "proof", "welcome", "reject", "ping"]), max_size=6))
def test_no_order_of_genuine_frames_but_the_right_one_succeeds(order: list[str]):
    genuine = dict(zip(["hello", "challenge", "proof", "welcome"], pump(dialer(), listener()), strict=True))
    genuine |= {"reject": Reject("P_AUTH", ""), "ping": Ping(1)}
    two = listener()
    try:
        for name in order:
            two.receive(genuine[name])
    except RemoteProtocolError:
        assert two.done is None
    else:
        assert (two.done is not None) == (order == ["hello", "proof"])
