"""The relay's alerts: its disk, its event loop, and mailboxes that fill up. They last as long as the process."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import attrs
import trio

from meshd.ids import NodeId
from meshd.logs import get_logger
from meshd.node.insight.alerts import Alert, Alerts, Change, Finding, Level
from meshd.node.insight.views import iso
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import LOOK_INTERVAL_S, Thresholds, disk_finding, filling_finding, lag_finding
from meshd.relay.metrics import MeshFigures

log = get_logger("meshd.relay")

_LEVELS = {Level.WARNING: "warning", Level.CRITICAL: "error"}
_ID_BYTES = 16


@attrs.define(eq=False, kw_only=True)
class RelayWatch:
    """Looks around twice a second, and tells of what is wrong, and of its end.

    Args:
        tell: where alerts go to be told to hooks.
        free_bytes: what the disk still takes. meshes: those that are served, by id.
        device: this relay's id, as people see it.
    """

    thresholds: Thresholds
    vitals: Vitals
    free_bytes: Callable[[], int]
    meshes: Callable[[], Sequence[tuple[bytes, MeshFigures]]]
    tell: trio.MemorySendChannel[dict[str, Any]]
    device: str
    alerts: Alerts = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.alerts = Alerts(self.thresholds.patience())

    async def run(self) -> NoReturn:
        """Until cancelled."""
        started = trio.current_time()
        while True:
            await trio.sleep(LOOK_INTERVAL_S)
            now = trio.current_time()
            for change, alert in self.alerts.judge(list(self._findings(now - started)), now):
                self._tell(change, alert)
            self.alerts.forget_oldest()

    def active(self) -> Counter[str]:
        """How many of each name."""
        return Counter(alert.name.value for alert in self.alerts.active())

    def documents(self) -> list[dict[str, Any]]:
        """All that are kept, active ones first, the newest first of each; as the daemon's."""
        newest_first = sorted(self.alerts.all(), key=lambda alert: (alert.until is not None, -alert.number))
        return [self._document(alert) for alert in newest_first]

    def _findings(self, up_s: float) -> Iterator[Finding]:
        worst, self.vitals.loop_worst = self.vitals.loop_worst, 0.0
        yield disk_finding(self.free_bytes(), self.thresholds.disk_free_bytes)
        yield lag_finding(worst, self.thresholds.loop_lag_s, up_s, "meshd-relay")
        for mesh_id, mesh in self.meshes():
            used = mesh.size_bytes / mesh.quota_bytes
            detail = f"the mailbox of the mesh {mesh.name} is {used:.0%} full; when it is, its devices keep their mail"
            yield filling_finding(used, self.thresholds.spool_share, detail, NodeId(mesh_id[:_ID_BYTES]))

    def _tell(self, change: Change, alert: Alert) -> None:
        level = "info" if change is Change.RESOLVED else _LEVELS[alert.severity]
        getattr(log, level)(f"alert {change.value}", alert=alert.name.value, detail=alert.detail)
        try:
            self.tell.send_nowait({**self._document(alert), "change": change.value, "device": self.device})
        except trio.WouldBlock:
            log.warning("alert not told: too many wait", alert=alert.name.value)

    def _document(self, alert: Alert) -> dict[str, Any]:
        def moment(at: float) -> str:
            return iso(time.time() - (trio.current_time() - at))

        return {
            "id": alert.number,
            "name": alert.name.value,
            "severity": alert.severity.name.lower(),
            "state": "active" if alert.until is None else "resolved",
            "since": moment(alert.since),
            "until": None if alert.until is None else moment(alert.until),
            "detail": alert.detail,
            "peer": None,
            "peer_name": None,
        }
