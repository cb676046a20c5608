"""The examples of docs/http.md, as a person would type them, against a real daemon."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from meshd.config import load_config
from meshd.http.connection import Limits
from meshd.http.exchange import BODY_S, MAX_BODY_BYTES
from meshd.http.leases import MAX_LEASES
from meshd.http.operations import DEFAULT_LEASE_S, DEFAULT_WAIT_S, MAX_MESSAGES
from tests.gateway.daemon import START_S, Daemon, daemon

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
EXAMPLES: list[str] = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
MADE_UP_POSITION = "2.1099511627777"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def environment(running: Daemon) -> dict[str, str]:
    own = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{own}:{os.environ['PATH']}",
        "MESHD_SOCKET": str(running.native_socket),
        "HTTP_SOCKET": str(running.http_socket),
        "no_proxy": "*",
    }


def test_every_example_does_what_the_page_says(root: Path) -> None:
    assert len(EXAMPLES) >= 9
    with daemon(root) as running:
        outputs = {}
        for example in EXAMPLES:
            script = example.replace("http://127.0.0.1:7844", running.url)
            around = environment(running)
            ended = subprocess.run(["sh", "-c", script], env=around, capture_output=True, text=True, timeout=START_S)
            streams = "/stream" in example  # is cut off by its --max-time
            assert ended.returncode == (28 if streams else 0), (example, ended.stderr)
            assert '"error"' not in ended.stdout, (example, ended.stdout)
            outputs[example] = ended.stdout
        documents = {
            example: json.loads(out.splitlines()[0]) for example, out in outputs.items() if "/stream" not in example
        }
    [members] = [told for example, told in documents.items() if "/v1/members" in example]
    assert [member["name"] for member in members] == ["kitchen-pi"]
    states = [told["state"] for example, told in documents.items() if "/v1/send" in example]
    assert states == ["accepted", "delivered"]
    [received] = [told for example, told in documents.items() if "max=10" in example]
    assert [message["payload"] for message in received["messages"]] == ["on", "\0\1\2"]
    assert received["messages"][0]["sequence"] == int(MADE_UP_POSITION.partition(".")[2])
    assert MADE_UP_POSITION in PAGE
    # The example acknowledges the first message; the second comes again, and that is what it says.
    [again] = [told for example, told in documents.items() if f"ack={MADE_UP_POSITION}" in example]
    assert [message["payload"] for message in again["messages"]] == ["\0\1\2"]


def test_the_configuration_is_one() -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert load_config(text).http.enabled
    assert set(tomllib.loads(text)) == {"http"}


def test_limits_are_the_documented_ones() -> None:
    limits = Limits()
    rows = dict(re.findall(r"^\| ([a-z ]+) \| ([^|]+) \|", PAGE.partition("## Limits")[2], re.MULTILINE))
    assert rows["connections"] == str(limits.connections)
    assert rows["head of a request"] == f"{limits.head_bytes // 1024} KiB, {limits.head_s:g} s"
    assert rows["body"] == f"{MAX_BODY_BYTES // 1024**2} MiB, {BODY_S:g} s"
    assert rows["messages in one answer"].startswith(f"{MAX_MESSAGES:,}")
    assert rows["consumers being read"] == str(MAX_LEASES)
    assert rows["a client that does not read"] == f"{limits.send_s:g} s"
    assert rows["idle connection"] == f"{limits.idle_s:g} s"
    assert f"`wait_s` ({DEFAULT_WAIT_S}) seconds" in PAGE
    assert f"`lease_s` ({DEFAULT_LEASE_S}) seconds" in PAGE
