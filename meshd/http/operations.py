"""What the gateway can be asked: one table, for the routes and for their description. Pure."""

import enum
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from meshd.api.arguments import MAX_LAST_EVENTS
from meshd.errors import MeshdError

MAX_MESSAGES = 1000
"""In one answer."""

MAX_WAIT_S = 300
DEFAULT_WAIT_S = 20
DEFAULT_LEASE_S = 60
MAX_LEASE_S = 3600


class Reply(enum.Enum):
    """What comes back."""

    DOCUMENT = "application/json"
    EVENTS = "text/event-stream"
    METRICS = "application/openmetrics-text"


@attrs.frozen(kw_only=True)
class Parameter:
    """One value in a path or a query.

    Args:
        schema: its JSON Schema; read: from its text. Raises ValueError.
        default: None makes it required in a path, and left out in a query.
    """

    name: str
    about: str
    schema: dict[str, Any]
    read: Callable[[str], Any]
    default: Any = None
    in_path: bool = False


@attrs.frozen(kw_only=True)
class Operation:
    """One thing to ask.

    Args:
        name: of the handler, and the operation's id.
        safe: it only looks, and needs no token.
        answer: name of the answer's schema. body: of the request's.
        reply: how the answer comes. waits: it may wait for others, and ends when the client goes.
        errors: codes to be expected beside E_USAGE, E_ORIGIN and E_INTERNAL.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: str
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: str | None = None
    safe: bool = True
    waits: bool = False
    reply: Reply = Reply.DOCUMENT
    errors: tuple[str, ...] = ()

    def arguments(self, path: Mapping[str, str], query: Mapping[str, str]) -> dict[str, Any]:
        """All parameters, read, those left out filled in. Raises MeshdError(E_USAGE)."""
        found: dict[str, Any] = {}
        known = {parameter.name for parameter in self.parameters if not parameter.in_path}
        for name in query:
            if name not in known:
                expected = f"one of {', '.join(sorted(known))}" if known else "none"
                raise MeshdError("E_USAGE", f"There is no parameter {name[:40]!r}; expected {expected}.")
        for parameter in self.parameters:
            given = path if parameter.in_path else query
            try:
                text = given.get(parameter.name)
                found[parameter.name] = parameter.default if text is None else parameter.read(text)
            except ValueError as error:
                raise MeshdError("E_USAGE", f"{parameter.name}: {error}.") from error
        return found


def _text(name: str, about: str, *, default: str | None = None, in_path: bool = False) -> Parameter:
    return Parameter(name=name, about=about, schema={"type": "string"}, read=str, default=default, in_path=in_path)


def _integer(name: str, about: str, low: int, high: int, default: int) -> Parameter:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise ValueError(f"expected {low} to {high}")
        return int(text)

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Parameter(name=name, about=about, schema=schema, read=read, default=default)


_SERVICE = _text("service", "The mailbox to read.", in_path=True)
_CONSUMER = _text("consumer", "Whose place in the mailbox to read from and move on.", default="default")
_LEASE = _integer(
    "lease_s",
    "Seconds that the place stays this reader's after its last request, while it has messages in hand. Then they come "
    "again.",
    0,
    MAX_LEASE_S,
    DEFAULT_LEASE_S,
)
_ACK = _text("ack", "A position: what came up to there is done, and what came after it comes again.")
_LAST = _integer("last", "How many of the last events to begin with.", 0, MAX_LAST_EVENTS, 100)

_MESH = ("E_NO_MESH",)
_READING = ("E_TOKEN", "E_LEASED", "E_BUSY", "E_STOPPING")


def _view(name: str, summary: str, answer: str, errors: tuple[str, ...] = _MESH) -> Operation:
    return Operation(method="GET", path=f"/v1/{name}", name=name, summary=summary, answer=answer, errors=errors)


OPERATIONS: tuple[Operation, ...] = (
    Operation(method="GET", path="/healthz", name="healthz", summary="The daemon runs.", answer="Health"),
    Operation(
        method="GET",
        path="/readyz",
        name="readyz",
        summary="The daemon runs, and its node answers.",
        answer="Health",
        errors=("E_TIMEOUT", "E_STOPPING"),
    ),
    Operation(method="GET", path="/openapi.json", name="openapi", summary="This description.", answer="Description"),
    Operation(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="Everything that is counted and measured, as OpenMetrics text.",
        answer="Metrics",
        reply=Reply.METRICS,
    ),
    _view("status", "This device at a glance.", "Status", ()),
    _view("peers", "The other devices: who is linked, and how well.", "Peer[]"),
    _view("routes", "The routing table.", "Route[]", ()),
    _view("members", "The devices of the mesh.", "Member[]"),
    _view("queue", "The mail that waits here, for whom, and why.", "Queue[]", ()),
    _view("graph", "The mesh as seen from here.", "Graph"),
    _view("relays", "The relays of the mesh, the one that is used first on top.", "Relay[]", ()),
    _view("alerts", "What is wrong, and what was: active alerts first.", "Alert[]", ()),
    Operation(
        method="GET",
        path="/v1/doctor",
        name="doctor",
        summary="What is wrong with this device and its network, and the fix.",
        about="It takes up to 8 s, in which other devices are asked to dial this one. One examination at a time.",
        answer="Verdict[]",
        safe=False,
        waits=True,
        errors=("E_TOKEN", "E_TIMEOUT", "E_STATE_DIR"),
    ),
    Operation(
        method="GET",
        path="/v1/trace/{id}",
        name="trace",
        summary="The life of one message.",
        answer="Trace",
        parameters=(_text("id", "A message id, as send answers it.", in_path=True),),
        errors=("E_UNKNOWN_MESSAGE",),
    ),
    Operation(
        method="GET",
        path="/v1/why/{peer}",
        name="why",
        summary="Why a device is linked or not.",
        answer="Why",
        parameters=(_text("peer", "Its name, its id, or the beginning of its id.", in_path=True),),
        errors=("E_NO_MESH", "E_UNKNOWN_DEVICE", "E_AMBIGUOUS_DEVICE"),
    ),
    Operation(
        method="GET",
        path="/v1/events",
        name="events",
        summary="What happened lately to devices, links and routes.",
        answer="Event[]",
        parameters=(_LAST,),
    ),
    Operation(
        method="GET",
        path="/v1/events/stream",
        name="follow",
        summary="What happens to devices, links and routes, as it happens.",
        answer="Event",
        parameters=(_LAST,),
        waits=True,
        reply=Reply.EVENTS,
    ),
    Operation(
        method="POST",
        path="/v1/send",
        name="send",
        summary="Send a message, or several, to a device.",
        about="Answers 200 when what `wait` asks for has happened, 202 when it has not within `timeout_s`: the message "
        "is accepted all the same. With the header `Idempotency-Key` a repeat is harmless: it gets the first answer.",
        answer="Sent",
        body="Send",
        safe=False,
        waits=True,
        errors=(
            *("E_TOKEN", "E_NO_MESH", "E_UNKNOWN_DEVICE", "E_AMBIGUOUS_DEVICE", "E_TOO_LARGE", "E_FULL", "E_EXPIRED"),
            *("E_REFUSED", "E_GONE", "E_REMOVED_DEVICE", "E_TIMEOUT"),
        ),
    ),
    Operation(
        method="GET",
        path="/v1/receive/{service}",
        name="receive",
        summary="Read messages, waiting for the first one.",
        about="One request at a time may read as one consumer. Acknowledge with `ack` of the next one, or by a POST.",
        answer="Received",
        parameters=(
            _SERVICE,
            _CONSUMER,
            _integer("max", "How many messages at most.", 1, MAX_MESSAGES, 100),
            _integer("wait_s", "Seconds to wait for the first message.", 0, MAX_WAIT_S, DEFAULT_WAIT_S),
            _LEASE,
            _ACK,
        ),
        safe=False,
        waits=True,
        errors=_READING,
    ),
    Operation(
        method="GET",
        path="/v1/receive/{service}/stream",
        name="stream",
        summary="Read messages as they come.",
        about="The id of each event is the position up to it. Last-Event-ID, which a browser sends when it connects "
        "again, acknowledges like `ack`.",
        answer="Message",
        parameters=(_SERVICE, _CONSUMER, _LEASE, _ACK),
        safe=False,
        waits=True,
        reply=Reply.EVENTS,
        errors=_READING,
    ),
    Operation(
        method="POST",
        path="/v1/receive/{service}/ack",
        name="acknowledge",
        summary="Acknowledge messages that were read, or give them back.",
        answer="Acknowledged",
        parameters=(_SERVICE,),
        body="Acknowledgement",
        safe=False,
        errors=("E_TOKEN", "E_NO_LEASE", "E_TIMEOUT", "E_STOPPING"),
    ),
)
"""Everything, in the order of the description."""
