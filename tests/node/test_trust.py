"""Sessions, prekeys and epochs between nodes; who is in the mesh, and who is not any more."""

import attrs
import pytest

from meshd.ids import Epoch
from meshd.links.events import DialFailed, FramesReceived, LinkUp
from meshd.node.effects import Announce, LeavePeer, SeekPeer
from meshd.node.linking import MAX_LIVES_LOST
from meshd.node.membership import is_usable_prekey
from meshd.node.requests import Echo, Query, Remove
from meshd.store.ops import DeleteFact, PutFact
from meshd.transport.base import Address
from meshd.trust.card import sign_card
from meshd.wire.frames import BundleFrame, Cards, Kind, Routed, Statements
from tests.node.harness import DAY, Device, World
from tests.trust.people import added, device, granted, removed


def linked(count: int = 2) -> tuple[World, list[Device]]:
    world = World(count)
    for other in world.devices[1:]:
        world.connect(world.devices[0], other)
    return world, world.devices


def rolled_back(world: World, one: Device, lives: int = 3) -> None:
    """Start ``one`` from a disk whose epoch is ``lives`` starts old."""
    epoch = one.database.snapshot().facts["epoch"][b""]
    others = [world.device(peer) for peer in one.links]
    for _ in range(lives):
        one.crash()
        for other in others:
            world.connect(one, other)
    for other in others:
        world.disconnect(one, other)
    one.database.apply([(0, [PutFact("epoch", b"", epoch)])], world.now_ms)
    one.start()


def turned_away(one: Device, listener: Device, proof: tuple[bytes, ...]) -> None:
    """``one`` has dialed ``listener``, which sent it away with this proof."""
    address = Address("quic", "192.0.2.1", 1)
    one.inbox.append(DialFailed(listener.id, address, "P_REMOVED", "the peer refused: it was removed", proof))
    one.world.pump()


def added_by_an_admin(world: World) -> Device:
    """d2, which d1 has added, linked with d0; both have heard of that."""
    a, b = world.devices
    roster = added(granted(world.roster, 0, 1), 1, 2)
    c = Device(world, 2, roster, 1 << 26)
    world.devices.append(c)
    world.roster = roster
    world.connect(a, b)
    world.inject(b, a, Statements(roster.all_statements()))
    world.connect(c, a)
    return c


def is_kind(kind: int, frame: object) -> bool:
    return isinstance(frame, Routed) and frame.kind == kind


class TestSessions:
    def test_a_lost_offer_is_asked_for(self) -> None:
        world, (a, b) = linked()
        lost = iter([True])
        world.loses = lambda _, __, frame: is_kind(Kind.OFFER, frame) and next(lost, False)
        sent = a.send("d1", b"x", b"y", wait="delivered")
        assert a.result(sent)["state"] == "delivered"
        assert b.read().payloads == [b"x", b"y"]

    def test_an_offer_goes_with_a_session_until_its_first_receipt(self) -> None:
        world, (a, b) = linked()
        offers: list[object] = []
        world.loses = lambda _, __, frame: is_kind(Kind.OFFER, frame) and bool(offers.append(frame))
        a.send("d1", b"x")
        a.send("d1", b"y")
        assert len(offers) == 1
        world.disconnect(a, b)
        world.connect(a, b)
        a.send("d1", b"z")
        assert len(offers) == 1

    def test_an_offer_for_a_prekey_that_was_lost_is_wrapped_anew(self) -> None:
        world, (a, b) = linked()
        world.disconnect(a, b)
        lost = [DeleteFact("prekey", key) for key in b.database.snapshot().facts["prekey"]]
        b.database.apply([(0, lost)], world.now_ms)
        b.crash()
        a.send("d1", b"x")
        world.loses = lambda _, __, frame: isinstance(frame, Cards)
        world.connect(a, b)
        world.loses = lambda *_: False
        world.advance(30)
        assert (a.closed, b.closed) == ([], [])
        assert b.read().payloads == [b"x"]

    def test_mail_that_waited_through_rotations_of_the_prekey_arrives(self) -> None:
        world, (a, b) = linked()
        world.disconnect(a, b)
        a.send("d1", b"x", lifetime_ms=int(29 * DAY * 1000))
        for _ in range(3):
            world.sleep(8 * DAY)
        a.crash()
        b.crash()
        world.connect(a, b)
        assert b.read().payloads == [b"x"]

    def test_a_new_session_every_hour_and_roots_outlive_the_destinations_restart(self) -> None:
        world, (a, b) = linked()
        a.send("d1", b"0")
        world.advance(3_601)
        a.send("d1", b"1")
        heads = {frame.head[-40:-20] for frame in world.bundles}
        assert len(heads) == 2
        b.crash()
        world.connect(a, b)
        a.send("d1", b"2")
        assert b.read().payloads == [b"0", b"1", b"2"]

    @pytest.mark.parametrize("bad", [bytes(32), b"\x01" + bytes(31), b"short"])
    def test_a_prekey_of_low_order_is_no_prekey(self, bad: bytes) -> None:
        assert not is_usable_prekey(bad)

    def test_a_card_with_such_a_prekey_harms_nobody(self) -> None:
        world, (a, b) = linked()
        card = b.node.membership.card(b.id)
        assert card is not None
        bad = attrs.evolve(card, version=card.version + 1, prekeys=((card.prekeys[0][0], bytes(32)),))
        world.inject(b, a, Cards((sign_card(b.identity, bad),)))
        assert a.closed == []
        assert a.result(a.send("d1", b"x", wait="delivered"))["state"] == "delivered"


