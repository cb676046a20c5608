"""Reading over HTTP from a real daemon: what is acknowledged never comes again, and all else does."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from meshd.errors import MeshdError
from tests.gateway.daemon import NAME, Daemon, daemon
from tests.gateway.schema import check


def put(client: httpx.Client, service: str, *texts: str, priority: str = "normal") -> list[str]:
    """Send these, one by one; returns their ids."""
    ids = []
    for text in texts:
        body = {"destination": NAME, "service": service, "payload": text, "priority": priority, "wait": "delivered"}
        ids.append(client.post("/v1/send", json=body).json()["id"])
    return ids


def get(client: httpx.Client, service: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/receive/{service}", params={"wait_s": 0} | query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def ack(client: httpx.Client, service: str, **fields: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/receive/{service}/ack", json=fields)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def read(client: httpx.Client, service: str, count: int, **query: Any) -> dict[str, Any]:
    """Read until there are so many, whatever comes in one answer; they are in one document."""
    got = get(client, service, wait_s=10, **query)
    while len(got["messages"]) < count:
        more = get(client, service, wait_s=10)
        assert more["messages"], "no more came"
        got = {"messages": got["messages"] + more["messages"], "position": more["position"]}
    assert len(got["messages"]) == count
    return got


def texts(received: dict[str, Any]) -> list[str]:
    return [message["payload"] for message in received["messages"]]


class Events:
    """The events of a stream, as (id, data)."""

    def __init__(self, response: httpx.Response) -> None:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        self._lines = response.iter_lines()

    def next(self) -> tuple[str | None, Any]:
        """The next event that has data, or an id alone."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields.keys() & {"id", "data"}:
                return fields.get("id"), json.loads(fields["data"]) if "data" in fields else None
            else:
                fields = {}
        raise AssertionError("the stream has ended")

    def texts(self, count: int) -> list[str]:
        return [self.next()[1]["payload"] for _ in range(count)]


@contextmanager
def stream(client: httpx.Client, service: str, last_id: str | None = None, **query: Any) -> Iterator[Events]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    with client.stream("GET", f"/v1/receive/{service}/stream", params=query, headers=headers) as response:
        yield Events(response)


# --- requests


def test_messages_have_all_their_parts_as_described(client: httpx.Client) -> None:
    [first, second] = put(client, "parts", "hällo", "two")
    raw = base64.b64encode(b"\xff\x00").decode()
    body = {"destination": NAME, "service": "parts", "payload_b64": raw, "headers": {"k": "v"}, "reply_to": "r"}
    client.post("/v1/send", json=body)
    received = read(client, "parts", 3)
    described = client.get("/openapi.json").json()
    check(received, {"$ref": "#/components/schemas/Received"}, described["components"]["schemas"])
    [one, two, three] = received["messages"]
    assert (one["id"], one["payload"], one["source_name"], one["service"]) == (first, "hällo", NAME, "parts")
    assert (two["id"], two["sequence"]) == (second, one["sequence"] + 1)
    assert (three["payload_b64"], three["headers"], three["reply_to"]) == (raw, {"k": "v"}, "r")
    assert "payload" not in three
    assert received["position"] == f"2.{three['sequence']}"


def test_the_next_request_acknowledges_the_last_answer(client: httpx.Client, running: Daemon) -> None:
    [first, *_] = put(client, "loop", "a", "b", "c")
    assert texts(get(client, "loop", max=1, wait_s=10)) == ["a"]
    got = get(client, "loop", max=1, wait_s=10)
    assert texts(got) == ["b"]
    got = read(client, "loop", 1, ack=got["position"])
    assert texts(got) == ["c"]
    assert client.get(f"/v1/trace/{first}").json()["state"] == "consumed"
    assert get(client, "loop", ack=got["position"], lease_s=0)["messages"] == []
    with running.native() as native, native.subscribe("loop") as subscription, pytest.raises(MeshdError):
        subscription.next(0.3)


def test_a_lost_answer_is_given_again(client: httpx.Client) -> None:
    put(client, "lost", "a", "b", "c")
    known = get(client, "lost", max=1)["position"]
    assert texts(read(client, "lost", 2)) == ["b", "c"]  # say this answer never came
    again = read(client, "lost", 2, ack=known)
    assert texts(again) == ["b", "c"]
    assert [message["redelivered"] for message in again["messages"]] == [True, True]
    assert texts(read(client, "lost", 2, ack="")) == ["b", "c"]


