"""Which relays this device keeps a link to: in order, one at a time, the next when one fails. Pure but for effects.

A relay that comes back is left to prove itself before the one behind it is given up: links are made
before others are broken, and a relay that comes and goes costs nobody its link.
"""

from collections.abc import Sequence
from typing import Any

import attrs

from meshd.ids import NodeId, to_text
from meshd.kinds import relay_place
from meshd.node.effects import LeavePeer, SeekPeer
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.turn import Turn
from meshd.transport.base import Address
from meshd.trust.standing import Member

GRACE_S = 2.0
"""A relay has this long to answer before the next one is dialed too."""

STEADY_S = 30.0
"""A relay's link that lived so long makes those behind it needless."""


@attrs.define(eq=False)
class _Sought:
    """A relay that is being dialed."""

    since: float
    addresses: frozenset[tuple[Address, str]]
    failed: bool = False


class Relays:
    """Decides; the loop dials. ``peers.relays`` holds its order.

    Args:
        urls: of relays to be used before others.
    """

    def __init__(self, membership: Membership, peers: Peers, urls: Sequence[str]) -> None:
        self._membership = membership
        self._peers = peers
        self._urls = tuple(urls)
        self._places = [Address(*relay_place(url)) for url in urls]
        self._sought: dict[NodeId, _Sought] = {}
        self._due: float | None = None

    # --- what the node tells

    def members_changed(self) -> None:
        """The roster, cards or addresses have changed."""
        if self._membership.is_relay(self._membership.me):
            return
        relays = {relay.id: relay for relay in self._membership.relays() if relay.id != self._membership.me}
        for relay in relays:
            self._peers.seen(relay, self._addresses(relay))
        order = sorted(relays, key=self._rank)  # stable: those that are not configured stay in the roster's order
        for gone in self._sought.keys() - relays.keys():  # shut out by the membership
            del self._sought[gone]
        self._peers.relays = tuple(order)

    def _addresses(self, relay: NodeId) -> list[tuple[Address, str]]:
        own = self._membership.relay_urls.get(relay)
        card = self._membership.card(relay)
        told = [(Address(*relay_place(url)), "static" if url == own else "card") for url in self._told(relay)]
        told += [(Address(a.transport, a.host, a.port), "card") for a in (card.addresses if card else ())]
        return told + [(place, "static") for place in self._places if self._may_be_at(relay, place)]

    def _told(self, relay: NodeId) -> list[str]:
        return [url for url in self._membership.urls_of(relay) if _is_url(url)]

    def _may_be_at(self, relay: NodeId, place: Address) -> bool:
        """Whether a configured place is this relay's, or may be: nobody else is known to be there."""
        others = (other.id for other in self._membership.relays() if other.id != relay)
        return self._is_at(relay, place) or not any(self._is_at(other, place) for other in others)

    def _is_at(self, relay: NodeId, place: Address) -> bool:
        card = self._membership.card(relay)
        known = {(a.host, a.port) for a in (card.addresses if card else ())}
        known |= {relay_place(url)[1:] for url in self._told(relay)}
        return (place.host, place.port) in known

    def _rank(self, relay: NodeId) -> int:
        places = [index for index, place in enumerate(self._places) if self._is_at(relay, place)]
        return min(places, default=len(self._places))

    def dial_failed(self, peer: NodeId) -> None:
        """An attempt on a device failed."""
        if peer in self._sought:
            self._sought[peer].failed = True

    # --- deciding

    def plan(self, turn: Turn) -> None:
        """Seek the relays that are wanted now, and leave those that are not: at the end of each turn."""
        self._due = None
        wanted = self._wanted(turn.now)
        for relay in wanted:
            self._seek(turn, relay)
        for relay in self._sought.keys() - set(wanted):
            del self._sought[relay]
            turn.emit(LeavePeer(relay))

    def _wanted(self, now: float) -> list[NodeId]:
        wanted: list[NodeId] = []
        enough = False
        for relay in self._peers.relays:
            sought = self._sought.get(relay)
            if sought is None and enough:
                continue
            wanted.append(relay)
            link = self._peers.link_to(relay)
            if link is not None:
                steady_at = link.since + STEADY_S
                if now >= steady_at:
                    break
                self._wake_at(steady_at)
                enough = True
            elif sought is None or not (sought.failed or now >= sought.since + GRACE_S):
                self._wake_at((now if sought is None else sought.since) + GRACE_S)
                enough = True
        return wanted

    def _wake_at(self, due: float) -> None:
        self._due = due if self._due is None else min(self._due, due)

    def _seek(self, turn: Turn, relay: NodeId) -> None:
        member = self._member(relay)
        addresses = frozenset(self._peers.peer(relay).addresses.items())
        sought = self._sought.get(relay)
        if member is None or (sought is not None and sought.addresses == addresses):
            return
        self._sought[relay] = _Sought(turn.now if sought is None else sought.since, addresses)
        turn.emit(SeekPeer(relay, member.certificate, tuple(sorted(addresses, key=str))))

    def _member(self, relay: NodeId) -> Member | None:
        roster = self._membership.roster
        return None if roster is None else roster.members.get(relay)

    def next_deadline(self) -> float | None:
        """When :meth:`plan` may decide otherwise, mesh-local seconds."""
        return self._due

    # --- for people

    def views(self) -> list[dict[str, Any]]:
        """``meshctl relay list``, in order of preference."""
        depot = next((relay for relay in self._peers.relays if self._peers.link_to(relay) is not None), None)
        return [
            {
                "id": to_text(relay),
                "name": self._membership.name_of(relay),
                "url": self._url(relay),
                "state": self._state(relay),
                "in_use": relay == depot,
            }
            for relay in self._peers.relays
        ]

    def _state(self, relay: NodeId) -> str:
        link = self._peers.link_to(relay)
        if link is not None:
            return "suspect" if link.suspect else "up"
        return "down" if relay in self._sought else "standby"

    def _url(self, relay: NodeId) -> str | None:
        told = self._told(relay)
        if told:
            return told[0]
        card = self._membership.card(relay)
        places = [Address(a.transport, a.host, a.port) for a in (card.addresses if card else ())]
        return None if not places else url_of(places[0])


def url_of(place: Address) -> str:
    """The URL of a relay at an address."""
    scheme = "wss" if place.transport == "websocket" else place.transport
    return f"{scheme}://{str(place).partition('://')[2]}"


def _is_url(text: str) -> bool:
    try:
        relay_place(text)
    except ValueError:  # an admin of another version wrote it; the relay's card may tell better
        return False
    return True
