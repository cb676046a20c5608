"""A relay between devices that don't reach each other: routes through it, its mailbox, and what it may not do.

``a`` and ``c`` are devices, ``r`` (and ``q``) relays. Links are made by hand here; which are sought is checked apart.
"""

import attrs
import pytest

from meshd.ids import BundleId, NodeId
from meshd.links.events import DialFailed
from meshd.node.effects import LeavePeer, SeekPeer
from meshd.node.relays import GRACE_S, STEADY_S
from meshd.transport.base import Address
from meshd.trust.identity import SIGNATURE_SIZE
from meshd.wire.bundle import bundle_id, decode_head, encode_head
from meshd.wire.frames import Ack, BundleFrame, Kind, Refused, Routed
from tests.node.harness import DAY, Device, World

HOUR = 3600.0


def with_a_relay(**options: int) -> tuple[World, Device, Device, Device]:
    """a and c, linked with r alone; they have each other's cards."""
    world = World(3, relays=(1,), neighbour_bytes=options.get("neighbour_bytes"))
    a, r, c = world.devices
    world.connect(a, r)
    world.connect(c, r)
    world.advance(10)
    return world, a, r, c


def stored(device: Device) -> int:
    """Bundles on a device's disk."""
    return sum(backlog.rows for backlog in device.database.snapshot().backlogs)


def test_mail_goes_through_the_relay_while_there_is_no_better_way() -> None:
    world, a, r, c = with_a_relay()
    reader = c.read()
    sent = a.send("d2", b"1", wait="delivered")
    assert a.result(sent)["state"] == "delivered"
    [peer] = [peer for peer in a.query("peers") if peer["name"] == "d2"]
    assert (peer["state"], peer["transport"]) == ("up", "relay")
    world.connect(a, c)
    world.advance(10)
    carried = len(world.bundles)
    a.send("d2", b"2")
    world.flush()
    assert len(world.bundles) == carried + 1, "one hop: directly"
    assert reader.payloads == [b"1", b"2"]
    assert (r.node.spool.messages, stored(r)) == (0, 0)


def test_the_mailbox_hands_out_while_the_sender_is_off_and_its_receipt_waits_for_the_sender() -> None:
    world, a, r, c = with_a_relay()
    world.disconnect(c, r)
    sent = [a.result(a.send("d2", bytes([number])))["ids"][0] for number in range(50)]
    world.advance(1)
    assert (a.node.spool.messages, stored(r)) == (50, 50)
    assert [row["reason"] for row in a.query("queue")] == ["at-relay"]
    world.disconnect(a, r)
    r.crash()
    reader = c.read()
    world.connect(c, r)
    world.advance(1)
    assert reader.payloads == [bytes([number]) for number in range(50)]
    reader.ack()
    world.advance(1)
    assert stored(r) == 0
    world.disconnect(c, r)
    r.crash()
    world.connect(a, r)
    world.advance(1)
    assert a.node.spool.messages == 0
    assert a.result(a.wait_for(sent[-1], "consumed"))["state"] == "consumed"


def test_copies_are_given_once_however_long_the_destination_stays_away() -> None:
    world, a, r, c = with_a_relay()
    world.disconnect(c, r)
    for number in range(5):
        a.send("d2", bytes([number]))
    world.advance(10)
    assert len(world.bundles) == 5
    world.advance(DAY)
    world.disconnect(a, r)
    world.connect(a, r)
    world.advance(HOUR)
    assert (len(world.bundles), stored(r)) == (5, 5)
    a.crash()  # it has forgotten; the relay has not
    world.connect(a, r)
    world.advance(HOUR)
    assert (len(world.bundles), stored(r)) == (10, 5)


def test_a_direct_path_delivers_what_the_relay_has_and_the_relays_copies_are_duplicates() -> None:
    world, a, r, c = with_a_relay()
    world.disconnect(c, r)
    for number in range(5):
        a.send("d2", bytes([number]))
    world.advance(1)
    reader = c.read()
    world.connect(a, c)
    world.advance(1)
    assert reader.payloads == [bytes([number]) for number in range(5)]
    world.connect(c, r)
    world.advance(120)
    assert len(reader.payloads) == 5
    assert (a.node.spool.messages, stored(r)) == (0, 0)


