"""Founding, inviting and joining, from one node's requests to another's: who is let in, and who is not."""

import hashlib
from typing import Any

import attrs
import pytest

from meshd.errors import MeshdError
from meshd.ids import Epoch
from meshd.links.events import LinkUp
from meshd.node.admission import AdmitDevice, JoinEnded
from meshd.node.clients import Listening
from meshd.node.effects import AdmitAnswer, Announce, StartJoin
from meshd.node.requests import InitMesh, Invite, Join, Remove
from meshd.transport.base import Address
from meshd.trust.card import CardAddress
from meshd.trust.identity import Identity
from meshd.trust.invite import InviteCode, InviterExchange, Joined, JoinerExchange
from meshd.trust.roster import recovery_seed
from meshd.wire.frames import Statements
from tests.node.harness import DAY, Device, World
from tests.trust.people import added, device, granted, removed

REACHED = CardAddress("websocket", "192.0.2.1", 7843)


def without_mesh(world: World, number: int) -> Device:
    """A device that belongs to no mesh yet."""
    found = Device(world, number, None, 1 << 26)
    world.devices.append(found)
    world.pump()
    return found


def listening(one: Device, *addresses: CardAddress) -> None:
    one.inbox.append(Listening((), addresses or (REACHED,)))
    one.world.pump()


def invited(one: Device, role: str = "member", expires_s: int = 600) -> InviteCode:
    listening(one)
    code = one.result(one.ask(Invite, expires_s=expires_s, role=role))["code"]
    return InviteCode.parse(code)


def hash_of(identity: Identity) -> bytes:
    return hashlib.sha256(identity.certificate).digest()


def answers(one: Device) -> list[AdmitAnswer]:
    return [effect for effect in one.other if isinstance(effect, AdmitAnswer)]


class Meeting:
    """A joiner and the inviting node's side of one connection, as its doorkeeper holds it."""

    def __init__(self, inviter: Device, code: InviteCode, joiner: Identity, name: str = "laptop") -> None:
        self.inviter = inviter
        self.joiner = JoinerExchange(joiner, code, name, code.certificate_hash, inviter.world.rng)
        self.exchange = InviterExchange(
            inviter.identity,
            inviter.node.admissions.invitations,
            inviter.node.membership.require_roster(),
            hash_of(inviter.identity),
            inviter.world.now,
            "192.0.2.7",
            inviter.world.rng,
        )
        (challenge,) = self.exchange.receive(self.joiner.start())
        (proof,) = self.joiner.receive(challenge)
        self.exchange.receive(proof)

    def asks(self, ticket: int = 1) -> None:
        """The exchange has proven the code: the node is asked."""
        assert self.exchange.admission is not None
        self.inviter.inbox.append(AdmitDevice(ticket, self.exchange.admission))
        self.inviter.world.pump()

    def ends(self, ticket: int = 1) -> Joined:
        """What the joiner has when it was told all."""
        [answer] = [answer for answer in answers(self.inviter) if answer.ticket == ticket]
        assert answer.error is None, answer.error
        for frame in self.exchange.admitted(answer.genesis, answer.statements, answer.cards):
            self.joiner.receive(frame)
        assert self.joiner.joined is not None
        return self.joiner.joined


