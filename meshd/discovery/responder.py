"""The asyncio side of multicast DNS: zeroconf, in a thread of its own.

One event loop in one thread serves one zeroconf instance per interface. Each is bound to its
interface, so that it answers with the addresses of that interface and knows where
an announcement was heard. (RFC 6762, RFC 6763.)
"""

import asyncio
import contextlib
import functools
import ipaddress
import os
import random
import socket
from collections.abc import Callable, Iterable

import attrs
import zeroconf
from zeroconf import BadTypeInNameException, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from meshd.discovery.presence import Presence
from meshd.discovery.sightings import Heard, Lost, Opening
from meshd.ids import to_text
from meshd.logs import get_logger

SERVICE_TYPE = "_meshd._udp.local."

GOODBYE_LIMIT_S = 1.0
"""Three goodbye packets take 0.25 s."""

LABEL_SIZE = 10
"""Random bytes in an instance name, which tells nothing about the device."""

RETRY_S = 30.0
"""After an interface could not be opened; a change of the network tries again sooner."""

RESOLVE_LIMIT_MS = 3000
MAX_RESOLVING = 16
"""Announcements that came without all their records, asked for at a time; more are dropped."""

MAX_LABEL_BYTES = 63
"""RFC 1035 section 2.3.4."""

log = get_logger(__name__)


@attrs.define(eq=False)
class _Session:
    """One interface's zeroconf instance, and its tasks, kept here so that they are not collected."""

    presence: Presence
    label: str
    responder: AsyncZeroconf
    browser: AsyncServiceBrowser | None = None
    announcing: "asyncio.Future[None] | None" = None
    resolving: "set[asyncio.Task[None]]" = attrs.Factory(set)


