"""The router: RFC 8966's tables joined. Events and ``now`` in; effects and one next deadline out."""

import enum
import random
from collections import Counter

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.routing import metric, source
from meshd.routing.effects import Effect, EpochNeeded, RouteChanged, Send
from meshd.routing.neighbour import SIGNATURE_PRICE, Neighbour, NeighbourTable
from meshd.routing.origin import Origin
from meshd.routing.request import REQUEST_HOPS, PendingRequests
from meshd.routing.route import EXPIRY_SECONDS, RouteTable, Selection, best, worth_a_request
from meshd.routing.seqno import Announcement, Seqno, Sign, Verify
from meshd.routing.source import Source, SourceTable
from meshd.routing.spare import can_spare
from meshd.routing.timers import Timers
from meshd.routing.update import INTERVAL_SECONDS, JITTER_SECONDS, Updates
from meshd.routing.view import RouterStatistics, RouteView, route_views
from meshd.wire.routing import RouteEntry, RouteRequest, RouteUpdate, SeqnoRequest


class _Timer(enum.Enum):
    ROUND = enum.auto()
    PERIODIC = enum.auto()
    SWITCH = enum.auto()
    RETRY = enum.auto()


class Router:
    """One device's view of all routes.

    Every method that takes ``now`` (seconds, monotonic) returns the effects to carry out, in order, and
    may move ``next_deadline``, at which ``poll`` is to be called.

    Args:
        node: this device.
        seqno: its own to begin with: of an epoch that no other Router was ever made with, and usually 0.
        sign: signs this device's own seqnos; verify: judges those of others.
        split_horizon: see :class:`meshd.routing.update.Updates`.
    """

    def __init__(
        self, *, node: NodeId, seqno: Seqno, sign: Sign, verify: Verify, rng: random.Random, split_horizon: bool = True
    ) -> None:
        self.node = node
        self._rng = rng
        self._origin = Origin(node, seqno, sign, verify)
        self._neighbours: NeighbourTable = {}
        self._sources = SourceTable(verify)
        self._routes = RouteTable()
        self._selection = Selection()
        self._requests = PendingRequests()
        self._updates = Updates(self._origin, self._sources, self._routes, self._neighbours, split_horizon)
        self._timers: Timers[tuple[_Timer, NodeId]] = Timers()
        self._used: dict[NodeId, tuple[NodeId, int, Epoch]] = {}
        self._effects: list[Effect] = []
        self._counts: Counter[str] = Counter()

    # what the node asks

    @property
    def next_deadline(self) -> float | None:
        """When to call ``poll``; None: not before something else happens."""
        return self._timers.next

    @property
    def seqno(self) -> Seqno:
        """This device's own."""
        return self._origin.announcement.seqno

    def next_hop(self, destination: NodeId) -> NodeId | None:
        """The neighbour to hand mail for ``destination`` to; None when there is no route now."""
        used = self._used.get(destination)
        return None if used is None else used[0]

    def ways(self, destination: NodeId) -> list[NodeId]:
        """The neighbours that offer a route to ``destination``, feasible or not, in the order of the metric."""
        offers = sorted(self._routes.to(destination).values(), key=lambda route: (route.metric, route.neighbour.id))
        return [route.neighbour.id for route in offers]

    def can_spare(self, neighbour: NodeId) -> bool:
        """Whether the link to ``neighbour`` may be given up, and all that is reached over it stays in reach."""
        return can_spare(neighbour, self._routes, self._neighbours)

    def routes(self) -> tuple[RouteView, ...]:
        """The route table, for people."""
        return route_views(self._sources, self._routes)

    def statistics(self) -> RouterStatistics:
        """Sizes and counts."""
        return RouterStatistics(
            neighbours=len(self._neighbours),
            sources=len(self._sources),
            routes=len(self._routes),
            updates_sent=self._counts["updates_sent"],
            entries_sent=self._counts["entries_sent"],
            requests_sent=self._counts["requests_sent"],
            entries_ignored=self._counts["entries_ignored"],
            requests_ignored=self._counts["requests_ignored"],
        )

    # what the node tells

    def link_up(self, neighbour: NodeId, cost: int, now: float) -> tuple[Effect, ...]:
        """A link session to ``neighbour`` began. What an earlier session taught is void.

        Call it when the first link to a peer is up, and again when a link comes up with another epoch of the peer.
        """
        if neighbour == self.node:
            raise LocalProtocolError("a link to ourselves")
        self._drop_neighbour(neighbour, now)
        self._neighbours[neighbour] = Neighbour(neighbour, metric.quantised(cost))
        if (_Timer.PERIODIC, self.node) not in self._timers:
            self._plan_periodic(now)
        self._plan_round(now)
        # Its first update may have come before this call, and gone unheard (section 3.8.1.1).
        self._request(neighbour, RouteRequest(None))
        return self._take()

    def cost_changed(self, neighbour: NodeId, cost: int, now: float) -> tuple[Effect, ...]:
        """The link to ``neighbour`` was measured anew. Small changes do nothing."""
        entry = self._neighbours.get(neighbour)
        if entry is not None and (cost := metric.damped(entry.cost, cost)) != entry.cost:
            entry.cost = cost
            for destination in self._routes.through(neighbour):
                self._reselect(destination, now)
        return self._take()

    def link_down(self, neighbour: NodeId, now: float) -> tuple[Effect, ...]:
        """The link session ended, and with it every route that it taught."""
        self._drop_neighbour(neighbour, now)
        return self._take()

    def received(
        self, neighbour: NodeId, frame: RouteUpdate | SeqnoRequest | RouteRequest, now: float
    ) -> tuple[Effect, ...]:
        """A routing frame came from ``neighbour``. Nothing happens when there is no such neighbour (any more).

        Raises:
            RemoteProtocolError: ``P_ROUTE`` or ``P_FLOOD``, the neighbour's fault: end its link, and call
                ``link_down``, which also returns the effects of what came before the fault.
        """
        entry = self._neighbours.get(neighbour)
        if entry is not None:
            match frame:
                case RouteUpdate():
                    self._updated(entry, frame, now)
                case SeqnoRequest():
                    self._seqno_requested(entry, frame, now)
                case RouteRequest():
                    self._route_requested(entry, frame, now)
        return self._take()

    def learned(self, destination: NodeId, now: float) -> tuple[Effect, ...]:
        """The roster has a new device: ask for routes to it, since offers of them were ignored so far."""
        for neighbour in self._neighbours:
            self._request(neighbour, RouteRequest(destination))
        return self._take()

    def removed(self, destination: NodeId, now: float) -> tuple[Effect, ...]:
        """The roster has lost a device: forget all about it. Its own link is the node's to end."""
        for neighbour in tuple(self._routes.to(destination)):
            self._routes.remove(destination, neighbour)
        self._reselect(destination, now)
        self._forget(destination)
        return self._take()

    def renew(self, epoch: Epoch, now: float) -> tuple[Effect, ...]:
        """This device has a new epoch, committed to disk. Raises LocalProtocolError when it isn't a later one."""
        self._origin.renew(epoch)
        self._updates.changed(self.node)
        self._plan_round(now)
        return self._take()

    def poll(self, now: float) -> tuple[Effect, ...]:
        """Do what is due."""
        for timer, destination in self._timers.due(now):
            match timer:
                case _Timer.ROUND:
                    self._round(now)
                case _Timer.PERIODIC:
                    self._periodic(now)
                case _Timer.SWITCH | _Timer.RETRY:
                    self._reselect(destination, now)
        return self._take()

    # updates (section 3.5.3)

    def _updated(self, neighbour: Neighbour, update: RouteUpdate, now: float) -> None:
        self._charge(neighbour, max(1, len(update.routes)), now)
        for entry in update.routes:
            if entry.destination == self.node:
                self._need_epoch(self._origin.heard(Seqno(entry.epoch, entry.seqno), entry.signature))
            else:
                self._heard(neighbour, entry, now)

    def _heard(self, neighbour: Neighbour, entry: RouteEntry, now: float) -> None:
        destination, seqno = entry.destination, Seqno(entry.epoch, entry.seqno)
        is_retraction = entry.metric == metric.INFINITY
        if entry.metric == 0 and destination != neighbour.id:
            raise RemoteProtocolError("P_ROUTE", "a metric of 0 for another device")
        known = self._sources.get(destination)
        is_news = known is None or seqno.is_newer_than(known.newest.seqno)
        is_stale = known is not None and not is_news and seqno.epoch != known.epoch
        if is_stale and not is_retraction:
            self._owe(neighbour.id, destination, now)  # it is behind; perhaps the destination itself is
        if is_news or not (is_retraction or is_stale):
            held = self._routes.to(destination).get(neighbour.id)
            heard = Announcement(destination, seqno, entry.signature)
            announcement = self._sources.known(heard, None if held is None else held.announcement)
            if announcement is None:
                self._charge(neighbour, SIGNATURE_PRICE, now)
                announcement = self._sources.learn(heard)
            if announcement is None:
                self._counts["entries_ignored"] += 1
                return
            if not is_retraction and not self._routes.heard(neighbour, announcement, entry.metric, now):
                self._counts["entries_ignored"] += 1
        if is_retraction or is_stale:
            self._routes.remove(destination, neighbour.id)
        self._reselect(destination, now)

    def _charge(self, neighbour: Neighbour, count: int, now: float) -> None:
        if not neighbour.updates.take(now, count):
            raise RemoteProtocolError("P_FLOOD", "more routing updates than its share")

    # requests (section 3.8.1)

    def _route_requested(self, neighbour: Neighbour, request: RouteRequest, now: float) -> None:
        budget = neighbour.dumps if request.destination is None else neighbour.requests
        if not budget.take(now):
            self._counts["requests_ignored"] += 1
            return
        if request.destination is None:
            neighbour.owed_all = True
        else:
            neighbour.owed.add(request.destination)
        self._plan_round(now)

    def _seqno_requested(self, neighbour: Neighbour, request: SeqnoRequest, now: float) -> None:
        if not neighbour.requests.take(now):
            self._counts["requests_ignored"] += 1
            return
        destination, wanted = request.destination, Seqno(request.epoch, request.seqno)
        if destination == self.node:
            self._need_epoch(self._origin.requested(wanted, now))
            self._owe(neighbour.id, destination, now)
            return
        selected = self._routes.selected.get(destination)
        if selected is not None and selected.neighbour is not neighbour:
            if not wanted.is_newer_than(selected.announcement.seqno):
                self._owe(neighbour.id, destination, now)
                return
        elif destination not in self._sources:
            return
        else:
            reachable = self._routes.to(destination).values()
            selected = best(r for r in reachable if r.neighbour is not neighbour and r.metric < metric.INFINITY)
        if request.hops > 1 and selected is not None and self._requests.pass_on(destination, wanted, neighbour.id, now):
            frame = SeqnoRequest(destination, request.epoch, request.seqno, request.hops - 1)
            self._request(selected.neighbour.id, frame)

    def _relieve(self, destination: NodeId, known: Source, now: float) -> None:
        """Answer who asked us, and ask for a new seqno where that would bring a much better route (section 3.8.2)."""
        selected = self._routes.selected.get(destination)
        if selected is not None:
            for asker in self._requests.answerable(destination, selected.announcement.seqno, now):
                self._owe(asker, destination, now)
        useful = worth_a_request(self._routes.to(destination).values(), known, selected)
        if not useful:
            self._timers.cancel((_Timer.RETRY, destination))
            return
        wanted = known.wanted
        ask, retry_at = self._requests.to_ask(destination, wanted, useful, now)
        for neighbour in ask:
            self._request(neighbour, SeqnoRequest(destination, wanted.epoch, wanted.number, REQUEST_HOPS))
        self._timers.set((_Timer.RETRY, destination), retry_at)

    def _need_epoch(self, above: Epoch | None) -> None:
        if above is not None:
            self._effects.append(EpochNeeded(above))

    # the tables

    def _reselect(self, destination: NodeId, now: float) -> None:
        known = self._sources.get(destination)
        if known is None:
            return
        again_at = self._selection.choose(destination, known, self._routes, now)
        if again_at is None:
            self._timers.cancel((_Timer.SWITCH, destination))
        else:
            self._timers.set((_Timer.SWITCH, destination), again_at)
        if self._routes.to(destination):
            known.unreachable_since = None
        elif known.unreachable_since is None:
            known.unreachable_since = now
        selected = self._routes.selected.get(destination)
        before, after = self._used.get(destination), None
        if selected is not None:
            after = self._used[destination] = (selected.neighbour.id, selected.metric, known.epoch)
        elif before is not None:
            del self._used[destination]
        if before != after:
            if before is None or after is None or before[0] != after[0]:
                self._effects.append(RouteChanged(destination, None if after is None else after[0]))
            self._updates.changed(destination)
            self._plan_round(now)
        self._relieve(destination, known, now)

    def _drop_neighbour(self, neighbour: NodeId, now: float) -> None:
        if self._neighbours.pop(neighbour, None) is None:
            return
        for destination in self._routes.through(neighbour):
            self._routes.remove(destination, neighbour)
            self._reselect(destination, now)

    def _forget(self, destination: NodeId) -> None:
        self._sources.forget(destination)
        self._requests.forget(destination)
        for timer in (_Timer.SWITCH, _Timer.RETRY):
            self._timers.cancel((timer, destination))
        for neighbour in self._neighbours.values():
            neighbour.told.pop(destination, None)

    def _periodic(self, now: float) -> None:
        for destination, route in self._routes:
            if now - route.heard_at >= EXPIRY_SECONDS:
                self._routes.remove(destination, route.neighbour.id)
                self._reselect(destination, now)
        for destination, known in self._sources.items():
            since = known.unreachable_since
            if since is not None and now - since >= source.HOLD_SECONDS:
                self._forget(destination)
        for neighbour in self._neighbours.values():
            neighbour.owed_all = True
        self._plan_periodic(now)
        self._plan_round(now)

    # sending

    def _round(self, now: float) -> None:
        updates, again_at = self._updates.round(now)
        for neighbour, update in updates:
            self._effects.append(Send(neighbour, update))
            self._counts["updates_sent"] += 1
            self._counts["entries_sent"] += len(update.routes)
        if again_at is not None:
            self._timers.set((_Timer.ROUND, self.node), again_at)

    def _plan_round(self, now: float) -> None:
        due = self._timers.at((_Timer.ROUND, self.node))
        soonest = self._updates.earliest(now)
        if due is None or due > soonest + JITTER_SECONDS:
            self._timers.set((_Timer.ROUND, self.node), soonest + self._rng.uniform(0, JITTER_SECONDS))

    def _plan_periodic(self, now: float) -> None:
        at = now + INTERVAL_SECONDS * self._rng.uniform(0.9, 1.1)
        self._timers.set((_Timer.PERIODIC, self.node), at)

    def _request(self, neighbour: NodeId, frame: SeqnoRequest | RouteRequest) -> None:
        self._effects.append(Send(neighbour, frame))
        self._counts["requests_sent"] += 1

    def _owe(self, neighbour: NodeId, destination: NodeId, now: float) -> None:
        if neighbour in self._neighbours:
            self._neighbours[neighbour].owed.add(destination)
            self._plan_round(now)

    def _take(self) -> tuple[Effect, ...]:
        effects, self._effects = tuple(self._effects), []
        return effects
