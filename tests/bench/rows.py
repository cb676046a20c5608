"""The rows of the benchmark. Each starts its own daemons, warms up, and measures several times."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from tests.bench.crowd import idle_crowd
from tests.bench.hops import hops, through_relay
from tests.bench.mesh import QUIET_S, App, Node, app, await_links, cpu_seconds, mesh, resident_bytes, restart
from tests.bench.report import Figure, percentile
from tests.bench.sighting import discovery_seconds


@attrs.frozen
class Effort:
    """How much is measured. ``scale`` divides the amounts of work in one run."""

    runs: int
    scale: int

    def of(self, amount: int) -> int:
        """So much of ``amount``."""
        return max(1, amount // self.scale)


Row = Callable[[Effort], Iterator[Figure]]


@attrs.frozen(kw_only=True)
class Rate:
    """One rate of messages, app to app."""

    name: str
    transport: str
    kind: str
    size: int
    messages: int
    target: str
    ephemeral: bool = False
    bulk: bool = False

    def __call__(self, effort: Effort) -> Iterator[Figure]:
        """Measure it."""
        with mesh("source", "sink") as nodes:
            restart(nodes, self.transport)
            with app(nodes[0]) as source, app(nodes[1]) as sink:
                self._run(source, sink, effort.of(self.messages) // 4)  # warm-up
                processes = {
                    "source_daemon": nodes[0].pid,
                    "sink_daemon": nodes[1].pid,
                    "source_app": source.pid,
                    "sink_app": sink.pid,
                }
                before = {name: cpu_seconds(pid) for name, pid in processes.items()}
                results = [self._run(source, sink, effort.of(self.messages)) for _ in range(effort.runs)]
                messages = sum(received for received, _ in results)
                used = {
                    name: round((cpu_seconds(pid) - before[name]) / messages * 1e6, 1)
                    for name, pid in processes.items()
                }
        sent = effort.of(self.messages) * effort.runs
        amount = self.size / 1e6 if self.bulk else 1
        yield Figure(
            name=self.name,
            unit="MB/s" if self.bulk else "msg/s",
            runs=tuple(received * amount / seconds for received, seconds in results),
            target=self.target,
            extra={"cpu_us_per_message": used, "arrived_share": messages / sent, "payload": self.kind},
        )

    def _run(self, source: App, sink: App, messages: int) -> tuple[int, float]:
        """How many messages arrived, and the seconds it took."""
        flood = {"to": "sink", "messages": messages, "kind": self.kind, "size": self.size}
        if self.ephemeral:
            sink.do(do="count", messages=messages, idle_s=1.0, acks=False)
            began = source.do(do="flood_ephemeral", **flood)["began"]
            counted = sink.answer()
            return counted["received"], counted["ended"] - began
        sink.do(do="count", messages=messages)
        seconds = source.do(do="flood", **flood)["seconds"]
        return sink.answer()["received"], seconds


def latency(effort: Effort, *, transport: str) -> Iterator[Figure]:
    """One way, durable, one message at a time."""
    medians, tails = [], []
    with mesh("source", "sink") as nodes:
        restart(nodes, transport)
        with app(nodes[0]) as source, app(nodes[1]) as sink:
            for number in range(effort.runs + 1):
                messages = effort.of(500)
                sink.do(do="take_stamps", messages=messages)
                source.do(do="one_by_one", to="sink", messages=messages, size=1024)
                took = sink.answer()["took"]
                if number:  # the first is the warm-up
                    medians.append(percentile(took, 0.5) * 1000)
                    tails.append(percentile(took, 0.99) * 1000)
    yield Figure(name=f"durable one way p50, {transport}", unit="ms", runs=tuple(medians), target="<= 0.8")
    yield Figure(name=f"durable one way p99, {transport}", unit="ms", runs=tuple(tails), target="<= 2.5")


def round_trip(effort: Effort, *, transport: str) -> Iterator[Figure]:
    """App to app and back, ephemeral, one message at a time."""
    medians = []
    with mesh("source", "sink") as nodes:
        restart(nodes, transport)
        with app(nodes[0]) as source, app(nodes[1]) as sink:
            for number in range(effort.runs + 1):
                messages = effort.of(1000)
                sink.do(do="echo", to="source", messages=messages)
                took = source.do(do="round_trips", to="sink", messages=messages, size=1024)["took"]
                sink.answer()
                if number:
                    medians.append(percentile(took, 0.5) * 1000)
    yield Figure(name=f"ephemeral round trip p50, {transport}", unit="ms", runs=tuple(medians), target="<= 0.6")


def idle(effort: Effort) -> Iterator[Figure]:
    """What a daemon with three linked peers costs while nothing happens."""
    with mesh("one", "two", "three", "four") as nodes:
        restart(nodes, "quic", "websocket")
        time.sleep(QUIET_S)
        before = {node.pid: cpu_seconds(node.pid) for node in nodes}
        seconds = 25 / effort.scale
        began = time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        shares = [(cpu_seconds(node.pid) - before[node.pid]) / passed * 100 for node in nodes]
        sizes = [resident_bytes(node.pid) / 1e6 for node in nodes]
    yield Figure(name="idle with 3 peers, resident memory", unit="MB", runs=tuple(sizes), target="<= 55")
    yield Figure(name="idle with 3 peers, CPU", unit="% core", runs=tuple(shares), target="<= 0.5")


def start(effort: Effort) -> Iterator[Figure]:
    """A daemon starts, is found over mDNS, and hands out a message that waited for it on another device."""
    from_exec, from_up, up = [], [], []
    with mesh("first", "second") as nodes:
        first, second = nodes
        for _ in range(effort.runs + 1):
            for node in nodes:
                node.stop()
            first.start()  # at a new port: what the second remembers of it is of no use
            first.ask("send", destination="second", messages=[b"good morning"], service="bench")
            began = time.monotonic()
            second.start()
            ready = time.monotonic()
            _read_one(second)
            ended = time.monotonic()
            from_exec.append(ended - began)
            from_up.append(ended - ready)
            up.append(ready - began)
            await_links(nodes)
    yield Figure(name="second node, from exec to first message", unit="s", runs=tuple(from_exec[1:]), target="<= 1.0")
    yield Figure(name="second node, from ready to first message", unit="s", runs=tuple(from_up[1:]), target="<= 0.3")
    yield Figure(name="second node, from exec to ready", unit="s", runs=tuple(up[1:]))


def _read_one(node: Node) -> None:
    with node.client() as client, client.subscribe("bench") as subscription:
        subscription.ack(subscription.next(30))


def discovery(effort: Effort) -> Iterator[Figure]:
    """From the start of the browser to the sighting of a member that announces itself."""
    took = [discovery_seconds() * 1000 for _ in range(effort.runs)]
    yield Figure(name="discovery alone", unit="ms", runs=tuple(took), target="< 100")


def clients(effort: Effort) -> Iterator[Figure]:
    """50 clients ask the daemon while 5,000 messages a second flow through it."""
    averages, tails, rates = [], [], []
    with mesh("source", "sink") as nodes:
        restart(nodes, "websocket")
        with app(nodes[0]) as source, app(nodes[0]) as asking, app(nodes[1]) as sink:
            for number in range(effort.runs + 1):
                seconds = 8 / effort.scale
                sink.do(do="count", messages=2**60, idle_s=1.5)
                source.tell(do="paced", to="sink", rate=5000, seconds=seconds + 1, size=1024)
                time.sleep(0.5)
                took = asking.do(do="query", clients=50, seconds=seconds, pause_s=0.1)["took"]
                flow = source.answer()
                sink.answer()
                if number:
                    averages.append(sum(took) / len(took) * 1000)
                    tails.append(percentile(took, 0.99) * 1000)
                    rates.append(flow["sent"] / flow["seconds"])
    yield Figure(
        name="50 clients: query, average", unit="ms", runs=tuple(averages), target="< 10", extra={"flow_msg_s": rates}
    )
    yield Figure(name="50 clients: query, p99", unit="ms", runs=tuple(tails))


_RATES = (
    Rate(
        name="durable 1 KiB, websocket, JSON",
        transport="websocket",
        kind="text",
        size=1024,
        messages=120_000,
        target=">= 50,000",
    ),
    Rate(
        name="durable 1 KiB, websocket, random",
        transport="websocket",
        kind="random",
        size=1024,
        messages=120_000,
        target=">= 50,000",
    ),
    Rate(
        name="durable 1 KiB, quic, JSON", transport="quic", kind="text", size=1024, messages=60_000, target=">= 10,000"
    ),
    Rate(
        name="durable 1 KiB, quic, random",
        transport="quic",
        kind="random",
        size=1024,
        messages=60_000,
        target=">= 10,000",
    ),
    Rate(
        name="durable 64 B, websocket, random",
        transport="websocket",
        kind="random",
        size=64,
        messages=200_000,
        target=">= 150,000",
    ),
    Rate(name="durable 64 B, quic, random", transport="quic", kind="random", size=64, messages=200_000, target=""),
    Rate(
        name="ephemeral 1 KiB, websocket, random",
        transport="websocket",
        kind="random",
        size=1024,
        messages=150_000,
        target=">= 100,000",
        ephemeral=True,
    ),
    Rate(
        name="ephemeral 1 KiB, quic, random",
        transport="quic",
        kind="random",
        size=1024,
        messages=60_000,
        target=">= 20,000",
        ephemeral=True,
    ),
    Rate(
        name="bulk 64 KiB, websocket, durable",
        transport="websocket",
        kind="random",
        size=65_536,
        messages=4_000,
        target=">= 150",
        bulk=True,
    ),
    Rate(
        name="bulk 64 KiB, websocket, ephemeral",
        transport="websocket",
        kind="random",
        size=65_536,
        messages=4_000,
        target=">= 150",
        ephemeral=True,
        bulk=True,
    ),
    Rate(
        name="bulk 64 KiB, quic, durable",
        transport="quic",
        kind="random",
        size=65_536,
        messages=1_500,
        target=">= 22",
        bulk=True,
    ),
    Rate(
        name="bulk 64 KiB, quic, ephemeral",
        transport="quic",
        kind="random",
        size=65_536,
        messages=1_500,
        target=">= 22",
        ephemeral=True,
        bulk=True,
    ),
)

ROWS: dict[str, Row] = {
    **{rate.name.replace(",", "").replace(" ", "-"): rate for rate in _RATES},
    "latency-websocket": partial(latency, transport="websocket"),
    "latency-quic": partial(latency, transport="quic"),
    "round-trip-websocket": partial(round_trip, transport="websocket"),
    "round-trip-quic": partial(round_trip, transport="quic"),
    "idle": idle,
    "start": start,
    "hops-websocket": lambda effort: hops(effort.runs, effort.scale, "websocket"),
    "hops-quic": lambda effort: hops(effort.runs, effort.scale, "quic"),
    "relay": lambda effort: through_relay(effort.runs, effort.scale),
    "crowd": lambda effort: idle_crowd(effort.runs, 20 / effort.scale),
    "discovery": discovery,
    "clients": clients,
}
"""By the name that ``--only`` takes (its beginning is enough)."""