class TestFounding:
    def test_a_founder_is_admin_and_knows_the_recovery_words(self) -> None:
        world = World(0)
        one = without_mesh(world, 5)
        found = one.result(one.ask(InitMesh, name="home"))
        roster = one.node.membership.require_roster()
        assert (found["mesh"]["name"], found["device"]["name"]) == ("home", "d5")
        assert roster.is_admin(one.id)
        assert Identity.from_seed(recovery_seed(found["recovery_words"])).node_id == roster.recovery_id
        assert Announce(bytes(roster.mesh_id)) in one.other
        one.crash()
        assert one.node.membership.require_roster().genesis == roster.genesis

    def test_it_is_told_once_all_is_on_disk(self) -> None:
        world = World(0)
        one = without_mesh(world, 5)
        one.is_store_held = True
        request = one.ask(InitMesh, name="home")
        assert one.replies(request) == []
        one.is_store_held = False
        world.pump()
        assert one.result(request)

    @pytest.mark.parametrize("name", ["", " home", "home ", "ho\nme", "ho\x1bme", "x" * 64])
    def test_unfit_names_are_refused(self, name: str) -> None:
        one = without_mesh(World(0), 5)
        assert one.code(one.ask(InitMesh, name=name)) == "E_USAGE"
        assert one.node.membership.roster is None

    @pytest.mark.parametrize("name", ["x", "our home", "x" * 63])
    def test_fit_names_are_taken(self, name: str) -> None:
        one = without_mesh(World(0), 5)
        assert one.result(one.ask(InitMesh, name=name))["mesh"]["name"] == name

    def test_who_has_a_mesh_neither_founds_nor_joins_another(self) -> None:
        world = World(1)
        [one] = world.devices
        genesis = one.node.membership.require_roster().genesis
        code = str(invited(one))
        assert one.code(one.ask(InitMesh, name="other")) == "E_ALREADY_IN_MESH"
        assert one.code(one.ask(Join, code=code, name=None)) == "E_ALREADY_IN_MESH"
        assert one.node.membership.require_roster().genesis == genesis

    def test_who_was_removed_is_told_so(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.result(a.ask(Remove, device="d1"))
        assert b.code(b.ask(Join, code=str(invited(a)), name=None)) == "E_REMOVED_DEVICE"
        assert b.code(b.ask(InitMesh, name="other")) == "E_REMOVED_DEVICE"


class TestInviting:
    def test_a_code_is_for_this_mesh_and_device_and_outlives_a_crash(self) -> None:
        world = World(1)
        [one] = world.devices
        code = invited(one)
        assert code.genesis_hash == world.roster.mesh_id
        assert code.certificate_hash == hash_of(one.identity)
        assert code.addresses == (REACHED,)
        one.crash()
        found = one.node.admissions.invitations.find(code.id)
        assert found is not None
        assert (found.key, found.role, found.expires_s) == (code.key, "member", world.now + 600)

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ({"expires_s": 0}, "E_USAGE"),
            ({"expires_s": -1}, "E_USAGE"),
            ({"expires_s": int(7 * DAY) + 1}, "E_USAGE"),
            ({"role": "founder"}, "E_USAGE"),
            ({"role": ""}, "E_USAGE"),
        ],
    )
    def test_what_no_code_is_made_for(self, arguments: dict[str, Any], code: str) -> None:
        [one] = World(1).devices
        listening(one)
        assert one.code(one.ask(Invite, **{"expires_s": 600, "role": "member", **arguments})) == code

    @pytest.mark.parametrize("expires_s", [1, int(7 * DAY)])
    @pytest.mark.parametrize("role", ["member", "relay", "admin"])
    def test_what_one_is_made_for(self, role: str, expires_s: int) -> None:
        [one] = World(1).devices
        code = invited(one, role, expires_s)
        found = one.node.admissions.invitations.find(code.id)
        assert found is not None
        assert (found.role, found.expires_s) == (role, one.world.now + expires_s)

    def test_only_an_admin_that_others_can_reach_invites(self) -> None:
        world = World(2)
        a, b = world.devices
        stranger = without_mesh(world, 5)
        for one, code in ((a, "E_JOIN_UNREACHABLE"), (b, "E_NOT_ADMIN"), (stranger, "E_NO_MESH")):
            if one is not a:
                listening(one)
            assert one.code(one.ask(Invite, expires_s=600, role="member")) == code

    def test_a_code_is_shown_once_it_is_on_disk(self) -> None:
        [one] = World(1).devices
        listening(one)
        one.is_store_held = True
        request = one.ask(Invite, expires_s=600, role="member")
        assert one.replies(request) == []


