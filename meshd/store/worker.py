"""The store's own thread, and the way to it and back.

A slow disk stalls the thread and never the event loop. While one transaction runs, requests
gather, and all of them go into the next: under load many share one fsync, and alone none waits.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs
import trio

from meshd.histogram import Histogram
from meshd.logs import get_logger
from meshd.store.database import Database
from meshd.store.requests import Ask, Commit, Due, Event, Requests, carry_out, split

CLOSE_LIMIT_S = 3.0
"""How long an ending daemon waits for the disk, seconds; what is not on disk by then was never accepted."""
BUSY_PASSES = 8
"""Passes of a busy loop that a commit waits at most: more than a message takes to its socket."""
SLOW_COMMIT_S = 0.1
"""A transaction or read over this is logged, seconds, when nothing else is said."""

_log = get_logger(__name__)


class _Returns:
    """What the thread gives back, on its way to the Trio thread: one wake-up for each run."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._post = post
        self._changed = trio.Event()
        self._error: BaseException | None = None
        self.ended = False

    def give(self, events: list[Event]) -> None:
        """From the thread: events to post."""
        self._call(lambda: self._post_all(events))

    def end(self, error: BaseException | None) -> None:
        """From the thread: its last word, with what broke it."""
        self._call(lambda: self._note_end(error))

    def _call(self, on_trio_thread: Callable[[], None]) -> None:
        try:
            self._token.run_sync_soon(on_trio_thread)
        except trio.RunFinishedError:
            # The disk answered after the daemon had stopped waiting: there is nobody left to tell.
            _log.warning("store answered too late")

    def _post_all(self, events: list[Event]) -> None:
        try:
            for event in events:
                self._post(event)
        except BaseException as error:  # Trio can't carry it from here: run_worker raises it
            self._error = error
            self._changed.set()

    def _note_end(self, error: BaseException | None) -> None:
        self.ended = True
        self._error = self._error or error
        self._changed.set()

    async def wait_end(self) -> None:
        """Wait until the thread has ended; raises what broke it, or what broke in ``post``, at once."""
        await self._changed.wait()
        if self._error is not None:
            raise self._error


@attrs.frozen(kw_only=True)
class Timing:
    """What becomes of how long the store takes: it is counted, and logged when over ``slow_s``. All in seconds."""

    slow_s: float = SLOW_COMMIT_S
    commits: Histogram | None = None
    reads: Histogram | None = None

    def note(self, run: Sequence[Commit] | Sequence[Ask], took_s: float) -> None:
        """A run of requests took so long. From the store's thread."""
        is_commit = isinstance(run[0], Commit)
        histogram = self.commits if is_commit else self.reads
        if histogram is not None:
            histogram.observe(took_s)
        if took_s > self.slow_s:
            _log.warning(
                "commit slow" if is_commit else "read slow",
                took_ms=round(took_s * 1000),
                requests=len(run),
                limit_ms=round(self.slow_s * 1000),
            )


def _serve(database: Database, inbound: queue.SimpleQueue[Due | None], returns: _Returns, timing: Timing) -> None:
    """The thread's body: until None comes, carry out what came, all at once."""
    error: BaseException | None = None
    try:
        ending = False
        while not ending:
            gathered = [inbound.get()]
            while not inbound.empty():
                gathered.append(inbound.get_nowait())
            due = [each for each in gathered if each is not None]
            ending = len(due) < len(gathered)
            for run in split([request for each in due for request in each.requests]):
                started = time.monotonic()
                events = carry_out(database, run, due[-1].clock_ms)
                returns.give(events)
                timing.note(run, time.monotonic() - started)
        database.close()
    except BaseException as broken:  # the thread's boundary: run_worker raises it
        error = broken
    finally:
        returns.end(error)


_UNTIMED = Timing()


class _Handover(trio.abc.Instrument):
    """Gives the thread what is due when the loop has nothing else to do, or after BUSY_PASSES.

    Thread and loop share one interpreter lock: a commit that begins while its mail is still on the
    way to a socket slows that down by more than it gains.
    """

    def __init__(self, inbound: queue.SimpleQueue[Due | None]) -> None:
        self._inbound = inbound
        self._waiting: list[Due] = []
        self._passes = 0

    def put(self, due: Due) -> None:
        """Add what is due; the order stays."""
        self._waiting.append(due)

    def before_io_wait(self, timeout: float) -> None:
        """Called by Trio in each pass of its loop; ``timeout`` is 0 while tasks are ready to run."""
        if self._waiting:
            self._passes += 1
            if timeout > 0 or self._passes >= BUSY_PASSES:
                self.flush()

    def flush(self) -> None:
        """Give all of it now."""
        self._passes = 0
        for due in self._waiting:
            self._inbound.put(due)
        self._waiting.clear()


async def _feed(requests: Requests, handover: _Handover, inbound: queue.SimpleQueue[Due | None]) -> None:
    while (due := await requests.take()).requests:
        handover.put(due)
    handover.flush()
    inbound.put(None)


async def run_worker(
    database: Database,
    requests: Requests,
    post: Callable[[Event], None],
    *,
    timing: Timing = _UNTIMED,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Carry out requests on a thread of its own until they are closed, then close the database.

    Args:
        database: nobody else may use it from now on.
        requests: the only way in.
        post: called on the Trio thread with each event, in the order of the requests; must not block.
        timing: what becomes of how long it all takes.

    Cancelled: what was asked for is still committed and posted, within CLOSE_LIMIT_S, then the
    database is closed. Whatever the thread or ``post`` raises is a defect, and is raised here.

    The thread gives the interpreter lock away at each SQLite call. A process whose loop is busy
    sets ``sys.setswitchinterval(0.0002)``: with CPython's 5 ms a commit then takes up to seconds.
    """
    returns = _Returns(post)
    inbound: queue.SimpleQueue[Due | None] = queue.SimpleQueue()
    # A daemon thread: a disk that hangs for ever must not keep the process from ending.
    threading.Thread(target=_serve, args=(database, inbound, returns, timing), name="store", daemon=True).start()
    task_status.started()
    handover = _Handover(inbound)
    trio.lowlevel.add_instrument(handover)
    try:
        async with trio.open_nursery() as nursery:
            requests.pour_into(handover.put)
            nursery.start_soon(_feed, requests, handover, inbound)
            await returns.wait_end()
            nursery.cancel_scope.cancel()
    finally:
        trio.lowlevel.remove_instrument(handover)
        if not returns.ended:
            requests.close_nowait()
            handover.flush()
            inbound.put(None)
            with trio.move_on_after(CLOSE_LIMIT_S, shield=True) as limit:
                await returns.wait_end()
            if limit.cancelled_caught:
                _log.error("store not closed in time", limit_s=CLOSE_LIMIT_S)
