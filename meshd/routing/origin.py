"""This device as an origin of routes: its own seqno (RFC 8966 section 3.2.2)."""

from meshd.errors import LocalProtocolError, RemoteProtocolError
from meshd.ids import Epoch, NodeId
from meshd.routing.budget import Budget
from meshd.routing.seqno import Announcement, Seqno, Sign, Verdict, Verify
from meshd.wire.routing import MAX_SEQNO

SEQNO_BURST = 16
SEQNOS_PER_SECOND = 2.0
"""New seqnos that others can ask for: 32 bits of them last for 68 years."""


class Origin:
    """Keeps ``announcement``, what this device says of itself.

    Two methods return an epoch: this device then needs a new one that is above it. Each is returned once.
    """

    def __init__(self, node: NodeId, seqno: Seqno, sign: Sign, verify: Verify) -> None:
        self._sign, self._verify = sign, verify
        self._budget = Budget(SEQNO_BURST, SEQNOS_PER_SECOND)
        self._needed_above: Epoch | None = None
        self.announcement = Announcement(node, seqno, sign(seqno))

    def requested(self, wanted: Seqno, now: float) -> Epoch | None:
        """Somebody starves for want of a newer seqno: advance by one, never more (section 3.8.1.2)."""
        seqno = self.announcement.seqno
        if wanted.epoch == seqno.epoch and wanted.is_newer_than(seqno) and self._budget.take(now):
            self._announce(seqno.next)
            if seqno.next.number == MAX_SEQNO:  # the last one: nobody could ask for a newer one
                return self._need(seqno.epoch)
        return None

    def heard(self, seqno: Seqno, signature: bytes) -> Epoch | None:
        """A neighbour passed on what we are to have said ourselves.

        Newer than what we know, it shows that we have forgotten, after the restore of a disk, say.
        Raises RemoteProtocolError (``P_ROUTE``) when it isn't ours.
        """
        if not seqno.is_newer_than(self.announcement.seqno) or not self._is_unmet(seqno.epoch):
            return None
        verdict = self._verify(Announcement(self.announcement.destination, seqno, signature))
        if verdict is Verdict.FORGED:
            raise RemoteProtocolError("P_ROUTE", "a seqno of ours that we did not sign")
        return self._need(seqno.epoch) if verdict is Verdict.GENUINE else None

    def renew(self, epoch: Epoch) -> None:
        """Begin a new epoch. Raises LocalProtocolError when it isn't a later one."""
        if epoch <= self.announcement.seqno.epoch:
            raise LocalProtocolError("a new epoch is above the one before")
        self._announce(Seqno(epoch, 0))

    def _announce(self, seqno: Seqno) -> None:
        self.announcement = Announcement(self.announcement.destination, seqno, self._sign(seqno))

    def _is_unmet(self, above: Epoch) -> bool:
        return self._needed_above is None or above > self._needed_above

    def _need(self, above: Epoch) -> Epoch | None:
        if not self._is_unmet(above):
            return None
        self._needed_above = above
        return above
