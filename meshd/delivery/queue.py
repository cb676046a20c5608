"""The bundles that wait for one destination at one priority: a window in memory over a queue on disk.

Rows leave in row order. Only a bounded window is in memory; the rest stays on disk and is loaded
when there is a path. Every disturbance (link lost, receipt overdue, hop busy) has one answer:
``rewind``, which forgets the window and starts again from the disk. What the destination already
has is known from its receipt and skipped.
"""

import sys
from collections import deque
from collections.abc import Iterable

import attrs

from meshd.delivery.receipts import FIRST_CREDIT_BYTES, Receipt
from meshd.ids import BundleId, BundleRef, NodeId, Number, Priority

WINDOW_ROWS = 1024
WINDOW_BYTES = 8 * 1024 * 1024
RETRY_MIN_S = 5.0
RETRY_MAX_S = 3600.0
UNCONFIRMED_AFTER = 2
"""Receipts overdue in a row: one may be late."""
_SRTT_GAIN = 0.125
_CREDIT = "credit"


@attrs.define(eq=False, kw_only=True)
class Waiting:
    """A bundle in the window. Times are mesh-local milliseconds."""

    row: int
    ref: BundleRef
    bundle: BundleId
    number: Number
    head: bytes
    body: bytes
    messages: int
    size_bytes: int
    hop_limit: int
    copies: int
    accepted_ms: int
    expires_ms: int
    sent_at: float = 0.0


