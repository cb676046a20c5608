"""A daemon for these tests: the real local protocol on a real socket, with answers from a table."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs

from meshd.api import protocol
from meshd.api.arguments import check_arguments
from meshd.errors import MeshdError


@attrs.frozen
class Silence:
    """An answer that never comes."""


@attrs.frozen
class Raw:
    """Bytes instead of an answer; then the connection ends."""

    data: bytes


@attrs.frozen
class Stream:
    """Items, each a reply of its own; the stream stays open, or ends with ``end``."""

    items: tuple[Any, ...]
    end: Any = Silence()


Answer = Any
Handler = Callable[[dict[str, Any]], Answer]


@attrs.define(eq=False)
class FakeDaemon:
    """Answers each operation from ``answers``: a value, an error, Silence, Raw, Stream, or a function of the arguments.

    ``asked`` lists (operation, checked arguments) in the order they came.
    """

    path: Path
    answers: dict[str, Answer | Handler]
    asked: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)
    program: str = "0.1.0"
    _listener: socket.socket = attrs.field(init=False)
    _connections: list[socket.socket] = attrs.field(factory=list)
    _threads: list[threading.Thread] = attrs.field(factory=list)

    def __enter__(self) -> "FakeDaemon":
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._run(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for each in (self._listener, *self._connections):
            each.close()

    def arguments(self, op: str) -> dict[str, Any]:
        """What the only request of this operation carried."""
        (found,) = [arguments for asked, arguments in self.asked if asked == op]
        return found

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # shut down
                return
            self._connections.append(connection)
            self._run(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        splitter = protocol.FrameSplitter()
        greeted = False
        with contextlib.suppress(OSError):  # the client is gone
            connection.sendall(protocol.encode_hello(self.program))
            while data := connection.recv(65536):
                for frame in splitter.feed(data):
                    if not greeted:
                        protocol.decode_hello(frame)
                        greeted = True
                    elif not self._answer(connection, frame):
                        connection.shutdown(socket.SHUT_RDWR)
                        return

    def _answer(self, connection: socket.socket, frame: bytes) -> bool:
        number, op, raw = protocol.decode_request(frame)
        try:
            arguments = check_arguments(op, raw)
        except MeshdError as error:
            connection.sendall(protocol.encode_error(number, error))
            return True
        self.asked.append((op, arguments))
        if op in protocol.UNANSWERED:
            return True
        answer = self.answers[op]
        if callable(answer):
            answer = answer(arguments)
        if isinstance(answer, Raw):
            connection.sendall(answer.data)
            return False
        if isinstance(answer, Stream):  # beside the reading, as the real one does: else two full sockets wait for ever
            self._run(self._stream, connection, number, answer)
            return True
        self._say(connection, number, answer)
        return True

    def _stream(self, connection: socket.socket, number: int, stream: Stream) -> None:
        with contextlib.suppress(OSError):  # the client is gone
            for item in stream.items:
                connection.sendall(protocol.encode_reply(number, protocol.ITEM, item))
            self._say(connection, number, stream.end)

    @staticmethod
    def _say(connection: socket.socket, number: int, answer: Answer) -> None:
        if isinstance(answer, MeshdError):
            connection.sendall(protocol.encode_error(number, answer))
        elif not isinstance(answer, Silence):
            connection.sendall(protocol.encode_reply(number, protocol.RESULT, answer))
