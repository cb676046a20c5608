"""Verdicts on the network between devices: firewalls, tunnels, isolated clients, multicast that is lost. Pure."""

from collections.abc import Callable, Iterator, Sequence

from meshd.discovery.presence import Place
from meshd.discovery.probes import MDNS_GROUPS, OWN_GROUPS
from meshd.node.insight.evidence import Evidence, PeerEvidence
from meshd.node.insight.grades import Grade, Verdict, listed, ok
from meshd.wire.inquiry import Dialed

_GUEST = "On Wi-Fi, turn off 'AP isolation' (also called client isolation, or guest network) in the access point."


def _dials(transport: str, protocol: str) -> Callable[[Evidence], Iterator[Verdict]]:
    def rule(evidence: Evidence) -> Iterator[Verdict]:
        alive = [peer for peer in evidence.peers if peer.is_alive]
        out = [(peer, of) for peer in alive if (of := _of(peer.dialed, transport))]
        back = [(peer, of) for peer in alive if (of := _of(peer.dialed_us or (), transport))]
        name = protocol.lower()
        port = evidence.ports.get(transport) or 7843
        outward = _reached(out)
        inward = _reached(back)
        both = outward is False and inward is not True
        beyond = (
            "If no firewall there drops it, the network in between does: a router, or a guest network. "
            "Links use the other protocol meanwhile."
        )
        if out:
            where = "on both devices" if both else "on the other device"
            fix = _let_in(protocol, _port_of(out) or port, where) + (f" {beyond}" if both else "")
            yield _dialed(f"{name}-out", f"this device can dial others over {protocol}", out, fix)
        if back:
            fix = _let_in(protocol, port, "on this device") + (f" {beyond}" if outward is None else "")
            yield _dialed(f"{name}-in", f"others can dial this device over {protocol}", back, fix)

    return rule


def _let_in(protocol: str, port: int, where: str) -> str:
    rule = f"{port}/{protocol.lower()}"
    firewalld = f"sudo firewall-cmd --permanent --add-port={rule}, then: sudo firewall-cmd --reload"
    return f"Let {protocol} port {port} in {where}: sudo ufw allow {rule} (with firewalld: {firewalld})."


def _port_of(tried: Sequence[tuple[PeerEvidence, list[Dialed]]]) -> int | None:
    """The port of the first address that could not be reached."""
    failed = [one.address.rpartition(":")[2] for _, of in tried for one in of if one.error is not None]
    return int(failed[0]) if failed and failed[0].isdecimal() else None


def _of(dialed: Sequence[Dialed], transport: str) -> list[Dialed]:
    return [one for one in dialed if one.transport == transport]


def _reached(tried: Sequence[tuple[PeerEvidence, list[Dialed]]]) -> bool | None:
    """Whether any peer was reached at any of its addresses; None when nothing was tried."""
    return any(one.error is None for _, of in tried for one in of) if tried else None


def _dialed(check: str, good: str, tried: Sequence[tuple[PeerEvidence, list[Dialed]]], fix: str) -> Verdict:
    failed = [(peer, of) for peer, of in tried if all(one.error is not None for one in of)]
    worked = [peer.name for peer, of in tried if any(one.error is None for one in of)]
    if not failed:
        return ok(check, f"{good}: {listed(worked)}")
    reasons = "; ".join(f"{peer.name}: {of[0].address}: {of[0].error}" for peer, of in failed)
    if worked:
        return Verdict(check, Grade.WARN, f"works with {listed(worked)}, not with {reasons}", fix)
    return Verdict(check, Grade.FAIL, f"nothing gets through: {reasons}", fix)


def _vpn(evidence: Evidence) -> Iterator[Verdict]:
    captured = [(peer.name, *one) for peer in evidence.peers for one in peer.captured]
    if captured:
        name, host, lan, taken = captured[0]
        detail = f"packets for {name} ({host}), which is on {lan}, are sent through {taken} instead"
        fix = (
            f"Have the VPN leave the local network alone ('allow LAN access', or AllowedIPs without it); at once: "
            f"sudo ip route replace {host} dev {lan}"
        )
        yield Verdict("vpn", Grade.FAIL, detail, fix)
    elif any(peer.nearby for peer in evidence.peers):
        yield ok("vpn", "no tunnel takes what is meant for the local network")


