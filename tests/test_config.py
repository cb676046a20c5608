"""The configuration: what is read, what is refused and how, and that every key is documented."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.api.settings import in_effect
from meshd.config import SECTIONS, SETTINGS, Config, load_config
from meshd.errors import MeshdError
from meshd.ids import NodeId, to_text
from meshd.kinds import Endpoint, StaticPeer, parse_duration, parse_endpoint, parse_size, parse_static_peer

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"
NODE = NodeId(bytes(range(16)))


def refused(text: str | None, **environ: str) -> MeshdError:
    with pytest.raises(MeshdError) as caught:
        load_config(text, filename="f.toml", environ=environ)
    assert caught.value.code == "E_CONFIG"
    return caught.value


def attempt(text: str) -> MeshdError | None:
    try:
        load_config(text, filename="f.toml")
    except MeshdError as error:
        return error
    return None


def test_nothing_given_is_the_default() -> None:
    assert load_config(None) == load_config("") == Config()
    assert Config().listen.quic == Config().listen.websocket == (Endpoint("::", 7843),)
    assert Config().store.quota_bytes == 2**30
    assert Config().store.default_lifetime == 7 * 86_400


def test_every_section_is_read() -> None:
    config = load_config(
        f"""
        [listen]
        quic = ["127.0.0.1:0", "[::1]:9"]
        websocket = []
        [discovery]
        mdns = false
        interfaces = ["lo"]
        static = ["pi.local", "{to_text(NODE)}@[fe80::1%eth0]:9"]
        [links]
        max_links = 3
        transports = ["websocket"]
        [relay]
        urls = ["wss://relay.example:443"]
        [store]
        quota = "1.5MiB"
        max_lifetime = "8d"
        [api]
        group = "mesh"
        mode = "600"
        [log]
        level = "debug"
        format = "json"
        [log.levels]
        links = "warning"
        discovery = "debug"
        [http]
        [alerts]
        [power]
        battery = "no"
        metered = true
        [tracing]
        """
    )
    assert config.listen.quic == (Endpoint("127.0.0.1", 0), Endpoint("::1", 9))
    assert config.listen.websocket == ()
    assert config.discovery.static == (StaticPeer("pi.local", 7843), StaticPeer("fe80::1%eth0", 9, NODE))
    assert (config.discovery.mdns, config.discovery.interfaces) == (False, ("lo",))
    assert (config.links.max_links, config.links.transports) == (3, ("websocket",))
    assert (config.power.battery, config.power.metered) == ("no", True)
    assert config.relay.urls == ("wss://relay.example:443",)
    assert (config.store.quota_bytes, config.store.max_lifetime) == (3 * 2**19, 8 * 86_400)
    assert (config.api.group, config.api.mode) == ("mesh", 0o600)
    assert config.log.levels == (("discovery", "debug"), ("links", "warning"))


def test_the_environment_wins_over_the_file() -> None:
    config = load_config(
        '[store]\nquota = "1MiB"\n[links]\nmax_links = 4',
        environ={
            "MESHD_STORE_QUOTA": "2MiB",
            "MESHD_DISCOVERY_MDNS": "false",
            "MESHD_DISCOVERY_INTERFACES": "eth0, wlan0",
            "MESHD_LISTEN_QUIC": "",
            "MESHD_LOG_LEVELS": "links=debug",
            "MESHD_STATE_DIR": "/nowhere",
            "HOME": "/",
        },
    )
    assert config.store.quota_bytes == 2**21
    assert config.links.max_links == 4
    assert not config.discovery.mdns
    assert config.discovery.interfaces == ("eth0", "wlan0")
    assert config.listen.quic == ()
    assert config.log.levels == (("links", "debug"),)


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ("[store]\n# quota\nquota = 5", 3, "store.quota", "a size such as"),
        ('[store]\n\nquota = "5 apples"', 3, "store.quota", "a size such as"),
        ('store.quota = "x"', 1, "store.quota", "a size such as"),
        ('\nstore = { max_lifetime = "9d", quota = "x" }', 2, "store.quota", "a size such as"),
        ('[store]\nmax_lifetime = "9d"\n"quota" = "x"', 3, "store.quota", "a size such as"),
        ('[store]\nmax_lifetime = "0s"', 2, "store.max_lifetime", "a duration such as"),
        ("[links]\nmax_links = 0", 2, "links.max_links", "an integer 1 to 1024"),
        ("[links]\nmax_links = true", 2, "links.max_links", "an integer"),
        ("[links]\nmax_links = 16.0", 2, "links.max_links", "an integer"),
        ('[links]\nmax_links = 2\ntransports = ["tcp"]', 3, "links.transports", '"quic", "websocket"'),
        ("[links]\ntransports = []", 2, "links.transports", "a list of at least 1"),
        ('[store]\nquota = "0B"', 2, "store.quota", "at least 1MiB"),
        ('[store]\nquota = "1023KiB"', 2, "store.quota", "at least 1MiB"),
        ('[discovery]\nmdns = "yes"', 2, "discovery.mdns", "true or false"),
        ('[discovery]\nstatic = [\n  "a",\n  "b:99999",\n]', 2, "discovery.static", "host:port"),
        ('[listen]\nquic = "[::]:7843"', 2, "listen.quic", "a list"),
        ('[listen]\nquic = ["localhost:7843"]', 2, "listen.quic", "an IP address and port"),
        ('[api]\nmode = "0999"', 2, "api.mode", "a file mode"),
        ('[log]\nlevel = "loud"', 2, "log.level", '"debug"'),
        ('[log]\n\n[log.levels]\nlinks = "loud"', 3, "log.levels", '"debug"'),
        ('[log]\nlevels = { disco = "debug" }', 2, "log.levels", "a component (alerts, api"),
        ("[relay]\nurls = ['http://x']", 2, "relay.urls", "wss://"),
        ("\nstore = 5", 2, "store", "a table"),
        ('[store]\nmax_lifetime = "1d"', 2, "store.max_lifetime", "at most"),
        ('[store]\ndefault_lifetime = "60d"', 2, "store.default_lifetime", "at most"),
        ("[store]\nquota = ", 2, "", "expected TOML"),
        ('[store]\nquota = "1GiB"\n[store]', 3, "", "expected TOML"),
    ],
)
def test_a_bad_value_is_named_with_its_line(text: str, line: int, key: str, expected: str) -> None:
    message = refused(text).message
    assert message.startswith(f"f.toml:{line}: {key}")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ('[store]\nmax_lifetime = "9d"\nquta = "1GiB"', 3, "store.quota"),
        ("\n[stroe]\nquota = 1", 2, "[store]"),
        ("\nquota = 1", 2, "store.quota"),
        ('[links]\nquota = "1GiB"', 2, "store.quota"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(text: str, line: int, hint: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"f.toml:{line}: ")
    assert error.hint == f"Did you mean {hint}?"


def test_an_unknown_key_that_resembles_nothing_points_to_the_documentation() -> None:
    assert (
        refused("[tracing]\nzzz = 1").message
        == "f.toml:2: tracing.zzz: there is no such key; expected none, [tracing] has no keys"
    )
    assert "docs/configuration.md" in refused("[zzz]\nq = 1").hint


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("MESHD_STORE_QUOTA", "much", "store.quota: expected a size"),
        ("MESHD_LINKS_MAX_LINKS", "ten", "links.max_links: expected an integer"),
        ("MESHD_DISCOVERY_MDNS", "yes", 'discovery.mdns: expected true or false, found "yes"'),
        ("MESHD_LOG_LEVELS", "debug", "log.levels: expected a table"),
        ("MESHD_STORE_QUTA", "1GiB", "store.quta: there is no such key"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, part: str) -> None:
    assert refused(None, **{name: value}).message.startswith(f"environment: {name}: {part}")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("1kB", 1000), ("1KiB", 1024), ("1.5 GiB", 3 * 2**29), ("2TiB", 2**41), ("3MB", 3_000_000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1", "B", "-1B", "1KB", "1GiB ", "1e3B", "\u0661B", "1.B"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("10m", 600), ("12 h", 43_200), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1s", "0d", "0.0s", "1y", "1d2h"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", ":1", "1.2.3.4", "1.2.3:4", "::1:5", "[::1]", "[1.2.3.4]:5", "1.2.3.4:65536", "1.2.3.4:-1", "host:1"]
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("pi", StaticPeer("pi", 7843)),
        ("pi.local:80", StaticPeer("pi.local", 80)),
        ("192.0.2.1:80", StaticPeer("192.0.2.1", 80)),
        ("[2001:db8::1]", StaticPeer("2001:db8::1", 7843)),
        ("[fe80::1%eth0]:80", StaticPeer("fe80::1%eth0", 80)),
        (f"{to_text(NODE)}@pi", StaticPeer("pi", 7843, NODE)),
    ],
)
def test_static_peers(text: str, peer: StaticPeer) -> None:
    assert parse_static_peer(text) == peer


@pytest.mark.parametrize(
    "text",
    ["", ":80", "pi:0", "pi:99999", "2001:db8::1", "[pi]", "-pi", "p i", "@pi", "short@pi", "a@b@c", "http://pi"],
)
def test_bad_static_peers(text: str) -> None:
    with pytest.raises(ValueError):
        parse_static_peer(text)


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_an_endpoint_reads_what_it_writes(address: object, port: int) -> None:
    endpoint = Endpoint(str(address), port)
    assert parse_endpoint(str(endpoint)) == endpoint


@given(st.text())
def test_any_text_is_a_configuration_or_refused(text: str) -> None:
    error = attempt(text)
    assert error is None or error.code == "E_CONFIG"


@given(
    st.sampled_from(sorted(SETTINGS)),
    st.one_of(
        st.integers(),
        st.booleans(),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.lists(st.text("abc:1")),
        st.floats(),
    ),
)
def test_any_value_is_taken_or_refused_with_its_key(name: str, value: object) -> None:
    section, _, key = name.partition(".")
    text = f"[{section}]\n{key} = {json.dumps(value).replace('NaN', 'nan').replace('Infinity', 'inf')}"
    error = attempt(text)
    assert error is None or error.message.startswith((f"f.toml:2: {name}: ", "f.toml:2: expected TOML"))


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| `([^`]*)` \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {name: default for name, default, _ in rows}


def test_every_key_is_documented_with_its_default_and_none_is_stale() -> None:
    assert documented() == {name: json.dumps(setting.default) for name, setting in SETTINGS.items()}


def test_every_section_is_documented() -> None:
    headings = " ".join(re.findall("^## .*", DOCUMENT.read_text(), re.MULTILINE))
    assert sorted(re.findall(r"\[([a-z]+)]", headings)) == sorted(SECTIONS)


def test_the_documented_examples_hold() -> None:
    text = DOCUMENT.read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    assert load_config(example) != Config()
    assert set(tomllib.loads(example)) <= set(SECTIONS)
    error = refused('\n[store]\nquta = "1GiB"')
    assert f"{error.message}\n    {error.hint}".replace("f.toml", "meshd.toml") in text


@pytest.mark.parametrize("text", ['webhook = "ftp://planted-secret"', "webhook_token = ['planted-secret']"])
def test_a_secret_is_not_shown_even_when_it_is_wrong(text: str) -> None:
    assert "planted-secret" not in refused(f"[alerts]\n{text}").message


def test_secrets_are_masked_where_settings_are_listed() -> None:
    text = '[alerts]\nwebhook = "https://h/planted-secret"\nwebhook_token = "planted-secret"'
    rows = {row.key: row.value for row in in_effect(text, environ={"MESHD_ALERTS_WEBHOOK_TOKEN": "planted-secret"})}
    assert rows["alerts.webhook"] == rows["alerts.webhook_token"] == "***"
    assert "planted-secret" not in repr(rows)
