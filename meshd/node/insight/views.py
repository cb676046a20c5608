"""What people and scripts see: the command contract's JSON, made from the node's state."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from meshd import __version__
from meshd.ids import BundleRef, NodeId, Priority, format_message_id, to_text
from meshd.links.peer import PeerStatistics
from meshd.node.insight.chronicle import Chronicle, plain
from meshd.node.insight.vitals import Outage
from meshd.node.membership import Membership
from meshd.node.peers import Peer, Peers
from meshd.node.relays import Relays
from meshd.node.routes import Routes
from meshd.node.spool import Spool
from meshd.store.reads import TraceRecord
from meshd.transport.base import Address


@attrs.frozen
class Told:
    """An event in a message's life: ``at`` mesh-local seconds of this device."""

    at: float
    device: str
    event: str
    reason: str | None
    detail: str | None


@attrs.frozen
class Unasked:
    """A device whose part of a message's life is not known, and why."""

    device: str
    reason: str


@attrs.frozen(kw_only=True)
class Views:
    """Reads, never changes. ``dialer`` tells what a peer's dialer knows; ``wall`` is the wall clock, for people;
    ``outages`` are the parts of the daemon that don't run."""

    membership: Membership
    peers: Peers
    spool: Spool
    route_table: Routes
    chronicle: Chronicle
    relays: Relays
    quota_bytes: int
    dialer: Callable[[NodeId], PeerStatistics | None]
    wall: Callable[[], float] = time.time
    outages: Mapping[str, Outage] = attrs.field(factory=dict)

    def status(self, now: float, started: float, listening: tuple[Address, ...]) -> dict[str, Any]:
        """``meshctl status``."""
        roster = self.membership.roster
        me = self.membership.me
        name = self.membership.name if roster is None else self.membership.name_of(me)
        return {
            "version": __version__,
            "device": {"id": to_text(me), "name": name},
            "mesh": None if roster is None else {"id": to_text(roster.mesh_id[:16]), "name": roster.mesh_name},
            "removed": self.membership.is_shut_out,
            "uptime_s": round(now - started, 3),
            "peers_up": sum(1 for _ in self.peers.links()),
            "peers_known": len(self.membership.members()),
            "saving": self.spool.saving_for,
            "outages": [attrs.asdict(self.outages[part]) for part in sorted(self.outages)],
            "spool": {
                "messages": self.spool.messages,
                "bytes": self.spool.size_bytes,
                "quota_bytes": self.quota_bytes,
            },
            "relays": [{"url": relay["url"], "state": relay["state"]} for relay in self.relays.views()],
            "listen": {
                transport: [f"[{a.host}]:{a.port}" if ":" in a.host else f"{a.host}:{a.port}" for a in addresses]
                for transport in ("quic", "websocket")
                for addresses in ([a for a in listening if a.transport == transport],)
            },
        }

    def members(self) -> list[dict[str, Any]]:
        """``meshctl members``."""
        roster = self.membership.require_roster()
        return [
            {"id": to_text(m.id), "name": m.name, "role": m.role, "state": "removed" if m.removed else "active"}
            for m in sorted(roster.members.values(), key=lambda m: (m.removed, m.name.casefold()))
        ]

    def peer_list(self, now: float) -> list[dict[str, Any]]:
        """``meshctl peers``."""
        self.membership.require_roster()
        members = sorted(self.membership.members(), key=lambda member: member.name.casefold())
        return [self._peer(self.peers.peer(member.id), member.name, now) for member in members]

    def _peer(self, peer: Peer, name: str, now: float) -> dict[str, Any]:
        link = peer.chosen
        quality = peer.quality.snapshot(now)
        dialer = self.dialer(peer.node)
        last_error = peer.last_error if dialer is None or dialer.last_error is None else dialer.last_error
        by_relay = link is None and self.peers.next_hops.get(peer.node) in self.peers.relays
        return {
            "id": to_text(peer.node),
            "name": name,
            "state": "up" if by_relay else "down" if link is None else "suspect" if link.suspect else "up",
            "transport": "relay" if by_relay else None if link is None else link.transport,
            "address": None if link is None else str(link.up.remote),
            "upgrades": peer.upgrades,
            "downgrades": peer.downgrades,
            "rtt_ms": None if link is None or quality.rtt is None else round(quality.rtt * 1000, 3),
            "loss": None if link is None else round(quality.loss, 4),
            "quality": None if link is None else quality.score,
            "grade": None if link is None else quality.grade.value,
            "breaker": "closed" if dialer is None else dialer.breaker.state.value,
            "last_error": None if link is not None else last_error,
        }

    def routes(self) -> list[dict[str, Any]]:
        """``meshctl routes``."""
        name_of = self.membership.name_of
        return [
            {
                "destination": to_text(view.destination),
                "name": name_of(view.destination),
                "next_hop": None if view.next_hop is None else to_text(view.next_hop),
                "next_hop_name": None if view.next_hop is None else name_of(view.next_hop),
                "metric": view.metric,
                "seqno": view.seqno.number,
                "feasibility_distance": view.feasibility_distance,
                "state": view.state.value,
            }
            for view in self.route_table.views()
        ]

    def queue(self, now_ms: int) -> list[dict[str, Any]]:
        """``meshctl queue``."""
        return [
            {
                "destination": to_text(queue.destination),
                "name": self.membership.name_of(queue.destination),
                "priority": queue.priority.name.lower(),
                "messages": queue.messages,
                "bytes": queue.size_bytes,
                "oldest_age_s": None if queue.oldest_ms is None else round((now_ms - queue.oldest_ms) / 1000, 3),
                "reason": self._reason(
                    queue.destination,
                    queue.priority,
                    queue.pause_reason if queue.paused_until > now_ms / 1000 else None,
                ),
                "own": queue.own,
            }
            for queue in self.spool.queues()
            if queue.rows
        ]

    def _reason(self, destination: NodeId, priority: Priority | None, paused: str | None) -> str:
        if self.membership.public_key(destination) is None:
            return "removed"
        if destination != self.membership.me and self.peers.toward(destination) is None:
            if self.peers.depot(destination) is not None:
                return "at-relay"
            queues = [queue for queue in self.spool.queues_for(destination) if queue.priority == priority]
            return "carried" if any(map(self.spool.deposits.is_carried, queues)) else "no-path"
        if priority is Priority.BULK and self.spool.saving_for is not None and destination != self.membership.me:
            return "saving"
        return paused or "awaiting-receipt"

    def trace(
        self,
        ref: BundleRef,
        index: int,
        record: TraceRecord | None,
        source_state: str | None,
        told: list[Told],
        unasked: list[Unasked],
        now: float,
    ) -> dict[str, Any]:
        """``meshctl trace``: what all devices tell together. Times are shown on the wall clock of now.

        Args:
            record: what this device knows; source_state: what the source says, when that is another device.
        """
        state = source_state if record is None or record.state is None else record.state
        if state == "pending":
            state = "sent" if any(entry.event == "sent" for entry in told) else "accepted"
        elif state == "delivered" and record is not None and record.state is not None:
            state = self.spool.stage_of_delivered(record).name.lower()
        elif state == "delivered" and any(entry.event == "consumed" for entry in told):
            state = "consumed"
        elif state is None:
            state = "arrived" if any(entry.event == "arrived" for entry in told) else "passed-on"
        if record is not None and record.state == "pending" and record.destination is not None:
            told = [*told, self._waiting(record.destination, record.priority, now)]
        events = [{**attrs.asdict(entry), "at": self.moment(entry.at, now)} for entry in told]
        unasked_rows = [attrs.asdict(row) for row in unasked]
        return {"id": format_message_id(ref, index), "state": state, "events": events, "unasked": unasked_rows}

    def _waiting(self, destination: NodeId, priority: Priority | None, now: float) -> Told:
        """Why our own message has not ended yet, as of now."""
        queues = [queue for queue in self.spool.queues_for(destination) if queue.own and queue.priority == priority]
        paused = next((queue.pause_reason for queue in queues if queue.paused_until > now), None)
        me = self.membership.name_of(self.membership.me)
        reason = self._reason(destination, priority, paused)
        return Told(now, me, "waiting", reason, f"for {self.membership.name_of(destination)}")

    def events(self, count: int, now: float) -> list[dict[str, Any]]:
        """``meshctl events``: the last ``count`` that are kept, the oldest first."""
        return [plain(event, now, self.moment) for event in self.chronicle.last(count)]

    def moment(self, at: float, now: float) -> str:
        """What people call the mesh-local time ``at``: on the wall clock of now."""
        return iso(self.wall() - (now - at))


def iso(seconds: float) -> str:
    """Seconds since 1970 as people read them (RFC 3339), in UTC."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
