"""Why a device is linked or not, from what real dialers and routers say; and the graph of the mesh."""

import ipaddress
import random
from typing import Any

import pytest

from meshd.links.choice import LocalNetwork
from meshd.links.events import LinkMeasured, LinkUp
from meshd.links.peer import Decision, DialOutcome, PeerControl
from meshd.node.requests import Query, Remove
from meshd.transport.base import Address
from tests.node.harness import Device, World


class Dialer:
    """The dialer's mind about one peer, without its sockets, on a clock of its own."""

    def __init__(self, owner: Device, peer: Device) -> None:
        self.owner, self.peer = owner, peer
        self.now = 50.0
        self.control = PeerControl(
            me=owner.id, peer=peer.id, transports=("quic", "websocket"), rng=random.Random(1), now=self.now
        )
        self.look()

    def look(self) -> None:
        """Have the node see it as it is now."""
        self.control.next_step(self.now)
        self.show()

    def show(self) -> None:
        """The same without another decision."""
        self.owner.dialers[self.peer.id] = self.control.statistics(self.now)

    def seen(self, *addresses: tuple[str, str], source: str = "mdns") -> None:
        """Addresses were heard of."""
        found = [Address(transport, host, 7843) for transport, host in addresses]
        self.owner.node.peers.seen(self.peer.id, [(address, source) for address in found])
        self.control.candidates_seen([a for a in found if a.transport != "memory"], source, self.now)
        self.look()

    def fail(self, reason: str = "Connection refused", *, times: int = 1) -> None:
        """Dials that come to nothing at any address."""
        for _ in range(times):
            while True:
                step = self.control.next_step(self.now)
                if step.decision is Decision.DIALING:
                    break
                self.now = step.until
            for candidate in step.candidates:
                self.control.attempt_failed(candidate.address, reason, self.now)
            self.control.dial_ended(DialOutcome.FAILED, self.now)
        self.look()

    def linked(self, transport: str, *, suspect: bool = False) -> None:
        """The peer dialed this device."""
        up = LinkUp(
            900, self.peer.id, transport, Address(transport, "192.0.2.9", 7843), False, self.peer.node.epoch, None
        )
        self.control.link_up(up, self.now)
        self.owner.inbox.append(up)
        self.owner.inbox.append(LinkMeasured(900, 0.02, suspect, answered=1))
        self.owner.world.pump()
        self.look()


@pytest.fixture
def dialer() -> Dialer:
    """What d0 knows of d1."""
    world = World(2)
    return Dialer(world.devices[0], world.devices[1])


def why(dialer: Dialer) -> Any:
    return dialer.owner.query("why", "d1")