class TestEpochs:
    def test_an_old_disk_numbers_above_what_peers_remember(self) -> None:
        world, (a, b) = linked()
        a.send("d1", b"0")
        rolled_back(world, a)
        before = a.node.epoch
        world.connect(a, b)
        assert a.node.epoch > before
        assert a.result(a.send("d1", b"1", wait="delivered"))["state"] == "delivered"
        assert b.read().payloads == [b"0", b"1"]

    def test_receipts_after_that_are_newer_than_all_before(self) -> None:
        world, (a, b) = linked()
        a.send("d1", b"0", wait="delivered")
        rolled_back(world, b)
        world.connect(a, b)
        assert a.result(a.send("d1", b"1", wait="delivered"))["state"] == "delivered"

    def test_nothing_is_numbered_before_the_higher_epoch_is_on_disk(self) -> None:
        world, (a, b) = linked()
        rolled_back(world, a)
        a.is_store_held = True
        world.connect(a, b)
        a.send("d1", b"x")
        assert not [frame for frame in world.bundles if isinstance(frame, BundleFrame)]
        a.is_store_held = False
        world.pump()
        assert b.read().payloads == [b"x"]

    @pytest.mark.parametrize("seed", range(6))
    def test_two_peers_that_remember_make_it_rise_once(self, seed: int) -> None:
        world, (a, b, c) = linked(3)
        rolled_back(world, a)
        world.rng.seed(seed)
        a.is_store_held = True
        world.connect(a, b)
        world.connect(a, c)
        epochs = [a.node.epoch]
        while a.store:
            a.run_store()
            a.turn()
            epochs.append(a.node.epoch)
        assert epochs == sorted(epochs)
        assert len(set(epochs)) == 2

    def test_a_peer_can_not_wear_out_the_counter(self) -> None:
        world, (a, b) = linked()
        before = a.node.epoch
        claimed = Epoch(2**63 - 1, bytes(8))
        a.inbox.append(LinkUp(99, b.id, "memory", Address("memory", "d1", 1), False, b.node.epoch, claimed))
        world.pump()
        assert a.node.epoch.counter == before.counter + MAX_LIVES_LOST + 1

    def test_an_old_disk_is_let_in_again_after_a_peer_had_made_the_counter_rise(self) -> None:
        world, (a, b, c) = linked(3)
        old = a.image()
        for link in (98, 99):
            claimed = Epoch(a.node.epoch.counter + MAX_LIVES_LOST, bytes(8))
            a.inbox.append(LinkUp(link, c.id, "memory", Address("memory", "d2", 1), False, c.node.epoch, claimed))
            world.pump()
        assert a.result(a.send("d1", b"0", wait="delivered"))["state"] == "delivered"
        world.disconnect(a, b)
        world.connect(a, b)
        world.advance(5)  # its routes are told
        risen = b.node.membership.seen_epochs[a.id]
        a.crash(disk=old)
        world.connect(a, b)
        world.advance(5)
        assert a.node.epoch > risen
        assert a.result(a.send("d1", b"1", wait="delivered"))["state"] == "delivered"
        assert b.result(b.send("d0", b"2", wait="delivered"))["state"] == "delivered"

    def test_it_is_so_link_by_link_when_nobody_remembers_its_routes(self) -> None:
        world, (a, b) = linked()
        risen = Epoch(3 * MAX_LIVES_LOST, bytes(8))
        b.node.membership.seen_epochs[a.id] = risen
        for _ in range(4):
            world.disconnect(a, b)
            world.connect(a, b)
        assert a.node.epoch > risen
        assert a.result(a.send("d1", b"x", wait="delivered"))["state"] == "delivered"

    def test_bundles_of_an_epoch_that_is_not_newer_are_refused_as_stale_and_hold_nothing_up(self) -> None:
        world, (a, b) = linked()
        epoch = a.database.snapshot().facts["epoch"][b""]
        for i in range(3):
            a.crash()
            world.connect(a, b)
            a.send("d1", b"%d" % i)
        a.database.apply([(0, [PutFact("epoch", b"", epoch)])], world.now_ms)
        world.disconnect(a, b)
        a.start()
        stale = a.send("d1", b"copy", wait="delivered")
        world.connect(a, b)
        assert a.code(stale) == "E_REFUSED"
        fresh = a.send("d1", b"new", wait="delivered")
        assert a.result(fresh)["state"] == "delivered"
        assert b.read().payloads == [b"0", b"1", b"2", b"new"]


