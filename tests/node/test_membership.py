"""What a node believes of other devices: their cards, where relays are, and who counts as a member."""

import attrs
import pytest

from meshd.node.membership import relay_fact
from meshd.node.requests import Remove
from meshd.store.ops import PutFact
from meshd.trust.card import Card, open_card, sign_card
from meshd.wire.frames import Cards, CardVersions, Frame, RosterHeads, Statements
from tests.node.harness import Device, World
from tests.trust.people import added, device, granted, removed


def card_of(one: Device) -> Card:
    card = one.node.membership.card(one.id)
    assert card is not None
    return card


def linked(count: int = 2) -> tuple[World, list[Device]]:
    world = World(count)
    for other in world.devices[1:]:
        world.connect(world.devices[0], other)
    return world, world.devices


def passed_on(world: World, one: Device, kind: type) -> list[Frame]:
    """Notes the frames of a kind that ``one`` sends from now on."""
    found: list[Frame] = []
    world.loses = lambda sender, _, frame: (sender is one and isinstance(frame, kind) and found.append(frame)) or False
    return found


class TestCards:
    @pytest.mark.parametrize("step", [-1, 0])
    def test_a_card_that_is_no_newer_is_no_news(self, step: int) -> None:
        world, (a, b, _) = linked(3)
        newest = attrs.evolve(card_of(b), version=9)
        world.inject(b, a, Cards((sign_card(b.identity, newest),)))
        assert a.node.membership.card(b.id) == newest
        told = passed_on(world, a, Cards)
        replayed = attrs.evolve(newest, version=9 + step, name="old")
        world.inject(b, a, Cards((sign_card(b.identity, replayed),)))
        assert a.node.membership.card(b.id) == newest
        assert (told, a.closed) == ([], [])

    def test_a_newer_card_is_passed_on_to_all_but_who_told_it(self) -> None:
        world, (a, b, c) = linked(3)
        told = passed_on(world, a, Cards)
        data = sign_card(b.identity, attrs.evolve(card_of(b), version=9))
        world.inject(b, a, Cards((data,)))
        assert told == [Cards((data,))]
        assert c.node.membership.card(b.id) == open_card(data, b.identity.public_key)
        world.flush()
        a.crash()
        assert a.node.membership.card(b.id) == open_card(data, b.identity.public_key)

    def test_nobody_tells_a_device_what_its_own_card_is(self) -> None:
        """Another life of it, from a copied disk, may have signed one with a higher version."""
        world, (a, b) = linked()
        own = a.node.membership.own_card
        world.inject(b, a, Cards((sign_card(a.identity, attrs.evolve(card_of(a), version=99)),)))
        assert a.node.membership.own_card == own
        assert a.closed == []

    def test_a_strangers_card_is_left_alone(self) -> None:
        world, (a, b) = linked()
        stranger = device(9)
        card = Card(node=stranger.node_id, version=1, name="d9")
        world.inject(b, a, Cards((sign_card(stranger, card),)))
        assert a.node.membership.card(stranger.node_id) is None
        assert a.closed == []

    def test_a_greeting_is_answered_with_newer_cards_alone(self) -> None:
        world, (a, b) = linked()
        told = passed_on(world, a, Cards)
        known = tuple((one.id, card_of(one).version) for one in (a, b))
        world.inject(b, a, CardVersions(known))
        assert told == []
        world.inject(b, a, CardVersions(known[1:]))
        assert told == [Cards((a.node.membership.own_card,))]
        world.inject(b, a, CardVersions(((a.id, card_of(a).version - 1), known[1])))
        assert len(told) == 2

    def test_many_statements_are_told_in_frames_that_others_take(self) -> None:
        world = World(2)
        a, b = world.devices
        roster = world.roster
        for number in range(10, 160):
            roster = added(roster, 0, number)
        a.database.apply([(0, [PutFact("statement", *fact) for fact in roster.facts()])], world.now_ms)
        a.crash()
        told = passed_on(world, a, Statements)
        world.connect(a, b)
        assert len(told) > 1
        assert all(isinstance(frame, Statements) and frame.statements for frame in told)
        assert dict(b.node.membership.require_roster().members) == dict(roster.members)


class TestMembers:
    def test_neither_the_removed_nor_oneself_are_among_the_others(self) -> None:
        _, (a, _, _) = linked(3)
        assert [member.name for member in a.node.membership.members()] == ["d1", "d2"]
        a.result(a.ask(Remove, device="d1"))
        assert [member.name for member in a.node.membership.members()] == ["d2"]

    def test_nothing_is_sealed_for_a_removed_device_or_a_relay(self) -> None:
        world = World(3, relays=(2,))
        a, b, c = world.devices
        world.connect(a, b)
        world.connect(a, c)
        membership = a.node.membership
        assert membership.recipient(b.id) is not None
        assert membership.card(c.id) is not None
        assert membership.recipient(c.id) is None
        a.result(a.ask(Remove, device="d1"))
        assert membership.card(b.id) is not None
        assert membership.recipient(b.id) is None

    def test_a_device_is_shut_out_once_it_is_removed(self) -> None:
        world, (a, b) = linked()
        assert not a.node.membership.is_shut_out
        assert not Device(world, 9, None, 1 << 26).node.membership.is_shut_out
        gone = removed(world.roster, device(0), 1)
        world.inject(a, b, Statements(gone.all_statements()))
        assert b.node.membership.is_shut_out


class TestRelays:
    def test_only_an_admins_word_counts_for_where_a_relay_is(self) -> None:
        world = World(4, relays=(3,))
        a, b, c, relay = world.devices
        for other in (b, c):
            world.connect(a, other)
        world.inject(b, a, Statements(granted(world.roster, 0, 1).all_statements()))
        for one, url in ((b, "wss://good.example:443"), (c, "wss://evil.example:443")):
            card = attrs.evolve(card_of(one), version=9, facts={relay_fact(relay.id): url})
            world.inject(one, a, Cards((sign_card(one.identity, card),)))
        assert a.node.membership.urls_of(relay.id) == ("wss://good.example:443",)


class TestQuestions:
    def test_only_questions_are_rationed(self) -> None:
        world, (a, b) = linked()
        cards = Cards((sign_card(b.identity, card_of(b)),))
        for _ in range(500):
            world.inject(b, a, cards, Statements(world.roster.all_statements()))
        assert a.closed == []
        for _ in range(500):
            if not a.closed:
                world.inject(b, a, RosterHeads(()), CardVersions(()))
        assert [close.code for close in a.closed] == ["P_FLOOD"]
