"""The README's Python example, as a person would run it, against a real daemon."""

import os
import re
import select
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from meshd.cli.processes import Daemon
from meshd.client.blocking import Client

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ANSWER_SECONDS = 30


def example() -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(code)


def program(event_loop: str) -> str:
    """The example in a function that ``event_loop`` runs."""
    return (
        f"import {event_loop}\n\n\nasync def main():\n{textwrap.indent(example(), '    ')}\n\n"
        f"{event_loop}.run({'main()' if event_loop == 'asyncio' else 'main'})\n"
    )


@pytest.mark.parametrize("event_loop", ["trio", "asyncio"])
def test_the_python_example_sends_and_receives(event_loop: str, tmp_path: Path) -> None:
    daemon = Daemon("kitchen-pi", tmp_path)
    daemon.start()
    try:
        with Client(str(daemon.socket_path)) as client:
            client.call("init", {"name": "home"})
            sent = client.call("send", {"destination": "kitchen-pi", "service": "replies", "messages": [b"warm"]})
            environment = os.environ | {"MESHD_SOCKET": str(daemon.socket_path), "PYTHONUNBUFFERED": "1"}
            with subprocess.Popen(
                [sys.executable, "-c", program(event_loop)], env=environment, stdout=subprocess.PIPE
            ) as app:
                assert app.stdout is not None
                try:
                    ready, _, _ = select.select([app.stdout], [], [], ANSWER_SECONDS)
                    assert ready, "the example printed nothing"
                    assert app.stdout.readline() == b"kitchen-pi b'warm'\n"
                    # The example has acked it.
                    assert client.call("await", {"id": sent["ids"][0], "state": "consumed"})["state"] == "consumed"
                finally:
                    app.kill()
            assert client.call("queue") == [], "what the example sent was delivered"
    finally:
        daemon.abandon()
