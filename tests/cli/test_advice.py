"""What to do about each way in which a device can't be reached."""

import pytest

from meshd.cli.advice import Failure, advise
from meshd.errors import CATALOGUE

QUIC, TCP = "quic://192.0.2.7:7843", "websocket://[fd00::7]:7000"


@pytest.mark.parametrize(
    ("address", "reason", "said"),
    [
        (QUIC, "Connection refused", "no meshd listens there"),
        (QUIC, "no answer within 8 s", "let in UDP port 7843: sudo ufw allow 7843/udp"),
        (TCP, "no answer within 5 s", "let in TCP port 7000: sudo ufw allow 7000/tcp"),
        (TCP, "No route to host", "AP isolation"),
        (TCP, "Network is unreachable", "ip -brief address"),
        (QUIC, "certificate refused: it is not the known one", "meshctl remove attic"),
        (QUIC, "P_VERSION: nothing in common", CATALOGUE["P_VERSION"].advice),
    ],
)
def test_each_error_has_its_advice(address: str, reason: str, said: str) -> None:
    [advice] = advise("attic", "", [Failure(address, reason)])
    assert said in advice


def test_the_same_is_said_once_and_the_hint_first() -> None:
    failures = [Failure(QUIC, "Connection refused"), Failure(QUIC.replace("7843", "1"), "Connection refused")]
    assert len(advise("attic", "wait", failures)) == 2
    assert advise("attic", "wait", [])[0] == "wait"
    assert advise("attic", "", [Failure(QUIC, "something else")]) == []
