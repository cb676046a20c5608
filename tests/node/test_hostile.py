"""A member, a hop or an app that does its worst: what it may break is its own, and nobody else's."""

import hashlib

from meshd.delivery.arrivals import MAX_SERVICES, FlowArrivals
from meshd.delivery.outbox import flow_key
from meshd.delivery.sessions import MAX_SESSIONS
from meshd.ids import Epoch, Number, Priority
from meshd.links.events import FramesReceived, LinkUp
from meshd.node.mailboxes import DEAD_LETTER_BYTES
from meshd.node.peers import Peers
from meshd.node.requests import Acknowledge, Failure
from meshd.store.ops import PutFact
from meshd.transport.base import Address
from meshd.trust.seal import SourceSession, sign_need_offer
from meshd.trust.statement import Grant, Remove, sign_statement
from meshd.wire.bundle import bundle_id, decode_head
from meshd.wire.codec import decode, encode
from meshd.wire.frames import MAX_HEADS, MAX_HOPS, Ack, BundleFrame, Frame, Kind, RosterHeads, Routed
from tests.node.harness import Device, World
from tests.trust.people import device, granted, mesh_of


def linked_anew(world: World, one: Device, other: Device) -> None:
    """A second link between the two, which takes the place of the first."""
    world._links += 1
    number = world._links
    for mine, its in ((one, other), (other, one)):
        mine.links[its.id] = number
        world._ends[mine.id, number] = (its, number)
        remote = Address("memory", its.name, 1)
        mine.inbox.append(LinkUp(number, its.id, "memory", remote, mine is one, its.node.epoch, None))
    world.pump()


