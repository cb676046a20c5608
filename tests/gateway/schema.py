"""A checker for the part of JSON Schema that the description uses; anything else in a schema is an error."""

from typing import Any

KNOWN = {
    *("type", "properties", "required", "additionalProperties", "items", "enum", "anyOf", "minimum", "maximum"),
    *("description", "default", "format", "contentEncoding", "$ref"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}


class Mismatch(Exception):
    """A value is not as the schema says."""


def check(value: Any, schema: dict[str, Any], schemas: dict[str, Any], at: str = "$") -> None:
    """Raise Mismatch unless ``value`` fits. A field that the schema does not name counts as undocumented."""
    unknown = schema.keys() - KNOWN
    assert not unknown, f"the checker does not know {unknown}"
    if "$ref" in schema:
        check(value, schemas[schema["$ref"].removeprefix("#/components/schemas/")], schemas, at)
        return
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], schemas, at)
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, name) for name in names):
            raise Mismatch(f"{at}: {value!r:.60} is not {names}")
    if "enum" in schema and value not in schema["enum"]:
        raise Mismatch(f"{at}: {value!r:.60} is not in {schema['enum']}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            raise Mismatch(f"{at}: {value} is out of bounds")
    if isinstance(value, dict) and schema.get("type") is not None:
        _check_fields(value, schema, schemas, at)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            check(item, schema["items"], schemas, f"{at}[{index}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _check_any(value: Any, options: list[dict[str, Any]], schemas: dict[str, Any], at: str) -> None:
    faults = []
    for option in options:
        try:
            check(value, option, schemas, at)
        except Mismatch as fault:
            faults.append(str(fault))
        else:
            return
    raise Mismatch("; ".join(faults))


def _check_fields(value: dict[str, Any], schema: dict[str, Any], schemas: dict[str, Any], at: str) -> None:
    missing = set(schema.get("required", ())) - value.keys()
    if missing:
        raise Mismatch(f"{at}: {sorted(missing)} missing")
    properties = schema.get("properties")
    others = schema.get("additionalProperties")
    for name, item in value.items():
        if properties is not None and name in properties:
            check(item, properties[name], schemas, f"{at}.{name}")
        elif isinstance(others, dict):
            check(item, others, schemas, f"{at}.{name}")
        elif properties is not None and others is not True:
            raise Mismatch(f"{at}: {name} is not documented: it belongs into meshd/http/schemas.py")
