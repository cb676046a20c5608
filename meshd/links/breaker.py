"""The circuit breaker of one peer: when dialing it is worth the effort. Pure.

It opens when 12 of the last 20 attempts failed, after 5 failed dials in a row, or when the failure
detector declares a link down. While open, nothing is dialed; then single probes are let through, and
three successes close it. Missing data acks count as failures, so that a link which answers pings but
loses data opens it too. What is not the peer's doing (our own network is down, the peer is busy)
must not be reported as a failure, but as :meth:`Breaker.dial_void`.
"""

import enum
import random
from collections import Counter, deque
from collections.abc import Mapping

import attrs

from meshd.links.backoff import Backoff

WINDOW_ATTEMPTS = 20
WINDOW_FAILURES = 12
"""60 % of the window."""
DIAL_FAILURES = 5
SUCCESSES_TO_CLOSE = 3
FIRST_OPEN_SECONDS = 1.0
LONGEST_OPEN_SECONDS = 300.0


class State(enum.Enum):
    """Closed: dial freely. Open: don't. Half-open: one probe at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class _Verdict(enum.Enum):
    TRIP = enum.auto()
    PROBE = enum.auto()
    CLEAR = enum.auto()


_NEXT: dict[tuple[State, _Verdict], State] = {
    (State.CLOSED, _Verdict.TRIP): State.OPEN,
    (State.CLOSED, _Verdict.PROBE): State.CLOSED,
    (State.CLOSED, _Verdict.CLEAR): State.CLOSED,
    (State.OPEN, _Verdict.TRIP): State.OPEN,
    (State.OPEN, _Verdict.PROBE): State.HALF_OPEN,
    (State.OPEN, _Verdict.CLEAR): State.CLOSED,
    (State.HALF_OPEN, _Verdict.TRIP): State.OPEN,
    (State.HALF_OPEN, _Verdict.PROBE): State.HALF_OPEN,
    (State.HALF_OPEN, _Verdict.CLEAR): State.CLOSED,
}


@attrs.frozen(kw_only=True)
class BreakerStatistics:
    """A breaker at one moment.

    Args:
        next_attempt_at: when the next probe may start, on the caller's clock; None unless open.
        recent_attempts: how many of the last 20 there were; recent_failures: how many failed.
        dial_failures: failed dials in a row.
        openings: since the start of the process. transitions: how often it came into each state.
    """

    state: State
    next_attempt_at: float | None
    recent_attempts: int
    recent_failures: int
    dial_failures: int
    openings: int
    transitions: Mapping[State, int] = attrs.field(factory=dict)


class Breaker:
    """See the module. ``now`` is monotonic seconds, the same clock in every call."""

    def __init__(self, rng: random.Random) -> None:
        self._state = State.CLOSED
        self._recent: deque[bool] = deque(maxlen=WINDOW_ATTEMPTS)
        self._dial_failures = 0
        self._successes = 0
        self._probing = False
        self._early_probe_used = False
        self._open_until = 0.0
        self._openings = 0
        self._transitions: Counter[State] = Counter()
        self._backoff = Backoff(FIRST_OPEN_SECONDS, LONGEST_OPEN_SECONDS, rng)

    @property
    def state(self) -> State:
        """The state as of the last call."""
        return self._state

    @property
    def next_attempt_at(self) -> float | None:
        """When the next probe may start; None unless open."""
        return self._open_until if self._state is State.OPEN else None

    @property
    def closings(self) -> int:
        """How often it closed after it had been open."""
        return self._transitions[State.CLOSED]

    def statistics(self) -> BreakerStatistics:
        """What to show to people."""
        return BreakerStatistics(
            state=self._state,
            next_attempt_at=self.next_attempt_at,
            recent_attempts=len(self._recent),
            recent_failures=self._recent.count(False),
            dial_failures=self._dial_failures,
            openings=self._openings,
            transitions=dict(self._transitions),
        )

    def allow(self, now: float) -> bool:
        """Whether a dial may start at ``now``. True takes the one probe, unless closed.

        Whoever got True must report exactly one of ``dial_succeeded``, ``dial_failed``, ``dial_void``.
        """
        if self._state is State.CLOSED:
            return True
        if self._probing or (self._state is State.OPEN and now < self._open_until):
            return False
        self._judge(_Verdict.PROBE, now)
        self._probing = True
        return True

    def dial_succeeded(self, now: float) -> None:
        """A dial ended in ``welcome``."""
        self._probing = False
        self._dial_failures = 0
        self._succeed(now)

    def dial_failed(self, now: float) -> None:
        """A dial failed, and the peer or the path is to blame."""
        self._probing = False
        self._dial_failures += 1
        self._fail(now)

    def dial_void(self) -> None:
        """A dial ended without saying anything about the peer: cancelled, busy, or our own trouble."""
        self._probing = False

    def data_acked(self, now: float) -> None:
        """The peer acknowledged data."""
        self._succeed(now)

    def data_timeout(self, now: float) -> None:
        """The peer did not acknowledge data in time."""
        self._fail(now)

    def answered(self, now: float) -> None:
        """A link answered a ping. Helps to close, but never outweighs missing data acks."""
        if self._state is not State.CLOSED:
            self._succeed(now)

    def lost(self, now: float) -> None:
        """A link broke off, or the peer broke the protocol on it."""
        self._fail(now)

    def down(self, now: float) -> None:
        """The failure detector declared a link down: opens at once."""
        self._recent.append(False)
        self._judge(_Verdict.TRIP, now)

    def address_changed(self, now: float) -> None:
        """The peer has a new address, or we a new network: earns one early probe per opening."""
        if self._state is State.OPEN and not self._early_probe_used:
            self._early_probe_used = True
            self._open_until = now

    def reset(self) -> None:
        """A person closes it by hand."""
        self._probing = False
        self._judge(_Verdict.CLEAR, 0.0)

    def _succeed(self, now: float) -> None:
        self._recent.append(True)
        if self._state is State.CLOSED:
            return
        self._judge(_Verdict.PROBE, now)  # also from open: the peer reached us
        self._successes += 1
        if self._successes >= SUCCESSES_TO_CLOSE:
            self._judge(_Verdict.CLEAR, now)

    def _fail(self, now: float) -> None:
        self._recent.append(False)
        if (
            self._state is State.HALF_OPEN
            or self._dial_failures >= DIAL_FAILURES
            or self._recent.count(False) >= WINDOW_FAILURES
        ):
            self._judge(_Verdict.TRIP, now)

    def _judge(self, verdict: _Verdict, now: float) -> None:
        before, self._state = self._state, _NEXT[self._state, verdict]
        if self._state is not before:
            self._transitions[self._state] += 1
        if self._state is State.OPEN and before is not State.OPEN:
            self._successes = 0
            self._early_probe_used = False
            self._openings += 1
            self._open_until = now + self._backoff.next_wait()
        elif verdict is _Verdict.CLEAR:
            self._recent.clear()
            self._dial_failures = self._successes = 0
            self._backoff.reset()
