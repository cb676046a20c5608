"""Alerts as a state machine: what is found, again and again, becomes alerts that are raised and resolved. Pure.

A condition has to hold for a while before its alert is raised, and to be over for a while before that is resolved.
Between two limits nothing changes. So a value that wavers around a limit is one alert, not many.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import attrs

from meshd.ids import NodeId
from meshd.wire import codec

KEPT_ALERTS = 200
"""Resolved ones beyond it are forgotten, the oldest first."""


class Name(enum.Enum):
    """What an alert is about."""

    PEER_DOWN = "peer-down"
    RELAY_UNREACHABLE = "relay-unreachable"
    MAIL_UNCONFIRMED = "mail-unconfirmed"
    BREAKER_FLAPPING = "breaker-flapping"
    SPOOL_FILLING = "spool-filling"
    DISK_LOW = "disk-low"
    CLOCK_SKEW = "clock-skew"
    CLONE = "clone"
    LOOP_LAG = "loop-lag"
    PART_DOWN = "part-down"


class Level(enum.IntEnum):
    """How a condition is: fine, between its limits, or bad."""

    FINE = 0
    BETWEEN = 1
    WARNING = 2
    CRITICAL = 3


class State(enum.Enum):
    """Of one condition. PENDING: bad, but not for long enough. CLEARING: fine again, but not for long enough."""

    QUIET = "quiet"
    PENDING = "pending"
    ACTIVE = "active"
    CLEARING = "clearing"


class Change(enum.Enum):
    """What became of an alert."""

    RAISED = "raised"
    WORSENED = "worsened"
    RESOLVED = "resolved"


@attrs.frozen
class Patience:
    """For how long a condition holds before its alert is raised, and is over before that is resolved; seconds."""

    raise_s: float
    resolve_s: float


@attrs.frozen
class Finding:
    """A condition at one moment; ``subject`` is the device it is about, None when it is this one."""

    name: Name
    level: Level
    detail: str
    subject: NodeId | None = None


@attrs.frozen(kw_only=True)
class Alert:
    """An alert. Times are mesh-local seconds; ``until`` is None while it is active.

    ``severity`` is the highest that it ever had, and ``detail`` is of that moment.
    """

    number: int
    name: Name
    subject: NodeId | None
    severity: Level
    since: float
    until: float | None
    detail: str


_Key: TypeAlias = tuple[Name, NodeId | None]

_NEXT: Mapping[tuple[State, bool | None], State] = {
    # bad: True, fine: False, between: None
    (State.QUIET, True): State.PENDING,
    (State.QUIET, False): State.QUIET,
    (State.QUIET, None): State.QUIET,
    (State.PENDING, True): State.PENDING,
    (State.PENDING, False): State.QUIET,
    (State.PENDING, None): State.PENDING,
    (State.ACTIVE, True): State.ACTIVE,
    (State.ACTIVE, False): State.CLEARING,
    (State.ACTIVE, None): State.ACTIVE,
    (State.CLEARING, True): State.ACTIVE,
    (State.CLEARING, False): State.CLEARING,
    (State.CLEARING, None): State.ACTIVE,
}


@attrs.define(eq=False)
class _Condition:
    state: State = State.QUIET
    since: float = 0.0
    number: int = 0
    """Of its alert, while ACTIVE or CLEARING."""


class Alerts:
    """All conditions, the alerts that are active, and the last ones that were."""

    def __init__(self, patience: Mapping[Name, Patience]) -> None:
        self._patience = patience
        self._conditions: dict[_Key, _Condition] = {}
        self._alerts: dict[int, Alert] = {}
        self._next = 1

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Go on with the alerts of an earlier life; those that were active still are."""
        for alert in sorted(alerts, key=lambda alert: alert.number):
            self._alerts[alert.number] = alert
            self._next = alert.number + 1
            if alert.until is None:
                self._conditions[alert.name, alert.subject] = _Condition(State.ACTIVE, alert.since, alert.number)

    def all(self) -> list[Alert]:
        """Active and past ones, in the order they were raised."""
        return list(self._alerts.values())

    def active(self) -> list[Alert]:
        """Those that are not resolved."""
        return [alert for alert in self._alerts.values() if alert.until is None]

    @property
    def is_waiting(self) -> bool:
        """Whether time alone will raise or resolve one."""
        return any(condition.state in (State.PENDING, State.CLEARING) for condition in self._conditions.values())

    def minds(self, name: Name, subject: NodeId | None) -> bool:
        """Whether it matters that this condition is fine."""
        return (name, subject) in self._conditions

    def judge(self, findings: Iterable[Finding], now: float) -> list[tuple[Change, Alert]]:
        """Take everything that is found now; returns what changes.

        A condition that is not among the findings is over: what it was about is gone.
        """
        changes: list[tuple[Change, Alert]] = []
        unseen = set(self._conditions)
        for finding in findings:
            key = (finding.name, finding.subject)
            unseen.discard(key)
            condition = self._conditions.get(key)
            if condition is None:
                if finding.level < Level.WARNING:
                    continue
                condition = self._conditions[key] = _Condition(since=now)
            changes += self._step(key, condition, finding, now)
        for key in unseen:
            condition = self._conditions.pop(key)
            if condition.state in (State.ACTIVE, State.CLEARING):
                changes.append(self._resolve(condition, now))
        return changes

    def _step(self, key: _Key, condition: _Condition, finding: Finding, now: float) -> list[tuple[Change, Alert]]:
        is_bad = None if finding.level is Level.BETWEEN else finding.level >= Level.WARNING
        before, condition.state = condition.state, _NEXT[condition.state, is_bad]
        if condition.state is not before:
            condition.since = now
        held_s = now - condition.since
        patience = self._patience[finding.name]
        match condition.state:
            case State.QUIET:
                del self._conditions[key]
            case State.PENDING if is_bad and held_s >= patience.raise_s:
                return [self._raise(condition, finding, now)]
            case State.ACTIVE if finding.level > self._alerts[condition.number].severity:
                return [self._worsen(condition, finding)]
            case State.CLEARING if held_s >= patience.resolve_s:
                del self._conditions[key]
                return [self._resolve(condition, now)]
        return []

    def _raise(self, condition: _Condition, finding: Finding, now: float) -> tuple[Change, Alert]:
        condition.state, condition.number = State.ACTIVE, self._next
        self._next += 1
        alert = Alert(
            number=condition.number,
            name=finding.name,
            subject=finding.subject,
            severity=finding.level,
            since=now,
            until=None,
            detail=finding.detail,
        )
        self._alerts[alert.number] = alert
        return Change.RAISED, alert

    def _worsen(self, condition: _Condition, finding: Finding) -> tuple[Change, Alert]:
        alert = attrs.evolve(self._alerts[condition.number], severity=finding.level, detail=finding.detail)
        self._alerts[alert.number] = alert
        return Change.WORSENED, alert

    def _resolve(self, condition: _Condition, now: float) -> tuple[Change, Alert]:
        alert = self._alerts[condition.number] = attrs.evolve(self._alerts[condition.number], until=now)
        return Change.RESOLVED, alert

    def forget_oldest(self) -> list[Alert]:
        """Drop what is too much, and return it."""
        past = [alert for alert in self._alerts.values() if alert.until is not None]
        surplus = past[: max(0, len(past) - KEPT_ALERTS)]
        for alert in surplus:
            del self._alerts[alert.number]
        return surplus


def encode_alert(alert: Alert) -> bytes:
    """An alert as it is kept on disk; its number is the key."""
    until_ms = None if alert.until is None else int(alert.until * 1000)
    return codec.encode(
        [alert.name.value, alert.subject, int(alert.severity), int(alert.since * 1000), until_ms, alert.detail]
    )


def decode_alert(number: int, data: bytes) -> Alert | None:
    """Inverse of :func:`encode_alert`. None for one that another version of meshd has written."""
    name, subject, severity, since_ms, until_ms, detail = codec.decode(data)
    if name not in {known.value for known in Name}:
        return None
    return Alert(
        number=number,
        name=Name(name),
        subject=None if subject is None else NodeId(subject),
        severity=Level(severity),
        since=since_ms / 1000,
        until=None if until_ms is None else until_ms / 1000,
        detail=detail,
    )
