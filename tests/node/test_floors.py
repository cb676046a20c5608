"""What will not come holds nothing up: the origin says so, and says it again when it can say more."""

from meshd.store.ops import PutSpool
from meshd.wire.frames import BundleFrame
from tests.node.harness import World


def test_what_expired_at_the_origin_ends_the_wait_for_it() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    a.send("d1", b"0")
    lost = iter([True])
    world.loses = lambda _, __, frame: isinstance(frame, BundleFrame) and next(lost, False)
    first = a.send("d1", b"1", lifetime_ms=1000, wait="consumed")
    a.send("d1", b"2")
    assert reader.payloads == [b"0"]
    world.advance(1.5)
    assert a.code(first) == "E_EXPIRED"
    assert reader.payloads == [b"0", b"2"]
    assert [message.missing for message in reader.messages] == [None, {"bundles": None, "reason": "expired"}]


def test_a_burnt_number_holds_nothing_up_even_when_older_mail_still_waits() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    lost: list[int] = []

    def loses(_: object, __: object, frame: object) -> bool:
        if not isinstance(frame, BundleFrame):
            return False
        lost.append(len(lost))
        return lost[-1] in (0, 1)

    world.loses = loses
    a.send("d1", b"older", service="other")
    a.fails = lambda commit: any(isinstance(op, PutSpool) for op in commit.ops)
    refused = a.send("d1", b"x" * 60_000, b"y" * 60_000)
    a.fails = lambda _: False
    assert a.code(refused) == "E_FULL"
    world.advance(30)  # the older one is sent again, and finished
    assert reader.payloads == [b"y" * 60_000]  # it was forwarded while the commit ran: unknown, never refused
