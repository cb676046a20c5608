"""What alerts are about: looked at up to twice a second, from what the parts of the node know anyway. Pure."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from meshd.ids import NodeId, to_text
from meshd.node.accepting import MIN_FREE_BYTES
from meshd.node.effects import TellAlert
from meshd.node.insight.alerts import Alert, Alerts, Change, Finding, Level, Name, Patience, decode_alert, encode_alert
from meshd.node.insight.inquiries import Findings, Inquiries
from meshd.node.insight.views import Views
from meshd.node.turn import Turn
from meshd.store.ops import DeleteFact, PutFact
from meshd.store.reads import Snapshot
from meshd.wire.inquiry import Topic, encode_argument

LOOK_INTERVAL_S = 0.5
"""How often the shell looks around; with it, what is wrong is told within a second."""

CALM_INTERVAL_S = 5.0
"""How often the node hears of it when nothing happened that it could tell of."""

FACT_KIND = "alert"
START_GRACE_S = 30.0
"""A relay that is not linked so soon after the start is no news, nor is a loop that lags while a machine boots."""

FLAPS_WITHIN_S = 600.0
FLAPS = 3
"""A breaker that closes so often in that time keeps opening, too."""

SPOOL_CRITICAL = 0.95
SPOOL_SLACK = 0.1
DISK_SLACK = 1.25
"""The way back to fine: below the limit by this share of the quota; above it by this factor."""

CLOCKS_INTERVAL_S = 600.0
CLOCKS_WAIT_S = 5.0
CLOCKS_ASKED = 16
"""Devices whose clocks are asked for, how long they have for it, and how often."""

CLOCK_STEP_S = 1.0
"""A wall clock that moves by this much against CLOCK_BOOTTIME was set."""


@attrs.frozen(kw_only=True)
class Thresholds:
    """When there is something to tell; from the configuration. ``mute`` holds names of alerts that nobody wants."""

    peer_down_after_s: float = 0.5
    spool_share: float = 0.8
    disk_free_bytes: int = 256 * 1024 * 1024
    loop_lag_s: float = 1.0
    clock_skew_s: float = 30.0
    mute: frozenset[str] = frozenset()

    def patience(self) -> dict[Name, Patience]:
        """How long conditions have to hold."""
        steady = {
            Name.PEER_DOWN: Patience(self.peer_down_after_s, 3.0),
            Name.RELAY_UNREACHABLE: Patience(self.peer_down_after_s, 3.0),
            Name.LOOP_LAG: Patience(0.0, 30.0),
            Name.SPOOL_FILLING: Patience(0.0, 10.0),
            Name.DISK_LOW: Patience(0.0, 10.0),
            Name.PART_DOWN: Patience(0.0, 3.0),
        }
        return {name: steady.get(name, Patience(0.0, 0.0)) for name in Name}


@attrs.frozen(kw_only=True)
class Survey:
    """Event: what the shell saw when it looked around.

    Args:
        loop_worst_s: the longest that the event loop made anybody wait since the last survey.
        free_bytes: what the disk still takes. wall_s: the wall clock, seconds since 1970.
        closings: how often the breakers of peers closed again; those that never did are left out.
    """

    loop_worst_s: float
    free_bytes: int
    wall_s: float
    closings: Mapping[NodeId, int] = attrs.field(factory=dict)

    def is_news(self, before: "Survey", thresholds: Thresholds) -> bool:
        """Whether it says what ``before`` did not, or what there is an alert for."""
        return (
            self.loop_worst_s >= thresholds.loop_lag_s / 2
            or self.free_bytes < thresholds.disk_free_bytes * DISK_SLACK
            or self.closings != before.closings
        )


@attrs.define(eq=False, kw_only=True)
class Watch:
    """Turns surveys into alerts, keeps them on disk, and tells of them. ``views`` leads to what it looks at."""

    views: Views
    inquiries: Inquiries
    thresholds: Thresholds
    started: float
    alerts: Alerts = attrs.field(init=False)
    _survey: Survey | None = attrs.field(default=None, init=False)
    _reached: set[NodeId] = attrs.field(factory=set, init=False)
    _closings: dict[NodeId, int] = attrs.field(factory=dict, init=False)
    _flaps: dict[NodeId, deque[float]] = attrs.field(factory=dict, init=False)
    _wall_offset: float | None = attrs.field(default=None, init=False)
    _clocks_at: float = attrs.field(default=0.0, init=False)
    _inquiry: int | None = attrs.field(default=None, init=False)
    _ahead_s: dict[NodeId, float] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self.alerts = Alerts(self.thresholds.patience())

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the alerts of earlier lives."""
        stored = snapshot.facts.get(FACT_KIND, {}).items()
        alerts = [decode_alert(int.from_bytes(key, "big"), value) for key, value in stored]
        self.alerts.restore(alert for alert in alerts if alert is not None)
        self._reached = {
            alert.subject
            for alert in self.alerts.active()
            if alert.name is Name.PEER_DOWN and alert.subject is not None
        }

    # --- a look around

    @property
    def is_waiting(self) -> bool:
        """Whether to be told of looks around also while nothing happens."""
        return self.alerts.is_waiting

    def surveyed(self, survey: Survey) -> None:
        """The shell has looked around. Nothing follows before :meth:`look`."""
        self._survey = survey

    def look(self, turn: Turn) -> None:
        """When there was a survey: judge, with all else that this turn has changed."""
        survey, self._survey = self._survey, None
        if survey is None:
            return
        self._ask_clocks(turn, survey)
        found = [finding for finding in self._findings(turn, survey) if finding.name.value not in self.thresholds.mute]
        for change, alert in self.alerts.judge(found, turn.now):
            self._tell(turn, change, alert)
        for alert in self.alerts.forget_oldest():
            turn.lazy_ops.append(DeleteFact(FACT_KIND, _key(alert)))

    def _tell(self, turn: Turn, change: Change, alert: Alert) -> None:
        turn.lazy_ops.append(PutFact(FACT_KIND, _key(alert), encode_alert(alert)))
        level = "info" if change is Change.RESOLVED else "error" if alert.severity is Level.CRITICAL else "warning"
        fields = {} if alert.subject is None else {"peer": alert.subject}
        turn.log(level, f"alert {change.value}", alert=alert.name.value, detail=alert.detail, **fields)
        document = self.document(alert, turn.now)
        self.views.chronicle.alert_changed(turn, change, alert, document)
        turn.emit(TellAlert(change.value, document))

    def document(self, alert: Alert, now: float) -> dict[str, Any]:
        """An alert as ``meshctl alerts --json`` shows it, and as hooks get it."""
        subject = alert.subject
        return {
            "id": alert.number,
            "name": alert.name.value,
            "severity": alert.severity.name.lower(),
            "state": "active" if alert.until is None else "resolved",
            "since": self.views.moment(alert.since, now),
            "until": None if alert.until is None else self.views.moment(alert.until, now),
            "detail": alert.detail,
            "peer": None if subject is None else to_text(subject),
            "peer_name": None if subject is None else self.views.membership.name_of(subject),
        }

    def documents(self, now: float) -> list[dict[str, Any]]:
        """``meshctl alerts``: active ones first, then the past, the newest first of each."""
        newest_first = sorted(self.alerts.all(), key=lambda alert: (alert.until is not None, -alert.number))
        return [self.document(alert, now) for alert in newest_first]

    # --- conditions

    def _findings(self, turn: Turn, survey: Survey) -> Iterator[Finding]:
        yield from self._peer_findings(turn, survey)
        yield self._spool_finding()
        yield disk_finding(survey.free_bytes, self.thresholds.disk_free_bytes)
        yield lag_finding(survey.loop_worst_s, self.thresholds.loop_lag_s, turn.now - self.started)
        yield self._outage_finding()
        yield from self._clock_findings()

    def _peer_findings(self, turn: Turn, survey: Survey) -> Iterator[Finding]:
        if self.views.membership.public_key(self.views.membership.me) is None:
            return  # in no mesh, or in none any more: nobody is missed
        unconfirmed = self._unconfirmed()
        for member in self.views.membership.members():
            node, name = member.id, member.name
            link = self.views.peers.toward(node)
            ends = unconfirmed.get(node, [])
            detail = f"mail goes out over {name}, and no receipt comes back; it is for {', '.join(ends)}"
            yield from self._missing(Name.MAIL_UNCONFIRMED, node, detail, bool(ends))
            if member.role == "relay":
                if link is not None or turn.now - self.started >= START_GRACE_S:
                    yield from self._missing(Name.RELAY_UNREACHABLE, node, f"no link to the relay {name}", link is None)
                continue
            if link is not None:
                self._reached.add(node)
            if node in self._reached or self.views.peers.peer(node).was_linked:
                yield from self._missing(Name.PEER_DOWN, node, f"no link and no route to {name}", link is None)
            if node in survey.closings or node in self._flaps:
                yield self._flapping(turn.now, node, name, survey.closings.get(node, 0))
            if node in self.views.membership.clones:
                yield Finding(Name.CLONE, Level.CRITICAL, f"two devices run with the key of {name}", node)

    def _unconfirmed(self) -> Mapping[NodeId, list[str]]:
        """Neighbours that mail is given to in vain, and whom it is for: they, or whoever is behind them, swallow it."""
        found: defaultdict[NodeId, list[str]] = defaultdict(list)
        for queue in self.views.spool.queues():
            link = self.views.peers.toward(queue.destination) if queue.own and queue.is_unconfirmed else None
            if link is not None:
                found[link.peer].append(self.views.membership.name_of(queue.destination))
        return found

    def _missing(self, name: Name, node: NodeId, detail: str, is_missing: bool) -> Iterator[Finding]:
        if is_missing or self.alerts.minds(name, node):
            yield Finding(name, Level.WARNING if is_missing else Level.FINE, detail, node)

    def _flapping(self, now: float, node: NodeId, name: str, closings: int) -> Finding:
        before, self._closings[node] = self._closings.get(node, 0), closings
        flaps = self._flaps.setdefault(node, deque(maxlen=FLAPS))
        flaps.extend([now] * min(FLAPS, max(0, closings - before)))
        while flaps and flaps[0] <= now - FLAPS_WITHIN_S:
            flaps.popleft()
        level = Level.WARNING if len(flaps) >= FLAPS else Level.BETWEEN if flaps else Level.FINE
        detail = f"links to {name} keep failing and coming back: {FLAPS} times in {FLAPS_WITHIN_S / 60:.0f} min"
        return Finding(Name.BREAKER_FLAPPING, level, detail, node)

    def _spool_finding(self) -> Finding:
        used = self.views.spool.size_bytes / self.views.quota_bytes
        detail = f"the spool is {used:.0%} full; when it is, no message is accepted"
        return filling_finding(used, self.thresholds.spool_share, detail)

    def _outage_finding(self) -> Finding:
        outages = [f"{outage.part}: {outage.reason}" for outage in self.views.outages.values()]
        detail = f"meshd runs without a part of it; {'; '.join(sorted(outages))}"
        return Finding(Name.PART_DOWN, Level.WARNING if outages else Level.FINE, detail)

    # --- clocks

    def _ask_clocks(self, turn: Turn, survey: Survey) -> None:
        """Ask others for their clocks: now and then, and when ours was set."""
        offset = survey.wall_s - turn.now
        if self._wall_offset is not None and abs(offset - self._wall_offset) >= CLOCK_STEP_S:
            moved = self._wall_offset - offset
            self._ahead_s = {node: ahead + moved for node, ahead in self._ahead_s.items()}
            self._clocks_at = turn.now
        self._wall_offset = offset
        linked = [link.peer for link in self.views.peers.links()][:CLOCKS_ASKED]
        if self._clocks_at <= turn.now and self._inquiry is None and linked:
            self._clocks_at = turn.now + CLOCKS_INTERVAL_S
            within_s = CLOCKS_WAIT_S
            self._inquiry = self.inquiries.ask(
                turn, Topic.ABOUT, encode_argument(), linked, self.views.peers, within_s=within_s
            )

    def answered(self, findings: Findings) -> bool:
        """An inquiry ended. Returns whether it was the one for clocks."""
        if findings.number != self._inquiry:
            return False
        self._inquiry = None
        if self._wall_offset is not None:
            self._ahead_s = {
                node: about.wall_ms / 1000 - (findings.moments[node] + self._wall_offset)
                for node, about in findings.answers.items()
            }
        return True

    def _clock_findings(self) -> Iterator[Finding]:
        ahead = {node: by for node, by in self._ahead_s.items() if self.views.membership.public_key(node) is not None}
        middle = _median(list(ahead.values())) if ahead else 0.0
        yield self._clock(-middle, "this device's clock is {} others'", None)
        for node, by in ahead.items():
            name = self.views.membership.name_of(node)
            # Where two alone differ nobody knows who is right: it is told once, as ours.
            yield self._clock(by - middle, f"the clock of {name} is {{}} others'", node)

    def _clock(self, ahead_s: float, text: str, subject: NodeId | None) -> Finding:
        limit, off_s = self.thresholds.clock_skew_s, abs(ahead_s)
        level = Level.WARNING if off_s >= limit else Level.BETWEEN if off_s >= limit / 2 else Level.FINE
        words = f"{off_s:.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"
        return Finding(Name.CLOCK_SKEW, level, text.format(words), subject)