class TestNotices:
    def test_a_question_for_the_session_of_another_is_not_answered(self) -> None:
        """Every hop sees the names of sessions."""
        world = World(3)
        a, b, other = world.devices
        world.connect(a, b)
        world.connect(a, other)
        a.send("d1", b"x")
        session = decode_head(world.bundles[-1].head).session
        card = other.node.membership.own_card
        assert card is not None
        body = sign_need_offer(other.identity, a.id, session, card)
        said: list[Frame] = []
        world.loses = lambda sender, receiver, frame: (
            (sender is a and receiver is other and said.append(frame)) or False
        )
        world.inject(other, a, Routed(other.id, a.id, MAX_HOPS, Kind.NEED_OFFER, body))
        assert {frame.kind for frame in said if isinstance(frame, Routed)} == {Kind.FLOOR}  # of the asker's own flows
        assert a.result(a.send("d1", b"y", wait="delivered"))["state"] == "delivered"

    def test_one_source_has_a_bounded_number_of_sessions(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.send("d1", b"before")
        card = b.node.membership.card(b.id)
        assert card is not None
        for _ in range(MAX_SESSIONS + 5):
            offer = SourceSession.create(a.identity, b.identity.public_key, card, world.rng).offer
            frame = Routed(a.id, b.id, MAX_HOPS, Kind.OFFER, offer)
            b.inbox.append(FramesReceived(b.links[a.id], (frame,)))
        world.pump()
        assert len(b.node._mail.arriving.opening._sessions._sessions) == MAX_SESSIONS
        assert a.result(a.send("d1", b"after", wait="delivered"))["state"] == "delivered"
        b.crash()
        world.connect(a, b)
        a.send("d1", b"and on")
        assert b.read().payloads == [b"before", b"after", b"and on"]


class TestHops:
    def test_a_hop_that_takes_over_the_second_and_comes_back_does_not_lose_the_first(self) -> None:
        """What leaves again after it is no sign that what left before it has ended."""
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.send("d1", b"zero", wait="delivered")
        sent: list[BundleFrame] = []
        is_first_lost = [True, True]

        def loses(sender: Device, _: Device, frame: Frame) -> bool:
            if sender is not a or not isinstance(frame, BundleFrame):
                return False
            sent.append(frame)
            return any(is_first_lost) and (is_first_lost[0] or decode_head(frame.head).number.sequence == 2)

        world.loses = loses
        first = a.send("d1", b"one", wait="delivered")
        a.send("d1", b"two", wait="delivered")
        world.inject(b, a, Ack((bundle_id(sent[1].head, sent[1].body),)))
        linked_anew(world, a, b)
        is_first_lost[0] = False
        a.send("d1", b"three", wait="delivered")
        assert a.replies(first) == []
        is_first_lost[1] = False
        world.advance(60)
        assert b.read().payloads == [b"zero", b"one", b"two", b"three"]
        assert [message.missing for message in b.read(consumer="other").messages] == [None] * 4


class TestRosters:
    def test_more_admins_than_a_frame_names_harm_no_link(self) -> None:
        base = granted(mesh_of(1), 0, 1)
        admins = [device(number) for number in range(10, 10 + MAX_HEADS + 5)]
        previous, statements = bytes(base.mesh_id), list[bytes]()
        for number, admin in enumerate(admins, 1):
            grant = Grant(admin.certificate, f"x{number}")
            statements.append(sign_statement(device(1), base.mesh_id, number, previous, grant))
            previous = hashlib.sha256(statements[-1]).digest()
            own = Remove(device(2).node_id, None)
            statements.append(sign_statement(admin, base.mesh_id, 1, bytes(base.mesh_id), own))
        world = World(2)
        a, b = world.devices
        roster, _ = a.node.membership.require_roster().merge([*base.all_statements(), *statements])
        assert len(roster.heads()) > MAX_HEADS
        a.database.apply([(0, [PutFact("statement", *fact) for fact in roster.facts()])], world.now_ms)
        a.crash()
        world.connect(a, b)
        assert len(b.node.membership.require_roster().members) == len(roster.members)
        world.disconnect(a, b)
        world.connect(a, b)
        assert (a.closed, b.closed) == ([], [])


class TestReplays:
    def test_ephemeral_mail_is_not_taken_again_by_the_next_life(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.send("d1", b"stored")
        reader = b.read()
        a.send("d1", b"said once", ephemeral=True)
        assert reader.payloads == [b"stored", b"said once"]
        assert not b.store  # the disk sleeps on
        kept = world.bundles[-1]
        a.send("d1", b"stored too")
        b.crash()
        world.connect(a, b)
        reader = b.read()
        world.inject(a, b, kept)
        assert b"said once" not in reader.payloads
        a.send("d1", b"new", ephemeral=True)
        assert reader.payloads[-1] == b"new"


class TestFloods:
    def test_whoever_asks_for_all_again_and_again_loses_its_link(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        said: list[Frame] = []

        def loses(sender: Device, _: Device, frame: Frame) -> bool:
            if sender is a:
                said.append(frame)
            return False

        world.loses = loses
        world.inject(b, a, *[RosterHeads(())] * 1000)
        assert [closing.code for closing in a.closed] == ["P_FLOOD"]
        assert len(said) < 20

    def test_announced_addresses_do_not_push_out_what_a_person_wrote_down(self) -> None:
        peers = Peers(device(0).node_id)
        written = Address("quic", "relay.example", 443)
        peers.seen(device(1).node_id, [(written, "static")])
        peers.seen(device(1).node_id, [(Address("quic", "10.0.0.1", port), "mdns") for port in range(1, 200)])
        assert written in peers.peer(device(1).node_id).addresses


class TestReaders:
    def test_what_is_given_back_until_it_expires_is_forgotten(self) -> None:
        """The daemon did not start again after some thousands of such messages."""
        world = World(1)
        [a] = world.devices
        for _ in range(3):
            a.send("d0", *[b"x"] * 200, lifetime_ms=1000)
            reader = a.read()
            nack = [(message.offset, message.offset) for message in reader.messages]
            a.ask(Acknowledge, subscription=reader.number, up_to={}, ranges={}, nack={int(Priority.NORMAL): nack})
            a.cancel(reader.number)
            world.advance(5)
        a.send("d0", b"y")
        reader = a.read()
        assert [message.payload for message in reader.messages] == [b"y"]
        [consumer] = a.node._mail.mailboxes._mailboxes["box"]._consumers
        assert not consumer.cursors[Priority.NORMAL].has_attempts
        a.crash()
        assert a.read().payloads == [b"y"]

    def test_messages_that_no_app_can_take_fill_no_disk(self) -> None:
        world = World(1)
        [a] = world.devices
        old = [(bytes((100 - n,)), encode([bytes(10), a.id, n, bytes(1024 * 1024)])) for n in range(20)]
        a.database.apply([(0, [PutFact("dead-letter", key, letter) for key, letter in old])], world.now_ms)
        a.crash()
        a.send("d0", b"poison")
        for _ in range(20):
            reader = a.read()
            nack = [(message.offset, message.offset) for message in reader.messages]
            a.ask(Acknowledge, subscription=reader.number, up_to={}, ranges={}, nack={int(Priority.NORMAL): nack})
            a.cancel(reader.number)
        letters = a.database.snapshot().facts["dead-letter"]
        assert sum(map(len, letters.values())) <= DEAD_LETTER_BYTES
        kept = sorted(decode(letter)[2] for letter in letters.values())
        assert kept == [*range(5, 20), world.now_ms]


class TestNeighbours:
    def test_together_they_leave_a_device_room_for_its_own_mail(self) -> None:
        world = World(7, quota_bytes=1024 * 1024)
        hop, *neighbours, away = world.devices
        for neighbour in neighbours:
            world.connect(neighbour, hop)
        world.connect(hop, away)
        world.advance(10)
        world.loses = lambda sender, receiver, frame: receiver is away
        for _ in range(40):
            for neighbour in neighbours:
                neighbour.send("d6", bytes(world.rng.randbytes(20_000)))
        assert hop.node.spool.others_bytes > 700_000
        assert hop.result(hop.send("d6", bytes(80_000)))["state"] == "accepted"


class TestServices:
    def test_ephemeral_mail_that_nobody_reads_leaves_nothing_behind(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        for number in range(50):
            a.send("d1", b"x", service=f"s{number}", ephemeral=True)
        a.send("d0", b"x", service="own", ephemeral=True)
        assert b.node._mail.mailboxes._mailboxes == {}
        assert a.node._mail.mailboxes._mailboxes == {}
        reader = b.read("box")
        a.send("d1", b"heard", ephemeral=True)
        assert reader.payloads == [b"heard"]

    def test_mail_to_more_own_services_than_are_kept_is_refused_and_the_next_start_succeeds(self) -> None:
        world = World(1)
        [a] = world.devices
        flow, epoch = FlowArrivals(Priority.NORMAL), Epoch(1, bytes(8))
        for number in range(1, MAX_SERVICES + 2):  # as many, and one more: some version did not count its own
            flow.take(number, f"s{number}", Number(epoch, number), None, None, 0)
        a.database.apply([(0, [PutFact("arrivals", flow_key(a.id, Priority.NORMAL), flow.encode())])], world.now_ms)
        a.crash()
        [reply] = a.replies(a.send("d0", b"x", service="one-more", wait="delivered"))
        assert isinstance(reply, Failure)
        assert reply.error.code == "E_REFUSED"
        assert a.read("one-more").payloads == []
        world.flush()
        a.crash()
        assert a.result(a.send("d0", b"y", service="s1", wait="delivered"))["state"] == "delivered"
        assert a.read("s1").payloads == [b"y"]


class TestAcks:
    def test_what_is_handed_over_twice_is_acked_when_the_first_is_on_disk(self) -> None:
        """Else a hop lets go of what a power cut can still take from the next."""
        world = World(3)
        a, hop, b = world.devices
        world.connect(a, hop)
        world.connect(hop, b)
        world.advance(10)
        acks: list[Ack] = []

        def loses(sender: Device, receiver: Device, frame: Frame) -> bool:
            if sender is hop and receiver is a and isinstance(frame, Ack):
                acks.append(frame)
            return sender is hop and receiver is b and isinstance(frame, BundleFrame)

        world.loses = loses
        hop.is_store_held = True
        a.send("d2", b"x")
        kept = world.bundles[-1]
        world.inject(a, hop, kept)
        assert acks == []
        hop.is_store_held = False
        world.pump()
        bundle = bundle_id(kept.head, kept.body)
        assert [ack.stored for ack in acks] == [(bundle,), (bundle,)]