def test_messages_are_acknowledged_by_name_and_given_back_by_name(client: httpx.Client) -> None:
    a, b, c = put(client, "named", "a", "b", "c")
    position = read(client, "named", 3)["position"]
    told = ack(client, "named", ids=[a, c, "aaaaaaaaaaaaaaaa-0"], nack=[b])
    assert told == {"acknowledged": 2, "returned": 1, "unknown": ["aaaaaaaaaaaaaaaa-0"]}
    # The position is behind what was given back, so that it is not acknowledged unseen.
    received = get(client, "named", wait_s=10)
    [message] = received["messages"]
    assert (message["id"], message["redelivered"]) == (b, True)
    assert received["position"] == position
    assert ack(client, "named", position=position)["acknowledged"] == 1
    assert get(client, "named")["messages"] == []


def test_a_position_does_not_cover_what_was_given_back(client: httpx.Client) -> None:
    a, b, c = put(client, "behind", "a", "b", "c")
    position = read(client, "behind", 3)["position"]
    ack(client, "behind", nack=[a])
    held = get(client, "behind")
    assert held["messages"] == []
    assert held["position"] < position
    assert ack(client, "behind", position=position) == {"acknowledged": 2, "returned": 0, "unknown": []}
    assert [message["id"] for message in get(client, "behind", wait_s=10)["messages"]] == [a]
    assert b != c


def test_higher_priorities_come_first_and_have_places_of_their_own(client: httpx.Client) -> None:
    put(client, "ranks", "bulk", priority="bulk")
    put(client, "ranks", "critical", priority="critical")
    got = read(client, "ranks", 2)
    assert texts(got) == ["critical", "bulk"]
    assert [part.partition(".")[0] for part in got["position"].split("-")] == ["0", "3"]
    assert ack(client, "ranks", position=got["position"])["acknowledged"] == 2


def test_a_request_waits_for_the_first_message(client: httpx.Client, running: Daemon) -> None:
    with running.over_unix() as other, stream(other, "waited-for") as events:
        put(client, "waited-for", "soon")
        assert events.texts(1) == ["soon"]
    received = client.get("/v1/receive/waited-for", params={"wait_s": 0, "ack": ""}).json()
    assert texts(received) == ["soon"]


def test_large_messages_come_one_by_one(client: httpx.Client) -> None:
    large = "x" * 700_000
    put(client, "large", large, large, "small")
    answers = [get(client, "large", wait_s=10) for _ in range(2)]
    assert [len(text) for text in texts(answers[0])] == [700_000]
    assert len(texts(answers[1])[0]) == 700_000


def test_one_request_at_a_time_reads_as_one_consumer(client: httpx.Client, running: Daemon) -> None:
    with running.over_unix() as other, stream(other, "alone"):
        busy = client.get("/v1/receive/alone")
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "E_LEASED")
        assert get(client, "alone", consumer="second")["messages"] == []
    with running.native() as native, native.subscribe("taken", "native"):
        busy = client.get("/v1/receive/taken", params={"consumer": "native"})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "E_LEASED")
        busy = client.get("/v1/receive/taken/stream", params={"consumer": "native"})
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "E_LEASED")
    assert get(client, "taken", consumer="native")["messages"] == []


def test_a_lease_that_has_ended_gives_back_what_was_not_acknowledged(client: httpx.Client, running: Daemon) -> None:
    put(client, "ended", "a")
    got = get(client, "ended", lease_s=0)
    assert texts(got) == ["a"]
    gone = client.post("/v1/receive/ended/ack", json={"position": got["position"]})
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "E_NO_LEASE")
    with running.native() as native, native.subscribe("ended") as subscription:
        delivery = subscription.next(10)
        assert (delivery.payload, delivery.redelivered) == (b"a", True)
    # What the client has read in a lease that is over is acknowledged when it comes again, and not shown.
    assert get(client, "ended", ack=got["position"], lease_s=0)["messages"] == []
    assert get(client, "ended", lease_s=0)["messages"] == []