def filling_finding(used: float, limit: float, detail: str, subject: NodeId | None = None) -> Finding:
    """How full a store is: ``used`` and ``limit`` are shares of its quota."""
    level = (
        Level.CRITICAL
        if used >= max(SPOOL_CRITICAL, limit)
        else Level.WARNING
        if used >= limit
        else Level.BETWEEN
        if used > limit - SPOOL_SLACK
        else Level.FINE
    )
    return Finding(Name.SPOOL_FILLING, level, detail, subject)


def disk_finding(free_bytes: int, limit_bytes: int) -> Finding:
    """What the disk still takes."""
    level = (
        Level.CRITICAL
        if free_bytes < MIN_FREE_BYTES
        else Level.WARNING
        if free_bytes < limit_bytes
        else Level.BETWEEN
        if free_bytes < limit_bytes * DISK_SLACK
        else Level.FINE
    )
    mib = 1024 * 1024
    detail = f"{free_bytes // mib} MiB are free on the disk; below {MIN_FREE_BYTES // mib} no message is accepted"
    return Finding(Name.DISK_LOW, level, detail)


def lag_finding(worst_s: float, limit_s: float, up_s: float, program: str = "meshd") -> Finding:
    """How long the event loop made others wait at most; ``up_s`` after the start of the process."""
    level = Level.WARNING if worst_s >= limit_s else Level.BETWEEN if worst_s >= limit_s / 2 else Level.FINE
    if up_s < START_GRACE_S:
        level = min(level, Level.BETWEEN)
    detail = f"{program} kept everybody waiting for {worst_s:.1f} s: too little processor time"
    return Finding(Name.LOOP_LAG, level, detail)


def _median(values: list[float]) -> float:
    """The library's own brings 1 MB of decimals and fractions along."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _key(alert: Alert) -> bytes:
    return alert.number.to_bytes(8, "big")
