"""Numbers, predecessors and sessions of what leaves this device; sessions of what arrives."""

import random
from typing import Any

import attrs
import pytest

from meshd.delivery.outbox import (
    Draft,
    Outbox,
    Recipient,
    decode_floor,
    encode_floor,
    flow_key,
    parse_flow_key,
)
from meshd.delivery.packing import Pack, PackKey, Share
from meshd.delivery.sessions import (
    EPHEMERAL_HELD_S,
    HELD_BYTES,
    SESSION_BUNDLES,
    HeldBundle,
    IncomingSessions,
    OutgoingSessions,
)
from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, Flow, NodeId, Number, Priority
from meshd.trust.card import Card, Prekeys
from meshd.trust.seal import DestinationSession, accept_offer
from meshd.wire.bundle import Content, Head, Message, bundle_id, decode_head, unpack_content
from meshd.wire.frames import BundleFrame
from tests.trust.people import device

EPOCH = Epoch(3, b"8 random")
A, B = device(0), device(1)
RNG = random.Random(7)
PREKEYS = Prekeys(86_400.0)
PREKEYS.advance(0.0, RNG)
CARD = Card(node=B.node_id, version=1, name="b", prekeys=PREKEYS.published)
RECIPIENT = Recipient(B.node_id, B.public_key, CARD)


def made() -> tuple[Outbox, OutgoingSessions]:
    sessions = OutgoingSessions(A, random.Random(1))
    return Outbox(A.node_id, EPOCH, sessions), sessions


def pack(service: str = "s", priority: Priority = Priority.NORMAL, *, ephemeral: bool = False) -> Pack:
    key = PackKey(B.node_id, service, priority, ephemeral, 1000, "uid:1")
    return Pack(key, (Message(b"x"),), (Share(1, 0, 1),))


def content(draft: Draft) -> Content:
    return unpack_content(draft.plaintext)


class TestNumbers:
    def test_they_rise_per_flow_and_name_their_services_last(self) -> None:
        outbox, _ = made()
        drafts = [outbox.draft(pack(service), None) for service in "sts"]
        assert [draft.number for draft in drafts] == [Number(EPOCH, i) for i in (1, 2, 3)]
        assert [content(draft).prev for draft in drafts] == [None, None, Number(EPOCH, 1)]
        assert outbox.draft(pack(priority=Priority.HIGH), None).number == Number(EPOCH, 1)
        ephemeral = outbox.draft(pack(ephemeral=True), None)
        assert (ephemeral.number, content(ephemeral).prev) == (Number(EPOCH, 1), None)

    def test_a_floor_that_nobody_knows_is_not_told(self) -> None:
        outbox, _ = made()
        outbox.draft(pack(), None)
        assert content(outbox.draft(pack(), None)).floor is None
        assert content(outbox.draft(pack(), Number(EPOCH, 1))).floor == Number(EPOCH, 1)

    @pytest.mark.parametrize("order", [(1, 2), (2, 1)])
    def test_burnt_ones_are_neither_reused_nor_named(self, order: tuple[int, ...]) -> None:
        outbox, _ = made()
        drafts = [outbox.draft(pack(), None) for _ in range(3)]
        for i in order:
            outbox.burn(drafts[i], "s")
        following = outbox.draft(pack(), None)
        assert following.number == Number(EPOCH, 4)
        assert content(following).prev == Number(EPOCH, 1)

    def test_the_first_one_burnt_leaves_no_predecessor(self) -> None:
        outbox, _ = made()
        outbox.burn(outbox.draft(pack(), None), "s")
        assert content(outbox.draft(pack(), None)).prev is None

    def test_a_new_epoch_counts_from_one_and_names_the_last_of_the_one_before(self) -> None:
        outbox, _ = made()
        outbox.draft(pack(), None)
        higher = Epoch(4, bytes(8))
        outbox.start_epoch(higher)
        draft = outbox.draft(pack(), None)
        assert draft.number == Number(higher, 1)
        assert content(draft).prev == Number(EPOCH, 1)

    def test_predecessors_outlive_a_restart(self) -> None:
        outbox, sessions = made()
        outbox.draft(pack(), None)
        stored = outbox.encode_last(B.node_id, Priority.NORMAL)
        again = Outbox(A.node_id, Epoch(4, bytes(8)), sessions)
        again.restore_last(B.node_id, Priority.NORMAL, stored)
        assert content(again.draft(pack(), None)).prev == Number(EPOCH, 1)

    def test_keys_and_floors_come_back(self) -> None:
        assert parse_flow_key(flow_key(B.node_id, Priority.BULK)) == (B.node_id, Priority.BULK)
        floor = Number(EPOCH, 9)
        assert decode_floor(encode_floor(Priority.HIGH, floor)) == (Priority.HIGH, floor)
        with pytest.raises(RemoteProtocolError):
            decode_floor(b"\x82\x07\x80")


