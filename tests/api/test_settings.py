"""What is set, and where it comes from."""

from pathlib import Path

import pytest

from meshd.api.settings import in_effect, read_file, reloaded
from meshd.config import SETTINGS
from meshd.errors import MeshdError

TEXT = '[store]\nquota = "2GiB"\n\n[log]\nlevel = "debug"\n'


def rows(text: str | None, environ: dict[str, str], options: dict[str, object]) -> dict[str, tuple[object, str]]:
    found = in_effect(text, filename="m.toml", environ=environ, options=options)
    assert [row.key for row in found] == list(SETTINGS)
    return {row.key: (row.value, row.source) for row in found}


def test_each_value_has_its_source_and_the_strongest_wins() -> None:
    environ = {"MESHD_STORE_QUOTA": "3GiB", "MESHD_DISCOVERY_INTERFACES": "eth0,wlan0", "MESHD_DISCOVERY_MDNS": "false"}
    found = rows(TEXT, environ, {"log.level": "error"})
    assert found["store.quota"] == ("3GiB", "environment: MESHD_STORE_QUOTA")
    assert found["discovery.interfaces"] == (["eth0", "wlan0"], "environment: MESHD_DISCOVERY_INTERFACES")
    assert found["discovery.mdns"] == (False, "environment: MESHD_DISCOVERY_MDNS")
    assert found["log.level"] == ("error", "command line")
    assert found["links.max_links"] == (16, "default")
    assert rows(TEXT, {}, {})["log.level"] == ("debug", "m.toml:5")


def test_nothing_is_shown_of_what_is_wrong() -> None:
    with pytest.raises(MeshdError, match=r"m\.toml:2: store\.quota"):
        in_effect('[store]\nquota = "many"\n', filename="m.toml")


def test_a_reload_changes_some_sections_only() -> None:
    before, after = in_effect(None), in_effect(TEXT, filename="m.toml")
    now = {row.key: row.source for row in reloaded(before, after, frozenset(("log",)))}
    assert (now["log.level"], now["store.quota"]) == ("m.toml:5", "default")


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshdError, match=r"no\.toml can't be read: No such file"):
        read_file(str(tmp_path / "no.toml"))
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(MeshdError, match="not UTF-8"):
        read_file(str(tmp_path / "latin.toml"))
