"""The client's half of the protocol without any I/O: bytes in, replies out."""

import re
from collections.abc import Iterator
from typing import Any

import attrs

from meshd import __version__
from meshd.api import protocol
from meshd.errors import MeshdError
from meshd.wire.codec import ShapeError

GREETING = protocol.encode_hello(__version__)
"""What a client sends first."""

_OURS = protocol.Hello(protocol.PROTOCOL_VERSION, __version__)


@attrs.frozen
class SendResult:
    """A message's id, and the state it has reached."""

    id: str
    state: str


class Session:
    """One connection's state: the hello that is due, half a frame, the last request id."""

    def __init__(self) -> None:
        self._splitter = protocol.FrameSplitter()
        self._last_id = 0
        self.daemon: protocol.Hello | None = None

    def request(self, op: str, arguments: dict[str, Any]) -> tuple[int, bytes]:
        """A new request's id and bytes. Raises MeshdError: E_TOO_LARGE, E_USAGE for what is no plain data."""
        self._last_id += 1
        return self._last_id, protocol.encode_request(self._last_id, op, arguments)

    def receive(self, data: bytes) -> Iterator[protocol.Reply]:
        """Yield the replies that ``data`` completes.

        Raises MeshdError when the connection is of no use any more: ``E_UNSUPPORTED`` when the other
        side is another version or no meshd, else what the daemon gave as its reason.
        """
        try:
            for item in self._splitter.feed(data):
                if self.daemon is None:
                    self.daemon = protocol.decode_hello(item)
                    protocol.require_same_version(daemon=self.daemon, client=_OURS)
                    continue
                reply = protocol.decode_reply(item)
                if reply[0] == protocol.CONNECTION:
                    raise reply[2] if reply[1] == protocol.ERROR else ShapeError("an answer to nothing")
                yield reply
        except ShapeError as error:
            raise MeshdError(
                "E_UNSUPPORTED", f"What answers on this socket does not speak meshd's protocol: {error}."
            ) from error


def unknown_operation(error: MeshdError, op: str, daemon: str) -> MeshdError:
    """What to tell a person about ``E_UNSUPPORTED`` from a daemon that speaks our protocol, and not all of it."""
    if error.code != "E_UNSUPPORTED" or daemon == __version__:
        return error
    is_older = _parts(daemon) < _parts(__version__)
    return MeshdError(
        "E_UNSUPPORTED",
        f"meshd {daemon} does not know the request {op!r} of this program, which is {__version__}: "
        f"the daemon is {'older' if is_older else 'newer'}.",
        protocol.DAEMON_IS_OLDER if is_older else protocol.CLIENT_IS_OLDER,
    )


def _parts(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version)]


def lifetime_in_ms(lifetime: float | None) -> int | None:
    """A lifetime in seconds as a request has it. Raises MeshdError(E_USAGE) for what is no number of seconds."""
    try:
        return None if lifetime is None else round(lifetime * 1000)
    except (TypeError, ValueError, OverflowError) as error:
        raise MeshdError("E_USAGE", f"send: {lifetime!r:.60} is no lifetime in seconds.") from error


def lost(what: str = "the answer") -> MeshdError:
    """The error for a request whose connection ended before its answer came."""
    return MeshdError("E_NO_DAEMON", f"The connection to meshd was lost before {what} came.")


def outcome_unknown() -> MeshdError:
    """The error for a send whose connection ended before its answer came."""
    return MeshdError(
        "E_NO_DAEMON",
        "The connection to meshd was lost before it answered: whether the message was accepted is unknown.",
        "Send it again with the same key: that is safe. Without a key it may then arrive twice.",
    )