class TestMembership:
    def test_statements_and_cards_spread_over_others(self) -> None:
        world = World(3)
        a, b, c = world.devices
        world.connect(a, b)
        world.connect(b, c)
        assert c.node.membership.card(a.id) is not None
        roster = added(world.roster, 0, 9)
        world.inject(a, b, Statements(roster.all_statements()))
        assert [one.node.membership.public_key(device(9).node_id) is not None for one in (b, c)] == [True] * 2

    def test_a_device_whose_removal_turns_out_to_be_void_gets_mail_again(self) -> None:
        world, (a, b, c) = linked(3)
        roster = granted(world.roster, 0, 1)
        shut_out = removed(roster, device(1), 2)
        world.inject(c, a, Statements(shut_out.all_statements()))
        assert a.code(a.send("d2", b"0")) == "E_UNKNOWN_DEVICE"
        assert c.id not in a.links
        world.inject(b, a, Statements(removed(shut_out, device(0), 1, honoured=0).all_statements()))
        world.connect(a, c)
        assert a.result(a.send("d2", b"1", wait="delivered"))["state"] == "delivered"

    def test_a_removed_device_is_shut_out_by_all_who_hear_of_it(self) -> None:
        world, (a, b, c) = linked(3)
        world.connect(b, c)
        assert a.result(a.ask(Remove, device="d2"))["name"] == "d2"
        world.advance(1)
        assert c.id not in a.links
        assert c.id not in b.links
        assert LeavePeer(c.id) in b.other
        assert a.code(a.send("d2", b"y")) == "E_UNKNOWN_DEVICE"
        assert Announce(None) in c.other
        world.connect(c, b)
        assert c.id not in b.links

    def test_mail_for_a_removed_device_is_refused(self) -> None:
        world = World(3)
        a, b, _ = world.devices
        world.connect(a, b)
        sent = b.send("d2", b"x", wait="delivered")
        a.ask(Remove, device="d2")
        world.advance(1)
        assert b.code(sent) == "E_REFUSED"
        assert b.query("queue") == []

    def test_a_device_removed_while_it_was_away_learns_it_where_it_is_turned_away(self) -> None:
        world = World(3)
        a, b, c = world.devices
        world.connect(b, c)  # whose mail waits at b, for want of a
        waits = c.send("d0", b"x", wait="delivered")
        roster = removed(world.roster, device(0), 2)
        turned_away(c, a, roster.removal_of(c.id))
        assert Announce(None) in c.other
        assert not [effect for effect in c.other if isinstance(effect, LeavePeer)]
        assert c.code(waits) == "E_REFUSED"
        assert c.query("queue") == []
        assert c.code(c.send("d0", b"y")) == "E_REMOVED_DEVICE"
        c.crash()
        c.start()
        world.pump()
        assert c.code(c.send("d0", b"z")) == "E_REMOVED_DEVICE"
        assert c.other.index(Announce(None)) > c.other.index(Announce(bytes(roster.mesh_id)))
        assert {effect.peer for effect in c.other if isinstance(effect, SeekPeer)} == {a.id, b.id}

    def test_a_removal_that_nobody_signed_changes_nothing(self) -> None:
        world, (a, _, c) = linked(3)
        [statement] = removed(world.roster, device(0), 2).removal_of(c.id)
        turned_away(c, a, (statement[:-1] + bytes((statement[-1] ^ 1,)),))
        turned_away(c, a, (b"none",))
        assert c.result(c.send("d0", b"x", wait="delivered"))["state"] == "delivered"

    def test_a_device_whose_own_removal_was_void_is_in_the_mesh_again(self) -> None:
        world = World(4)
        a, b, c, d = world.devices
        roster = granted(world.roster, 0, 1)
        shut_out = removed(roster, device(1), 2)
        turned_away(c, b, shut_out.removal_of(c.id))
        assert c.code(c.send("d3", b"x")) == "E_REMOVED_DEVICE"
        c.other.clear()
        back = removed(shut_out, device(0), 1, honoured=0)
        turned_away(c, a, back.removal_of(b.id))
        assert {type(effect) for effect in c.other} >= {Announce, SeekPeer}
        waits = c.send("d3", b"y", wait="delivered")
        world.connect(c, d)
        assert c.result(waits)["state"] == "delivered"

    def test_who_was_added_by_an_admin_that_was_cut_before_is_shut_out(self) -> None:
        world = World(2)
        a, b = world.devices
        c = added_by_an_admin(world)
        assert a.result(a.send("d2", b"x", wait="delivered"))["state"] == "delivered"
        world.inject(b, a, Statements(removed(world.roster, device(0), 1, honoured=0).all_statements()))
        assert c.id not in a.links
        assert LeavePeer(c.id) in a.other
        assert a.code(a.send("d2", b"y")) == "E_UNKNOWN_DEVICE"

    def test_a_device_whose_adding_is_void_asks_on_and_keeps_its_mail_until_it_is_added_again(self) -> None:
        world = World(2)
        a, _ = world.devices
        c = added_by_an_admin(world)
        world.disconnect(c, a)
        waits = c.send("d0", b"x", wait="delivered")
        cut = removed(world.roster, device(0), 1, honoured=0)
        turned_away(c, a, cut.removal_of(c.id, world.roster.chain_for(c.id)[1:]))
        assert c.code(c.send("d0", b"y")) == "E_REMOVED_DEVICE"
        assert LeavePeer(a.id) not in c.other
        assert c.replies(waits)[1:] == []
        c.crash()
        assert c.query("status")["removed"]
        assert a.id in {effect.peer for effect in c.other if isinstance(effect, SeekPeer)}
        again = added(cut, 0, 2)
        a.inbox.append(FramesReceived(a.links[device(1).node_id], (Statements(again.all_statements()),)))
        world.pump()
        world.connect(c, a)
        assert a.read().payloads == [b"x"]
        assert c.result(c.send("d0", b"z", wait="delivered"))["state"] == "delivered"

    def test_what_lacks_a_part_of_a_cut_admins_statements_learns_it_and_loses_nothing(self) -> None:
        world = World(2)
        a, _ = world.devices
        c = added_by_an_admin(world)
        later = added(world.roster, 1, 3)
        cut = removed(later, device(0), 1)  # honours all
        lacking = [data for data in cut.all_statements() if data not in later.all_statements()]
        waits = c.send("d1", b"x", wait="delivered")
        world.inject(a, c, Statements(tuple(lacking)))
        assert c.node.membership.is_shut_out
        world.inject(a, c, Statements(later.all_statements()))
        assert not c.node.membership.is_shut_out
        assert c.result(c.send("d0", b"y", wait="delivered"))["state"] == "delivered"
        assert c.replies(waits)[1:] == []

    def test_a_link_is_kept_while_what_was_said_before_a_cut_may_still_come_over_it(self) -> None:
        world = World(2)
        a, b = world.devices
        c = added_by_an_admin(world)
        world.disconnect(a, b)
        later = added(world.roster, 1, 3)
        honoured = removed(later, device(0), 1)  # all of it
        [cut] = set(honoured.all_statements()) - set(later.all_statements())
        world.inject(c, a, Statements((cut,)))
        assert a.node.membership.public_key(c.id) is None
        assert c.id in a.links
        world.inject(c, a, Statements(later.all_statements()))
        assert a.result(a.send("d2", b"x", wait="delivered"))["state"] == "delivered"

    def test_it_is_closed_when_the_rest_shows_that_the_device_was_never_let_in(self) -> None:
        world = World(2)
        a, b = world.devices
        roster = added(added(granted(world.roster, 0, 1), 1, 3), 1, 4)
        c = added_by_an_admin(world)  # by another first statement of d1 than the one that d0 honours
        [cut] = set(removed(roster, device(0), 1).all_statements()) - set(roster.all_statements())
        world.disconnect(a, b)
        world.inject(c, a, Statements((cut,)))
        assert c.id in a.links
        world.inject(c, a, Statements(roster.all_statements()))
        assert c.id not in a.links

    def test_only_an_admin_removes(self) -> None:
        _, (_, b, _) = linked(3)
        assert b.code(b.ask(Remove, device="d2")) == "E_NOT_ADMIN"

    def test_a_card_that_somebody_else_made_is_no_card(self) -> None:
        world, (a, b, c) = linked(3)
        card = c.node.membership.card(c.id)
        assert card is not None
        world.inject(b, a, Cards((sign_card(c.identity, attrs.evolve(card, version=9))[:-1] + b"\x00",)))
        assert [close.code for close in a.closed] == ["P_AUTH"]


