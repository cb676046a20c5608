"""From evidence to named verdicts, each with the exact fix: what ``meshctl doctor`` says. Pure."""

from collections.abc import Callable, Iterator, Sequence

from meshd.node.insight.evidence import Evidence, PeerEvidence
from meshd.node.insight.grades import Grade, Verdict, listed, ok
from meshd.node.insight.obstacles import OBSTACLES

CLOCKS_DIFFER_S = 30.0
"""Less is no fault worth a word; a clock that nothing keeps drifts by seconds a week."""

OLDEST_WALL_S = 1_735_689_600.0
"""2025: no meshd is older. A clock before it was never set."""


def judge(evidence: Evidence) -> list[Verdict]:
    """All verdicts, in the order in which to mend things."""
    return [verdict for rule in _RULES for verdict in rule(evidence)]


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
        yield ok("disk", free)


def _permissions(evidence: Evidence) -> Iterator[Verdict]:
    found = evidence.premises
    if found.open_to_others:
        path, mode = found.open_to_others[0]
        wanted = "600" if path.endswith(".key") else "700"
        detail = f"{path} is open to other users (mode {mode:04o})"
        yield Verdict("permissions:state", Grade.FAIL, detail, f"sudo chmod {wanted} {path}")
    else:
        yield ok("permissions:state", f"{found.state_dir} is closed to other users")
    if found.socket_mode is None:
        detail = f"the socket {found.socket_path} is gone: no new client can come in"
        yield Verdict("permissions:socket", Grade.FAIL, detail, "sudo systemctl restart meshd")
    elif found.socket_mode != found.wanted_mode:
        detail = f"the socket has mode {found.socket_mode:04o}, api.mode says {found.wanted_mode:04o}"
        fix = f"sudo chmod {found.wanted_mode:04o} {found.socket_path}"
        yield Verdict("permissions:socket", Grade.WARN, detail, fix)
    else:
        members = f" ({', '.join(found.members)})" if found.members else ""
        yield ok("permissions:socket", f"{found.user} and group {found.socket_group}{members} may use the socket")


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
        compared = f"within {CLOCKS_DIFFER_S:.0f} s of {listed(list(ahead))}" if ahead else "no other to compare with"
        detail = "; ".join(part for part in (compared, note) if part)
        if kept is False:
            yield Verdict("clock", Grade.WARN, f"{detail}, so it will go wrong. {harmless}", keep)
        else:
            yield ok("clock", detail)
    elif abs(middle) >= CLOCKS_DIFFER_S:
        detail = f"this device's clock is {_off(-middle)} most others ({note or 'NTP unknown'}). {harmless}"
        yield Verdict("clock", Grade.WARN, detail, fix)
    else:
        differing = ", ".join(f"{name}'s is {_off(value)} this one" for name, value in others.items())
        detail = f"clocks differ: {differing}; here {note or 'NTP is unknown'}. {harmless}"
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
            yield ok(check, f"listens at {', '.join(bound)}")
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
    places = ", ".join(f"{place.interface.name} ({', '.join(place.hosts)})" for place in evidence.places)
    yield ok("network", places)


# --- the mesh


_COME_BACK = "Coming back takes a new key: stop meshd, move the state directory away, start it, then meshctl join CODE"


def _mesh(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.mesh is None:
        fix = "meshctl init NAME founds a mesh; meshctl join CODE enters one (the code: meshctl invite, on a member)"
        yield Verdict("mesh", Grade.WARN, "this device is in no mesh", fix)
    elif evidence.removed:
        yield Verdict("mesh", Grade.FAIL, f"this device was removed from {evidence.mesh}", _COME_BACK)
    else:
        yield ok("mesh", f"{evidence.name} in {evidence.mesh}")


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
        yield ok("peers", detail)


def _worst(peer: PeerEvidence) -> str:
    """Why the device could not be dialed: a refusal tells more than silence."""
    errors = [one.error for one in peer.dialed if one.error is not None]
    telling = [error for error in errors if not error.startswith("no answer")]
    return (telling or errors or [peer.last_error or "no address of it is known"])[0]


def _relays(evidence: Evidence) -> Iterator[Verdict]:
    away = [name for name, linked in evidence.relays.items() if not linked]
    linked = [name for name in evidence.relays if name not in away]
    if away:
        use = f"; {listed(linked)} can" if linked else ""
        detail = f"{listed(away)} can't be reached{use}; devices of other networks may wait for it"
        fix = f"Is this device on the internet? Is the relay on? See: meshctl why {away[0]}"
        yield Verdict("relays", Grade.WARN if linked else Grade.FAIL, detail, fix)
    elif linked:
        yield ok("relays", f"linked: {listed(linked)}")


def _versions(evidence: Evidence) -> Iterator[Verdict]:
    told = {peer.name: peer.version for peer in evidence.peers if peer.version is not None}
    silent = [peer.name for peer in evidence.peers if peer.linked and peer.version is None]
    differing = [f"{name} {version}" for name, version in told.items() if version != evidence.version]
    if differing:
        detail = f"this device runs {evidence.version}; {', '.join(differing)}"
        yield Verdict("versions", Grade.WARN, detail, "Install the same version everywhere, the newest first on hops.")
    elif silent:
        detail = f"{listed(silent)} did not answer: its meshd is older than {evidence.version}, or the link just broke"
        yield Verdict("versions", Grade.WARN, detail, f"Ask again; if it stays so, on {silent[0]}: meshd --version")
    elif told:
        yield ok("versions", f"{evidence.version} here and on {listed(list(told))}")


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
    *OBSTACLES,
)
