"""From evidence to verdicts: each fault alone changes the checks that it is about, and no other."""

from typing import Any

import attrs
import pytest

from meshd.discovery.interfaces import IFF_MULTICAST, IFF_POINTOPOINT, Interface, InterfaceAddress, InterfaceKind
from meshd.discovery.presence import Place
from meshd.node.insight.evidence import Evidence, PeerEvidence, interface_of
from meshd.node.insight.grades import Verdict
from meshd.node.insight.premises import Premises
from meshd.node.insight.verdicts import judge
from meshd.node.insight.vitals import Outage
from meshd.wire.inquiry import Dialed

ETH0 = Place(
    Interface(
        "eth0",
        3,
        (InterfaceAddress("192.0.2.1", 24), InterfaceAddress("fe80::1", 64)),
        IFF_MULTICAST,
        InterfaceKind.LAN,
    ),
    ("192.0.2.1", "fe80::1"),
)
ALL = frozenset("46ab")
QUIC, TCP = (
    Dialed("quic", "quic://192.0.2.2:7843", None),
    Dialed("websocket", "websocket://192.0.2.2:7843", None),
)
PREMISES = Premises(
    state_dir="/var/lib/meshd",
    free_bytes=1 << 40,
    free_files=1000,
    read_only=False,
    quota_bytes=1 << 30,
    open_to_others=(),
    user="meshd",
    socket_path="/run/meshd/meshd.sock",
    socket_mode=0o660,
    wanted_mode=0o660,
    socket_group="meshd",
    members=("anna",),
    clock_kept=True,
)
PEER = PeerEvidence(
    name="attic",
    linked=True,
    interface="eth0",
    nearby=("192.0.2.2",),
    version="1.0",
    ahead_s=0.1,
    dialed=(QUIC, TCP),
    dialed_us=(QUIC, TCP),
    caught_ours=frozenset((3, group) for group in ALL),
    caught=frozenset(("eth0", group) for group in ALL),
)
GOOD = Evidence(
    version="1.0",
    name="kitchen",
    mesh="home",
    removed=False,
    bound={"quic": ("[::]:7843",), "websocket": ("[::]:7843",)},
    ports={"quic": 7843, "websocket": 7843},
    configured={"quic": True, "websocket": True},
    places=(ETH0,),
    multicast=True,
    wall_s=2e9,
    reserve_bytes=24 << 20,
    premises=PREMISES,
    peers=(PEER,),
)


def bad(evidence: Evidence) -> dict[str, Verdict]:
    """What is not in order, by check. Every such verdict has a fix, every good one none."""
    verdicts = judge(evidence)
    assert len({verdict.check for verdict in verdicts}) == len(verdicts)
    assert all(bool(verdict.fix) == (verdict.verdict != "ok") for verdict in verdicts)
    return {verdict.check: verdict for verdict in verdicts if verdict.verdict != "ok"}


def failed(dialed: Dialed, reason: str = "no answer within 3 s") -> Dialed:
    return attrs.evolve(dialed, error=reason)


def test_nothing_is_wrong() -> None:
    assert bad(GOOD) == {}


PREMISES_FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"read_only": True}, "disk", "fail", "read-only"),
    ({"free_bytes": 23 << 20}, "disk", "fail", "23 MiB free"),
    ({"free_files": 0}, "disk", "fail", "no inode"),
    ({"free_bytes": 512 << 20}, "disk", "warn", "less than store.quota"),
    ({"open_to_others": (("/var/lib/meshd/identity.key", 0o644),)}, "permissions:state", "fail", "(mode 0644)"),
    ({"socket_mode": None}, "permissions:socket", "fail", "is gone"),
    ({"socket_mode": 0o666}, "permissions:socket", "warn", "mode 0666"),
]


@pytest.mark.parametrize(("change", "check", "verdict", "detail"), PREMISES_FAULTS)
def test_faults_of_the_machine(change: dict[str, Any], check: str, verdict: str, detail: str) -> None:
    found = bad(attrs.evolve(GOOD, premises=attrs.evolve(PREMISES, **change)))
    assert {name: one.verdict for name, one in found.items()} == {check: verdict}
    assert detail in found[check].detail


PEER_FAULTS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"ahead_s": 3600.0}, {"clock": "warn"}),
    ({"ahead_s": -29.0}, {}),
    ({"version": "0.9"}, {"versions": "warn"}),
    ({"version": None, "ahead_s": None}, {"versions": "warn"}),
    ({"dialed": (failed(QUIC), TCP), "dialed_us": (failed(QUIC), TCP)}, {"udp-out": "fail", "udp-in": "fail"}),
    ({"dialed": (QUIC, failed(TCP))}, {"tcp-out": "fail"}),
    ({"dialed_us": (QUIC, failed(TCP))}, {"tcp-in": "fail"}),
    ({"dialed": (failed(QUIC), attrs.evolve(QUIC, address="quic://[::2]:1"), TCP)}, {}),
    ({"caught_ours": frozenset()}, {"multicast-out:eth0": "fail"}),
    ({"caught": frozenset()}, {"multicast-in:eth0": "fail"}),
    ({"caught_ours": frozenset([(4, "4")])}, {"multicast-out:eth0": "fail"}),
    ({"caught": frozenset([("eth0", "6")])}, {}),
    ({"caught": frozenset([("eth0", "a")])}, {"multicast-in:eth0": "fail", "igmp:eth0": "fail"}),
    ({"caught_ours": None, "caught": frozenset()}, {}),
    ({"captured": (("192.0.2.2", "eth0", "wg0"),)}, {"vpn": "fail"}),
    (
        {"linked": False, "via": "cellar", "dialed": (failed(QUIC), failed(TCP)), "dialed_us": None, "interface": None},
        {"udp-out": "fail", "tcp-out": "fail", "isolation": "fail"},
    ),
    (
        {
            "linked": False,
            "interface": None,
            "dialed": (failed(QUIC), failed(TCP)),
            "dialed_us": None,
            "caught": frozenset(),
            "version": None,
        },
        {"peers": "fail"},
    ),
]