def test_a_relay_that_acks_and_drops_everything_loses_nothing_and_is_complained_of() -> None:
    world, a, r, c = with_a_relay()
    world.loses = lambda sender, _, frame: sender is r and isinstance(frame, BundleFrame)
    reader = c.read()
    for number in range(5):
        a.send("d2", bytes([number]))
    world.advance(60)
    assert reader.payloads == []
    assert "receipt overdue" in a.events()
    world.connect(a, c)
    world.advance(HOUR)
    assert reader.payloads == [bytes([number]) for number in range(5)]
    assert a.node.spool.messages == 0


def test_a_relay_that_holds_back_reorders_and_replays_causes_no_loss_and_no_duplicate() -> None:
    world, a, r, c = with_a_relay()
    reader = c.read()
    replayed: list[BundleFrame] = []

    def holds(sender: Device, _: Device, frame: object) -> bool:
        if sender is r and isinstance(frame, BundleFrame):
            replayed.append(frame)
            return True
        return False

    world.holds = holds  # type: ignore[assignment]
    for number in range(10):
        a.send("d2", bytes([number]))
    world.flush()
    world.held.reverse()
    world.release()
    world.inject(r, c, *replayed, *reversed(replayed))
    world.advance(60)
    assert reader.payloads == [bytes([number]) for number in range(10)]
    assert a.node.spool.messages == 0


def test_copies_go_to_the_next_relay_when_the_first_one_fails() -> None:
    world = World(4, relays=(1, 2))
    a, r, q, c = world.devices
    for one, other in ((a, r), (a, q), (c, r)):
        world.connect(one, other)
    world.advance(10)
    world.disconnect(c, r)
    a.send("d3", b"x")
    world.advance(1)
    assert (stored(r), stored(q)) == (1, 0)
    world.disconnect(a, r)
    world.advance(1)
    assert (stored(r), stored(q)) == (1, 1)
    world.connect(a, r)
    world.advance(1)
    reader = c.read()
    world.connect(c, q)
    world.advance(1)
    world.connect(c, r)
    world.advance(120)
    assert reader.payloads == [b"x"]
    assert (stored(a), stored(r), stored(q)) == (0, 0, 0)


def test_over_its_quota_a_device_is_told_to_wait_and_keeps_its_mail() -> None:
    world, a, r, c = with_a_relay(neighbour_bytes=3000)
    world.disconnect(c, r)
    for _ in range(5):
        a.send("d2", world.rng.randbytes(1000))
    world.advance(60)
    assert (stored(a), stored(r)) == (5, 2)
    assert "bundle turned away" in a.events()
    reader = c.read()
    world.connect(c, r)
    world.advance(60)
    assert len(reader.payloads) == 5
    assert (stored(a), stored(r)) == (0, 0)


def test_a_relay_is_no_source() -> None:
    world, _, r, _ = with_a_relay()
    assert r.code(r.send("d0", b"x")) == "E_USAGE"
    assert r.code(r.send("d0", b"x", ephemeral=True, wait="sent")) == "E_USAGE"
    assert world.bundles == []


@pytest.mark.parametrize("is_ephemeral", [False, True])
def test_what_a_relay_says_for_itself_is_taken_by_nobody(is_ephemeral: bool) -> None:
    world, a, r, c = with_a_relay()
    reader = c.read()
    a.send("d2", b"x", ephemeral=is_ephemeral, wait="sent" if is_ephemeral else "accepted")
    assert reader.payloads == [b"x"]
    heard: list[Refused] = []

    def hear(sender: Device, _: Device, frame: object) -> bool:
        if sender is c and isinstance(frame, Ack):
            heard.extend(frame.refused)
        return False

    world.loses = hear
    head = decode_head(world.bundles[-1].head)
    own = encode_head(attrs.evolve(head, flow=attrs.evolve(head.flow, source=r.id)))
    frame = attrs.evolve(world.bundles[-1], head=own)
    world.inject(r, c, frame)
    assert heard == [Refused(bundle_id(own, frame.body), "unknown-source")]
    world.connect(a, c)
    world.inject(a, c, frame)
    assert len(heard) == 2, "nor from a hop"
    assert c.closed == []


def test_a_relay_is_no_destination() -> None:
    world, a, r, _ = with_a_relay()
    assert a.code(a.send("d1", b"x")) == "E_USAGE"
    assert r.node.membership.own_card is not None
    card = a.node.membership.card(r.id)
    assert card is not None
    assert card.prekeys == ()
    refused: list[Refused] = []
    world.loses = lambda sender, _, frame: bool(
        sender is r and isinstance(frame, Ack) and refused.extend(frame.refused)
    )
    a.send("d2", b"x")
    frame = world.bundles[0]
    sealed_for_r = frame.head.replace(world.devices[2].id, r.id)
    world.inject(a, r, BundleFrame(8, 0, 0, sealed_for_r, frame.body, frame.total))
    assert [verdict.code for verdict in refused] == ["unknown-destination"]
    assert len({BundleId(verdict.bundle) for verdict in refused}) == 1


