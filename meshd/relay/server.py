"""meshd-relay: the composition root. Opens the ports, and finds the mesh that each connection belongs to."""

import fcntl
import hashlib
import os
import random
import signal
import sys
from collections.abc import Collection
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshd.discovery.interfaces import interfaces
from meshd.errors import MeshdError, RemoteProtocolError
from meshd.ids import MeshId, NodeId, to_text
from meshd.links.session import hear_dialer, open_as_relay
from meshd.logs import configure, get_logger
from meshd.node.clients import Listening
from meshd.node.reachable import addresses_of_urls, reachable_addresses
from meshd.node.settings import Settings
from meshd.relay.admission import Policy, admit
from meshd.relay.mesh import HostedMesh, open_life
from meshd.relay.options import Options, read_options, reload_config
from meshd.service import fail, make_dir, make_transports, notify, run_process, watchdog
from meshd.transport.base import Address, Connection, TransportError
from meshd.trust.handshake import RelayHandshake
from meshd.trust.identity import Identity, load_or_create
from meshd.trust.roster import Roster
from meshd.wire.frames import Welcome

PROGRAM = "meshd-relay"
LEAVE_SECONDS = 2.0
MAX_LINKS = 1 << 20
"""Of one mesh: devices are let in as they come, as far as the machine goes."""

log = get_logger("meshd.relay")


def main() -> None:
    """The ``meshd-relay`` command. Exits 0, 1, 2 or 3, with one clear line when not 0."""
    try:
        options = read_options(sys.argv[1:], os.environ)
        if options.show_certificate:
            _show_certificate(options)
            return
    except MeshdError as error:
        fail(error, PROGRAM)
    else:
        run_process(partial(run_relay, options), PROGRAM)


def _show_certificate(options: Options) -> None:
    make_dir(options.state_dir, 0o700, "E_STATE_DIR")
    identity = load_or_create(options.state_dir, random.SystemRandom())
    print(identity.certificate_pem().decode(), end="")  # noqa: T201
    print(f"SHA-256: {hashlib.sha256(identity.certificate).hexdigest()}", file=sys.stderr)  # noqa: T201


