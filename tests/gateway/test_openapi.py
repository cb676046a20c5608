"""The description: of every operation there is, complete in itself, and the page of the docs with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from meshd.errors import CATALOGUE
from meshd.http.answers import STATUS
from meshd.http.handlers import HANDLERS
from meshd.http.openapi import description
from meshd.http.operations import OPERATIONS
from meshd.http.schemas import SCHEMAS
from tests.gateway.schema import KNOWN, Mismatch, check

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
DESCRIBED = description()


def every(value: Any) -> list[dict[str, Any]]:
    """All objects in a document."""
    if isinstance(value, dict):
        return [value] + [found for item in value.values() for found in every(item)]
    if isinstance(value, list):
        return [found for item in value for found in every(item)]
    return []


def test_it_describes_every_operation_that_has_a_handler() -> None:
    found = {item["operationId"] for of_path in DESCRIBED["paths"].values() for item in of_path.values()}
    assert found == set(HANDLERS) == {operation.name for operation in OPERATIONS}
    assert json.loads(json.dumps(DESCRIBED)) == DESCRIBED
    assert DESCRIBED["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere_and_every_shape_is_used() -> None:
    references = {item["$ref"].rpartition("/")[2] for item in every(DESCRIBED) if "$ref" in item}
    assert references == set(DESCRIBED["components"]["schemas"])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_parameters_of_a_path_are_those_in_it(operation: Any) -> None:
    in_path = {parameter.name for parameter in operation.parameters if parameter.in_path}
    assert in_path == set(re.findall(r"\{(\w+)}", operation.path))
    for parameter in operation.parameters:
        if parameter.default is not None:
            assert parameter.read(str(parameter.default)) == parameter.default
            check(parameter.default, parameter.schema, {})


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_what_changes_something_takes_a_token(operation: Any) -> None:
    [described] = [
        item for of_path in DESCRIBED["paths"].values() for item in of_path.values()
        if item["operationId"] == operation.name
    ]  # fmt: skip
    needs = {"send", "receive", "stream", "acknowledge", "doctor"}
    assert operation.safe == (operation.name not in needs)
    assert ({} in described["security"]) == operation.safe
    assert ("401" in described["responses"]) == (operation.name in needs)


def test_shapes_use_only_what_the_checker_checks() -> None:
    def walk(schema: dict[str, Any]) -> None:
        assert set(schema) <= KNOWN
        for inner in [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]:
            walk(inner)
        if "items" in schema:
            walk(schema["items"])

    for schema in SCHEMAS.values():
        walk(schema)


def test_the_checker_finds_what_is_wrong() -> None:
    peer = {"status": "ok"}
    check(peer, SCHEMAS["Health"], SCHEMAS)
    for wrong in ({}, {"status": "bad"}, {"status": "ok", "more": 1}, [], {"status": None}):
        with pytest.raises(Mismatch):
            check(wrong, SCHEMAS["Health"], SCHEMAS)


def test_every_error_that_is_described_has_a_status_and_is_in_the_catalogue() -> None:
    assert set(STATUS) <= set(CATALOGUE)
    for operation in OPERATIONS:
        assert set(operation.errors) <= set(STATUS)


def test_the_page_tells_the_status_of_every_code() -> None:
    table = PAGE.partition("## Errors")[2].partition("## Limits")[0]
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`(E_\w+)`", codes)}
    assert told == STATUS


def test_the_page_tells_every_path() -> None:
    shown = PAGE.replace("SERVICE", "{service}").replace("/ID`", "/{id}`").replace("/PEER`", "/{peer}`")
    paths = {operation.path for operation in OPERATIONS}
    missing = {path for path in paths if path not in shown and path.replace("{service}", "lights") not in shown}
    assert missing == set()
