"""The parts of a node, and who of them knows whom. What each does is told in its own module."""

import random
from collections.abc import Callable

import attrs

from meshd.delivery.outbox import Outbox
from meshd.delivery.sessions import OutgoingSessions
from meshd.ids import Epoch, NodeId
from meshd.links.peer import PeerStatistics
from meshd.node.accepting import Acceptor, Limits
from meshd.node.admission import Admissions
from meshd.node.arriving import Arriving
from meshd.node.carried import Carried
from meshd.node.carriers import Carriers
from meshd.node.company import Company
from meshd.node.echo import Echoes
from meshd.node.enlisting import Enlisting
from meshd.node.exchange import Exchange
from meshd.node.followers import Followers
from meshd.node.handover import Handover
from meshd.node.insight.chronicle import Chronicle
from meshd.node.insight.inquiries import Inquiries
from meshd.node.insight.measures import Measures
from meshd.node.insight.reasons import Reasons
from meshd.node.insight.traces import Traces
from meshd.node.insight.views import Views
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import Watch
from meshd.node.linking import Linking
from meshd.node.mailboxes import Mailboxes
from meshd.node.membership import Membership
from meshd.node.notices import Notices
from meshd.node.passing import Passing
from meshd.node.peers import Peers
from meshd.node.probes import Probes
from meshd.node.relays import Relays
from meshd.node.routes import Routes
from meshd.node.settings import Settings
from meshd.node.spool import Spool
from meshd.node.spreading import Spreading
from meshd.node.tally import Tally
from meshd.node.tokens import Tokens
from meshd.node.turn import Tickets
from meshd.trust.identity import Identity


@attrs.frozen(kw_only=True)
class Circumstances:
    """What a node is given to live with.

    Args:
        name: what this device calls itself before it is in a mesh.
        epoch: of this life, on disk already. now: mesh-local seconds.
        dialer: what a peer's dialer knows, for people.
        free_bytes: what the disk still takes; near its end no mail is taken, from apps or peers.
        spare_bytes: what the store's file has room for without it.
        vitals: what the shell measures of itself.
    """

    identity: Identity
    settings: Settings
    name: str
    epoch: Epoch
    now: float
    rng: random.Random
    dialer: Callable[[NodeId], PeerStatistics | None]
    free_bytes: Callable[[], int]
    spare_bytes: Callable[[], int]
    vitals: Vitals

    @property
    def me(self) -> NodeId:
        """This device."""
        return self.identity.node_id


@attrs.frozen(kw_only=True)
class Mesh:
    """Who belongs to it, and how to reach them."""

    membership: Membership
    admissions: Admissions
    enlisting: Enlisting
    peers: Peers
    routes: Routes
    company: Company
    relays: Relays
    carriers: Carriers
    notices: Notices
    echoes: Echoes
    probes: Probes
    chronicle: Chronicle


@attrs.frozen(kw_only=True)
class Mail:
    """Messages: from apps, through this device, and to apps."""

    sessions: OutgoingSessions
    outbox: Outbox
    followers: Followers
    acceptor: Acceptor
    spool: Spool
    handover: Handover
    carried: Carried
    arriving: Arriving
    mailboxes: Mailboxes


@attrs.frozen(kw_only=True)
class Sight:
    """What people can find out."""

    views: Views
    reasons: Reasons
    inquiries: Inquiries
    traces: Traces
    watch: Watch
    measures: Measures


@attrs.frozen(kw_only=True)
class Parts:
    """A whole node, but for the turn that moves it."""

    tickets: Tickets
    tally: Tally
    tokens: Tokens
    mesh: Mesh
    mail: Mail
    sight: Sight
    exchange: Exchange
    spreading: Spreading
    linking: Linking


