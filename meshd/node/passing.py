"""Bundles on their way through this device: taken into custody, or turned away with a reason."""

from meshd.ids import BundleId, NodeId, bundle_ref
from meshd.node.accepting import Limits
from meshd.node.carried import Carried
from meshd.node.carriers import Carriers
from meshd.node.deposits import COPIES
from meshd.node.membership import Membership
from meshd.node.peers import NO_ROW, Link, Peers, Unacked
from meshd.node.spool import Spool
from meshd.node.turn import Turn
from meshd.store.ops import JournalEntry, PutSpool, SpoolRow
from meshd.wire.bundle import Head
from meshd.wire.frames import ALREADY_HELD, NOT_A_CARRIER, BundleFrame, Busy, Refused

RETRY_AFTER_MS = 5_000
ROW_OVERHEAD_BYTES = 256
_NEIGHBOUR_SHARE = 0.25
"""Part of the spool's quota that others' mail from one neighbour may take, unless the limits say otherwise."""
_OTHERS_SHARE = 0.9
"""Part of it that all others' mail may take, but on a relay, which has none of its own to send."""


class Passing:
    """Store-and-forward for others. A hop acks what it has on disk, and keeps it until the next one does."""

    def __init__(
        self,
        me: NodeId,
        membership: Membership,
        spool: Spool,
        limits: Limits,
        carriers: Carriers,
        carried: Carried,
    ) -> None:
        self._me = me
        self._membership = membership
        self._spool = spool
        self._limits = limits
        self._carriers = carriers
        self._carried = carried

    def receive(self, turn: Turn, link: Link, frame: BundleFrame, head: Head, bundle: BundleId, peers: Peers) -> None:
        """A bundle came that is for another device."""
        destination = head.flow.destination
        if self._membership.public_key(destination) is None or destination == self._me:  # a relay takes no mail
            turn.turned_away[link.number].append(Refused(bundle, "unknown-destination"))
        elif head.flow.source == self._me:
            turn.turned_away[link.number].append(Refused(bundle, "loop"))
            self._spool.handed_back(turn, head.flow, bundle, peers)
        elif frame.age_ms >= head.lifetime_ms:
            turn.turned_away[link.number].append(Refused(bundle, "expired"))
        elif head.flow.ephemeral:
            turn.stored[link.number].append(bundle)
            self._hand_on(turn, link, frame, head, bundle, peers)
        elif bundle in self._spool.custody and not (frame.hop_limit > 0 and self._spool.custody.is_stuck(bundle)):
            turn.tally.hop_duplicates += 1
            if frame.copies:
                turn.turned_away[link.number].append(Refused(bundle, ALREADY_HELD))
            else:
                turn.stored[link.number].append(bundle)
        elif frame.copies and not self._carriers.carries and not self._membership.is_relay(self._me):
            turn.turned_away[link.number].append(Refused(bundle, NOT_A_CARRIER))
        elif frame.copies and self._is_delivered(head):
            turn.stored[link.number].append(bundle)
        elif self._is_full(link.peer, len(frame.body)) or (frame.copies and self._is_laden(link.peer, len(frame.body))):
            turn.turned_away[link.number].append(Busy(bundle, RETRY_AFTER_MS))
        else:
            self._take(turn, link, frame, head, bundle, peers)

    def _is_full(self, neighbour: NodeId, size_bytes: int) -> bool:
        limits = self._limits
        one = limits.quota_bytes * _NEIGHBOUR_SHARE if limits.neighbour_bytes is None else limits.neighbour_bytes
        others = limits.quota_bytes * (1 if self._membership.is_relay(self._me) else _OTHERS_SHARE)
        return (
            limits.is_disk_full
            or self._spool.size_bytes + size_bytes > limits.quota_bytes
            or self._spool.others_bytes + size_bytes > others
            or self._spool.custody.charge_of(neighbour) + size_bytes > one
        )

    def _is_delivered(self, head: Head) -> bool:
        flow = head.flow
        return self._carried.is_delivered(flow.source, flow.destination, flow.priority, head.number)

    def _is_laden(self, neighbour: NodeId, size_bytes: int) -> bool:
        """Whether so much waits here for others, or for this neighbour, that no copy is taken."""
        quota_bytes = self._carriers.quota_bytes or 0
        return (
            self._spool.others_bytes + size_bytes > quota_bytes
            or self._spool.custody.charge_of(neighbour) + size_bytes > quota_bytes * _NEIGHBOUR_SHARE
        )

    def _take(self, turn: Turn, link: Link, frame: BundleFrame, head: Head, bundle: BundleId, peers: Peers) -> None:
        ref = bundle_ref(head.flow, head.number)
        row = SpoolRow(
            row=self._spool.take_row(),
            ref=ref,
            bundle=bundle,
            source=head.flow.source,
            destination=head.flow.destination,
            priority=head.flow.priority,
            number=head.number,
            head=frame.head,
            body=frame.body,
            service=None,
            messages=1,
            from_peer=link.peer,
            principal=None,
            hop_limit=frame.hop_limit,
            copies=min(frame.copies, COPIES // 2),
            lifetime_ms=head.lifetime_ms,
            accepted_ms=turn.now_ms - frame.age_ms,
            expires_ms=turn.now_ms + head.lifetime_ms - frame.age_ms,
            size_bytes=len(frame.body) + ROW_OVERHEAD_BYTES,
        )
        self._spool.custody.replace_stuck(turn, self._spool.queue(row.destination, row.priority, own=False), bundle)
        event = "carried" if frame.copies else "custody"
        if frame.copies:
            turn.tally.carried += 1
            self._carried.taken(head.flow.destination)
        else:
            turn.tally.taken_over += 1
        turn.ops.append(PutSpool(row))
        turn.stored[link.number].append(bundle)
        turn.journal.append(JournalEntry(ref, turn.now_ms, event, None, self._membership.name_of(link.peer)))
        onward = peers.toward(head.flow.destination)
        keep = onward is not None and onward is not link and frame.hop_limit > 0
        self._spool.put(row, keep=keep)

    def _hand_on(self, turn: Turn, link: Link, frame: BundleFrame, head: Head, bundle: BundleId, peers: Peers) -> None:
        """An ephemeral bundle goes on at once, or nowhere."""
        onward = peers.toward(head.flow.destination)
        if onward is None or onward is link or not onward.has_room or frame.hop_limit == 0:
            return
        onward.sent(bundle, Unacked(head.flow.destination, head.flow.priority, True, NO_ROW, len(frame.body)))
        on = BundleFrame(frame.hop_limit - 1, frame.age_ms, frame.copies, frame.head, frame.body, frame.total)
        turn.send_bundle(onward.number, onward.transport, on)
