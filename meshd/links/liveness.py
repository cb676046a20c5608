"""Failure detection on one link: who pings when, and how long silence may last. Pure.

Any authenticated frame counts as life. The side with the lower id pings about once a second; the other
side only now and then, to know its own round-trip time. A peer that is silent for three times its
usual gap is suspect and gets four quick probes; if none is answered, the link is down. Once mail was
sent a sign of life is due sooner: without one the peer is asked, and then doubted, so that mail can be
given to another way as well; what ends the link is the longer silence alone. Time in
which we did not listen ourselves (a late loop, a full inbox) does not count as the peer's silence.
"""

import enum
import math
import random
from typing import TypeAlias

import attrs

from meshd.links.quality import RoundTrip

PING_SECONDS = 1.0
SAVING_PING_SECONDS = 5.0
"""On battery, over a metered connection, and on a link that has carried no mail for QUIET_AFTER_SECONDS. A dead path
is noticed later by as much."""
QUIET_AFTER_SECONDS = 60.0
MEASURE_SECONDS = 15.0
"""How often the side with the higher id pings."""
PING_JITTER = 0.1
PROBES = 4
PROBE_SECONDS = 0.2
"""Between probes. Short, so that 99 % of dead paths are known within 6 s even where a tenth of all packets is lost."""
PATIENCE_GAPS = 3
PATIENCE_SECONDS = (3.0, 10.0)
LAST_WAIT_SECONDS = (0.5, 5.0)
"""Bounds of the wait for an answer after the last probe; in between, the link's own round-trip timeout."""
ANSWER_SECONDS = (0.5, 1.5)
"""Bounds of the wait for a sign of life after mail. In between, what it usually takes on this link, and time for the
answer to a ping that is sent halfway."""
IDLE_GAP_SECONDS = 0.25
"""Shorter gaps are traffic, and say nothing about how often an idle peer speaks."""
LAG_SECONDS = 0.1
"""Being called later than this after a deadline means that we were not running."""
MAX_OUTSTANDING = 8
PACE_RATIO = 1.1
"""From one ping to the next, the interval grows by no more: the peer's patience, 3 mean gaps, keeps up with that."""


class Phase(enum.Enum):
    """What we think of the peer's end of the link."""

    ALIVE = "alive"
    DOUBTED = "doubted"
    """It did not answer for mail, nor a ping after it."""
    SUSPECT = "suspect"
    DOWN = "down"


@attrs.frozen
class SendPing:
    """Send a Ping with this token."""

    token: int


@attrs.frozen
class PhaseChanged:
    """The verdict is new."""

    phase: Phase


Action: TypeAlias = SendPing | PhaseChanged


