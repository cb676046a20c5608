from meshd.delivery.packing import Packer, PackKey
from meshd.ids import NodeId, Priority
from meshd.wire.bundle import MAX_MESSAGES, Message

DESTINATION = NodeId(bytes(16))


def key(lifetime_ms: int = 1000, service: str = "app", principal: str = "uid:1") -> PackKey:
    return PackKey(DESTINATION, service, Priority.NORMAL, False, lifetime_ms, principal)


def payloads(packer: Packer) -> list[list[bytes]]:
    return [[message.payload for message in pack.messages] for pack in packer.take()]


def add(packer: Packer, key: PackKey, *bodies: bytes) -> None:
    packer.add(1, key, tuple(Message(body) for body in bodies), sum(map(len, bodies)))


def test_what_agrees_shares_a_bundle() -> None:
    packer = Packer()
    add(packer, key(), b"a")
    add(packer, key(service="other"), b"x")
    add(packer, key(), b"b", b"c")
    assert payloads(packer) == [[b"a", b"b", b"c"], [b"x"]]
    assert not packer


def test_order_within_a_service_is_kept_when_bundles_cannot_be_shared() -> None:
    packer = Packer()
    add(packer, key(1000), b"a")
    add(packer, key(2000), b"b")
    add(packer, key(1000), b"c")
    add(packer, key(1000, principal="uid:2"), b"d")
    add(packer, key(1000), b"e")
    assert payloads(packer) == [[b"a"], [b"b"], [b"c"], [b"d"], [b"e"]]


def test_a_submission_may_take_several_bundles() -> None:
    packer = Packer()
    packer.add(7, key(), tuple(Message(b"") for _ in range(MAX_MESSAGES + 1)), 0)
    packs = packer.take()
    assert [len(pack.messages) for pack in packs] == [MAX_MESSAGES, 1]
    assert [(share.token, share.first, share.count) for pack in packs for share in pack.shares] == [
        (7, 0, MAX_MESSAGES),
        (7, 0, 1),
    ]
