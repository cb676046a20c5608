"""Two machines, as network namespaces, joined by two networks: run by ``test_namespaces.py`` in a namespace of its own.

        alice                         bob
        west  10.77.1.1 ----------- west  10.77.1.2     and IPv6 link-local
        east            ----------- east                IPv6 link-local only
        br-x  10.77.3.1 ----------- none                a container bridge by its name

``python -m tests.discovery.namespaces``; exits 0 when all held. ``... bob`` is the other machine.
"""

import json
import random
import subprocess
import sys
from collections.abc import Callable

import trio

from meshd.config import Discovery
from meshd.discovery.events import Announce, Members, PeerGone, PeerSeen
from meshd.discovery.mdns import Input, run_mdns
from meshd.discovery.netwatch import watch_network
from meshd.discovery.sightings import Sightings
from meshd.ids import NodeId

GENESIS = bytes(32)
NODES = {"alice": NodeId(b"\1" * 16), "bob": NodeId(b"\2" * 16)}
LIMIT_S = 20


async def run_device(name: str, post: Callable[[PeerSeen | PeerGone], object]) -> None:
    """Discovery as a daemon runs it, with the real network watch."""
    send, receive = trio.open_memory_channel[Input](8)

    async def report(event: PeerSeen | PeerGone) -> None:
        post(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run_mdns(receive, report, settings=Discovery(), sightings=Sightings(), rng=random.SystemRandom())
        )
        await send.send(Members(frozenset(NODES.values())))
        await send.send(Announce(GENESIS, NODES[name], 7843, None))
        await watch_network(send.send)


def as_line(event: PeerSeen | PeerGone) -> list[object]:
    """An event for another process: kind, interface, hosts."""
    hosts = sorted({address.host for address in event.addresses}) if isinstance(event, PeerSeen) else []
    return [type(event).__name__, event.interface, hosts]


def is_seen(interface: str, *networks: str) -> Callable[[list[object]], bool]:
    """Seen on ``interface`` with exactly one address in each of ``networks`` (prefixes of their text)."""

    def matches(line: list[object]) -> bool:
        kind, where, hosts = line
        assert isinstance(hosts, list)
        found = len(hosts) == len(networks) and all(
            any(host.startswith(network) and (":" not in host or host.endswith(f"%{interface}")) for host in hosts)
            for network in networks
        )
        return kind == "PeerSeen" and where == interface and found

    return matches


def never_leaks(line: list[object]) -> bool:
    """Addresses of one network are not told on another, nor those of the container bridge at all."""
    _, interface, hosts = line
    assert isinstance(hosts, list)
    foreign = {"west": ("10.77.2", "10.77.3"), "east": ("10.",)}[str(interface)]
    return not any(host.startswith(foreign) for host in hosts)


def run(*words: str | int) -> None:
    subprocess.run([str(word) for word in words], check=True)


async def orchestrate() -> None:
    bob = await trio.lowlevel.open_process(
        ["unshare", "-n", sys.executable, "-m", __spec__.name, "bob"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        await meet(bob)
    finally:
        bob.kill()
        with trio.CancelScope(shield=True):
            await bob.wait()


async def meet(bob: trio.Process) -> None:
    assert bob.stdin is not None
    assert bob.stdout is not None
    lines: dict[str, list[list[object]]] = {"alice": [], "bob": []}
    changed = trio.Condition()

    async def note(name: str, line: list[object]) -> None:
        print(name, line, flush=True)
        assert never_leaks(line), line
        lines[name].append(line)
        async with changed:
            changed.notify_all()

    async def read_bob() -> None:
        buffer = b""
        async for data in bob.stdout:
            *whole, buffer = (buffer + data).split(b"\n")
            for text in whole:
                if text.startswith(b'["'):  # the rest is log
                    await note("bob", json.loads(text))

    async def until(name: str, wanted: Callable[[list[object]], bool]) -> None:
        with trio.fail_after(LIMIT_S):
            async with changed:
                while not any(wanted(line) for line in lines[name]):
                    await changed.wait()
        lines[name].clear()

    ready = b""
    while not ready.endswith(b"\n"):
        ready += await bob.stdout.receive_some(1)
    run("ip", "link", "set", "lo", "up")
    for link in ("west", "east"):
        run("ip", "link", "add", link, "type", "veth", "peer", "name", link, "netns", bob.pid)
    run("ip", "link", "add", "br-x", "type", "veth", "peer", "name", "br-y")
    run("ip", "addr", "add", "10.77.3.1/24", "dev", "br-x")
    for link in ("br-x", "br-y"):
        run("ip", "link", "set", link, "up")
    at_bob = ("nsenter", "-t", bob.pid, "-n")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_bob)
        send, receive = trio.open_memory_channel[PeerSeen | PeerGone](100)

        async def read_alice() -> None:
            async for event in receive:
                await note("alice", as_line(event))

        nursery.start_soon(read_alice)
        nursery.start_soon(run_device, "alice", send.send_nowait)
        await trio.sleep(0.2)
        # Both daemons run before there is any network.
        run("ip", "addr", "add", "10.77.1.1/24", "dev", "west")
        run(*at_bob, "ip", "addr", "add", "10.77.1.2/24", "dev", "west")
        for link in ("west", "east"):
            run("ip", "link", "set", link, "up")
            run(*at_bob, "ip", "link", "set", link, "up")
        async with trio.open_nursery() as both:
            both.start_soon(until, "alice", is_seen("west", "10.77.1.2", "fe80:"))
            both.start_soon(until, "bob", is_seen("west", "10.77.1.1", "fe80:"))
        # A new address lease.
        run(*at_bob, "ip", "addr", "del", "10.77.1.2/24", "dev", "west")
        run(*at_bob, "ip", "addr", "add", "10.77.1.9/24", "dev", "west")
        await until("alice", is_seen("west", "10.77.1.9", "fe80:"))
        # An address on the other network.
        run(*at_bob, "ip", "addr", "add", "10.77.2.2/24", "dev", "west")
        run(*at_bob, "ip", "addr", "del", "10.77.2.2/24", "dev", "west")
        # The cable is pulled and put back.
        run(*at_bob, "ip", "link", "set", "east", "down")
        await until("alice", lambda line: line[:2] == ["PeerGone", "east"])
        run(*at_bob, "ip", "link", "set", "east", "up")
        await until("alice", is_seen("east", "fe80:"))
        # Stopping says goodbye on each interface.
        await bob.stdin.aclose()
        await until("alice", lambda line: line[:2] == ["PeerGone", "west"])
        assert await bob.wait() == 0
        nursery.cancel_scope.cancel()


async def be_bob() -> None:
    print("ready", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_device, "bob", lambda event: print(json.dumps(as_line(event)), flush=True))
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(be_bob if sys.argv[1:] == ["bob"] else orchestrate)
