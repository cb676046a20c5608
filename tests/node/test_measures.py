"""Metrics: what happens is counted once, under bounded labels, and told as OpenMetrics text."""

import re
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from meshd.ids import Priority
from meshd.links.events import AcceptFailed, DialFailed, LinkDown, LinkUp
from meshd.node.effects import RenderMetrics
from meshd.node.insight.measures import MAX_PEERS, OTHERS
from meshd.node.insight.metrics import CATALOGUE, GROUPS, Kind
from meshd.node.insight.openmetrics import openmetrics
from meshd.node.requests import Query
from meshd.transport.base import Address
from tests.node.harness import Device, World
from tests.trust.people import mesh_of

ROOM = 64 * 1024 * 1024


def text_of(device: Device) -> str:
    """The metrics of a device, as the daemon would answer."""
    device.ask(Query, view="metrics")
    render = device.other.pop()
    assert isinstance(render, RenderMetrics)
    return openmetrics(render.families)["text"]


class Metrics:
    """Parsed OpenMetrics text."""

    def __init__(self, device: Device) -> None:
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text_of(device))
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """One sample; 0 when there is none."""
        return self.samples.get((name, tuple(sorted(labels.items()))), 0)

    def sum(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (found, _), value in self.samples.items() if found == name)


def linked(count: int = 2) -> tuple[World, *tuple[Device, ...]]:
    world = World(count)
    world.connect(world.devices[0], world.devices[1])
    return world, *world.devices


def test_mail_is_counted_at_both_ends() -> None:
    world, a, b = linked()
    a.send("d1", b"one", b"two", priority=Priority.HIGH)
    a.send("d1", b"three")
    reader = b.read()
    there, here = Metrics(b), Metrics(a)
    assert here("meshd_messages_accepted_total", priority="high") == 2
    assert here("meshd_messages_accepted_total", priority="normal") == 1
    assert here("meshd_messages_delivered_total", priority="high") == 2
    assert here("meshd_messages_consumed_total", priority="high") == 0
    assert there("meshd_messages_arrived_total", priority="high") == 2
    assert there("meshd_messages_read_total", priority="high") == 0
    assert there("meshd_inbox_bytes") > 0
    reader.ack()
    there, here = Metrics(b), Metrics(a)
    assert here.sum("meshd_messages_consumed_total") == there.sum("meshd_messages_read_total") == 3
    assert there("meshd_inbox_bytes") == 0
    assert here("meshd_bundles_sent_total", transport="memory") == 2
    assert there("meshd_bundles_received_total", transport="memory") == 2
    assert here("meshd_bundle_bytes_sent_total", transport="memory") > 0
    assert here("meshd_api_requests_total", op="send") == 2
    assert here("meshd_api_requests_total", op="metrics") == 2
    del world


def test_compression_is_the_ratio_of_two_counters() -> None:
    _, a, _ = linked()
    a.send("d1", b"the same again and again " * 400)
    metrics = Metrics(a)
    assert metrics("meshd_content_bytes_total") > 5 * metrics("meshd_packed_bytes_total") > 0


def test_mail_that_fails_to_be_stored_is_not_accepted() -> None:
    _, a, _ = linked()
    a.fails = lambda _: True
    a.send("d1", b"x", b"y")
    assert Metrics(a).sum("meshd_messages_accepted_total") == 0
    assert Metrics(a)("meshd_messages_turned_down_total", code="E_FULL") == 2
    assert Metrics(a)("meshd_commits_failed_total") >= 1


def test_a_refused_request_counts_its_messages_and_its_code() -> None:
    _, a, _ = linked()
    a.send("nobody", b"x", b"y")
    assert Metrics(a)("meshd_messages_turned_down_total", code="E_UNKNOWN_DEVICE") == 2
    assert Metrics(a)("meshd_api_errors_total", code="E_UNKNOWN_DEVICE") == 1


def test_mail_that_expires_on_the_way_and_unread() -> None:
    world, a, b = linked()
    a.send("d1", b"read by nobody", lifetime_ms=5_000)
    world.advance(10)
    assert Metrics(a)("meshd_messages_expired_total", reason="unread") == 1
    assert Metrics(b)("meshd_messages_unread_total", reason="unread") == 1
    world.disconnect(a, b)
    a.send("d1", b"one", b"two", lifetime_ms=5_000)
    world.advance(10)
    assert Metrics(a)("meshd_messages_expired_total", reason="lifetime") == 2


def test_what_waits_is_told_by_destination() -> None:
    world, a, b = linked()
    world.disconnect(a, b)
    a.send("d1", b"one", b"two")
    world.advance(60)
    metrics = Metrics(a)
    assert metrics("meshd_spool_messages", peer="d1", owner="own") == 2
    assert metrics("meshd_spool_bytes", peer="d1", owner="own") == metrics("meshd_spool_used_bytes") > 0
    assert metrics("meshd_spool_oldest_seconds", peer="d1", owner="own") == pytest.approx(60, abs=1)
    assert metrics("meshd_spool_quota_bytes") == ROOM
    assert metrics("meshd_disk_free_bytes") == 1 << 40


