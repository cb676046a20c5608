"""The mesh-local clock: on and on, whatever happens to the machine."""

import time
from pathlib import Path

import pytest

from meshd.clock import MeshClock, resume_clock
from meshd.wire.codec import ShapeError, encode

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def test_it_begins_and_never_goes_back() -> None:
    clock = resume_clock(None, 0)
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times)
    assert 0.0 <= times[0] < 60.0


def test_within_a_boot_time_with_the_daemon_off_counts() -> None:
    clock = MeshClock(1234.5, BOOT)
    resumed = resume_clock(clock.encode(), last_ms=0)
    assert resumed == clock
    assert resumed.now() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME) + 1234.5, abs=5)


@pytest.mark.parametrize("offset", [-9_876_543.25, 0.0, 1e9])
def test_any_offset_comes_back(offset: float) -> None:
    assert resume_clock(MeshClock(offset, BOOT).encode(), 0).offset_s == offset


def test_after_another_boot_it_goes_on_where_it_was_last_seen() -> None:
    before = MeshClock(5.0, "another boot")
    clock = resume_clock(before.encode(), last_ms=777_000)
    assert clock.boot_id == BOOT
    assert 777.0 < clock.now() < 837.0
    assert clock.now_ms() >= 777_000


def test_damage_is_noticed() -> None:
    with pytest.raises(ShapeError):
        resume_clock(encode(["x"]), 0)
