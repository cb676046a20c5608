"""How far a device knows an issuer's statements, as one integer to compare with others."""

import hashlib
from collections.abc import Iterable

import attrs

from meshd.ids import MeshId
from meshd.trust.statement import Statement

_DIGEST_BITS = 32


@attrs.frozen
class Chain:
    """What is known of one issuer's chain without a gap: a digest per number, over all up to it."""

    digests: tuple[int, ...]

    @classmethod
    def of(cls, mesh_id: MeshId, statements: Iterable[Statement]) -> "Chain":
        by_number: dict[int, list[Statement]] = {}
        for statement in statements:
            by_number.setdefault(statement.number, []).append(statement)
        digest, parents, digests = bytes(mesh_id), {bytes(mesh_id)}, list[int]()
        while linked := sorted(s.id for s in by_number.get(len(digests) + 1, ()) if s.previous in parents):
            digest = hashlib.sha256(b"".join((digest, *linked))).digest()
            digests.append(int.from_bytes(digest[: _DIGEST_BITS // 8], "big"))
            parents = set(linked)
        return cls(tuple(digests))

    @property
    def head(self) -> int:
        """The last number, and the digest up to it, in one integer."""
        return len(self.digests) << _DIGEST_BITS | self.digests[-1]

    def shared_with(self, head: int) -> int:
        """The number up to which somebody with this head knows the same statements; 0 for none."""
        number, digest = head >> _DIGEST_BITS, head & (1 << _DIGEST_BITS) - 1
        if 0 < number <= len(self.digests) and self.digests[number - 1] != digest:
            return 0  # a fork: only the whole chain heals it
        return number
