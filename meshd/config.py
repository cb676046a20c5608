"""The configuration: TOML and environment in, frozen sections out.

Every key is optional. Its name, kind and default are declared once, on the attribute that holds it;
a test checks ``docs/configuration.md`` against these declarations. Kinds, keys and the reader stand in
one file, over the usual length, because each is of use only with the others.

cattrs is not used here: importing it costs 5 MB of resident memory, a tenth of what the whole daemon
may use, and its errors know neither the line nor what a person may have meant.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NoReturn, TypeVar, cast

import attrs

from meshd.errors import MeshdError
from meshd.ids import NodeId, parse_node_id

DEFAULT_PORT = 7843
RELAY_PORT = 443
ENVIRONMENT_PREFIX = "MESHD_"

_T = TypeVar("_T")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(k|M|G|Ki|Mi|Gi|Ti)?B", re.ASCII)
_SIZE_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d|w)", re.ASCII)
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PLACE = re.compile(r"(?:\[([^][]+)]|([^][:]+))(?::([0-9]{1,5}))?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})", re.ASCII)
_RELAY_URL = re.compile(r"(wss|quic)://([^/?#@\s]+)/?", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_HEADER = re.compile(r"\s*\[+\s*([A-Za-z0-9_-]+)")
_ASSIGNMENT = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*(?:\.\s*["']?([A-Za-z0-9_-]+)["']?\s*)?(?:\.[^=]*)?=""")
_SYNTAX_LINE = re.compile(r"at line (\d+)")


@attrs.frozen
class Endpoint:
    """An IP literal and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class StaticPeer:
    """A place where a device can be found. ``node`` is None when the entry does not say which device."""

    host: str
    port: int
    node: NodeId | None = None


@attrs.frozen
class Kind(Generic[_T]):
    """A kind of value.

    Args:
        expected: what a person has to write, as the end of "expected ...".
        read: from the TOML value to the typed one. Raises ValueError.
        from_text: from an environment variable to the TOML value. Raises ValueError or KeyError.
    """

    expected: str
    read: Callable[[object], _T]
    from_text: Callable[[str], object] = str

    def read_text(self, text: str) -> _T:
        """The typed value of an environment variable. Raises ValueError or KeyError."""
        return self.read(self.from_text(text))


def parse_size(value: object) -> int:
    """Bytes of ``"512MiB"``, ``"1GB"``, ``"100B"``. Raises ValueError."""
    match = _SIZE.fullmatch(_only(str, value))
    if match is None:
        raise ValueError("not a size")
    return int(float(match[1]) * _SIZE_UNITS[match[2] or ""])


def parse_duration(value: object) -> float:
    """Seconds of ``"250ms"``, ``"10m"``, ``"7d"``. Raises ValueError on anything else, zero too."""
    match = _DURATION.fullmatch(_only(str, value))
    if match is None or not float(match[1]):
        raise ValueError("not a duration")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_endpoint(value: object) -> Endpoint:
    """Read ``"[::]:7843"`` or ``"192.168.1.2:0"``. Raises ValueError."""
    host, port = _split_port(value, None)
    ipaddress.ip_address(host)
    return Endpoint(host, port)


def parse_static_peer(value: object) -> StaticPeer:
    """Read ``"[ID@]HOST[:PORT]"``; an IPv6 literal stands in brackets. Raises ValueError."""
    node, at, place = _only(str, value).rpartition("@")
    host, port = _split_port(place, DEFAULT_PORT)
    if port == 0:
        raise ValueError("port 0 can't be dialed")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif _HOST_NAME.fullmatch(host) is None:
        raise ValueError("not a host")
    return StaticPeer(host, port, parse_node_id(node) if at else None)


def parse_relay_url(value: object) -> str:
    """Check ``"wss://host[:port]"`` or ``"quic://host[:port]"``. Raises ValueError."""
    url = _only(str, value)
    relay_place(url)
    return url


def relay_place(url: str) -> tuple[str, str, int]:
    """Transport, host and port of a relay's URL. Raises ValueError."""
    match = _RELAY_URL.fullmatch(url)
    if match is None:
        raise ValueError("not a relay's URL")
    host, port = _split_port(match[2], RELAY_PORT)
    if port == 0:
        raise ValueError("port 0 can't be dialed")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif _HOST_NAME.fullmatch(host) is None:
        raise ValueError("not a host")
    return {"wss": "websocket", "quic": "quic"}[match[1]], host, port


def _split_port(value: object, default: int | None) -> tuple[str, int]:
    match = _PLACE.fullmatch(_only(str, value))
    if match is None or (match[3] is None and default is None):
        raise ValueError("not host and port")
    port = cast(int, default) if match[3] is None else int(match[3])
    if port > 65_535 or (match[1] is not None and ":" not in match[1]):
        raise ValueError("not host and port")
    return match[1] or match[2], port


