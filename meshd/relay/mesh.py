"""One mesh on the relay: its own store, its own node, and the links of its devices."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from meshd.errors import MeshdError
from meshd.histogram import Histogram
from meshd.logs import get_logger
from meshd.node.clients import Listening
from meshd.node.inbox import Inbox
from meshd.node.loop import Loop, Surroundings
from meshd.node.settings import Settings
from meshd.node.step import Node
from meshd.relay.admission import mesh_name
from meshd.relay.metrics import MeshFigures
from meshd.service import Life, begin_life, free_bytes
from meshd.store.ops import Op, PutFact
from meshd.store.reads import Snapshot
from meshd.store.requests import Requests
from meshd.store.worker import Timing, run_worker
from meshd.transport.base import Connection
from meshd.trust.handshake import HandshakeResult
from meshd.trust.identity import Identity
from meshd.trust.roster import Roster

log = get_logger("meshd.relay")


async def open_life(path: Path, roster: Roster | None, rng: random.Random) -> Life:
    """Open the store of a mesh, on a thread: it may be large.

    Args:
        roster: of a mesh that is new here; written with the first commit, so that the mesh is here or not at all.

    Raises MeshdError as ``begin_life``.
    """

    def first(snapshot: Snapshot) -> list[Op]:
        if roster is None or "genesis" in snapshot.facts:
            return []
        return [
            PutFact("genesis", b"", roster.genesis),
            *(PutFact("statement", *fact) for fact in roster.facts()),
        ]

    return await trio.to_thread.run_sync(begin_life, path, rng, first)


class HostedMesh:
    """A mesh while it is served. ``run`` owns everything in it."""

    def __init__(
        self, life: Life, *, identity: Identity, settings: Settings, directory: Path, commits: Histogram
    ) -> None:
        rng = random.SystemRandom()
        self._life = life
        self._commits = commits
        self._quota_bytes = settings.quota_bytes
        self._inbox = Inbox()
        self._requests = Requests(life.clock.now_ms)
        self._scopes: set[trio.CancelScope] = set()
        self._stop = trio.Event()
        node = Node(
            identity=identity,
            settings=settings,
            snapshot=life.snapshot,
            epoch=life.epoch,
            now=life.clock.now(),
            rng=rng,
            free_bytes=lambda: free_bytes(directory),
            spare_bytes=lambda: life.database.spare_bytes,
            dialer=lambda peer: None,
        )
        self.loop = Loop(
            node,
            Surroundings(clock=life.clock.now, rng=rng, inbox=self._inbox, requests=self._requests, transports={}),
        )

    @property
    def roster(self) -> Roster:
        """Who is in the mesh, as far as it is known here."""
        return self.loop.node.membership.require_roster()

    def figures(self) -> MeshFigures:
        """How it is now."""
        node = self.loop.node
        return MeshFigures(
            name=mesh_name(self.roster.mesh_id),
            devices=sum(member.role != "relay" for member in node.membership.members()),
            linked=sum(1 for _ in node.peers.links()),
            bundles=node.spool.messages,
            size_bytes=node.spool.size_bytes,
            quota_bytes=self._quota_bytes,
        )

    async def run(self, listening: Listening, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop`, or until store or node fail: that ends the links of this mesh, and no others."""
        name = mesh_name(self.roster.mesh_id)
        try:
            async with trio.open_nursery() as nursery:
                work = partial(run_worker, timing=Timing(commits=self._commits))
                await nursery.start(work, self._life.database, self._requests, self._inbox.post_nowait)
                async with trio.open_nursery() as serving:
                    self._inbox.post_nowait(listening)
                    await serving.start(self.loop.run)
                    log.info("mesh served", mesh=name)
                    task_status.started()
                    await self._stop.wait()
                    serving.cancel_scope.cancel()
                self._requests.close_nowait()
        except* MeshdError as group:
            for error in group.exceptions:
                log.error("mesh no longer served", mesh=name, reason=str(error))
        except* Exception:
            # A defect of ours, met by one mesh, must not take the others down: its next device starts it again.
            log.exception("mesh failed", mesh=name)
        finally:
            for scope in self._scopes:
                scope.cancel()

    async def hold(self, connection: Connection, result: HandshakeResult, heard: Sequence[bytes]) -> None:
        """Run a link of one of the mesh's devices to its end."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self.loop.hold(connection, result, heard)
            finally:
                self._scopes.discard(scope)

    async def leave(self) -> None:
        """Say goodbye on every link."""
        await self.loop.leave()

    def stop(self) -> None:
        """Let :meth:`run` end: what was asked of the store is still done."""
        self._stop.set()
