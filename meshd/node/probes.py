"""Whether a neighbour hears a device whose link here is silent: who is asked, who answers, and what is kept of it.

Whoever is asked asks the device itself: only a word that comes after the question shows that it lives. The answer is
for people alone. Nothing is decided by it, so a lie costs a wrong word. While all links speak nothing is done here,
and no timer runs: what is open belongs to a link, and ends with it.
"""

import attrs

from meshd.ids import NodeId
from meshd.links.events import LinkDown
from meshd.node.effects import ExpectLife
from meshd.node.membership import Membership
from meshd.node.peers import Hearsay, Link, Peers, Probe
from meshd.node.turn import Turn
from meshd.wire.frames import ProbeRequest, ProbeResult


@attrs.frozen
class Probes:
    """Asks and answers; ``Link.probe`` is what was asked about a link, ``Link.asked_by`` is who waits for an answer."""

    membership: Membership
    peers: Peers

    # --- this device asks

    def silent(self, turn: Turn, link: Link) -> None:
        """A link in use fell silent, or its silence lasts: ask one neighbour whether it hears the device."""
        self._answer_all(turn, link, alive=False)
        neighbour = self._neighbour(turn, link)
        link.probe = None if neighbour is None else Probe(neighbour.number, neighbour.name)
        if neighbour is not None:
            turn.send(neighbour.number, ProbeRequest(link.peer))

    def _neighbour(self, turn: Turn, silent: Link) -> Link | None:
        """Not a relay, if there is anybody else; rather one that offers a way to the device; then the best link."""
        offering = self.peers.ways(silent.peer)
        links = [link for link in self.peers.links() if link is not silent and not link.suspect]

        def rank(link: Link) -> tuple[bool, bool, float, NodeId]:
            score = self.peers.peer(link.peer).quality.snapshot(turn.now).score
            return self.membership.is_relay(link.peer), link.peer not in offering, -score, link.peer

        return min(links, key=rank, default=None)

    def answered(self, turn: Turn, link: Link, result: ProbeResult) -> None:
        """An answer came over ``link``. One that was not asked for, or not of this neighbour, changes nothing."""
        if result.target == link.peer:  # whoever speaks of itself lives
            self._answer_all(turn, link, alive=True)
            return
        silent = self.peers.link_to(result.target)
        probe = None if silent is None else silent.probe
        if silent is not None and probe is not None and probe.link == link.number and probe.hears is None:
            silent.probe = attrs.evolve(probe, hears=result.alive)

    def heard(self, link: Link) -> None:
        """The link is well again: what was asked about it is of no use any more."""
        link.probe = None

    def ended(self, turn: Turn, link: Link, event: LinkDown) -> Hearsay | None:
        """A link is gone, and out of ``peers``. Returns what is known by hearsay when it died of silence."""
        peer = self.peers.peer(link.peer)
        if peer.chosen is None:
            self._answer_all(turn, link, alive=False)
        if event.code != "P_TIMEOUT" or link.probe is None:
            return None
        peer.hearsay = Hearsay(link.probe.neighbour, link.probe.hears, turn.now)
        return peer.hearsay

    # --- a neighbour asks

    def asked(self, turn: Turn, link: Link, target: NodeId) -> None:
        """The peer of ``link`` wants to know whether this device hears ``target``: pass the question on to it.

        Of one that was never linked with this device nothing can be said, and nothing is.
        """
        peer = self.peers.known.get(target)
        if target in (self.membership.me, link.peer):
            turn.send(link.number, ProbeResult(target, alive=True))
        elif peer is None or not peer.was_linked:
            return
        elif peer.chosen is None or peer.chosen.suspect:
            turn.send(link.number, ProbeResult(target, alive=False))
        elif link.peer not in peer.chosen.asked_by:  # one at a time: who asks without end is heard once
            peer.chosen.asked_by.add(link.peer)
            turn.send(peer.chosen.number, ProbeRequest(target))
            turn.emit(ExpectLife(peer.chosen.number))

    def _answer_all(self, turn: Turn, link: Link, *, alive: bool) -> None:
        for asker in sorted(link.asked_by):
            back = self.peers.link_to(asker)
            if back is not None:
                turn.send(back.number, ProbeResult(link.peer, alive))
        link.asked_by.clear()
