"""The relay's metrics: each by name, and its value of this moment. docs/metrics.md lists them. Pure."""

from collections.abc import Iterator, Mapping, Sequence

import attrs

from meshd import __version__
from meshd.histogram import Distribution
from meshd.node.insight.metrics import Family, Kind, Metric, Sample

MAX_MESHES = 256
"""Meshes with series of their own; the rest are added up under OTHERS."""

OTHERS = "(others)"


@attrs.frozen(kw_only=True)
class MeshFigures:
    """One mesh of the relay at one moment. ``name`` is its id as people see it."""

    name: str
    devices: int
    linked: int
    bundles: int
    size_bytes: int
    quota_bytes: int


@attrs.frozen(kw_only=True)
class Figures:
    """A relay at one moment.

    Args:
        meshes: those that are served now, by name.
        links: that came up since the start. refusals: connections without a link, by code.
        loop: how long passes of the event loop made others wait. commits: how long those of all meshes took.
    """

    uptime_s: float
    free_bytes: int
    meshes: Sequence[MeshFigures]
    links: int
    refusals: Mapping[str, int]
    alerts: Mapping[str, int]
    loop: Distribution
    commits: Distribution


METRICS: tuple[Metric, ...] = (
    Metric("meshd_relay_info", Kind.INFO, "The version that runs.", ("version",)),
    Metric("meshd_relay_uptime_seconds", Kind.GAUGE, "Since the start of the relay."),
    Metric("meshd_relay_disk_free_bytes", Kind.GAUGE, "What the disk of the state directory still takes."),
    Metric("meshd_relay_loop_seconds", Kind.HISTOGRAM, "How long passes of the event loop made others wait."),
    Metric("meshd_relay_commit_seconds", Kind.HISTOGRAM, "How long commits took, of all meshes, fsync included."),
    Metric("meshd_relay_meshes", Kind.GAUGE, "Meshes that are served now."),
    Metric("meshd_relay_devices", Kind.GAUGE, "Devices of the mesh, relays left out.", ("mesh",)),
    Metric("meshd_relay_devices_linked", Kind.GAUGE, "Those that have a link to this relay.", ("mesh",)),
    Metric("meshd_relay_mailbox_bundles", Kind.GAUGE, "Bundles that wait here.", ("mesh",)),
    Metric("meshd_relay_mailbox_bytes", Kind.GAUGE, "Bytes that wait here.", ("mesh",)),
    Metric("meshd_relay_mailbox_quota_bytes", Kind.GAUGE, "The most that may wait (`mailbox.quota`).", ("mesh",)),
    Metric("meshd_relay_links_total", Kind.COUNTER, "Links that came up."),
    Metric("meshd_relay_refusals_total", Kind.COUNTER, "Connections from which no link came, by code.", ("code",)),
    Metric("meshd_relay_alerts_active", Kind.GAUGE, "Alerts that are not resolved.", ("alert",)),
)


def families(figures: Figures) -> tuple[Family, ...]:
    """All of them, in the order of :data:`METRICS`."""
    values: dict[str, tuple[Sample, ...]] = {}
    for name, labels, value in _values(figures):
        values[name] = (*values.get(name, ()), Sample(labels, value))
    return tuple(Family(metric, values.get(metric.name, ())) for metric in METRICS)


def _values(figures: Figures) -> Iterator[tuple[str, tuple[str, ...], float | Distribution]]:
    yield "meshd_relay_info", (__version__,), 1
    yield "meshd_relay_uptime_seconds", (), figures.uptime_s
    yield "meshd_relay_disk_free_bytes", (), figures.free_bytes
    yield "meshd_relay_loop_seconds", (), figures.loop
    yield "meshd_relay_commit_seconds", (), figures.commits
    yield "meshd_relay_meshes", (), len(figures.meshes)
    for mesh in bounded(figures.meshes):
        yield "meshd_relay_devices", (mesh.name,), mesh.devices
        yield "meshd_relay_devices_linked", (mesh.name,), mesh.linked
        yield "meshd_relay_mailbox_bundles", (mesh.name,), mesh.bundles
        yield "meshd_relay_mailbox_bytes", (mesh.name,), mesh.size_bytes
        yield "meshd_relay_mailbox_quota_bytes", (mesh.name,), mesh.quota_bytes
    yield "meshd_relay_links_total", (), figures.links
    for code, count in sorted(figures.refusals.items()):
        yield "meshd_relay_refusals_total", (code,), count
    for alert, count in sorted(figures.alerts.items()):
        yield "meshd_relay_alerts_active", (alert,), count


def bounded(meshes: Sequence[MeshFigures]) -> Sequence[MeshFigures]:
    """The same, with those beyond MAX_MESHES added up."""
    rest = meshes[MAX_MESHES:]
    if not rest:
        return meshes
    others = MeshFigures(
        name=OTHERS,
        devices=sum(mesh.devices for mesh in rest),
        linked=sum(mesh.linked for mesh in rest),
        bundles=sum(mesh.bundles for mesh in rest),
        size_bytes=sum(mesh.size_bytes for mesh in rest),
        quota_bytes=sum(mesh.quota_bytes for mesh in rest),
    )
    return (*meshes[:MAX_MESHES], others)


def together(distributions: Sequence[Distribution]) -> Distribution:
    """One histogram of several with the same bounds; there is at least one."""
    rows = zip(*(distribution.buckets for distribution in distributions), strict=True)
    buckets = tuple((row[0][0], sum(count for _, count in row)) for row in rows)
    return Distribution(buckets, sum(distribution.total for distribution in distributions))
