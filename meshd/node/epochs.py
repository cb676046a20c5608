"""The epoch that a life begins with. Pure."""

import random

from meshd.ids import Epoch
from meshd.store.ops import PutFact
from meshd.store.reads import Snapshot
from meshd.wire import codec
from meshd.wire.frames import plain_epoch


def next_epoch(snapshot: Snapshot, rng: random.Random) -> tuple[Epoch, PutFact]:
    """The epoch of the life that begins, above all earlier ones; to be committed before the node starts."""
    stored = snapshot.facts.get("epoch", {}).get(b"")
    counter = codec.decode(stored)[0] + 1 if stored is not None else 1
    epoch = Epoch(counter, rng.randbytes(8))
    return epoch, PutFact("epoch", b"", codec.encode(plain_epoch(epoch)))
