"""A client that blocks, for scripts and for meshctl: no event loop, and little to import.

    with Client() as client:
        client.send("kitchen-pi", b"hello")
        for delivery in client.receive("alarms"):
            print(delivery.source_name, delivery.payload)

One thread at a time, another is refused meanwhile (``E_USAGE``); and never in a fork of the process.
"""

import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from meshd.api import protocol
from meshd.api.arguments import MAX_ACK_RANGES, MAX_CREDIT
from meshd.client.delivery import Batch, Delivery, Spans, each, read_batch
from meshd.client.session import GREETING, SendResult, Session, lifetime_in_ms, lost, outcome_unknown, unknown_operation
from meshd.client.sockets import deadline_after, find_socket, open_socket, remaining_s
from meshd.errors import MeshdError

__all__ = ["Client", "Delivery", "SendResult", "Stream", "Subscription", "find_socket"]

_READ_BYTES = 256 * 1024
_WINDOW = 256
"""Messages a subscription is ready for when nothing else was asked."""

Answer: TypeAlias = tuple[int, Any]


class Client:
    """A connection to the daemon of this device.

    Args:
        socket_path: None to look where ``meshctl`` looks.
        timeout: seconds that a call may take unless it says otherwise; None for no limit.

    Raises MeshdError: ``E_NO_DAEMON``, ``E_PERMISSION``, ``E_BUSY``, ``E_UNSUPPORTED``, ``E_TIMEOUT``.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.timeout = timeout
        self._session = Session()
        self._answers: dict[int, deque[Answer]] = {}
        self._failure: MeshdError | None = None
        self._process = os.getpid()
        self._turn = threading.RLock()
        self._socket = open_socket(os.fspath(socket_path) if socket_path else None, environ, timeout)
        try:
            deadline = deadline_after(timeout)
            self._write(GREETING, deadline)
            while self._session.daemon is None:
                self._read(deadline)
            self.daemon_version: str = self._session.daemon.program
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection: the daemon drops this client's subscriptions."""
        self._socket.close()
        self._failure = self._failure or MeshdError("E_NO_DAEMON", "This client is closed.")

    def call(self, op: str, args: dict[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Ask one thing and return the answer, as plain data.

        Raises MeshdError: what the daemon answered; ``E_TIMEOUT`` after ``timeout`` seconds (the
        client's own when None), the request then given up; ``E_NO_DAEMON`` when the connection ends.
        """
        with self._alone():
            return self._call(op, args or {}, deadline_after(self.timeout if timeout is None else timeout))

    def _call(self, op: str, args: dict[str, Any], deadline: float | None) -> Any:
        request_id = self._request(op, args, deadline)
        try:
            return self._wait(request_id, deadline)[1]
        except MeshdError as error:
            if error.code == "E_TIMEOUT":
                self.cancel(request_id)
            if op == "send" and self._failure is error:
                raise outcome_unknown() from error
            explained = unknown_operation(error, op, self.daemon_version)
            if explained is not error:
                raise explained from error
            raise
        finally:
            del self._answers[request_id]

    def stream(self, op: str, args: dict[str, Any] | None = None, *, timeout: float | None = None) -> "Stream":
        """Ask for a stream of items; ``timeout`` is for each of them (None: as long as it takes).

        A ``subscribe`` without ``credit`` gets some, and more as its items are taken; with
        ``credit`` in ``args`` more is the caller's to give.
        """
        arguments = dict(args or {})
        window = _WINDOW if op == "subscribe" and "credit" not in arguments else None
        if window:
            arguments["credit"] = window
        with self._alone():
            request_id = self._request(op, arguments, deadline_after(self.timeout))
        return Stream(self, request_id, timeout, window)

    def cancel(self, request_id: int) -> None:
        """Give up on a request; the daemon forgets it, and its answer is not waited for."""
        self.tell("cancel", {"target": request_id})

    def tell(self, op: str, args: dict[str, Any]) -> None:
        """Send a request that has no answer (``cancel``, ``credit``)."""
        if self._usable:
            with self._alone():
                self._write(self._session.request(op, args)[1], deadline_after(self.timeout))

    def send(
        self,
        destination: str,
        payload: bytes,
        *,
        service: str = "default",
        priority: str = "normal",
        lifetime: float | None = None,
        ephemeral: bool = False,
        wait: str = "accepted",
        key: str | None = None,
        headers: dict[str, str] | None = None,
        reply_to: str | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send one message; ``lifetime`` in seconds. Returns when it has reached the state ``wait``.

        Raises MeshdError. When the connection ends before the answer the outcome is unknown, and
        sending again with the same ``key`` is safe.
        """
        answer = self.call(
            "send",
            {
                "destination": destination,
                "service": service,
                "messages": [[payload, headers or {}, reply_to] if headers or reply_to else payload],
                "priority": priority,
                "lifetime_ms": lifetime_in_ms(lifetime),
                "ephemeral": ephemeral,
                "wait": wait,
                "key": key,
            },
            timeout,
        )
        return SendResult(answer["ids"][0], answer["state"])

    def subscribe(
        self, service: str = "default", consumer: str = "default", *, credit: int | None = None
    ) -> "Subscription":
        """Read a service as a durable named consumer; with ``credit``, that many messages and no more."""
        args: dict[str, Any] = {"service": service, "consumer": consumer}
        return Subscription(self, self.stream("subscribe", args if credit is None else {**args, "credit": credit}))

    def receive(
        self,
        service: str = "default",
        *,
        consumer: str = "default",
        count: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[Delivery["Subscription"]]:
        """Yield messages, ``count`` of them or for ever; each is acknowledged when the next is asked for.

        Raises MeshdError(E_TIMEOUT) when none comes for ``timeout`` seconds.
        """
        credit = None if count is None or count > MAX_CREDIT else count
        with self.subscribe(service, consumer, credit=credit) as subscription:
            for _ in range(count) if count is not None else itertools.count():
                delivery = subscription.next(timeout)
                yield delivery
                subscription.ack(delivery)

    # --- the connection -------------------------------------------------------------------

    @property
    def _usable(self) -> bool:
        return self._failure is None and os.getpid() == self._process

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """For one thing that is asked, or waited for: two threads would take each other's answers."""
        if not self._turn.acquire(blocking=False):
            raise MeshdError("E_USAGE", "Another thread is using this client.", "Make a Client for each thread.")
        try:
            yield
        finally:
            self._turn.release()

    def _require_usable(self) -> None:
        if self._failure is not None:
            raise self._failure.again()
        if os.getpid() != self._process:  # two would write into one connection, and take each other's answers
            raise MeshdError(
                "E_USAGE",
                "This client is of another process: the one that has forked this one.",
                "Make a Client in each process.",
            )

    def _request(self, op: str, args: dict[str, Any], deadline: float | None) -> int:
        self._require_usable()
        request_id, data = self._session.request(op, args)
        self._answers[request_id] = deque()
        try:
            self._write(data, deadline)
        except BaseException:
            del self._answers[request_id]
            raise
        return request_id

    def _wait(self, request_id: int, deadline: float | None) -> Answer:
        """The next answer to a request; an error is raised."""
        answers = self._answers[request_id]
        while not answers:
            self._read(deadline)
        kind, value = answers.popleft()
        if kind == protocol.ERROR:
            raise value
        return kind, value

    def _write(self, data: bytes, deadline: float | None) -> None:
        try:
            self._socket.settimeout(remaining_s(deadline))
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:  # perhaps in the middle of a frame
            raise self._fail(MeshdError("E_TIMEOUT", "meshd did not take the request in time.")) from error
        except OSError as error:
            raise self._fail(self._last_words(lost())) from error
        except BaseException:  # of a signal's handler, perhaps in the middle of a frame: the next would be part of it
            self._fail(lost())
            raise

    def _read(self, deadline: float | None) -> None:
        """Wait for bytes and file the answers in them."""
        self._require_usable()
        try:
            self._socket.settimeout(remaining_s(deadline))
            data = self._socket.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError) as error:
            raise MeshdError("E_TIMEOUT", "The answer did not come in time.") from error
        except OSError as error:
            raise self._fail(lost()) from error
        if not data:
            raise self._fail(lost())
        self._file(data)

    def _file(self, data: bytes) -> None:
        try:
            for request_id, kind, value in self._session.receive(data):
                answers = self._answers.get(request_id)
                if answers is not None:  # else it was given up
                    answers.append((kind, value))
        except MeshdError as error:
            raise self._fail(error) from error.__cause__
        except BaseException:  # of a signal's handler: which answers are filed is unknown
            self._fail(lost())
            raise

    def _last_words(self, error: MeshdError) -> MeshdError:
        """Why the daemon closed, when it said so before our write failed."""
        try:
            self._socket.settimeout(0)
            self._file(self._socket.recv(_READ_BYTES))
        except OSError:
            return error
        except MeshdError as said:
            return said
        return error

    def _fail(self, error: MeshdError) -> MeshdError:
        self._failure = error
        self._socket.close()
        return error


class Stream:
    """The items of one request, as they come; ends with its result. ``id`` names it in other requests."""

    def __init__(self, client: Client, request_id: int, timeout: float | None, window: int | None) -> None:
        self.id = request_id
        self._client = client
        self._timeout = timeout
        self._window = window
        self._taken = 0
        self._ended = False
        self.result: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next(self._timeout)

    def next(self, timeout: float | None = None) -> Any:
        """The next item. Raises StopIteration at the end, MeshdError(E_TIMEOUT) after ``timeout`` seconds."""
        if self._ended:
            raise StopIteration
        with self._client._alone():
            return self._next(timeout)

    def _next(self, timeout: float | None) -> Any:
        try:
            kind, value = self._client._wait(self.id, deadline_after(timeout))
        except MeshdError as error:
            if error.code != "E_TIMEOUT":
                self._end()
            raise
        if kind == protocol.RESULT:
            self.result = value
            self._end()
            raise StopIteration
        if self._window is not None:
            self._top_up(value)
        return value

    def cancel(self) -> None:
        """Give up the rest of the stream; a subscription's lease is released."""
        if not self._ended:
            self._end()
            self._client.cancel(self.id)

    def _end(self) -> None:
        self._ended = True
        self._client._answers.pop(self.id, None)

    def _top_up(self, batches: Any) -> None:
        self._taken += sum(batch[2] for batch in batches)
        if self._window is not None and self._taken >= self._window // 2:
            self._client.tell("credit", {"subscription": self.id, "messages": self._taken})
            self._taken = 0


class Subscription:
    """Messages of one service, one by one. Leaving the block acknowledges what was, and releases the lease."""

    def __init__(self, client: Client, stream: Stream) -> None:
        self._client = client
        self._stream = stream
        self._waiting: deque[Delivery[Subscription]] = deque()
        self._acks = Spans()

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._client._usable:
            try:
                self.flush()
            finally:
                self._stream.cancel()

    def __iter__(self) -> "Iterator[Delivery[Subscription]]":
        while True:
            yield self.next()

    def next(self, timeout: float | None = None) -> "Delivery[Subscription]":
        """The next message; with a ``timeout`` of 0 only if it is there already.

        Raises MeshdError: ``E_TIMEOUT`` after ``timeout`` seconds, or why it ended.
        """
        while not self._waiting:
            self.flush()  # what was handed out is done with, as far as it ever will be
            try:
                item = self._stream.next(timeout)
            except StopIteration:
                raise MeshdError("E_STOPPING", "The daemon ended the subscription.") from None
            for batch in item:
                self._waiting.extend(each(read_batch(batch), Delivery, self))
        return self._waiting.popleft()

    def ack(self, what: "Delivery[Subscription] | Batch") -> None:
        """Mark as done: told to the daemon before the next wait, by :meth:`flush`, and on leaving."""
        if isinstance(what, Delivery):
            self._acks.add(what.priority, what.sequence, what.sequence)
        else:
            self._acks.add(what.priority, what.first_offset, what.first_offset + what.count - 1)

    def flush(self) -> None:
        """Return when every ack so far is on disk. Raises MeshdError."""
        while self._acks:
            self._client.call("ack", {"subscription": self._stream.id, "ranges": self._acks.take(MAX_ACK_RANGES)})
