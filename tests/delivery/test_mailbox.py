"""A mailbox between its disk and its readers: what is asked of the disk, and who comes back meanwhile."""

from meshd.delivery.mailbox_effects import Limits, Load

from .mailbox_world import World


def offsets(world: World, consumer: str = "main") -> list[int]:
    return [offset for name, offset, _ in world.log if name == consumer]


def test_who_comes_back_while_its_mail_is_looked_through_stays() -> None:
    world = World(Limits(idle_s=100.0))
    idle, busy = world.subscribe("idle"), world.subscribe("busy")
    kept = [world.release() for _ in range(3)]
    world.ack_up_to(busy, kept[-1])
    world.unsubscribe(idle)
    world.settle()
    world.poll(100.0)
    assert [type(item) for item in world.queue if isinstance(item, Load)] == [Load], "it waits for the disk"
    world.subscribe("idle")
    world.settle()
    assert (world.expired, world.consumed) == ([], [])
    assert offsets(world, "idle") == [*kept, *kept]
    assert set(world.facts) == {"idle", "busy"}


def test_what_was_given_back_waits_for_credit_like_anything_else() -> None:
    world = World()
    subscription = world.subscribe(credit=1)
    first = world.release()
    world.nack(subscription, first, first)
    world.poll(60.0)
    world.settle()
    assert offsets(world) == [first]
    world.credit(subscription, 1)
    world.settle()
    assert world.log == [("main", first, False), ("main", first, True)]


def test_what_was_due_again_comes_once_to_the_next_reader() -> None:
    world = World()
    subscription = world.subscribe(credit=1)
    first = world.release()
    world.nack(subscription, first, first)
    world.poll(60.0)
    world.unsubscribe(subscription, lost=False)
    world.settle()
    world.log.clear()
    world.subscribe()
    world.settle()
    assert world.log == [("main", first, True)]


def test_whoever_left_first_expires_first() -> None:
    world = World(Limits(idle_s=100.0))
    one, two = world.subscribe("one"), world.subscribe("two")
    world.unsubscribe(one)
    world.poll(30.0)
    world.unsubscribe(two)
    assert world.mailbox.next_deadline() == world.now + 70.0
    world.poll(70.0)
    assert world.expired == ["one"]
