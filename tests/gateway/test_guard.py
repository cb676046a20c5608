"""Who is let in: the rules as tables, and over TCP against a real daemon with real tokens."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from meshd.errors import MeshdError
from meshd.http.guard import Caller, admit, is_loopback
from tests.gateway.daemon import NAME, Daemon, command, daemon

UNIX, TCP = Caller("uid:1000"), Caller(None)
TOKENS = {"meshd_good": "shell"}
LOCAL = {"host": "localhost:7844"}


def outcome(caller: Caller, headers: dict[str, str], *, safe: bool = True) -> str:
    """The principal, or the error's code."""
    try:
        return admit(caller, headers, safe=safe, name_of=TOKENS.get)
    except MeshdError as error:
        return error.code


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:7844", "localhost.", "127.0.0.1", "127.0.0.1:7844", "127.9.9.9", "[::1]", "[::1]:7844"],
)
def test_loopback_names_are_taken(host: str) -> None:
    assert is_loopback(host)
    assert outcome(TCP, {"host": host}) == "tcp"


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:7844", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.2"),
        *("[::2]", "::1", "0.0.0.0", "localhost:7844, evil.example", "localhost@evil.example", "[::ffff:8.8.8.8]"),
        *("2130706433", "0x7f.1", "localhost:", "127.0.0.1:7844/", "[127.0.0.1]:80:80"),
    ],
)
def test_other_names_are_refused_over_tcp_and_taken_on_the_unix_socket(host: str) -> None:
    assert outcome(TCP, {"host": host}) == "E_ORIGIN"
    assert outcome(TCP, {"host": host, "authorization": "Bearer meshd_good"}) == "E_ORIGIN"
    assert outcome(UNIX, {"host": host}) == "uid:1000"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://localhost:7844"}, "tcp"),
        ({"origin": "http://localhost:7845"}, "E_ORIGIN"),
        ({"origin": "http://localhost"}, "E_ORIGIN"),
        ({"origin": "https://localhost:7844"}, "tcp"),  # a proxy in front of it speaks TLS
        ({"origin": "http://127.0.0.1:7844"}, "E_ORIGIN"),
        ({"origin": "https://evil.example"}, "E_ORIGIN"),
        ({"origin": "null"}, "E_ORIGIN"),
        ({"origin": "file://"}, "E_ORIGIN"),
        ({"origin": "http://localhost:x"}, "E_ORIGIN"),
        ({"origin": "http://[::1"}, "E_ORIGIN"),
        ({"sec-fetch-site": "same-origin"}, "tcp"),
        ({"sec-fetch-site": "none"}, "tcp"),
        ({"sec-fetch-site": "same-site"}, "E_ORIGIN"),
        ({"sec-fetch-site": "cross-site"}, "E_ORIGIN"),
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str], expected: str) -> None:
    assert outcome(TCP, LOCAL | headers) == expected
    assert outcome(UNIX, LOCAL | headers) == ("uid:1000" if expected == "tcp" else expected)


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("localhost", "http://localhost", "tcp"),
        ("localhost", "http://localhost:80", "tcp"),
        ("localhost:80", "http://localhost", "tcp"),
        ("localhost", "https://localhost:443", "tcp"),
        ("localhost:443", "https://localhost", "tcp"),
        ("localhost", "http://localhost:443", "E_ORIGIN"),
        ("localhost:443", "http://localhost", "E_ORIGIN"),
        ("localhost", "https://localhost:80", "E_ORIGIN"),
        ("localhost", "ftp://localhost", "E_ORIGIN"),
    ],
)
def test_a_port_that_is_left_out_is_that_of_the_scheme(host: str, origin: str, expected: str) -> None:
    assert outcome(TCP, {"host": host, "origin": origin}) == expected