class TestSealing:
    def test_the_destination_opens_what_was_sealed_and_nothing_else(self) -> None:
        outbox, sessions = made()
        draft = outbox.draft(pack(), None)
        sealed = outbox.seal(draft.flow, draft.number, draft.plaintext, 1000, RECIPIENT, 0.0)
        assert sealed.bundle == bundle_id(sealed.head, sealed.body)
        head = decode_head(sealed.head)
        assert (head.flow, head.number, head.size) == (draft.flow, draft.number, len(sealed.body))
        offer = sessions.offer_for(sealed.session)
        assert offer is not None
        accepted = accept_offer(B, A.public_key, offer, PREKEYS)
        opened = DestinationSession(accepted.id, accepted.root)
        assert opened.open(sealed.head, head.counter, sealed.body) == draft.plaintext
        for i in range(0, len(sealed.head), 7):
            other = sealed.head[:i] + bytes([sealed.head[i] ^ 1]) + sealed.head[i + 1 :]
            with pytest.raises(RemoteProtocolError):
                opened.open(other, head.counter, sealed.body)
        with pytest.raises(RemoteProtocolError):
            opened.open(sealed.head, head.counter + 1, sealed.body)


class TestOutgoingSessions:
    def session(self, sessions: OutgoingSessions, now: float = 0.0, card: Card = CARD) -> tuple[bytes, int, bool]:
        session, counter, must_store = sessions.for_destination(B.node_id, B.public_key, card, now)
        return session.id, counter, must_store

    def test_its_root_is_to_be_stored_until_it_is(self) -> None:
        _, sessions = made()
        first = self.session(sessions)
        again = self.session(sessions)
        assert (first[0], first[2], again[2]) == (again[0], True, True)
        sessions.stored(first[0])
        assert self.session(sessions) == (first[0], 3, False)

    def test_it_changes_with_time_count_and_card(self) -> None:
        _, sessions = made()
        ids = [self.session(sessions)[0], self.session(sessions, 3_700.0)[0]]
        ids.append(self.session(sessions, 3_700.0, attrs.evolve(CARD, version=2))[0])
        assert len(set(ids)) == 3
        for _ in range(SESSION_BUNDLES - 1):
            last = self.session(sessions, 3_700.0, attrs.evolve(CARD, version=2))
        assert last[0] == ids[2]
        assert self.session(sessions, 3_700.0, attrs.evolve(CARD, version=2))[0] != ids[2]

    def test_it_is_offered_until_it_is_confirmed(self) -> None:
        _, sessions = made()
        id = self.session(sessions)[0]
        assert sessions.offer_for(id) is not None
        sessions.confirm(id)
        assert sessions.offer_for(id) is None
        assert sessions.rewrap(id, CARD) is not None
        assert sessions.rewrap(b"unknown", CARD) is None

    def test_old_ones_are_forgotten(self) -> None:
        _, sessions = made()
        old = self.session(sessions, 0.0)[0]
        new = self.session(sessions, 4_000.0)[0]
        assert sessions.forget_before(1_000) == [(B.node_id, old)]
        assert sessions.rewrap(old, CARD) is None
        assert self.session(sessions, 4_001.0)[0] == new


