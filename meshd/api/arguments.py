"""The arguments of every operation of the local protocol, as the daemon takes them and clients check them.

Pure. A well-formed request with wrong arguments raises MeshdError: that request alone fails.
"""

from typing import Any

from meshd.api.protocol import MAX_ID
from meshd.components import LOG_COMPONENTS, LOG_LEVELS, is_log_component
from meshd.errors import MeshdError
from meshd.ids import Priority, is_device_name, is_service_name, parse_message_id, parse_node_id
from meshd.wire.codec import (
    Shape,
    ShapeError,
    array,
    blob,
    blob_up_to,
    boolean,
    converted,
    mapping,
    matching,
    optional,
    text,
    uint,
)

MAX_SEND_MESSAGES = 256
MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_HEADERS_BYTES = 2048
"""Headers and reply-to of one message, all names and values as UTF-8."""

MAX_CREDIT = 1_000_000
MAX_LAST_EVENTS = 1000
MAX_ACK_RANGES = 1024
"""Per priority, in one acknowledgement."""

MAX_LIFETIME_MS = 366 * 24 * 3600 * 1000


def _arguments(required: dict[str, Shape], defaulted: dict[str, tuple[Shape, Any]] | None = None) -> Shape:
    """A map with the required arguments, and any of the others; the result has them all."""
    shapes = dict(required)
    defaults = {}
    for name, (shape, default) in (defaulted or {}).items():
        shapes[name] = shape
        defaults[name] = default

    def check(value: dict[str, Any]) -> dict[str, Any]:
        checked = defaults.copy()
        for name, item in value.items():
            shape = shapes.get(name)
            if shape is None:
                raise ShapeError(f"unknown argument {name!r:.40}")
            try:
                checked[name] = shape(item)
            except ShapeError as error:
                raise ShapeError(f"argument {name!r}: {error}") from error
        for name in required:
            if name not in value:
                raise ShapeError(f"argument {name!r} is missing")
        return checked

    return check


def _is_device(name: str) -> bool:
    try:
        return is_device_name(name) or bool(parse_node_id(name))
    except ValueError:
        return False


def _message_id(value: str) -> str:
    parse_message_id(value)
    return value


_headers = mapping(32, text(64), text(MAX_HEADERS_BYTES))
_device = matching(text(63), _is_device, "a device's name, id or start of an id")
_service = matching(text(64), is_service_name, "1 to 64 letters, digits, '.', '_' and '-', a letter or digit first")
_reply_to = optional(_service)


