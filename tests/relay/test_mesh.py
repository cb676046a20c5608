"""What becomes of a relay when the node of one of its meshes breaks."""

import random
from pathlib import Path

import trio
import trio.testing

from meshd.histogram import Histogram
from meshd.node.admission import JoinEnded
from meshd.node.clients import Listening
from meshd.node.insight.vitals import COMMIT_BOUNDS
from meshd.node.settings import Settings
from meshd.relay.admission import mesh_name
from meshd.relay.config import RelayConfig
from meshd.relay.mesh import HostedMesh, open_life
from meshd.relay.options import Options
from meshd.relay.server import Relay
from tests.trust.people import added, device, mesh_of


def test_a_defect_that_one_mesh_meets_ends_that_mesh_alone(tmp_path: Path) -> None:
    assert trio.run(names_after_defects, tmp_path, 2) == ["relay", "relay"]


async def names_after_defects(directory: Path, count: int) -> list[str]:
    """Serve a mesh ``count`` times from the same disk, each time until its node breaks."""
    roster = added(mesh_of(1), 0, 2, "relay")
    settings = Settings(name="relay", quota_bytes=1 << 20, default_lifetime_ms=1000, max_lifetime_ms=1000)
    names = []
    for _ in range(count):
        life = await open_life(directory / "mesh.db", roster, random.Random(1))
        commits = Histogram(COMMIT_BOUNDS)
        mesh = HostedMesh(life, identity=device(2), settings=settings, directory=directory, commits=commits)
        async with trio.open_nursery() as meshes:
            await meshes.start(mesh.run, Listening((), ()))
            mesh._inbox.post_nowait(JoinEnded(99, None, None))  # nothing like that was begun
        names.append(mesh.roster.members[device(2).node_id].role)
    return names


def test_a_dialer_that_goes_while_the_store_is_opened_leaves_a_mesh_that_is_served(tmp_path: Path) -> None:
    (tmp_path / "meshes").mkdir()
    options = Options(config=RelayConfig(), config_file=None, state_dir=tmp_path, show_certificate=False)
    roster = added(mesh_of(1), 0, 2, "relay")

    async def served() -> list[str]:
        relay = Relay(options, device(2))
        async with trio.open_nursery() as meshes:
            with trio.CancelScope() as impatient:
                async with trio.open_nursery() as dialer:
                    dialer.start_soon(relay._open, meshes, roster.mesh_id, roster)
                    await trio.testing.wait_all_tasks_blocked()
                    impatient.cancel()
            names = [mesh.figures().name for mesh in relay._hosted.values()]
            for mesh in relay._hosted.values():
                mesh.stop()
        return names

    assert trio.run(served) == [mesh_name(roster.mesh_id)]
