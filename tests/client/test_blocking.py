"""The blocking client against a daemon in another thread."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshd.api import protocol
from meshd.api.arguments import MAX_CREDIT
from meshd.client.blocking import Client
from meshd.client.delivery import Batch
from meshd.errors import MeshdError
from meshd.ids import BundleRef, Priority
from meshd.node import requests
from tests.api.node import SOURCE
from tests.client.served import served


def test_calls_and_their_errors(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=5) as client:
        assert client.daemon_version == "0.1.0"
        assert client.call("status") == {"view": "status", "argument": None}
        result = client.send("pi", b"hello", wait="delivered", headers={"a": "b"}, reply_to="answers", lifetime=1.5)
        assert (result.id, result.state) == ("aaaaaaaaaaaaaaab-0", "delivered")
        sent = daemon.look(lambda node: next(r for r in node.seen if isinstance(r, requests.Submit)))
        assert (sent.messages[0].headers, sent.messages[0].reply_to, sent.lifetime_ms) == ({"a": "b"}, "answers", 1500)
        with pytest.raises(MeshdError) as caught:
            client.send("nobody", b"")
        assert caught.value.code == "E_UNKNOWN_DEVICE"
        with pytest.raises(MeshdError) as caught:
            client.send("pi", bytes(2**20 + 1))
        assert caught.value.code == "E_TOO_LARGE"


def test_time_out_gives_up_the_request_and_the_client_goes_on(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path) as client:
        with pytest.raises(MeshdError) as caught:
            client.send("slow", b"", timeout=0.05)
        assert caught.value.code == "E_TIMEOUT"
        daemon.until(lambda node: any(isinstance(request, requests.Cancel) for request in node.seen))
        assert client.call("peers")["view"] == "peers"


def test_receive_acknowledges_what_was_handled(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=5) as client:
        for number in range(5):
            client.send("pi", b"%d" % number, priority="high", headers={"n": str(number)})
        got = list(client.receive(count=3, timeout=5))
        assert [delivery.payload for delivery in got] == [b"0", b"1", b"2"]
        assert [delivery.sequence for delivery in got] == [0, 1, 2]
        assert got[1].headers == {"n": "1"}
        assert got[0].priority is Priority.HIGH
        assert got[0].source_name == "sender"
        assert got[0].age_s == 1.5
        daemon.until(lambda node: not node.subscriptions)
        assert daemon.look(lambda node: node.acked["default"]) == {0, 1, 2}
        for delivery in client.receive(timeout=5):
            assert delivery.payload == b"3"
            break  # not known to be handled
        assert daemon.look(lambda node: node.acked["default"]) == {0, 1, 2}


def test_receive_times_out_when_nothing_comes(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path) as client:
        with pytest.raises(MeshdError) as caught:
            next(client.receive(timeout=0.05))
        assert caught.value.code == "E_TIMEOUT"


def test_stream_tops_up_its_credit(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=5) as client:
        for _ in range(10):
            client.call("send", {"destination": "pi", "messages": [b"x"] * 100})
        stream = client.stream("subscribe", timeout=5)
        assert sum(next(stream)[0][2] for _ in range(10)) == 1000
        stream.cancel()
        daemon.until(lambda node: not node.subscriptions)


def test_leased_service_says_so(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path) as one, Client(daemon.path) as two:
        one.stream("subscribe")
        daemon.until(lambda node: node.subscriptions)
        with pytest.raises(MeshdError) as caught:
            next(two.stream("subscribe", timeout=5))
        assert caught.value.code == "E_LEASED"


def test_daemon_lost_during_a_send_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:

        def stop() -> None:
            daemon.until(lambda node: any(isinstance(request, requests.Submit) for request in node.seen))
            daemon.stop()

        threading.Thread(target=stop).start()
        with pytest.raises(MeshdError, match="unknown") as caught:
            client.send("slow", b"", key="k")
        assert caught.value.code == "E_NO_DAEMON"
        assert "same key" in caught.value.hint
        with pytest.raises(MeshdError) as caught:
            client.call("status")
        assert caught.value.code == "E_NO_DAEMON"
        daemon.thread.join(10)


def answering(path: Path, first: bytes = b"", later: bytes = b"") -> threading.Thread:
    """Something that takes one connection, sends ``first``, ``later`` once asked, and waits for the client to go."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as accepted:
            accepted.sendall(first)
            while data := accepted.recv(65536):
                if b"subscribe" in data:
                    accepted.sendall(later)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_daemon_of_another_version_is_named(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s", protocol.frame(["meshd-api", 7, "3.0"]))
    with pytest.raises(MeshdError, match=r"meshd 3\.0 speaks version 7") as caught:
        Client(tmp_path / "s", timeout=5)
    thread.join(10)
    assert caught.value.code == "E_UNSUPPORTED"


@pytest.mark.parametrize("garbage", [b"SSH-2.0-x\r\n", protocol.frame({}), protocol.frame(["meshd-api", "one", "x"])])
def test_something_else_on_the_socket_is_named(tmp_path: Path, garbage: bytes) -> None:
    thread = answering(tmp_path / "s", garbage)
    with pytest.raises(MeshdError, match="does not speak") as caught:
        Client(tmp_path / "s", timeout=5)
    thread.join(10)
    assert caught.value.code == "E_UNSUPPORTED"


def test_silent_daemon_times_out(tmp_path: Path) -> None:
    thread = answering(tmp_path / "s")
    with pytest.raises(MeshdError) as caught:
        Client(tmp_path / "s", timeout=0.05)
    thread.join(10)
    assert caught.value.code == "E_TIMEOUT"


def test_garbage_batches_are_refused(tmp_path: Path) -> None:
    hello = protocol.encode_hello("0.1.0")
    item = protocol.encode_reply(1, protocol.ITEM, [[2, 0, 1, b"r" * 10]])
    thread = answering(tmp_path / "s", hello, item)
    with Client(tmp_path / "s", timeout=5) as client, pytest.raises(MeshdError, match="something else") as caught:
        next(client.receive(count=1))
    assert caught.value.code == "E_UNSUPPORTED"
    thread.join(10)


def test_after_an_interrupted_write_nothing_is_added_to_half_a_request(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a large request: what was written next became part of it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with listener, ThreadPoolExecutor(1) as pool:
            greeted = pool.submit(lambda: greet(listener.accept()[0]))
            with Client(tmp_path / "s") as client, client.subscribe() as subscription:
                subscription.ack(
                    Batch(Priority.NORMAL, 0, 1, BundleRef(b""), SOURCE, "", 0, False, False, None, (b"",))
                )
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(KeyboardInterrupt):
                    client.send("pi", bytes(2**20))
                with pytest.raises(MeshdError) as caught:
                    client.call("status")
                assert caught.value.code == "E_NO_DAEMON"
            with greeted.result(10) as daemon, daemon.makefile("rb") as stream:
                written = stream.read()
        assert b"send" in written
        assert b"status" not in written
        assert b"ack" not in written
    finally:
        signal.signal(signal.SIGALRM, before)


def greet(accepted: socket.socket) -> socket.socket:
    accepted.sendall(protocol.encode_hello("0.1.0"))
    return accepted


def test_more_may_be_received_than_credit_can_be_given_at_once(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        client.send("pi", b"x")
        assert next(client.receive(count=MAX_CREDIT + 1)).payload == b"x"


def test_large_messages_after_small_ones_wait_for_an_app_that_takes_its_time(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        for _ in range(3):
            client.call("send", {"destination": "pi", "messages": [b"x"] * 60})
        for _ in range(40):
            client.send("pi", bytes(2**20))
        received = 0
        for _ in client.receive(count=220, timeout=10):
            received += 1
            if received == 1:
                client.call("status")  # whatever was to be sent has been sent by now
        assert received == 220


def test_large_messages_for_many_subscriptions_wait_for_their_app(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        for service in "abcdefghijklmnop":
            for _ in range(4):
                client.send("pi", bytes(2**20), service=service)
        streams = [client.stream("subscribe", {"service": service, "credit": 4}) for service in "abcdefghijklmnop"]
        time.sleep(0.2)
        for stream in streams:
            assert sum([len(next(stream)) for _ in range(4)]) == 4


def test_nonsense_leaves_the_connection_alone(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        for nonsense in (10**30, datetime.now(UTC), object(), {"a": {1}}):
            with pytest.raises(MeshdError) as caught:
                client.call("status", {"at": nonsense})
            assert caught.value.code == "E_USAGE"
        client.call("status")


def test_importing_it_does_not_import_an_event_loop() -> None:
    program = "import sys, meshd.client.blocking; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["anyio", "trio", "asyncio", "zstandard", "cryptography", "structlog", "meshd.node", "meshd.wire.bundle"]
    done = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"


def test_half_a_character_is_the_callers_mistake_and_is_named(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        for nonsense in ({"service": "\udcff"}, {"headers": {"a": "\udcff"}}):
            with pytest.raises(MeshdError) as caught:
                client.send("pi", b"", **nonsense)  # type: ignore[arg-type]
            assert (caught.value.code, r"'\udcff'" in caught.value.message) == ("E_USAGE", True)
        client.call("status")


@pytest.mark.parametrize("lifetime", [float("nan"), float("inf"), "5"])
def test_lifetime_that_is_no_number_of_seconds_is_named(tmp_path: Path, lifetime: float) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        with pytest.raises(MeshdError) as caught:
            client.send("pi", b"", lifetime=lifetime)
        assert caught.value.code == "E_USAGE"
        assert repr(lifetime) in caught.value.message


def test_header_whose_name_is_no_text_leaves_the_connection_alone(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        with pytest.raises(MeshdError) as caught:
            client.send("pi", b"", headers={5: "a"})  # type: ignore[dict-item]
        assert caught.value.code == "E_USAGE"
        client.call("status")


def test_without_time_what_is_there_already_is_taken(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client:
        subscription = client.subscribe()
        with pytest.raises(MeshdError) as caught:
            subscription.next(0)
        assert caught.value.code == "E_TIMEOUT"
        client.send("pi", b"1")
        deadline = time.monotonic() + 10
        payload = None
        while payload is None and time.monotonic() < deadline:
            with contextlib.suppress(MeshdError):
                payload = subscription.next(0).payload
        assert payload == b"1"
        with pytest.raises(MeshdError) as caught:
            client.send("slow", b"", timeout=0)
        assert caught.value.code == "E_TIMEOUT"
        client.call("status")


def test_error_that_is_raised_again_does_not_grow(tmp_path: Path) -> None:
    with served(tmp_path) as daemon:
        client = Client(daemon.path, timeout=10)
        client.close()
        depths = set()
        for _ in range(3):
            with pytest.raises(MeshdError) as caught:
                client.send("pi", b"")
            depths.add(len(list(traceback.walk_tb(caught.tb))))
        assert len(depths) == 1


def test_fork_of_a_program_leaves_its_client_alone(tmp_path: Path) -> None:
    program = """if True:
    import os, sys
    from meshd.client.blocking import Client
    from meshd.errors import MeshdError
    with Client(sys.argv[1], timeout=10) as client, client.subscribe() as messages:
        client.send("pi", b"1")
        messages.ack(messages.next(10))
        if os.fork() == 0:
            for act in (lambda: client.call("status"), lambda: messages.next(0)):
                try:
                    act()
                except MeshdError as error:
                    print(error.code, flush=True)
            sys.exit()  # leaves the blocks
        os.wait()
        client.send("pi", b"2")
        print(messages.next(10).payload.decode())
    """
    with served(tmp_path) as daemon:
        done = subprocess.run(
            [sys.executable, "-c", program, daemon.path], capture_output=True, text=True, check=True, env={**os.environ}
        )
        assert done.stdout.split() == ["E_USAGE", "E_USAGE", "2"]


def test_second_thread_is_refused_while_the_first_one_waits(tmp_path: Path) -> None:
    with served(tmp_path) as daemon, Client(daemon.path, timeout=10) as client, ThreadPoolExecutor() as threads:
        waiting = threads.submit(client.send, "slow", b"")
        daemon.until(lambda node: [r for r in node.seen if isinstance(r, requests.Submit)])
        with pytest.raises(MeshdError) as caught:
            client.call("status", timeout=5)
        assert caught.value.code == "E_USAGE"
        assert "thread" in caught.value.message
        daemon.look(lambda node: [r.port.reply_nowait(r.id, requests.Result({"ids": ["a"], "state": "accepted"}))
                                  for r in node.seen if isinstance(r, requests.Submit)])  # fmt: skip
        assert waiting.result(10).id == "a"
        client.call("status")  # one after the other they may