def _payload(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ShapeError("expected the payload as bytes")
    if len(value) > MAX_PAYLOAD_BYTES:
        raise MeshdError("E_TOO_LARGE", f"A body of {len(value)} bytes; the limit is {MAX_PAYLOAD_BYTES} (1 MiB).")
    return value


def check_message(value: Any) -> bytes | tuple[bytes, dict[str, str], str | None]:
    """One message of a send: its payload, or payload, headers and reply-to.

    Raises ShapeError, MeshdError(E_TOO_LARGE).
    """
    if type(value) is not list:
        return _payload(value)
    if len(value) != 3:
        raise ShapeError("a message is its payload, or a list of payload, headers, reply-to")
    payload, headers, reply_to = _payload(value[0]), _headers(value[1]), _reply_to(value[2])
    size = sum([len(k.encode()) + len(v.encode()) for k, v in headers.items()]) + len(reply_to or "")
    if size > MAX_HEADERS_BYTES:
        raise MeshdError("E_TOO_LARGE", f"Headers of {size} bytes; the limit is {MAX_HEADERS_BYTES}.")
    return payload, headers, reply_to


def _priority(value: Any) -> Priority:
    if type(value) is str and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    if type(value) is int and 0 <= value <= 3:
        return Priority(value)
    raise ShapeError("expected critical, high, normal or bulk")


def _one_of(*names: str) -> Shape:
    return matching(text(32), lambda value: value in names, f"one of: {', '.join(names)}")


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 3600:
        raise ShapeError("expected seconds, above 0 and at most 3600")
    return float(value)


def _watermarks(value: Any) -> dict[int, int]:
    return dict(array(_pair, 4)(value))


def _pair(value: Any) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise ShapeError("expected lists of priority and offset")
    return uint(3)(value[0]), uint()(value[1])


def _spans(value: Any) -> dict[int, tuple[tuple[int, int], ...]]:
    """Lists of priority, first, last; sorted out by priority."""
    spans: dict[int, list[tuple[int, int]]] = {}
    if type(value) is not list or len(value) > 4 * MAX_ACK_RANGES:
        raise ShapeError("expected a list of spans")
    offset = uint()
    for item in value:
        if type(item) is not list or len(item) != 3:
            raise ShapeError("a span is a list of priority, first, last")
        first, last = offset(item[1]), offset(item[2])
        if first > last:
            raise ShapeError("a span begins after its end")
        spans.setdefault(uint(3)(item[0]), []).append((first, last))
    if any(len(of_one) > MAX_ACK_RANGES for of_one in spans.values()):
        raise ShapeError(f"at most {MAX_ACK_RANGES} spans per priority")
    return {priority: tuple(of_one) for priority, of_one in spans.items()}


_wait = _one_of("accepted", "sent", "delivered", "consumed")
_role = _one_of("member", "admin", "relay")
_name = matching(text(63), is_device_name, "1 to 63 letters, digits, '.', '_' and '-', a letter or digit first")
_mesh_name = matching(text(63), lambda name: bool(name.strip()) and name.isprintable(), "1 to 63 visible characters")
_id = converted(text(32), _message_id)
_subscription = uint(MAX_ID, 1)
_nothing = _arguments({})
_level = _one_of(*LOG_LEVELS, "default")
_component = matching(
    text(64),
    is_log_component,
    f"a component: {', '.join(LOG_COMPONENTS)}, or a part of one, such as discovery.mdns",
)

OPERATIONS: dict[str, Shape] = {
    "send": _arguments(
        {"destination": _device, "messages": matching(array(check_message, MAX_SEND_MESSAGES), bool, "a message")},
        {
            "service": (_service, "default"),
            "priority": (_priority, Priority.NORMAL),
            "lifetime_ms": (optional(uint(MAX_LIFETIME_MS, 1)), None),
            "ephemeral": (boolean, False),
            "wait": (_wait, "accepted"),
            "key": (optional(matching(text(64), bool, "a key of 1 to 64 characters")), None),
        },
    ),
    "await": _arguments({"id": _id}, {"state": (_wait, "delivered")}),
    "subscribe": _arguments(
        {}, {"service": (_service, "default"), "consumer": (_service, "default"), "credit": (uint(MAX_CREDIT), 0)}
    ),
    "credit": _arguments({"subscription": _subscription, "messages": uint(MAX_CREDIT, 1)}),
    "ack": _arguments(
        {"subscription": _subscription},
        {"up_to": (_watermarks, {}), "ranges": (_spans, {}), "nack": (_spans, {})},
    ),
    "cancel": _arguments({"target": _subscription}),
    "init": _arguments({"name": _mesh_name}),
    "invite": _arguments({}, {"expires_s": (uint(7 * 24 * 3600, 1), 600), "role": (_role, "member")}),
    "join": _arguments({"code": text(4096)}, {"name": (optional(_name), None)}),
    "remove": _arguments({"device": _device}),
    "relay-add": _arguments(
        {"url": text(256)},
        {
            "certificate": (optional(blob_up_to(64 * 1024)), None),
            "certificate_hash": (optional(blob(32)), None),
            "name": (optional(_name), None),
        },
    ),
    "relay-remove": _arguments({"relay": matching(text(256), bool, "a relay's name, id or URL")}),
    "relays": _nothing,
    "ping": _arguments({"destination": _device}, {"count": (uint(10_000, 1), 1), "timeout_s": (_seconds, 5.0)}),
    "trace": _arguments({"id": _id}),
    "why": _arguments({"peer": _device}),
    "breaker-reset": _arguments({"peer": _device}),
    "events": _arguments(
        {}, {"last": (uint(MAX_LAST_EVENTS), 100), "follow": (boolean, False), "credit": (uint(MAX_CREDIT), 0)}
    ),
    "log-level": _arguments({"level": _level}, {"component": (optional(_component), None)}),
    "status": _nothing,
    "peers": _nothing,
    "members": _nothing,
    "queue": _nothing,
    "routes": _nothing,
    "graph": _nothing,
    "config": _nothing,
    "doctor": _nothing,
    "metrics": _nothing,
    "alerts": _nothing,
    "token-create": _arguments({"name": _service}),
    "token-revoke": _arguments({"name": text(64)}),
    "tokens": _nothing,
    "version": _nothing,
}
"""Every operation, and the shape of its arguments."""


def check_arguments(op: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The checked arguments, those left out filled in.

    Raises MeshdError: ``E_UNSUPPORTED`` for an unknown operation, ``E_TOO_LARGE`` for a body over
    the limit, ``E_USAGE`` naming the argument that is wrong. The client's fault, always.
    """
    shape = OPERATIONS.get(op)
    if shape is None:
        raise MeshdError("E_UNSUPPORTED", f"This daemon knows no operation {op!r:.40}.")
    try:
        checked: dict[str, Any] = shape(arguments)
    except ShapeError as error:
        raise MeshdError("E_USAGE", f"{op}: {error}.") from error
    return checked
