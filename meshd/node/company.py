"""Which devices to keep links with: the budget, told of links and routes. Pure."""

import random
from collections.abc import Iterable

from meshd.ids import NodeId
from meshd.links.budget import SAVING_LINKS, SURPLUS, LinkBudget, Prospect
from meshd.links.events import LinkDown
from meshd.node.effects import CloseLink, WantLink
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.routes import Routes
from meshd.node.turn import Turn


class Company:
    """Joins the budget with what is known of peers and routes.

    Args:
        max_links: how many links to keep.
    """

    def __init__(
        self, membership: Membership, peers: Peers, routes: Routes, max_links: int, rng: random.Random
    ) -> None:
        self._membership = membership
        self._peers = peers
        self._routes = routes
        self._max_links = max_links
        self._budget = LinkBudget(membership.me, max_links, rng)
        self._told: dict[NodeId, WantLink] = {}
        self._again_at: float | None = None
        self._is_due = True

    def save(self, saves: bool) -> None:
        """Whether to do with few links."""
        self._budget.max_links = min(self._max_links, SAVING_LINKS) if saves else self._max_links
        self._is_due = True

    def touch(self) -> None:
        """Something changed: links, routes."""
        self._is_due = True

    def members_changed(self, news: Iterable[NodeId]) -> None:
        """These devices came, went, or have another card."""
        for node in news:
            self._told.pop(node, None)
        self._is_due = True

    def link_down(self, turn: Turn, event: LinkDown) -> None:
        """A link ended; when it was given up, its dialer waits until it is told otherwise."""
        if event.code == SURPLUS:
            self._budget.given_up(event.peer, turn.now)
            self._told[event.peer] = WantLink(event.peer, False)
        self._is_due = True

    def next_deadline(self) -> float | None:
        """When to review without another cause."""
        return self._again_at

    def review(self, turn: Turn) -> None:
        """Decide anew, when there is cause to."""
        if self._membership.roster is None:
            return
        if not self._is_due and (self._again_at is None or turn.now < self._again_at):
            return
        self._is_due = False
        prospects = self._prospects(turn)
        plan = self._budget.plan(prospects, self._routes.can_spare, turn.now)
        self._again_at = plan.again_at
        for node in [prospect.peer for prospect in prospects]:
            want = WantLink(node, node in plan.wanted, node in plan.unhurried)
            if self._told.get(node, WantLink(node, True)) != want:
                turn.emit(want)
            self._told[node] = want
        link = None if plan.give_up is None else self._peers.link_to(plan.give_up)
        if link is not None:
            turn.log("debug", "link given up", peer=link.peer, links=len(list(self._peers.links())))
            turn.emit(CloseLink(link.number, SURPLUS, "more links than are kept"))

    def _prospects(self, turn: Turn) -> list[Prospect]:
        peers = self._peers
        found = []
        for member in self._membership.members():
            if member.role == "relay":  # has its own reasons to be dialed, and does not count
                continue
            peer = peers.known.get(member.id)
            link = None if peer is None else peer.chosen
            if peer is None or link is None:
                hop = peers.next_hops.get(member.id)
                is_routed = hop is not None and not self._membership.is_relay(hop)
                found.append(Prospect(peer=member.id, is_routed=is_routed))
                continue
            score = peer.quality.snapshot(turn.now).score
            found.append(
                Prospect(peer=member.id, score=score, since=link.since, is_busy=link.unacked_bytes > 0, is_routed=True)
            )
        return found
