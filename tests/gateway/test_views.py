"""What can be looked at, from a real daemon: every answer as the description says, and HTTP's own ways."""

import gzip
import json
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.gateway.daemon import NAME, Daemon
from tests.gateway.schema import check


@pytest.fixture(scope="module")
def described(running: Daemon) -> dict[str, Any]:
    """The daemon's own description."""
    with running.over_unix() as client:
        document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def fits(answer: httpx.Response, described: dict[str, Any], path: str, method: str = "get") -> Any:
    """The document, which has to be as the description of this path and status says."""
    content = described["paths"][path][method]["responses"][str(answer.status_code)]["content"]
    assert answer.headers["content-type"] == "application/json"
    check(answer.json(), content["application/json"]["schema"], described["components"]["schemas"])
    return answer.json()


def lasting(document: Any) -> Any:
    """The document without what differs between two moments."""
    if isinstance(document, list):
        return [lasting(item) for item in document]
    return {name: value for name, value in document.items() if name not in ("uptime_s", "at")}


VIEWS = ("status", "peers", "routes", "members", "queue", "graph", "relays", "alerts", "events")


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_those_of_the_native_api_and_as_described(
    client: httpx.Client, running: Daemon, described: dict[str, Any], name: str
) -> None:
    answer = client.get(f"/v1/{name}")
    assert answer.status_code == 200
    told = fits(answer, described, f"/v1/{name}")
    with running.native() as native:
        expected = json.loads(json.dumps(native.call(name)))
    assert lasting(told) == lasting(expected)


def test_the_doctor_answers_as_natively_and_as_described(client: httpx.Client, described: dict[str, Any]) -> None:
    verdicts = fits(client.get("/v1/doctor"), described, "/v1/doctor")
    assert {"disk", "clock", "port:quic"} <= {row["check"] for row in verdicts}
    assert all(bool(row["fix"]) == (row["verdict"] != "ok") for row in verdicts)


def test_the_documents_with_something_in_them_are_as_described(client: httpx.Client, described: dict[str, Any]) -> None:
    sent = client.post("/v1/send", json={"destination": NAME, "service": "looked-at", "payload": "x"})
    message_id = fits(sent, described, "/v1/send", "post")["id"]
    trace = fits(client.get(f"/v1/trace/{message_id}"), described, "/v1/trace/{id}")
    assert trace["id"] == message_id
    assert "accepted" in [event["event"] for event in trace["events"]]
    [member] = fits(client.get("/v1/members"), described, "/v1/members")
    assert (member["name"], member["role"]) == (NAME, "admin")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_running_daemon_is_alive_and_ready(client: httpx.Client, described: dict[str, Any], path: str) -> None:
    assert fits(client.get(path), described, path) == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "template", "status", "code"),
    [
        ("/v1/why/nobody", "/v1/why/{peer}", 404, "E_UNKNOWN_DEVICE"),
        (f"/v1/why/{NAME}", "/v1/why/{peer}", 400, "E_USAGE"),
        ("/v1/trace/not-an-id", "/v1/trace/{id}", 400, "E_USAGE"),
        ("/v1/trace/aaaaaaaaaaaaaaaa-0", "/v1/trace/{id}", 404, "E_UNKNOWN_MESSAGE"),
        ("/v1/status?verbose=1", "/v1/status", 400, "E_USAGE"),
        ("/v1/events?last=1001", "/v1/events", 400, "E_USAGE"),
        ("/v1/events?last=-1", "/v1/events", 400, "E_USAGE"),
        ("/v1/events?last=%D9%A3", "/v1/events", 400, "E_USAGE"),
    ],
)
def test_errors_have_a_fitting_status_and_all_their_parts(
    client: httpx.Client, described: dict[str, Any], path: str, template: str, status: int, code: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    error = fits(answer, described, template)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/v1/status/", 404, None),
        ("GET", "/v1/%2E%2E/healthz", 404, None),
        ("POST", "/v1/status", 405, "GET"),
        ("GET", "/v1/send", 405, "POST"),
        ("BREW", "/v1/status", 405, "GET"),
        ("HEAD", "/v1/receive/lights", 405, "GET"),
        ("OPTIONS", "/v1/send", 405, "POST"),
    ],
)
def test_wrong_paths_and_methods_are_told_in_json(
    client: httpx.Client, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = client.send(httpx.Request(method, "http://localhost" + path))
    assert answer.status_code == status
    assert answer.headers.get("allow") == allow
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "E_UNSUPPORTED"


def test_metrics_are_those_of_the_native_api_and_prometheus_can_read_them(running: Daemon) -> None:
    with running.over_tcp() as client:  # as Prometheus does, which has no token
        answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.status_code == 200
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    with running.native() as native:
        told = native.call("metrics")
    assert answer.headers["content-type"] == told["content_type"]
    assert told["content_type"].startswith("application/openmetrics-text")
    assert families == {family.name for family in text_string_to_metric_families(told["text"])}
    assert "meshd_uptime_seconds" in families


def test_head_has_the_head_and_no_body(client: httpx.Client) -> None:
    whole, head = client.get("/v1/members"), client.head("/v1/members")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert head.headers["etag"] == whole.headers["etag"]


def test_what_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/v1/members")
    again = client.get("/v1/members", headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/v1/members", headers={"If-None-Match": '"other"'}).status_code == 200
    changed = client.get("/v1/status", headers={"If-None-Match": client.get("/v1/status").headers["etag"]})
    assert changed.status_code == 200  # its uptime has


def test_what_is_large_is_compressed_for_those_who_can_read_it(running: Daemon) -> None:
    with running.over_unix(headers={"Accept-Encoding": "identity"}) as client:
        plain = client.get("/openapi.json")
        assert "content-encoding" not in plain.headers
        with client.stream("GET", "/openapi.json", headers={"Accept-Encoding": "br, gzip;q=0.5"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.headers["etag"] == plain.headers["etag"]
            data = b"".join(packed.iter_raw())
        assert gzip.decompress(data) == plain.content
        assert len(data) < len(plain.content) / 3
        for refused in ("gzip;q=0", "br"):
            answer = client.get("/openapi.json", headers={"Accept-Encoding": refused})
            assert "content-encoding" not in answer.headers
        small = client.get("/healthz", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in small.headers


def test_answers_are_not_for_pages_of_others_nor_to_be_guessed_at(client: httpx.Client) -> None:
    headers = client.get("/v1/status").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers
