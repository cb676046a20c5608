"""The OpenAPI 3.1 description, made from the table of operations. Pure."""

from typing import Any

from meshd import __version__
from meshd.errors import CATALOGUE
from meshd.http.answers import STATUS
from meshd.http.operations import OPERATIONS, Operation, Parameter, Reply
from meshd.http.schemas import SCHEMAS, reference

_ALWAYS = ("E_USAGE", "E_ORIGIN", "E_INTERNAL")
_ABOUT = (
    "The local API of meshd for whatever speaks HTTP. Errors are documents with a code, a message and a hint. "
    "Fields may be added to documents; none is renamed or removed."
)


def description() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "meshd", "version": __version__, "description": _ABOUT, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "Description": {"type": "object", "required": ["openapi", "info", "paths"]}},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP only; the Unix socket goes by who opens it. Made by meshctl token create.",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        **({"description": operation.about} if operation.about else {}),
        "parameters": [_parameter(parameter) for parameter in operation.parameters] + _headers(operation),
        "responses": _responses(operation),
        "security": [{}, {"token": []}] if operation.safe else [{"token": []}],
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference(operation.body)}},
        }
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    default = {} if parameter.default is None else {"default": parameter.default}
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.in_path,
        "description": parameter.about,
        "schema": parameter.schema | default,
    }


def _headers(operation: Operation) -> list[dict[str, Any]]:
    texts = {
        "send": ("Idempotency-Key", "1 to 64 characters. A repeat with the same key sends nothing more."),
        "stream": ("Last-Event-ID", "As `ack`, which wins."),
    }
    if operation.name not in texts:
        return []
    name, about = texts[operation.name]
    return [{"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}]


def _responses(operation: Operation) -> dict[str, Any]:
    good = {
        "description": operation.summary,
        "content": {operation.reply.value: {"schema": reference(operation.answer)}},
    }
    if operation.reply is Reply.EVENTS:
        good["description"] = f"{operation.summary} The data of each event is this document."
    responses: dict[str, Any] = {"200": good}
    if operation.name == "send":
        responses["202"] = {**good, "description": "Accepted; what was waited for has not happened yet."}
    codes: dict[int, list[str]] = {}
    for code in (*_ALWAYS, *operation.errors):
        codes.setdefault(STATUS[code], []).append(code)
    if operation.name == "readyz":
        codes = {503: [code for of_status in codes.values() for code in of_status if code != "E_INTERNAL"]}
    for status, names in sorted(codes.items()):
        responses[str(status)] = {
            "description": "; ".join(f"{name}: {CATALOGUE[name].meaning}" for name in names),
            "content": {"application/json": {"schema": reference("Error")}},
        }
    return responses
