"""The loop around the node: events in, ``step``, effects out. The one owner of node, links and dialers."""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import attrs
import trio

from meshd.discovery.events import Announce as MdnsAnnounce
from meshd.discovery.events import Members, NetworkChanged, PeerSeen, Resumed, ThriftChanged
from meshd.discovery.interfaces import InterfaceKind
from meshd.discovery.presence import places
from meshd.discovery.static import static_sightings
from meshd.errors import MeshdError
from meshd.kinds import StaticPeer
from meshd.links.accept import accept
from meshd.links.choice import LocalNetwork
from meshd.links.context import Credentials, LinkContext
from meshd.links.events import LinkDown, LinkMeasured, LinkUp
from meshd.links.events import Mailbox as Outgoing
from meshd.links.liveness import PING_SECONDS, SAVING_PING_SECONDS
from meshd.links.outgoing import Outgoing as Outlet
from meshd.links.session import announce, hold_link
from meshd.logs import get_logger, is_debugged, levels_now, set_level
from meshd.node.clients import Listening
from meshd.node.dialers import Dialers
from meshd.node.effects import (
    AdmitAnswer,
    Announce,
    Answer,
    Assist,
    ChangeLogLevel,
    CloseBreaker,
    CloseLink,
    Commit,
    DataAcked,
    DataTimeout,
    Effect,
    Examine,
    ExpectLife,
    Fail,
    FetchCertificate,
    InquiryEnded,
    LeavePeer,
    Load,
    Log,
    RenderMetrics,
    SeekPeer,
    SendBundle,
    SendControl,
    StartJoin,
    TellAlert,
    WantLink,
)
from meshd.node.inbox import Inbox
from meshd.node.insight.examinations import Examinations
from meshd.node.insight.metrics import Family
from meshd.node.insight.premises import HERE, Site
from meshd.node.joining import Doorkeeper, fetch, join
from meshd.node.logbook import Logbook
from meshd.node.reachable import reachable_addresses
from meshd.node.requests import Result
from meshd.node.step import Node
from meshd.store.requests import Requests
from meshd.transport.base import Connection, Transport
from meshd.transport.websocket import WebsocketTransport
from meshd.trust.handshake import HandshakeResult

log = get_logger("meshd.node")

LEAVE_SECONDS = 1.0


@attrs.frozen(kw_only=True)
class Surroundings:
    """What the node lives in.

    Args:
        clock: mesh-local seconds (see ``store.ops``).
        transports: by name. static: places that a person wrote down.
        discovery: where announcements and members go, when mDNS is on.
        named_interfaces: which interfaces a person allowed by name (``discovery.interfaces``).
        site: what the doctor looks at on this machine.
        settings: every key of the configuration with its value and source, as plain data.
        alerts: where alerts go to be told to hooks, when there are any.
    """

    clock: Callable[[], float]
    rng: random.Random
    inbox: Inbox
    requests: Requests
    transports: Mapping[str, Transport]
    static: Sequence[StaticPeer] = ()
    discovery: trio.MemorySendChannel[Any] | None = None
    named_interfaces: Sequence[str] = ()
    site: Site = HERE
    settings: Callable[[], list[dict[str, Any]]] = list
    alerts: trio.MemorySendChannel[dict[str, Any]] | None = None


