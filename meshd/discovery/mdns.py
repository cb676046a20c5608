"""Finding members over multicast DNS: the Trio side.

Two tasks and one foreign thread. What is wanted (announcement, members, network) comes in on a channel
and becomes presences, which the responder's thread keeps up; what that hears comes back through the
Trio token into a bounded channel, and members among it become events for the node.
"""

import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import attrs
import trio

from meshd.config import Discovery
from meshd.discovery.events import Announce, Members, NetworkChanged, PeerGone, PeerSeen, Resumed
from meshd.discovery.interfaces import IFF_MULTICAST, Interface, InterfaceKind
from meshd.discovery.presence import Presence, announced_hosts, places
from meshd.discovery.responder import GOODBYE_LIMIT_S, Responder
from meshd.discovery.sightings import SALT_SIZE, Advert, Heard, Lost, Opening, Sightings
from meshd.ids import NodeId
from meshd.logs import get_logger
from meshd.trust.roster import discovery_tag

REBUILD_INTERVAL_S = 1.0
"""Presences change at most this often: a flapping network gets its rebuilds damped."""

QUEUED = 256
"""Announcements waiting to be looked at; more are dropped, and told again when there is time."""

MISSED = 1024
"""Of those that were dropped so many names are kept, the newest."""

TOLD_AGAIN_S = 5.0
TOLD_AGAIN = 100
"""So many of them are told again after each :data:`TOLD_AGAIN_S`: less than half of what can be looked at."""

LOOKS_PER_S = 50.0
LOOKS_AT_ONCE = 200
"""How many announcements are looked at: each may cost an HMAC per member, and strangers can send many."""

Input: TypeAlias = Announce | Members | NetworkChanged | Resumed
Post: TypeAlias = Callable[[PeerSeen | PeerGone], Awaitable[None]]
Report: TypeAlias = Callable[[Mapping[str, str]], None]

NO_SUCH_INTERFACE = "there is no such interface"
"""Why nobody can be found on one that discovery.interfaces names."""

log = get_logger(__name__)


async def run_mdns(
    inputs: trio.MemoryReceiveChannel[Input],
    post: Post,
    *,
    settings: Discovery,
    sightings: Sightings,
    rng: random.Random,
    report: Report = lambda deaf: None,
    rebuild_interval_s: float = REBUILD_INTERVAL_S,
) -> None:
    """Announce this device and report members, until cancelled or until ``inputs`` is closed; then say goodbye.

    Nothing is announced or heard before there are both an Announce with a mesh and a NetworkChanged.

    Args:
        inputs: the newest of each kind counts. Keep the channel's buffer small; they are taken at once.
        post: takes the events; while it waits, announcements queue up to :data:`QUEUED`.
        sightings: a fresh one; its ``statistics()`` may be read at any time.
        report: is told on which interfaces nobody can be found, and why, each time that this may have changed.
        rebuild_interval_s: presences change at most this often.
    """
    send, receive = trio.open_memory_channel[Heard | Lost | Opening](QUEUED)
    deaf, missed = _Deaf(report), _Missed()
    responder = Responder(_into_trio(send, sightings, missed), rng)
    async with trio.open_nursery() as nursery:
        goodbye = trio.CancelScope(shield=True)
        nursery.start_soon(_run_in_thread, responder, goodbye)
        nursery.start_soon(_look, receive, post, sightings, deaf)
        nursery.start_soon(_have_told_again, missed, responder)
        try:
            wanted = _Wanted(rng=rng, named=frozenset(settings.interfaces))
            await _direct(inputs, post, responder, sightings, wanted, deaf, rebuild_interval_s)
        finally:
            # A thread that hangs is left behind rather than holding up the end of the daemon.
            goodbye.deadline = trio.current_time() + 2 * GOODBYE_LIMIT_S
            responder.stop()
            nursery.cancel_scope.cancel()