def test_why_a_device_could_not_be_dialed_is_said() -> None:
    off = attrs.evolve(
        PEER,
        linked=False,
        interface=None,
        dialed=(failed(QUIC), failed(TCP, "Connection refused")),
        dialed_us=None,
        caught=frozenset(),
    )
    assert "not reached: attic (Connection refused)" in bad(attrs.evolve(GOOD, peers=(off,)))["peers"].detail
    unknown = attrs.evolve(off, dialed=(), nearby=())
    assert "attic (no address of it is known)" in bad(attrs.evolve(GOOD, peers=(unknown,)))["peers"].detail
    unlinked = attrs.evolve(off, dialed=(), last_error="quic://192.0.2.7:7843: no version in common")
    assert (
        "attic (quic://192.0.2.7:7843: no version in common)"
        in bad(attrs.evolve(GOOD, peers=(unlinked,)))["peers"].detail
    )


@pytest.mark.parametrize(("change", "expected"), PEER_FAULTS)
def test_faults_between_two(change: dict[str, Any], expected: dict[str, str]) -> None:
    found = bad(attrs.evolve(GOOD, peers=(attrs.evolve(PEER, **change),)))
    assert {name: str(one.verdict) for name, one in found.items()} == expected


def test_what_works_with_some_is_no_fault_of_all() -> None:
    cut = attrs.evolve(PEER, name="cellar", dialed=(failed(QUIC), TCP), caught_ours=frozenset())
    found = bad(attrs.evolve(GOOD, peers=(PEER, cut)))
    assert {name: str(one.verdict) for name, one in found.items()} == {"udp-out": "warn", "multicast-out:eth0": "warn"}
    assert "works with attic, not with cellar" in found["udp-out"].detail
    assert "does not reach cellar; it does with attic" in found["multicast-out:eth0"].detail


@pytest.mark.parametrize(
    ("aheads", "detail"),
    [
        ((7200.0, 7201.0), "this device's clock is 2 h behind most others"),
        ((0.0, 172_800.0), "clocks differ: d1's is 2 d ahead of this one"),
        ((-90.0,), "clocks differ: d0's is 2 min behind this one"),
    ],
)
def test_whose_clock_is_wrong(aheads: tuple[float, ...], detail: str) -> None:
    peers = tuple(attrs.evolve(PEER, name=f"d{number}", ahead_s=ahead) for number, ahead in enumerate(aheads))
    assert detail in bad(attrs.evolve(GOOD, peers=peers))["clock"].detail


OUTAGES = {
    part: Outage(part=part, code="E_PORT", reason=f"{part} is taken", fix="Free it.")
    for part in ("listen.quic", "http.listen 127.0.0.1:80")
}


def test_parts_that_do_not_run_are_told_once_each() -> None:
    found = bad(attrs.evolve(GOOD, outages=OUTAGES, bound={"websocket": ("[::]:7843",)}))
    assert set(found) == {"port:quic", "part:http.listen 127.0.0.1:80"}
    assert "listen.quic is taken" in found["port:quic"].detail
    assert {verdict.fix for verdict in found.values()} == {"Free it."}


def test_a_clock_that_nothing_keeps_right_is_a_warning_with_the_fix() -> None:
    premises = attrs.evolve(PREMISES, clock_kept=False)
    found = bad(attrs.evolve(GOOD, premises=premises))
    assert (set(found), found["clock"].verdict) == ({"clock"}, "warn")
    assert "no time service keeps it right" in found["clock"].detail
    assert "timedatectl set-ntp true" in found["clock"].fix
    assert bad(attrs.evolve(GOOD, premises=attrs.evolve(PREMISES, clock_kept=None))) == {}, "nobody knows"


NODE_FAULTS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"wall_s": 100.0}, {"clock": "warn"}),
    ({"mesh": None, "peers": ()}, {"mesh": "warn"}),
    ({"removed": True, "peers": ()}, {"mesh": "fail"}),
    ({"peers": ()}, {"peers": "warn"}),
    ({"places": (), "peers": ()}, {"network": "fail", "peers": "warn"}),
    ({"bound": {"quic": ("[::]:7843",)}}, {"port:websocket": "warn"}),
    ({"multicast": False}, {}),
    ({"relays": {"cloud": True}}, {}),
    ({"relays": {"cloud": False}}, {"relays": "fail"}),
    ({"relays": {"cloud": False, "attic-relay": True}}, {"relays": "warn"}),
]


@pytest.mark.parametrize(("change", "expected"), NODE_FAULTS)
def test_faults_of_the_device(change: dict[str, Any], expected: dict[str, str]) -> None:
    found = bad(attrs.evolve(GOOD, **change))
    assert {name: str(one.verdict) for name, one in found.items()} == expected


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.77", "eth0"),
        ("198.51.100.1", None),
        ("fe80::9%eth0", "eth0"),
        ("fe80::9%eth1", None),
        ("nas.example", None),
    ],
)
def test_which_network_an_address_is_in(host: str, name: str | None) -> None:
    tunnel = Interface("wg0", 4, (InterfaceAddress("10.0.0.1", 32),), IFF_POINTOPOINT, InterfaceKind.TUNNEL)
    assert interface_of(host, (ETH0, Place(tunnel, ("10.0.0.1",)))) == name
