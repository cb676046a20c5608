"""From Submit to its answer: what is refused, what is durable, what a repeat gets."""

import attrs
import pytest

from meshd.ids import Priority
from meshd.node.requests import Remove, Result, Submit
from meshd.store.ops import PutSpool
from meshd.wire.bundle import Message
from meshd.wire.frames import MAX_HOPS, BundleFrame
from tests.node.harness import Device, World


def fail_accepting(device: Device) -> None:
    device.fails = lambda commit: any(isinstance(op, PutSpool) for op in commit.ops)


def test_accepted_is_said_only_when_it_is_on_disk() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    a.is_store_held = True
    sent = a.send("d1", b"x")
    assert a.replies(sent) == []
    assert b.read().payloads == [b"x"]  # forwarding does not wait
    a.is_store_held = False
    world.pump()
    assert a.result(sent)["state"] == "accepted"


def test_delivered_before_our_own_commit_is_not_told_before_it() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    a.is_store_held = True
    sent = a.send("d1", b"x", wait="delivered")
    assert a.replies(sent) == []
    a.is_store_held = False
    world.pump()
    assert a.result(sent)["state"] == "delivered"


def test_a_failed_commit_is_told_and_its_messages_are_gone() -> None:
    world = World()
    a, b = world.devices
    fail_accepting(a)
    refused = a.send("d1", b"x", b"y")
    a.fails = lambda _: False
    assert a.code(refused) == "E_FULL"
    assert a.query("queue") == []
    assert a.result(a.send("d1", b"z"))["state"] == "accepted"
    world.connect(a, b)
    reader = b.read()
    assert reader.payloads == [b"z"]
    assert reader.messages[0].missing is None


def test_commits_that_overlap_and_fail_hold_nothing_up() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    a.send("d1", b"0")
    lost = iter([True])
    world.loses = lambda _, __, frame: isinstance(frame, BundleFrame) and next(lost, False)
    a.is_store_held = True
    first = a.send("d1", world.rng.randbytes(600_000))
    others = [a.send("d1", world.rng.randbytes(1_000_000)) for _ in range(2)]
    accepting = [request for request in a.store if any(isinstance(op, PutSpool) for op in getattr(request, "ops", ()))]
    assert len(accepting) > 1
    a.fails = lambda commit: commit is accepting[0]
    a.is_store_held = False
    world.pump()
    assert a.code(first) == "E_FULL"
    assert [a.result(other)["state"] for other in others] == ["accepted"] * 2
    world.advance(1)
    assert len(b.read().payloads) == 3


def test_the_key_of_a_session_whose_first_commit_failed_is_not_lost() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    world.disconnect(a, b)
    fail_accepting(a)
    a.send("d1", b"x")
    a.fails = lambda _: False
    a.send("d1", b"y")
    a.crash()
    world.connect(a, b)
    world.advance(60)
    assert b.read().payloads == [b"y"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"destination": "nobody"}, "E_UNKNOWN_DEVICE"),
        ({"service": "-bad-"}, "E_USAGE"),
        ({"service": ""}, "E_USAGE"),
        ({"messages": ()}, "E_USAGE"),
        ({"messages": (Message(bytes(1024 * 1024 + 1)),)}, "E_TOO_LARGE"),
        ({"lifetime_ms": 0}, "E_USAGE"),
        ({"lifetime_ms": 31 * 86_400_000}, "E_USAGE"),
    ],
)
def test_refusals(options: dict[str, object], code: str) -> None:
    world = World()
    a, _ = world.devices
    arguments = {"destination": "d1", "service": "box", "messages": (Message(b"x"),), **options}
    assert a.code(a.ask(Submit, **arguments)) == code
    assert a.query("queue") == []


def test_a_body_of_exactly_one_mebibyte_arrives() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    body = world.rng.randbytes(1024 * 1024)
    message = Message(body, {"n" * 64: "v" * 1900}, "r" * 64)
    sent = a.ask(Submit, destination="d1", service="box", messages=(message,))
    assert a.result(sent)["state"] == "accepted"
    assert b.read().payloads == [body]


def test_outside_a_mesh_there_is_nobody_to_send_to() -> None:
    world = World()
    alone = Device(world, 7, None, 1 << 20)
    world.devices.append(alone)
    assert alone.code(alone.send("d1", b"x")) == "E_NO_MESH"


def test_over_the_quota_nothing_is_taken_until_mail_has_left() -> None:
    world = World(quota_bytes=100_000)
    a, b = world.devices
    assert a.result(a.send("d1", world.rng.randbytes(90_000)))
    assert a.code(a.send("d1", world.rng.randbytes(20_000))) == "E_FULL"
    world.connect(a, b)
    world.advance(1)
    assert a.result(a.send("d1", world.rng.randbytes(20_000)))


def test_a_full_disk_takes_nothing_but_ephemeral_mail() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    a.free_bytes = 1024 * 1024
    assert a.code(a.send("d1", b"x")) == "E_FULL"
    assert a.result(a.send("d1", b"x", ephemeral=True))["state"] == "sent"