class Liveness:
    """The failure detector of one link.

    Args:
        lower: whether our id is the lower one, so that we keep the link alive.
        first_ping: ping at once; else after one interval.
        now: monotonic seconds, as in every call.
        interval: seconds between pings of the lower side; more on battery.
    """

    def __init__(
        self, *, lower: bool, first_ping: bool, now: float, rng: random.Random, interval: float = PING_SECONDS
    ) -> None:
        self.phase = Phase.ALIVE
        self.round_trip = RoundTrip()
        self._rng = rng
        self._lower = lower
        self._interval = self._pace = interval if lower else max(interval, MEASURE_SECONDS)
        self._mean_gap = interval
        self._heard_at = now
        self._deaf = False
        self._ping_at = now if first_ping else now + interval
        self._suspect_at = now + self.patience
        self._probes = 0
        self._probe_at = math.inf
        self._response = RoundTrip()
        self._expected_since = math.inf
        self._is_asked = False
        self._look_at = math.inf
        self._outstanding: dict[int, float] = {}
        self._answered = 0
        self._lost = 0
        self._due = self.next_deadline

    @property
    def patience(self) -> float:
        """Seconds of silence before suspicion: clamp(3 x mean gap, 3, 10)."""
        shortest, longest = PATIENCE_SECONDS
        return min(max(PATIENCE_GAPS * self._mean_gap, shortest), longest)

    @property
    def next_deadline(self) -> float:
        """When to call :meth:`poll` at the latest."""
        if self.phase is Phase.DOWN:
            return math.inf
        if self.phase is Phase.SUSPECT:
            return self._probe_at
        return min(self._ping_at, self._suspect_at, self._look_at)

    @property
    def has_losses(self) -> bool:
        """Whether pings were lost since the last :meth:`take_outcomes`."""
        return self._lost > 0

    def pace(self, interval: float) -> None:
        """From the next ping on, aim at this interval of the lower side: more on battery."""
        self._pace = interval if self._lower else max(interval, MEASURE_SECONDS)

    def expect(self, now: float) -> bool:
        """Mail was sent: a sign of life is due. Returns whether :meth:`poll` is to be called earlier than was told."""
        if self._expected_since < math.inf:
            return False
        self._expected_since = now
        ask_at = now + self._ask_after
        if self.phase is not Phase.ALIVE or self._look_at <= ask_at:
            return False
        self._look_at = ask_at
        return True

    def receive(self, now: float) -> tuple[Action, ...]:
        """Something authentic came from the peer."""
        if self._expected_since < math.inf:
            self._response.add(max(0.0, now - self._expected_since))
            self._expected_since, self._is_asked = math.inf, False
        gap = now - self._heard_at
        if gap >= IDLE_GAP_SECONDS and not self._deaf:
            self._mean_gap += (gap - self._mean_gap) / 8
        self._heard_at = now
        self._deaf = False
        self._suspect_at = now + self.patience
        if self.phase is Phase.ALIVE:
            return ()
        self.phase = Phase.ALIVE
        return (PhaseChanged(Phase.ALIVE),)

    def deafen(self) -> None:
        """We stop listening until the next :meth:`receive`: silence is ours meanwhile."""
        self._deaf = True

    def challenge(self, now: float) -> None:
        """Doubt the link now (after sleep, or a change of network). Poll right after."""
        if self.phase in (Phase.ALIVE, Phase.DOUBTED):
            self._suspect_at = now
            self._due = now

    def pong(self, token: int, now: float) -> float | None:
        """A Pong came. Returns the round trip in seconds, None when its Ping is not known any more."""
        sent_at = self._outstanding.pop(token, None)
        if sent_at is None:
            return None
        rtt = now - sent_at
        if rtt <= self._overdue_after:
            self._answered += 1
        else:
            self._lost += 1  # late is lost, for whoever counts transmissions
        self.round_trip.add(rtt)
        return rtt

    def take_outcomes(self) -> tuple[int, int]:
        """Pings answered in time and pings not, since the last call."""
        outcomes = self._answered, self._lost
        self._answered = self._lost = 0
        return outcomes

    def poll(self, now: float) -> tuple[Action, ...]:
        """Do what is due at ``now``."""
        if self.phase is Phase.DOWN:
            return ()
        lag = now - self._due
        if lag > LAG_SECONDS:
            self._stretch(lag, now)
        if self._deaf:
            self._suspect_at = now + self.patience
            self._probe_at = now + PROBE_SECONDS
            self._expected_since, self._is_asked = math.inf, False
        actions: list[Action] = []
        if now >= self._look_at:
            actions += self._look(now)
        if self.phase in (Phase.ALIVE, Phase.DOUBTED) and now >= self._suspect_at:
            self.phase = Phase.SUSPECT
            self._probes, self._probe_at = 0, now
            actions.append(PhaseChanged(Phase.SUSPECT))
        if self.phase is Phase.SUSPECT and now >= self._probe_at:
            actions.append(self._probe(now))
        if now >= self._ping_at and self.phase is not Phase.DOWN:
            if self.phase is not Phase.SUSPECT:
                actions.append(self._ping(now))
            self._interval = min(self._pace, self._interval * PACE_RATIO)
            self._ping_at = now + self._interval * self._rng.uniform(1 - PING_JITTER, 1 + PING_JITTER)
        self._due = self.next_deadline
        return tuple(actions)

    @property
    def _answered_within(self) -> float:
        """What mail usually takes to be answered for, or else a round trip's timeout."""
        usual = self.round_trip if self._response.smoothed is None else self._response
        return usual.timeout

    @property
    def _ask_after(self) -> float:
        shortest, longest = ANSWER_SECONDS
        return min(max(self._answered_within, shortest) / 2, longest / 2)

    def _look(self, now: float) -> list[Action]:
        """Whether mail has been answered for, or anything else was heard since."""
        if self.phase is not Phase.ALIVE or self._expected_since == math.inf:
            self._look_at = math.inf  # until mail is sent again
            return []
        if self._is_asked:
            self.phase, self._look_at = Phase.DOUBTED, math.inf
            return [PhaseChanged(Phase.DOUBTED)]
        self._look_at = self._expected_since + self._ask_after
        if now < self._look_at:
            return []
        self._is_asked = True
        shortest, longest = ANSWER_SECONDS
        answered_at = now + max(shortest / 2, self.round_trip.timeout)
        doubt_at = max(self._expected_since + max(shortest, self._answered_within), answered_at)
        self._look_at = min(doubt_at, self._expected_since + longest)
        return [self._ping(now)]

    @property
    def _overdue_after(self) -> float:
        return max(PING_SECONDS, self.round_trip.timeout)

    def _stretch(self, lag: float, now: float) -> None:
        self._heard_at = min(now, self._heard_at + lag)
        self._suspect_at += lag
        self._probe_at += lag
        self._expected_since += lag
        self._look_at += lag

    def _probe(self, now: float) -> Action:
        if self._probes == PROBES:
            self.phase = Phase.DOWN
            return PhaseChanged(Phase.DOWN)
        self._probes += 1
        wait = PROBE_SECONDS
        if self._probes == PROBES:  # the last one gets the time that an answer really takes
            shortest, longest = LAST_WAIT_SECONDS
            wait = min(max(self.round_trip.timeout, shortest), longest)
        self._probe_at = now + wait
        return self._ping(now)

    def _ping(self, now: float) -> SendPing:
        if len(self._outstanding) == MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
            self._lost += 1
        token = self._rng.getrandbits(62)
        self._outstanding[token] = now
        return SendPing(token)