class SpoolQueue:
    """One destination, one priority, our own mail or others'. The node owns it; nothing here does I/O.

    Our own bundles wait for the destination's receipt and stay within its credit; others' wait for the
    next hop's ack, which takes them over.

    ``rows``, ``messages`` and ``size_bytes`` count everything that waits, in memory or not.
    """

    def __init__(self, destination: NodeId, priority: Priority, *, own: bool = True) -> None:
        self.destination = destination
        self.priority = priority
        self.own = own
        self.rows = 0
        self.messages = 0
        self.size_bytes = 0
        self.oldest_ms: int | None = None
        self.ready: deque[Waiting] = deque()
        self.in_flight: dict[int, Waiting] = {}
        self.in_flight_bytes = 0
        self.receipt: Receipt | None = None
        self.paused_until = 0.0
        self.pause_reason: str | None = None
        self.paused_by: NodeId | None = None
        self.generation = 0
        self.loading = False
        self.on_disk = False
        self._loaded_to = 0
        self._grew_while_loading = False
        self._window_bytes = 0
        self._attempts = 0
        self._silences = 0
        self._probes = False
        self._srtt: float | None = None

    @property
    def loaded_to(self) -> int:
        """Every waiting row up to this one is in memory, but for those that may not leave."""
        return self._loaded_to

    @property
    def rows_in_memory(self) -> int:
        """How many rows the window holds."""
        return len(self.ready) + len(self.in_flight)

    @property
    def credit_bytes(self) -> int:
        """How much may be under way; what is passed on for others is bounded by the links' windows alone."""
        if not self.own:
            return sys.maxsize
        credit_bytes = FIRST_CREDIT_BYTES if self.receipt is None else self.receipt.credit_bytes
        return max(1, credit_bytes) if self._probes else credit_bytes

    def count(self, rows: int, messages: int, size_bytes: int, accepted_ms: int) -> None:
        """Account for rows that are on disk already (at start)."""
        self.rows += rows
        self.messages += messages
        self.size_bytes += size_bytes
        self.oldest_ms = accepted_ms if self.oldest_ms is None else min(self.oldest_ms, accepted_ms)
        self.on_disk = True

    def put(self, waiting: Waiting, *, keep: bool) -> bool:
        """Add a new last row; keep it in the window when ``keep`` and there is room. Returns whether it was kept."""
        self.rows += 1
        self.messages += waiting.messages
        self.size_bytes += waiting.size_bytes
        if self.oldest_ms is None:
            self.oldest_ms = waiting.accepted_ms
        if not keep or self.on_disk or self._is_window_full():
            self.put_on_disk()
            return False
        self._append(waiting)
        return True

    def put_on_disk(self) -> None:
        """A row was added that is not in the window."""
        self.on_disk = True
        self._grew_while_loading = self.loading

    def _is_window_full(self) -> bool:
        return self.rows_in_memory >= WINDOW_ROWS or self._window_bytes >= WINDOW_BYTES

    def _append(self, waiting: Waiting) -> None:
        self.ready.append(waiting)
        self._window_bytes += waiting.size_bytes
        self._loaded_to = waiting.row

    def wants_load(self) -> bool:
        """Whether rows should be read from disk now, given that there is a path."""
        return self.on_disk and not self.loading and not self.ready and not self._is_window_full()

    def start_load(self) -> int:
        """A read after ``loaded_to`` is under way; returns the generation it belongs to."""
        self.loading = True
        self._grew_while_loading = False
        return self.generation

    def loaded(self, generation: int, rows: Iterable[Waiting], *, up_to: int, complete: bool) -> None:
        """The answer to a read: what may leave of the rows ``up_to`` this one.

        ``complete`` when the disk had no more at that moment.
        """
        if generation != self.generation:
            return
        self.loading = False
        for waiting in rows:
            self._append(waiting)
        self._loaded_to = max(self._loaded_to, up_to)
        self.on_disk = not complete or self._grew_while_loading

    def arrived_before(self) -> list[Waiting]:
        """Drop and return what the last receipt covers of rows just loaded."""
        if self.receipt is None:
            return []
        done = self._covered(self.ready, self.receipt, self.receipt.highest())
        for waiting in done:
            self.finish(waiting)
        return done

    def may_send(self, now: float) -> bool:
        """Whether the first ready row may leave: not paused, and within the destination's credit."""
        return bool(self.ready) and self.paused_until <= now and self.in_flight_bytes < self.credit_bytes

    def send_next(self, now: float) -> Waiting:
        """Take the first ready row; it is in flight until it finishes or the queue rewinds."""
        waiting = self.ready.popleft()
        waiting.sent_at = now
        overtaken = bool(self.in_flight) and next(reversed(self.in_flight)) > waiting.row
        self.in_flight[waiting.row] = waiting
        if overtaken:  # it is sent again, and what left after it is not: the order of rows is kept
            self.in_flight = dict(sorted(self.in_flight.items()))
        self.in_flight_bytes += waiting.size_bytes
        return waiting

    def arrived(self, receipt: Receipt, now: float) -> list[Waiting]:
        """Take a newer receipt; return (and drop) the rows of the window that it covers."""
        if self.receipt is not None and receipt.order <= self.receipt.order:
            return []
        self.receipt = receipt
        self._probes = False
        if self.pause_reason == _CREDIT:
            self.paused_until = 0.0
        highest = receipt.highest()
        done = self._covered(self.in_flight.values(), receipt, highest)
        if done:
            self._attempts = self._silences = 0
            sample = now - done[-1].sent_at
            self._srtt = sample if self._srtt is None else self._srtt + _SRTT_GAIN * (sample - self._srtt)
        done += self._covered(self.ready, receipt, highest)
        for waiting in done:
            self.finish(waiting)
        return done

    @staticmethod
    def _covered(rows: Iterable[Waiting], receipt: Receipt, highest: Number | None) -> list[Waiting]:
        # Rows are in order of their numbers, so the search ends at the highest that is receipted.
        covered: list[Waiting] = []
        for waiting in rows:
            if highest is None or waiting.number > highest:
                break
            if receipt.has_arrived(waiting.number):
                covered.append(waiting)
        return covered

    def finish(self, waiting: Waiting) -> None:
        """``waiting`` waits no longer."""
        if self.in_flight.pop(waiting.row, None) is not None:
            self.in_flight_bytes -= waiting.size_bytes
        elif waiting in self.ready:
            self.ready.remove(waiting)
        self._window_bytes -= waiting.size_bytes
        self.discount(waiting.messages, waiting.size_bytes)

    def finish_row(self, row: int, messages: int, size_bytes: int) -> Waiting | None:
        """The row with this number waits no longer, wherever it is (expiry). Returns it if it was in the window."""
        waiting = self.find(row)
        if waiting is not None:
            self.finish(waiting)
        else:
            self.discount(messages, size_bytes)
        return waiting

    def find(self, row: int) -> Waiting | None:
        """The row with this number, if it is in the window."""
        return self.in_flight.get(row) or next((item for item in self.ready if item.row == row), None)

    def discount(self, messages: int, size_bytes: int) -> None:
        """Account for one row that is gone."""
        self.rows -= 1
        self.messages -= messages
        self.size_bytes -= size_bytes
        if self.rows == 0:
            self.oldest_ms = None
        elif self.in_flight or self.ready:
            self.oldest_ms = self._first().accepted_ms

    def _first(self) -> Waiting:
        flying = next(iter(self.in_flight.values()), None)
        if flying is None or (self.ready and self.ready[0].row < flying.row):  # what is sent again waits longest
            return self.ready[0]
        return flying

    def floor(self) -> Number | None:
        """The lowest number that still waits, when it is in memory; everything below is finished."""
        if not self.in_flight and not self.ready:
            return None
        return self._first().number  # both are in the order of rows, which is that of their numbers

    def rewind(self) -> None:
        """Forget the window: all that waits is read from disk again, in order."""
        self.generation += 1
        self.loading = False
        self.ready.clear()
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self._window_bytes = 0
        self._loaded_to = 0
        self.on_disk = self.rows > 0

    def unsend(self, rows: Iterable[int]) -> None:
        """These rows were sent on a path that is gone, and no hop has taken them over: they are ready again."""
        again = [self.in_flight.pop(row) for row in rows if row in self.in_flight]
        self.in_flight_bytes -= sum(waiting.size_bytes for waiting in again)
        if self.ready and again and again[-1].row > self.ready[0].row:  # another path was lost before
            self.ready = deque(sorted((*again, *self.ready), key=lambda waiting: waiting.row))
        else:
            self.ready.extendleft(reversed(again))

    def wait_anew(self, now: float) -> None:
        """What is in flight is on a new way: its receipts are waited for from now on."""
        self._attempts = self._silences = 0
        for waiting in self.in_flight.values():
            waiting.sent_at = now

    def retry_at(self) -> float | None:
        """When the oldest row in flight, or a row held back by credit, is due again (monotonic seconds)."""
        if self.in_flight:
            started = next(iter(self.in_flight.values())).sent_at
        elif self.ready and self.paused_until:
            return self.paused_until
        else:
            return None
        return started + self._wait()

    def _wait(self) -> float:
        wait = RETRY_MIN_S if self._srtt is None else min(max(4 * self._srtt, RETRY_MIN_S), RETRY_MAX_S)
        return min(float(wait * 2**self._attempts), RETRY_MAX_S)

    def retry(self) -> None:
        """The receipt is overdue: send everything again, and wait twice as long for it."""
        self._attempts = min(self._attempts + 1, 10)
        self._silences += 1
        self.rewind()

    @property
    def is_unconfirmed(self) -> bool:
        """Whether all that was sent has been sent again for want of a receipt, and still none came."""
        return self.rows > 0 and self._silences >= UNCONFIRMED_AFTER

    def pause(self, until: float, reason: str, *, by: NodeId | None = None) -> None:
        """Send nothing before ``until``. ``by``: the hop that wants it; it speaks for the ways through it alone."""
        self.paused_until = until
        self.pause_reason = reason
        self.paused_by = by
        self._probes = False

    def wait_for_credit(self, now: float) -> None:
        """When the destination has no room, and nothing is under way to it: wait, but not for ever.

        The receipt that says that there is room again may be lost on its way. Then nothing would ask for another:
        a single bundle does, like a probe of TCP's zero window (RFC 9293, section 3.8.6.1).
        """
        if self.ready and not self.in_flight and self.credit_bytes <= 0 and self.paused_until <= now:
            self.pause(now + self._wait(), _CREDIT)

    def take_way(self, hop: NodeId | None) -> None:
        """What waits leaves through ``hop`` from now on, or with None to whoever takes copies."""
        if self.paused_by not in (None, hop):
            self.resume()

    def resume(self) -> None:
        """The pause is over."""
        self.paused_until = 0.0
        self.paused_by = None
        if self.pause_reason == _CREDIT:
            self._probes = True
            self._attempts = min(self._attempts + 1, 10)
