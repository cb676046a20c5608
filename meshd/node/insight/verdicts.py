"""From evidence to named verdicts, each with the exact fix: what ``meshctl doctor`` says. Pure."""

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from meshd.discovery.presence import Place
from meshd.discovery.probes import MDNS_GROUPS, OWN_GROUPS
from meshd.node.insight.evidence import Evidence, PeerEvidence
from meshd.wire.inquiry import Dialed

CLOCKS_DIFFER_S = 30.0
"""Less is no fault worth a word; a clock that nothing keeps drifts by seconds a week."""

OLDEST_WALL_S = 1_735_689_600.0
"""2025: no meshd is older. A clock before it was never set."""

_GUEST = "On Wi-Fi, turn off 'AP isolation' (also called client isolation, or guest network) in the access point."


class Grade(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@attrs.frozen
class Verdict:
    """One check's outcome. ``fix`` is empty when there is nothing to do."""

    check: str
    verdict: Grade
    detail: str
    fix: str = ""

    def plain(self) -> dict[str, Any]:
        """As ``meshctl doctor --json`` has it."""
        return {"check": self.check, "verdict": str(self.verdict), "detail": self.detail, "fix": self.fix}


def judge(evidence: Evidence) -> list[Verdict]:
    """All verdicts, in the order in which to mend things."""
    return [verdict for rule in _RULES for verdict in rule(evidence)]


def _ok(check: str, detail: str) -> Verdict:
    return Verdict(check, Grade.OK, detail)


# --- this machine


def _disk(evidence: Evidence) -> Iterator[Verdict]:
    found = evidence.premises
    free = f"{found.free_bytes // (1024 * 1024)} MiB free in {found.state_dir}"
    if found.read_only:
        fix = f"sudo mount -o remount,rw the disk of {found.state_dir}; if it went read-only by itself, replace it."
        yield Verdict("disk", Grade.FAIL, f"{found.state_dir} is read-only: nothing can be accepted", fix)
    elif found.free_bytes < evidence.reserve_bytes:
        need = evidence.reserve_bytes // (1024 * 1024)
        detail = f"{free}: below {need} MiB no mail is accepted, here or for others"
        fix = "Make room on that disk; what takes most: sudo du -xh / | sort -h | tail"
        yield Verdict("disk", Grade.FAIL, detail, fix)
    elif found.free_files == 0:
        detail = f"no inode is left in {found.state_dir}: no file can be made"
        yield Verdict("disk", Grade.FAIL, detail, "Delete files that are not needed; see: df -i")
    elif found.free_bytes < found.quota_bytes:
        quota = found.quota_bytes // (1024 * 1024)
        fix = f'Make room, or set store.quota below what is free, for example "{max(1, found.free_bytes // 2**21)}MiB".'
        yield Verdict("disk", Grade.WARN, f"{free}, less than store.quota ({quota} MiB)", fix)
    else:
        yield _ok("disk", free)


def _permissions(evidence: Evidence) -> Iterator[Verdict]:
    found = evidence.premises
    if found.open_to_others:
        path, mode = found.open_to_others[0]
        wanted = "600" if path.endswith(".key") else "700"
        detail = f"{path} is open to other users (mode {mode:04o})"
        yield Verdict("permissions:state", Grade.FAIL, detail, f"sudo chmod {wanted} {path}")
    else:
        yield _ok("permissions:state", f"{found.state_dir} is closed to other users")
    if found.socket_mode is None:
        detail = f"the socket {found.socket_path} is gone: no new client can come in"
        yield Verdict("permissions:socket", Grade.FAIL, detail, "sudo systemctl restart meshd")
    elif found.socket_mode != found.wanted_mode:
        detail = f"the socket has mode {found.socket_mode:04o}, api.mode says {found.wanted_mode:04o}"
        fix = f"sudo chmod {found.wanted_mode:04o} {found.socket_path}"
        yield Verdict("permissions:socket", Grade.WARN, detail, fix)
    else:
        members = f" ({', '.join(found.members)})" if found.members else ""
        yield _ok("permissions:socket", f"{found.user} and group {found.socket_group}{members} may use the socket")


def _clock(evidence: Evidence) -> Iterator[Verdict]:
    kept = evidence.premises.clock_kept
    note = {True: "a time service keeps it right", False: "no time service keeps it right", None: ""}[kept]
    harmless = "meshd itself needs no clock; logs, traces and other programs do"
    fix = "sudo timedatectl set-ntp true (needs a time server); or by hand: sudo date -s 'YYYY-MM-DD HH:MM'"
    keep = "sudo timedatectl set-ntp true; where that is not supported: sudo apt install systemd-timesyncd"
    if evidence.wall_s < OLDEST_WALL_S:
        yield Verdict("clock", Grade.WARN, f"this device's clock was never set. {harmless}", fix)
        return
    ahead = {peer.name: peer.ahead_s for peer in evidence.peers if peer.ahead_s is not None}
    middle = _median([0.0, *ahead.values()]) if len(ahead) != 1 else 0.0
    others = {name: value for name, value in ahead.items() if abs(value) >= CLOCKS_DIFFER_S}
    if not others:
        compared = f"within {CLOCKS_DIFFER_S:.0f} s of {_names(list(ahead))}" if ahead else "no other to compare with"
        detail = "; ".join(part for part in (compared, note) if part)
        if kept is False:
            yield Verdict("clock", Grade.WARN, f"{detail}, so it will go wrong. {harmless}", keep)
        else:
            yield _ok("clock", detail)
    elif abs(middle) >= CLOCKS_DIFFER_S:
        detail = f"this device's clock is {_off(-middle)} most others ({note or 'NTP unknown'}). {harmless}"
        yield Verdict("clock", Grade.WARN, detail, fix)
    else:
        listed = ", ".join(f"{name}'s is {_off(value)} this one" for name, value in others.items())
        detail = f"clocks differ: {listed}; here {note or 'NTP is unknown'}. {harmless}"
        yield Verdict("clock", Grade.WARN, detail, f"On the device that is wrong: {fix}")


def _median(values: Sequence[float]) -> float:
    """The middle one; the lower of two. (Importing ``statistics`` costs a megabyte.)"""
    return sorted(values)[(len(values) - 1) // 2]


def _off(seconds: float) -> str:
    size = abs(seconds)
    for unit_s, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if size >= unit_s:
            return f"{size / unit_s:.0f} {unit} {'ahead of' if seconds > 0 else 'behind'}"
    return f"{size:.0f} s {'ahead of' if seconds > 0 else 'behind'}"


def _ports(evidence: Evidence) -> Iterator[Verdict]:
    for transport in ("quic", "websocket"):
        bound = evidence.bound.get(transport, ())
        check = f"port:{transport}"
        if bound:
            yield _ok(check, f"listens at {', '.join(bound)}")
        else:
            key = f"listen.{transport}"
            why = f"{key} is empty" if evidence.configured[transport] else f"links.transports leaves {transport} out"
            fix = f'Set {key} = ["[::]:7843"], and restart: sudo systemctl restart meshd'
            if key in evidence.outages:
                why, fix = evidence.outages[key].reason, evidence.outages[key].fix
            yield Verdict(check, Grade.WARN, f"not listening: {why}; others can't reach this device over it", fix)


def _parts(evidence: Evidence) -> Iterator[Verdict]:
    for part, outage in sorted(evidence.outages.items()):
        if part not in ("listen.quic", "listen.websocket"):  # told with the ports
            yield Verdict(f"part:{part}", Grade.WARN, f"does not run: {outage.reason}", outage.fix)


def _network(evidence: Evidence) -> Iterator[Verdict]:
    if not evidence.places:
        fix = "Connect to a network (see: ip -brief address), or name an interface in discovery.interfaces."
        yield Verdict("network", Grade.FAIL, "no interface with an address leads to a local network", fix)
        return
    listed = ", ".join(f"{place.interface.name} ({', '.join(place.hosts)})" for place in evidence.places)
    yield _ok("network", listed)


# --- the mesh


_COME_BACK = "Coming back takes a new key: stop meshd, move the state directory away, start it, then meshctl join CODE"
_DISOWNED = "was removed from this mesh"
"""What a device is told by others that know more than itself."""


def _mesh(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.mesh is None:
        fix = "meshctl init NAME founds a mesh; meshctl join CODE enters one (the code: meshctl invite, on a member)"
        yield Verdict("mesh", Grade.WARN, "this device is in no mesh", fix)
    elif evidence.removed:
        yield Verdict("mesh", Grade.FAIL, f"this device was removed from {evidence.mesh}", _COME_BACK)
    elif disowning := [peer.name for peer in evidence.peers if _DISOWNED in (peer.last_error or "")]:
        detail = f"this device was removed from {evidence.mesh}, as {_names(disowning)} can tell"
        yield Verdict("mesh", Grade.FAIL, detail, _COME_BACK)
    else:
        yield _ok("mesh", f"{evidence.name} in {evidence.mesh}")


def _peers(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.mesh is None or evidence.removed:
        return
    linked = [peer.name for peer in evidence.peers if peer.linked]
    behind = [f"{peer.name} (by way of {peer.via})" for peer in evidence.peers if not peer.linked and peer.via]
    away = [peer.name for peer in evidence.peers if not peer.linked and not peer.via]
    lost = [f"{peer.name} ({_worst(peer)})" for peer in evidence.peers if peer.name in away]
    parts = [("linked", linked), ("through others", behind), ("not reached", lost)]
    detail = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    if not evidence.peers:
        yield Verdict("peers", Grade.WARN, "no other device is in the mesh", "Bring one in: meshctl invite")
    elif not linked and not behind:
        fix = f"Are they on, and in this network? See: meshctl why {away[0]}"
        detail += "; what needs a second side could not be checked"
        yield Verdict("peers", Grade.FAIL, detail, fix)
    elif away:
        yield Verdict("peers", Grade.WARN, detail, f"See: meshctl why {away[0]}")
    else:
        yield _ok("peers", detail)


def _worst(peer: PeerEvidence) -> str:
    """Why the device could not be dialed: a refusal tells more than silence."""
    errors = [one.error for one in peer.dialed if one.error is not None]
    telling = [error for error in errors if not error.startswith("no answer")]
    return (telling or errors or [peer.last_error or "no address of it is known"])[0]


def _relays(evidence: Evidence) -> Iterator[Verdict]:
    away = [name for name, linked in evidence.relays.items() if not linked]
    linked = [name for name in evidence.relays if name not in away]
    if away:
        use = f"; {_names(linked)} can" if linked else ""
        detail = f"{_names(away)} can't be reached{use}; devices of other networks may wait for it"
        fix = f"Is this device on the internet? Is the relay on? See: meshctl why {away[0]}"
        yield Verdict("relays", Grade.WARN if linked else Grade.FAIL, detail, fix)
    elif linked:
        yield _ok("relays", f"linked: {_names(linked)}")


def _versions(evidence: Evidence) -> Iterator[Verdict]:
    told = {peer.name: peer.version for peer in evidence.peers if peer.version is not None}
    silent = [peer.name for peer in evidence.peers if peer.linked and peer.version is None]
    differing = [f"{name} {version}" for name, version in told.items() if version != evidence.version]
    if differing:
        detail = f"this device runs {evidence.version}; {', '.join(differing)}"
        yield Verdict("versions", Grade.WARN, detail, "Install the same version everywhere, the newest first on hops.")
    elif silent:
        detail = f"{_names(silent)} did not answer: its meshd is older than {evidence.version}, or the link just broke"
        yield Verdict("versions", Grade.WARN, detail, f"Ask again; if it stays so, on {silent[0]}: meshd --version")
    elif told:
        yield _ok("versions", f"{evidence.version} here and on {_names(list(told))}")


# --- the network, from both sides


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
        return _ok(check, f"{good}: {_names(worked)}")
    reasons = "; ".join(f"{peer.name}: {of[0].address}: {of[0].error}" for peer, of in failed)
    if worked:
        return Verdict(check, Grade.WARN, f"works with {_names(worked)}, not with {reasons}", fix)
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
        yield _ok("vpn", "no tunnel takes what is meant for the local network")


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
        yield _ok("isolation", f"{_names(direct)} of this network can be reached directly")


def _is_isolated(peer: PeerEvidence) -> bool:
    tried = [*peer.dialed, *(peer.dialed_us or ())]
    return bool(not peer.linked and peer.is_alive and peer.nearby and tried and all(one.error for one in tried))


def _multicast(evidence: Evidence) -> Iterator[Verdict]:
    if not evidence.multicast:
        yield _ok("multicast", "not used: discovery.mdns is off")
        return
    for place in evidence.places:
        near = [peer for peer in evidence.peers if peer.interface == place.interface.name]
        asked = [peer for peer in near if peer.caught_ours is not None]
        if asked:
            yield from _multicast_on(place, asked)
        elif near or any(peer.linked for peer in evidence.peers):
            name = place.interface.name
            yield _ok(f"multicast:{name}", "not checked: no linked device of this network could be asked")


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
            f"{name}: a group just joined gets through (with {_names(sorted(set(forgotten)))}), that of mDNS does not: "
            "the switch or access point forgot who listens (IGMP snooping without a querier)"
        )
        fix = "Turn on the 'IGMP querier' of the router or switch, or turn its 'IGMP snooping' off."
        yield Verdict(f"igmp:{name}", Grade.FAIL, detail, fix)
    elif _mdns(heard_us) and _mdns(heard):
        yield _ok(f"igmp:{name}", f"{name}: the network keeps passing multicast on")


def _mdns(groups: dict[str, set[str]]) -> bool:
    return any(got & set(MDNS_GROUPS) for got in groups.values())


def _direction(check: str, groups: dict[str, set[str]], *, good: str, bad: str, fix: str) -> Verdict:
    through = [peer for peer, got in groups.items() if got & set(MDNS_GROUPS)]
    missing = [peer for peer in groups if peer not in through]
    if not missing:
        return _ok(check, f"{good} {_names(through)}")
    hint = " (another group does)" if any(groups[peer] & set(OWN_GROUPS) for peer in missing) else ""
    grade = Grade.WARN if through else Grade.FAIL
    but = f"; it does with {_names(through)}" if through else ""
    return Verdict(check, grade, f"{bad} {_names(missing)}{hint}{but}", " ".join(fix.split()))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


_RULES: tuple[Callable[[Evidence], Iterator[Verdict]], ...] = (
    _disk,
    _permissions,
    _clock,
    _ports,
    _parts,
    _network,
    _mesh,
    _peers,
    _relays,
    _versions,
    _vpn,
    _dials("quic", "UDP"),
    _dials("websocket", "TCP"),
    _isolation,
    _multicast,
)
