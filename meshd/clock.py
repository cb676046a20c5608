"""The mesh-local clock: it counts while the machine is up or asleep, and goes on after a reboot.

Ages are sums of what such clocks counted. No device compares its clock with another's, and the wall
clock, which a Raspberry Pi without a battery does not have, is never asked.
"""

import time
from pathlib import Path

import attrs

from meshd.wire import codec
from meshd.wire.codec import record, text, uint

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_FACT = record(lambda *fields: fields, text(64), uint(minimum=-(2**62)))


@attrs.frozen
class MeshClock:
    """``boottime + offset``; within one boot the offset stays, so that time with the daemon off counts too."""

    offset_s: float
    boot_id: str

    def now(self) -> float:
        """Seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.offset_s

    def now_ms(self) -> int:
        """Whole milliseconds."""
        return int(self.now() * 1000)

    def encode(self) -> bytes:
        """What the next life of the daemon needs."""
        return codec.encode([self.boot_id, int(self.offset_s * 1000)])


def resume_clock(stored: bytes | None, last_ms: int) -> MeshClock:
    """The clock after a start.

    Args:
        stored: what ``encode`` gave in the last life. last_ms: the last time that life wrote down.
    """
    boot_id = _BOOT_ID.read_text().strip()
    if stored is not None:
        known_boot, offset_ms = _FACT(codec.decode(stored))
        if known_boot == boot_id:
            return MeshClock(offset_ms / 1000, boot_id)
    # Another boot: nobody can tell for how long the machine was off. Late beats early.
    return MeshClock(last_ms / 1000 + 0.001 - time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)