def _isolation(evidence: Evidence) -> Iterator[Verdict]:
    cut = [peer for peer in evidence.peers if _is_isolated(peer)]
    if cut:
        peer = cut[0]
        arp = "does not even answer ARP" if peer.arp_silent else "does not answer"
        how = f"by way of {peer.via}" if peer.via else "by its multicast"
        detail = (
            f"{peer.name} is on and in this network ({', '.join(peer.nearby)}), as is known {how}, but {arp} directly"
        )
        fix = f"{_GUEST} On a wired network: look for 'private VLAN'."
        if not peer.arp_silent:
            fix += f" Or a firewall on {peer.name} drops port 7843 of both UDP and TCP."
        yield Verdict("isolation", Grade.FAIL, detail, fix)
    elif direct := [peer.name for peer in evidence.peers if peer.interface is not None]:
        yield ok("isolation", f"{listed(direct)} of this network can be reached directly")


def _is_isolated(peer: PeerEvidence) -> bool:
    tried = [*peer.dialed, *(peer.dialed_us or ())]
    return bool(not peer.linked and peer.is_alive and peer.nearby and tried and all(one.error for one in tried))


def _multicast(evidence: Evidence) -> Iterator[Verdict]:
    if not evidence.multicast:
        yield ok("multicast", "not used: discovery.mdns is off")
        return
    for place in evidence.places:
        near = [peer for peer in evidence.peers if peer.interface == place.interface.name]
        asked = [peer for peer in near if peer.caught_ours is not None]
        if asked:
            yield from _multicast_on(place, asked)
        elif near or any(peer.linked for peer in evidence.peers):
            name = place.interface.name
            yield ok(f"multicast:{name}", "not checked: no linked device of this network could be asked")


def _multicast_on(place: Place, asked: Sequence[PeerEvidence]) -> Iterator[Verdict]:
    name, index = place.interface.name, place.interface.index
    heard_us = {peer.name: {group for at, group in peer.caught_ours or () if at == index} for peer in asked}
    heard = {peer.name: {group for at, group in peer.caught if at == name} for peer in asked}
    static = (
        f'Until then, tell them where this device is: discovery.static = ["{place.hosts[0]}"] in their configuration.'
    )
    both_fail = not _mdns(heard_us) and not _mdns(heard)
    yield _direction(
        f"multicast-out:{name}",
        heard_us,
        good=f"multicast from {name} reaches",
        bad=f"multicast from {name} does not reach",
        fix=f"Allow it on both devices: sudo ufw allow 5353/udp. {_GUEST if both_fail else ''} {static}",
    )
    yield _direction(
        f"multicast-in:{name}",
        heard,
        good=f"multicast comes in on {name} from",
        bad=f"no multicast comes in on {name} from",
        fix=f"Allow it on both devices: sudo ufw allow 5353/udp. {_GUEST if both_fail else ''} "
        'Until then, write down where they are: discovery.static = ["HOST"] in this device\'s configuration.',
    )
    forgotten = [
        peer for groups in (heard_us, heard) for peer, got in groups.items() if got and not got & set(MDNS_GROUPS)
    ]
    if forgotten:
        detail = (
            f"{name}: a group just joined gets through (with {listed(sorted(set(forgotten)))}), that of mDNS does not: "
            "the switch or access point forgot who listens (IGMP snooping without a querier)"
        )
        fix = "Turn on the 'IGMP querier' of the router or switch, or turn its 'IGMP snooping' off."
        yield Verdict(f"igmp:{name}", Grade.FAIL, detail, fix)
    elif _mdns(heard_us) and _mdns(heard):
        yield ok(f"igmp:{name}", f"{name}: the network keeps passing multicast on")


def _mdns(groups: dict[str, set[str]]) -> bool:
    return any(got & set(MDNS_GROUPS) for got in groups.values())


def _direction(check: str, groups: dict[str, set[str]], *, good: str, bad: str, fix: str) -> Verdict:
    through = [peer for peer, got in groups.items() if got & set(MDNS_GROUPS)]
    missing = [peer for peer in groups if peer not in through]
    if not missing:
        return ok(check, f"{good} {listed(through)}")
    hint = " (another group does)" if any(groups[peer] & set(OWN_GROUPS) for peer in missing) else ""
    grade = Grade.WARN if through else Grade.FAIL
    but = f"; it does with {listed(through)}" if through else ""
    return Verdict(check, grade, f"{bad} {listed(missing)}{hint}{but}", " ".join(fix.split()))


OBSTACLES: tuple[Callable[[Evidence], Iterator[Verdict]], ...] = (
    _vpn,
    _dials("quic", "UDP"),
    _dials("websocket", "TCP"),
    _isolation,
    _multicast,
)
"""The rules, in the order in which to mend things."""
