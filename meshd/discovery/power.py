"""Whether this machine runs on its battery, and when that changes: sysfs, and the kernel's events about it."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import trio

SUPPLIES = Path("/sys/class/power_supply")
"""linux/Documentation/ABI/testing/sysfs-class-power."""

SETTLE_S = 1.0
"""A plug that is pulled or put in makes several events."""

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_SUBSYSTEM = b"SUBSYSTEM=power_supply"


def is_on_battery(supplies: Path = SUPPLIES) -> bool:
    """Whether a battery of the machine is being drained, and nothing else feeds it.

    False where there is no battery, or nothing can be found out. Batteries of mice and keyboards do not count.
    """
    try:
        found = [supplies / name for name in os.listdir(supplies)]
    except OSError:  # no such thing on this machine
        return False
    kinds = {supply: _read(supply / "type") for supply in found}
    if any(kind not in ("", "Battery") and _read(supply / "online") == "1" for supply, kind in kinds.items()):
        return False
    return any(
        kind == "Battery" and _read(supply / "scope") != "Device" and _read(supply / "status") == "Discharging"
        for supply, kind in kinds.items()
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # the attribute is not there, or the supply was unplugged meanwhile
        return ""


async def watch_power(post: Callable[[bool], Awaitable[None]], *, supplies: Path = SUPPLIES) -> NoReturn:
    """Post whether the machine is on battery, now and again whenever that has changed, until cancelled.

    Raises OSError when netlink is forbidden.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT) as events:
        events.bind((0, _KERNEL_GROUP))
        current = is_on_battery(supplies)
        await post(current)
        while True:
            await trio.lowlevel.wait_readable(events)
            if not _take(events):
                continue
            await trio.sleep(SETTLE_S)
            before, current = current, is_on_battery(supplies)
            if current != before:
                await post(current)


def _take(events: socket.socket) -> bool:
    """Read all that waits; whether any of it is about power."""
    is_about_power = False
    while True:
        try:
            is_about_power |= _SUBSYSTEM in events.recv(1 << 16)
        except BlockingIOError:
            return is_about_power
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            is_about_power = True  # some were lost: perhaps one of ours
