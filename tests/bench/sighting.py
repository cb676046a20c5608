"""Discovery alone: two processes, one announces itself on the loopback interface, the other looks for it."""

import random
import subprocess
import sys
import time
from typing import Any

import trio

from meshd.config import Discovery
from meshd.discovery.events import Announce, Members, NetworkChanged, PeerGone, PeerSeen
from meshd.discovery.interfaces import interfaces
from meshd.discovery.mdns import run_mdns
from meshd.discovery.sightings import Sightings
from meshd.ids import NodeId
from meshd.logs import configure

_GENESIS = bytes(32)
_ANNOUNCER, _BROWSER = NodeId(b"a" * 16), NodeId(b"b" * 16)
_SETTLE_S = 1.0
_LIMIT_S = 10.0


def discovery_seconds() -> float:
    """Seconds from the start of the browser to the sighting."""
    announcer = subprocess.Popen([sys.executable, "-m", "tests.bench.sighting"], stdout=subprocess.PIPE)
    try:
        assert announcer.stdout is not None
        announcer.stdout.readline()
        return trio.run(_browse)
    finally:
        announcer.terminate()
        announcer.wait()
        if announcer.stdout is not None:
            announcer.stdout.close()


async def _browse() -> float:
    seen = trio.Event()

    async def post(event: PeerSeen | PeerGone) -> None:
        if isinstance(event, PeerSeen) and event.peer == _ANNOUNCER:
            seen.set()

    configure("warning", "json", {})
    began = time.monotonic()
    with trio.fail_after(_LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, _BROWSER, 2, post)
            await seen.wait()
            took = time.monotonic() - began
            nursery.cancel_scope.cancel()
    return took


async def _run(me: NodeId, port: int, post: Any) -> None:
    send, receive = trio.open_memory_channel[Any](8)
    send.send_nowait(Announce(_GENESIS, me, port, port))
    send.send_nowait(Members(frozenset((_ANNOUNCER, _BROWSER))))
    send.send_nowait(NetworkChanged(interfaces()))
    settings = Discovery(interfaces=("lo",))
    await run_mdns(receive, post, settings=settings, sightings=Sightings(), rng=random.SystemRandom())


async def _announce() -> None:
    async def post(event: PeerSeen | PeerGone) -> None:
        """Nobody is of interest."""

    configure("warning", "json", {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, _ANNOUNCER, 1, post)
        await trio.sleep(_SETTLE_S)
        print("announced", flush=True)


if __name__ == "__main__":
    trio.run(_announce)
