"""The protocol's page is checked against the code: byte examples, operations and limits."""

import json
import re
from pathlib import Path

from meshd.api import protocol
from meshd.api.arguments import MAX_LAST_EVENTS, MAX_SEND_MESSAGES, OPERATIONS, check_arguments
from meshd.node.insight.chronicle import KEPT_EVENTS
from meshd.wire import codec

PAGE = (Path(__file__).parents[2] / "docs" / "protocol-api.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^    (\S.*)\n    ((?:[0-9a-f]{2} +)+[0-9a-f]{2})$", re.MULTILINE)


def items() -> dict[str, object]:
    found = {}
    for title, digits in EXAMPLE.findall(PAGE):
        data = bytes.fromhex(digits.replace(" ", ""))
        (item,) = protocol.FrameSplitter().feed(data)
        found[title] = codec.decode(item)
    return found


def test_examples_are_what_their_titles_say() -> None:
    found = items()
    assert len(found) == 5
    assert found.pop("hello of a 0.1.0 program") == ["meshd-api", 1, "0.1.0"]
    for title, value in found.items():
        written = title.partition(": ")[2]
        if "h'" in written:
            assert value == [2, "send", {"destination": "pi", "messages": [b"hi"]}]
        else:
            assert value == json.loads(written)


def test_example_requests_are_what_the_client_sends_and_the_daemon_takes() -> None:
    for title, (request_id, op, arguments) in items().items():
        if title.startswith("request"):
            (item,) = protocol.FrameSplitter().feed(protocol.encode_request(request_id, op, arguments))
            assert protocol.decode_request(item) == (request_id, op, arguments)
            check_arguments(op, arguments)


def test_every_operation_is_documented() -> None:
    table = PAGE.partition("## Operations")[2].partition("\n\n- ")[0]
    documented = set(re.findall(r"`([a-z-]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    assert documented == set(OPERATIONS)


def test_limits_are_the_documented_ones() -> None:
    assert f"{protocol.MAX_IN_FLIGHT:,}" in PAGE
    assert f"| subscriptions | {protocol.MAX_SUBSCRIPTIONS} |" in PAGE
    assert f"1 to {MAX_SEND_MESSAGES} messages" in PAGE
    assert MAX_LAST_EVENTS == KEPT_EVENTS
    assert f"the last {KEPT_EVENTS:,} events" in PAGE
