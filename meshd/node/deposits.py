"""Copies of mail that relays keep for devices without a path: which queue leaves them where, and which rows are there.

A copy is extra: whoever gave it keeps its own until the destination's receipt, or the next hop's ack. It
is given once, so that a destination that stays away costs no traffic.
"""

from collections.abc import Iterable

from meshd.delivery.queue import SpoolQueue
from meshd.ids import NodeId
from meshd.node.peers import Link


class Deposits:
    """Counts; the bundles themselves wait in the spool's queues. Forgotten with the process."""

    def __init__(self) -> None:
        self._at: dict[SpoolQueue, NodeId] = {}
        self._rows: dict[int, NodeId] = {}

    def __contains__(self, queue: SpoolQueue) -> bool:
        """Whether what is in flight of the queue waits with a relay, and not for an answer."""
        return queue in self._at

    def direct(self, queue: SpoolQueue, relay: NodeId | None, link: Link, now: float) -> bool:
        """The queue's mail leaves toward this relay from now on, or with None by a route that begins with ``link``.

        Returns whether what is in flight has to be looked at anew: it went another way.
        """
        before = self._at.get(queue)
        if relay == before:
            return False
        if relay is not None:
            self._at[queue] = relay
            return bool(queue.in_flight)
        del self._at[queue]
        if link.peer == before:  # the relay hands out what it has: that is waited for before anything goes again
            queue.wait_anew(now)
            return False
        self.end(queue.in_flight)  # the relay may hand them back; when this path is lost too, copies are given again
        return bool(queue.in_flight)

    def has(self, row: int, relay: NodeId) -> bool:
        """Whether the relay has a copy of this row."""
        return self._rows.get(row) == relay

    def note(self, row: int, relay: NodeId) -> None:
        """The relay, or a hop on the way there, has a copy on its disk."""
        self._rows[row] = relay

    def end(self, rows: Iterable[int]) -> None:
        """These rows wait no longer."""
        for row in rows:
            self._rows.pop(row, None)
