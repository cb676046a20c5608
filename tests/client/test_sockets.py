"""Where the socket is looked for, and what is said when it is not there or not ours."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from meshd.client.sockets import SYSTEM_SOCKET, candidates, explain, find_socket, open_socket
from meshd.errors import MeshdError

ORDER = [
    ("given", {"MESHD_SOCKET": "named", "XDG_RUNTIME_DIR": "/r"}, ("given",)),
    (None, {"MESHD_SOCKET": "named", "XDG_RUNTIME_DIR": "/r"}, ("named",)),
    (None, {"XDG_RUNTIME_DIR": "/r"}, ("/r/meshd/meshd.sock", SYSTEM_SOCKET)),
    (None, {}, (SYSTEM_SOCKET,)),
]


@pytest.mark.parametrize(("explicit", "environ", "expected"), ORDER)
def test_order(explicit: str | None, environ: dict[str, str], expected: tuple[str, ...]) -> None:
    assert candidates(explicit, environ) == expected


def test_answering_socket_is_found(tmp_path: Path) -> None:
    (tmp_path / "meshd").mkdir()
    path = str(tmp_path / "meshd" / "meshd.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        assert find_socket(None, {"XDG_RUNTIME_DIR": str(tmp_path)}) == path
    with pytest.raises(MeshdError, match="left behind") as caught:
        find_socket(path)
    assert caught.value.code == "E_NO_DAEMON"


def test_what_is_no_socket_is_not_said_to_be_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(MeshdError, match=r"\(no socket\)"):
            find_socket(str(path))


def test_all_that_was_tried_is_named_and_how_to_start() -> None:
    missing, refused = FileNotFoundError(2, "x"), ConnectionRefusedError(111, "x")
    error = explain(("/r/a.sock", "/b.sock"), [missing, refused])
    assert error.code == "E_NO_DAEMON"
    assert "/r/a.sock (not there)" in error.message
    assert "/b.sock (left behind" in error.message
    assert "systemctl start meshd" in error.hint


def test_permission_denied_says_whose_group_to_join(tmp_path: Path) -> None:
    path = tmp_path / "meshd.sock"
    path.touch()
    path.chmod(0o660)
    error = explain((str(path),), [PermissionError(13, "x")])
    assert error.code == "E_PERMISSION"
    assert str(path) in error.message
    if os.getgid() == 0:
        assert "sudo -u root" in error.hint
    else:
        assert "usermod -aG" in error.hint


def test_permission_denied_on_the_way_still_says_what_to_do() -> None:
    error = explain(("/nonexistent/dir/meshd.sock",), [PermissionError(13, "x")])
    assert error.code == "E_PERMISSION"
    assert "group" in error.hint


def test_full_queue_of_connections_is_no_missing_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "meshd.sock")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as waiting:
        listening.bind(path)
        listening.listen(0)
        waiting.enter_context(open_socket(path, {}, timeout=5))
        with pytest.raises(MeshdError) as caught:
            open_socket(path, {}, timeout=5)
        assert caught.value.code == "E_BUSY"
        assert path in caught.value.message