def _only(kind: type[_T], value: object) -> _T:
    if type(value) is not kind:
        raise ValueError(f"not {kind.__name__}")
    return value


def _matching(pattern: re.Pattern[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if pattern.fullmatch(text := _only(str, value)) is None:
            raise ValueError(f"not {pattern.pattern}")
        return text

    return read


BOOLEAN: Kind[bool] = Kind(
    "true or false", lambda value: _only(bool, value), lambda text: {"true": True, "false": False}[text]
)
TEXT: Kind[str] = Kind("one line of text", _matching(re.compile(r"[^\x00-\x1f]*")))
SIZE: Kind[int] = Kind('a size such as "512MiB" or "1GiB"', parse_size)
DURATION: Kind[float] = Kind('a duration such as "10m", "12h" or "7d"', parse_duration)
FILE_MODE: Kind[int] = Kind('a file mode such as "0660"', lambda value: int(_matching(_MODE)(value), 8))
ENDPOINT: Kind[Endpoint] = Kind('an IP address and port such as "[::]:7843" or "127.0.0.1:0"', parse_endpoint)
STATIC_PEER: Kind[StaticPeer] = Kind('"host", "host:port", "[IPv6]:port" or "ID@host:port"', parse_static_peer)
RELAY_URL: Kind[str] = Kind('a URL such as "wss://relay.example:443" or "quic://192.0.2.1:443"', parse_relay_url)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """An integer within bounds."""

    def read(value: object) -> int:
        if not minimum <= (number := _only(int, value)) <= maximum:
            raise ValueError("out of bounds")
        return number

    return Kind(f"an integer {minimum} to {maximum}", read, int)


def choice(*words: str) -> Kind[str]:
    """One of ``words``."""

    def read(value: object) -> str:
        if (word := _only(str, value)) not in words:
            raise ValueError("not one of them")
        return word

    return Kind("one of " + ", ".join(f'"{word}"' for word in words), read)


def list_of(kind: Kind[_T]) -> Kind[tuple[_T, ...]]:
    """A list; separated by commas in the environment."""

    def read(value: object) -> tuple[_T, ...]:
        return tuple([kind.read(item) for item in _only(list, value)])

    def from_text(text: str) -> list[object]:
        return [kind.from_text(item.strip()) for item in text.split(",") if item.strip()]

    return Kind(f"a list, each item {kind.expected}", read, from_text)


def table_of(kind: Kind[_T]) -> Kind[tuple[tuple[str, _T], ...]]:
    """A table of names, as sorted pairs; ``name=value,name=value`` in the environment."""

    def read(value: object) -> tuple[tuple[str, _T], ...]:
        return tuple(sorted((name, kind.read(item)) for name, item in _only(dict, value).items()))

    def from_text(text: str) -> dict[str, object]:
        pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("not name=value")
        return {name: kind.from_text(item) for name, _, item in pairs}

    return Kind(f"a table, each value {kind.expected}", read, from_text)


LOG_LEVEL = choice("debug", "info", "warning", "error")


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
    transports: tuple[str, ...] = declare(list_of(choice("quic", "websocket")), ["quic", "websocket"])


@attrs.frozen(kw_only=True)
class Relay:
    """Relays to use."""

    urls: tuple[str, ...] = declare(list_of(RELAY_URL), [])


@attrs.frozen(kw_only=True)
class Store:
    """What may be kept on disk. Lifetimes are seconds."""

    quota_bytes: int = declare(SIZE, "1GiB", key="quota")
    max_lifetime: float = declare(DURATION, "30d")
    default_lifetime: float = declare(DURATION, "7d")
    slow_commit: float = declare(DURATION, "100ms")


@attrs.frozen(kw_only=True)
class Api:
    """Who may use the local socket. An empty group is the daemon's own."""

    group: str = declare(TEXT, "")
    mode: int = declare(FILE_MODE, "0660")


@attrs.frozen(kw_only=True)
class NoKeys:
    """A section that is known but has no keys."""


@attrs.frozen(kw_only=True)
class Log:
    """What is logged, and how. ``levels`` holds (component, level) pairs."""

    level: str = declare(LOG_LEVEL, "info")
    format: str = declare(choice("auto", "console", "json"), "auto")
    levels: tuple[tuple[str, str], ...] = declare(table_of(LOG_LEVEL), {})


@attrs.frozen(kw_only=True)
class Config:
    """Everything that can be set; ``Config()`` is the default."""

    listen: Listen = Listen()
    discovery: Discovery = Discovery()
    links: Links = Links()
    relay: Relay = Relay()
    store: Store = Store()
    api: Api = Api()
    http: NoKeys = NoKeys()
    alerts: NoKeys = NoKeys()
    log: Log = Log()
    power: NoKeys = NoKeys()
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
