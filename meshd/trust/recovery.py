"""The recovery key as words: what a person writes down at ``init`` and types in an emergency."""

import hashlib
import random

from meshd.errors import MeshdError
from meshd.ids import from_text, to_text
from meshd.trust.identity import SEED_SIZE, Identity

_CHECK_SIZE = 3
_WORD = 4
_LOOK_ALIKE = str.maketrans({"0": "o", "1": "l", "8": "b", "-": None})


def new_recovery(rng: random.Random) -> tuple[bytes, bytes]:
    """A new recovery key: its secret seed (32 bytes), and its public half (32 bytes)."""
    seed = rng.randbytes(SEED_SIZE)
    return seed, Identity.from_seed(seed).public_key


def recovery_words(seed: bytes) -> str:
    """The seed as 14 words of four letters, the end of which is a checksum."""
    text = to_text(seed + _checksum(seed))
    return " ".join(text[at : at + _WORD] for at in range(0, len(text), _WORD))


def recovery_seed(words: str) -> bytes:
    """Inverse of :func:`recovery_words`; forgives case, blanks, hyphens, and 0, 1, 8 for o, l, b.

    Raises MeshdError (``E_USAGE``).
    """
    text = "".join(words.lower().translate(_LOOK_ALIKE).split())
    try:
        raw = from_text(text)
    except ValueError as error:
        raise _not_words() from error
    seed, check = raw[:SEED_SIZE], raw[SEED_SIZE:]
    if len(seed) != SEED_SIZE or check != _checksum(seed):
        raise _not_words()
    return seed


def _not_words() -> MeshdError:
    return MeshdError("E_USAGE", "These are not the recovery words.", "Check each of the 14 words for a slip.")


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(b"meshd/recovery-words/v1" + seed).digest()[:_CHECK_SIZE]
