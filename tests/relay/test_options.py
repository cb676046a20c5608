"""The relay's command line and configuration."""

import re
from pathlib import Path

import pytest

from meshd.errors import MeshdError
from meshd.relay.config import SCHEMA, load_relay_config
from meshd.relay.options import read_options

ROOT = Path(__file__).parents[2]


def test_every_key_is_in_the_documentation_and_in_the_packages_file() -> None:
    page = (ROOT / "docs/relay.md").read_text()
    documented = set(re.findall(r"`(\w+\.\w+)`", page[page.index("## Configuration") :]))
    assert documented == set(SCHEMA.settings)
    shown = (ROOT / "packaging/relay.toml").read_text()
    lines = [line.removeprefix("# ") for line in shown.splitlines() if re.match(r"# (\[|\w+ = )", line)]
    assert load_relay_config("\n".join(lines)) == load_relay_config(None)
    assert len([line for line in lines if "=" in line]) == len(SCHEMA.settings)


def test_where_to_listen_is_said_in_one_word(tmp_path: Path) -> None:
    options = read_options(["--state-dir", str(tmp_path), "--listen", "127.0.0.1:0", "--listen", "[::1]:0"], {})
    assert [str(place) for place in options.config.listen.quic] == ["127.0.0.1:0", "[::1]:0"]
    assert options.config.listen.quic == options.config.listen.websocket


def test_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[mailbox]\nquota = "1GiB"\n')
    environ = {"MESHD_MAILBOX_QUOTA": "2MiB", "MESHD_STATE_DIR": "/x"}
    options = read_options(["--config", str(file)], environ)
    assert (options.config.mailbox.quota_bytes, options.state_dir) == (2 * 1024**2, Path("/x"))


@pytest.mark.parametrize(
    ("text", "mention"),
    [
        ("[mailbox]\nqota = 1\n", "mailbox.quota"),
        ("[access]\nmeshes = ['x']\n", "access.meshes"),
        ("[api]\n", "no such section"),
        ("[listen]\nurls = ['https://x']\n", "wss://"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, mention: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(text)
    with pytest.raises(MeshdError) as caught:
        read_options(["--config", str(file)], {})
    assert caught.value.code == "E_CONFIG"
    assert "relay.toml:" in caught.value.message
    assert mention in caught.value.message + caught.value.hint


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MeshdError) as caught:
        read_options(["--state-dir", str(tmp_path), "--listen", "here"], {})
    assert caught.value.code == "E_USAGE"
