"""Why a device is linked or not, and what the mesh looks like from here: ``meshctl why`` and ``meshctl graph``."""

import math
from collections.abc import Callable
from typing import Any

import attrs

from meshd.errors import CATALOGUE, MeshdError
from meshd.ids import NodeId, to_text
from meshd.links.breaker import DIAL_FAILURES, SUCCESSES_TO_CLOSE, WINDOW_FAILURES, BreakerStatistics, State
from meshd.links.choice import Candidate, transport_rank
from meshd.links.peer import Decision, PeerStatistics
from meshd.links.quality import metric
from meshd.node.membership import Membership
from meshd.node.peers import Hearsay, Link, Peer, Peers
from meshd.node.routes import Routes
from meshd.routing.view import RouteState, RouteView
from meshd.transport.base import Address
from meshd.trust.standing import Member

_MIN_PREFIX = 4
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"))

_NOT_SEEN = (
    "Is it switched on and in this network? If multicast (UDP 5353) is blocked there, write down where it is: "
    "discovery.static"
)
_NOT_USABLE = "They lead to containers of this machine, or are of a transport that links.transports leaves out."


@attrs.frozen(kw_only=True)
class _Verdict:
    """What is done about a peer: a fixed word, a sentence with the reason, and what to do."""

    state: str
    words: str
    hint: str | None = None


@attrs.frozen(kw_only=True)
class Reasons:
    """Reads, never changes. ``dialer`` tells what a peer's dialer knows."""

    membership: Membership
    peers: Peers
    routes: Routes
    dialer: Callable[[NodeId], PeerStatistics | None]

    def find(self, text: str) -> Member:
        """Another device, by name, id or beginning of an id; also one that was removed, if no other matches.

        Raises MeshdError: ``E_NO_MESH``, ``E_UNKNOWN_DEVICE``, ``E_AMBIGUOUS_DEVICE``; ``E_USAGE`` for this device.
        """
        roster = self.membership.require_roster()
        try:
            member = roster.resolve(text)
        except MeshdError as error:
            removed = [member for member in roster.members.values() if member.removed and _is_called(member, text)]
            if error.code != "E_UNKNOWN_DEVICE" or len(removed) != 1:
                raise
            [member] = removed
        if member.id == self.membership.me:
            raise MeshdError("E_USAGE", f"{member.name} is this device itself.", "Others: meshctl members")
        return member

    # --- why

    def why(self, text: str, now: float) -> dict[str, Any]:
        """``meshctl why``. Raises MeshdError as :meth:`find` does."""
        member = self.find(text)
        peer = self.peers.known.get(member.id, Peer(member.id))
        dialer = self.dialer(member.id)
        link = peer.chosen
        verdict = self._decide(member, peer, dialer, now)
        quality = peer.quality.snapshot(now)
        last_error = peer.last_error if dialer is None or dialer.last_error is None else dialer.last_error
        return {
            "peer": to_text(member.id),
            "name": member.name,
            "state": verdict.state,
            "decision": verdict.words,
            "hint": verdict.hint,
            "candidates": _candidates(peer, dialer),
            "breaker": "closed" if dialer is None else dialer.breaker.state.value,
            "breaker_detail": None if dialer is None else _breaker(dialer),
            "link": None if link is None else _link(link, now),
            "quality": None if link is None else quality.score,
            "grade": None if link is None else quality.grade.value,
            "rtt_ms": None if link is None or quality.rtt is None else round(quality.rtt * 1000, 3),
            "loss": None if link is None else round(quality.loss, 4),
            "broken_last_hour": quality.flaps,
            "route": self._route(member.id),
            "last_error": None if link is not None else last_error,
            "hearsay": None if link is not None or peer.hearsay is None else _hearsay(peer.hearsay, now),
        }

    def _decide(self, member: Member, peer: Peer, dialer: PeerStatistics | None, now: float) -> _Verdict:
        if member.removed:
            hint = "Coming back takes a new key: a fresh state directory there, and an invitation: meshctl invite"
            return _Verdict(state="removed", words="not dialed because it was removed from the mesh", hint=hint)
        if self.membership.public_key(self.membership.me) is None:
            words = "not linked because this device was removed from the mesh"
            return _Verdict(state="removed", words=words, hint=CATALOGUE["E_REMOVED_DEVICE"].advice)
        if peer.chosen is not None:
            return _linked(peer.chosen, dialer, now)
        if dialer is None:
            return _Verdict(state="idle", words="not dialed because the daemon has only just begun to look for it")
        return _unlinked(member.name, peer, dialer)

    def _route(self, destination: NodeId) -> dict[str, Any] | None:
        for view in self.routes.views():
            if view.destination == destination and view.state is RouteState.SELECTED and view.next_hop is not None:
                return {
                    "next_hop": to_text(view.next_hop),
                    "next_hop_name": self.membership.name_of(view.next_hop),
                    "metric": view.metric,
                }
        return None

    # --- graph

    def graph(self, now: float) -> dict[str, Any]:
        """``meshctl graph``: this device's links, and what its routes tell of the rest."""
        roster = self.membership.require_roster()
        me = self.membership.me
        views = self.routes.views()
        routed = {view.destination for view in views if view.state is RouteState.SELECTED}
        members = [member for member in roster.members.values() if not member.removed or member.id == me]
        costs = {view.destination: view.metric for view in views if view.next_hop == view.destination}
        edges = [self._link_edge(link, costs, now) for link in self.peers.links()]
        edges += [edge for view in views if (edge := self._route_edge(view, costs)) is not None]
        return {
            "nodes": [
                {
                    "id": to_text(member.id),
                    "name": member.name,
                    "role": member.role,
                    "state": "self" if member.id == me else self._state(member.id, member.id in routed),
                }
                for member in sorted(members, key=lambda member: member.name.casefold())
            ],
            "edges": edges,
        }

    def _state(self, node: NodeId, routed: bool) -> str:
        link = self.peers.link_to(node)
        if link is not None:
            return "suspect" if link.suspect else "up"
        return "routed" if routed else "down"

    def _link_edge(self, link: Link, costs: dict[NodeId, int], now: float) -> dict[str, Any]:
        known = costs.get(link.peer)
        cost = metric(self.peers.peer(link.peer).quality.snapshot(now)) if known is None else known
        return _edge(self.membership.me, link.peer, "link", cost, link.transport)

    def _route_edge(self, view: RouteView, costs: dict[NodeId, int]) -> dict[str, Any] | None:
        """The way from a next hop on: one edge, however many hops it may be."""
        if view.state not in (RouteState.SELECTED, RouteState.FEASIBLE) or view.next_hop is None:
            return None
        if self.membership.me in (view.destination, view.next_hop) or view.next_hop == view.destination:
            return None
        rest = max(1, view.metric - costs.get(view.next_hop, 0))
        return _edge(view.next_hop, view.destination, "route", rest, None) | {
            "selected": view.state is RouteState.SELECTED
        }


