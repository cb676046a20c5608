"""The Unix socket: who may use it, whose it is, what becomes of it."""

import fcntl
import grp
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
import trio

from meshd.api.listener import SocketSettings, unix_listener
from meshd.errors import MeshdError


def listening(path: Path) -> socket.socket:
    """Another program's socket."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    other.bind(str(path))
    other.listen(1)
    return other


def refused(settings: SocketSettings) -> MeshdError:
    async def main() -> None:
        with unix_listener(settings):
            raise AssertionError("it was made")

    with pytest.raises(MeshdError) as caught:
        trio.run(main)
    return caught.value


def test_socket_has_its_mode_and_group_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    group = grp.getgrgid(os.getgid()).gr_name

    async def main() -> None:
        with unix_listener(SocketSettings(str(path), group=group, mode=0o640)):
            status = path.stat()
            assert stat.S_IMODE(status.st_mode) == 0o640
            assert status.st_gid == os.getgid()
            assert os.listdir(tmp_path) == ["meshd.sock"]

    trio.run(main)
    assert os.listdir(tmp_path) == []


def test_live_socket_is_not_stolen(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with listening(path) as other:
        assert refused(SocketSettings(str(path))).code == "E_RUNNING"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))  # and it still is the other's
            other.accept()[0].close()
    assert os.listdir(tmp_path) == ["meshd.sock"]


def test_live_socket_whose_backlog_is_full_is_not_stolen(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    with listening(path):
        clients = []
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            clients.append(client)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        assert refused(SocketSettings(str(path))).code == "E_RUNNING"
        for client in clients:
            client.close()


def test_of_two_that_start_at_a_time_one_is_refused_and_later_both_can_be(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        error = refused(SocketSettings(str(tmp_path / "meshd.sock")))
    finally:
        os.close(descriptor)
    assert (error.code, os.listdir(tmp_path)) == ("E_RUNNING", [])

    async def main() -> None:
        with unix_listener(SocketSettings(str(tmp_path / "one"))), unix_listener(SocketSettings(str(tmp_path / "two"))):
            assert sorted(os.listdir(tmp_path)) == ["one", "two"]

    trio.run(main)


def test_the_longest_path_is_taken_and_a_longer_one_is_named() -> None:
    async def main(path: str) -> None:
        with unix_listener(SocketSettings(path)):
            await (await trio.open_unix_socket(path)).aclose()

    with tempfile.TemporaryDirectory() as directory:
        name = "x" * (99 - len(directory) - 1)
        trio.run(main, os.path.join(directory, name))
        assert "over 99 bytes" in refused(SocketSettings(os.path.join(directory, name + "x"))).message


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    listening(path).close()

    async def main() -> None:
        with unix_listener(SocketSettings(str(path))) as listener:
            client = await trio.open_unix_socket(str(path))
            accepted = await listener.accept()
            await accepted.aclose()
            await client.aclose()

    trio.run(main)


def test_socket_that_somebody_replaced_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"

    async def main() -> None:
        with unix_listener(SocketSettings(str(path))):
            path.unlink()
            path.write_text("theirs")

    trio.run(main)
    assert path.read_text() == "theirs"


def test_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    path.write_text("precious")
    assert refused(SocketSettings(str(path))).code == "E_RUNTIME_DIR"
    assert path.read_text() == "precious"


def test_unusable_places_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "meshd.sock", tmp_path / ("long" * 40)):
        error = refused(SocketSettings(str(path)))
        assert error.code == "E_RUNTIME_DIR"
        assert str(path) in error.message


def test_unknown_group_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    error = refused(SocketSettings(str(tmp_path / "meshd.sock"), group="no-such-group"))
    assert error.code == "E_CONFIG"
    assert "no-such-group" in error.message
    assert os.listdir(tmp_path) == []