def assemble(given: Circumstances) -> Parts:
    """Make the parts, and join them."""
    tickets, tally = Tickets(), Tally()
    mesh = _mesh(given, tickets)
    mail = _mail(given, tickets, mesh)
    sight = _sight(given, tickets, tally, mesh, mail)
    exchange = Exchange(
        routes=mesh.routes,
        membership=mesh.membership,
        peers=mesh.peers,
        spool=mail.spool,
        handover=mail.handover,
        arriving=mail.arriving,
        echoes=mesh.echoes,
        sessions=mail.sessions,
        notices=mesh.notices,
        inquiries=sight.inquiries,
        carriers=mesh.carriers,
        carried=mail.carried,
        probes=mesh.probes,
    )
    spreading = Spreading(
        peers=mesh.peers,
        spool=mail.spool,
        notices=mesh.notices,
        arriving=mail.arriving,
        exchange=exchange,
        carriers=mesh.carriers,
    )
    linking = Linking(
        membership=mesh.membership,
        peers=mesh.peers,
        routes=mesh.routes,
        spool=mail.spool,
        handover=mail.handover,
        arriving=mail.arriving,
        exchange=exchange,
        chronicle=mesh.chronicle,
        notices=mesh.notices,
        company=mesh.company,
        carriers=mesh.carriers,
        probes=mesh.probes,
    )
    return Parts(
        tickets=tickets,
        tally=tally,
        tokens=Tokens(given.rng),
        mesh=mesh,
        mail=mail,
        sight=sight,
        exchange=exchange,
        spreading=spreading,
        linking=linking,
    )


def _mesh(given: Circumstances, tickets: Tickets) -> Mesh:
    settings, rng = given.settings, given.rng
    membership = Membership(given.identity, given.name, rng, max_lifetime_s=settings.max_lifetime_ms / 1000)
    peers = Peers(given.me)
    routes = Routes(membership, peers, given.epoch, rng)
    carriers = Carriers(membership, peers, quota_bytes=settings.carry_bytes)
    return Mesh(
        membership=membership,
        admissions=Admissions(membership, tickets, rng),
        enlisting=Enlisting(membership, tickets),
        peers=peers,
        routes=routes,
        company=Company(membership, peers, routes, settings.max_links, rng),
        relays=Relays(membership, peers, settings.relay_urls),
        carriers=carriers,
        notices=Notices(membership, carriers),
        echoes=Echoes(given.me),
        probes=Probes(membership, peers),
        chronicle=Chronicle(membership),
    )


def _mail(given: Circumstances, tickets: Tickets, mesh: Mesh) -> Mail:
    me, settings = given.me, given.settings
    limits = Limits(
        quota_bytes=settings.quota_bytes,
        default_lifetime_ms=settings.default_lifetime_ms,
        max_lifetime_ms=settings.max_lifetime_ms,
        neighbour_bytes=settings.neighbour_bytes,
        free_bytes=given.free_bytes,
        spare_bytes=given.spare_bytes,
    )
    sessions, followers = OutgoingSessions(given.identity, given.rng), Followers()
    outbox = Outbox(me, given.epoch, sessions)
    spool = Spool(me, outbox, sessions, followers, tickets)
    carried = Carried(mesh.membership, spool, mesh.notices, tickets)
    mailboxes = Mailboxes(tickets, run=given.epoch.counter)
    passing = Passing(me, mesh.membership, spool, limits, mesh.carriers, carried)
    return Mail(
        sessions=sessions,
        outbox=outbox,
        followers=followers,
        acceptor=Acceptor(me, outbox, spool, followers, tickets, limits),
        spool=spool,
        handover=Handover(spool),
        carried=carried,
        arriving=Arriving(me, given.epoch, mesh.membership, mailboxes, passing, limits),
        mailboxes=mailboxes,
    )


def _sight(given: Circumstances, tickets: Tickets, tally: Tally, mesh: Mesh, mail: Mail) -> Sight:
    views = Views(
        chronicle=mesh.chronicle,
        route_table=mesh.routes,
        membership=mesh.membership,
        peers=mesh.peers,
        spool=mail.spool,
        relays=mesh.relays,
        quota_bytes=given.settings.quota_bytes,
        dialer=given.dialer,
        outages=given.vitals.outages,
    )
    inquiries = Inquiries(mesh.membership, mail.mailboxes, tickets, given.rng, views.wall)
    watch = Watch(views=views, inquiries=inquiries, thresholds=given.settings.alerts, started=given.now)
    measures = Measures(
        views=views,
        arriving=mail.arriving,
        tally=tally,
        vitals=given.vitals,
        watch=watch,
        started=given.now,
        free_bytes=given.free_bytes,
    )
    return Sight(
        views=views,
        reasons=Reasons(membership=mesh.membership, peers=mesh.peers, routes=mesh.routes, dialer=given.dialer),
        inquiries=inquiries,
        traces=Traces(mesh.membership, inquiries, views),
        watch=watch,
        measures=measures,
    )
