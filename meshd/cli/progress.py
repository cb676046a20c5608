"""What a person sees while something takes longer than a second: what is waited for, and for how long by now.

On standard error, and only on a terminal; it is gone when the wait is over. Drawn by a timer signal
(setitimer(2)), so that whatever blocks goes on blocking (PEP 475).
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

_INTERVAL_S = 1.0
_CLEAR = "\r\x1b[K"

WAITS = {
    "doctor": "Examining this device and its network, together with the other devices",
    "trace": "Asking the other devices",
    "join": "Joining",
    "relay-add": "Looking at the relay",
    "ping": "Waiting for echoes",
    "await": "Waiting for the other device",
}
"""By operation; others wait for the daemon."""


@contextlib.contextmanager
def waiting(op: str) -> Iterator[None]:
    """Show that ``op`` is under way, from its second second on. Only for the main thread; else nothing is shown."""
    if not sys.stderr.isatty() or threading.current_thread() is not threading.main_thread():
        yield
        return
    began = time.monotonic()
    drawn = False

    def draw(number: int, frame: FrameType | None) -> None:
        nonlocal drawn
        drawn = True
        what = WAITS.get(op, "Waiting for meshd")
        sys.stderr.write(f"{_CLEAR}{what} ... {time.monotonic() - began:.0f} s")
        sys.stderr.flush()

    before = signal.signal(signal.SIGALRM, draw)
    signal.setitimer(signal.ITIMER_REAL, _INTERVAL_S, _INTERVAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if drawn:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
