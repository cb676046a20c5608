"""What to do about a device that can't be reached, by what was seen at its addresses. Pure."""

import re
from collections.abc import Iterable, Sequence

import attrs

from meshd.errors import CATALOGUE

_CODE = re.compile(r"\b[EP]_[A-Z_]+\b")

_ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Connection refused",),
        "The machine at {address} is on, but no meshd listens there. On it: systemctl status meshd",
    ),
    (
        ("no answer within", "timed out"),
        "Nothing answers at {address}. Is {name} on, and in this network? A firewall there must let in {protocol} "
        "port {port}: sudo ufw allow {port}/{rule}. From both sides: meshctl doctor",
    ),
    (
        ("No route to host", "Host is unreachable", "Host is down"),
        "{address} does not answer at all: {name} is off, is elsewhere, or the Wi-Fi keeps devices apart "
        "('AP isolation' in the access point).",
    ),
    (
        ("Network is unreachable", "Cannot assign requested address"),
        "This device has no network that leads to {address}. See: ip -brief address",
    ),
    (
        ("certificate refused",),
        "Another device answers at {address}. If it is {name}, set up anew, it has a new key: "
        "meshctl remove {name}, then invite it again.",
    ),
)
"""Beginnings or parts of reasons, and what to do about each."""


@attrs.frozen
class Failure:
    """An address and the last error there."""

    address: str
    reason: str


def advise(name: str, hint: str, failures: Iterable[Failure]) -> Sequence[str]:
    """One line for each different thing to do: first what the daemon says, then what the errors suggest.

    Args:
        name: what the device is called. hint: the daemon's own, maybe empty.
    """
    found = {hint: None} if hint else {}
    kinds: set[object] = set()
    for failure in failures:
        kind, advice = _about(failure)
        if advice and kind not in kinds:
            kinds.add(kind)
            protocol = "UDP" if failure.address.startswith("quic:") else "TCP"
            port = failure.address.rpartition(":")[2]
            filled = advice.format(
                name=name, address=failure.address, protocol=protocol, port=port, rule=protocol.lower()
            )
            found[filled] = None
    return list(found)


def _about(failure: Failure) -> tuple[object, str]:
    for number, (parts, advice) in enumerate(_ADVICE):
        if any(part in failure.reason for part in parts):
            return (number, failure.address.partition(":")[0]), advice
    codes = [code for code in _CODE.findall(failure.reason) if code in CATALOGUE]
    return (codes[0], CATALOGUE[codes[0]].advice) if codes else (None, "")