class Responder:
    """Keeps the wanted presences up. :meth:`run` blocks in a thread; the other methods are for any thread.

    Args:
        deliver: called in the responder's thread with each announcement, and with an Opening each time that
            an interface was opened or could not be; must not block.
        rng: for names; used in the responder's thread.
        goodbye_limit_s: the three packets of a goodbye are cut short after so long.
    """

    def __init__(
        self,
        deliver: Callable[[Heard | Lost | Opening], None],
        rng: random.Random,
        goodbye_limit_s: float = GOODBYE_LIMIT_S,
    ) -> None:
        self._deliver = deliver
        self._rng = rng
        self._goodbye_limit_s = goodbye_limit_s
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._wanted: dict[str, Presence] = {}
        self._stopping = False
        self._sessions: dict[str, _Session] = {}

    def run(self) -> None:
        """Serve until :meth:`stop`, then say goodbye on every interface, which is cut short if it takes too long."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def show(self, presences: tuple[Presence, ...]) -> None:
        """From now on be present as told, and nowhere else."""
        wanted = {presence.interface: presence for presence in presences}
        self._loop.call_soon_threadsafe(self._want, wanted, False)

    def tell_again(self, names: Iterable[tuple[str, str]]) -> None:
        """Deliver once more what is known of these (interface, instance), or that they are gone."""
        # A closed loop refuses with RuntimeError.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell_again, tuple(names))

    def stop(self) -> None:
        """Make :meth:`run` end. Does nothing when it has ended already."""
        # A closed loop refuses with RuntimeError.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._want, {}, True)

    def _want(self, wanted: dict[str, Presence], stopping: bool) -> None:
        self._wanted = wanted
        self._stopping = self._stopping or stopping
        self._changed.set()

    def _tell_again(self, names: Iterable[tuple[str, str]]) -> None:
        for interface, instance in names:
            session = self._sessions.get(interface)
            if session is None:
                continue
            responder, name = session.responder.zeroconf, f"{instance}.{SERVICE_TYPE}"
            known = responder.cache.current_entry_with_name_and_alias(SERVICE_TYPE, name)
            change = ServiceStateChange.Removed if known is None else ServiceStateChange.Added
            self._on_change(session, zeroconf=responder, service_type=SERVICE_TYPE, name=name, state_change=change)

    async def _serve(self) -> None:
        while not self._stopping:
            missing = self._wanted.keys() - self._sessions.keys()
            try:
                async with asyncio.timeout(RETRY_S if missing else None):
                    await self._changed.wait()
            except TimeoutError:
                log.debug("opening interfaces again", interfaces=sorted(missing))
            self._changed.clear()
            await self._reconcile()
        # The word to stop may have come in the middle of the last one.
        await self._reconcile()

    async def _reconcile(self) -> None:
        wanted = self._wanted
        stale = [session for name, session in self._sessions.items() if wanted.get(name) != session.presence]
        for session in stale:
            await self._stop_looking(session)
        for name in wanted.keys() - self._sessions.keys():
            reason: str | None = None
            try:
                await self._open(wanted[name])
            except (OSError, RuntimeError, zeroconf.Error) as error:
                reason = str(error) or repr(error)
            self._deliver(Opening(name, reason))
        # The old name goes only now: whoever knew it has heard the new one by then, and misses nobody.
        await asyncio.gather(*[self._say_goodbye(session) for session in stale])

    async def _open(self, presence: Presence) -> None:
        interfaces: list[str | int] = [] if presence.ipv4 is None else [presence.ipv4]
        if presence.ipv6:
            # By index: zeroconf looks an address up among all interfaces, and link-local ones repeat.
            interfaces.append(presence.index)
        # A new name each time: others must hear anew of a device that came back with nothing changed, and
        # take an old name that they were told to forget for gone for another second (RFC 6762 section 10.1).
        label = to_text(self._rng.randbytes(LABEL_SIZE))
        session = _Session(presence, label, AsyncZeroconf(interfaces=interfaces))
        self._sessions[presence.interface] = session
        try:
            await session.responder.zeroconf.async_wait_for_start()
            if not session.responder.zeroconf.engine.senders:
                raise OSError("the kernel lets nobody join a multicast group there")
            _bind_to_interface(session.responder, presence.interface)
            if presence.port:
                # The label is random, so nobody is asked whether it is free: that would take a second.
                service = _service(presence, label)
                announcing = await session.responder.async_register_service(service, cooperating_responders=True)
                session.announcing = asyncio.ensure_future(announcing)
            session.browser = AsyncServiceBrowser(
                session.responder.zeroconf, [SERVICE_TYPE], handlers=[functools.partial(self._on_change, session)]
            )
        except BaseException:
            await self._stop_looking(session)
            await self._say_goodbye(session)
            raise
        log.debug("present", interface=presence.interface, hosts=presence.hosts)

    async def _stop_looking(self, session: _Session) -> None:
        del self._sessions[session.presence.interface]
        for task in session.resolving:
            task.cancel()
        if session.announcing is not None:
            session.announcing.cancel()
        if session.browser is not None:
            await session.browser.async_cancel()

    async def _say_goodbye(self, session: _Session) -> None:
        try:
            async with asyncio.timeout(self._goodbye_limit_s):
                await session.responder.async_unregister_all_services()
        except TimeoutError:
            log.warning("no time for goodbye", interface=session.presence.interface)
        # Cut short, this would leave sockets and a timer behind; it waits for nobody.
        await session.responder.async_close()

    def _on_change(
        self,
        session: _Session,
        *,
        zeroconf: zeroconf.Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """Runs in the loop, once for each announcement that came, changed or went."""
        instance = name.removesuffix(f".{service_type}")
        if instance == session.label:
            return
        if any(len(label.encode()) > MAX_LABEL_BYTES for label in name.split(".")):
            # Bad UTF-8 grows where it is replaced. Each query names what is known, so none could be written any more.
            self._loop.call_soon(_forget, zeroconf, service_type, name)
            return
        if state_change is ServiceStateChange.Removed:
            self._deliver(Lost(session.presence.interface, instance))
            return
        try:
            info = AsyncServiceInfo(service_type, name)
        except BadTypeInNameException:
            log.debug("announcement with a bad name", interface=session.presence.interface)
            return
        if info.load_from_cache(zeroconf):
            self._tell(session, instance, info)
        elif len(session.resolving) < MAX_RESOLVING:
            task = self._loop.create_task(self._resolve(session, instance, info))
            session.resolving.add(task)
            task.add_done_callback(session.resolving.discard)

    async def _resolve(self, session: _Session, instance: str, info: AsyncServiceInfo) -> None:
        if await info.async_request(session.responder.zeroconf, RESOLVE_LIMIT_MS):
            self._tell(session, instance, info)

    def _tell(self, session: _Session, instance: str, info: AsyncServiceInfo) -> None:
        presence = session.presence
        hosts = tuple(info.parsed_addresses())
        self._deliver(Heard(presence.interface, instance, dict(info.properties), hosts, presence.loopback))


def _service(presence: Presence, label: str) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{label}.{SERVICE_TYPE}",
        port=presence.port,
        properties=dict(presence.txt),
        server=f"{label}.local.",
        addresses=[ipaddress.ip_address(host).packed for host in presence.hosts],
    )


def _forget(responder: zeroconf.Zeroconf, service_type: str, name: str) -> None:
    """Take a name out of what is known. Runs in the loop."""
    while (record := responder.cache.current_entry_with_name_and_alias(service_type, name)) is not None:
        responder.cache.async_remove_records([record])


def _bind_to_interface(responder: AsyncZeroconf, interface: str) -> None:
    """Have the sockets send and receive on ``interface`` alone. Needs no privilege since Linux 5.7.

    Joining a group on one interface does not do it: an IPv6 socket that joined a group anywhere gets its
    packets from every interface, and so does by default an IPv4 socket on the wildcard address (ip(7),
    IP_MULTICAST_ALL). What came in before this call is thrown away.
    """
    for reader in responder.zeroconf.engine.readers:
        reader.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        with socket.socket(fileno=os.dup(reader.fileno)) as queued, contextlib.suppress(BlockingIOError):
            while True:
                queued.recv(1)
    cache = responder.zeroconf.cache
    for name in cache.names():
        cache.async_remove_records(cache.entries_with_name(name))
