"""What to do about each way in which a device can't be reached."""

import pytest

from meshd.cli.advice import Failure, advise
from meshd.errors import CATALOGUE

QUIC, TCP = "quic://192.0.2.7:7843", "websocket://[fd00::7]:7000"


@pytest.mark.parametrize(
    ("address", "reason", "said"),
    [
        (QUIC, "Connection refused", "192.0.2.7: the machine is on, but no meshd listens at UDP 7843."),
        (QUIC, "no answer within 8 s", "let in UDP 7843: sudo ufw allow 7843/udp"),
        (TCP, "no answer within 5 s", "fd00::7: nothing answers. Is attic on"),
        (TCP, "No route to host", "AP isolation"),
        (TCP, "Network is unreachable", "ip -brief address"),
        (QUIC, "certificate refused: it is not the known one", "meshctl remove attic"),
        (QUIC, "P_VERSION: nothing in common", f"P_VERSION: {CATALOGUE['P_VERSION'].advice}"),
    ],
)
def test_each_error_has_its_advice(address: str, reason: str, said: str) -> None:
    [advice] = advise("attic", "", [Failure(address, reason)])
    assert said in advice


def test_the_same_is_said_once_and_the_hint_first() -> None:
    silent = [Failure(address, "no answer within 5 s") for address in (QUIC, TCP, "quic://[fe80::7%eth0]:7843")]
    hint, advice = advise("attic", "wait", silent)
    assert hint == "wait"
    assert advice.startswith("192.0.2.7, fd00::7 and 1 more: nothing answers.")
    assert "UDP 7843 and TCP 7000: sudo ufw allow 7843/udp, sudo ufw allow 7000/tcp." in advice
    assert advise("attic", "wait", []) == ["wait"]
    assert advise("attic", "", [Failure(QUIC, "something else")]) == []
