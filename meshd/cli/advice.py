"""What to do about a device that can't be reached, by what was seen at its addresses. Pure."""

import enum
import re
from collections.abc import Iterable, Sequence

import attrs

from meshd.errors import CATALOGUE

_CODE = re.compile(r"\b[EP]_[A-Z_]+\b")


class _Kind(enum.Enum):
    """What a failure says, and what to do about it."""

    REFUSED = "{hosts}: the machine is on, but no meshd listens at {ports}. On it: systemctl status meshd"
    SILENT = (
        "{hosts}: nothing answers. Is {name} on, and in this network? A firewall there must let in {ports}: "
        "sudo ufw allow {rule}. To look at this from both sides: meshctl doctor"
    )
    NO_HOST = (
        "{hosts}: no such machine answers. {name} is off, is elsewhere, or the Wi-Fi keeps devices apart "
        "('AP isolation' in the access point)."
    )
    NO_NETWORK = "{hosts}: this device has no network that leads there. See: ip -brief address"
    OTHER_KEY = (
        "{hosts}: another device answers. If it is {name}, set up anew, it has a new key: meshctl remove {name}, "
        "then invite it again."
    )


_SIGNS = {
    "Connection refused": _Kind.REFUSED,
    "no answer within": _Kind.SILENT,
    "timed out": _Kind.SILENT,
    "No route to host": _Kind.NO_HOST,
    "Host is unreachable": _Kind.NO_HOST,
    "Host is down": _Kind.NO_HOST,
    "Network is unreachable": _Kind.NO_NETWORK,
    "Cannot assign requested address": _Kind.NO_NETWORK,
    "certificate refused": _Kind.OTHER_KEY,
}
"""What a reason has in it."""

_HOSTS_SHOWN = 2


@attrs.frozen
class Failure:
    """An address (``quic://HOST:PORT``) and the last error there."""

    address: str
    reason: str

    @property
    def host(self) -> str:
        """The machine."""
        return self.address.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> str:
        """As people say it: ``UDP 7843``."""
        protocol = "UDP" if self.address.startswith("quic:") else "TCP"
        return f"{protocol} {self.address.rpartition(':')[2]}"


def advise(name: str, hint: str, failures: Iterable[Failure]) -> Sequence[str]:
    """One line for each different thing to do: first what the daemon says, then what the errors suggest.

    Args:
        name: what the device is called. hint: the daemon's own, maybe empty.
    """
    by_kind: dict[_Kind, list[Failure]] = {}
    codes: dict[str, None] = {}
    for failure in failures:
        kind = next((kind for sign, kind in _SIGNS.items() if sign in failure.reason), None)
        if kind is not None:
            by_kind.setdefault(kind, []).append(failure)
        else:
            codes |= dict.fromkeys(code for code in _CODE.findall(failure.reason) if code in CATALOGUE)
    told = [_filled(kind, name, of) for kind, of in by_kind.items()]
    told += [f"{code}: {CATALOGUE[code].advice}" for code in codes]
    return [hint, *told] if hint else told


def _filled(kind: _Kind, name: str, failures: Sequence[Failure]) -> str:
    hosts = list(dict.fromkeys(failure.host for failure in failures))
    more = len(hosts) - _HOSTS_SHOWN
    shown = ", ".join(hosts[:_HOSTS_SHOWN]) + (f" and {more} more" if more > 0 else "")
    ports = list(dict.fromkeys(failure.port for failure in failures))
    rules = [f"{number}/{protocol.lower()}" for protocol, number in (port.split() for port in ports)]
    allow = ", sudo ufw allow ".join(rules)
    return kind.value.format(hosts=shown, name=name, ports=" and ".join(ports), rule=allow)