class TestWhyNot:
    def test_no_address_is_known(self, dialer: Dialer) -> None:
        answer = why(dialer)
        assert (answer["name"], answer["state"]) == ("d1", "no-address")
        assert answer["decision"] == "not dialed because no address of it is known"
        assert "5353" in answer["hint"]
        assert answer["candidates"] == []
        assert (answer["link"], answer["quality"], answer["grade"], answer["route"]) == (None, None, None, None)

    def test_its_only_address_is_a_container_of_this_machine(self, dialer: Dialer) -> None:
        network = LocalNetwork(interface="docker0", network=ipaddress.ip_network("192.0.2.0/24"), bridge=True)
        dialer.control.networks_changed([network], dialer.now)
        dialer.seen(("quic", "192.0.2.1"))
        answer = why(dialer)
        assert answer["decision"] == "not dialed because none of its known addresses is of use"
        assert "links.transports" in answer["hint"]
        [candidate] = answer["candidates"]
        assert (candidate["address"], candidate["usable"]) == ("quic://192.0.2.1:7843", False)

    def test_it_is_being_dialed(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"))
        dialer.now += 1.0
        dialer.look()
        assert why(dialer)["state"] == "dialing"

    def test_it_was_only_just_heard_of(self, dialer: Dialer) -> None:
        dialer.control.candidates_seen([Address("quic", "192.0.2.1", 7843)], "card", dialer.now + 0.1)  # a head start
        dialer.look()
        answer = why(dialer)
        assert answer["state"] == "waiting"
        assert answer["decision"].endswith("because it was linked, or heard of, only a moment ago")

    def test_a_dial_failed_and_the_next_is_due(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"), ("websocket", "192.0.2.1"))
        dialer.fail("Connection refused")
        dialer.now += 0.01
        dialer.show()
        answer = why(dialer)
        assert answer["state"] == "waiting"
        assert answer["decision"].startswith("waiting 0.")
        assert answer["decision"].endswith(" s because the last dial failed")
        assert "meshctl breaker reset d1" in answer["hint"]
        assert answer["last_error"] == "websocket://192.0.2.1:7843: Connection refused"
        assert [(c["transport"], c["source"], c["last_error"], c["last_tried_s"]) for c in answer["candidates"]] == [
            ("quic", "mdns", "Connection refused", 0.01),
            ("websocket", "mdns", "Connection refused", 0.01),
        ]

    def test_the_breaker_is_open_and_when_it_lets_the_next_dial_through(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"))
        dialer.fail(times=9)
        answer = why(dialer)
        wait_s = answer["breaker_detail"]["next_attempt_s"]
        dialer.now += wait_s - 0.001
        assert dialer.control.next_step(dialer.now).decision is not Decision.DIALING
        dialer.now += 0.002
        assert dialer.control.next_step(dialer.now).decision is Decision.DIALING
        assert answer["breaker"] == "open"
        assert answer["state"] == "breaker-open"
        shown = f"{wait_s:.1f}" if wait_s < 10 else f"{wait_s:.0f}"
        assert answer["decision"] == f"waiting {shown} s because the breaker is open: 9 dials in a row failed"

    def test_the_one_attempt_of_a_breaker_is_under_way(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"))
        dialer.fail(times=5)
        while dialer.control.next_step(dialer.now).decision is not Decision.DIALING:
            dialer.now = dialer.control.next_step(dialer.now).until
        dialer.look()  # asked again meanwhile
        answer = why(dialer)
        assert (answer["breaker"], answer["state"]) == ("half-open", "breaker-open")
        assert "under way" in answer["decision"]
        assert answer["breaker_detail"]["next_attempt_s"] is None
        assert answer["breaker_detail"]["reason"] == "3 successes close it"

    def test_it_was_removed(self) -> None:
        world = World(3)
        a = world.devices[0]
        a.ask(Remove, device="d2")
        answer = a.query("why", "d2")
        assert (answer["state"], answer["decision"]) == ("removed", "not dialed because it was removed from the mesh")
        assert "meshctl invite" in answer["hint"]

    def test_this_device_was_removed(self) -> None:
        world = World(3)
        a, b, _ = world.devices
        world.connect(a, b)
        a.ask(Remove, device="d1")
        answer = b.query("why", "d2")
        assert answer["decision"] == "not linked because this device was removed from the mesh"

    def test_the_daemon_has_no_dialer_for_it_yet(self) -> None:
        answer = World(2).devices[0].query("why", "d1")
        assert (answer["state"], answer["breaker"], answer["breaker_detail"]) == ("idle", "closed", None)

    @pytest.mark.parametrize(
        ("peer", "code"), [("d0", "E_USAGE"), ("d9", "E_UNKNOWN_DEVICE"), ("", "E_UNKNOWN_DEVICE")]
    )
    def test_who_is_no_peer_is_refused(self, dialer: Dialer, peer: str, code: str) -> None:
        assert dialer.owner.code(dialer.owner.ask(Query, view="why", argument=peer)) == code

    def test_there_is_no_mesh(self) -> None:
        world = World(1)
        lone = Device(world, 7, None, 1 << 20)
        world.devices.append(lone)
        for view in ("why", "graph"):
            assert lone.code(lone.ask(Query, view=view, argument="d0")) == "E_NO_MESH"


class TestWhyLinked:
    def test_over_the_best_transport(self, dialer: Dialer) -> None:
        dialer.linked("quic")
        answer = why(dialer)
        assert (answer["state"], answer["hint"]) == ("linked", None)
        assert answer["decision"] == "linked over quic for 0.0 s, because quic is the best transport there is"
        assert answer["link"] == {
            "transport": "quic",
            "address": "quic://192.0.2.9:7843",
            "dialed": False,
            "since_s": 0.0,
            "suspect": False,
        }
        assert (answer["rtt_ms"], answer["loss"], answer["grade"]) == (20.0, 0.0, "excellent")
        assert 90 <= answer["quality"] <= 100

    def test_a_better_transport_failed(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"), ("websocket", "192.0.2.1"))
        dialer.fail("no answer within 8 s")
        dialer.linked("websocket")
        answer = why(dialer)
        assert answer["decision"].startswith(
            "linked over websocket for 0.0 s, because quic failed (no answer within 8 s) and is tried again in "
        )
        assert "UDP port 7843" in answer["hint"]
        assert answer["last_error"] is None

    def test_a_better_transport_is_being_tried(self, dialer: Dialer) -> None:
        dialer.seen(("quic", "192.0.2.1"))
        dialer.linked("websocket")
        assert "because quic is only tried in " in why(dialer)["decision"]
        dialer.now += 60.0
        dialer.look()
        answer = why(dialer)
        assert answer["state"] == "upgrading"
        assert answer["decision"].endswith("because quic is being tried")

    def test_no_better_transport_is_known(self, dialer: Dialer) -> None:
        dialer.linked("websocket")
        assert "no address of a better transport is known" in why(dialer)["decision"]

    def test_it_is_silent(self, dialer: Dialer) -> None:
        dialer.linked("quic", suspect=True)
        answer = why(dialer)
        assert answer["decision"].endswith("; it is silent for longer than usual, and being probed")
        assert answer["link"]["suspect"] is True

    def test_spans_are_shown_in_the_largest_unit(self, dialer: Dialer) -> None:
        dialer.linked("quic")
        for seconds, shown in ((12, "12 s"), (90, "1 min"), (7300, "2 h"), (200_000, "2 d")):
            dialer.owner.node.peers.peer(dialer.peer.id).links[900].since = dialer.owner.world.now - seconds
            assert why(dialer)["decision"].startswith(f"linked over quic for {shown}, ")


class TestGraph:
    def test_links_and_what_routes_tell(self) -> None:
        world = World(5)
        a, b, c, d, _ = world.devices
        for one, other in ((a, b), (a, c), (b, c), (c, d)):
            world.connect(one, other)
        world.advance(30.0)
        answer = a.query("graph")
        names = {node["id"]: node["name"] for node in answer["nodes"]}
        assert [(node["name"], node["role"], node["state"]) for node in answer["nodes"]] == [
            ("d0", "admin", "self"),
            ("d1", "member", "up"),
            ("d2", "member", "up"),
            ("d3", "member", "routed"),
            ("d4", "member", "down"),
        ]
        edges = {
            (names[edge["from"]], names[edge["to"]], edge["kind"], edge["transport"]): edge for edge in answer["edges"]
        }
        assert {("d0", "d1", "link", "memory"), ("d0", "d2", "link", "memory")} <= set(edges)
        assert edges["d2", "d3", "route", None]["selected"] is True
        assert {one for one, _, kind, _ in edges if kind == "link"} == {"d0"}
        [route] = [row for row in a.query("routes") if row["name"] == "d3" and row["state"] == "selected"]
        link = edges["d0", "d2", "link", "memory"]
        assert edges["d2", "d3", "route", None]["metric"] + link["metric"] == route["metric"]
        why = a.query("why", "d3")
        assert why["route"]["next_hop_name"] == "d2"
        assert why["route"]["metric"] == route["metric"]

    def test_removed_devices_are_not_drawn(self) -> None:
        world = World(3)
        a = world.devices[0]
        a.ask(Remove, device="d2")
        assert [node["name"] for node in a.query("graph")["nodes"]] == ["d0", "d1"]

    def test_a_removed_device_still_sees_itself(self) -> None:
        world = World(2)
        a, b = world.devices
        world.connect(a, b)
        a.ask(Remove, device="d1")
        assert [(node["name"], node["state"]) for node in b.query("graph")["nodes"]] == [("d0", "down"), ("d1", "self")]

    def test_a_silent_device_is_marked(self, dialer: Dialer) -> None:
        dialer.linked("quic", suspect=True)
        answer = dialer.owner.query("graph")
        assert [node["state"] for node in answer["nodes"]] == ["self", "suspect"]