def _edge(one: NodeId, other: NodeId, kind: str, cost: int, transport: str | None) -> dict[str, Any]:
    return {"from": to_text(one), "to": to_text(other), "transport": transport, "metric": cost, "kind": kind}


def _is_called(member: Member, text: str) -> bool:
    wanted = text.casefold()
    is_prefix = len(wanted) >= _MIN_PREFIX and to_text(member.id).startswith(wanted)
    return member.name.casefold() == wanted or is_prefix


def _link(link: Link, now: float) -> dict[str, Any]:
    return {
        "transport": link.transport,
        "address": str(link.up.remote),
        "dialed": link.up.dialed,
        "since_s": round(now - link.since, 3),
        "suspect": link.suspect,
    }


def _hearsay(hearsay: Hearsay, now: float) -> dict[str, Any]:
    return {
        "neighbour": hearsay.neighbour,
        "hears": hearsay.hears,
        "detail": hearsay.words,
        "ago_s": round(now - hearsay.at, 3),
    }


def _candidates(peer: Peer, dialer: PeerStatistics | None) -> list[dict[str, Any]]:
    """Best first; then the addresses that were heard of and are of no use here."""
    ranked = () if dialer is None else dialer.candidates
    at = 0.0 if dialer is None else dialer.at
    told = [_candidate(candidate, at) for candidate in ranked]
    usable = {candidate.address for candidate in ranked}
    rest = [(address, source) for address, source in peer.addresses.items() if address not in usable]
    return told + [_candidate(Candidate(address=a, source=source), at) | {"usable": False} for a, source in rest]


def _candidate(candidate: Candidate, at: float) -> dict[str, Any]:
    return {
        "address": str(candidate.address),
        "transport": candidate.address.transport,
        "source": candidate.source,
        "last_error": candidate.last_error,
        "last_tried_s": _since(candidate.last_tried, at),
        "last_success_s": _since(candidate.last_success, at),
        "usable": True,
    }


def _since(moment: float | None, at: float) -> float | None:
    return None if moment is None else round(max(0.0, at - moment), 3)


def _breaker(dialer: PeerStatistics) -> dict[str, Any]:
    breaker = dialer.breaker
    return {
        "next_attempt_s": None if breaker.next_attempt_at is None else round(_next_dial(dialer) - dialer.at, 3),
        "recent_attempts": breaker.recent_attempts,
        "recent_failures": breaker.recent_failures,
        "dial_failures": breaker.dial_failures,
        "openings": breaker.openings,
        "reason": _why_open(breaker),
    }


