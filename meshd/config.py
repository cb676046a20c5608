"""The configuration: TOML and environment in, frozen sections out.

Every key is optional. Its name, kind (``kinds``) and default are declared once, on the attribute that holds it;
a test checks ``docs/configuration.md`` against these declarations.

cattrs is not used here: importing it costs 5 MB of resident memory, a tenth of what the whole daemon
may use, and its errors know neither the line nor what a person may have meant.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, cast

import attrs

from meshd.errors import MeshdError
from meshd.kinds import (
    BOOLEAN,
    DURATION,
    ENDPOINT,
    FILE_MODE,
    LOG_COMPONENT,
    LOG_LEVEL,
    LOOPBACK,
    QUOTA,
    RELAY_URL,
    SECRET,
    SIZE,
    STATIC_PEER,
    TEXT,
    WEBHOOK_URL,
    Endpoint,
    Kind,
    StaticPeer,
    choice,
    integer,
    list_of,
    table_of,
)

ENVIRONMENT_PREFIX = "MESHD_"

_T = TypeVar("_T")

_HEADER = re.compile(r"\s*\[+\s*([A-Za-z0-9_-]+)")
_ASSIGNMENT = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*(?:\.\s*["']?([A-Za-z0-9_-]+)["']?\s*)?(?:\.[^=]*)?=""")
_SYNTAX_LINE = re.compile(r"at line (\d+)")


def declare(kind: Kind[_T], default: object, *, key: str | None = None) -> _T:
    """Declare a key: ``default`` as TOML has it; ``key`` where the attribute adds a unit to the name."""
    return attrs.field(default=kind.read(default), metadata={"kind": kind, "default": default, "key": key})


@attrs.frozen(kw_only=True)
class Listen:
    """Where transports listen; an empty list turns one off."""

    quic: tuple[Endpoint, ...] = declare(list_of(ENDPOINT), ["[::]:7843"])
    websocket: tuple[Endpoint, ...] = declare(list_of(ENDPOINT), ["[::]:7843"])


@attrs.frozen(kw_only=True)
class Discovery:
    """How devices find each other."""

    mdns: bool = declare(BOOLEAN, True)
    interfaces: tuple[str, ...] = declare(list_of(TEXT), [])
    static: tuple[StaticPeer, ...] = declare(list_of(STATIC_PEER), [])


@attrs.frozen(kw_only=True)
class Links:
    """How many links are kept, and over what."""

    max_links: int = declare(integer(1, 1024), 16)
    transports: tuple[str, ...] = declare(list_of(choice("quic", "websocket"), 1), ["quic", "websocket"])


@attrs.frozen(kw_only=True)
class Relay:
    """Relays to use."""

    urls: tuple[str, ...] = declare(list_of(RELAY_URL), [])


@attrs.frozen(kw_only=True)
class Store:
    """What may be kept on disk. Lifetimes are seconds."""

    quota_bytes: int = declare(QUOTA, "1GiB", key="quota")
    max_lifetime: float = declare(DURATION, "30d")
    default_lifetime: float = declare(DURATION, "7d")
    slow_commit: float = declare(DURATION, "100ms")


@attrs.frozen(kw_only=True)
class Carry:
    """Whether copies of others' mail are taken along to other networks."""

    enabled: bool = declare(BOOLEAN, True)
    quota_bytes: int = declare(SIZE, "128MiB", key="quota")


@attrs.frozen(kw_only=True)
class Api:
    """Who may use the local socket. An empty group is the daemon's own."""

    group: str = declare(TEXT, "")
    mode: int = declare(FILE_MODE, "0660")


ALERT_NAMES = (
    *("peer-down", "relay-unreachable", "mail-unconfirmed", "breaker-flapping", "spool-filling"),
    *("disk-low", "clock-skew", "clone", "loop-lag", "part-down"),
)


@attrs.frozen(kw_only=True)
class Alerts:
    """When the daemon raises an alert, and whom it tells. Durations are seconds."""

    mute: tuple[str, ...] = declare(list_of(choice(*ALERT_NAMES)), [])
    peer_down_after: float = declare(DURATION, "500ms")
    spool_percent: int = declare(integer(1, 100), 80)
    disk_free_bytes: int = declare(SIZE, "256MiB", key="disk_free")
    clock_skew: float = declare(DURATION, "30s")
    loop_lag: float = declare(DURATION, "1s")
    hook_severity: str = declare(choice("warning", "critical"), "warning")
    exec: tuple[str, ...] = declare(list_of(TEXT), [])
    webhook: str = declare(WEBHOOK_URL, "")
    webhook_token: str = declare(SECRET, "")
    hook_timeout: float = declare(DURATION, "10s")
    hook_attempts: int = declare(integer(1, 100), 4)


