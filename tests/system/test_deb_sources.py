"""What the package is made of agrees with the program. Fast, and needs nothing installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshd.config import load_config
from tests.system.conftest import require_programs

PACKAGING = Path(__file__).parents[2] / "packaging"
_SETTING = re.compile(r"# (\[\w+\]|\w+ = .*)")


def test_the_default_configuration_shows_the_defaults() -> None:
    text = (PACKAGING / "meshd.toml").read_text()
    assert load_config(text, environ={}) == load_config(None, environ={})
    uncommented = "\n".join(found[1] for row in text.splitlines() if (found := _SETTING.fullmatch(row)))
    assert load_config(uncommented, environ={}) == load_config(None, environ={})


def test_the_default_configuration_shows_every_key() -> None:
    documentation = (PACKAGING.parent / "docs/configuration.md").read_text()
    documented = re.findall(r"^\| `(\w+)\.(\w+)` \|", documentation, re.MULTILINE)
    section, shown = "", []
    for row in (PACKAGING / "meshd.toml").read_text().splitlines():
        if header := re.fullmatch(r"# \[(\w+)\]", row):
            section = header[1]
        elif key := re.fullmatch(r"# (\w+) = .*", row):
            shown.append((section, key[1]))
    assert shown == documented


def _options() -> set[str]:
    command = [sys.executable, "-m", "meshd.daemon", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--([a-z-]+)", shown))


def test_every_option_is_completed_and_in_the_manual() -> None:
    written = {
        "bash": set(re.findall(r"--([a-z-]+)", (PACKAGING / "completions/meshd.bash").read_text())),
        "zsh": set(re.findall(r"--([a-z-]+)", (PACKAGING / "completions/meshd.zsh").read_text())),
        "fish": set(re.findall(r" -l ([a-z-]+)", (PACKAGING / "completions/meshd.fish").read_text())),
        "man": set(re.findall(r"--([a-z-]+)", (PACKAGING / "meshd.8").read_text().replace("\\-", "-"))),
    }
    assert written == dict.fromkeys(written, _options())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completions_are_valid(shell: str) -> None:
    require_programs({shell: shell})
    subprocess.run([shell, "-n", PACKAGING / f"completions/meshd.{shell}"], check=True)


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_the_maintainer_scripts_are_valid(script: str) -> None:
    subprocess.run(["sh", "-n", PACKAGING / "debian" / script], check=True)