def _next_dial(dialer: PeerStatistics) -> float:
    """When both the breaker and the wait between dials let one through; infinite when only a change does."""
    breaker_at = dialer.breaker.next_attempt_at
    waits = [dialer.at] if breaker_at is None else [dialer.at, breaker_at]
    if dialer.decision in (Decision.WAITING, Decision.BREAKER_OPEN):
        waits.append(dialer.until)
    return max(waits)


def _wait(dialer: PeerStatistics) -> str:
    return _span(_next_dial(dialer) - dialer.at)


def _why_open(breaker: BreakerStatistics) -> str | None:
    if breaker.state is State.CLOSED:
        return None
    if breaker.state is State.HALF_OPEN:
        return f"{SUCCESSES_TO_CLOSE} successes close it"
    if breaker.dial_failures >= DIAL_FAILURES:
        return f"{breaker.dial_failures} dials in a row failed"
    if breaker.recent_failures >= WINDOW_FAILURES:
        return f"{breaker.recent_failures} of the last {breaker.recent_attempts} attempts failed"
    return "the last link fell silent, or the last probe failed"


def _linked(link: Link, dialer: PeerStatistics | None, now: float) -> _Verdict:
    candidates = () if dialer is None else dialer.candidates
    rank = transport_rank(link.transport)
    better = [candidate for candidate in candidates if transport_rank(candidate.address.transport) < rank]
    is_upgrading = dialer is not None and dialer.decision is Decision.UPGRADING
    hint = None
    if better and better[0].last_error is not None:
        best = better[0].address
        again = "is being tried again" if is_upgrading else f"is tried again{_due(dialer)}"
        reason = f"{best.transport} failed ({better[0].last_error}) and {again}"
        hint = _port_hint(best)
    elif better:
        reason = f"{better[0].address.transport} {'is being tried' if is_upgrading else f'is only tried{_due(dialer)}'}"
    elif rank <= transport_rank("quic"):
        reason = f"{link.transport} is the best transport there is"
    else:
        reason = "no address of a better transport is known, or links.transports leaves it out"
    words = f"linked over {link.transport} for {_span(now - link.since)}, because {reason}"
    if link.suspect:
        words += "; it is silent for longer than usual, and being probed"
    return _Verdict(state="upgrading" if is_upgrading else "linked", words=words, hint=hint)


def _port_hint(address: Address) -> str | None:
    return f"A firewall there must let UDP port {address.port} through." if address.transport == "quic" else None


def _due(dialer: PeerStatistics | None) -> str:
    if dialer is None or dialer.until == math.inf:
        return ""
    return f" in {_span(max(0.0, dialer.until - dialer.at))}"


def _unlinked(name: str, peer: Peer, dialer: PeerStatistics) -> _Verdict:
    retry = f"To try at once: meshctl breaker reset {name}"
    match dialer.decision:
        case Decision.SPARED:
            words = "not dialed because there are links enough (links.max_links), and it is reached over them"
            return _Verdict(state="spared", words=words)
        case Decision.NO_ADDRESS if peer.addresses:
            words = "not dialed because none of its known addresses is of use"
            return _Verdict(state="no-address", words=words, hint=_NOT_USABLE)
        case Decision.NO_ADDRESS:
            return _Verdict(state="no-address", words="not dialed because no address of it is known", hint=_NOT_SEEN)
        case Decision.BREAKER_OPEN if dialer.until == math.inf:
            words = "waiting because the breaker lets one attempt through at a time, and that one is under way"
            return _Verdict(state="breaker-open", words=words)
        case Decision.WAITING | Decision.BREAKER_OPEN if dialer.breaker.state is State.OPEN:
            words = f"waiting {_wait(dialer)} because the breaker is open: {_why_open(dialer.breaker)}"
            return _Verdict(state="breaker-open", words=words, hint=retry)
        case Decision.WAITING | Decision.BREAKER_OPEN:
            is_retry = dialer.breaker.dial_failures > 0
            reason = "the last dial failed" if is_retry else "it was linked, or heard of, only a moment ago"
            return _Verdict(state="waiting", words=f"waiting {_wait(dialer)} because {reason}", hint=retry)
        case Decision.DIALING:
            return _Verdict(state="dialing", words="being dialed now, the address that ranks best first")
        case Decision.LINKED | Decision.UPGRADING:
            return _Verdict(state="linked", words="its link is only just coming up, or going down; ask again")


def _span(seconds: float) -> str:
    """The largest whole unit; tenths of a second below ten."""
    for unit_s, name in _SPANS:
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
