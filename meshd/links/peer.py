"""All that is known about reaching one peer, and the decision what to do next.

The node tells it what it learns (addresses, networks, links, acks); the peer's dialer asks it what to
do and tells it what came of that. It decides and never waits, but for :meth:`PeerControl.changed`.
"""

import enum
import math
import random
from collections.abc import Collection, Iterable, Sequence

import attrs
import trio

from meshd.ids import NodeId
from meshd.links.backoff import Backoff
from meshd.links.breaker import Breaker, BreakerStatistics, State
from meshd.links.budget import SURPLUS
from meshd.links.choice import SOURCES, Candidate, LocalNetwork, home_of, interleave, rank, transport_rank
from meshd.links.events import LinkDown, LinkUp
from meshd.transport.base import Address

RETRY_SECONDS = (0.25, 8.0)
"""Base and cap of the waits between dials; the breaker makes them longer."""

UPGRADE_SECONDS = (10.0, 600.0)
"""The same for dials of a better transport while a link is up."""

HEAD_START_SECONDS = 0.1
"""The higher id waits so long before it dials, so that both rarely dial at once."""

UNHURRIED_SECONDS = 5.0
"""Where many devices hear of one at the same moment, they dial it within so long, unless a route is found first."""

STABLE_SECONDS = 10.0
"""A link that lived this long was a success; the waits between dials start over after it."""

STEADY_SECONDS = 60.0
"""The same for the waits between upgrades, so that a better transport that keeps breaking is tried less and less."""

MAX_CANDIDATES = 32


class Decision(enum.Enum):
    """What the dialer is doing about a peer, in words for people."""

    SPARED = "spared"
    """Enough other links, over which the peer is reached."""
    NO_ADDRESS = "no-address"
    LINKED = "linked"
    UPGRADING = "upgrading"
    WAITING = "waiting"
    BREAKER_OPEN = "breaker-open"
    DIALING = "dialing"


class DialOutcome(enum.Enum):
    """What a dial (all its attempts together) says about the peer."""

    FAILED = "failed"
    VOID = "void"
    """Nothing: it was cut short, or failed for reasons of our own."""


@attrs.frozen(kw_only=True)
class Step:
    """What to do: dial ``candidates`` in this order, or without any wait until ``until`` or a change."""

    decision: Decision
    until: float = math.inf
    candidates: tuple[Candidate, ...] = ()


@attrs.frozen(kw_only=True)
class PeerStatistics:
    """A peer as the dialer sees it, for ``meshctl peers`` and ``meshctl why``.

    Args:
        at: when this was so, on the links' clock, like all times in it.
        until: when the next step is due; infinite when only a change brings one.
        candidates: worth dialing, best first.
        links: numbers of the live links.
        last_error: of the last failed attempt or broken link.
    """

    peer: NodeId
    at: float
    decision: Decision
    until: float
    breaker: BreakerStatistics
    candidates: tuple[Candidate, ...]
    links: tuple[int, ...]
    last_error: str | None


@attrs.frozen
class _Live:
    up: LinkUp
    since: float