def test_where_mail_has_left_the_store_there_is_room_on_a_full_disk_for_as_long_as_its_log_has_some() -> None:
    world = World()
    a, _ = world.devices
    a.free_bytes = 20 << 20
    assert a.code(a.send("d1", b"x")) == "E_FULL"
    a.spare_bytes = 30 << 20
    assert a.result(a.send("d1", b"x"))["state"] == "accepted"
    a.free_bytes = 1 << 20
    assert a.code(a.send("d1", b"x")) == "E_FULL"


def test_a_full_disk_at_the_destination_makes_the_mail_wait_not_the_daemon_stop() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    b.free_bytes = 1024 * 1024
    a.send("d1", b"x")
    assert b.failed is None
    assert a.query("queue")[0]["reason"] == "busy"
    b.free_bytes = 1 << 40
    world.advance(10)
    assert b.read().payloads == [b"x"]


def test_a_repeat_gets_the_first_answer_and_sends_nothing() -> None:
    world = World()
    a, b = world.devices
    first = a.result(a.send("d1", b"x", key="k"))
    assert a.result(a.send("d1", b"x", key="k"))["ids"] == first["ids"]
    a.crash()
    assert a.result(a.send("d1", b"x", key="k"))["ids"] == first["ids"]
    world.connect(a, b)
    assert b.read().payloads == [b"x"]


@pytest.mark.parametrize("crashes", [False, True])
def test_what_is_repeated_because_its_commit_was_lost_arrives_once(crashes: bool) -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    if crashes:
        a.is_store_held = True
        a.send("d1", b"x", key="k")
        a.run_store(len(a.store))  # the key is not known: the message is accepted
        world.pump()
        assert any(isinstance(op, PutSpool) for request in a.store for op in getattr(request, "ops", ()))
        a.crash()
        a.is_store_held = False
        world.connect(a, b)
    else:
        fail_accepting(a)
        assert a.code(a.send("d1", b"x", key="k")) == "E_FULL"
        a.fails = lambda _: False
    assert a.result(a.send("d1", b"x", key="k"))["state"] == "accepted"
    assert reader.payloads == [b"x"]


def test_concurrent_repeats_are_one_submission() -> None:
    world = World()
    a, b = world.devices
    a.is_store_held = True
    sent = [a.send("d1", b"x", key="k") for _ in range(3)]  # the disk is asked
    a.run_store(len(a.store))
    world.pump()
    sent.append(a.send("d1", b"x", key="k"))  # the commit runs
    a.is_store_held = False
    world.pump()
    assert len({tuple(a.result(request)["ids"]) for request in sent}) == 1
    world.connect(a, b)
    assert b.read().payloads == [b"x"]


def test_repeats_of_a_submission_that_fails_fail_with_it_and_may_be_tried_again() -> None:
    world = World()
    a, _ = world.devices
    a.is_store_held = True
    sent = [a.send("d1", b"x", key="k") for _ in range(2)]
    fail_accepting(a)
    a.is_store_held = False
    world.pump()
    assert [a.code(request) for request in sent] == ["E_FULL", "E_FULL"]
    a.fails = lambda _: False
    assert a.result(a.send("d1", b"x", key="k"))["state"] == "accepted"


@pytest.mark.parametrize("meanwhile", ["nothing", "crash", "commit"])
def test_a_repeat_waits_for_the_state_that_it_asks_for(meanwhile: str) -> None:
    world = World()
    a, b = world.devices
    a.is_store_held = meanwhile == "commit"
    first = a.send("d1", b"x", bytes(100_000), key="k")
    again = a.send("d1", b"x", bytes(100_000), key="k", wait="delivered")
    a.is_store_held = False
    world.pump()
    ids = a.result(first)["ids"]
    if meanwhile == "crash":
        a.crash()
        again = a.send("d1", b"x", bytes(100_000), key="k", wait="delivered")
    assert a.replies(again) == []
    world.connect(a, b)
    assert a.result(again) == {"ids": ids, "state": "delivered"}
    late = a.send("d1", b"x", bytes(100_000), key="k", wait="consumed")
    assert a.replies(late) == []
    reader = b.read()
    reader.ack()
    world.pump()
    assert a.result(late) == {"ids": ids, "state": "consumed"}
    assert len(reader.payloads) == 2
    assert a.result(a.send("d1", b"x", key="k", wait="consumed"))["state"] == "consumed"


def test_a_repeat_of_what_has_expired_is_told_so() -> None:
    world = World()
    a, _ = world.devices
    a.send("d1", b"x", key="k", lifetime_ms=1000)
    again = a.send("d1", b"x", key="k", wait="delivered")
    world.advance(2)
    assert a.code(again) == "E_EXPIRED"
    assert a.code(a.send("d1", b"x", key="k", wait="delivered")) == "E_EXPIRED"


def test_a_repeat_that_is_given_up_is_not_answered() -> None:
    world = World()
    a, b = world.devices
    a.send("d1", b"x", key="k")
    again = a.send("d1", b"x", key="k", wait="delivered")
    a.cancel(again)
    world.connect(a, b)
    assert a.replies(again) == []