class TestEcho:
    def test_round_trips_are_counted_and_named(self) -> None:
        world, (a, _) = linked()
        request = a.ask(Echo, destination="d1", count=3, timeout_s=2.0)
        world.advance(2)
        answer = a.result(request)
        assert (answer["sent"], answer["received"], answer["path"]) == (3, 3, ["d0", "d1"])

    def test_lost_ones_are_counted_too(self) -> None:
        world, (a, _) = linked()
        world.loses = lambda *_: True
        request = a.ask(Echo, destination="d1", count=2, timeout_s=0.5)
        world.advance(3)
        assert a.result(request) == {"sent": 2, "received": 0, "rtt_ms": None, "path": []}

    def test_to_oneself_and_without_a_path(self) -> None:
        world = World()
        a, _ = world.devices
        assert a.result(a.ask(Echo, destination="d0", count=1, timeout_s=1.0))["received"] == 1
        assert a.code(a.ask(Echo, destination="d1", count=1, timeout_s=1.0)) == "E_UNREACHABLE"
        assert a.code(a.ask(Echo, destination="d1", count=0, timeout_s=1.0)) == "E_USAGE"


class TestViews:
    def test_each_is_plain(self) -> None:
        world, (a, _, _) = linked(3)
        world.advance(1)
        assert a.query("status")["peers_up"] == 2
        assert [member["name"] for member in a.query("members")] == ["d0", "d1", "d2"]
        assert {peer["state"] for peer in a.query("peers")} == {"up"}
        assert {route["name"] for route in a.query("routes")} >= {"d1", "d2"}

    def test_unknown_ones_are_refused(self) -> None:
        _, (a, _) = linked()
        assert a.code(a.ask(Query, view="nothing")) == "E_UNSUPPORTED"
        assert a.code(a.ask(Query, view="trace", argument="?")) == "E_USAGE"
