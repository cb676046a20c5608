"""Others' mail that waits here and need not: copies whose receipt has passed by, all that a removed device sent.

A receipt for somebody else is looked at only while mail for the device that signed it waits here.
"""

import attrs

from meshd.delivery.receipts import RECEIPT_LABEL, Receipt, decode_receipt
from meshd.errors import RemoteProtocolError
from meshd.ids import NODE_ID_SIZE, NodeId, Number, Priority
from meshd.node.membership import Membership
from meshd.node.notices import Notices
from meshd.node.spool import Spool
from meshd.node.turn import Tickets, Turn
from meshd.store.reads import ExpiredRow, ReadHeld
from meshd.trust.seal import open_blob
from meshd.wire.frames import Routed

_ROWS = 512
_RECEIPTS_KEPT = 1024


@attrs.frozen
class _Look:
    """A read under way; ``receipt`` is None when all of the flow ends."""

    source: NodeId
    destination: NodeId
    priority: Priority
    receipt: Receipt | None


class Carried:
    """Ends what is of no more use. The bundles themselves wait in the spool's queues."""

    def __init__(self, membership: Membership, spool: Spool, notices: Notices, tickets: Tickets) -> None:
        self._membership = membership
        self._spool = spool
        self._notices = notices
        self._tickets = tickets
        self._destinations: set[NodeId] = set()
        self._receipts: dict[tuple[NodeId, NodeId, Priority], Receipt] = {}
        self._looks: dict[int, _Look] = {}

    def restore(self) -> None:
        """After the spool: what the last life left may be carried."""
        self._destinations |= {queue.destination for queue in self._spool.queues() if queue.rows and not queue.own}

    def taken(self, destination: NodeId) -> None:
        """A copy for this device was taken to be carried."""
        self._destinations.add(destination)

    def is_delivered(self, source: NodeId, destination: NodeId, priority: Priority, number: Number) -> bool:
        """Whether a receipt that has passed by covers a bundle."""
        seen = (
            self._receipts.get((source, destination, priority)),
            self._notices.receipt(source, destination, priority),
        )
        return any(receipt is not None and receipt.has_arrived(number) for receipt in seen)

    def receipt_passed(self, turn: Turn, frame: Routed) -> None:
        """A receipt for another device came by. One that its maker did not sign changes nothing."""
        public_key = self._membership.public_key(frame.source)
        if frame.source not in self._destinations or public_key is None:
            return
        if not any(queue.rows and not queue.own for queue in self._spool.queues_for(frame.source)):
            self._destinations.discard(frame.source)
            return
        try:
            body = open_blob(public_key, RECEIPT_LABEL, frame.body)
            if body[:NODE_ID_SIZE] != frame.destination:
                raise RemoteProtocolError("P_AUTH", "a receipt that was signed for another device")
            receipt = decode_receipt(body[NODE_ID_SIZE:])
        except RemoteProtocolError as error:
            turn.log("warning", "notice dropped", source=frame.source, reason=error.reason)
            return
        flow = (frame.destination, frame.source, receipt.priority)
        before = self._receipts.pop(flow, None)
        newest = receipt if before is None or receipt.order > before.order else before
        self._receipts[flow] = newest
        if len(self._receipts) > _RECEIPTS_KEPT:
            del self._receipts[next(iter(self._receipts))]
        if newest is receipt:
            self._look(turn, _Look(*flow, receipt), after=0)

    def removed(self, turn: Turn, source: NodeId) -> None:
        """A device left the mesh: whoever has heard of that turns away what it sent.

        It would wait, and hold up the mail of others behind it, until its lifetime ends.
        """
        for queue in self._spool.queues():
            if queue.rows and not queue.own:
                self._look(turn, _Look(source, queue.destination, queue.priority, None), after=0)

    def _look(self, turn: Turn, look: _Look, *, after: int) -> None:
        ticket = self._tickets.take()
        self._looks[ticket] = look
        carried = look.receipt is not None
        turn.load(ticket, ReadHeld(look.source, look.destination, look.priority, after, _ROWS, carried))

    def is_answer(self, ticket: int) -> bool:
        """Whether a read is one of these."""
        return ticket in self._looks

    def loaded(self, turn: Turn, ticket: int, rows: list[ExpiredRow]) -> None:
        """A read came back."""
        look = self._looks.pop(ticket)
        over = [row for row in rows if look.receipt is None or look.receipt.has_arrived(row.number)]
        for row in over:
            self._end(turn, row, "removed" if look.receipt is None else "receipted")
        if len(rows) == _ROWS:
            self._look(turn, look, after=rows[-1].row)

    def _end(self, turn: Turn, row: ExpiredRow, reason: str) -> None:
        if row.row in self._spool.endings:
            return
        queue = self._spool.queue(row.destination, row.priority, own=False)
        waiting = queue.find(row.row)
        if waiting is not None:
            self._spool.custody.let_go(turn, queue, waiting, reason)
        else:
            queue.discount(row.messages, row.size_bytes)
            self._spool.custody.end(turn, row.row, row.ref, reason)
