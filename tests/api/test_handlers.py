"""Operations become the node's requests."""

import pytest

from meshd.api.arguments import OPERATIONS
from meshd.api.handlers import build
from meshd.ids import BundleRef, Priority, format_message_id
from meshd.node import requests
from meshd.node.requests import Reply, Request
from meshd.wire.bundle import Message

REF = BundleRef(b"0123456789")
ID = format_message_id(REF, 7)


class NoPort:
    """Takes no replies."""

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        raise AssertionError("nothing is answered here")


PORT = NoPort()
COMMON = {"port": PORT, "id": 5, "principal": "uid:1"}

BUILT = [
    (
        "send",
        {"destination": "pi", "messages": [b"a", [b"b", {"k": "v"}, "answers"]], "priority": "bulk", "key": "k1"},
        requests.Submit(
            **COMMON,
            destination="pi",
            service="default",
            messages=(Message(b"a"), Message(b"b", {"k": "v"}, "answers")),
            priority=Priority.BULK,
            key="k1",
        ),
    ),
    ("await", {"id": ID}, requests.Await(**COMMON, ref=REF, index=7, state="delivered")),
    (
        "subscribe",
        {"credit": 3},
        requests.Subscribe(**COMMON, service="default", consumer="default", credit=3),
    ),
    ("credit", {"subscription": 2, "messages": 9}, requests.AddCredit(**COMMON, subscription=2, messages=9)),
    (
        "ack",
        {"subscription": 2, "up_to": [[1, 4]], "ranges": [[2, 0, 3], [2, 5, 5]], "nack": [[0, 1, 1]]},
        requests.Acknowledge(**COMMON, subscription=2, up_to={1: 4}, ranges={2: ((0, 3), (5, 5))}, nack={0: ((1, 1),)}),
    ),
    ("cancel", {"target": 2}, requests.Cancel(**COMMON, target=2)),
    ("init", {"name": "home"}, requests.InitMesh(**COMMON, name="home")),
    ("invite", {}, requests.Invite(**COMMON, expires_s=600, role="member")),
    ("join", {"code": "x"}, requests.Join(**COMMON, code="x", name=None)),
    ("remove", {"device": "pi"}, requests.Remove(**COMMON, device="pi")),
    (
        "relay-add",
        {"url": "wss://relay.example", "certificate_hash": bytes(32)},
        requests.AddRelay(**COMMON, url="wss://relay.example", certificate_hash=bytes(32)),
    ),
    ("relay-remove", {"relay": "shed"}, requests.RemoveRelay(**COMMON, relay="shed")),
    ("ping", {"destination": "pi", "count": 3}, requests.Echo(**COMMON, destination="pi", count=3, timeout_s=5.0)),
    ("trace", {"id": ID}, requests.Query(**COMMON, view="trace", argument=ID)),
    ("why", {"peer": "pi"}, requests.Query(**COMMON, view="why", argument="pi")),
    ("breaker-reset", {"peer": "pi"}, requests.ResetBreaker(**COMMON, peer="pi")),
    ("events", {}, requests.Query(**COMMON, view="events", argument=100)),
    ("events", {"follow": True, "last": 0, "credit": 7}, requests.Follow(**COMMON, last=0, credit=7)),
    ("token-create", {"name": "shell"}, requests.CreateToken(**COMMON, name="shell")),
    ("token-revoke", {"name": "shell"}, requests.RevokeToken(**COMMON, name="shell")),
    ("log-level", {"level": "debug"}, requests.SetLogLevel(**COMMON, component=None, level="debug")),
    (
        "log-level",
        {"level": "default", "component": "links"},
        requests.SetLogLevel(**COMMON, component="links", level=None),
    ),
    *[
        (view, {}, requests.Query(**COMMON, view=view))
        for view in (
            *("status", "peers", "members", "queue", "routes", "graph", "relays", "config", "doctor", "metrics"),
            *("alerts", "tokens"),
        )
    ],
]


@pytest.mark.parametrize(("op", "arguments", "expected"), BUILT)
def test_operation_becomes_its_request(op: str, arguments: dict[str, object], expected: Request) -> None:
    assert build(op, arguments, port=PORT, request_id=5, principal="uid:1") == expected


def test_every_operation_but_the_servers_own_is_built() -> None:
    assert {op for op, _, _ in BUILT} == set(OPERATIONS) - {"version"}
