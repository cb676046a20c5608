"""Mail that reaches its destination though no path ever does: neighbours that move between networks carry copies.

``a`` writes to ``d``, which it never meets; ``via`` (and ``m``) come and go.
"""

import itertools

import attrs
import pytest

from meshd.delivery.outbox import FLOOR_LABEL, encode_floor
from meshd.discovery.events import ThriftChanged
from meshd.ids import NodeId, Number, Priority, parse_message_id
from meshd.node.carriers import HEAR_INTERVAL_S, SETTLE_S, TELL_INTERVAL_S
from meshd.node.deposits import COPIES
from meshd.node.notices import NOTICES_CARRIED, SOURCE_SHARE
from meshd.node.requests import Remove
from meshd.routing.predictability import Predictabilities
from meshd.store.ops import JournalEntry
from meshd.store.reads import ReadTrace, TraceRecord
from meshd.trust.seal import sign_blob
from meshd.wire.encounters import Encounters, encode_encounters
from meshd.wire.frames import NOT_A_CARRIER, Ack, BundleFrame, Kind, Refused, Routed
from tests.node.harness import Device, World
from tests.node.test_relays import stored

HOUR = 3600.0
CONTACT_S = 3 * SETTLE_S


def commuters(count: int = 3, **options: int) -> tuple[World, list[Device]]:
    """Devices that have each other's cards, none of them linked."""
    world = World(count, **options)  # type: ignore[arg-type]
    hub = world.devices[1]
    for device in world.devices:
        if device is not hub:
            world.connect(hub, device)
    world.advance(1)
    for device in world.devices:
        if device is not hub:
            world.disconnect(hub, device)
    for device in world.devices:  # and nobody remembers
        device.node._mesh.carriers.table = Predictabilities()
        device.node._mesh.carriers._tell_at = None
    return world, world.devices


def meet(world: World, one: Device, other: Device, seconds: float = CONTACT_S) -> None:
    """They are in one network for so long."""
    world.connect(one, other)
    world.advance(seconds)
    world.disconnect(one, other)
    world.advance(1)


def copies_on_disk(device: Device) -> list[int]:
    """The column of all that waits."""
    found = device.database._connection.execute("SELECT copies FROM spool WHERE state = 0 ORDER BY row")
    return [count for (count,) in found]


def queue_reasons(device: Device) -> list[str]:
    return [row["reason"] for row in device.query("queue")]


def test_a_carrier_brings_messages_and_on_its_way_back_the_receipt() -> None:
    world, (a, via, d) = commuters()
    reader = d.read()
    sent = [a.result(a.send("d2", bytes([number])))["ids"][0] for number in range(20)]
    assert queue_reasons(a) == ["no-path"]
    meet(world, a, via)
    assert queue_reasons(a) == ["carried"]
    assert (stored(a), stored(via)) == (20, 20)
    world.advance(8 * HOUR)
    meet(world, via, d)
    assert reader.payloads == [bytes([number]) for number in range(20)]
    assert stored(via) == 0
    assert stored(a) == 20, "nobody has told it"
    world.advance(8 * HOUR)
    meet(world, a, via)
    assert stored(a) == 0
    assert a.result(a.wait_for(sent[-1], "delivered"))["state"] == "delivered"
    reader.ack()
    world.advance(1)
    meet(world, via, d)
    meet(world, a, via)
    assert a.result(a.wait_for(sent[-1], "consumed"))["state"] == "consumed"
    meet(world, via, d)
    assert len(reader.payloads) == 20


def test_everybody_may_start_again_on_the_way() -> None:
    world, (a, via, d) = commuters()
    reader = d.read()
    a.send("d2", b"x")
    meet(world, a, via)
    for device in (a, via, d):
        device.crash()
    reader = d.read()
    meet(world, via, d)
    assert reader.payloads == [b"x"]
    reader.ack()
    world.advance(1)
    for device in (a, via, d):
        device.crash()
    meet(world, via, d)
    meet(world, a, via)
    assert (stored(a), stored(via)) == (0, 0)


