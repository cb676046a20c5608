"""``config show`` and ``config check``, and a daemon of another version."""

from pathlib import Path

import pytest

from meshd.api import protocol
from meshd.errors import MeshdError
from tests.cli.conftest import Meshctl
from tests.cli.daemon import FakeDaemon

ROWS = [
    {"key": "discovery.interfaces", "value": ["eth0"], "source": "environment: MESHD_DISCOVERY_INTERFACES"},
    {"key": "discovery.mdns", "value": True, "source": "default"},
    {"key": "log.levels", "value": {"links": "debug"}, "source": "/etc/meshd/meshd.toml:7"},
    {"key": "store.quota", "value": "2GiB", "source": "/etc/meshd/meshd.toml:3"},
]


def test_what_the_daemon_goes_by_is_a_table(meshctl: Meshctl, daemon: FakeDaemon) -> None:
    daemon.answers["config"] = ROWS
    assert meshctl("config", "show").out.splitlines() == [
        "KEY                   VALUE                FROM",
        'discovery.interfaces  ["eth0"]             environment: MESHD_DISCOVERY_INTERFACES',
        "discovery.mdns        true                 default",
        'log.levels            { links = "debug" }  /etc/meshd/meshd.toml:7',
        'store.quota           "2GiB"               /etc/meshd/meshd.toml:3',
    ]
    assert meshctl("config", "show", "--json").document == ROWS
    assert [row["key"] for row in meshctl("config", "show", "--set", "--json").document] == [
        "discovery.interfaces",
        "log.levels",
        "store.quota",
    ]
    daemon.answers["config"] = ROWS[1:2]
    assert meshctl("config", "show", "--set").out == "Nothing is set: everything has its default.\n"


def test_a_file_is_shown_and_checked_without_a_daemon(meshctl: Meshctl, directory: Path) -> None:
    file = directory / "m.toml"
    file.write_text('[store]\nquota = "2GiB"\n')
    shown = meshctl("config", "show", "--file", str(file), "--set", "--json").document
    assert shown == [{"key": "store.quota", "value": "2GiB", "source": f"{file}:2"}]
    assert meshctl("config", "check", str(file)).out == f"{file} is right. It sets store.quota.\n"
    assert meshctl("config", "check", str(file), "--json").document == {"file": str(file), "settings": 1}
    file.write_text("")
    assert meshctl("config", "check", str(file)).out == f"{file} is right. It sets nothing.\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[store]\nquta = "2GiB"\n', "m.toml:2: store.quta: there is no such key"),
        ('\n[store]\nquota = "2 many"\n', 'm.toml:3: store.quota: expected a size such as "512MiB" or "1GiB"'),
        ("[store\n", "m.toml:1: expected TOML"),
    ],
)
def test_what_is_wrong_is_named_and_exits_2(meshctl: Meshctl, directory: Path, text: str, told: str) -> None:
    (directory / "m.toml").write_text(text)
    checked = meshctl("config", "check", str(directory / "m.toml"), "--json")
    assert (checked.code, checked.error["code"], checked.out) == (2, "E_CONFIG", "")
    assert told in checked.error["message"]
    assert meshctl("config", "show", "--file", str(directory / "m.toml")).code == 2


def test_a_missing_file_is_named(meshctl: Meshctl, directory: Path) -> None:
    told = meshctl("config", "check", str(directory / "none.toml"), "--json")
    assert (told.code, told.error["code"]) == (2, "E_CONFIG")


@pytest.mark.parametrize(
    ("program", "age", "advice"),
    [("0.0.9", "older", protocol.DAEMON_IS_OLDER), ("0.10.0", "newer", protocol.CLIENT_IS_OLDER)],
)
def test_a_request_that_another_version_does_not_know_is_said_so(
    meshctl: Meshctl, daemon: FakeDaemon, program: str, age: str, advice: str
) -> None:
    daemon.program = program
    daemon.answers["graph"] = MeshdError("E_UNSUPPORTED", "This daemon knows no operation 'graph'.")
    told = meshctl("graph", "--json")
    assert (told.code, told.error["code"], told.error["hint"]) == (1, "E_UNSUPPORTED", advice)
    assert f"meshd {program} does not know the request 'graph'" in told.error["message"]
    assert f"the daemon is {age}" in told.error["message"]
