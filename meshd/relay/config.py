"""The relay's configuration: the daemon's format and rules, with sections of its own. Pure."""

from collections.abc import Mapping
from typing import Any, cast

import attrs

from meshd.config import Log, Schema, declare, read_sections, schema_of
from meshd.ids import parse_node_id
from meshd.kinds import (
    DURATION,
    ENDPOINT,
    QUOTA,
    RELAY_URL,
    SECRET,
    SIZE,
    TEXT,
    WEBHOOK_URL,
    Endpoint,
    Kind,
    choice,
    integer,
    list_of,
)


def _mesh_id(value: object) -> bytes:
    """The first 16 bytes of a mesh id, from the text that ``meshctl status --json`` shows. Raises ValueError."""
    if type(value) is not str:
        raise ValueError("not text")
    return bytes(parse_node_id(value))


MESH_ID: Kind[bytes] = Kind("a mesh id, as in: meshctl status --json", _mesh_id)


@attrs.frozen(kw_only=True)
class Listen:
    """Where the relay listens, and where it is reached when that is somewhere else (behind NAT, by name)."""

    quic: tuple[Endpoint, ...] = declare(list_of(ENDPOINT), ["[::]:443"])
    websocket: tuple[Endpoint, ...] = declare(list_of(ENDPOINT), ["[::]:443"])
    urls: tuple[str, ...] = declare(list_of(RELAY_URL), [])


@attrs.frozen(kw_only=True)
class Access:
    """Which meshes are served. An empty list is every mesh whose admin added this relay, up to ``max_meshes``."""

    meshes: tuple[bytes, ...] = declare(list_of(MESH_ID), [])
    max_meshes: int = declare(integer(1, 4096), 64)


@attrs.frozen(kw_only=True)
class Mailbox:
    """What is kept for absent devices: bytes for one mesh, bytes from one device, and for how long (seconds)."""

    quota_bytes: int = declare(QUOTA, "1GiB", key="quota")
    device_quota_bytes: int = declare(QUOTA, "256MiB", key="device_quota")
    max_lifetime: float = declare(DURATION, "30d")


@attrs.frozen(kw_only=True)
class Alerts:
    """When the relay raises an alert, and whom it tells. Durations are seconds."""

    mailbox_percent: int = declare(integer(1, 100), 80)
    disk_free_bytes: int = declare(SIZE, "256MiB", key="disk_free")
    loop_lag: float = declare(DURATION, "1s")
    hook_severity: str = declare(choice("warning", "critical"), "warning")
    exec: tuple[str, ...] = declare(list_of(TEXT), [])
    webhook: str = declare(WEBHOOK_URL, "")
    webhook_token: str = declare(SECRET, "")
    hook_timeout: float = declare(DURATION, "10s")
    hook_attempts: int = declare(integer(1, 100), 4)


@attrs.frozen(kw_only=True)
class RelayConfig:
    """Everything that can be set; ``RelayConfig()`` is the default."""

    listen: Listen = Listen()
    access: Access = Access()
    mailbox: Mailbox = Mailbox()
    alerts: Alerts = Alerts()
    log: Log = attrs.field(factory=Log)


SCHEMA: Schema = schema_of(RelayConfig)


def load_relay_config(
    text: str | None, *, filename: str = "relay.toml", environ: Mapping[str, str] | None = None
) -> RelayConfig:
    """Read the configuration; the environment (``MESHD_SECTION_KEY``) wins over the file.

    Raises MeshdError E_CONFIG, naming file, line, key and what was expected.
    """
    sections, _ = read_sections(SCHEMA, text, filename=filename, environ=environ)
    return RelayConfig(**cast(Any, sections))
