"""Meshes made by hand, once per process: identities and signatures take more time than a run has."""

import functools
import hashlib

import attrs

from meshd.store.ops import Op, PutFact
from meshd.trust.identity import Identity
from meshd.trust.roster import found


@functools.cache
def device(number: int) -> Identity:
    """The same number, the same device."""
    return Identity.from_seed(number.to_bytes(32, "big"))


@attrs.frozen
class Mesh:
    """A founder (device 0) and the statements by which it has added the others, in order."""

    genesis: bytes
    additions: tuple[bytes, ...]

    def facts(self, known: int) -> list[Op]:
        """What is on the disk of a device that knows of the first ``known`` devices."""
        statements = self.additions[: known - 1]
        return [
            PutFact("genesis", b"", self.genesis),
            *(PutFact("statement", hashlib.sha256(data).digest(), data) for data in statements),
        ]


def name_of(number: int) -> str:
    """What a device is called, on the network too."""
    return f"n{number}"


@functools.cache
def mesh_of(count: int) -> Mesh:
    """A mesh of that many devices; device 0 is the only admin."""
    roster = found(device(0), "home", name_of(0), Identity.from_seed(b"R" * 32).public_key)
    additions: list[bytes] = []
    for number in range(1, count):
        statement = roster.add(device(0), device(number).certificate, name_of(number), "member")
        roster, _ = roster.merge([statement])
        additions.append(statement)
    return Mesh(roster.genesis, tuple(additions))
