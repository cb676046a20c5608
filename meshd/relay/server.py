"""meshd-relay: the composition root. Opens the ports, and finds the mesh that each connection belongs to."""

import fcntl
import hashlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Collection
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshd.discovery.interfaces import interfaces
from meshd.errors import CATALOGUE, MeshdError, RemoteProtocolError
from meshd.histogram import Histogram
from meshd.ids import MeshId, NodeId, to_text
from meshd.links.session import hear_dialer, open_as_relay
from meshd.logs import configure, get_logger
from meshd.node.clients import Listening
from meshd.node.insight.alerts import Level
from meshd.node.insight.hooks import QUEUED_ALERTS, HookSettings, run_hooks
from meshd.node.insight.pulse import Pulse
from meshd.node.insight.vitals import COMMIT_BOUNDS, Vitals
from meshd.node.insight.watch import Thresholds
from meshd.node.reachable import addresses_of_urls, reachable_addresses
from meshd.node.settings import Settings
from meshd.relay.admission import Policy, admit
from meshd.relay.mesh import HostedMesh, open_life
from meshd.relay.metrics import Figures, families, together
from meshd.relay.options import Options, read_options, reload_config
from meshd.relay.report import ask_relay, serve_reports, status_document, status_text
from meshd.relay.watch import RelayWatch
from meshd.service import (
    fail,
    free_bytes,
    make_dir,
    make_transports,
    notify,
    run_process,
    settle_streams,
    watchdog,
)
from meshd.starting import start_part
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
    settle_streams()
    try:
        options = read_options(sys.argv[1:], os.environ)
        if options.show_certificate:
            _show_certificate(options)
            return
        if options.question is not None:
            _show_answer(options, options.question)
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


def _show_answer(options: Options, question: str) -> None:
    answer = ask_relay(options.state_dir, question)
    is_for_people = question == "status" and not options.as_json
    print(status_text(json.loads(answer)) if is_for_people else answer.rstrip("\n"))  # noqa: T201


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
        self._began = trio.current_time()
        self._vitals = Vitals()
        self._commits: dict[MeshId, Histogram] = {}
        self._links = 0
        self._refusals: Counter[str] = Counter()
        self._alerts, self._told_alerts = trio.open_memory_channel[dict[str, Any]](QUEUED_ALERTS)
        alerts = self._config.alerts
        self._watch = RelayWatch(
            thresholds=Thresholds(
                spool_share=alerts.mailbox_percent / 100,
                disk_free_bytes=alerts.disk_free_bytes,
                loop_lag_s=alerts.loop_lag,
            ),
            vitals=self._vitals,
            free_bytes=partial(free_bytes, options.state_dir),
            meshes=lambda: [(mesh_id, mesh.figures()) for mesh_id, mesh in self._hosted.items()],
            tell=self._alerts,
            device=to_text(identity.node_id),
        )

    async def run(self) -> None:
        """Start and stop in the order of dependence: links before stores."""
        trio.lowlevel.add_instrument(Pulse(self._vitals))
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
                    f"{transport.name} {error.strerror or error}.",
                    "Stop what holds the port, or choose another with --listen.",
                ) from error
        named = addresses_of_urls(listen.urls)
        self._listening = Listening(tuple(bound), named or reachable_addresses(bound, interfaces(), ()))
        serving.start_soon(watchdog, lambda: self._pulse, self._beat)
        await self._observe(serving)
        log.info(
            "running",
            device=to_text(self._identity.node_id),
            certificate=hashlib.sha256(self._identity.certificate).hexdigest(),
            listen=[str(address) for address in bound],
            reached_at=[f"{a.transport}://{a.host}:{a.port}" for a in self._listening.reachable],
        )

    async def _observe(self, nursery: trio.Nursery) -> None:
        """Watch, and let the owner look."""
        alerts = self._config.alerts
        hooks = HookSettings(
            command=alerts.exec,
            url=alerts.webhook,
            token=alerts.webhook_token,
            timeout_s=alerts.hook_timeout,
            attempts=alerts.hook_attempts,
            least=Level[alerts.hook_severity.upper()],
        )
        nursery.start_soon(run_hooks, self._told_alerts, hooks, self._rng)
        nursery.start_soon(self._watch.run)
        answers = {"status": lambda: json.dumps(self._status()), "metrics": self._metrics}

        async def serve() -> None:
            await nursery.start(serve_reports, self._options.state_dir, answers)

        await start_part(nursery, "--status and --metrics", serve, self._vitals.outages, self._rng)

    def _figures(self) -> Figures:
        meshes = sorted((mesh.figures() for mesh in self._hosted.values()), key=lambda mesh: mesh.name)
        return Figures(
            uptime_s=trio.current_time() - self._began,
            free_bytes=free_bytes(self._options.state_dir),
            meshes=meshes,
            links=self._links,
            refusals=self._refusals,
            alerts=self._watch.active(),
            loop=self._vitals.loop.snapshot(),
            commits=together([self._vitals.commits.snapshot(), *(one.snapshot() for one in self._commits.values())]),
        )

    def _metrics(self) -> str:
        # When first asked for: the library takes its room.
        from meshd.node.insight.openmetrics import openmetrics

        return openmetrics(families(self._figures()))["text"]

    def _status(self) -> dict[str, Any]:
        figures = self._figures()
        listen = self._listening
        return status_document(
            figures,
            device=to_text(self._me),
            listen=[str(address) for address in listen.bound],
            reached_at=[f"{a.transport}://{a.host}:{a.port}" for a in listen.reachable],
            alerts=self._watch.documents(),
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
                configure(config.log.level, config.log.format, dict(config.log.levels), PROGRAM)
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
            self._refuse(connection, error.code, error.reason)
            return
        except TransportError as error:
            self._refuse(connection, "lost", error.reason)
            return
        assert handshake.applicant is not None
        mesh = self._hosted.get(_mesh_id(handshake.applicant.genesis))
        if mesh is not None:  # else it has ended in this moment
            self._links += 1
            await mesh.hold(connection, result, heard)

    def _refuse(self, connection: Connection, code: str, reason: str) -> None:
        self._refusals[code if code in CATALOGUE or code == "lost" else "other"] += 1
        log.info("connection refused", remote=str(connection.remote), code=code, reason=reason)

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
        """Open the store of a mesh and serve it. It is served also when the connection that it was opened for ends."""
        try:
            with trio.CancelScope(shield=True):  # given up half-way, the store would be open, and nobody's
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
        commits = self._commits.setdefault(mesh_id, Histogram(COMMIT_BOUNDS))
        mesh = HostedMesh(life, identity=self._identity, settings=settings, directory=self._directory, commits=commits)
        with trio.CancelScope(shield=True):
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
