"""Tokens of the HTTP gateway: who may do more than look, over TCP.

Only a hash is kept. A token is 160 random bits, so that a fast hash without salt is as good as a slow one.
"""

import base64
import hashlib
import random
from collections.abc import Callable
from typing import Any

import attrs

from meshd.errors import MeshdError
from meshd.node.requests import CreateToken, Result, RevokeToken
from meshd.node.turn import Turn
from meshd.store.ops import DeleteFact, PutFact
from meshd.store.reads import Snapshot
from meshd.wire import codec
from meshd.wire.codec import blob, record, uint

FACT_KIND = "token"
PREFIX = "meshd_"
"""What every token begins with, so that one that is found lying about is known for what it is."""

MAX_TOKENS = 256
_SECRET_BYTES = 20
_LABEL = b"meshd/token/v1"
_STORED = record(lambda digest, made_ms: (digest, made_ms), blob(32), uint())


@attrs.frozen
class _Token:
    """``made_ms`` is mesh-local."""

    name: str
    made_ms: int


class Tokens:
    """All tokens, by the hash of each. ``rng`` must be fit for secrets."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._by_hash: dict[bytes, _Token] = {}

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the last life's."""
        for key, value in snapshot.facts.get(FACT_KIND, {}).items():
            digest, made_ms = _STORED(codec.decode(value))
            self._by_hash[digest] = _Token(key.decode(), made_ms)

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None when nobody's. What a look-up by hash takes tells nothing of the token."""
        found = self._by_hash.get(_digest(token))
        return None if found is None else found.name

    def create(self, turn: Turn, request: CreateToken, moment: Callable[[float, float], str]) -> None:
        """Make a token; told once, when it is durable. Raises MeshdError."""
        name = request.name
        if any(token.name == name for token in self._by_hash.values()):
            raise MeshdError("E_USAGE", f"There is a token {name} already.", "Choose another name, or revoke it first.")
        if len(self._by_hash) >= MAX_TOKENS:
            raise MeshdError("E_BUSY", f"There are {MAX_TOKENS} tokens.", "Revoke those that nobody uses.")
        secret = base64.b32encode(self._rng.randbytes(_SECRET_BYTES)).decode().lower()
        digest = _digest(PREFIX + secret)
        self._by_hash[digest] = _Token(name, turn.now_ms)
        turn.ops.append(PutFact(FACT_KIND, name.encode(), codec.encode([digest, turn.now_ms])))
        answer = {"name": name, "token": PREFIX + secret, "created": moment(turn.now, turn.now)}
        turn.answer_when_durable(request, Result(answer))

    def revoke(self, turn: Turn, request: RevokeToken) -> None:
        """From now on it opens nothing. Raises MeshdError."""
        found = [digest for digest, token in self._by_hash.items() if token.name == request.name]
        if not found:
            raise MeshdError("E_UNKNOWN_TOKEN", f"There is no token called {request.name[:64]!r}.")
        for digest in found:
            del self._by_hash[digest]
        turn.ops.append(DeleteFact(FACT_KIND, request.name.encode()))
        turn.answer_when_durable(request, Result({"name": request.name}))

    def listed(self, now: float, moment: Callable[[float, float], str]) -> list[dict[str, Any]]:
        """``meshctl token list``."""
        tokens = sorted(self._by_hash.values(), key=lambda token: token.name.casefold())
        return [{"name": token.name, "created": moment(token.made_ms / 1000, now)} for token in tokens]


def _digest(token: str) -> bytes:
    return hashlib.sha256(_LABEL + token.encode("utf-8", "surrogateescape")).digest()
