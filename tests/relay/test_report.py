"""A relay's owner looks at it: from a real relay with a real device, and its alerts."""

import json
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from meshd.client.blocking import Client
from meshd.errors import MeshdError
from meshd.histogram import Histogram
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import Thresholds
from meshd.relay.metrics import MAX_MESHES, METRICS, OTHERS, MeshFigures, bounded, together
from meshd.relay.report import SOCKET_NAME, ask_relay
from meshd.relay.watch import RelayWatch
from tests.gateway.daemon import Daemon, daemon

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
START_S = 60.0
MESH = MeshFigures(name="m", devices=3, linked=1, bundles=7, size_bytes=100, quota_bytes=1000)


@attrs.frozen
class Relay:
    """One that runs on loopback."""

    state: Path
    port: int
    certificate: str

    def tell(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "meshd.relay", "--state-dir", str(self.state), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=True).stdout


@pytest.fixture
def relay() -> Iterator[Relay]:
    with tempfile.TemporaryDirectory(prefix="meshd-") as name:
        state = Path(name)
        command = [sys.executable, "-m", "meshd.relay", "--state-dir", name, "--listen", "127.0.0.1:0"]
        with subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = ""
            while '"running"' not in line:
                assert select.select([process.stderr], [], [], START_S)[0], "it does not start"
                line = process.stderr.readline()
                assert line, "it ended"
            told = json.loads(line)
            [port] = re.findall(r"websocket://127\.0\.0\.1:(\d+)", " ".join(told["listen"]))
            yield Relay(state, int(port), told["certificate"])
            process.terminate()
            process.communicate(timeout=START_S)
            assert process.returncode == 0
            assert not (state / SOCKET_NAME).exists()


@pytest.fixture
def running() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="meshd-") as root, daemon(Path(root)) as started:
        yield started


def test_a_relay_tells_what_it_serves_to_people_scripts_and_prometheus(relay: Relay, running: Daemon) -> None:
    assert json.loads(relay.tell("--status", "--json"))["meshes"] == []
    assert (relay.state / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    running.meshctl("relay", "add", f"wss://127.0.0.1:{relay.port}", "--certificate", relay.certificate)
    with Client(str(running.native_socket)) as client:
        while client.call("relays")[0]["state"] != "up":
            time.sleep(0.1)
        mesh_id = client.call("status")["mesh"]["id"]
    told = json.loads(relay.tell("--status", "--json"))
    [mesh] = told["meshes"]
    assert (mesh["id"], mesh["devices"], mesh["linked"], mesh["bundles"]) == (mesh_id, 1, 1, 0)
    assert mesh["quota_bytes"] == 1 << 30
    assert told["links"] >= 1  # two, when the second that was raced came up as well
    assert told["alerts"] == []
    assert told["commits"] >= 1
    shown = relay.tell("--status")
    assert f"mesh     {mesh_id}  1 of 1 devices linked" in shown
    families = {family.name: family for family in text_string_to_metric_families(relay.tell("--metrics"))}
    [linked] = families["meshd_relay_devices_linked"].samples
    assert (linked.labels, linked.value) == ({"mesh": mesh_id}, 1)
    assert {re.sub("_(total|info)$", "", metric.name) for metric in METRICS} <= set(families)


def test_where_none_runs_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(MeshdError) as caught:
        ask_relay(tmp_path, "status")
    assert caught.value.code == "E_NO_DAEMON"
    assert str(tmp_path) in caught.value.message


def watched(seconds: float, what: dict[str, Any]) -> list[tuple[float, str, str, str]]:
    """What the hooks of a relay are told in so long, and when; ``what`` changes by itself after 3 s."""
    found: list[tuple[float, str, str, str]] = []

    async def run() -> None:
        send, receive = trio.open_memory_channel[dict[str, Any]](10)
        began = trio.current_time()
        watch = RelayWatch(
            thresholds=Thresholds(),
            vitals=Vitals(),
            free_bytes=lambda: what["free"] if trio.current_time() - began > 3 else 1 << 40,
            meshes=lambda: [(bytes(32), what["mesh"] if trio.current_time() - began > 3 else MESH)],
            tell=send,
            device="relay",
        )
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                async for alert in receive:
                    at = round(trio.current_time() - began, 1)
                    found.append((at, alert["name"], alert["change"], alert["severity"]))
        assert sum(watch.active().values()) == len([row for row in watch.documents() if row["until"] is None])

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return found


def test_a_relay_in_order_tells_nothing() -> None:
    assert watched(60, {"free": 1 << 40, "mesh": MESH}) == []


def test_a_full_disk_and_a_full_mailbox_are_told_within_a_second() -> None:
    full = attrs.evolve(MESH, size_bytes=960)
    told = watched(60, {"free": 1 << 20, "mesh": full})
    assert {row[1:] for row in told} == {
        ("disk-low", "raised", "critical"),
        ("spool-filling", "raised", "critical"),
    }
    assert all(3 < at <= 4 for at, *_ in told)


def test_many_meshes_are_added_up() -> None:
    shown = bounded([MESH] * (MAX_MESHES + 2))
    assert (len(shown), shown[-1].name, shown[-1].devices) == (MAX_MESHES + 1, OTHERS, 6)
    assert bounded([MESH]) == [MESH]


def test_histograms_are_added_up() -> None:
    first, second = Histogram((1, 2)), Histogram((1, 2))
    first.observe(0.5)
    second.observe(1.5)
    second.observe(7)
    both = together([first.snapshot(), second.snapshot()])
    assert (both.buckets, both.total) == (((1, 1), (2, 2), (float("inf"), 3)), 9)


def test_the_page_lists_every_metric_of_the_relay() -> None:
    section = PAGE.read_text().partition("## The relay\n")[2].partition("<!--")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    labels = [", ".join(f"`{label}`" for label in metric.labels) or "none" for metric in METRICS]
    assert rows == [
        (metric.name, metric.kind.value, shown, metric.meaning) for metric, shown in zip(METRICS, labels, strict=True)
    ]
