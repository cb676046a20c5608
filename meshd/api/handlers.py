"""From an operation and its arguments to what the node understands. Pure."""

from collections.abc import Callable
from typing import Any, TypeAlias

from meshd.api.arguments import check_arguments
from meshd.ids import parse_message_id
from meshd.node import requests
from meshd.node.requests import Port, Request
from meshd.wire.bundle import Message

Maker: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], Request]
"""From what all requests have, and the checked arguments of one operation."""


def _plain(request: Callable[..., Request]) -> Maker:
    return lambda common, arguments: request(**common, **arguments)


def _submit(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    arguments["messages"] = tuple([Message(m) if type(m) is bytes else Message(*m) for m in arguments["messages"]])
    return requests.Submit(**common, **arguments)


def _await(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    ref, index = parse_message_id(arguments["id"])
    return requests.Await(**common, ref=ref, index=index, state=arguments["state"])


def _trace(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    return requests.Query(**common, view="trace", argument=arguments["id"])


def _why(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    return requests.Query(**common, view="why", argument=arguments["peer"])


def _events(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    if arguments["follow"]:
        return requests.Follow(**common, last=arguments["last"], credit=arguments["credit"])
    return requests.Query(**common, view="events", argument=arguments["last"])


def _log_level(common: dict[str, Any], arguments: dict[str, Any]) -> Request:
    level = arguments["level"]
    return requests.SetLogLevel(**common, component=arguments["component"], level=None if level == "default" else level)


def _view(name: str) -> Maker:
    return lambda common, arguments: requests.Query(**common, view=name)


_MAKERS: dict[str, Maker] = {
    "send": _submit,
    "await": _await,
    "subscribe": _plain(requests.Subscribe),
    "credit": _plain(requests.AddCredit),
    "ack": _plain(requests.Acknowledge),
    "cancel": _plain(requests.Cancel),
    "init": _plain(requests.InitMesh),
    "invite": _plain(requests.Invite),
    "join": _plain(requests.Join),
    "remove": _plain(requests.Remove),
    "relay-add": _plain(requests.AddRelay),
    "relay-remove": _plain(requests.RemoveRelay),
    "ping": _plain(requests.Echo),
    "trace": _trace,
    "why": _why,
    "breaker-reset": _plain(requests.ResetBreaker),
    "events": _events,
    "token-create": _plain(requests.CreateToken),
    "token-revoke": _plain(requests.RevokeToken),
    "log-level": _log_level,
    **{
        name: _view(name)
        for name in (
            *("status", "peers", "members", "queue", "routes", "graph", "relays", "config", "doctor", "metrics"),
            *("alerts", "tokens"),
        )
    },
}
"""Every operation that the node answers; ``version`` is the server's own."""


def build(op: str, arguments: dict[str, Any], *, port: Port, request_id: int, principal: str) -> Request:
    """The node's request for ``op``. Raises MeshdError: E_UNSUPPORTED, E_USAGE or E_TOO_LARGE."""
    checked = check_arguments(op, arguments)
    return _MAKERS[op]({"port": port, "id": request_id, "principal": principal}, checked)