class Loop:
    """Runs one node. Everything that changes it happens in :meth:`run`'s task."""

    def __init__(self, node: Node, around: Surroundings) -> None:
        self.node = node
        self._around = around
        self._outgoing: dict[int, Outgoing] = {}
        self._logbook = Logbook(node.membership)
        self._interfaces = NetworkChanged(())
        self._listening = Listening((), ())
        self._announced: MdnsAnnounce | None = None
        self._genesis_hash: bytes | None = None
        self._ping_seconds = PING_SECONDS
        self._context = LinkContext(
            credentials=self.credentials,
            numbers=itertools.count(1),
            post=around.inbox.send,
            clock=trio.current_time,
            rng=around.rng,
            ping_interval=lambda: self._ping_seconds,
        )
        self.dialers = Dialers(node.identity.node_id, around.transports, around.rng, self._context)
        self.doorkeeper = Doorkeeper(
            node.membership, node.admissions, around.inbox, around.clock, around.rng, itertools.count(1)
        )
        self._examinations = Examinations(
            node=node,
            inbox=around.inbox,
            transports=around.transports,
            places=lambda: places(self._interfaces.interfaces, around.named_interfaces),
            bound=lambda: self._listening.bound,
            site=around.site,
            multicast=around.discovery is not None,
            rng=around.rng,
        )
        self._left = trio.Event()
        self.turns = 0
        """Counts up as long as the node makes progress; the watchdog looks at it."""

    def credentials(self) -> Credentials:
        """What this device proves itself with now."""
        node = self.node
        return Credentials(
            identity=node.identity,
            roster=node.membership.require_roster(),
            epoch=node.epoch,
            seen=node.membership.seen_epochs,
        )

    async def hold(self, connection: Connection, result: HandshakeResult, heard: Sequence[bytes]) -> None:
        """Run a link whose handshake ended well elsewhere; ``heard`` are its first frames. The caller closes it."""
        outgoing = Outlet()
        up = announce(connection, result, outgoing, self._context)
        await hold_link(connection, up, outgoing, self._context, heard=heard)

    async def handle_connection(self, connection: Connection) -> None:
        """The link handler of every transport's ``serve``."""
        if self.node.membership.roster is not None:
            await accept(connection, context=self._context)

    def listen(self, listening: Listening) -> None:
        """The transports are bound: tell the node and the announcer."""
        self._listening = listening
        self._around.inbox.post_nowait(self._reachable())
        self._announce()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Run until cancelled.

        Raises MeshdError E_DATABASE / E_FULL when the disk failed under state that memory has already.
        """
        inbox, clock = self._around.inbox, self._around.clock
        async with trio.open_nursery() as nursery:
            try:
                self._carry_out(self.node.start(clock()), nursery)
                nursery.start_soon(inbox.keep_time)
                task_status.started()
                while True:
                    due = self.node.next_deadline()
                    until = math.inf if due is None else trio.current_time() + max(0.0, due - clock())
                    events = await inbox.take(until)
                    for event in events:
                        self._notice(event)
                    self._carry_out(self.node.step(events, clock()), nursery)
                    self.turns += 1
            finally:
                nursery.cancel_scope.cancel()

    async def leave(self) -> None:
        """Say goodbye on every link, and wait for that, but not for long. ``run`` must be running."""
        self._left = trio.Event()
        for outgoing in self._outgoing.values():
            outgoing.close("E_STOPPING", "the daemon is stopping")
        with trio.move_on_after(LEAVE_SECONDS):
            while self._outgoing:
                await self._left.wait()
                self._left = trio.Event()

    # --- events that concern the loop too

    def _notice(self, event: object) -> None:
        match event:
            case LinkUp(outgoing=outgoing) if outgoing is not None:
                self._logbook.name_link(event)
                self._outgoing[event.link] = outgoing
                self.dialers.link_up(event)
            case LinkDown():
                self._outgoing.pop(event.link, None)
                self._left.set()
                self.dialers.link_down(event)
            case LinkMeasured(rtt=rtt) if rtt is not None:
                link = self.node.peers.link(event.link)
                if link is not None:
                    self.dialers.answered(link.peer)
            case NetworkChanged():
                self._network_changed(event)
            case ThriftChanged():
                self._ping_seconds = PING_SECONDS if event.reason is None else SAVING_PING_SECONDS
            case Resumed():
                log.info("resumed", slept_s=round(event.slept_s, 1))
                self.dialers.wake()
                self._tell_discovery(event)

    def _network_changed(self, event: NetworkChanged) -> None:
        self._interfaces = event
        networks = tuple(
            LocalNetwork(
                interface=interface.name,
                network=address.network,
                bridge=interface.kind is InterfaceKind.CONTAINERS
                and interface.name not in self._around.named_interfaces,
            )
            for interface in event.interfaces
            for address in interface.addresses
            if interface.is_up
        )
        self.dialers.networks_changed(networks)
        self._tell_discovery(event)
        self._around.inbox.post_nowait(self._reachable())

    def _reachable(self) -> Listening:
        """Where others may reach us: the addresses of our LAN interfaces, at the ports that are bound."""
        bound = self._listening.bound
        return Listening(bound, reachable_addresses(bound, self._interfaces.interfaces, self._around.named_interfaces))

    # --- effects

    def _carry_out(self, effects: list[Effect], nursery: trio.Nursery) -> None:
        requests, outgoing = self._around.requests, self._outgoing
        for effect in effects:
            match effect:
                case SendBundle():
                    if effect.link in outgoing:
                        outgoing[effect.link].send_bundle(effect.frame)
                case SendControl():
                    if effect.link in outgoing:
                        outgoing[effect.link].send_control(effect.frame)
                case Answer():
                    effect.port.reply_nowait(effect.id, effect.reply)
                case Commit():
                    if is_debugged("delivery"):
                        self._logbook.write_lives(effect)
                    requests.commit_nowait(effect.ticket, effect.ops, effect.urgent, chained=effect.chained)
                case Load():
                    requests.read_nowait(effect.ticket, effect.read)
                case Log():
                    self._logbook.write(effect)
                case _:
                    self._carry_out_rare(effect, nursery)

    def _carry_out_rare(self, effect: Effect, nursery: trio.Nursery) -> None:
        match effect:
            case CloseLink():
                if effect.link in self._outgoing:
                    self._outgoing[effect.link].close(effect.code, effect.reason)
            case DataAcked() | DataTimeout() | CloseBreaker() | WantLink():
                self.dialers.tell(effect)
            case ExpectLife(link=link):
                if link in self._outgoing:
                    self._outgoing[link].expect()
            case SeekPeer():
                if self.dialers.seek(effect, self.node.peers, nursery):
                    self._members_changed()
            case LeavePeer():
                self.dialers.leave(effect.peer)
            case ChangeLogLevel():
                set_level(effect.component, effect.level)
                log.info("log level changed", of=effect.component, to=effect.level or "as configured")
                effect.request.port.reply_nowait(effect.request.id, Result(levels_now()))
            case TellAlert():
                self._tell_hooks(effect)
            case RenderMetrics():
                nursery.start_soon(_render, effect)
            case Announce():
                self._genesis_hash = effect.genesis_hash
                self._announce()
            case AdmitAnswer():
                self.doorkeeper.answer(effect)
            case StartJoin():
                websocket = self._around.transports.get("websocket")
                nursery.start_soon(
                    partial(
                        join,
                        effect,
                        identity=self.node.identity,
                        transport=websocket if isinstance(websocket, WebsocketTransport) else None,
                        inbox=self._around.inbox,
                        rng=self._around.rng,
                    )
                )
            case Examine(request=request) if request.view == "config":
                request.port.reply_nowait(request.id, Result(self._around.settings()))
            case Examine(request=request):
                nursery.start_soon(self._examinations.examine, request)
            case Assist():
                nursery.start_soon(self._examinations.assist, effect)
            case InquiryEnded():
                self._examinations.inquiry_ended(effect)
            case FetchCertificate():
                nursery.start_soon(partial(fetch, effect, inbox=self._around.inbox))
            case Fail():
                raise MeshdError(effect.error, f"The store failed: {effect.reason}.", "Start the daemon again.")

    def _members_changed(self) -> None:
        members = self.dialers.sought
        self._tell_discovery(Members(members))
        transports = [name for name in ("quic", "websocket") if name in self._around.transports]
        for sighting in static_sightings(self._around.static, members, transports):
            self._around.inbox.post_nowait(PeerSeen(sighting.peer, sighting.addresses, "static", None))

    def _announce(self) -> None:
        ports = {bound.transport: bound.port for bound in self._listening.bound}
        announce = MdnsAnnounce(
            self._genesis_hash, self.node.identity.node_id, ports.get("quic"), ports.get("websocket")
        )
        if announce != self._announced:
            self._announced = announce
            self._tell_discovery(announce)

    def _tell_hooks(self, effect: TellAlert) -> None:
        if self._around.alerts is None:
            return
        me = self.node.membership.name_of(self.node.identity.node_id)
        try:
            self._around.alerts.send_nowait({**effect.alert, "change": effect.change, "device": me})
        except trio.WouldBlock:
            log.warning("alert not told: too many wait", alert=effect.alert["name"])

    def _tell_discovery(self, value: object) -> None:
        if self._around.discovery is not None:
            self._around.discovery.send_nowait(value)


async def _render(effect: RenderMetrics) -> None:
    """On a thread: the first time it imports a library, and later it may be a long text."""
    text = await trio.to_thread.run_sync(_as_text, effect.families, abandon_on_cancel=True)
    effect.port.reply_nowait(effect.id, Result(text))


def _as_text(families: tuple[Family, ...]) -> dict[str, str]:
    from meshd.node.insight.openmetrics import (
        openmetrics,
    )  # here, so that only a daemon that is asked has the library in memory

    return openmetrics(families)
