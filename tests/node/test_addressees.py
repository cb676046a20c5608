"""A notice counts for the device that it was signed for, whoever passes it on."""

from collections.abc import Callable

import pytest

from meshd.delivery.receipts import RECEIPT_LABEL, EpochReceipt, Receipt, encode_receipt
from meshd.ids import Epoch, NodeId, Priority
from meshd.trust.seal import sign_blob, sign_stale_epoch
from meshd.wire.frames import MAX_HOPS, BundleFrame, Kind, Routed
from tests.node.harness import Device, World

Notice = Callable[[Device, Device, NodeId], bytes]


def receipt_of_all(by: Device, source: Device, signed_for: NodeId) -> bytes:
    said = Receipt(
        priority=Priority.NORMAL,
        order=(10**6, 1),
        credit_bytes=1,
        floor=None,
        epochs=(EpochReceipt(source.node.epoch, 9, (), 9, ()),),
        refused=(),
    )
    return sign_blob(by.identity, RECEIPT_LABEL, signed_for + encode_receipt(said))


def stale_for_all(by: Device, _: Device, signed_for: NodeId) -> bytes:
    return sign_stale_epoch(by.identity, signed_for, Priority.NORMAL, ephemeral=False, known=Epoch(10**6, bytes(8)))


@pytest.mark.parametrize(
    ("kind", "notice"), [(Kind.RECEIPT, receipt_of_all), (Kind.STALE_EPOCH, stale_for_all)], ids=["receipt", "stale"]
)
def test_mail_is_ended_by_what_was_signed_for_its_source_and_by_nothing_else(kind: Kind, notice: Notice) -> None:
    world = World(3)
    a, hop, b = world.devices
    world.connect(a, hop)
    world.connect(hop, b)
    world.advance(5)
    world.loses = lambda sender, _, frame: sender is hop and isinstance(frame, BundleFrame)
    sent = a.send("d2", b"x", wait="delivered")
    ends = []
    for signed_for in (hop, a):
        world.inject(hop, a, Routed(b.id, a.id, MAX_HOPS, kind, notice(b, a, signed_for.id)))
        ends.append(len(a.replies(sent)))
    assert ends == [0, 1]
    assert "notice dropped" in a.events()
    assert hop.id in a.links, "it may be innocent"