def test_the_copies_of_a_bundle_are_bounded() -> None:
    world, devices = commuters(COPIES + 2)
    a, d, others = devices[0], devices[2], [devices[1], *devices[3:]]
    a.send(d.name, b"x")
    for other in others:  # only a knows all of them
        world.connect(a, other)
    for one, other in itertools.pairwise(others):
        world.connect(one, other)
    world.advance(10 * CONTACT_S)
    holders = [device for device in (a, *others) if stored(device)]
    assert sum(sum(copies_on_disk(device)) for device in holders) == COPIES
    assert 4 <= len(holders) <= COPIES
    assert copies_on_disk(a) == [1]
    before = len(world.bundles)
    a.crash()
    for other in others:
        world.connect(a, other)
    world.advance(10 * CONTACT_S)
    assert len(world.bundles) == before, "the last copy is given to nobody but the destination"


def test_copies_are_halved_and_not_given_twice_to_whom_has_some() -> None:
    world, (a, via, d, m) = commuters(4)
    a.send("d2", b"x")
    for _ in range(3):
        meet(world, a, via)
        a.crash()  # and forgets whom it gave copies
    assert (copies_on_disk(a), copies_on_disk(via)) == ([4], [4])
    meet(world, via, m)
    assert (copies_on_disk(via), copies_on_disk(m)) == ([2], [2])
    meet(world, a, m)
    assert (copies_on_disk(a), copies_on_disk(m)) == ([4], [2])
    reader = d.read()
    meet(world, m, d)
    assert reader.payloads == [b"x"]
    assert (stored(via), stored(m)) == (1, 0)


def test_a_receipt_that_passes_by_ends_what_others_carry() -> None:
    world, (a, via, d, m) = commuters(4)
    reader = d.read()
    a.send("d2", b"x")
    meet(world, a, via)
    meet(world, a, m)
    assert (stored(a), stored(via), stored(m)) == (1, 1, 1)
    meet(world, via, d)
    assert reader.payloads == [b"x"]
    meet(world, via, m)
    assert (stored(a), stored(via), stored(m)) == (1, 0, 0)
    assert m.database.snapshot().backlogs == ()
    meet(world, m, a)
    assert stored(a) == 0
    via.crash()
    meet(world, via, m)
    assert (stored(via), stored(m)) == (0, 0)


def test_a_receipt_that_its_destination_did_not_sign_ends_nothing() -> None:
    world, (a, via, d, m) = commuters(4)
    a.send("d2", b"x")
    meet(world, a, via)
    world.connect(via, m)
    world.inject(
        m, via, Routed(d.id, a.id, 8, Kind.RECEIPT, bytes(200)), Routed(m.id, a.id, 8, Kind.RECEIPT, bytes(99))
    )
    world.advance(1)
    assert stored(via) == 1
    assert "notice dropped" in via.events()
    assert m.id in via.links


def test_one_who_has_met_the_destination_is_chosen_and_one_who_has_not_is_not() -> None:
    world, (a, via, d, m) = commuters(4)
    meet(world, via, d)
    world.advance(HOUR)
    a.send("d2", b"x")
    world.connect(a, m)
    world.connect(a, via)
    world.advance(CONTACT_S)
    assert (stored(via), stored(m)) == (1, 0)


def test_meetings_are_remembered_over_a_restart_and_told_on() -> None:
    world, (a, via, d, m) = commuters(4)
    meet(world, via, d, HOUR)
    via.crash()
    world.connect(m, via)
    world.connect(a, m)  # m hears of it from via, and a from m
    world.advance(TELL_INTERVAL_S + CONTACT_S)
    for device in (via, m, a):
        assert device.node._mesh.carriers.table.of(d.id, world.now) > 0.1
    likely = [device.node._mesh.carriers.table.of(d.id, world.now) for device in (via, m, a)]
    assert likely == sorted(likely, reverse=True)
    a.crash()
    assert a.node._mesh.carriers.table.of(d.id, world.now) == pytest.approx(likely[2], rel=0.01)