@pytest.mark.parametrize(
    ("authorization", "safe", "expected"),
    [
        (None, True, "tcp"),
        (None, False, "E_TOKEN"),
        ("Bearer meshd_good", False, "token:shell"),
        ("bearer  meshd_good ", True, "token:shell"),
        ("Bearer meshd_bad", True, "E_TOKEN"),
        ("Bearer meshd_bad", False, "E_TOKEN"),
        ("Bearer", False, "E_TOKEN"),
        ("Basic meshd_good", False, "E_TOKEN"),
        ("meshd_good", False, "E_TOKEN"),
    ],
)
def test_over_tcp_a_token_decides(authorization: str | None, safe: bool, expected: str) -> None:
    headers = LOCAL if authorization is None else LOCAL | {"authorization": authorization}
    assert outcome(TCP, headers, safe=safe) == expected


UNSAFE = [
    ("POST", "/v1/send"),
    ("GET", "/v1/doctor"),
    ("GET", "/v1/receive/lights"),
    ("GET", "/v1/receive/lights/stream"),
    ("POST", "/v1/receive/lights/ack"),
]


@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_over_tcp_one_can_only_look_without_a_token(running: Daemon, method: str, path: str) -> None:
    with running.over_tcp() as client:
        for headers in ({}, {"Authorization": "Bearer meshd_none"}):
            answer = client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "E_TOKEN")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/members").json()[0]["name"] == NAME


def test_a_foreign_host_and_a_foreign_page_are_refused(running: Daemon) -> None:
    with running.over_tcp() as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            answer = client.get("/v1/status", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "E_ORIGIN")
            assert "access-control-allow-origin" not in answer.headers


def send(client: httpx.Client, token: str) -> httpx.Response:
    body = {"destination": NAME, "service": "tokens", "payload": "x"}
    return client.post("/v1/send", json=body, headers={"Authorization": f"Bearer {token}"})


def test_a_token_works_until_it_is_revoked_and_is_nowhere_on_disk(root: Path) -> None:
    with daemon(root) as first, first.over_tcp() as client:
        token = first.meshctl("token", "create", "shell").strip()
        other = first.meshctl("token", "create", "other").strip()
        assert token.startswith("meshd_")
        assert send(client, token).status_code == 200
        received = client.get("/v1/receive/tokens", headers={"Authorization": f"Bearer {token}"})
        assert [message["payload"] for message in received.json()["messages"]] == ["x"]
        assert first.stop() == 0
        assert token not in first.log
    secret = token.removeprefix("meshd_").encode()
    files = [path for path in (root / "state").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if secret in path.read_bytes().lower()] == []
    with daemon(root) as second, second.over_tcp() as client:
        assert [line.split()[0] for line in second.meshctl("token", "list").splitlines()[1:]] == ["other", "shell"]
        assert send(client, token).status_code == 200
        second.meshctl("token", "revoke", "shell")
        assert send(client, token).status_code == 401
        assert send(client, other).status_code == 200
        assert second.stop() == 0
    with daemon(root) as third, third.over_tcp() as client:
        assert send(client, token).status_code == 401
        assert send(client, other).status_code == 200


def test_only_loopback_addresses_are_taken(tmp_path: Path) -> None:
    for place in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80"):
        arguments = [sys.executable, *command(tmp_path, listen=(place,)), "--check-config"]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        assert "http.listen" in ended.stderr
        assert "loopback" in ended.stderr


@pytest.mark.parametrize("path", ["/v1/receive/waited/stream", "/v1/receive/waited?wait_s=60"])
def test_a_revoked_token_gets_nothing_that_it_was_waiting_for(running: Daemon, path: str) -> None:
    token = running.meshctl("token", "create", "waiting").strip()
    place = urlsplit(running.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as waiting, running.over_unix() as owner:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        waiting.sendall(head.encode())
        if path.endswith("stream"):
            assert b" 200 " in waiting.recv(65536)
        running.meshctl("token", "revoke", "waiting")
        body = {"destination": NAME, "service": "waited", "payload": "a secret"}
        assert owner.post("/v1/send", json=body).status_code == 200
        told = b"".join(iter(lambda: waiting.recv(65536), b""))
        assert b"E_TOKEN" in told
        assert b"a secret" not in told
        answer = owner.get("/v1/receive/waited?lease_s=0").json()
        assert [message["payload"] for message in answer["messages"]] == ["a secret"]
        owner.get("/v1/receive/waited", params={"wait_s": 0, "ack": answer["position"], "lease_s": 0})