@attrs.frozen(kw_only=True)
class Power:
    """When to be sparing."""

    battery: str = declare(choice("auto", "yes", "no"), "auto")
    metered: bool = declare(BOOLEAN, False)


@attrs.frozen(kw_only=True)
class Http:
    """The HTTP gateway: whether there is one, and where it listens beside its Unix socket."""

    enabled: bool = declare(BOOLEAN, False)
    listen: tuple[Endpoint, ...] = declare(list_of(LOOPBACK), [])


@attrs.frozen(kw_only=True)
class NoKeys:
    """A section that is known but has no keys."""


@attrs.frozen(kw_only=True)
class Log:
    """What is logged, and how. ``levels`` holds (component, level) pairs."""

    level: str = declare(LOG_LEVEL, "info")
    format: str = declare(choice("auto", "console", "json", "journal"), "auto")
    levels: tuple[tuple[str, str], ...] = declare(table_of(LOG_COMPONENT, LOG_LEVEL), {})


@attrs.frozen(kw_only=True)
class Config:
    """Everything that can be set; ``Config()`` is the default."""

    listen: Listen = Listen()
    discovery: Discovery = Discovery()
    links: Links = Links()
    relay: Relay = Relay()
    store: Store = Store()
    carry: Carry = Carry()
    api: Api = Api()
    http: Http = Http()
    alerts: Alerts = Alerts()
    log: Log = Log()
    power: Power = Power()
    tracing: NoKeys = NoKeys()


@attrs.frozen(kw_only=True)
class Setting:
    """One key as declared: ``default`` is the value that TOML would have."""

    section: str
    key: str
    attribute: str
    kind: Kind[Any]
    default: object

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.key}".upper()


def _declared(root: type[attrs.AttrsInstance]) -> Iterator[Setting]:
    for section in attrs.fields(root):
        for field in attrs.fields(cast("type[attrs.AttrsInstance]", section.type)):
            yield Setting(
                section=section.name,
                key=field.metadata["key"] or field.name,
                attribute=field.name,
                kind=field.metadata["kind"],
                default=field.metadata["default"],
            )


@attrs.frozen
class Schema:
    """What one program can be told: its settings by ``section.key``, and its sections by name."""

    settings: Mapping[str, Setting]
    sections: Mapping[str, type[attrs.AttrsInstance]]


def schema_of(root: type[attrs.AttrsInstance]) -> Schema:
    """What a class of sections declares."""
    return Schema(
        {setting.name: setting for setting in _declared(root)},
        {section.name: cast("type[attrs.AttrsInstance]", section.type) for section in attrs.fields(root)},
    )


_DAEMON = schema_of(Config)
SETTINGS: Mapping[str, Setting] = _DAEMON.settings
SECTIONS: Mapping[str, type[attrs.AttrsInstance]] = _DAEMON.sections


