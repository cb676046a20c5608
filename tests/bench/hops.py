"""Daemons in a line of network namespaces: what each hop costs, and a relay between two.

The namespaces hang on one bridge of the kernel; routes that refuse make neighbours of those next to each
other in the line alone.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from tests.bench.mesh import app
from tests.bench.report import Figure, percentile
from tests.netlab.lab import Host, Lab, eventually, missing

HOSTS = 4
ROUTE_S = 60.0


class Line(Lab):
    """A laboratory whose switch is the kernel's own; IPv4 alone."""

    def _start_switch(self, stack: ExitStack) -> None:  # type: ignore[override]
        bridge = self._namespace(stack)
        lines = ["link add br0 type bridge", "link set br0 up"]
        for host in self.hosts:
            port, end = f"port{host.number}", f"host{host.number}"
            lines += [
                f"link add {port} type veth peer name {end}",
                f"link set {end} netns {host.namespace.pid} name eth0",
                f"link set {port} master br0",
                f"link set {port} up",
            ]
        command = bridge.command("ip", "-batch", "-")
        subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True)
        for host in self.hosts:
            host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
            host.configure = lambda host=host: host.run(  # type: ignore[method-assign]
                "ip", "-batch", "-", stdin=f"link set lo up\nlink set eth0 up\naddr add {host.ipv4}/24 dev eth0"
            )

    def stretch(self) -> None:
        """From now on only neighbours reach each other."""
        for here in self.hosts:
            far = [there for there in self.hosts if abs(here.number - there.number) > 1]
            here.run("ip", "-batch", "-", stdin="\n".join(f"route add unreachable {there.ipv4}/32" for there in far))


def _next_hop(host: Host, destination: Host) -> str | None:
    rows = [row for row in host.ctl("routes") if row["state"] == "selected"]
    return next((row["next_hop_name"] for row in rows if row["name"] == destination.name), None)


def _mesh(lab: Line, transport: str) -> list[Host]:
    hosts = lab.hosts
    for host, name in zip(hosts, "abcd", strict=True):
        host.start(name, f'[links]\ntransports = ["{transport}"]\n')
    hosts[0].ctl("init", "bench")
    for host in hosts[1:]:
        host.ctl("join", hosts[0].ctl("invite")["code"], "--name", host.name)
    lab.stretch()
    for host in hosts:  # links to those out of reach now would stay until they are missed
        host.kill()
    for host in hosts:
        host.start()
    for here, there, via in ((0, 3, "b"), (3, 0, "c"), (0, 2, "b"), (2, 0, "b")):
        eventually(
            lambda here=here, there=there, via=via: _next_hop(hosts[here], hosts[there]) == via,  # type: ignore[misc]
            within_s=ROUTE_S,
            what="routes along the line",
        )
    return hosts


def hops(runs: int, scale: int, transport: str) -> Iterator[Figure]:
    """Rate and latency over 1, 2 and 3 hops, durable, 1 KiB."""
    if _is_lacking("hops"):
        return
    with Line(HOSTS) as lab:
        hosts = _mesh(lab, transport)
        for count in range(1, HOSTS):
            name = f"over {count} hop{'s' if count > 1 else ''}, {transport}"
            yield from _measure(hosts[0], hosts[count], runs, scale, name)


def through_relay(runs: int, scale: int) -> Iterator[Figure]:
    """The same between two devices that only a relay joins."""
    if _is_lacking("relay"):
        return
    with Line(3) as lab:
        a, relay, b = lab.hosts
        for host, name in ((a, "a"), (b, "b")):
            host.start(name, '[links]\ntransports = ["websocket"]\n')
        a.ctl("init", "bench")
        b.ctl("join", a.ctl("invite")["code"], "--name", "b")
        relay.start_relay()
        a.ctl("relay", "add", f"wss://{relay.ipv4}:443", "--certificate", relay.certificate_hash(), "--name", "r")
        _await(lambda: [row["state"] for row in b.ctl("relay", "list")] == ["up"], "b is linked with the relay")
        lab.stretch()
        for host in (a, b):
            host.kill()
        for host in (a, b):
            host.start()
        for here, there in ((a, b), (b, a)):
            _await(
                lambda here=here, there=there: _next_hop(here, there) == "r",  # type: ignore[misc]
                "routes through the relay",
            )
        yield from _measure(a, b, runs, scale, "through a relay")


def _await(condition: Callable[[], bool], what: str) -> None:
    eventually(condition, within_s=ROUTE_S, what=what)


def _is_lacking(row: str) -> bool:
    lacking = missing()
    if lacking is not None:
        print(f"{row}: not measured, {lacking}")
    return lacking is not None


def _measure(here: Host, there: Host, runs: int, scale: int, name: str) -> Iterator[Figure]:
    """From one to the other; the first run of each is the warm-up."""
    with app(here) as source, app(there) as sink:  # type: ignore[arg-type]
        messages = max(1, 40_000 // scale)
        rates, medians, tails = [], [], []
        for number in range(runs + 1):
            sink.do(do="count", messages=messages)
            seconds = source.do(do="flood", to=there.name, messages=messages, kind="random", size=1024)["seconds"]
            received = sink.answer()["received"]
            if number:
                rates.append(received / seconds)
        time.sleep(1.0)
        for number in range(runs + 1):
            sink.do(do="take_stamps", messages=max(1, 300 // scale))
            source.do(do="one_by_one", to=there.name, messages=max(1, 300 // scale), size=1024)
            took = sink.answer()["took"]
            if number:
                medians.append(percentile(took, 0.5) * 1000)
                tails.append(percentile(took, 0.99) * 1000)
    yield Figure(name=f"durable 1 KiB {name}", unit="msg/s", runs=tuple(rates))
    yield Figure(name=f"durable one way p50 {name}", unit="ms", runs=tuple(medians))
    yield Figure(name=f"durable one way p99 {name}", unit="ms", runs=tuple(tails))