def test_a_device_that_is_told_not_to_carries_nothing_and_is_not_asked() -> None:
    world, (a, via, _) = commuters()
    via.node._mesh.carriers.quota_bytes = None
    a.send("d2", b"x")
    before = len(world.bundles)
    meet(world, a, via, HOUR)
    assert len(world.bundles) == before
    assert (stored(a), stored(via)) == (1, 0)
    assert queue_reasons(a) == ["no-path"]


def test_a_device_that_refuses_is_asked_once_on_a_link_and_the_copies_are_for_others() -> None:
    world, (a, via, _, m) = commuters(4)
    refused: list[Refused] = []
    world.loses = lambda sender, _, frame: bool(
        sender is via and isinstance(frame, Ack) and refused.extend(frame.refused)
    )
    world.connect(a, via)
    world.advance(CONTACT_S)
    via.node._mesh.carriers.quota_bytes = None  # it has said that it carries
    for number in range(3):
        a.send("d2", bytes([number]))
        world.advance(CONTACT_S)
    assert [verdict.code for verdict in refused] == [NOT_A_CARRIER]
    assert "carrier declined" in a.events()
    assert copies_on_disk(a) == [COPIES] * 3
    meet(world, a, m)
    assert copies_on_disk(m) == [COPIES // 2] * 3


def test_over_its_quota_a_carrier_is_busy_and_loses_nothing() -> None:
    world, (a, via, d) = commuters()
    via.node._mesh.carriers.quota_bytes = 12_000
    for _ in range(5):
        a.send("d2", world.rng.randbytes(1000))
    meet(world, a, via)
    assert (stored(a), stored(via)) == (5, 2)
    reader = d.read()
    meet(world, via, d)
    assert len(reader.payloads) == 2
    meet(world, a, via)
    meet(world, via, d)
    meet(world, a, via)
    meet(world, via, d)
    assert len(reader.payloads) == 5


def test_a_liar_attracts_copies_and_nothing_else() -> None:
    world, (a, via, d, m) = commuters(4)
    world.loses = lambda sender, _, frame: sender is m and isinstance(frame, BundleFrame)
    a.send("d2", b"x")
    world.connect(a, m)
    boast = encode_encounters(Encounters(carries=True, met={d.id: 1.0, via.id: 1.0, NodeId(bytes(16)): 1.0}))
    world.advance(HEAR_INTERVAL_S)
    world.inject(m, a, Routed(m.id, a.id, 0, Kind.ENCOUNTERS, boast))
    world.advance(CONTACT_S)
    assert (stored(a), stored(m)) == (1, 1)
    world.disconnect(a, m)
    meet(world, via, d)
    meet(world, a, via)
    assert (stored(a), stored(via)) == (1, 1)
    reader = d.read()
    meet(world, via, d)
    assert reader.payloads == [b"x"]


def test_meetings_out_of_bounds_cost_the_link_and_others_are_not_believed() -> None:
    world, (a, via, d) = commuters()
    world.connect(a, via)
    world.advance(HEAR_INTERVAL_S)
    boast = encode_encounters(Encounters(carries=True, met={d.id: 1.0}))
    world.inject(via, a, Routed(d.id, a.id, 0, Kind.ENCOUNTERS, boast))  # not over its own link
    assert via.id in a.links
    assert a.node._mesh.carriers.table.of(d.id, world.now) == 0
    world.inject(
        via, a, Routed(via.id, a.id, 0, Kind.ENCOUNTERS, b"\x82\xf5\x81\x82\x50" + d.id + b"\x1a\x00\x01\x00\x00")
    )
    assert via.id not in a.links


def test_a_copy_that_claims_too_many_is_cut_down() -> None:
    world, (a, via, _) = commuters()
    a.send("d2", b"x")
    world.connect(a, via)
    world.loses = lambda sender, _, frame: sender is a and isinstance(frame, BundleFrame)
    world.advance(CONTACT_S)
    world.inject(a, via, attrs.evolve(world.bundles[-1], copies=64))
    world.advance(1)
    assert copies_on_disk(via) == [COPIES // 2]


@pytest.mark.parametrize("leaver", ["d2", "d3"])
def test_when_a_destination_or_a_source_left_the_mesh_its_mail_is_let_go(leaver: str) -> None:
    world, (a, via, _, m) = commuters(4)
    m.send("d2", b"x")
    meet(world, m, via)
    assert stored(via) == 1
    a.ask(Remove, device=leaver)
    meet(world, a, via)
    assert stored(via) == 0


def test_ephemeral_mail_is_never_carried() -> None:
    world, (a, via, _) = commuters()
    world.connect(a, via)
    world.advance(CONTACT_S)
    assert a.code(a.send("d2", b"x", ephemeral=True)) == "E_UNREACHABLE"
    assert stored(via) == 0


def test_a_path_delivers_what_carriers_have_and_their_copies_are_duplicates() -> None:
    world, (a, via, d) = commuters()
    reader = d.read()
    for number in range(5):
        a.send("d2", bytes([number]))
    meet(world, a, via)
    meet(world, a, d)
    assert reader.payloads == [bytes([number]) for number in range(5)]
    assert stored(a) == 0
    meet(world, via, d)
    assert len(reader.payloads) == 5
    assert stored(via) == 0


def test_what_expired_at_its_source_does_not_hold_up_what_a_carrier_brings() -> None:
    world, (a, via, d) = commuters()
    reader = d.read()
    a.send("d2", b"short", lifetime_ms=60_000)
    a.send("d2", b"long")
    world.advance(120)
    meet(world, a, via)
    meet(world, via, d)
    assert reader.payloads == [b"long"]


def test_nothing_is_copied_while_a_path_is_only_being_mended() -> None:
    world, (a, via, d) = commuters()
    meet(world, via, d)
    world.connect(a, via)
    world.connect(a, d)
    world.advance(CONTACT_S)
    before = len(world.bundles)
    world.disconnect(a, d)
    a.send("d2", b"x")
    world.advance(SETTLE_S / 2)
    world.connect(a, d)
    world.advance(CONTACT_S)
    assert len(world.bundles) == before + 1
    assert stored(via) == 0


def test_a_copy_that_was_lost_with_its_link_is_given_again_to_the_same_carrier() -> None:
    world, (a, via, _) = commuters()
    a.send("d2", b"x")
    world.loses = lambda sender, _, frame: sender is a and isinstance(frame, BundleFrame)
    meet(world, a, via)
    assert (copies_on_disk(a), stored(via)) == ([COPIES // 2], 0)
    world.loses = lambda *_: False
    meet(world, a, via)
    assert (copies_on_disk(a), copies_on_disk(via)) == ([COPIES // 2], [COPIES // 2])


def test_nothing_is_due_where_nothing_is_carried() -> None:
    world, (a, via, _) = commuters()
    world.connect(a, via)
    world.advance(HOUR)
    for device in (a, via):
        assert device.node._mesh.carriers.next_deadline() is None


def test_the_life_of_carried_mail_is_told() -> None:
    world, (a, via, d) = commuters()
    sent = a.result(a.send("d2", b"x"))["ids"][0]
    meet(world, a, via)
    meet(world, via, d)
    reader = d.read()
    assert reader.payloads == [b"x"]
    events = [(e.event, e.reason, e.detail) for e in journal(a, sent)]
    assert events == [("accepted", None, None), ("copied", "carrier", "d1")]
    carried = [(e.event, e.reason, e.detail) for e in journal(via, sent)]
    assert [event[0] for event in carried] == ["carried", "forwarded", "custody-ended"]


def journal(device: Device, message_id: str) -> tuple[JournalEntry, ...]:
    """What a device's disk tells of a message."""
    record = device.database.read(ReadTrace(parse_message_id(message_id)[0]))
    assert isinstance(record, TraceRecord)
    return record.journal


def test_an_offer_that_is_missing_is_asked_for_by_way_of_the_carrier() -> None:
    world, (a, via, d) = commuters()
    world.loses = lambda sender, _, frame: sender is a and isinstance(frame, Routed) and frame.kind == Kind.OFFER
    a.send("d2", b"x")
    meet(world, a, via)
    world.loses = lambda *_: False
    reader = d.read()
    meet(world, via, d)
    assert reader.payloads == []
    meet(world, via, a)
    meet(world, via, d)
    assert reader.payloads == [b"x"]


def test_what_is_read_while_nobody_is_there_is_told_to_whoever_comes_next() -> None:
    world, (a, via, d, other) = commuters(4)
    [id] = a.result(a.send("d2", b"x"))["ids"]
    meet(world, a, via)
    meet(world, via, d)
    d.read().ack()
    world.advance(HOUR)
    meet(world, d, other)
    meet(world, other, a)
    assert a.query("trace", id)["state"] == "consumed"


def test_a_receipt_is_taken_along_also_from_a_short_meeting() -> None:
    world, (a, via, d) = commuters()
    a.send("d2", b"x")
    meet(world, a, via)
    meet(world, via, d, SETTLE_S / 5)
    meet(world, via, a, SETTLE_S / 5)
    assert stored(a) == 0


def test_where_every_byte_costs_copies_are_neither_given_nor_taken() -> None:
    world, (a, via, _, m) = commuters(4)
    a.send("d2", b"x")
    a.inbox.append(ThriftChanged(on_battery=False, metered=True))
    meet(world, a, via)
    assert stored(via) == 0
    a.inbox.append(ThriftChanged(on_battery=False, metered=False))
    m.inbox.append(ThriftChanged(on_battery=False, metered=True))
    world.pump()
    meet(world, a, m)
    assert stored(m) == 0
    meet(world, a, via)
    assert stored(via) == 1


def test_one_member_does_not_fill_up_what_is_kept_for_others() -> None:
    world, (a, via, d, m) = commuters(4)
    world.connect(m, via)
    floors = [encode_floor(Priority(sequence % 4), Number(m.node.epoch, sequence)) for sequence in range(8)]
    for body in floors:
        signed = sign_blob(m.identity, FLOOR_LABEL, d.id + body)
        world.inject(m, via, Routed(m.id, d.id, 8, Kind.FLOOR, signed))
    notices = via.node._mesh.notices
    assert notices._count[m.id] == 4, "the newest of each"
    notices._count[m.id] = NOTICES_CARRIED // SOURCE_SHARE
    signed = sign_blob(m.identity, FLOOR_LABEL, a.id + floors[0])
    world.inject(m, via, Routed(m.id, a.id, 8, Kind.FLOOR, signed))
    assert notices._count[m.id] == NOTICES_CARRIED // SOURCE_SHARE
    a.send("d2", b"x")
    meet(world, a, via)
    assert notices._count[a.id] > 0, "others have their share"


def test_copies_whose_answer_was_lost_are_not_counted_twice() -> None:
    world, (a, via, _) = commuters()
    a.send("d2", b"x")
    world.loses = lambda sender, _, frame: sender is via and isinstance(frame, Ack)
    meet(world, a, via)
    world.loses = lambda *_: False
    meet(world, a, via)
    assert (copies_on_disk(a), copies_on_disk(via)) == ([COPIES // 2], [COPIES // 2])
    before = len(world.bundles)
    meet(world, a, via)
    assert len(world.bundles) == before
