"""How much of a reader's credit to pass on: credit counts messages, buffers are bounded in bytes."""

from meshd.api.arguments import MAX_PAYLOAD_BYTES

_MAX_OUTSTANDING = 8192
"""Messages: enough for every batch on its way, and few enough when small messages turn large."""


class Window:
    """One subscription's credit: some is held here, some is outstanding with whoever delivers.

    A message is taken to be 1 MiB until the first has been seen; after that by the size of the
    last batch, and large batches are remembered for a while.
    """

    def __init__(self, credit: int) -> None:
        self._held = credit
        self._outstanding = 0
        self._message_bytes: int | None = None

    def add(self, messages: int) -> None:
        """The reader is ready for ``messages`` more."""
        self._held += messages

    def delivered(self, messages: int, size_bytes: int) -> None:
        """A batch has come; it may be more than was granted, by up to one batch."""
        self._outstanding -= messages
        mean = max(1, size_bytes // max(1, messages))
        self._message_bytes = mean if self._message_bytes is None else max(mean, self._message_bytes // 2)

    def grant(self, room_bytes: int) -> int:
        """How many messages to grant now, given so much room; they become outstanding."""
        limit = min(max(0, room_bytes) // (self._message_bytes or MAX_PAYLOAD_BYTES), _MAX_OUTSTANDING)
        if self._outstanding > limit // 2:  # by halves, not one by one
            return 0
        granted = min(self._held, limit - self._outstanding)
        self._held -= granted
        self._outstanding += granted
        return granted
