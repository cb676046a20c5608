"""The relay's command line, with the environment and the defaults filled in."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from meshd import __version__
from meshd.api.settings import read_file
from meshd.errors import MeshdError
from meshd.kinds import parse_endpoint
from meshd.logs import configure
from meshd.masking import hide
from meshd.options import home_dir
from meshd.relay.config import Listen, RelayConfig, load_relay_config


@attrs.frozen(kw_only=True)
class Options:
    """What the relay is to do, and where its state is."""

    config: RelayConfig
    config_file: Path | None
    state_dir: Path
    show_certificate: bool
    question: str | None = None
    """What to ask the relay that runs: ``status`` or ``metrics``."""
    as_json: bool = False


def read_options(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read the command line; sets logging up. Raises MeshdError."""
    parser = argparse.ArgumentParser(prog="meshd-relay", description="The mesh relay: see docs/relay.md.")
    parser.add_argument("--config", metavar="FILE", type=Path, help="configuration (TOML); none is needed")
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="identity and mailboxes")
    parser.add_argument(
        "--listen", metavar="ADDR", action="append", help="IP and port, for QUIC and WebSocket; instead of [::]:443"
    )
    parser.add_argument("--certificate", action="store_true", help="print this relay's certificate, and stop")
    asking = parser.add_mutually_exclusive_group()
    asking.add_argument("--status", action="store_true", help="say how the relay that runs is doing, and stop")
    asking.add_argument("--metrics", action="store_true", help="print its metrics as OpenMetrics text, and stop")
    parser.add_argument("--json", action="store_true", help="with --status: as JSON")
    parser.add_argument("--check-config", action="store_true", help="read the configuration, and stop")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-format", choices=("console", "json", "journal"))
    parser.add_argument("--version", action="version", version=f"meshd-relay {__version__}")
    given = parser.parse_args(arguments)
    config = _listening_at(_read(given.config, environ), given.listen)
    if given.check_config:
        print("The configuration is fine.")  # noqa: T201
        parser.exit()
    log = config.log
    configure(given.log_level or log.level, given.log_format or log.format, dict(log.levels), "meshd-relay")
    hide(config.alerts.webhook)
    hide(config.alerts.webhook_token)
    return Options(
        config=config,
        config_file=given.config,
        state_dir=given.state_dir or _state_dir(environ),
        show_certificate=given.certificate,
        question="status" if given.status else "metrics" if given.metrics else None,
        as_json=given.json,
    )


def reload_config(options: Options, environ: Mapping[str, str]) -> RelayConfig:
    """The configuration as it is now. Raises MeshdError E_CONFIG."""
    return _read(options.config_file, environ)


def _read(path: Path | None, environ: Mapping[str, str]) -> RelayConfig:
    text = None if path is None else read_file(str(path))
    return load_relay_config(text, filename=str(path), environ=environ)


def _listening_at(config: RelayConfig, given: Sequence[str] | None) -> RelayConfig:
    if not given:
        return config
    try:
        places = tuple(parse_endpoint(text) for text in given)
    except ValueError as error:
        raise MeshdError(
            "E_USAGE", f"--listen: {error}.", 'An IP address and a port, such as "[::]:443" or "127.0.0.1:0".'
        ) from error
    return attrs.evolve(config, listen=Listen(quic=places, websocket=places, urls=config.listen.urls))


def _state_dir(environ: Mapping[str, str]) -> Path:
    for variable in ("MESHD_STATE_DIR", "STATE_DIRECTORY"):
        if environ.get(variable):
            return Path(environ[variable])
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else home_dir() / ".local" / "state") / "meshd-relay"
