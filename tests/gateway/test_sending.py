"""POST /v1/send, to a real daemon that sends to itself: what is taken, what is refused, what a repeat does."""

import base64
from typing import Any

import httpx
import pytest

from meshd.client.blocking import Client
from meshd.errors import MeshdError
from tests.gateway.daemon import NAME, Daemon
from tests.gateway.schema import check


def send(client: httpx.Client, service: str, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
    return client.post("/v1/send", json={"destination": NAME, "service": service} | fields, headers=headers)


def waiting(native: Client, service: str, count: int) -> list[Any]:
    """What the service holds, read and acknowledged: so many messages and no more."""
    found: list[Any] = []
    with native.subscribe(service, "default", credit=100) as subscription:
        for _ in range(count):
            found.append(subscription.next(10))
            subscription.ack(found[-1])
        with pytest.raises(MeshdError) as caught:
            subscription.next(0.3)
    assert caught.value.code == "E_TIMEOUT"
    return found


def test_all_that_a_message_has_arrives(client: httpx.Client, running: Daemon) -> None:
    sent = send(
        client,
        "whole",
        payload="Grüße\n",
        headers={"kind": "greeting"},
        reply_to="answers",
        priority="high",
        lifetime_ms=60_000,
    )
    assert sent.status_code == 200
    assert sent.json()["state"] == "accepted"
    with running.native() as native:
        [delivery] = waiting(native, "whole", 1)
    assert delivery.id == sent.json()["id"]
    assert (delivery.payload, delivery.headers, delivery.reply_to) == (
        "Grüße\n".encode(),
        {"kind": "greeting"},
        "answers",
    )
    assert delivery.priority.name == "HIGH"


def test_any_bytes_go_in_base64_and_several_messages_together(client: httpx.Client, running: Daemon) -> None:
    raw = bytes(range(256))
    messages = [{"payload_b64": base64.b64encode(raw).decode()}, {"payload": "two", "headers": {"n": "2"}}]
    sent = send(client, "several", messages=messages).json()
    assert len(sent["ids"]) == 2
    with running.native() as native:
        assert [delivery.payload for delivery in waiting(native, "several", 2)] == [raw, b"two"]


def test_a_repeat_with_the_same_key_sends_nothing_more(client: httpx.Client, running: Daemon) -> None:
    first = send(client, "once", payload="a", key="k-1").json()
    assert send(client, "once", payload="a", key="k-1").json()["ids"] == first["ids"]
    assert send(client, "once", payload="b", key="k-2").json()["ids"] != first["ids"]
    with running.native() as native:
        assert [delivery.payload for delivery in waiting(native, "once", 2)] == [b"a", b"b"]


def test_what_was_waited_for_is_told_and_what_has_not_happened_too(client: httpx.Client, running: Daemon) -> None:
    delivered = send(client, "waited", payload="a", wait="delivered")
    assert (delivered.status_code, delivered.json()["state"]) == (200, "delivered")
    late = send(client, "waited", payload="b", wait="consumed", timeout_s=0.2)
    assert (late.status_code, late.json()["state"]) == (202, "accepted")
    with running.native() as native:
        found = waiting(native, "waited", 2)
    assert [delivery.id for delivery in found] == [delivered.json()["id"], late.json()["id"]]
    assert client.get(f"/v1/trace/{late.json()['id']}").json()["state"] == "consumed"


def test_an_ephemeral_message_is_sent_and_not_accepted(client: httpx.Client) -> None:
    assert send(client, "now", payload="a", ephemeral=True, wait="sent").json()["state"] == "sent"


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"destination": "nobody", "payload": "a"}, 404, "E_UNKNOWN_DEVICE"),
        ({"payload": "x" * (1024 * 1024 + 1)}, 413, "E_TOO_LARGE"),
        ({"payload": "a", "headers": {"a": "v" * 1500, "b": "v" * 1500}}, 413, "E_TOO_LARGE"),
        ({}, 400, "E_USAGE"),
        ({"payload": "a", "payload_b64": "YQ=="}, 400, "E_USAGE"),
        ({"payload_b64": "not base64"}, 400, "E_USAGE"),
        ({"payload": 7}, 400, "E_USAGE"),
        ({"payload": {"a": 1}}, 400, "E_USAGE"),
        ({"payload": "a", "messages": [{"payload": "b"}]}, 400, "E_USAGE"),
        ({"messages": []}, 400, "E_USAGE"),
        ({"messages": ["a"]}, 400, "E_USAGE"),
        ({"messages": [{"payload": "a", "color": "red"}]}, 400, "E_USAGE"),
        ({"messages": [{"payload": "a"}] * 257}, 400, "E_USAGE"),
        ({"payload": "a", "priority": "urgent"}, 400, "E_USAGE"),
        ({"payload": "a", "lifetime_ms": 0}, 400, "E_USAGE"),
        ({"payload": "a", "wait": "read"}, 400, "E_USAGE"),
        ({"payload": "a", "timeout_s": 301}, 400, "E_USAGE"),
        ({"payload": "a", "timeout_s": True}, 400, "E_USAGE"),
        ({"payload": "a", "service": "no such name!"}, 400, "E_USAGE"),
        ({"payload": "a", "colour": "red"}, 400, "E_USAGE"),
        ({"payload": "a", "key": "k" * 65}, 400, "E_USAGE"),
    ],
)
def test_what_is_wrong_is_named(client: httpx.Client, fields: dict[str, Any], status: int, code: str) -> None:
    described = client.get("/openapi.json").json()
    answer = send(client, **({"service": "refused"} | fields))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    schema = described["paths"]["/v1/send"]["post"]["responses"][str(status)]["content"]["application/json"]["schema"]
    check(answer.json(), schema, described["components"]["schemas"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"destination": "\\ud800", "payload": "a"}',
        b'{"destination": "x", "payload": "\\udfff"}',
        b'{"payload": NaN}',
        b'{"timeout_s": 1' + b"0" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_what_is_no_json_is_a_usage_error(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/send", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_USAGE")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_of_a_web_page_can_send_is_refused(client: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/v1/send", content=b'{"destination": "x", "payload": "a"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_USAGE")
    assert "application/json" in answer.json()["error"]["hint"]


def test_a_body_over_the_limit_is_refused_with_an_answer_that_arrives(client: httpx.Client) -> None:
    body = b'{"payload": "' + b"x" * (3 * 1024 * 1024) + b'"}'
    answer = client.post("/v1/send", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "E_TOO_LARGE")
    assert client.get("/healthz").status_code == 200
