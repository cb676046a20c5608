"""What ``meshd`` is told at its start: the command line, the environment, the configuration file."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from meshd import __version__
from meshd.api.settings import InEffect, in_effect, read_file
from meshd.config import Config, load_config
from meshd.errors import MeshdError
from meshd.ids import is_device_name
from meshd.logs import configure
from meshd.masking import hide


@attrs.frozen(kw_only=True)
class Options:
    """The command line, with the environment and the defaults filled in. ``settings`` tell where ``config`` is from."""

    config: Config
    settings: tuple[InEffect, ...]
    config_file: Path | None
    state_dir: Path
    runtime_dir: Path
    name: str


def read_options(arguments: Sequence[str], environ: Mapping[str, str]) -> Options | None:
    """Read the command line; None when it was a question that is answered. Raises MeshdError."""
    parser = argparse.ArgumentParser(prog="meshd", description="The mesh daemon: see docs/configuration.md.")
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration (TOML); none is needed")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="identity and messages")
    parser.add_argument("--runtime-dir", metavar="DIR", type=Path, help="where the socket goes")
    parser.add_argument("--name", help="this device's name; the host name when not given")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-format", choices=("console", "json", "journal"))
    parser.add_argument("--check-config", action="store_true", help="read the configuration, and stop")
    parser.add_argument("--version", action="version", version=f"meshd {__version__}")
    given = parser.parse_args(arguments)
    said = {"log.level": given.log_level, "log.format": given.log_format}
    config, settings = read_config(
        given.config, environ, {key: value for key, value in said.items() if value is not None}
    )
    name = given.name or _host_name()
    if not is_device_name(name):
        raise MeshdError(
            "E_USAGE",
            f"--name: {name[:70]!r} is no device name.",
            "Use letters, digits, dots, hyphens and underscores, a letter or digit first.",
        )
    if given.check_config:
        print("The configuration is fine.")  # noqa: T201
        return None
    configure(given.log_level or config.log.level, given.log_format or config.log.format, dict(config.log.levels))
    hide(config.alerts.webhook)
    hide(config.alerts.webhook_token)
    return Options(
        config=config,
        settings=settings,
        config_file=given.config,
        state_dir=given.state_dir or _state_dir(environ),
        runtime_dir=given.runtime_dir or _runtime_dir(environ),
        name=name,
    )


def read_config(
    path: Path | None, environ: Mapping[str, str], options: Mapping[str, object]
) -> tuple[Config, tuple[InEffect, ...]]:
    """The configuration in effect, and where each key of it is from. Raises MeshdError.

    Args:
        path: of the file, if there is one. options: what the command line says, by key.
    """
    text = None if path is None else read_file(str(path))
    config = load_config(text, filename=str(path), environ=environ)
    return config, in_effect(text, filename=str(path), environ=environ, options=options)


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().partition(".")[0])[:63].lstrip("._-")
    return name or "device"


def _state_dir(environ: Mapping[str, str]) -> Path:
    for variable in ("MESHD_STATE_DIR", "STATE_DIRECTORY"):
        if environ.get(variable):
            return Path(environ[variable])
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else home_dir() / ".local" / "state") / "meshd"


def home_dir() -> Path:
    """This user's home. Raises MeshdError E_STATE_DIR when there is none: ``HOME`` is not set, and no account says."""
    try:
        return Path.home()
    except RuntimeError as error:
        raise MeshdError(
            "E_STATE_DIR", "There is no directory for the state: this user has no home.", "Set --state-dir or HOME."
        ) from error


def _runtime_dir(environ: Mapping[str, str]) -> Path:
    for variable in ("MESHD_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
        if environ.get(variable):
            return Path(environ[variable])
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "meshd"
    if os.geteuid() == 0:
        return Path("/run/meshd")
    raise MeshdError("E_RUNTIME_DIR", "There is no directory for the socket: XDG_RUNTIME_DIR is not set.")