@pytest.mark.parametrize(
    "query",
    [{"ack": "x"}, {"ack": "4.1"}, {"ack": "1.2-"}, {"max": 0}, {"max": 1001}, {"wait_s": 301}, {"lease_s": "1e3"}],
)
def test_wrong_parameters_are_named(client: httpx.Client, query: dict[str, Any]) -> None:
    answer = client.get("/v1/receive/wrong", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_USAGE")


@pytest.mark.parametrize(
    "body", [{"ids": "x"}, {"ids": [1]}, {"nack": None}, {"position": 7}, {"consumer": []}, {"more": 1}]
)
def test_wrong_acknowledgements_are_named(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/v1/receive/wrong/ack", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_USAGE")


@pytest.mark.parametrize("path", ["/v1/receive/elsewhere", "/v1/receive/elsewhere/stream"])
def test_a_position_of_a_mailbox_that_is_gone_is_refused_and_acknowledges_nothing(
    client: httpx.Client, path: str
) -> None:
    put(client, "elsewhere", "a")
    answer = client.get(path, params={"ack": f"2.{57 << 40}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "E_USAGE")
    last = client.get("/v1/receive/elsewhere/stream", headers={"Last-Event-ID": f"2.{57 << 40}"})
    assert last.status_code == 400
    told = get(client, "elsewhere", lease_s=0)
    assert [message["payload"] for message in told["messages"]] == ["a"]
    get(client, "elsewhere", ack=told["position"], wait_s=0, lease_s=0)


# --- streams


def test_a_stream_shows_what_is_there_and_what_comes(client: httpx.Client, running: Daemon) -> None:
    put(client, "stream", "a", "b")
    with running.over_unix() as other, stream(other, "stream") as events:
        assert events.texts(2) == ["a", "b"]
        put(client, "stream", "c")
        last_id, message = events.next()
        assert (message["payload"], message["redelivered"]) == ("c", False)
        assert ack(client, "stream", position=last_id)["acknowledged"] == 3
    assert get(client, "stream", ack="")["messages"] == []


def test_a_stream_goes_on_after_the_last_id(client: httpx.Client, running: Daemon) -> None:
    put(client, "broken", "a", "b", "c")
    with running.over_unix() as other, stream(other, "broken") as events:
        last_id, _ = events.next()
    with running.over_unix() as other, stream(other, "broken", last_id) as events:
        assert events.texts(2) == ["b", "c"]
    with running.over_unix() as other, stream(other, "broken") as events:  # a client that has forgotten
        assert events.texts(2) == ["b", "c"]


def test_a_stream_tells_at_once_that_its_last_id_does_not_cover_what_was_given_back(
    client: httpx.Client, running: Daemon
) -> None:
    [_, second] = put(client, "given-back", "a", "b")
    with running.over_unix() as other, stream(other, "given-back") as events:
        first_id, _ = events.next()
        second_id, _ = events.next()
        ack(client, "given-back", nack=[second])
        assert events.next() == (first_id, None)
        again_id, message = events.next()
        assert (again_id, message["payload"], message["redelivered"]) == (second_id, "b", True)


def test_events_of_the_mesh_stream(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    told = client.get("/v1/events").json()
    with client.stream("GET", "/v1/events/stream", params={"last": 1000}) as response:
        events = Events(response)
        for event in told:
            _, shown = events.next()
            check(shown, {"$ref": "#/components/schemas/Event"}, described["components"]["schemas"])
            assert shown["event"] == event["event"]


def test_after_a_restart_a_client_goes_on_and_sees_nothing_twice(root: Path) -> None:
    with daemon(root) as first, first.over_unix() as client:
        put(client, "restart", *"abcdef")
        with stream(client, "restart") as events:
            assert events.texts(3) == ["a", "b", "c"]
            last_id, message = events.next()
            assert message["payload"] == "d"
        assert first.stop() == 0
    with daemon(root) as second, second.over_unix() as client, stream(client, "restart", last_id) as events:
        assert events.texts(2) == ["e", "f"]
        put_by = second.over_unix()
        with put_by:
            put(put_by, "restart", "g")
        last_id, message = events.next()
        assert message["payload"] == "g"
    with daemon(root) as third, third.over_unix() as client:
        assert get(client, "restart", ack=last_id)["messages"] == []
