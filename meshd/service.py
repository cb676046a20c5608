"""What the daemon and the relay share as processes: how they fail, begin a life, listen, and talk to systemd."""

import gc
import os
import random
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from meshd.clock import MeshClock, resume_clock
from meshd.errors import MeshdError
from meshd.ids import Epoch
from meshd.journal import write_line
from meshd.kinds import Endpoint
from meshd.node.epochs import next_epoch
from meshd.store.database import MAKE_ROOM, Database
from meshd.store.ops import Op, PutFact
from meshd.store.reads import Snapshot
from meshd.transport.base import Transport
from meshd.transport.quic import QuicTransport
from meshd.transport.websocket import WebsocketTransport
from meshd.trust.identity import KEY_FILE, RESTORE, Identity, load_or_create

EXIT_FAILED, EXIT_USAGE, EXIT_RUNNING = 1, 2, 3
_EXITS = {
    **dict.fromkeys(("E_CONFIG", "E_USAGE", "E_STATE_DIR", "E_RUNTIME_DIR", "E_NETLINK"), EXIT_USAGE),
    "E_RUNNING": EXIT_RUNNING,
}
"""Exit codes that are not EXIT_FAILED: what does not get better by itself is not to be tried again."""

_OWNER_FACT = "owner"
"""The id of the device whose store this is."""

# A thread that waits for the interpreter gets it after this long; commits would wait for 5 ms.
_SWITCH_INTERVAL_S = 0.0002


def settle_streams() -> None:
    """Have all three standard streams: nothing that is opened later takes the place of one that was closed."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            setattr(sys, name, open(descriptor, "w" if descriptor else "r"))  # noqa: SIM115  # for life


def run_process(main: Callable[[], Awaitable[None]], program: str) -> None:
    """Run a program to its end. What a person can mend ends it with one clear line; defects are raised."""
    try:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it would hold keys
        gc.collect()
        gc.freeze()  # modules live as long as the process: collections need not walk through them
        trio.run(main)
    except MeshdError as error:
        fail(error, program)
    except BaseExceptionGroup as group:
        errors = [error for error in _leaves(group) if isinstance(error, MeshdError)]
        if not errors or len(errors) != len(_leaves(group)):
            raise
        fail(errors[0], program)


def fail(error: MeshdError, program: str) -> None:
    """Say what is wrong, and exit."""
    write_line(f"{program}: {error.message.rstrip('.')}. [{error.code}] {error.hint}")
    sys.exit(_EXITS.get(error.code, EXIT_FAILED))


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def make_dir(path: Path, mode: int, code: str) -> None:
    """Make a directory, or see that it can be used. Raises MeshdError with ``code``."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise MeshdError(code, f"{path} can't be made: {error.strerror}.") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise MeshdError(code, f"{path} can't be written to by this user.")


@attrs.frozen
class Life:
    """The beginning of a node's life: its disk is open, and the epoch of this life is on it."""

    database: Database
    snapshot: Snapshot
    clock: MeshClock
    epoch: Epoch


def begin_life(path: Path, rng: random.Random, first: Callable[[Snapshot], Sequence[Op]] | None = None) -> Life:
    """Open the store at ``path``, and write down that a new life begins.

    Args:
        first: what else to write, given what is there.

    Raises MeshdError as ``Database.open``, and when the store can't be written.
    """
    database = Database.open(path)
    snapshot = database.snapshot()
    clock = resume_clock(snapshot.facts.get("clock", {}).get(b""), snapshot.clock_ms)
    epoch, epoch_fact = next_epoch(snapshot, rng)
    more = () if first is None else tuple(first(snapshot))
    [committed] = database.apply([(0, [epoch_fact, PutFact("clock", b"", clock.encode()), *more])], clock.now_ms())
    if committed.error is not None:
        database.close()
        raise _unwritable(path, committed.error, committed.reason)
    return Life(database, database.snapshot() if more else snapshot, clock, epoch)


def claim_identity(life: Life, state_dir: Path, rng: random.Random) -> Identity:
    """The identity of this device: on the first start a new one, and from then on no other.

    With another key this store would speak for a device that no mesh knows, and take mail that never leaves.
    Raises MeshdError E_STATE_DIR, also as ``load_or_create``.
    """
    owner = life.snapshot.facts.get(_OWNER_FACT, {}).get(b"")
    if owner is not None and not (state_dir / KEY_FILE).exists():
        raise MeshdError(
            "E_STATE_DIR", f"{state_dir} holds the state of a device, but not its key, {KEY_FILE}.", RESTORE
        )
    identity = load_or_create(state_dir, rng)
    if owner is None:
        [committed] = life.database.apply([(0, [PutFact(_OWNER_FACT, b"", identity.node_id)])], life.clock.now_ms())
        if committed.error is not None:
            raise _unwritable(state_dir, committed.error, committed.reason)
    elif owner != identity.node_id:
        raise MeshdError("E_STATE_DIR", f"{state_dir / KEY_FILE} is the key of another device than the state.", RESTORE)
    return identity


def _unwritable(path: Path, code: str, reason: str | None) -> MeshdError:
    return MeshdError(code, f"{path} can't be written: {reason}.", MAKE_ROOM if code == "E_FULL" else None)


def free_bytes(directory: Path) -> int:
    """What an ordinary user may still write to the disk that holds ``directory``."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def make_transports(
    *,
    quic: Sequence[Endpoint],
    websocket: Sequence[Endpoint],
    identity: Identity,
    remembered: Callable[[], Collection[str]] = frozenset,
) -> dict[str, Transport]:
    """The transports by name; one without places to listen is left out."""
    key, certificate = identity.private_key_pem(), identity.certificate_pem()
    transports: dict[str, Transport] = {}
    if quic:
        transports["quic"] = QuicTransport(
            listen=_places(quic), certificate_pem=certificate, private_key_pem=key, remembered=remembered
        )
    if websocket:
        transports["websocket"] = WebsocketTransport(
            listen=_places(websocket), certificate_pem=certificate, private_key_pem=key, remembered=remembered
        )
    return transports


def _places(endpoints: Sequence[Endpoint]) -> list[tuple[str, int]]:
    return [(endpoint.host, endpoint.port) for endpoint in endpoints]


# --- the service manager


def notify(message: str) -> None:
    """Tell systemd, when it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
        sender.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def watchdog(progress: Callable[[], int], ask: Callable[[], None]) -> None:
    """Tell systemd that we are alive, as long as a turn that we ``ask`` for is made (WATCHDOG_USEC)."""
    interval_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not interval_us or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        before = progress()
        ask()
        await trio.sleep(interval_us / 2_000_000)
        if progress() != before:
            notify("WATCHDOG=1")