def _into_trio(
    send: trio.MemorySendChannel[Heard | Lost | Opening], sightings: Sightings, missed: "_Missed"
) -> Callable[[Heard | Lost | Opening], None]:
    """Return what the responder's thread hands its finds to; they land in ``send``, or are noted as ``missed``."""
    token = trio.lowlevel.current_trio_token()

    def take_in(item: Heard | Lost | Opening) -> None:
        try:
            send.send_nowait(item)
        except trio.WouldBlock:
            sightings.count_dropped()
            if not isinstance(item, Opening):
                missed.note((item.interface, item.instance))

    def deliver(item: Heard | Lost | Opening) -> None:
        # The thread may outlive Trio when it was left behind.
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(take_in, item)

    return deliver


async def _run_in_thread(responder: Responder, goodbye: trio.CancelScope) -> None:
    """Run the responder. Shielded by ``goodbye``: it ends when told to, not when cancelled."""
    with goodbye:
        await trio.to_thread.run_sync(responder.run, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


async def _look(
    receive: trio.MemoryReceiveChannel[Heard | Lost | Opening], post: Post, sightings: Sightings, deaf: "_Deaf"
) -> None:
    """Look at what was heard, at a bounded rate: after :data:`LOOKS_AT_ONCE` in a row, :data:`LOOKS_PER_S`."""
    paid_until = trio.current_time()
    async for item in receive:
        event: PeerSeen | PeerGone | None = None
        if isinstance(item, Opening):
            deaf.opened(item)
        elif isinstance(item, Heard):
            event = sightings.heard(item)
            paid_until = max(paid_until, trio.current_time()) + 1 / LOOKS_PER_S
        else:
            event = sightings.lost(item)
        if event is not None:
            await post(event)
        await trio.sleep_until(paid_until - LOOKS_AT_ONCE / LOOKS_PER_S)


async def _have_told_again(missed: "_Missed", responder: Responder) -> None:
    """What was dropped may have been a member: nobody announces himself again while nothing changes."""
    while True:
        await missed.some()
        await trio.sleep(TOLD_AGAIN_S)
        responder.tell_again(missed.take(TOLD_AGAIN))


async def _direct(
    inputs: trio.MemoryReceiveChannel[Input],
    post: Post,
    responder: Responder,
    sightings: Sightings,
    wanted: "_Wanted",
    deaf: "_Deaf",
    rebuild_interval_s: float,
) -> None:
    """Turn inputs into presences, at most one change per ``rebuild_interval_s``, until ``inputs`` ends."""
    shown: dict[str, Presence] = {}
    earliest = trio.current_time()
    while True:
        item: Input | None = None
        try:
            with trio.move_on_at(math.inf if wanted.presences() == shown else earliest):
                item = await inputs.receive()
        except trio.EndOfChannel:
            return
        events: Sequence[PeerSeen | PeerGone]
        if item is None:
            before, shown = shown, wanted.presences()
            responder.show(tuple(shown.values()))
            deaf.present(shown)
            earliest = trio.current_time() + rebuild_interval_s
            log.debug("presences changed", before=sorted(before), now=sorted(shown))
            events = _forget(sightings, before, shown)
        else:
            events = _take(item, wanted, sightings)
            deaf.unable(wanted.unable())
        for event in events:
            await post(event)


def _forget(
    sightings: Sightings, before: Mapping[str, Presence], after: Mapping[str, Presence]
) -> tuple[PeerSeen | PeerGone, ...]:
    """Drop what was heard on interfaces that were left or are set up anew: there it will be heard again.

    Returns the departures from the ones that were left.
    """
    gone: list[PeerGone] = []
    for name, presence in before.items():
        if after.get(name) != presence:
            departures = sightings.close_interface(name)
            gone += departures if name not in after else ()
    return tuple(gone)


def _take(item: Input, wanted: "_Wanted", sightings: Sightings) -> tuple[PeerSeen, ...]:
    """Note what is wanted now. Returns members that were already heard, before they were looked for."""
    match item:
        case Announce():
            if wanted.announce is None or wanted.announce.genesis_hash != item.genesis_hash:
                sightings.enter_mesh(item.genesis_hash)
            wanted.announce = item
        case Members():
            wanted.members = item.ids
        case NetworkChanged():
            wanted.interfaces = item.interfaces
            for name in sorted(wanted.named - {interface.name for interface in item.interfaces}):
                log.info("an interface named in discovery.interfaces does not exist", interface=name)
        case Resumed():
            wanted.generation += 1
    own = frozenset(() if wanted.announce is None else (wanted.announce.node_id,))
    return sightings.set_members(wanted.members - own)


@attrs.define(eq=False)
class _Deaf:
    """Where nobody can be found, and why; told to ``report`` when it changes."""

    report: Report
    _failed: dict[str, str] = attrs.field(factory=dict, init=False)
    _unable: Mapping[str, str] = attrs.field(factory=dict, init=False)
    _told: Mapping[str, str] = attrs.field(factory=dict, init=False)

    def opened(self, opening: Opening) -> None:
        """The responder has tried an interface."""
        self._failed.pop(opening.interface, None)
        if opening.reason is not None:
            self._failed[opening.interface] = opening.reason
        self._tell()

    def present(self, shown: Collection[str]) -> None:
        """The responder is to be present on these interfaces."""
        self._failed = {name: reason for name, reason in self._failed.items() if name in shown}
        self._tell()

    def unable(self, reasons: Mapping[str, str]) -> None:
        """Interfaces that are of no use for this, and why."""
        self._unable = reasons
        self._tell()

    def _tell(self) -> None:
        now = {**self._unable, **self._failed}
        if now != self._told:
            self._told = now
            self.report(now)


class _Missed:
    """(interface, instance) of announcements that came faster than they are looked at."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], None] = {}
        self._some = trio.Event()

    def note(self, name: tuple[str, str]) -> None:
        """This one was dropped."""
        self._names.pop(name, None)
        self._names[name] = None
        if len(self._names) > MISSED:
            del self._names[next(iter(self._names))]
        self._some.set()

    async def some(self) -> None:
        """Wait until there are any."""
        await self._some.wait()

    def take(self, count: int) -> tuple[tuple[str, str], ...]:
        """The newest of them, which are forgotten."""
        taken = tuple(self._names.popitem()[0] for _ in range(min(count, len(self._names))))
        if not self._names:
            self._some = trio.Event()
        return taken


@attrs.define(eq=False, kw_only=True)
class _Wanted:
    """The newest of each kind of input, owned by :func:`_direct`. The salt lasts for this run."""

    rng: random.Random
    named: frozenset[str]
    announce: Announce | None = None
    members: frozenset[NodeId] = frozenset()
    interfaces: tuple[Interface, ...] = ()
    generation: int = 0
    salt: bytes = attrs.Factory(lambda self: self.rng.randbytes(SALT_SIZE), takes_self=True)

    def unable(self) -> dict[str, str]:
        """Interfaces of a local network that can't be used for want of multicast; or the named ones, if none exists.

        Of several named ones some may come and go.
        """
        if self.named and self.interfaces and self.named.isdisjoint(interface.name for interface in self.interfaces):
            return dict.fromkeys(sorted(self.named), NO_SUCH_INTERFACE)
        return {
            interface.name: "multicast is switched off for this interface"
            for interface in self.interfaces
            if not self.named
            and interface.is_up
            and interface.kind is InterfaceKind.LAN
            and not interface.flags & IFF_MULTICAST
            and announced_hosts(interface)
        }

    def presences(self) -> dict[str, Presence]:
        """By interface name, what to be present as."""
        if self.announce is None or self.announce.genesis_hash is None:
            return {}
        tag = discovery_tag(self.announce.genesis_hash, self.salt, self.announce.node_id)
        advert = Advert(self.salt, tag, self.announce.quic_port, self.announce.websocket_port)
        return {
            place.interface.name: Presence(
                interface=place.interface.name,
                index=place.interface.index,
                ipv4=place.ipv4,
                ipv6=place.ipv6,
                hosts=place.hosts,
                loopback=place.interface.kind is InterfaceKind.LOOPBACK,
                txt=tuple(advert.to_txt().items()),
                port=advert.quic_port or advert.websocket_port or 0,
                generation=self.generation,
            )
            for place in places(self.interfaces, self.named)
        }
