"""Watching the machine's network and its sleep, so that nothing stays dead after either changed."""

import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from meshd.discovery.events import NetworkChanged, Resumed
from meshd.discovery.interfaces import RTMGRP_LINK_AND_ADDRESSES, Interface, interfaces

SETTLE_S = 0.5
"""Changes within this time of the first become one event: one new network is some ten messages."""

RESUME_CHECK_S = 5.0
"""Interval of the timer that notices sleep. Longer sleeps are noticed at once, see :func:`watch_resume`."""

SHORTEST_SLEEP_S = 1.0
"""Less is no sleep: the two clocks are not read at one instant."""

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_ITIMERSPEC = struct.Struct("@qqqq")


async def watch_network(
    post: Callable[[NetworkChanged], Awaitable[None]],
    *,
    settle_s: float = SETTLE_S,
    scan: Callable[[], tuple[Interface, ...]] = interfaces,
) -> NoReturn:
    """Post the interfaces as they are now, then again whenever one changed, until cancelled.

    Raises OSError when netlink is forbidden.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, RTMGRP_LINK_AND_ADDRESSES))
        netlink.setblocking(False)
        current = scan()
        await post(NetworkChanged(current))
        while True:
            await trio.lowlevel.wait_readable(netlink)
            await trio.sleep(settle_s)
            _drain(netlink)
            before, current = current, scan()
            if current != before:
                await post(NetworkChanged(current))


def _drain(netlink: socket.socket) -> None:
    """Throw away the queued messages: they only say that a look is worth it."""
    while True:
        try:
            netlink.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            # ENOBUFS: messages were lost, which matters no more than reading them.
            if error.errno != errno.ENOBUFS:
                raise


def suspended_s() -> float:
    """Seconds that this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_resume(
    post: Callable[[Resumed], Awaitable[None]],
    *,
    interval_s: float = RESUME_CHECK_S,
    suspended: Callable[[], float] = suspended_s,
) -> NoReturn:
    """Post an event after each sleep of the machine, until cancelled.

    The timer counts CLOCK_BOOTTIME, which goes on during sleep: when the sleep outlasts the interval,
    the timer is overdue on waking and fires at once; a shorter one is seen within the interval.
    (Trio's own sleep counts CLOCK_MONOTONIC, and would add up to the interval each time.)
    """
    timer = _boottime_timer(interval_s)
    try:
        before = suspended()
        while True:
            await trio.lowlevel.wait_readable(timer)
            os.read(timer, 8)
            now = suspended()
            if now - before >= SHORTEST_SLEEP_S:
                await post(Resumed(now - before))
            before = now
    finally:
        trio.lowlevel.notify_closing(timer)
        os.close(timer)


def _boottime_timer(interval_s: float) -> int:
    """A periodic timer's file descriptor (timerfd_create(2)). Python has it from 3.13 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    timer = int(libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_FLAGS))
    if timer < 0:
        raise OSError(ctypes.get_errno(), "no CLOCK_BOOTTIME timer")
    seconds, nanoseconds = divmod(int(interval_s * 1e9), 10**9)
    if libc.timerfd_settime(timer, 0, _ITIMERSPEC.pack(seconds, nanoseconds, seconds, nanoseconds), None) < 0:
        os.close(timer)
        raise OSError(ctypes.get_errno(), "the timer can't be set")
    return timer