async def run_relay(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises MeshdError when it can't start."""
    make_dir(options.state_dir, 0o700, "E_STATE_DIR")
    make_dir(options.state_dir / "meshes", 0o700, "E_STATE_DIR")
    with _only_one(options.state_dir):
        identity = load_or_create(options.state_dir, random.SystemRandom())
        await Relay(options, identity).run()


@contextmanager
def _only_one(state_dir: Path) -> Any:
    """Hold the state directory for this process alone."""
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise MeshdError("E_RUNNING", f"Another relay runs on {state_dir}.") from error
        yield


class Relay:
    """The meshes that are served, and how they come to be. All in the Trio thread."""

    def __init__(self, options: Options, identity: Identity) -> None:
        self._options = options
        self._config = options.config
        self._identity = identity
        self._rng = random.SystemRandom()
        self._directory = options.state_dir / "meshes"
        self._hosted: dict[MeshId, HostedMesh] = {}
        self._opening = trio.Lock()
        self._listening = Listening((), ())
        self._pulse = 0

    async def run(self) -> None:
        """Start and stop in the order of dependence: links before stores."""
        async with trio.open_nursery() as meshes:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async with trio.open_nursery() as serving:
                    await self._serve(serving, meshes)
                    notify("READY=1")
                    await self._until_stopped(signals)
                    notify("STOPPING=1")
                    log.info("stopping")
                    await self._leave()
                    serving.cancel_scope.cancel()
                for mesh in self._hosted.values():
                    mesh.stop()

    async def _serve(self, serving: trio.Nursery, meshes: trio.Nursery) -> None:
        listen = self._config.listen
        transports = make_transports(quic=listen.quic, websocket=listen.websocket, identity=self._identity)
        bound: list[Address] = []
        for transport in transports.values():
            try:
                bound += await serving.start(transport.serve, partial(self.handle, meshes))
            except OSError as error:
                raise MeshdError(
                    "E_PORT",
                    f"{transport.name} can't listen: {error.strerror or error}.",
                    "Stop what holds the port, or choose another with --listen.",
                ) from error
        named = addresses_of_urls(listen.urls)
        self._listening = Listening(tuple(bound), named or reachable_addresses(bound, interfaces(), ()))
        serving.start_soon(watchdog, lambda: self._pulse, self._beat)
        log.info(
            "running",
            device=to_text(self._identity.node_id),
            certificate=hashlib.sha256(self._identity.certificate).hexdigest(),
            listen=[str(address) for address in bound],
            reached_at=[f"{a.transport}://{a.host}:{a.port}" for a in self._listening.reachable],
        )

    def _beat(self) -> None:
        self._pulse += 1

    async def _until_stopped(self, signals: Any) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                return
            try:
                config = reload_config(self._options, os.environ)
            except MeshdError as error:
                log.error("configuration not reloaded", code=error.code, reason=error.message)
            else:
                configure(config.log.level, config.log.format, dict(config.log.levels))
                log.info("reloaded", reloaded=["log"])

    async def _leave(self) -> None:
        with trio.move_on_after(LEAVE_SECONDS):
            async with trio.open_nursery() as nursery:
                for mesh in self._hosted.values():
                    nursery.start_soon(mesh.leave)

    # --- connections

    async def handle(self, meshes: trio.Nursery, connection: Connection) -> None:
        """Find out which mesh a connection belongs to, and run its link there."""
        handshake = RelayHandshake(self._identity, connection.alpn, self._rng)
        try:
            result = await open_as_relay(connection, handshake, partial(self._judge, meshes))
            heard = await hear_dialer(connection)
        except RemoteProtocolError as error:
            log.info("connection refused", remote=str(connection.remote), code=error.code, reason=error.reason)
            return
        except TransportError as error:
            log.info("connection refused", remote=str(connection.remote), code="lost", reason=error.reason)
            return
        assert handshake.applicant is not None
        mesh = self._hosted.get(_mesh_id(handshake.applicant.genesis))
        if mesh is not None:  # else it has ended in this moment
            await mesh.hold(connection, result, heard)

    async def _judge(self, meshes: trio.Nursery, handshake: RelayHandshake) -> Welcome:
        applicant = handshake.applicant
        assert applicant is not None
        mesh_id = _mesh_id(applicant.genesis)
        try:
            async with self._opening:
                mesh = self._hosted.get(mesh_id)
                if mesh is None and self._path(mesh_id).exists():
                    mesh = await self._open(meshes, mesh_id, None)
                known = None if mesh is None else mesh.roster
                roster, chain = admit(self._me, applicant, known, self._served(), self._policy)
                if mesh is None:
                    mesh = await self._open(meshes, mesh_id, roster)
        except RemoteProtocolError as error:
            handshake.refuse(error)
            raise
        own = mesh.loop.credentials()
        return handshake.admit(roster, chain, own.epoch, own.seen.get(applicant.peer))

    @property
    def _me(self) -> NodeId:
        return self._identity.node_id

    @property
    def _policy(self) -> Policy:
        access = self._config.access
        return Policy(meshes=access.meshes, max_meshes=access.max_meshes)

    def _path(self, mesh_id: MeshId) -> Path:
        return self._directory / f"{mesh_id.hex()}.db"

    def _served(self) -> Collection[MeshId]:
        return {MeshId(bytes.fromhex(path.stem)) for path in self._directory.glob("*.db")}

    async def _open(self, meshes: trio.Nursery, mesh_id: MeshId, roster: Roster | None) -> HostedMesh:
        try:
            life = await open_life(self._path(mesh_id), roster, self._rng)
        except MeshdError as error:
            log.error("mesh can't be served", mesh=mesh_id.hex(), code=error.code, reason=error.message)
            raise RemoteProtocolError("P_RELAY", "this relay can't open its store for the mesh") from error
        mailbox = self._config.mailbox
        settings = Settings(
            name="relay",
            quota_bytes=mailbox.quota_bytes,
            default_lifetime_ms=int(mailbox.max_lifetime * 1000),
            max_lifetime_ms=int(mailbox.max_lifetime * 1000),
            neighbour_bytes=mailbox.device_quota_bytes,
            max_links=MAX_LINKS,
        )
        mesh = HostedMesh(life, identity=self._identity, settings=settings, directory=self._directory)
        await meshes.start(self._host, mesh_id, mesh)
        return mesh

    async def _host(
        self, mesh_id: MeshId, mesh: HostedMesh, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._hosted[mesh_id] = mesh
        try:
            await mesh.run(self._listening, task_status=task_status)
        finally:
            del self._hosted[mesh_id]


def _mesh_id(genesis: bytes) -> MeshId:
    return MeshId(hashlib.sha256(genesis).digest())
