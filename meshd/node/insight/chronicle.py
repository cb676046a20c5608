"""What happened lately to devices, links and routes, and who follows it: ``meshctl events``.

Kept in memory only, and bounded: what is old makes room. Each event is plain data, but for its time.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import attrs

from meshd.ids import NodeId, to_text
from meshd.links.events import DialFailed, LinkDown, LinkMeasured, LinkUp
from meshd.node.insight.alerts import Alert, Change
from meshd.node.membership import Membership
from meshd.node.peers import Hearsay, Link
from meshd.node.requests import AddCredit, Follow, Item, Port
from meshd.node.turn import Turn

KEPT_EVENTS = 1000

_FAILURES_REMEMBERED = 64
"""Per peer: different failures of its addresses."""


@attrs.frozen
class Event:
    """Something that happened ``at`` mesh-local seconds; ``fields`` tell what, in plain data."""

    at: float
    fields: dict[str, Any]


@attrs.define(eq=False)
class _Reader:
    """A follower of events: which one it gets next, and how many it is ready for."""

    request: Follow
    position: int
    credit: int


class Chronicle:
    """The last events, numbered from the start of the daemon, and their readers."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._count = 0
        self._readers: list[_Reader] = []
        self._members: set[NodeId] = set()
        self._failures: dict[NodeId, set[tuple[str, str]]] = {}

    def _record(self, turn: Turn, event: str, peer: NodeId, detail: str, **more: object) -> None:
        name = self._membership.name_of(peer)
        fields = {"event": event, "peer": to_text(peer), "name": name, "detail": detail, **more}
        self._events.append(Event(turn.now, fields))
        self._count += 1

    # --- what the node tells

    def restore(self) -> None:
        """The members known at the start are no news."""
        self._members = self._current_members()

    def _current_members(self) -> set[NodeId]:
        membership = self._membership
        members = () if membership.roster is None else membership.roster.members
        return {node for node in members if membership.public_key(node) is not None}

    def members_changed(self, turn: Turn) -> None:
        """The roster may have new members, and may have lost some."""
        before, self._members = self._members, self._current_members()
        for node in sorted(self._members - before):
            self._record(turn, "peer-joined", node, "it is in the mesh now")
        for node in sorted(before - self._members):
            self._record(turn, "peer-removed", node, "it was removed from the mesh")
            self._failures.pop(node, None)

    def link_up(self, turn: Turn, event: LinkUp) -> None:
        """A link came up."""
        turn.log("info", "link up", peer=event.peer, link=event.link, transport=event.transport, dialed=event.dialed)
        self._failures.pop(event.peer, None)
        who = "dialed by this device" if event.dialed else "dialed by the other device"
        self._record(
            turn,
            "link-up",
            event.peer,
            f"{event.remote}, {who}",
            transport=event.transport,
            address=str(event.remote),
            dialed=event.dialed,
        )

    def link_down(self, turn: Turn, event: LinkDown, link: Link | None, hearsay: Hearsay | None) -> None:
        """A link is gone; ``link`` is what it was, None when it never was in use."""
        reason = event.reason if hearsay is None else f"{event.reason}; {hearsay.words}"
        turn.log("info", "link down", peer=event.peer, link=event.link, code=event.code, reason=reason)
        if link is not None:
            self._record(
                turn,
                "link-down",
                event.peer,
                reason,
                transport=link.transport,
                address=str(link.up.remote),
                code=event.code,
                neighbour=None if hearsay is None else hearsay.neighbour,
                neighbour_hears=None if hearsay is None else hearsay.hears,
            )

    def dial_failed(self, turn: Turn, event: DialFailed) -> None:
        """An attempt failed. The same failure of the same address is told once until a link comes up."""
        turn.log("debug", "dial failed", peer=event.peer, address=str(event.address), reason=event.reason)
        known = self._failures.setdefault(event.peer, set())
        failure = (str(event.address), event.reason)
        if failure in known:
            return
        if len(known) >= _FAILURES_REMEMBERED:
            known.clear()
        known.add(failure)
        self._record(
            turn,
            "link-failed",
            event.peer,
            f"{event.address}: {event.reason}",
            transport=event.address.transport,
            address=str(event.address),
            code=event.code,
        )

    def path_changed(self, turn: Turn, peer: NodeId, before: Link | None, link: Link | None) -> None:
        """Another link to the peer is in use now, the first one, or none any more."""
        if before is None and link is not None:
            self._record(turn, "peer-up", peer, f"linked over {link.transport}", transport=link.transport)
        elif before is not None and link is None:
            self._record(turn, "peer-down", peer, "no link is left", transport=before.transport)

    def measured(self, turn: Turn, link: Link | None, event: LinkMeasured) -> None:
        """A link was measured; ``link`` still is as it was before."""
        if link is None or link.suspect == event.suspect:
            return
        if event.suspect:
            self._record(turn, "peer-suspect", link.peer, "silent for longer than usual", transport=link.transport)
        else:
            self._record(turn, "peer-answers", link.peer, "it is heard again", transport=link.transport)

    def route_changed(self, turn: Turn, destination: NodeId, next_hop: NodeId | None) -> None:
        """Mail for ``destination`` goes another way, or has none."""
        if next_hop is None:
            self._record(turn, "route-lost", destination, "no route; its mail waits", next_hop=None)
            return
        name = self._membership.name_of(next_hop)
        detail = "direct" if next_hop == destination else f"by way of {name}"
        self._record(turn, "route-changed", destination, detail, next_hop=to_text(next_hop), next_hop_name=name)

    def breaker_reset(self, turn: Turn, peer: NodeId, before: str) -> None:
        """A person closed the peer's breaker."""
        turn.log("info", "breaker reset", peer=peer, before=before)
        self._failures.pop(peer, None)  # what comes of it is news again
        self._record(turn, "breaker-reset", peer, f"closed by hand; it was {before}", before=before)

    def alert_changed(self, turn: Turn, change: Change, alert: Alert, document: dict[str, Any]) -> None:
        """An alert was raised, got worse, or is resolved."""
        fields = {
            "event": f"alert-{change.value}",
            "peer": document["peer"],
            "name": document["peer_name"],
            "detail": alert.detail,
            "alert": alert.name.value,
            "severity": document["severity"],
        }
        self._events.append(Event(turn.now, fields))
        self._count += 1

    # --- who reads

    def last(self, count: int) -> Iterable[Event]:
        """The last ``count`` events, or as many as are kept; the oldest first."""
        return islice(self._events, max(0, len(self._events) - count), None)

    def follow(self, request: Follow) -> None:
        """Hand out the last events, and from now on each; :meth:`deliver` does it."""
        position = self._count - min(request.last, len(self._events))
        self._readers.append(_Reader(request, position, request.credit))

    def add_credit(self, request: AddCredit) -> bool:
        """A reader is ready for more. Returns whether it is one of ours."""
        for reader in self._readers:
            if reader.request.port is request.port and reader.request.id == request.subscription:
                reader.credit += request.messages
                return True
        return False

    def drop_port(self, port: Port, request_id: int | None = None) -> None:
        """The client is gone, or gave up on one request."""
        self._readers = [
            reader
            for reader in self._readers
            if reader.request.port is not port or request_id not in (None, reader.request.id)
        ]

    def deliver(self, turn: Turn, moment: Callable[[float, float], str]) -> None:
        """Hand out what readers are ready for.

        Args:
            moment: what a time is called, given it and the time now.
        """
        for reader in self._readers:
            if reader.credit > 0 and reader.position < self._count:
                told = self._next(turn, reader, moment)
                reader.credit -= len(told)
                turn.answer(reader.request, Item(told))

    def _next(self, turn: Turn, reader: _Reader, moment: Callable[[float, float], str]) -> list[dict[str, Any]]:
        """What one reader gets now; a note in place of what it was too slow for."""
        oldest = self._count - len(self._events)
        told: list[dict[str, Any]] = []
        if reader.position < oldest:
            missed = oldest - reader.position
            reader.position = oldest
            detail = f"{missed} older ones are lost: they were not read in time"
            told.append(
                {
                    "at": moment(turn.now, turn.now),
                    "event": "missed",
                    "peer": None,
                    "name": None,
                    "detail": detail,
                    "missed": missed,
                }
            )
        start = reader.position - oldest
        events = list(islice(self._events, start, start + reader.credit - len(told)))
        reader.position += len(events)
        return told + [plain(event, turn.now, moment) for event in events]


def plain(event: Event, now: float, moment: Callable[[float, float], str]) -> dict[str, Any]:
    """An event as ``meshctl events --json`` shows it."""
    return {"at": moment(event.at, now), **event.fields}
