"""meshd: the composition root. Reads the configuration, opens the disk and the sockets, runs the node."""

import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import trio

from meshd.api.listener import SocketSettings
from meshd.api.server import Server
from meshd.api.settings import COMMAND_LINE, reloaded
from meshd.clock import MeshClock
from meshd.config import Alerts, Config
from meshd.discovery.events import NetworkChanged, ThriftChanged
from meshd.discovery.interfaces import Interface, interfaces
from meshd.discovery.mdns import NO_SUCH_INTERFACE, run_mdns
from meshd.discovery.netwatch import watch_network, watch_resume
from meshd.discovery.power import watch_power
from meshd.discovery.sightings import Sightings
from meshd.errors import CATALOGUE, MeshdError
from meshd.ids import NodeId, to_text
from meshd.links.peer import PeerStatistics
from meshd.logs import configure, get_logger
from meshd.node.clients import Listening
from meshd.node.inbox import Inbox
from meshd.node.insight.alerts import Level
from meshd.node.insight.hooks import QUEUED_ALERTS, HookSettings, check_command, run_hooks
from meshd.node.insight.premises import Site
from meshd.node.insight.pulse import Pulse, Sights, look_around
from meshd.node.insight.vitals import Outage, Vitals
from meshd.node.insight.watch import Thresholds
from meshd.node.loop import Loop, Surroundings
from meshd.node.settings import Settings
from meshd.node.step import Node
from meshd.options import Options, read_config, read_options
from meshd.service import (
    begin_life,
    claim_identity,
    fail,
    free_bytes,
    make_dir,
    make_transports,
    notify,
    run_process,
    settle_streams,
    watchdog,
)
from meshd.starting import end_outage, note_outage, start_part
from meshd.store.database import Database
from meshd.store.requests import Requests
from meshd.store.worker import Timing, run_worker
from meshd.transport.base import Address, Transport
from meshd.transport.websocket import WebsocketTransport
from meshd.trust.identity import Identity

STOP_SECONDS = 4.5
SOCKET_NAME = "meshd.sock"
MDNS = "discovery.mdns on "
"""And an interface: what an outage of it is called."""

log = get_logger("meshd.daemon")


def main() -> None:
    """The ``meshd`` command. Exits 0, 1, 2 or 3, with one clear line when not 0."""
    settle_streams()
    try:
        options = read_options(sys.argv[1:], os.environ)
    except MeshdError as error:
        fail(error, "meshd")
    else:
        if options is not None:
            run_process(partial(run_daemon, options), "meshd")


