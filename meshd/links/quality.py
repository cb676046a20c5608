"""How good the way to a peer is: round trips, loss, stability, throughput; a score, a grade, a metric. Pure."""

import enum
from collections import deque

import attrs

LOSS_GAIN = 1 / 32
"""Weight of one probe in the smoothed loss."""
THROUGHPUT_GAIN = 1 / 4
FLAP_MEMORY_SECONDS = 3600.0
MAX_FLAPS = 64
"""More in one hour are not told apart."""

UNKNOWN_RTT_MS = 100.0
"""Assumed for the metric until the first sample: worse than a good LAN, better than a relay."""
RELAY_PENALTY = 500
METERED_PENALTY = 500
METRIC_MAX = 0xFFFE
"""The largest finite metric (RFC 8966 section 3.5.2: all ones is infinity)."""

RTO_MIN_SECONDS = 0.2
RTO_MAX_SECONDS = 10.0
RTO_UNKNOWN_SECONDS = 1.0
"""RFC 6298 section 2.1."""


class Grade(enum.Enum):
    """Quality as one word."""

    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"


_GRADES = ((Grade.EXCELLENT, 0.050, 0.99), (Grade.GOOD, 0.150, 0.95), (Grade.FAIR, 0.500, 0.90))
"""(grade, longest smoothed round trip in seconds, least delivered share); anything else is poor."""


@attrs.define(eq=False)
class RoundTrip:
    """Smoothed round-trip time and its variation, seconds (RFC 6298 section 2)."""

    smoothed: float | None = None
    variation: float = 0.0

    def add(self, sample: float) -> None:
        """Take one sample, seconds."""
        if self.smoothed is None:
            self.smoothed, self.variation = sample, sample / 2
            return
        self.variation += (abs(self.smoothed - sample) - self.variation) / 4
        self.smoothed += (sample - self.smoothed) / 8

    @property
    def timeout(self) -> float:
        """After this many seconds an answer is overdue."""
        if self.smoothed is None:
            return RTO_UNKNOWN_SECONDS
        return min(max(self.smoothed + 4 * self.variation, RTO_MIN_SECONDS), RTO_MAX_SECONDS)


@attrs.frozen(kw_only=True)
class QualitySnapshot:
    """The way to a peer at one moment.

    Args:
        rtt: smoothed round trip, seconds; None before the first sample. rtt_variation: as in RFC 6298.
        loss: share of probes not answered in time, 0..1.
        throughput: measured bytes per second while data was waiting; None when never measured.
        flaps: how often links broke in the last hour.
        score: 0..100.
    """

    rtt: float | None
    rtt_variation: float
    loss: float
    throughput: float | None
    flaps: int
    score: int
    grade: Grade

    @property
    def etx(self) -> float:
        """Expected transmissions until one gets through, at least 1."""
        return 1 / (1 - min(self.loss, 0.99))


class Quality:
    """Keeps the measurements of one peer, fed with what its links report."""

    def __init__(self) -> None:
        self._round_trip = RoundTrip()
        self._loss = 0.0
        self._throughput: float | None = None
        self._flaps: deque[float] = deque(maxlen=MAX_FLAPS)

    def measured(
        self, *, rtt: float | None = None, answered: int = 0, lost: int = 0, throughput: float | None = None
    ) -> None:
        """Take what a link measured: a round trip in seconds, probe outcomes, bytes per second."""
        if rtt is not None:
            self._round_trip.add(rtt)
        for outcome, count in ((0.0, answered), (1.0, lost)):
            keep = (1 - LOSS_GAIN) ** count
            self._loss = self._loss * keep + outcome * (1 - keep)
        if throughput is not None:
            before = throughput if self._throughput is None else self._throughput
            self._throughput = before + (throughput - before) * THROUGHPUT_GAIN

    def flapped(self, now: float) -> None:
        """A link broke that nobody closed."""
        self._flaps.append(now)

    def snapshot(self, now: float) -> QualitySnapshot:
        """The quality now."""
        while self._flaps and self._flaps[0] <= now - FLAP_MEMORY_SECONDS:
            self._flaps.popleft()
        rtt, flaps = self._round_trip.smoothed, len(self._flaps)
        return QualitySnapshot(
            rtt=rtt,
            rtt_variation=self._round_trip.variation,
            loss=self._loss,
            throughput=self._throughput,
            flaps=flaps,
            score=_score(rtt, self._loss, self._throughput, flaps),
            grade=_grade(rtt, self._loss),
        )


def metric(quality: QualitySnapshot, *, relay: bool = False, metered: bool = False) -> int:
    """The cost of the link for routing: ETX x (10 + srtt in ms), plus penalties; 1..METRIC_MAX."""
    rtt_ms = UNKNOWN_RTT_MS if quality.rtt is None else quality.rtt * 1000
    cost = quality.etx * (10 + rtt_ms) + relay * RELAY_PENALTY + metered * METERED_PENALTY
    return max(1, min(METRIC_MAX, round(cost)))


def _grade(rtt: float | None, loss: float) -> Grade:
    for grade, longest, delivered in _GRADES:
        if (rtt is None or rtt <= longest) and 1 - loss >= delivered:
            return grade
    return Grade.POOR


def _score(rtt: float | None, loss: float, throughput: float | None, flaps: int) -> int:
    # Each factor is 1 at its best: 500 ms, 29 % loss, 50 KB/s or ten flaps an hour halve the score.
    near = 1 / (1 + (rtt or 0.0) / 0.5)
    delivered = (1 - loss) ** 2
    fast = 1.0 if throughput is None else throughput / (throughput + 50_000)
    steady = 1 / (1 + flaps / 10)
    return round(100 * near * delivered * fast * steady)
