"""Batteries as sysfs shows them, and the kernel's events about them."""

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from meshd.discovery.power import is_on_battery, watch_power
from tests.needs import require

MAINS = {"type": "Mains", "online": "1"}
UNPLUGGED = {"type": "Mains", "online": "0"}
DRAINED = {"type": "Battery", "status": "Discharging"}
FULL = {"type": "Battery", "status": "Full"}
MOUSE = {"type": "Battery", "status": "Discharging", "scope": "Device"}


def machine(root: Path, *supplies: dict[str, str]) -> Path:
    for number, supply in enumerate(supplies):
        place = root / str(number)
        place.mkdir(exist_ok=True)
        for name, value in supply.items():
            (place / name).write_text(value + "\n")
    return root


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ((), False),
        ((MAINS,), False),
        ((UNPLUGGED, DRAINED), True),
        ((MAINS, DRAINED), False),
        ((UNPLUGGED, FULL), False),
        ((DRAINED,), True),
        ((MOUSE,), False),
        ((MAINS, MOUSE), False),
        (({"type": "USB", "online": "0"}, {"type": "USB", "online": "1"}, DRAINED), False),
        (({}, DRAINED), True),
    ],
)
def test_only_a_drained_battery_that_nothing_else_relieves_counts(
    tmp_path: Path, supplies: tuple[dict[str, str], ...], expected: bool
) -> None:
    assert is_on_battery(machine(tmp_path, *supplies)) is expected


def test_a_machine_without_such_a_directory_is_on_mains(tmp_path: Path) -> None:
    assert not is_on_battery(tmp_path / "none")


def tell(text: bytes) -> None:
    """Say what the kernel would."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as kernel:
        try:
            kernel.sendto(text, (0, 1))
        except PermissionError:
            require("root, who alone may speak for the kernel")


def test_a_change_is_told_once_and_other_events_are_not_looked_at(tmp_path: Path) -> None:
    told: list[bool] = []
    changed = trio.Event()

    async def post(on_battery: bool) -> None:
        told.append(on_battery)
        if len(told) > 1:
            changed.set()

    async def body() -> None:
        root = machine(tmp_path, MAINS, DRAINED)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: watch_power(post, supplies=root))
                await trio.testing.wait_all_tasks_blocked()
                machine(tmp_path, UNPLUGGED)
                tell(b"change@/devices/x\0SUBSYSTEM=block\0")
                await trio.testing.wait_all_tasks_blocked()
                assert told == [False]
                for _ in range(3):
                    tell(b"change@/devices/ac\0ACTION=change\0SUBSYSTEM=power_supply\0")
                await changed.wait()
                nursery.cancel_scope.cancel()
        assert told == [False, True]

    trio.run(body)