def test_a_hop_counts_what_it_takes_over_and_hands_on() -> None:
    world = World(3)
    a, b, c = world.devices
    world.connect(a, b)
    world.connect(b, c)
    world.advance(30)
    a.send("d2", b"through the middle")
    world.advance(1)
    metrics = Metrics(b)
    assert metrics("meshd_bundles_taken_over_total") == 1
    assert metrics("meshd_custody_ended_total", reason="passed-on") == 1
    assert metrics("meshd_routes", state="selected") >= 2
    assert metrics("meshd_route_changes_total") >= 2


def test_links_and_dials() -> None:
    world, a, b = linked()
    place = Address("quic", "192.0.2.7", 7843)
    a.inbox += [
        DialFailed(b.id, place, "E_UNREACHABLE", "nobody there"),
        AcceptFailed(place, "P_NOT_MEMBER", "a stranger"),
    ]
    world.pump()
    metrics = Metrics(a)
    assert metrics("meshd_peer_up", peer="d1") == 1
    assert metrics("meshd_peers", state="up") == 1
    assert metrics("meshd_dials_total", result="E_UNREACHABLE") == 1
    assert metrics("meshd_accepts_refused_total", reason="P_NOT_MEMBER") == 1
    assert metrics("meshd_links_up_total", transport="memory") == 1
    world.disconnect(a, b)
    metrics = Metrics(a)
    assert metrics("meshd_peer_up", peer="d1") == 0
    assert metrics("meshd_links_down_total", reason="lost") == 1


def test_another_transport_is_an_upgrade_or_a_downgrade_also_after_a_gap() -> None:
    world = World()
    a, b = world.devices

    def up(number: int, transport: str) -> None:
        remote = Address(transport, "192.0.2.7", 7843)
        a.inbox.append(LinkUp(number, b.id, transport, remote, dialed=True, epoch=b.node.epoch, seen=None))
        world.pump()

    up(101, "quic")
    a.inbox.append(LinkDown(101, b.id, "lost", "cut"))
    up(102, "websocket")
    assert Metrics(a)("meshd_transport_changes_total", direction="downgrade") == 1
    up(103, "quic")
    assert Metrics(a)("meshd_transport_changes_total", direction="upgrade") == 1
    assert Metrics(a)("meshd_transport_changes_total", direction="downgrade") == 1


def test_words_of_a_peer_are_no_labels() -> None:
    _, a, b = linked()
    for n in range(100):
        a.inbox.append(DialFailed(b.id, Address("quic", "192.0.2.7", 1), f"made up {n}", "x"))
    assert Metrics(a)("meshd_dials_total", result="other") == 100
    assert "made up" not in text_of(a)


def test_a_large_mesh_has_a_bounded_number_of_series() -> None:
    world = World(1)
    a = Device(world, 0, mesh_of(*range(1, MAX_PEERS + 3)), ROOM)
    world.devices = [a]
    a.send(max(f"d{number}" for number in range(1, MAX_PEERS + 3)), b"x")
    metrics = Metrics(a)
    listed = {labels for name, labels in metrics.samples if name == "meshd_peer_up"}
    assert len(listed) == MAX_PEERS
    assert metrics("meshd_peers_unlisted") == 2
    assert metrics("meshd_spool_messages", peer=OTHERS, owner="own") == 1


def test_every_metric_is_in_the_text_under_its_kind() -> None:
    _, a, _ = linked()
    text = text_of(a)
    told = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    endings = {Kind.COUNTER: "_total", Kind.INFO: "_info"}
    for metric in CATALOGUE.values():
        assert told.pop(metric.name.removesuffix(endings.get(metric.kind, ""))) == metric.kind.value
    assert all(name.startswith("process_") for name in told)
    assert text.endswith("# EOF\n")


def test_names_keep_to_the_rules_of_openmetrics() -> None:
    for metric in CATALOGUE.values():
        assert re.fullmatch(r"meshd_[a-z_]+", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert metric.meaning.endswith("."), metric.name


# --- docs/metrics.md: ``python -m tests.node.test_measures`` writes it

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
MARK = "<!-- The tables below are made from meshd/node/insight/metrics.py: python -m tests.node.test_measures -->\n"


def tables() -> str:
    """The part of docs/metrics.md that is made from the catalogue."""
    parts = [MARK]
    for group in GROUPS:
        parts.append(f"\n## {group.title}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|\n")
        for metric in group.metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
            parts.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.meaning} |\n")
    return "".join(parts)


def test_the_page_is_the_catalogue() -> None:
    before, mark, after = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert before
    assert mark + after == tables()


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + tables(), encoding="utf-8")