class PeerControl:
    """See the module. ``now`` is always the links' clock, monotonic seconds.

    One per peer that we want a link to. Only the node and the peer's own dialer task call it.

    Args:
        transports: names of those in use; addresses of others are ignored.
    """

    def __init__(
        self, *, me: NodeId, peer: NodeId, transports: Collection[str], rng: random.Random, now: float
    ) -> None:
        self.peer = peer
        self._transports = frozenset(transports)
        self.generation = 0
        """Counts the wakes: a dial begun before one is out of date."""
        self._rng = rng
        self._breaker = Breaker(rng)
        self._retry = Backoff(*RETRY_SECONDS, rng)
        self._upgrade = Backoff(*UPGRADE_SECONDS, rng)
        self._head_start = HEAD_START_SECONDS if me > peer else 0.0
        self._retry_at = self._upgrade_at = now
        self._candidates: dict[Address, Candidate] = {}
        self._networks: Sequence[LocalNetwork] = ()
        self._links: dict[int, _Live] = {}
        self._last_error: str | None = None
        self._is_spared = self._is_unhurried = False
        self._step = Step(decision=Decision.NO_ADDRESS)
        self._changed = trio.Event()

    # what the node tells

    def candidates_seen(self, addresses: Iterable[Address], source: str, now: float) -> None:
        """Addresses were heard of, from one of ``choice.SOURCES``. News earns one early probe.

        A device announces all that it has on a network: other addresses there that were not written down by a
        person are its old ones. They come last, and are forgotten when they fail: not at once, as a stranger who
        has heard an announcement can repeat it with addresses of his own.
        """
        before = dict(self._candidates)
        addresses = tuple(addresses)
        if source == "mdns":
            self._doubt_contradicted(addresses)
        for address in addresses:
            if address.transport not in self._transports:
                continue
            known = before.get(address) or Candidate(address=address, source=source)
            trusted = min(known.source, source, key=SOURCES.index)
            is_outdated = known.is_outdated and source not in ("mdns", "static")  # a card may be old itself
            self._candidates[address] = attrs.evolve(known, source=trusted, is_outdated=is_outdated)
        self._bound_candidates(now)
        # What speaks on the network now is news even at a known address: the peer may just have started.
        if source == "mdns" or self._candidates.keys() - before.keys():
            self._hurry(now)

    def networks_changed(self, networks: Sequence[LocalNetwork], now: float) -> None:
        """Our own interfaces are these now. Wakes."""
        self._networks = tuple(networks)
        self.wake(now)

    def wake(self, now: float) -> None:
        """Sleep ended or the network changed: doubt live links, forget old waits, dial anew."""
        self.generation += 1
        for live in self._links.values():
            if live.up.outgoing is not None:
                live.up.outgoing.probe()
        self._candidates = {
            address: attrs.evolve(candidate, last_error=None) for address, candidate in self._candidates.items()
        }
        self._upgrade.reset()
        self._upgrade_at = now
        self._hurry(now)

    def want(self, wanted: bool, now: float, *, unhurried: bool = False) -> None:
        """Whether to dial while there is no link. A live link is not touched, nor is the dial that runs.

        ``unhurried``: not at once at every news, but some time within ``UNHURRIED_SECONDS``.
        """
        self._is_unhurried = unhurried
        if wanted and self._is_spared:
            self._hurry(now)
        self._is_spared = not wanted
        self._changed.set()

    def link_up(self, up: LinkUp, now: float) -> None:
        """A link to the peer is up. Those that we dialed are known already and ignored."""
        if not up.dialed:
            self._add_link(up, now)

    def link_down(self, down: LinkDown, now: float) -> None:
        """A link is gone. Does nothing when it is known already."""
        live = self._links.pop(down.link, None)
        if live is None:
            return
        self._judge_end(down, now)
        if down.code == SURPLUS:
            self._is_spared = True
        if now - live.since >= STABLE_SECONDS:
            self._retry.reset()
        if now - live.since >= STEADY_SECONDS:
            self._upgrade.reset()
        self._retry_at = now + self._retry.next_wait() + self._head_start
        self._changed.set()

    def answered(self, now: float) -> None:
        """A link to the peer answered a ping."""
        self._breaker.answered(now)

    def data_acked(self, now: float) -> None:
        """The peer acknowledged data."""
        self._breaker.data_acked(now)

    def data_timeout(self, now: float) -> None:
        """Data was not acknowledged in time. When that opens the breaker, the links lose data: they are closed."""
        self._breaker.data_timeout(now)
        if self._breaker.state is State.OPEN:
            for live in self._links.values():
                if live.up.outgoing is not None:
                    live.up.outgoing.close("P_TIMEOUT", "pings are answered, but data is not acknowledged")

    def reset(self, now: float) -> None:
        """A person closes the breaker."""
        self._breaker.reset()
        self._retry.reset()
        self._retry_at = now
        self._changed.set()

    @property
    def closings(self) -> int:
        """How often the breaker closed after it had been open."""
        return self._breaker.closings

    def statistics(self, now: float) -> PeerStatistics:
        """What to show to people."""
        return PeerStatistics(
            peer=self.peer,
            at=now,
            decision=self._step.decision,
            until=self._step.until,
            breaker=self._breaker.statistics(),
            candidates=tuple(rank(self._candidates.values(), self._networks, now)),
            links=tuple(self._links),
            last_error=self._last_error,
        )

    # what the dialer asks and tells

    async def changed(self) -> None:
        """Wait until something was told that may change the next step."""
        await self._changed.wait()
        self._changed = trio.Event()

    def next_step(self, now: float) -> Step:
        """Decide. A step with candidates must end in ``dial_won`` or ``dial_ended``."""
        self._step = self._decide(now)
        return self._step

    def untried(self, tried: Iterable[Address], now: float) -> Candidate | None:
        """The best candidate for the running dial that is not among ``tried``; news during the dial count."""
        return next((c for c in self._worth_dialing(now) if c.address not in tried), None)

    def attempt_failed(self, address: Address, reason: str, now: float) -> None:
        """One attempt of a dial failed."""
        self._last_error = f"{address}: {reason}"
        if (candidate := self._candidates.get(address)) is not None:
            self._candidates[address] = attrs.evolve(candidate, last_error=reason, last_tried=now)
            if candidate.is_outdated:
                del self._candidates[address]
        self._changed.set()

    def dial_won(self, address: Address, up: LinkUp, now: float) -> None:
        """A dial ended in this link."""
        if self._step.decision is Decision.DIALING:
            self._breaker.dial_succeeded(now)
        if (candidate := self._candidates.get(address)) is not None:
            self._candidates[address] = attrs.evolve(
                candidate, last_error=None, last_tried=now, last_success=now, is_outdated=False
            )
        self._add_link(up, now)

    def dial_ended(self, outcome: DialOutcome, now: float) -> None:
        """A dial ended without a link."""
        if self._step.decision is Decision.UPGRADING:  # says nothing about a peer that we have a link to
            self._upgrade_at = now + self._upgrade.next_wait()
            return
        if outcome is DialOutcome.FAILED:
            self._breaker.dial_failed(now)
        else:
            self._breaker.dial_void()
        self._retry_at = now + self._retry.next_wait()

    def _decide(self, now: float) -> Step:
        worth = self._worth_dialing(now)
        if self._links:
            if not worth:
                return Step(decision=Decision.LINKED)
            if now < self._upgrade_at:
                return Step(decision=Decision.LINKED, until=self._upgrade_at)
            return Step(decision=Decision.UPGRADING, until=now, candidates=tuple(worth))
        if self._is_spared:
            return Step(decision=Decision.SPARED)
        if not worth:
            return Step(decision=Decision.NO_ADDRESS)
        if now < self._retry_at:
            return Step(decision=Decision.WAITING, until=self._retry_at)
        if not self._breaker.allow(now):
            until = self._breaker.next_attempt_at
            return Step(decision=Decision.BREAKER_OPEN, until=math.inf if until is None else until)
        return Step(decision=Decision.DIALING, until=now, candidates=tuple(worth))

    def _worth_dialing(self, now: float) -> list[Candidate]:
        """In the order to dial: all candidates, or with a link up those of a better transport only."""
        best = min((transport_rank(live.up.transport) for live in self._links.values()), default=math.inf)
        ranked = rank(self._candidates.values(), self._networks, now)
        return interleave([c for c in ranked if transport_rank(c.address.transport) < best])

    def _add_link(self, up: LinkUp, now: float) -> None:
        if not self._links:
            self._upgrade_at = now + self._upgrade.next_wait()
        self._links[up.link] = _Live(up, now)
        self._changed.set()

    def _judge_end(self, down: LinkDown, now: float) -> None:
        """Let the breaker know how a link ended, unless another one shows that the peer is there."""
        if down.code == "lost" or down.code.startswith("P_"):
            self._last_error = f"link: {down.reason}"
            if not self._links and down.code == "P_TIMEOUT":
                self._breaker.down(now)
            elif not self._links:
                self._breaker.lost(now)

    def _doubt_contradicted(self, announced: Collection[Address]) -> None:
        places = {(address.transport, home_of(address, self._networks)) for address in announced}
        for address, candidate in list(self._candidates.items()):
            home = home_of(address, self._networks)
            is_other = address not in announced and candidate.source != "static"
            if home is not None and is_other and (address.transport, home) in places:
                self._candidates[address] = attrs.evolve(candidate, is_outdated=True)

    def _hurry(self, now: float) -> None:
        """Dial soon, unless that is about to happen anyway."""
        self._breaker.address_changed(now)
        soon = now + self._head_start
        if self._is_unhurried:
            soon += self._rng.uniform(0, UNHURRIED_SECONDS)
        if not now < self._retry_at < soon:
            self._retry_at = soon
        self._changed.set()

    def _bound_candidates(self, now: float) -> None:
        surplus = len(self._candidates) - MAX_CANDIDATES
        if surplus > 0:
            ranked = rank(self._candidates.values(), self._networks, now)
            hopeless = [c for c in self._candidates.values() if c not in ranked]
            # What a person wrote down stays: anybody on the network can announce as many others as he likes.
            given_up = [c for c in (*hopeless, *reversed(ranked)) if c.source != "static"]
            for candidate in given_up[:surplus]:
                del self._candidates[candidate.address]