async def run_daemon(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Raises MeshdError when it can't start, or when the disk fails."""
    make_dir(options.state_dir, 0o700, "E_STATE_DIR")
    make_dir(options.runtime_dir, 0o755, "E_RUNTIME_DIR")
    rng = random.SystemRandom()
    life = begin_life(options.state_dir / "meshd.db", rng)
    identity = claim_identity(life, options.state_dir, rng)
    clock = life.clock
    statistics: list[Callable[[NodeId], PeerStatistics | None]] = []
    vitals, database = Vitals(), life.database
    node = Node(
        identity=identity,
        settings=_settings(options),
        snapshot=life.snapshot,
        epoch=life.epoch,
        now=clock.now(),
        rng=rng,
        free_bytes=partial(free_bytes, options.state_dir),
        spare_bytes=lambda: database.spare_bytes,
        dialer=lambda peer: statistics[0](peer) if statistics else None,
        vitals=vitals,
    )
    daemon = _Daemon(options, clock, rng, identity, node, database, vitals)
    del life  # the snapshot is large, and of no more use
    statistics.append(daemon.loop.dialers.statistics)
    await daemon.run()


def _settings(options: Options) -> Settings:
    store, carry = options.config.store, options.config.carry
    return Settings(
        name=options.name,
        quota_bytes=store.quota_bytes,
        default_lifetime_ms=int(store.default_lifetime * 1000),
        max_lifetime_ms=int(store.max_lifetime * 1000),
        max_links=options.config.links.max_links,
        relay_urls=options.config.relay.urls,
        carry_bytes=carry.quota_bytes if carry.enabled else None,
        alerts=_thresholds(options.config.alerts),
    )


def _thresholds(alerts: Alerts) -> Thresholds:
    return Thresholds(
        peer_down_after_s=alerts.peer_down_after,
        spool_share=alerts.spool_percent / 100,
        disk_free_bytes=alerts.disk_free_bytes,
        loop_lag_s=alerts.loop_lag,
        clock_skew_s=alerts.clock_skew,
        mute=frozenset(alerts.mute),
    )


def _hooks(alerts: Alerts) -> HookSettings:
    return HookSettings(
        command=alerts.exec,
        url=alerts.webhook,
        token=alerts.webhook_token,
        timeout_s=alerts.hook_timeout,
        attempts=alerts.hook_attempts,
        least=Level[alerts.hook_severity.upper()],
    )


def _interfaces() -> tuple[Interface, ...]:
    try:
        return interfaces()
    except OSError as error:
        raise MeshdError("E_NETLINK", f"The network interfaces can't be listed: {error.strerror or error}.") from error


async def _check_hook(hooks: HookSettings) -> None:
    check_command(hooks.command)


class _Daemon:
    """The top nursery: who runs, and in which order they start and stop."""

    def __init__(
        self,
        options: Options,
        clock: MeshClock,
        rng: random.Random,
        identity: Identity,
        node: Node,
        database: Database,
        vitals: Vitals,
    ) -> None:
        self._options = options
        self._config = options.config
        self._settings = options.settings
        self._rng = rng
        self._database = database
        self._vitals = vitals
        self._inbox = Inbox()
        self._requests = Requests(clock.now_ms)
        listen, used = self._config.listen, self._config.links.transports
        self._transports = make_transports(
            quic=listen.quic if "quic" in used else (),
            websocket=listen.websocket if "websocket" in used else (),
            identity=identity,
            remembered=lambda: frozenset(
                address.host for peer in node.peers.known.values() for address in peer.addresses
            ),
        )
        self._bound: list[Address] = []
        self._gateway: list[str] = []
        self._discovery, self._discovery_inputs = trio.open_memory_channel[Any](256)
        self._alerts, self._told_alerts = trio.open_memory_channel[dict[str, Any]](QUEUED_ALERTS)
        self.loop = Loop(
            node,
            Surroundings(
                clock=clock.now,
                rng=rng,
                inbox=self._inbox,
                requests=self._requests,
                transports=self._transports,
                static=self._config.discovery.static,
                discovery=self._discovery if self._config.discovery.mdns else None,
                named_interfaces=self._config.discovery.interfaces,
                site=Site(
                    state_dir=options.state_dir,
                    socket_path=options.runtime_dir / SOCKET_NAME,
                    socket_mode=self._config.api.mode,
                    quota_bytes=self._config.store.quota_bytes,
                ),
                alerts=self._alerts,
                settings=lambda: [setting.plain() for setting in self._settings],
            ),
        )

    async def run(self) -> None:
        """Start in the order of dependence; stop in reverse: clients, links, then the disk."""
        vitals = self._vitals
        trio.lowlevel.add_instrument(Pulse(vitals))
        timing = Timing(slow_s=self._config.store.slow_commit, commits=vitals.commits, reads=vitals.reads)
        work = partial(run_worker, self._database, self._requests, self._inbox.post_nowait, timing=timing)
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                await nursery.start(work)
                async with trio.open_nursery() as serving:
                    await self._serve(serving)
                    notify("READY=1")
                    await self._until_stopped(signals)
                    notify("STOPPING=1")
                    log.info("stopping")
                    await self.loop.leave()
                    serving.cancel_scope.cancel()
                self._requests.close_nowait()

    async def _serve(self, nursery: trio.Nursery) -> None:
        await self._inbox.send(NetworkChanged(_interfaces()))
        for transport in self._transports.values():
            await self._start_part(nursery, f"listen.{transport.name}", partial(self._listen, nursery, transport))
        await nursery.start(self.loop.run)
        if self._config.discovery.mdns:
            nursery.start_soon(
                partial(
                    run_mdns,
                    self._discovery_inputs,
                    self._inbox.send,
                    settings=self._config.discovery,
                    sightings=Sightings(),
                    rng=self._rng,
                    report=self._note_deaf,
                )
            )
        hooks = _hooks(self._config.alerts)
        nursery.start_soon(run_hooks, self._told_alerts, hooks, self._rng)
        if hooks.command:
            await self._start_part(nursery, "alerts.exec", partial(_check_hook, hooks))
        nursery.start_soon(look_around, self._inbox, self._vitals, self._sights())
        nursery.start_soon(watch_network, self._inbox.send)
        nursery.start_soon(watch_resume, self._inbox.send)
        await self._mind_power(nursery)
        api = self._config.api
        path = str(self._options.runtime_dir / SOCKET_NAME)
        server = Server(self._inbox)
        self._vitals.clients = lambda: server.clients
        await nursery.start(server.serve, SocketSettings(path, api.group or None, api.mode))
        if self._config.http.enabled:
            await self._serve_http(nursery)
        # An event that asks for a turn and nothing else.
        nursery.start_soon(watchdog, lambda: self.loop.turns, lambda: self._inbox.post_nowait(None))
        device = to_text(self.loop.node.identity.node_id)
        log.info("running", device=device, socket=path, listen=list(map(str, self._bound)), http=self._gateway)

    def _sights(self) -> Sights:
        return Sights(
            free_bytes=partial(free_bytes, self._options.state_dir),
            closings=self.loop.dialers.breaker_closings,
            turns=lambda: self.loop.turns,
            is_waiting=lambda: self.loop.node.watch.is_waiting,
            outages=self._vitals.outages,
            thresholds=_thresholds(self._config.alerts),
        )

    async def _start_part(self, nursery: trio.Nursery, part: str, start: Callable[[], Awaitable[None]]) -> None:
        await start_part(nursery, part, start, self._vitals.outages, self._rng)

    async def _listen(self, nursery: trio.Nursery, transport: Transport) -> None:
        """Have a transport listen, and tell of it. Raises MeshdError E_PORT."""
        serve = partial(transport.serve, self.loop.handle_connection)
        if isinstance(transport, WebsocketTransport):
            serve = partial(serve, join_handler=self.loop.doorkeeper.handle)
        try:
            self._bound += await nursery.start(serve)
        except OSError as error:
            reason = f"{transport.name} {error.strerror or error}."
            raise MeshdError("E_PORT", reason, f"Stop what holds the port, or set listen.{transport.name}.") from error
        self.loop.listen(Listening(tuple(self._bound), ()))

    def _note_deaf(self, reasons: Mapping[str, str]) -> None:
        """Multicast DNS can't be had on these interfaces, and on no others."""
        outages = self._vitals.outages
        for part in [part for part in outages if part.startswith(MDNS) and part.removeprefix(MDNS) not in reasons]:
            end_outage(outages, part)
        for interface, reason in reasons.items():
            fix = CATALOGUE["E_MULTICAST"].advice.replace("NAME", interface)
            if reason == NO_SUCH_INTERFACE:
                fix = "Correct discovery.interfaces. What there is: ip -brief link."
            note_outage(outages, Outage(part=f"{MDNS}{interface}", code="E_MULTICAST", reason=reason, fix=fix))

    async def _serve_http(self, nursery: trio.Nursery) -> None:
        """Start the gateway."""
        # Imported here: a daemon without a gateway does without what it takes in memory.
        from meshd.http.gateway import Gateway
        from meshd.http.handlers import Surroundings
        from meshd.http.leases import Leases

        around = Surroundings(
            inbox=self._inbox,
            leases=Leases(self._inbox),
            name_of=self.loop.node.tokens.name_of,
            rng=self._rng,
            run=self.loop.node.epoch.counter,
        )
        api = self._config.api
        settings = SocketSettings(str(self._options.runtime_dir / "http.sock"), api.group or None, api.mode)
        gateway = Gateway(around)

        async def serve(*task: Any) -> None:
            self._gateway.append(await nursery.start(*task))

        await self._start_part(nursery, "http", partial(serve, gateway.serve, settings))
        for endpoint in self._config.http.listen:
            await self._start_part(nursery, f"http.listen {endpoint}", partial(serve, gateway.serve_tcp, endpoint))

    async def _mind_power(self, nursery: trio.Nursery) -> None:
        power = self._config.power

        async def post(on_battery: bool) -> None:
            await self._inbox.send(ThriftChanged(on_battery=on_battery, metered=power.metered))

        if power.battery == "auto":
            nursery.start_soon(watch_power, post)
        else:
            await post(power.battery == "yes")

    async def _until_stopped(self, signals: Any) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                return
            self._reload()

    def _reload(self) -> None:
        try:
            said = {row.key: row.value for row in self._settings if row.source == COMMAND_LINE}
            config, settings = read_config(self._options.config_file, os.environ, said)
        except MeshdError as error:
            log.error("configuration not reloaded", code=error.code, reason=error.message)
            return
        configure(config.log.level, config.log.format, dict(config.log.levels))
        self._settings = reloaded(self._settings, settings, frozenset(("log",)))
        fixed = [
            field.name
            for field in attrs.fields(Config)
            if field.name != "log" and getattr(config, field.name) != getattr(self._config, field.name)
        ]
        if fixed:
            log.warning("reloaded; some sections take a restart", reloaded=["log"], restart_for=fixed)
        else:
            log.info("reloaded", reloaded=["log"])


if __name__ == "__main__":
    main()