@pytest.mark.parametrize("kind", [Kind.OFFER, Kind.RECEIPT, Kind.FLOOR])
def test_a_relay_keeps_no_notice_that_its_source_did_not_sign(kind: int) -> None:
    world, a, r, c = with_a_relay()
    world.disconnect(c, r)
    a.send("d2", b"x")
    world.advance(1)
    kept = r.database.snapshot().facts["notice"]
    forged = bytes(200 + SIGNATURE_SIZE)
    world.inject(a, r, Routed(a.id, c.id, 8, kind, forged), Routed(NodeId(bytes(16)), c.id, 8, kind, forged))
    world.advance(1)
    assert r.database.snapshot().facts["notice"] == kept
    assert "notice dropped" in r.events()
    assert a.links, "a notice that only its end can judge costs nobody a link"


# --- which relays are sought


def sought(device: Device) -> list[tuple[str, NodeId]]:
    """What the loop was told of relays so far."""
    return [
        ("seek" if isinstance(effect, SeekPeer) else "leave", effect.peer)
        for effect in device.other
        if isinstance(effect, SeekPeer | LeavePeer) and device.node.membership.is_relay(effect.peer)
    ]


def two_relays() -> tuple[World, Device, Device, Device]:
    world = World(3, relays=(1, 2))
    a, r, q = world.devices
    return world, a, r, q


def test_the_next_relay_is_dialed_when_the_first_one_does_not_answer() -> None:
    world, a, r, q = two_relays()
    assert sought(a) == [("seek", r.id)]
    world.advance(GRACE_S - 0.1)
    assert sought(a) == [("seek", r.id)]
    world.advance(0.2)
    assert sought(a) == [("seek", r.id), ("seek", q.id)]


def test_a_failed_dial_is_an_answer_too() -> None:
    world, a, r, q = two_relays()
    a.inbox.append(DialFailed(r.id, Address("quic", "192.0.2.1", 443), "E_UNREACHABLE", "refused"))
    world.pump()
    assert sought(a) == [("seek", r.id), ("seek", q.id)]


def test_a_better_relay_proves_itself_before_the_other_is_left() -> None:
    world, a, r, q = two_relays()
    world.advance(GRACE_S + 1)
    world.connect(a, q)
    world.advance(HOUR)
    assert sought(a) == [("seek", r.id), ("seek", q.id)]
    for _ in range(10):  # it comes and goes, and nothing is left or sought for that
        world.connect(a, r)
        world.advance(STEADY_S / 2)
        world.disconnect(a, r)
        world.advance(STEADY_S / 2)
    assert sought(a) == [("seek", r.id), ("seek", q.id)]
    world.connect(a, r)
    world.advance(STEADY_S + 1)
    assert sought(a)[2:] == [("leave", q.id)]
    assert a.query("relays")[0]["in_use"]


def test_the_first_relay_lost_the_next_one_is_dialed_at_once() -> None:
    world, a, r, q = two_relays()
    world.connect(a, r)
    world.advance(HOUR)
    assert sought(a) == [("seek", r.id)]
    world.disconnect(a, r)
    assert sought(a)[-1] == ("seek", q.id)
    assert [row["state"] for row in a.query("relays")] == ["down", "down"]


def test_a_relay_that_hands_its_copy_back_is_given_another_when_the_path_is_lost() -> None:
    world, a, r, c = with_a_relay()
    world.disconnect(c, r)
    a.send("d2", b"x")
    world.advance(1)
    assert stored(r) == 1
    world.loses = lambda _, receiver, frame: receiver is c and isinstance(frame, BundleFrame)
    world.disconnect(a, r)
    world.connect(a, c)
    world.connect(a, r)
    world.advance(20)
    assert stored(r) == 0, "its way to c is over a"
    world.disconnect(a, c)
    world.loses = lambda *_: False
    world.advance(20)
    assert (stored(a), stored(r)) == (1, 1)
    world.disconnect(a, r)
    reader = c.read()
    world.connect(c, r)
    world.advance(10)
    assert reader.payloads == [b"x"]
