"""The source table: for each destination, how near this device has said it is (RFC 8966 section 3.2.5)."""

import attrs

from meshd.errors import RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.routing.budget import Budget
from meshd.routing.seqno import Announcement, Seqno, Verdict, Verify

HOLD_SECONDS = 1800.0
"""How long a destination without routes is held (section 3.5.4), and its feasibility distance with it.
Longer than a route lives unheard (``route.EXPIRY_SECONDS``, and the wait for the round that drops it):
then nobody still holds a route that rests on that distance, even where a retraction was lost."""

TRIGGERED_BURST = 20
TRIGGERED_PER_SECOND = 4.0
"""Triggered updates about one destination: a flapping device costs its mesh no more than this."""


@attrs.frozen
class Distance:
    """A seqno and a metric, as in an update (RFC 8966 section 2.4)."""

    seqno: Seqno
    metric: int

    def is_closer_than(self, other: "Distance") -> bool:
        """The order of section 3.5.1: the newer seqno first, then the smaller metric."""
        if self.seqno is other.seqno or self.seqno == other.seqno:  # mostly the same object
            return self.metric < other.metric
        return self.seqno.is_newer_than(other.seqno)


@attrs.define(eq=False)
class Source:
    """One entry.

    Args:
        newest: the newest announcement ever verified.
        feasibility: the closest distance ever offered to a neighbour; None before the first.
        unreachable_since: since when there are no routes at all; None while there are.
    """

    newest: Announcement
    feasibility: Distance | None = None
    unreachable_since: float | None = None
    pace: Budget = attrs.field(factory=lambda: Budget(TRIGGERED_BURST, TRIGGERED_PER_SECOND))

    @property
    def epoch(self) -> Epoch:
        """The destination's present epoch, as far as is known here. Routes of older ones are dead."""
        return self.newest.seqno.epoch

    def is_feasible(self, distance: Distance) -> bool:
        """The feasibility condition (section 3.5.1): strictly closer than all that was ever offered from here."""
        return self.feasibility is None or distance.is_closer_than(self.feasibility)

    def offered(self, distance: Distance) -> None:
        """Maintain the feasibility distance (section 3.7.3). To be called for each update that leaves."""
        if self.is_feasible(distance):
            self.feasibility = distance

    @property
    def wanted(self) -> Seqno:
        """The seqno to ask for when only unfeasible routes are left (section 3.8.2.1)."""
        if self.feasibility is None or self.newest.seqno.is_newer_than(self.feasibility.seqno):
            return self.newest.seqno
        return self.feasibility.seqno.next


class SourceTable:
    """All entries. Holds members only: nothing is kept about a device whose word can't be verified."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._sources: dict[NodeId, Source] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, destination: NodeId) -> bool:
        return destination in self._sources

    def get(self, destination: NodeId) -> Source | None:
        """The entry, if there is one."""
        return self._sources.get(destination)

    def items(self) -> list[tuple[NodeId, Source]]:
        """All entries."""
        return list(self._sources.items())

    def forget(self, destination: NodeId) -> None:
        """Drop an entry, if there is one."""
        self._sources.pop(destination, None)

    def known(self, heard: Announcement, held: Announcement | None) -> Announcement | None:
        """The verified announcement of the same seqno: the newest, or ``held``; None when it is neither.

        What a neighbour says the signature is doesn't matter then: each is verified only once, and only
        verified ones are ever passed on.
        """
        source = self._sources.get(heard.destination)
        if source is not None and source.newest.seqno == heard.seqno:
            return source.newest
        return held if held is not None and held.seqno == heard.seqno else None

    def learn(self, heard: Announcement) -> Announcement | None:
        """Take a destination's word, as a neighbour passed it on. Returns it; None when the device is unknown here.

        Raises:
            RemoteProtocolError: ``P_ROUTE``. The neighbour's fault, since it has to verify as well.
        """
        match self._verify(heard):
            case Verdict.UNKNOWN:
                return None
            case Verdict.FORGED:
                raise RemoteProtocolError("P_ROUTE", "a route that its destination did not sign")
        source = self._sources.get(heard.destination)
        if source is None:
            self._sources[heard.destination] = Source(heard)
        elif heard.seqno.is_newer_than(source.newest.seqno):
            source.newest = heard
        return heard
