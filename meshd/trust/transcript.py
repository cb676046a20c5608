"""What the two ends of a link sign in their handshake; docs/protocol.md lists the parts in their order."""

import hashlib

import attrs

from meshd.ids import Epoch, to_text
from meshd.wire import codec
from meshd.wire.frames import plain_epoch

_TAG_LABEL = b"meshd/link-tag/v1"


@attrs.frozen(kw_only=True)
class Transcript:
    """What both sides know of the handshake, apart from their epochs."""

    mesh_id: bytes
    alpn: str
    offered: tuple[int, ...]
    chosen: int
    dialer_key: bytes
    listener_key: bytes
    dialer_nonce: bytes
    listener_nonce: bytes
    listener_certificate: bytes

    @property
    def tag(self) -> str:
        """A short name for the link."""
        return to_text(hashlib.sha256(_TAG_LABEL + self.dialer_nonce + self.listener_nonce).digest()[:5])

    def proof(self, dialer: Epoch, seen: Epoch | None) -> tuple[bytes, ...]:
        """What the dialer signs: with its epoch, and the one of the listener that it has seen."""
        return (*self._parts(), _plain(dialer), _plain(seen))

    def welcome(self, dialer: Epoch, listener: Epoch, seen: Epoch | None) -> tuple[bytes, ...]:
        """What the listener signs: with both epochs, and the one of the dialer that it has seen."""
        return (*self._parts(), _plain(dialer), _plain(listener), _plain(seen))

    def _parts(self) -> tuple[bytes, ...]:
        return (
            self.mesh_id,
            codec.encode([list(self.offered), self.chosen, self.alpn]),
            self.dialer_key,
            self.listener_key,
            self.dialer_nonce,
            self.listener_nonce,
            hashlib.sha256(self.listener_certificate).digest(),
        )


def _plain(epoch: Epoch | None) -> bytes:
    return b"" if epoch is None else codec.encode(plain_epoch(epoch))
