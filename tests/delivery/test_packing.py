"""Packing: nothing is lost, doubled or out of order, and no bundle is over its limits."""

from hypothesis import given
from hypothesis import strategies as st

from meshd.delivery.packing import Packer, PackKey, message_size
from meshd.ids import NodeId, Priority
from meshd.wire.bundle import MAX_MESSAGES, PACK_BYTES, Message

KEYS = [
    PackKey(NodeId(bytes(16)), service, Priority.NORMAL, False, 1000, principal)
    for service in ("a", "b")
    for principal in ("uid:1", "uid:2")
]
submissions = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.lists(st.sampled_from([0, 1, 100, 20_000, 65_000, 100_000]), min_size=1, max_size=6)
        | st.integers(1, 600).map(lambda count: [1] * count),
    ),
    max_size=8,
)


@given(submissions)
def test_everything_is_packed_once_in_order_within_limits(submissions: list[tuple[PackKey, list[int]]]) -> None:
    packer = Packer()
    assert not packer
    given_in: dict[PackKey, list[tuple[int, Message]]] = {key: [] for key in KEYS}
    for token, (key, sizes) in enumerate(submissions):
        messages = tuple(Message(bytes([i % 256]) * size) for i, size in enumerate(sizes))
        packer.add(token, key, messages, sum(map(message_size, messages)))
        given_in[key] += [(token, message) for message in messages]
    assert bool(packer) == bool(submissions)
    packs = packer.take()
    assert not packer
    assert packer.pending_bytes == 0
    found: dict[PackKey, list[tuple[int, Message]]] = {key: [] for key in KEYS}
    for pack in packs:
        assert 1 <= len(pack.messages) <= MAX_MESSAGES
        assert len(pack.messages) == 1 or sum(map(message_size, pack.messages)) <= PACK_BYTES
        place = 0
        for share in pack.shares:
            assert share.first == place
            assert share.count > 0
            found[pack.key] += [(share.token, m) for m in pack.messages[place : place + share.count]]
            place += share.count
        assert place == len(pack.messages)
    assert found == given_in


def test_a_message_weighs_at_least_what_it_takes() -> None:
    from meshd.wire.bundle import encode_messages

    for message in (
        Message(b""),
        Message(bytes(70_000)),
        Message(b"x", {"traceparent": "0" * 55}, "replies"),
        Message(b"x", {"é" * 60: "\U0001f600" * 300}),
    ):
        assert message_size(message) >= len(encode_messages([message])) - 12 - len(message.reply_to or "")
