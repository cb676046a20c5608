"""The catalogue of codes is whole: what the source uses is in it, and what is in it the source uses."""

import re
from pathlib import Path

import pytest

import meshd
from meshd.errors import CATALOGUE, MeshdError, RemoteProtocolError

SOURCE = Path(meshd.__file__).parent
_CODE = re.compile(r"\"([EP]_[A-Z_]+)\"")


def used() -> set[str]:
    """Every code that is written in the source, besides the catalogue itself."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        if path.name != "errors.py" or path.parent != SOURCE:
            found |= set(_CODE.findall(path.read_text(encoding="utf-8")))
    return found


def test_every_code_in_use_is_explained() -> None:
    assert used() - CATALOGUE.keys() == set()


def test_every_code_that_is_explained_is_in_use() -> None:
    assert CATALOGUE.keys() - used() == set()


@pytest.mark.parametrize("code", CATALOGUE)
def test_explanations_are_sentences(code: str) -> None:
    explanation = CATALOGUE[code]
    assert explanation.meaning.endswith(".")
    assert explanation.advice


def test_an_error_carries_its_advice() -> None:
    general = MeshdError("E_FULL", "It is full.")
    assert (str(general), general.hint) == ("It is full.", CATALOGUE["E_FULL"].advice)
    assert MeshdError("E_FULL", "It is full.", "Wait.").hint == "Wait."
    with pytest.raises(KeyError):
        MeshdError("E_NOTHING", "?")


def test_a_peers_fault_names_code_and_reason() -> None:
    error = RemoteProtocolError("P_AUTH", "who?")
    assert (str(error), error.code, error.reason) == ("P_AUTH: who?", "P_AUTH", "who?")