class TestAdmitting:
    @pytest.mark.parametrize("role", ["member", "relay", "admin"])
    def test_a_device_comes_in_and_the_others_hear_of_it(self, role: str) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        meeting = Meeting(a, invited(a, role), device(9))
        meeting.asks()
        joined = meeting.ends()
        assert (joined.name, joined.roster.members[device(9).node_id].role) == ("laptop", role)
        for one in (a, b):
            assert one.node.membership.public_key(device(9).node_id) == device(9).public_key
        assert a.node.membership.own_card in joined.cards

    def test_it_is_told_so_once_statement_and_used_code_are_on_disk_together(self) -> None:
        world = World(1)
        [a] = world.devices
        code = invited(a)
        meeting = Meeting(a, code, device(9))
        a.is_store_held = True
        meeting.asks()
        assert answers(a) == []
        a.crash()  # before anything was written
        a.is_store_held = False
        assert a.node.membership.public_key(device(9).node_id) is None
        found = a.node.admissions.invitations.find(code.id)
        assert found is not None
        assert found.used_by is None
        meeting = Meeting(a, code, device(9))
        meeting.asks()
        a.crash()  # after
        assert a.node.membership.public_key(device(9).node_id) is not None
        found = a.node.admissions.invitations.find(code.id)
        assert found is not None
        assert found.used_by == device(9).public_key

    def test_of_two_devices_with_one_code_the_first_is_in(self) -> None:
        world = World(1)
        [a] = world.devices
        code = invited(a)
        first, second = (Meeting(a, code, device(number)) for number in (8, 9))
        first.asks(1)
        second.asks(2)
        assert [(answer.ticket, answer.error and answer.error.code) for answer in answers(a)] == [
            (1, None),
            (2, "E_CODE_USED"),
        ]
        assert answers(a)[1].statements == answers(a)[1].cards == ()
        assert a.node.membership.public_key(device(9).node_id) is None
        assert first.ends().name == "laptop"

    def test_a_code_that_expires_while_it_is_proven_lets_nobody_in(self) -> None:
        world = World(1)
        [a] = world.devices
        meeting = Meeting(a, invited(a), device(9))
        world.now += 600
        meeting.asks()
        assert [answer.error and answer.error.code for answer in answers(a)] == ["E_CODE_EXPIRED"]
        assert a.node.membership.public_key(device(9).node_id) is None

    def test_the_same_device_over_two_connections_comes_in_once(self) -> None:
        world = World(1)
        [a] = world.devices
        code = invited(a)
        meetings = [Meeting(a, code, device(9)) for _ in range(2)]
        for ticket, meeting in enumerate(meetings):
            meeting.asks(ticket)
        statements = a.node.membership.require_roster().all_statements()
        assert len(statements) == 1
        assert meetings[1].ends().roster.all_statements() == statements

    def test_a_member_with_another_code_is_told_all_again_and_leaves_that_code_open(self) -> None:
        world = World(1)
        [a] = world.devices
        Meeting(a, invited(a), device(9)).asks(1)
        code = invited(a)
        again = Meeting(a, code, device(9), "renamed")
        again.asks(2)
        assert again.ends(2).name == "laptop"
        assert len(a.node.membership.require_roster().all_statements()) == 1
        other = Meeting(a, code, device(8), "tablet")
        other.asks(3)
        assert other.ends(3).name == "tablet"

    def test_a_name_that_was_taken_meanwhile_gets_a_number(self) -> None:
        world = World(1)
        [a] = world.devices
        meetings = [Meeting(a, invited(a), device(number)) for number in (8, 9)]
        names = []
        for ticket, meeting in enumerate(meetings):
            meeting.asks(ticket)
            names.append(meeting.ends(ticket).name)
        assert names == ["laptop", "laptop-2"]

    def test_who_is_removed_while_it_proves_its_code_stays_out(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        meeting = Meeting(a, invited(a), device(9))
        roster = removed(added(granted(world.roster, 0, 1), 1, 9), device(1), 9)
        world.inject(b, a, Statements(roster.all_statements()))
        meeting.asks()
        assert [answer.error and answer.error.code for answer in answers(a)] == ["E_REMOVED_DEVICE"]
        assert a.node.membership.public_key(device(9).node_id) is None

    @pytest.mark.parametrize("is_known", [True, False])
    def test_who_is_removed_between_two_tries_is_told_nothing_of_the_mesh(self, is_known: bool) -> None:
        """Also when the second began before it came in by the first."""
        world = World(1)
        [a] = world.devices
        code = invited(a)
        first, second = Meeting(a, code, device(9)), Meeting(a, code, device(9))
        first.asks()
        if is_known:
            second = Meeting(a, code, device(9))
        a.result(a.ask(Remove, device="laptop"))
        second.asks(2)
        answer = answers(a)[-1]
        assert answer.error is not None
        assert answer.error.code == "E_REMOVED_DEVICE"
        assert (answer.genesis, answer.statements, answer.cards) == (b"", (), ())

    def test_an_admin_that_is_cut_meanwhile_lets_nobody_in(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        world.inject(a, b, Statements(granted(world.roster, 0, 1).all_statements()))
        world.inject(b, a, Statements(granted(world.roster, 0, 1).all_statements()))
        meeting = Meeting(b, invited(b), device(9))
        a.result(a.ask(Remove, device="d1"))
        meeting.asks()
        assert [answer.error and answer.error.code for answer in answers(b)] == ["E_NOT_ADMIN"]


class TestJoining:
    def begun(self) -> tuple[World, Device, int, int]:
        """d9 has asked to join; the number of its request, and the ticket of what it tries."""
        world = World(1)
        code = str(invited(world.devices[0]))
        one = without_mesh(world, 9)
        request = one.ask(Join, code=code, name=None)
        [start] = [effect for effect in one.other if isinstance(effect, StartJoin)]
        assert (start.code, start.name) == (code, "d9")
        return world, one, request, start.ticket

    def joined(self, world: World, *cards: bytes) -> Joined:
        return Joined(added(world.roster, 0, 9), cards, world.devices[0].id, "d9")

    def test_who_joined_is_in_the_mesh_for_good(self) -> None:
        world, one, request, ticket = self.begun()
        card = world.devices[0].node.membership.own_card
        assert card is not None
        one.is_store_held = True
        one.inbox.append(JoinEnded(ticket, attrs.evolve(self.joined(world, card), name="renamed"), None))
        world.pump()
        assert one.replies(request) == []  # nothing is on disk
        one.is_store_held = False
        world.pump()
        assert one.result(request)["mesh"]["name"] == "home"
        assert Announce(bytes(world.roster.mesh_id)) in one.other
        assert one.node.membership.name == "renamed"
        one.crash()
        membership = one.node.membership
        assert membership.require_roster().mesh_id == world.roster.mesh_id
        assert membership.own_card is not None
        assert membership.name == "renamed"

    @pytest.mark.parametrize("bad", [b"", b"no card", "forged"])
    def test_a_card_that_is_none_costs_that_card_alone(self, bad: bytes | str) -> None:
        world, one, request, ticket = self.begun()
        card = world.devices[0].node.membership.own_card
        assert card is not None
        refused = bad if isinstance(bad, bytes) else card[:-1] + bytes([card[-1] ^ 1])
        one.inbox.append(JoinEnded(ticket, self.joined(world, refused, card), None))
        world.pump()
        assert one.result(request)["device"]["name"] == "d9"
        assert "card refused" in one.events()
        assert one.node.membership.card(world.devices[0].id) is not None
        assert one.node.membership.own_card is not None
        assert Announce(bytes(world.roster.mesh_id)) in one.other

    @pytest.mark.parametrize("error", [MeshdError("E_CODE_WRONG", "no"), None])
    def test_a_join_that_failed_says_why_and_another_may_begin(self, error: MeshdError | None) -> None:
        world, one, request, ticket = self.begun()
        one.inbox.append(JoinEnded(ticket, None, error))
        world.pump()
        assert one.code(request) == (error.code if error else "E_INTERNAL")
        assert one.node.membership.roster is None
        again = one.ask(Join, code=str(invited(world.devices[0])), name="other")
        assert one.replies(again) == []
        assert [effect.name for effect in one.other if isinstance(effect, StartJoin)] == ["d9", "other"]

    def test_while_a_join_is_under_way_no_other_begins_and_no_mesh_is_founded(self) -> None:
        world, one, request, ticket = self.begun()
        assert one.code(one.ask(Join, code=str(invited(world.devices[0])), name=None)) == "E_BUSY"
        assert one.code(one.ask(InitMesh, name="other")) == "E_BUSY"
        one.inbox.append(JoinEnded(ticket, self.joined(world), None))
        world.pump()
        assert one.result(request)["mesh"]["name"] == "home"

    @pytest.mark.parametrize(("name", "code"), [("no name", "E_USAGE"), ("-x", "E_USAGE"), ("x" * 64, "E_USAGE")])
    def test_an_unfit_name_or_code_is_refused_before_anything_is_tried(self, name: str, code: str) -> None:
        world = World(1)
        good = str(invited(world.devices[0]))
        one = without_mesh(world, 9)
        assert one.code(one.ask(Join, code=good, name=name)) == code
        assert one.code(one.ask(Join, code=good[:-1], name="fine")) == "E_CODE_MALFORMED"
        assert not [effect for effect in one.other if isinstance(effect, StartJoin)]


class TestLinks:
    """What a link's handshake has found out is judged again by what the node knows when it is up."""

    def up(self, one: Device, peer: int, chain: tuple[bytes, ...] = ()) -> None:
        remote = Address("memory", f"d{peer}", 1)
        one.inbox.append(
            LinkUp(77, device(peer).node_id, "memory", remote, False, Epoch(1, bytes(8)), None, chain=chain)
        )
        one.world.pump()

    def test_a_device_that_was_removed_meanwhile_gets_no_link(self) -> None:
        world = World(3)
        a, _, c = world.devices
        a.result(a.ask(Remove, device="d2"))
        self.up(a, 2)
        assert [(close.link, close.code) for close in a.closed] == [(77, "P_NOT_MEMBER")]
        assert a.node.peers.link_to(c.id) is None

    def test_a_chain_that_the_handshake_verified_is_learnt_and_kept(self) -> None:
        world = World(1)
        [a] = world.devices
        roster = added(world.roster, 0, 9)
        self.up(a, 9, roster.chain_for(device(9).node_id)[1:])
        assert a.closed == []
        assert a.node.peers.link_to(device(9).node_id) is not None
        a.crash()
        assert a.node.membership.public_key(device(9).node_id) == device(9).public_key

    @pytest.mark.parametrize("chain", [(), (b"no statement",)])
    def test_a_stranger_gets_no_link_whatever_it_brings(self, chain: tuple[bytes, ...]) -> None:
        [a] = World(1).devices
        self.up(a, 9, chain)
        assert [close.link for close in a.closed] == [77]
        assert a.node.peers.link_to(device(9).node_id) is None