def test_a_repeat_of_a_refused_request_is_refused_again() -> None:
    world = World()
    a, _ = world.devices
    assert [a.code(a.send("nobody", b"x", key="k")) for _ in range(2)] == ["E_UNKNOWN_DEVICE"] * 2


def test_a_refusal_that_overtakes_our_commit_is_the_only_answer() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    a.is_store_held = True
    world.holds = lambda _, __, frame: isinstance(frame, BundleFrame)
    sent = a.send("d1", b"x", wait="delivered")
    receiver, number, frame = world.held.pop()
    assert isinstance(frame, BundleFrame)
    world.held.append((receiver, number, attrs.evolve(frame, age_ms=10**12)))
    world.release()
    a.is_store_held = False
    world.pump()
    assert a.code(sent) == "E_REFUSED"


class TestEphemeral:
    def test_it_reaches_who_reads_now_and_leaves_nothing(self) -> None:
        world = World()
        a, b = world.devices
        world.connect(a, b)
        reader = b.read()
        assert a.result(a.send("d1", b"x", ephemeral=True))["state"] == "sent"
        assert reader.payloads == [b"x"]
        world.flush()
        assert b.database.snapshot().mailboxes == ()
        assert a.query("queue") == []

    @pytest.mark.parametrize("payloads", [(b"x",), (b"x" * 40_000, b"y" * 40_000)])
    def test_without_a_path_it_is_refused_and_its_key_stays_free(self, payloads: tuple[bytes, ...]) -> None:
        world = World()
        a, _ = world.devices
        assert a.code(a.send("d1", *payloads, ephemeral=True, key="k")) == "E_UNREACHABLE"
        assert a.result(a.send("d1", b"x", key="k"))["state"] == "accepted"

    def test_it_is_answered_once_also_beside_what_is_stored(self) -> None:
        world = World()
        a, b = world.devices
        world.connect(a, b)
        for number, ephemeral in ((101, True), (102, False)):
            submit = Submit(
                port=a.client,
                id=number,
                principal="uid:1",
                destination="d1",
                service="box",
                messages=(Message(b"x"),),
                ephemeral=ephemeral,
            )
            a.inbox.append(submit)
        world.pump()
        assert [a.result(number)["state"] for number in (101, 102)] == ["sent", "accepted"]
        assert {frame.hop_limit for frame in world.bundles} == {MAX_HOPS - 1}

    def test_to_oneself(self) -> None:
        world = World()
        a, _ = world.devices
        reader = a.read()
        assert a.result(a.send("d0", b"x", ephemeral=True))["state"] == "sent"
        assert reader.payloads == [b"x"]

    def test_it_passes_once_however_often_it_comes(self) -> None:
        world = World()
        a, b = world.devices
        world.connect(a, b)
        reader = b.read()
        a.send("d1", b"x", ephemeral=True)
        world.inject(a, b, world.bundles[-1], world.bundles[-1])
        assert reader.payloads == [b"x"]


def test_mail_to_oneself_is_sealed_never_and_survives_a_crash() -> None:
    world = World()
    a, _ = world.devices
    sent = a.result(a.send("d0", b"x", priority=Priority.HIGH, wait="delivered"))
    assert sent["state"] == "delivered"
    a.crash()
    reader = a.read()
    assert reader.payloads == [b"x"]
    reader.ack()
    assert a.query("trace", sent["ids"][0])["state"] == "consumed"
    assert a.query("queue") == []


def test_what_was_consumed_of_mail_to_oneself_is_known_after_a_crash() -> None:
    world = World()
    a, _ = world.devices
    [id] = a.result(a.send("d0", b"x", wait="delivered"))["ids"]
    world.flush()
    a.read().ack()  # on disk at once; the receipt may wait, and is lost
    a.crash()
    a.step()
    world.pump()
    assert a.query("trace", id)["state"] == "consumed"


def test_every_message_of_a_submission_has_its_own_id_in_order() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    payloads = [b"%d" % i for i in range(600)]
    ids = a.result(a.send("d1", *payloads))["ids"]
    assert len(set(ids)) == 600
    assert reader.payloads == payloads


def test_a_result_names_no_request_twice() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    reader = b.read()
    sent = a.send("d1", b"x", wait="consumed")
    reader.ack()
    world.advance(1)
    assert a.replies(sent) == [Result({"ids": a.result(sent)["ids"], "state": "consumed"})]


@pytest.mark.parametrize("crashes", [False, True])
def test_whoever_waits_for_a_device_that_leaves_to_read_is_told(crashes: bool) -> None:
    world = World(3)
    a, b, _ = world.devices
    world.connect(a, b)
    sent = [a.send("d1", b"x", key="k", wait=state) for state in ("delivered", "consumed")]
    [id] = a.result(sent[0])["ids"]
    sent.append(a.wait_for(id, "consumed"))
    a.ask(Remove, device="d1")
    assert [a.code(request) for request in sent[1:]] == ["E_GONE", "E_GONE"]
    if crashes:
        a.crash()
    assert a.code(a.wait_for(id, "consumed")) == "E_GONE"
    assert a.result(a.wait_for(id, "delivered"))["state"] == "delivered"