class TestIncomingSessions:
    def held(self, size: int = 1, session: bytes = b"s", sequence: int = 1, **head: Any) -> HeldBundle:
        flow = Flow(A.node_id, B.node_id, Priority.NORMAL, ephemeral=head.get("ephemeral", False))
        clear = Head(flow, Number(EPOCH, sequence), session, 1, head.get("lifetime_ms", 60_000), size)
        return HeldBundle.of(7, BundleFrame(0, head.get("age_ms", 0), 0, b"", bytes(size), size), clear, 0.0)

    def test_what_is_held_comes_back_in_order_once(self) -> None:
        sessions = IncomingSessions()
        bundles = [self.held(i) for i in range(3)]
        for held in bundles:
            sessions.hold(held, 0.0)
        assert sessions.take_held(A.node_id, b"s") == bundles
        assert sessions.take_held(A.node_id, b"s") == []

    def test_an_offer_is_asked_for_once_a_second(self) -> None:
        sessions = IncomingSessions()
        asked = [sessions.hold(self.held(), at) for at in (0.0, 0.5, 0.99, 1.0, 1.5, 2.5)]
        assert asked == [True, False, False, True, False, True]
        assert sessions.hold(self.held(session=b"other"), 2.5)

    @pytest.mark.parametrize("size", [0, 100_000])
    def test_memory_is_bounded(self, size: int) -> None:
        sessions = IncomingSessions()
        evicted = 0
        for i in range(10_000):
            sessions.hold(self.held(size, i.to_bytes(16, "big")), 0.0)
            evicted += len(sessions.evict())
        held = [sessions.take_held(A.node_id, i.to_bytes(16, "big")) for i in range(10_000)]
        assert sum(len(frames) for frames in held) <= HELD_BYTES // max(size, 1024)
        assert held[-1] != []
        assert evicted + sum(len(frames) for frames in held) == 10_000

    def test_a_bundle_waits_no_longer_than_it_lives(self) -> None:
        assert self.held(lifetime_ms=60_000, age_ms=20_000).until == 40.0
        assert self.held(lifetime_ms=60_000, ephemeral=True).until == EPHEMERAL_HELD_S
        assert self.held(lifetime_ms=1_000, ephemeral=True).until == 1.0

    def test_what_need_not_wait_is_taken_out_and_counted_out(self) -> None:
        sessions = IncomingSessions()
        bundles = [self.held(1000, session, sequence) for session in (b"a", b"b") for sequence in (1, 2)]
        for held in bundles:
            sessions.hold(held, 0.0)
        assert sessions.take_held_where(lambda held: held.head.number.sequence == 1) == [bundles[0], bundles[2]]
        assert sessions.next_end == 60.0
        assert sessions.take_held_where(lambda held: held.key[1] == b"b") == [bundles[3]]
        assert sessions.take_held(A.node_id, b"a") == [bundles[1]]
        assert sessions.take_held_where(lambda _: True) == []
        assert sessions.next_end is None

    def test_what_was_taken_out_takes_no_room(self) -> None:
        sessions = IncomingSessions()
        for _ in range(HELD_BYTES // 100_000):
            for sequence in (1, 2):
                sessions.hold(self.held(100_000, sequence=sequence), 0.0)
            sessions.take_held_where(lambda held: held.head.number.sequence == 1)
            sessions.take_held(A.node_id, b"s")
        sessions.hold(self.held(100_000), 0.0)
        assert sessions.evict() == []

    def test_a_root_is_stored_with_its_first_bundle(self) -> None:
        sessions = IncomingSessions()
        session = DestinationSession(bytes(16), bytes(32))
        sessions.add(A.node_id, session, 5, stored=False)
        assert sessions.find(A.node_id, bytes(16)) is session
        assert [sessions.must_store(A.node_id, bytes(16)) for _ in range(2)] == [True, False]
        assert sessions.forget_before(6) == [(A.node_id, bytes(16))]
        assert sessions.find(A.node_id, bytes(16)) is None


def test_a_flow_has_a_reference_of_its_own() -> None:
    outbox, _ = made()
    drafts = [outbox.draft(pack(ephemeral=flag), None) for flag in (True, False)]
    assert len({draft.ref for draft in drafts}) == 2
    assert drafts[0].flow == Flow(A.node_id, NodeId(B.node_id), Priority.NORMAL, ephemeral=True)
