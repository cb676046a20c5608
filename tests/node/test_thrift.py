"""What a device does while it saves power, or its connection is metered."""

from meshd.discovery.events import ThriftChanged
from meshd.ids import Priority
from meshd.links.budget import SAVING_LINKS
from tests.node.harness import World


def told(world: World, *, on_battery: bool = False, metered: bool = False) -> None:
    world.devices[0].inbox.append(ThriftChanged(on_battery=on_battery, metered=metered))
    world.pump()


def test_bulk_mail_waits_and_other_mail_does_not() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    told(world, on_battery=True)
    a.send("d1", b"large", priority=Priority.BULK)
    a.send("d1", b"small")
    reader = b.read()
    assert reader.payloads == [b"small"]
    assert {(row["priority"], row["reason"]) for row in a.query("queue") if row["messages"]} >= {("bulk", "saving")}
    assert a.query("status")["saving"] == "battery"
    told(world)
    assert reader.payloads == [b"small", b"large"]
    assert a.query("status")["saving"] is None


def test_bulk_mail_of_others_waits_too() -> None:
    world = World(3)
    a, b, c = world.devices
    world.connect(b, a)
    world.connect(a, c)
    told(world, metered=True)
    world.sleep(10.0)
    b.send("d2", b"large", priority=Priority.BULK)
    b.send("d2", b"small")
    world.sleep(5.0)
    reader = c.read()
    assert reader.payloads == [b"small"]
    told(world)
    world.sleep(5.0)
    assert reader.payloads == [b"small", b"large"]


def test_a_metered_link_costs_more() -> None:
    world = World()
    a, b = world.devices
    world.connect(a, b)
    world.sleep(10.0)
    before = a.query("routes")[0]["metric"]
    told(world, metered=True)
    assert a.query("routes")[0]["metric"] >= before + 400
    told(world, on_battery=True)
    assert a.query("routes")[0]["metric"] == before


def test_fewer_links_are_kept() -> None:
    world = World()
    budget = world.devices[0].node._mesh.company._budget
    told(world, on_battery=True)
    assert budget.max_links == SAVING_LINKS
    told(world)
    assert budget.max_links == 16
