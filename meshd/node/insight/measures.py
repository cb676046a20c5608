"""The metrics' values of this moment: the tally, and what the parts of the node know anyway. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import attrs

from meshd import __version__
from meshd.histogram import Distribution
from meshd.ids import NodeId, Priority
from meshd.links.breaker import State
from meshd.node.arriving import Arriving
from meshd.node.insight.alerts import Name
from meshd.node.insight.metrics import Family, families
from meshd.node.insight.views import Views
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import Watch
from meshd.node.peers import Peer
from meshd.node.tally import Counts, Tally
from meshd.routing.view import RouteState

MAX_PEERS = 256
"""Devices with series of their own: what a mesh of thousands would cost whoever collects them has a bound."""

OTHERS = "(others)"
"""The peer label of all the rest."""

_Values: TypeAlias = Iterator[tuple[str, tuple[str, ...], float | Distribution]]
_PRIORITIES = [priority.name.lower() for priority in Priority]


@attrs.frozen(kw_only=True)
class Measures:
    """Reads, never changes. ``free_bytes`` tells what the disk takes."""

    views: Views
    arriving: Arriving
    tally: Tally
    vitals: Vitals
    watch: Watch
    started: float
    free_bytes: Callable[[], int]

    def families(self, now: float) -> tuple[Family, ...]:
        """All metrics, for ``meshctl metrics``."""
        return families(self._values(now))

    def _values(self, now: float) -> _Values:
        names = self._names()
        yield from self._device(now)
        yield from self._own_mail()
        yield from self._mail_to_us()
        yield from self._spool(names, now)
        yield from self._hops()
        yield from self._peers(names, now)
        yield from self._linking()
        yield from _each("meshd_api_requests_total", self.tally.requests)
        yield from _each("meshd_api_errors_total", self.tally.request_errors)
        yield "meshd_api_clients", (), self.vitals.clients()

    def _names(self) -> dict[NodeId, str]:
        """The devices that have series of their own."""
        members = [] if self.views.membership.roster is None else self.views.membership.members()
        return {member.id: member.name for member in sorted(members, key=lambda member: member.name)[:MAX_PEERS]}

    def _device(self, now: float) -> _Values:
        vitals = self.vitals
        yield "meshd_info", (__version__,), 1
        yield "meshd_uptime_seconds", (), now - self.started
        yield "meshd_disk_free_bytes", (), self.free_bytes()
        yield "meshd_loop_seconds", (), vitals.loop.snapshot()
        yield "meshd_commit_seconds", (), vitals.commits.snapshot()
        yield "meshd_store_read_seconds", (), vitals.reads.snapshot()
        active = Counter(alert.name for alert in self.watch.alerts.active())
        for name in Name:
            yield "meshd_alerts_active", (name.value,), active[name]
        yield "meshd_commits_failed_total", (), self.tally.commits_failed

    def _own_mail(self) -> _Values:
        tally = self.tally
        yield from _each_priority("meshd_messages_accepted_total", tally.accepted)
        yield from _each_priority("meshd_messages_delivered_total", tally.delivered)
        yield from _each_priority("meshd_messages_consumed_total", tally.consumed)
        yield from _each("meshd_messages_expired_total", {"lifetime": 0, "unread": 0} | tally.expired)
        yield from _each("meshd_messages_refused_total", tally.refused)
        yield from _each("meshd_messages_turned_down_total", {"E_FULL": 0} | tally.turned_down)
        yield "meshd_content_bytes_total", (), tally.content_bytes
        yield "meshd_packed_bytes_total", (), tally.packed_bytes
        yield "meshd_ephemeral_messages_sent_total", (), tally.ephemeral_sent

    def _mail_to_us(self) -> _Values:
        tally = self.tally
        yield from _each_priority("meshd_messages_arrived_total", tally.arrived)
        yield from _each_priority("meshd_messages_read_total", tally.read)
        yield from _each("meshd_messages_unread_total", {"unread": 0} | tally.unread)
        yield "meshd_ephemeral_messages_arrived_total", (), tally.ephemeral_arrived
        yield "meshd_duplicates_dropped_total", ("destination",), tally.duplicates
        yield "meshd_duplicates_dropped_total", ("hop",), tally.hop_duplicates
        yield "meshd_bundles_unauthentic_total", (), tally.unauthentic
        yield "meshd_inbox_bytes", (), self.arriving.usage_bytes

    def _spool(self, names: dict[NodeId, str], now: float) -> _Values:
        yield "meshd_spool_used_bytes", (), self.views.spool.size_bytes
        yield "meshd_spool_quota_bytes", (), self.views.quota_bytes
        messages: Counter[tuple[str, str]] = Counter()
        size_bytes: Counter[tuple[str, str]] = Counter()
        oldest: dict[tuple[str, str], float] = {}
        for queue in self.views.spool.queues():
            if queue.rows:
                destination = queue.destination
                name = "(self)" if destination == self.views.membership.me else names.get(destination, OTHERS)
                labels = (name, "own" if queue.own else "others")
                messages[labels] += queue.messages
                size_bytes[labels] += queue.size_bytes
                age = 0.0 if queue.oldest_ms is None else max(0.0, now - queue.oldest_ms / 1000)
                oldest[labels] = max(age, oldest.get(labels, 0.0))
        for labels in messages:
            yield "meshd_spool_messages", labels, messages[labels]
            yield "meshd_spool_bytes", labels, size_bytes[labels]
            yield "meshd_spool_oldest_seconds", labels, oldest[labels]

    def _hops(self) -> _Values:
        tally = self.tally
        yield from _each("meshd_bundles_sent_total", tally.sent)
        yield from _each("meshd_bundle_bytes_sent_total", tally.sent_bytes)
        yield from _each("meshd_bundles_received_total", tally.received)
        yield from _each("meshd_bundle_bytes_received_total", tally.received_bytes)
        yield "meshd_bundles_resent_total", (), tally.resent
        yield "meshd_bundles_detoured_total", (), tally.detoured
        yield from _each("meshd_bundles_turned_away_total", tally.turned_away)
        yield "meshd_bundles_taken_over_total", (), tally.taken_over
        yield "meshd_bundles_carried_total", (), tally.carried
        yield "meshd_copies_given_total", (), tally.copies_given
        yield from _each("meshd_custody_ended_total", {"passed-on": 0} | tally.custody_ended)

    def _peers(self, names: dict[NodeId, str], now: float) -> _Values:
        states = {"up": 0, "suspect": 0, "down": 0}
        members = [] if self.views.membership.roster is None else self.views.membership.members()
        for member in members:
            link = self.views.peers.link_to(member.id)
            states["down" if link is None else "suspect" if link.suspect else "up"] += 1
            if member.role == "relay":
                yield "meshd_relay_up", (names.get(member.id, OTHERS),), int(link is not None)
        yield from _each("meshd_peers", states)
        yield "meshd_peers_unlisted", (), len(members) - len(names)
        for node, name in names.items():
            yield from self._peer(self.views.peers.peer(node), name, now)
            dialer = self.views.dialer(node)
            if dialer is not None:
                for state in State:
                    yield "meshd_breaker_state", (name, state.value), int(dialer.breaker.state is state)
                    transitions = dialer.breaker.transitions.get(state, 0)
                    yield "meshd_breaker_transitions_total", (name, state.value), transitions

    def _peer(self, peer: Peer, name: str, now: float) -> _Values:
        link, quality = peer.chosen, peer.quality.snapshot(now)
        yield "meshd_peer_up", (name,), int(link is not None)
        yield "meshd_peer_breaks", (name,), quality.flaps
        if link is None:
            return
        yield "meshd_peer_suspect", (name,), int(link.suspect)
        yield "meshd_peer_transport", (name, link.transport), 1
        yield "meshd_peer_loss_ratio", (name,), quality.loss
        yield "meshd_peer_quality_score", (name,), quality.score
        if quality.rtt is not None:
            yield "meshd_peer_rtt_seconds", (name,), quality.rtt
        if quality.throughput is not None:
            yield "meshd_peer_throughput_bytes_per_second", (name,), quality.throughput

    def _linking(self) -> _Values:
        tally = self.tally
        yield from _each("meshd_dials_total", {"linked": 0} | tally.dials)
        yield from _each("meshd_links_up_total", tally.links_up)
        yield from _each("meshd_links_down_total", tally.links_down)
        yield from _each("meshd_accepts_refused_total", tally.strangers)
        yield "meshd_transport_changes_total", ("upgrade",), tally.upgrades
        yield "meshd_transport_changes_total", ("downgrade",), tally.downgrades
        yield from _each("meshd_protocol_errors_total", tally.protocol_errors)
        routes = Counter(view.state for view in self.views.route_table.views())
        yield from _each("meshd_routes", {state.value: routes[state] for state in RouteState})
        yield "meshd_route_changes_total", (), tally.route_changes


def _each(name: str, counts: Counts) -> _Values:
    for word, number in counts.items():
        yield name, (word,), number


def _each_priority(name: str, counts: Iterable[int]) -> _Values:
    for priority, number in zip(_PRIORITIES, counts, strict=True):
        yield name, (priority,), number
