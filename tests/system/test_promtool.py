"""Prometheus's own tool on the alert rules, on every expression of the dashboard, and on a real daemon's text."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.mesh import mesh
from tests.test_monitoring import RULES, dashboard_expressions

pytestmark = pytest.mark.system

# Grafana puts these in before Prometheus sees the expression.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*"}

RULE_TEST = """\
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'meshd_peer_up{{instance="a", job="meshd", peer="b"}}', values: '1x10 0x40'}}
      - {{series: 'meshd_spool_used_bytes{{instance="a", job="meshd"}}', values: '0x20 96x40'}}
      - {{series: 'meshd_spool_quota_bytes{{instance="a", job="meshd"}}', values: '100x60'}}
    alert_rule_test:
      - {{eval_time: 20m, alertname: MeshdPeerDown, exp_alerts: []}}
      - eval_time: 30m
        alertname: MeshdPeerDown
        exp_alerts:
          - exp_labels: {{severity: warning, instance: a, job: meshd, peer: b}}
            exp_annotations:
              summary: "a has had no link to b for 15 minutes"
              action: "On a: meshctl why b"
      - {{eval_time: 20m, alertname: MeshdSpoolFull, exp_alerts: []}}
      - eval_time: 22m
        alertname: MeshdSpoolFull
        exp_alerts:
          - exp_labels: {{severity: critical, instance: a, job: meshd}}
            exp_annotations:
              summary: "a is about to refuse messages: its spool is full"
              action: "For whom it waits: meshctl queue. More room: store.quota"
"""


@pytest.fixture(scope="module")
def promtool() -> str:
    """Never a silent skip: who runs the system tests wants to know."""
    found = shutil.which("promtool")
    if found is None:
        pytest.fail("promtool is not installed (sudo apt install prometheus)")
    return found


def run(*command: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, input=text, check=False)


def check(*command: str | Path, text: str | None = None) -> str:
    done = run(*command, text=text)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_rules(place: Path, expressions: list[str]) -> Path:
    """The expressions as recording rules, which promtool reads (YAML takes JSON)."""
    rules = [{"record": f"checked:expression:{number}", "expr": text} for number, text in enumerate(expressions)]
    place.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    return place


def test_the_alert_rules_are_sound(promtool: str) -> None:
    assert "SUCCESS" in check(promtool, "check", "rules", RULES)


def test_every_expression_of_the_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    for variable, value in VARIABLES.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    assert not [expression for expression in expressions if "$" in expression]
    told = check(promtool, "check", "rules", as_rules(tmp_path / "rules.yml", expressions))
    assert f"{len(expressions)} rules found" in told


def test_a_broken_expression_would_be_seen(promtool: str, tmp_path: Path) -> None:
    assert run(promtool, "check", "rules", as_rules(tmp_path / "rules.yml", ["sum by (x) (rate(up))"])).returncode != 0


def test_rules_fire_when_they_should(promtool: str, tmp_path: Path) -> None:
    test = tmp_path / "test.yml"
    test.write_text(RULE_TEST.format(rules=os.fspath(RULES)), encoding="utf-8")
    assert "SUCCESS" in check(promtool, "test", "rules", test)


def test_the_text_of_a_real_daemon_keeps_to_the_rules_for_names(promtool: str) -> None:
    with mesh("kitchen", "attic") as (kitchen, _):
        text = kitchen.ask("metrics")["text"]
    assert check(promtool, "check", "metrics", text=_older(text)) == ""


def _older(text: str) -> str:
    """OpenMetrics as the older text format, the one that this promtool checks: it has no info metrics and no end."""
    counters = set(re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE))
    lines: list[str] = []
    for line in text.splitlines():
        words = line.split(" ", 3)
        if line == "# EOF" or words[0].startswith("meshd_info") or words[1:3] in (["TYPE", "meshd"], ["HELP", "meshd"]):
            continue
        if words[0] == "#" and words[2] in counters:
            words[2] += "_total"
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"
