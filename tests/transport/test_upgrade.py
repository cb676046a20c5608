"""Opening a WebSocket: what is granted, and what is not."""

import base64

import pytest

from meshd.transport.base import TransportError
from meshd.transport.upgrade import END, Refused, answer_request, check_response, encode_request

KEY = base64.b64decode("dGhlIHNhbXBsZSBub25jZQ==")  # RFC 6455 section 1.3


def test_the_example_of_the_rfc() -> None:
    response = answer_request(encode_request("server.example.com", "/chat", KEY), "/chat")
    assert response.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in response
    assert response.endswith(END)
    check_response(response, KEY)


REQUEST = encode_request("host", "/meshd", KEY)


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (REQUEST.replace(b"/meshd", b"/other"), b"404"),
        (REQUEST.replace(b"GET", b"POST"), b"400"),
        (REQUEST.replace(b"1.1", b"1.0"), b"400"),
        (REQUEST.replace(b"Host: host\r\n", b""), b"400"),
        (REQUEST.replace(b"Upgrade: websocket", b"Upgrade: h2c"), b"400"),
        (REQUEST.replace(b"Connection: Upgrade", b"Connection: close"), b"400"),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), b"426"),
        (REQUEST.replace(base64.b64encode(KEY), b"dGhl"), b"400"),
        (REQUEST.replace(base64.b64encode(KEY), b"no base64 at all"), b"400"),
        (b"nonsense" + END, b"400"),
        ("GET /meshd HTTP/1.1\r\nHost: \u00e9".encode() + END, b"400"),
        (REQUEST.replace(b"Host:", b"Host :"), b"400"),
    ],
)
def test_what_is_not_granted_is_answered(request_head: bytes, status: bytes) -> None:
    with pytest.raises(Refused) as caught:
        answer_request(request_head, "/meshd")
    assert caught.value.response.split(b" ")[1] == status
    assert caught.value.response.endswith(END)


def test_headers_may_come_in_any_case_and_in_lists() -> None:
    request = REQUEST.replace(b"Connection: Upgrade", b"connection: keep-alive\r\nCONNECTION:UPGRADE")
    check_response(answer_request(request.replace(b"websocket\r", b"WebSocket\r"), "/meshd"), KEY)


RESPONSE = answer_request(REQUEST, "/meshd")


@pytest.mark.parametrize(
    "response",
    [
        RESPONSE.replace(b"101", b"200"),
        RESPONSE.replace(b"HTTP/1.1", b"SSH-2.0"),
        RESPONSE.replace(b"websocket", b"h2c"),
        RESPONSE.replace(b"s3pP", b"AAAA"),
        RESPONSE.replace(END, b"\r\nSec-WebSocket-Extensions: permessage-deflate" + END),
        RESPONSE.replace(END, b"\r\nSec-WebSocket-Protocol: chat" + END),
        b"\xff\xfe" + END,
        b"HTTP/1.1 404 Not Found" + END,
    ],
)
def test_other_responses_are_refused(response: bytes) -> None:
    with pytest.raises(TransportError):
        check_response(response, KEY)
