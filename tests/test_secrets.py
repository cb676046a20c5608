"""A full run at level debug: founding, inviting, joining, mail, alerts, errors. No log has a secret in it."""

import json
import re
import sys
from pathlib import Path

import pytest

from meshd.errors import MeshdError
from meshd.trust.invitations import CODE_PREFIX
from tests.bench.mesh import Node, await_links
from tests.netlab.lab import eventually
from tests.node.test_hooks import Receiver

PAYLOAD = b"planted-payload-of-nobody's-business"
HEADER = "planted-header"
TOKEN = "planted-webhook-token"
PATH = "planted-webhook-path"


def start(name: str, directory: Path, url: str) -> Node:
    """A daemon that logs everything, and tells alerts to ``url``."""
    node = Node(name, directory / name)
    settings = ("MESHD_LOG_LEVEL=debug", f"MESHD_ALERTS_WEBHOOK={url}", f"MESHD_ALERTS_WEBHOOK_TOKEN={TOKEN}")
    attempts = ("MESHD_ALERTS_HOOK_ATTEMPTS=2", "MESHD_ALERTS_MUTE=loop-lag,clock-skew")
    node.program = ("/usr/bin/env", *settings, *attempts, sys.executable, "-m", "meshd.daemon")
    node.start()
    return node


def test_no_secret_is_in_any_log(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.statuses = [500]  # the hook fails once, and says so
    url = receiver.url.replace("/alerts?from=meshd", f"/{PATH}")
    nodes: list[Node] = []
    try:
        kitchen = start("kitchen", tmp_path, url)
        nodes.append(kitchen)
        attic = start("attic", tmp_path, url)
        nodes.append(attic)
        words = kitchen.ask("init", name="home")["recovery_words"]
        codes = [kitchen.ask("invite")["code"] for _ in range(2)]
        spoilt = codes[0][:-3] + ("aaa" if not codes[0].endswith("aaa") else "bbb")
        for wrong in (spoilt, f"{CODE_PREFIX}{PAYLOAD.decode()}"):
            with pytest.raises(MeshdError):
                attic.ask("join", code=wrong, name="attic")
        attic.ask("join", code=codes[0], name="attic")
        await_links((kitchen, attic))
        message = [PAYLOAD, {"title": HEADER}, None]
        [identity] = kitchen.ask("send", destination="attic", messages=[message], service="box", wait="delivered")[
            "ids"
        ]
        with pytest.raises(MeshdError):
            kitchen.ask("send", destination=PAYLOAD.decode()[:20], messages=[message], service="box")
        kitchen.ask("send", destination="attic", messages=[message], service="box", ephemeral=True)
        with attic.client() as client:
            client.call("log-level", {"level": "debug", "component": "delivery"})
            stream = client.stream("subscribe", {"service": "box", "credit": 5})
            assert PAYLOAD in stream.next(20)[0][10]
        attic.stop()
        eventually(lambda: len(receiver.requests) >= 2, within_s=30, what="the webhook, and again")
        kitchen.stop()
    finally:
        for node in nodes:
            node.abandon()
        receiver.close()
    logs = {node.name: (node.directory / "log").read_text(encoding="utf-8") for node in nodes}
    keys = [(node.directory / "state" / "identity.key").read_text(encoding="utf-8") for node in nodes]
    key_lines = [line for key in keys for line in key.splitlines() if not line.startswith("-----")]
    secrets = [TOKEN, PATH, HEADER, PAYLOAD.decode(), PAYLOAD.hex(), *codes, spoilt, *key_lines]
    phrase = words if isinstance(words, str) else " ".join(words)
    for name, text in logs.items():
        assert [secret for secret in [*secrets, phrase] if secret in text] == [], name
        assert "planted" not in text, name
        assert CODE_PREFIX not in text, name
    check_that_it_was_a_full_run(logs, identity)


def check_that_it_was_a_full_run(logs: dict[str, str], identity: str) -> None:
    """There was something to search: every line is JSON, and mail and link can be followed through both logs."""
    lines = {name: [json.loads(line) for line in text.splitlines()] for name, text in logs.items()}
    message = identity.partition("-")[0]
    life = {name: [line["event"] for line in told if line.get("message") == message] for name, told in lines.items()}
    assert {"message accepted", "message sent", "message delivered"} <= set(life["kitchen"])
    assert "message arrived" in life["attic"]
    links = {name: {line["link"] for line in told if line["event"] == "link up"} for name, told in lines.items()}
    assert links["kitchen"] & links["attic"]
    assert all(re.fullmatch(r"[a-z2-7]{8}", link) for link in links["kitchen"] | links["attic"])
    told = [line["event"] for line in lines["kitchen"] if line["component"] == "alerts"]
    assert {"alert not told", "alert told"} <= set(told)
    assert "debug" in {line["level"] for line in lines["attic"]}
