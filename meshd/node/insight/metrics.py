"""Every metric there is: its name, kind, labels and meaning. docs/metrics.md is made from this. Pure."""

import enum
from collections.abc import Iterable

import attrs

from meshd.histogram import Distribution


class Kind(enum.Enum):
    """What a metric's values are (OpenMetrics)."""

    COUNTER = "counter"
    """Only grows, from 0 at the start of the daemon."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@attrs.frozen
class Metric:
    """A metric as PromQL names it; histograms have ``_bucket``, ``_sum`` and ``_count`` added to that."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


@attrs.frozen
class Sample:
    """One value; ``labels`` in the order of the metric's."""

    labels: tuple[str, ...]
    value: float | Distribution


@attrs.frozen
class Family:
    """A metric and its samples of one moment."""

    metric: Metric
    samples: tuple[Sample, ...]


@attrs.frozen
class Group:
    """Metrics that belong together, for the documentation."""

    title: str
    metrics: tuple[Metric, ...]


def _counter(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, meaning, labels)


GROUPS: tuple[Group, ...] = (
    Group(
        "This device",
        (
            Metric("meshd_info", Kind.INFO, "The version that runs.", ("version",)),
            _gauge("meshd_uptime_seconds", "Since the start of the daemon."),
            _gauge("meshd_disk_free_bytes", "What the disk of the state directory still takes."),
            Metric("meshd_loop_seconds", Kind.HISTOGRAM, "How long passes of the event loop made others wait."),
            Metric("meshd_commit_seconds", Kind.HISTOGRAM, "How long commits took, fsync included."),
            Metric("meshd_store_read_seconds", Kind.HISTOGRAM, "How long reads from the store took."),
            _gauge("meshd_alerts_active", "Alerts of this daemon that are not resolved.", "alert"),
            _counter("meshd_commits_failed_total", "Commits that the disk refused."),
        ),
    ),
    Group(
        "Mail of this device's apps",
        (
            _counter("meshd_messages_accepted_total", "Messages accepted: on disk, and answered for.", "priority"),
            _counter("meshd_messages_delivered_total", "Messages that a receipt says are at their device.", "priority"),
            _counter(
                "meshd_messages_consumed_total",
                "Messages that a receipt says an app is done with; of those delivered in this life of the daemon, "
                "and of the first 16,384 bundles that wait unread for one destination and priority.",
                "priority",
            ),
            _counter(
                "meshd_messages_expired_total",
                "Messages that expired: `lifetime` on the way, `unread` at their device.",
                "reason",
            ),
            _counter("meshd_messages_refused_total", "Messages that their device, or the mesh, refused.", "reason"),
            _counter("meshd_messages_turned_down_total", "Messages that were never accepted.", "code"),
            _counter("meshd_content_bytes_total", "Accepted messages as they were sent."),
            _counter(
                "meshd_packed_bytes_total",
                "The same, packed and compressed, before sealing; content over packed is the compression ratio.",
            ),
            _counter("meshd_ephemeral_messages_sent_total", "Ephemeral messages that found a path."),
        ),
    ),
    Group(
        "Mail to this device",
        (
            _counter("meshd_messages_arrived_total", "Messages that arrived for apps here.", "priority"),
            _counter("meshd_messages_read_total", "Messages that apps here are done with.", "priority"),
            _counter("meshd_messages_unread_total", "Messages that ended here without having been read.", "reason"),
            _counter("meshd_ephemeral_messages_arrived_total", "Ephemeral messages that arrived."),
            _counter("meshd_duplicates_dropped_total", "Bundles dropped because they were here already.", "role"),
            _counter(
                "meshd_bundles_unauthentic_total", "Bundles dropped because they were not sealed by their source."
            ),
            _gauge("meshd_inbox_bytes", "Mail that waits for apps here."),
        ),
    ),
    Group(
        "Waiting and passing on",
        (
            _gauge("meshd_spool_used_bytes", "Everything that waits in the spool."),
            _gauge("meshd_spool_quota_bytes", "The most that may wait there (`store.quota`)."),
            _gauge("meshd_spool_messages", "Messages that wait; a bundle of others counts as one.", "peer", "owner"),
            _gauge("meshd_spool_bytes", "Bytes that wait.", "peer", "owner"),
            _gauge("meshd_spool_oldest_seconds", "Age of what waits longest.", "peer", "owner"),
            _counter(
                "meshd_bundles_sent_total", "Bundles sent to a next hop, this device's own and others'.", "transport"
            ),
            _counter("meshd_bundle_bytes_sent_total", "The bytes of these, sealed.", "transport"),
            _counter("meshd_bundles_received_total", "Bundles received from a neighbour.", "transport"),
            _counter("meshd_bundle_bytes_received_total", "The bytes of these, sealed.", "transport"),
            _counter("meshd_bundles_resent_total", "Bundles sent again because a receipt or an ack was overdue."),
            _counter("meshd_bundles_detoured_total", "Copies sent another way because a link was silent."),
            _counter("meshd_bundles_turned_away_total", "Bundles that a next hop did not take.", "reason"),
            _counter("meshd_bundles_taken_over_total", "Bundles of others taken into custody."),
            _counter("meshd_bundles_carried_total", "Copies of others' bundles taken to be carried."),
            _counter("meshd_copies_given_total", "Bundles of which carriers were given copies, for each carrier."),
            _counter(
                "meshd_custody_ended_total", "Bundles of others that left this device's custody, and why.", "reason"
            ),
        ),
    ),
    Group(
        "Peers and links",
        (
            _gauge("meshd_peers", "Devices of the mesh by the state of their link.", "state"),
            _gauge("meshd_peer_up", "1 while the device is linked.", "peer"),
            _gauge("meshd_peer_suspect", "1 while its link is silent for longer than usual.", "peer"),
            _gauge("meshd_peer_transport", "1 for the transport of the link in use.", "peer", "transport"),
            _gauge("meshd_peer_rtt_seconds", "Smoothed round-trip time.", "peer"),
            _gauge("meshd_peer_loss_ratio", "Share of pings that were not answered in time, 0 to 1.", "peer"),
            _gauge("meshd_peer_quality_score", "Quality of the way to it, 0 to 100.", "peer"),
            _gauge("meshd_peer_throughput_bytes_per_second", "Measured while mail was waiting.", "peer"),
            _gauge("meshd_peer_breaks", "How often its links broke in the last hour.", "peer"),
            _gauge("meshd_peers_unlisted", "Devices beyond the first 256, which have no series of their own."),
            _gauge("meshd_breaker_state", "1 for the state that the breaker is in, else 0.", "peer", "state"),
            _counter("meshd_breaker_transitions_total", "How often the breaker came into a state.", "peer", "state"),
            _counter("meshd_dials_total", "Attempts to reach an address: `linked`, or how they failed.", "result"),
            _counter("meshd_links_up_total", "Links that came up, dialed by either side.", "transport"),
            _counter("meshd_links_down_total", "Links that ended.", "reason"),
            _counter("meshd_accepts_refused_total", "Connections from which no link came.", "reason"),
            _counter("meshd_transport_changes_total", "Peers that moved to a better or worse transport.", "direction"),
            _counter("meshd_protocol_errors_total", "Frames of peers that cost them their link.", "code"),
            _gauge("meshd_relay_up", "1 while the relay is linked.", "relay"),
            _gauge("meshd_routes", "Entries of the routing table.", "state"),
            _counter("meshd_route_changes_total", "How often a destination got another next hop, or none."),
        ),
    ),
    Group(
        "The local API",
        (
            _gauge("meshd_api_clients", "Clients connected to the local socket."),
            _counter("meshd_api_requests_total", "Requests by operation.", "op"),
            _counter("meshd_api_errors_total", "Requests that ended in an error, by its code.", "code"),
        ),
    ),
)

CATALOGUE: dict[str, Metric] = {metric.name: metric for group in GROUPS for metric in group.metrics}
"""By name."""


def families(samples: Iterable[tuple[str, tuple[str, ...], float | Distribution]]) -> tuple[Family, ...]:
    """Sort (metric, labels, value) by metric; every metric of the catalogue has its family, maybe an empty one."""
    by_name: dict[str, list[Sample]] = {name: [] for name in CATALOGUE}
    for name, labels, value in samples:
        by_name[name].append(Sample(labels, value))
    return tuple(Family(CATALOGUE[name], tuple(found)) for name, found in by_name.items())
