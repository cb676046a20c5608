"""``support-bundle``: what is in it, and that no planted secret is."""

import base64
import itertools
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from meshd.cli.app import run
from meshd.cli.processes import Daemon
from meshd.client.blocking import Client
from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon

WORD = "planted-secret-7c1f"


def contents(file: Path) -> dict[str, bytes]:
    """What is in the archive, by name."""
    with tarfile.open(file) as archive:
        found = {}
        for member in archive.getmembers():
            part = archive.extractfile(member)
            assert part is not None
            found[member.name.removeprefix("meshd-support/")] = part.read()
        return found


def hits(parts: dict[str, bytes], secret: bytes) -> list[str]:
    """Where a secret is found, plain or in the usual disguises."""
    forms = {secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"="), base64.b32encode(secret)}
    forms |= {base64.b64encode(secret[skip:])[:-4] for skip in (1, 2) if len(secret) > 8}
    return [name for name, content in parts.items() for form in forms if form in content]


def test_no_secret_of_a_device_that_has_been_used_is_in_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon("kitchen", tmp_path / "d")
    daemon.start()
    try:
        with Client(str(daemon.socket_path)) as client:
            words = client.call("init", {"name": "home"})["recovery_words"]
            code = client.call("invite")["code"]
            message = [WORD.encode() * 3, {"x-header": WORD}, "answers"]
            client.call("send", {"destination": "kitchen", "messages": [message], "key": WORD})
        target = tmp_path / "bundle.tar.gz"
        assert run(["--socket", str(daemon.socket_path), "support-bundle", str(target)]) == 0
        assert "No messages, keys or codes" in capfd.readouterr().out
        state = daemon.directory / "state"
        key = b"".join(line for line in (state / "identity.key").read_bytes().splitlines() if b"--" not in line)
    finally:
        daemon.abandon()
    parts = contents(target)
    assert b'"kitchen"' in parts["status.json"]
    assert b'"check": "disk"' in parts["doctor.json"]
    assert os.stat(target).st_mode & 0o777 == 0o600
    assert hits(parts, b'"kitchen"'), "the search finds what is there"
    seed = base64.b64decode(key)[-32:]
    secrets = [
        WORD.encode(),
        code.encode(),
        code.encode()[8:24],
        key,
        seed,
        *[b" ".join(pair) for pair in pairs(words)],
    ]
    assert {secret: found for secret in secrets if (found := hits(parts, secret))} == {}


def pairs(words: object) -> list[tuple[bytes, bytes]]:
    """Neighbouring words: one alone may be in any text."""
    split = (words if isinstance(words, str) else " ".join(map(str, words))).encode().split()  # type: ignore[call-overload]
    assert len(split) >= 12
    return list(itertools.pairwise(split))


def test_fields_that_are_not_listed_and_settings_that_may_be_secret_stay_out(
    meshctl: Meshctl, daemon: FakeDaemon, directory: Path
) -> None:
    def row(key: str, value: object, source: str = "m.toml:1") -> dict[str, object]:
        return {"key": key, "value": value, "source": source}

    settings = [
        row("store.quota", "2GiB"),
        row("alerts.webhook", f"https://example/{WORD}"),
        row("http.tokens", [WORD]),
        row("http.enabled", True),
        row("relay.urls", [f"wss://{WORD}@relay.example:443"], "environment: MESHD_RELAY_URLS"),
        row("alerts.command", "", "m.toml:9"),
    ]
    answers: dict[str, Any] = {
        "status": {"version": "0.1.0", "token": WORD},
        "config": settings,
        "queue": [{"name": "attic", "messages": 1, "payload": WORD}],
        "events": [{"event": "peer-up", "name": "attic", "code": WORD[:0], "invitation": WORD}],
    }
    for name in ("members", "peers", "routes", "doctor", "alerts"):
        answers[name] = [{"name": "attic", "check": "x", "secret": WORD}]
    answers["graph"] = {"nodes": [], "edges": [], "extra": WORD}
    daemon.answers |= answers
    target = directory / "b.tar.gz"
    assert meshctl("support-bundle", str(target), "--json").document["file"] == str(target)
    parts = contents(target)
    assert hits(parts, WORD.encode()) == []
    assert b"2GiB" in parts["config.json"]
    assert parts["config.json"].count(b"(set)") == 3
    assert b"attic" in parts["queue.json"]


def test_without_a_daemon_the_rest_is_collected_and_nothing_is_overwritten(meshctl: Meshctl, directory: Path) -> None:
    target = directory / "b.tar.gz"
    assert meshctl("support-bundle", str(target)).code == 0
    parts = contents(target)
    assert b"E_NO_DAEMON" in parts["status.json"]
    assert parts["system/proc/net/dev"]
    again = meshctl("support-bundle", str(target), "--json")
    assert (again.code, again.error["code"]) == (2, "E_USAGE")
