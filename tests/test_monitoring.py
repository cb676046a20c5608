"""The dashboard and the alert rules speak of metrics, labels and values that real daemons tell."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from meshd.node.insight.metrics import CATALOGUE
from tests.bench.mesh import await_links, mesh
from tests.netlab.lab import eventually
from tests.node.test_hooks import Receiver

MONITORING = Path(__file__).parents[1] / "packaging" / "monitoring"
DASHBOARD = MONITORING / "dashboard.json"
RULES = MONITORING / "alerts.yml"
GIVEN_BY_PROMETHEUS = {"instance", "job"}
NAME = re.compile(r"\b(?:meshd|process)_[a-z_]+\b")
MATCHER = re.compile(r"\b(meshd_[a-z_]+)\{([^}]*)\}")


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that show something."""
    return [panel for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """Every PromQL expression of the dashboard."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rule_expressions() -> list[str]:
    """Every PromQL expression of the alert rules."""
    return re.findall(r"^ +expr: (.+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)


EXPRESSIONS = dashboard_expressions() + rule_expressions()


def metrics_of_a_daemon() -> dict[str, set[str]]:
    """The sample names that a daemon with a peer tells, and the labels of each."""
    with mesh("kitchen", "attic") as (kitchen, attic):
        kitchen.ask("send", destination="attic", messages=[b"dinner"], service="box", wait="delivered")
        text = kitchen.ask("metrics")["text"]
        # Twice, and from the other side: making the text changes nothing, and takes no turn of its own to come.
        assert eventually(lambda: attic.ask("metrics")["text"], within_s=5, what="the other daemon's metrics")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if not family.samples:  # nothing to count yet; its name is told all the same
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = set(CATALOGUE[name].labels)
    return found


def test_there_is_something_to_look_at() -> None:
    assert len(panels()) > 20
    assert len(rule_expressions()) == RULES.read_text(encoding="utf-8").count("- alert:") > 10


def test_every_metric_and_label_that_is_named_is_told_by_a_real_daemon() -> None:
    told = metrics_of_a_daemon()  # once for all of them
    for expression in EXPRESSIONS:
        named = set(NAME.findall(expression))
        assert named or 'job="meshd"' in expression
        assert named - told.keys() == set(), expression
        for name, matchers in MATCHER.findall(expression):
            labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers))
            assert labels - GIVEN_BY_PROMETHEUS - told[name] == set(), expression
        known = set().union(*[told[name] for name in named], GIVEN_BY_PROMETHEUS)
        for labels in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(labels.split(", ")) - known == set(), expression


def test_every_rule_says_what_to_do() -> None:
    text = RULES.read_text(encoding="utf-8")
    for rule in text.split("- alert: ")[1:]:
        assert re.search(r"severity: (warning|critical)", rule), rule
        assert "summary: " in rule, rule
        assert "action: " in rule, rule


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    everything = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [
        (x, y)
        for panel in everything
        for at in (panel["gridPos"],)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places)
    assert all(x < 24 for x, _ in places)


def test_a_peer_that_dies_is_told_to_a_webhook_and_is_an_event(tmp_path: Path) -> None:
    receiver = Receiver()
    try:
        with mesh("kitchen", "attic") as (kitchen, attic):
            kitchen.stop()
            hook = tmp_path / "hook"
            kitchen.program = (
                *(
                    "/usr/bin/env",
                    f"MESHD_ALERTS_WEBHOOK={receiver.url}",
                    "MESHD_ALERTS_MUTE=loop-lag,disk-low,clock-skew",  # nothing is known of this machine
                    f"MESHD_ALERTS_EXEC=/bin/cp,/dev/stdin,{hook}",
                ),
                *(sys.executable, "-m", "meshd.daemon"),
            )
            kitchen.start()
            await_links((kitchen, attic))
            attic.stop()
            bodies = eventually(lambda: [body for _, body in receiver.requests], within_s=20, what="the webhook")
            active = [row for row in kitchen.ask("alerts") if row["state"] == "active"]
            events = [row["event"] for row in kitchen.ask("events") if "alert" in row]
            shown = {row["key"]: row["value"] for row in kitchen.ask("config")}
            text = kitchen.ask("metrics")["text"]
            told = eventually(
                lambda: hook.exists() and hook.read_text(encoding="utf-8"), within_s=20, what="the program"
            )
    finally:
        receiver.close()
    assert [(row["name"], row["peer_name"], row["severity"]) for row in active] == [("peer-down", "attic", "warning")]
    assert (bodies[0]["name"], bodies[0]["change"], bodies[0]["device"]) == ("peer-down", "raised", "kitchen")
    assert json.loads(told) == bodies[0]
    assert events == ["alert-raised"]
    assert 'meshd_alerts_active{alert="peer-down"} 1.0' in text
    assert shown["alerts.webhook"] == "***"
