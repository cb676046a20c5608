"""From the JSON of a send to the arguments that the API takes. Pure."""

import base64
import binascii
import json
from typing import Any

import attrs

from meshd.errors import MeshdError
from meshd.http.operations import MAX_WAIT_S

DEFAULT_WAIT_S = 30.0
_MESSAGE_KEYS = frozenset(("payload", "payload_b64", "headers", "reply_to"))
_PLAIN_KEYS = frozenset(("destination", "service", "priority", "lifetime_ms", "ephemeral", "wait"))


@attrs.frozen
class Send:
    """``arguments`` of the operation ``send``, and how long to wait for its state (seconds)."""

    arguments: dict[str, Any]
    timeout_s: float


def read_json(body: bytes) -> dict[str, Any]:
    """An object of plain JSON. Raises MeshdError(E_USAGE)."""
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse)
        if "\\" in text:  # an escape can make half a character, which is no text
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MeshdError("E_USAGE", "The body is no JSON.") from error
    if type(value) is not dict:
        raise MeshdError("E_USAGE", "The body must be a JSON object.")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def read_send(value: dict[str, Any], key: str | None) -> Send:
    """What is to be sent. ``key`` is the idempotency key. Raises MeshdError(E_USAGE)."""
    fields = dict(value)
    timeout_s = fields.pop("timeout_s", DEFAULT_WAIT_S)
    if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= MAX_WAIT_S:
        raise MeshdError("E_USAGE", f"timeout_s: expected seconds, 0 to {MAX_WAIT_S}.")
    messages = fields.pop("messages", None)
    single = {name: fields.pop(name) for name in _MESSAGE_KEYS if name in fields}
    if messages is None:
        messages = [single]
    elif single or type(messages) is not list:
        raise MeshdError("E_USAGE", "messages: expected a list, and then no payload of its own.")
    for name in fields:
        if name not in _PLAIN_KEYS:
            raise MeshdError("E_USAGE", f"There is no field {name[:40]!r}.")
    return Send({**fields, "messages": [_message(message) for message in messages], "key": key}, float(timeout_s))


def _message(value: Any) -> Any:
    if type(value) is not dict:
        raise MeshdError("E_USAGE", "A message is a JSON object.")
    unknown = value.keys() - _MESSAGE_KEYS
    if unknown:
        raise MeshdError("E_USAGE", f"A message has no field {min(unknown)[:40]!r}.")
    return [_payload(value), value.get("headers", {}), value.get("reply_to")]


def _payload(value: dict[str, Any]) -> bytes:
    text, encoded = value.get("payload"), value.get("payload_b64")
    if (text is None) == (encoded is None):
        raise MeshdError("E_USAGE", "A message has either payload (text) or payload_b64.")
    if type(text) is str:
        return text.encode()
    if type(encoded) is str:
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MeshdError("E_USAGE", "payload_b64: expected base64.") from error
    raise MeshdError("E_USAGE", "payload and payload_b64 are text; anything else goes into the text as JSON.")


@attrs.frozen
class Acknowledgement:
    """What a reader is done with, and what it gives back."""

    consumer: str
    position: str
    ids: tuple[str, ...]
    nack: tuple[str, ...]


def read_acknowledgement(value: dict[str, Any]) -> Acknowledgement:
    """Raises MeshdError(E_USAGE)."""
    unknown = value.keys() - {"consumer", "position", "ids", "nack"}
    if unknown:
        raise MeshdError("E_USAGE", f"There is no field {min(unknown)[:40]!r}.")
    consumer, position = value.get("consumer", "default"), value.get("position", "")
    if type(consumer) is not str or type(position) is not str:
        raise MeshdError("E_USAGE", "consumer and position are text.")
    return Acknowledgement(consumer, position, _ids(value, "ids"), _ids(value, "nack"))


def _ids(value: dict[str, Any], name: str) -> tuple[str, ...]:
    ids = value.get(name, [])
    if type(ids) is not list or not all(type(item) is str for item in ids):
        raise MeshdError("E_USAGE", f"{name}: expected a list of message ids.")
    return tuple(ids)
