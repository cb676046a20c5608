"""What becomes of a relay when the node of one of its meshes breaks."""

import random
from pathlib import Path

import trio

from meshd.histogram import Histogram
from meshd.node.admission import JoinEnded
from meshd.node.clients import Listening
from meshd.node.insight.vitals import COMMIT_BOUNDS
from meshd.node.settings import Settings
from meshd.relay.mesh import HostedMesh, open_life
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