def load_config(text: str | None, *, filename: str = "meshd.toml", environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration; the environment wins over the file.

    Args:
        text: the file's content; None when there is no file.
        filename: named in errors.
        environ: variables ``MESHD_SECTION_KEY``; others are ignored.

    Raises MeshdError E_CONFIG, naming file, line, key and what was expected.
    """
    sections, places = read_sections(_DAEMON, text, filename=filename, environ=environ)
    config = Config(**cast(Any, sections))
    if config.store.default_lifetime > config.store.max_lifetime:
        name = max(("store.default_lifetime", "store.max_lifetime"), key=lambda key: key in places)
        _fail(places[name], f"{name}: expected store.default_lifetime to be at most store.max_lifetime")
    return config


Given = tuple[Setting, Any, Callable[[Any], object], str]
"""What was given for a setting: the raw value, how to read it, and where it stands."""


def given_settings(
    text: str | None, filename: str, environ: Mapping[str, str] | None, schema: Schema = _DAEMON
) -> tuple[Given, ...]:
    """What file and environment say, the winner last; no value is looked at yet. Raises as :func:`load_config`."""
    return (*_from_file(schema, text or "", filename), *_from_environment(schema, environ or {}))


def read_sections(
    schema: Schema, text: str | None, *, filename: str, environ: Mapping[str, str] | None
) -> tuple[dict[str, attrs.AttrsInstance], dict[str, str]]:
    """The sections that a text and the environment give, by name; and where each setting was given.

    Raises MeshdError E_CONFIG.
    """
    values: dict[str, dict[str, object]] = {name: {} for name in schema.sections}
    places: dict[str, str] = {}
    for setting, value, read, place in given_settings(text, filename, environ, schema):
        try:
            values[setting.section][setting.attribute] = read(value)
        except (ValueError, KeyError) as error:
            shown = f'"{value}"' if isinstance(value, str) else repr(value)
            shown = "something else" if setting.kind.is_secret else shown
            _fail(place, f"{setting.name}: expected {setting.kind.expected}, found {shown[:80]}", None, error)
        places[setting.name] = place
    return {name: cast(Any, section)(**values[name]) for name, section in schema.sections.items()}, places


def _from_file(schema: Schema, text: str, filename: str) -> Iterator[Given]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _SYNTAX_LINE.search(str(error))
        line = int(match[1]) if match else text.count("\n") + 1
        _fail(f"{filename}:{line}", f"expected TOML: {error}", None, error)
    for section, content in document.items():
        place = f"{filename}:{_line_of(text, section, None)}"
        if section not in schema.sections:
            _fail_unknown(schema, place, section, None)
        if not isinstance(content, dict):
            _fail(place, f"{section}: expected a table, [{section}]")
        for key, value in content.items():
            place = f"{filename}:{_line_of(text, section, key)}"
            setting = schema.settings.get(f"{section}.{key}")
            if setting is None:
                _fail_unknown(schema, place, section, key)
            yield setting, value, setting.kind.read, place


def _from_environment(schema: Schema, environ: Mapping[str, str]) -> Iterator[Given]:
    variables = {setting.variable: setting for setting in schema.settings.values()}
    prefixes = {f"{ENVIRONMENT_PREFIX}{name}_".upper(): name for name in schema.sections}
    for name, text in sorted(environ.items()):
        section = next((section for prefix, section in prefixes.items() if name.startswith(prefix)), None)
        if section is None:
            continue
        setting = variables.get(name)
        if setting is None:
            _fail_unknown(
                schema, f"environment: {name}", section, name[len(f"{ENVIRONMENT_PREFIX}{section}_") :].lower()
            )
        yield setting, text, setting.kind.read_text, f"environment: {name}"


def _line_of(text: str, section: str, key: str | None) -> int:
    """Where ``section`` (or its ``key``) is first written; tomllib does not say. 1 when it can't be found."""
    table: str | None = None
    fallback = 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[1]
            if table == section and (key is None or f".{key}" in line):
                return number
            fallback = number if table == section else fallback
        elif assignment := _ASSIGNMENT.match(line):
            path = [name for name in (table, assignment[1], assignment[2]) if name is not None]
            if path[0] == section and (key is None or key in path[1:2]):
                return number
            # An inline table, `section = { key = ... }`, has all its keys on this line.
            fallback = number if path[0] == section and table is None else fallback
    return fallback


def _fail_unknown(schema: Schema, place: str, section: str, key: str | None) -> NoReturn:
    import difflib  # only who errs needs it; every daemon would carry it

    if key is None:
        near = difflib.get_close_matches(section, schema.sections, 1)
        near = [f"[{name}]" for name in near] or [name for name in schema.settings if name.endswith(f".{section}")]
        problem = f"{section}: there is no such section; expected one of {', '.join(schema.sections)}"
    else:
        keys = {setting.key: name for name, setting in schema.settings.items() if setting.section == section}
        near = [keys[name] for name in difflib.get_close_matches(key, keys, 1)]
        near = near or [name for name in schema.settings if name.endswith(f".{key}")]
        problem = f"{section}.{key}: there is no such key; expected "
        problem += f"one of {', '.join(keys)}" if keys else f"none, [{section}] has no keys"
    _fail(place, problem, f"Did you mean {near[0]}?" if near else None)


def _fail(place: str, problem: str, hint: str | None = None, cause: Exception | None = None) -> NoReturn:
    raise MeshdError("E_CONFIG", f"{place}: {problem}", hint) from cause
