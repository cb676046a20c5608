"""The journal's native protocol: what is sent, what becomes of what is too long, and a real journald that reads it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.journal import Journal, encode, entry, is_journal
from tests.needs import require

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
EVENT = {"event": "link up", "level": "info", "timestamp": "t", "component": "node", "peer": "attic", "rtt": 0.5}


def decode(data: bytes) -> dict[str, str]:
    """What a journal reads from a datagram."""
    fields: dict[str, str] = {}
    while data:
        name, _, rest = data.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            data = rest
        else:
            size = int.from_bytes(rest[:8], "little")
            key, value, data = name, rest[8 : 8 + size], rest[8 + size + 1 :]
        fields[key.decode()] = value.decode()
    return fields


@pytest.fixture
def journal() -> Iterator[tuple[socket.socket, Journal]]:
    """A socket in the journal's place, and what sends to it."""
    with (
        tempfile.TemporaryDirectory(prefix="meshd-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        contextlib.closing(Journal(f"{directory}/socket")) as sender,
    ):
        receiver.bind(f"{directory}/socket")
        receiver.settimeout(5)
        yield receiver, sender


def test_an_entry_has_a_line_for_people_and_fields_for_a_search() -> None:
    assert entry(EVENT, "meshd") == {
        "MESSAGE": "link up peer=attic rtt=0.5",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "meshd",
        "MESHD_EVENT": "link up",
        "MESHD_COMPONENT": "node",
        "MESHD_PEER": "attic",
        "MESHD_RTT": "0.5",
    }
    failed = entry({"event": "failed", "level": "error", "exception": "Traceback\n..."}, "meshd")
    assert (failed["MESSAGE"], failed["PRIORITY"]) == ("failed\nTraceback\n...", "3")
    odd = entry({"event": "x", "level": "debug", "a-b é": ["v"], "n" * 100: 1, "none": None}, "meshd")
    assert odd["MESHD_A_B__"] == '["v"]'
    assert max(map(len, odd)) == 64
    assert "MESHD_NONE" not in odd


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(st.characters(codec="utf-8"))))
def test_what_is_encoded_is_read_again(fields: dict[str, str]) -> None:
    assert decode(encode(fields)) == fields


def test_an_entry_is_a_datagram_and_what_is_too_long_a_sealed_file(journal: tuple[socket.socket, Journal]) -> None:
    receiver, sender = journal
    sender.send({"MESSAGE": "a\nb"})
    assert decode(receiver.recv(65536)) == {"MESSAGE": "a\nb"}
    long = {"MESSAGE": "x" * 4_000_000}
    sender.send(long)
    data, [descriptor], _, _ = socket.recv_fds(receiver, 65536, 1)
    assert data == b""
    with pytest.raises(PermissionError):
        os.write(descriptor, b"more")
    with open(descriptor, "rb") as file:
        file.seek(0)
        assert decode(file.read()) == long


def test_what_no_journal_takes_is_written_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(Journal("/nonexistent/socket")) as sender:
        sender.send({"MESSAGE": "said all the same"})
    assert json.loads(capfd.readouterr().err) == {"MESSAGE": "said all the same"}


def test_a_journal_that_does_not_read_holds_nobody_up(
    journal: tuple[socket.socket, Journal], capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(5000):
        journal[1].send({"MESSAGE": str(number)})
    assert len(capfd.readouterr().err.splitlines()) > 1000


def test_whether_standard_error_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        told = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(told, stream.fileno())
        assert not is_journal(told, 0)  # it was handed on to a child whose output goes elsewhere
        assert not is_journal({}, stream.fileno())
    assert not is_journal(told, 10_000)


RUN = r"""
mount -t tmpfs none /run && mount -t tmpfs none /var/log && mkdir -p /run/systemd/journal /run/log/journal || exit 1
echo 0123456789abcdef0123456789abcdef > /run/machine-id && mount --bind /run/machine-id /etc/machine-id || exit 1
"$1" & journald=$!
for tick in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
"$2" -c '
from meshd.logs import configure, get_logger
configure("info", "journal", {}, "tested")
log = get_logger("meshd.node")
log.warning("link down", peer="attic", code="P_TIMEOUT", token="planted-secret")
log.info("long", **{f"field{number}": "x" * 900 for number in range(400)})
'
for tick in $(seq 50); do
    journalctl --directory=/run/log/journal -t tested -o json --output-fields="$3" > /run/read
    [ "$(wc -l < /run/read)" = 2 ] && break; sleep 0.1
done
cat /run/read; kill $journald; wait $journald
"""


@pytest.mark.system
def test_a_real_journald_has_the_line_and_its_fields() -> None:
    if os.geteuid() != 0 or not JOURNALD.exists() or shutil.which("journalctl") is None:
        require("root and systemd-journald")
    shown = "MESSAGE,PRIORITY,MESHD_PEER,MESHD_CODE,MESHD_COMPONENT,MESHD_EVENT,MESHD_TOKEN"
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", RUN, "sh"]
    ended = subprocess.run(
        [*command, str(JOURNALD), sys.executable, shown], capture_output=True, text=True, timeout=60, check=False
    )
    first, second = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {name: value for name, value in first.items() if not name.startswith("_")} == {
        "MESSAGE": "link down peer=attic code=P_TIMEOUT token=***",
        "PRIORITY": "4",
        "MESHD_PEER": "attic",
        "MESHD_CODE": "P_TIMEOUT",
        "MESHD_COMPONENT": "node",
        "MESHD_EVENT": "link down",
        "MESHD_TOKEN": "***",
    }
    assert second["MESHD_EVENT"] == "long"
