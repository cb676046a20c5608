"""What a disk may hold after a power cut: all that was synced, and of the rest anything.

Of what was written to a file after its last sync, each sector of 512 bytes may be there or not, and one may be torn.
Where a file became longer, a sector that is missing reads as zeros or as what lay there before. After a sync that
failed, nobody knows either, and a later sync does not help. The same goes for names in the directory.
"""

import random
from collections.abc import Mapping, Sequence

import attrs

from tests.store.disk import Op, Step

SECTOR_BYTES = 512
_FILLS = (b"\0", b"\xa5")

Files = Mapping[str, bytes]
"""Name -> content."""


@attrs.define(eq=False)
class _File:
    """``held``: on the platter; ``unsynced``: sectors and truncations since."""

    held: bytearray
    unsynced: list[Step] = attrs.field(factory=list)

    def add(self, step: Step) -> None:
        if step.op is Op.TRUNCATE:
            self.unsynced.append(step)
            return
        start = 0
        while start < len(step.data):
            end = start + SECTOR_BYTES - (step.number + start) % SECTOR_BYTES
            self.unsynced.append(attrs.evolve(step, number=step.number + start, data=step.data[start:end]))
            start = end

    def settle(self, rng: random.Random | None) -> None:
        """Everything is on the platter; with ``rng``: any part of it."""
        share = 1.0 if rng is None else rng.choice((0.0, 0.5, rng.random(), 1.0))
        torn = rng.randrange(len(self.unsynced)) if rng is not None and self.unsynced and rng.random() < 0.5 else -1
        fill = b"\0" if rng is None else rng.choice(_FILLS)
        for place, step in enumerate(self.unsynced):
            if rng is not None and place != torn and rng.random() >= share:
                if rng.random() < 0.3:
                    self._reach(step.number + len(step.data), fill)
                continue
            self._reach(step.number, fill)
            if step.op is Op.TRUNCATE:
                del self.held[step.number :]
                continue
            data = step.data if rng is None or place != torn else step.data[: rng.randrange(len(step.data))]
            self.held[step.number : step.number + len(data)] = data
        self.unsynced.clear()

    def _reach(self, size: int, fill: bytes) -> None:
        self.held += fill * (size - len(self.held))


def after_cut(before: Files, steps: Sequence[Step], rng: random.Random) -> dict[str, bytes]:
    """One of the states in which a disk that held ``before`` may be after ``steps`` and a power cut."""
    entries: dict[str, _File | None] = {name: _File(bytearray(content)) for name, content in before.items()}
    current: dict[str, _File | None] = dict(entries)
    changes: list[tuple[str, _File | None]] = []
    for step in steps:
        file = current.get(step.name)
        if step.op is Op.DELETE:
            current[step.name] = None
            changes.append((step.name, None))
        elif step.op is Op.SYNC_NAMES:
            entries |= dict(changes)
            changes.clear()
        elif file is None or step.op is Op.OPEN:
            file = _File(bytearray())
            current[step.name] = file
            changes.append((step.name, file))
        if file is None or step.op in (Op.DELETE, Op.SYNC_NAMES, Op.OPEN):
            continue
        if step.op in (Op.SYNC, Op.SYNC_FAILED):
            file.settle(None if step.op is Op.SYNC else rng)
        else:
            file.add(step)
    entries |= dict(change for change in changes if rng.random() < 0.5)
    found = {name: file for name, file in entries.items() if file is not None}
    for file in found.values():
        file.settle(rng)
    return {name: bytes(file.held) for name, file in found.items()}
