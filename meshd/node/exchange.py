"""What peers say to each other over a link that is up: each frame goes to the part that it is for."""

from collections.abc import Iterable

import attrs

from meshd.delivery.outbox import FLOOR_LABEL, encode_floor
from meshd.delivery.receipts import RECEIPT_LABEL, decode_receipt
from meshd.delivery.sessions import OutgoingSessions
from meshd.errors import RemoteProtocolError
from meshd.ids import NodeId, Number, Priority
from meshd.links.events import FramesReceived
from meshd.node.arriving import Arriving
from meshd.node.carried import Carried
from meshd.node.carriers import Carriers
from meshd.node.echo import Echoes
from meshd.node.effects import CloseLink, DataAcked
from meshd.node.handover import Handover
from meshd.node.insight.inquiries import ANSWER_LABEL, QUESTION_LABEL, Inquiries
from meshd.node.membership import Membership
from meshd.node.notices import Notices
from meshd.node.peers import Link, Peers
from meshd.node.probes import Probes
from meshd.node.routes import Routes
from meshd.node.spool import Spool
from meshd.node.tally import count_reason
from meshd.node.turn import Turn
from meshd.trust.seal import open_blob, open_need_offer, open_stale_epoch, sign_blob
from meshd.wire.frames import MAX_HOPS, Ack, BundleFrame, Echo, Frame, Kind, ProbeRequest, ProbeResult, Routed
from meshd.wire.routing import RouteRequest, RouteUpdate, SeqnoRequest


@attrs.frozen(kw_only=True)
class Exchange:
    """Hands frames on. A frame that breaks the rules costs the neighbour that broke them its link."""

    membership: Membership
    peers: Peers
    spool: Spool
    handover: Handover
    arriving: Arriving
    echoes: Echoes
    routes: Routes
    sessions: OutgoingSessions
    notices: Notices
    inquiries: Inquiries
    carriers: Carriers
    carried: Carried
    probes: Probes
    _floors_due: dict[tuple[NodeId, Priority], Number] = attrs.field(factory=dict, init=False)
    """The number that a floor has to reach until nothing can wait in vain."""
    _floors_untold: set[tuple[NodeId, Priority]] = attrs.field(factory=set, init=False)

    def received(self, turn: Turn, event: FramesReceived) -> None:
        """Frames came over a link."""
        link = self.peers.link(event.link)
        if link is None:
            return
        try:
            for frame in event.frames:
                self._frame(turn, link, frame)
        except RemoteProtocolError as error:
            count_reason(turn.tally.protocol_errors, error.code)
            turn.log(
                "warning", "protocol error", peer=link.peer, link=link.number, code=error.code, reason=error.reason
            )
            turn.emit(CloseLink(link.number, error.code, error.reason))

    def _frame(self, turn: Turn, link: Link, frame: Frame) -> None:
        me = self.membership.me
        match frame:
            case BundleFrame():
                self.arriving.receive(turn, link, frame, self.peers)
            case Ack():
                self.handover.answered(turn, link, frame)
                if frame.stored:
                    turn.emit(DataAcked(link.peer))
            case Routed():
                if frame.destination == me:
                    self._routed(turn, link, frame)
                else:
                    self._pass_on(turn, link, frame)
            case Echo():
                if frame.destination == me:
                    self.echoes.received(turn, frame, self.peers)
                else:
                    self.echoes.pass_on(turn, frame, self.peers)
            case RouteUpdate() | SeqnoRequest() | RouteRequest():
                self.routes.received(turn, link, frame)
            case ProbeRequest():
                self.probes.asked(turn, link, frame.target)
            case ProbeResult():
                self.probes.answered(turn, link, frame)
            case _ if not self.membership.received(turn, link, frame, self.peers):
                raise RemoteProtocolError("P_UNEXPECTED", f"{type(frame).__name__} on a link that is up")

    def _pass_on(self, turn: Turn, link: Link, frame: Routed) -> None:
        """A notice for another device. Relays and carriers keep some; whoever misses another one asks again."""
        if frame.source == self.membership.me:  # handed back by who kept it: it is signed, and our own word is newer
            return
        if frame.kind == Kind.RECEIPT:
            self.carried.receipt_passed(turn, frame)
        onward, relay = self.peers.way(frame.destination)
        if onward is None:
            self.notices.keep(turn, frame)
        elif onward is not link and frame.hop_limit > 0 and (relay is None or relay != link.peer):
            turn.send(onward.number, attrs.evolve(frame, hop_limit=frame.hop_limit - 1))

    # --- notices from the other end of a flow, maybe through others

    def _routed(self, turn: Turn, link: Link, frame: Routed) -> None:
        public_key = self.membership.public_key(frame.source)
        if public_key is None:
            return
        try:
            self._notice(turn, link, frame, public_key)
        except RemoteProtocolError as error:
            if link.peer == frame.source:
                raise
            # Only we can check it: whoever passed it on may be as innocent as we are.
            turn.log("warning", "notice dropped", source=frame.source, link=link.number, reason=error.reason)

    def _notice(self, turn: Turn, link: Link, frame: Routed, public_key: bytes) -> None:
        source = frame.source
        match frame.kind:
            case Kind.RECEIPT:
                self.spool.receipted(turn, source, decode_receipt(self._body(link, frame, public_key, RECEIPT_LABEL)))
            case Kind.FLOOR:
                self.arriving.floor_raised(turn, source, self._body(link, frame, public_key, FLOOR_LABEL))
                if link.peer != source:  # a hop may have had no way back when our last receipts went through it
                    self.arriving.greet(source)
            case Kind.OFFER:
                self.arriving.offered(turn, link, source, frame.body, self.peers)
            case Kind.NEED_OFFER:
                wanted = open_need_offer(public_key, frame.body)
                self._check_for_us(wanted.source)
                self.membership.take_card(turn, wanted.card_data)
                offer = self.sessions.rewrap(wanted.session, wanted.card)
                back = (
                    self.peers.toward(source) or link
                )  # without a path, whoever brought the question keeps the answer
                if offer is not None:
                    turn.send(back.number, Routed(self.membership.me, source, MAX_HOPS, Kind.OFFER, offer))
                else:  # of a life that this disk does not know: what was sealed with it is not to be waited for
                    self.owe_floors((source, priority) for priority in Priority)
            case Kind.QUESTION:
                self.inquiries.asked(turn, source, self._body(link, frame, public_key, QUESTION_LABEL), self.peers)
            case Kind.ANSWER:
                self.inquiries.answered(turn, source, self._body(link, frame, public_key, ANSWER_LABEL))
            case Kind.ENCOUNTERS:
                if link.peer == source and self.carriers.heard(turn, link, frame.body):
                    self.spool.touch_all()
            case Kind.STALE_EPOCH:
                stale = open_stale_epoch(public_key, frame.body)
                self._check_for_us(stale.source)
                self.spool.refuse_stale(turn, source, stale.priority, stale.known)
                self.owe_floors([(source, stale.priority)])

    def _body(self, link: Link, frame: Routed, public_key: bytes, label: str) -> bytes:
        """What the source says: its own link vouches for it; passed on by others, it is signed for us."""
        if link.peer == frame.source:
            return frame.body
        body = open_blob(public_key, label, frame.body)
        me = self.membership.me
        self._check_for_us(NodeId(body[: len(me)]))
        return body[len(me) :]

    def _check_for_us(self, addressee: NodeId) -> None:
        if addressee != self.membership.me:
            raise RemoteProtocolError("P_AUTH", "a notice that was signed for another device")

    # --- floors

    def owe_floors(self, flows: Iterable[tuple[NodeId, Priority]]) -> None:
        """These (destination, priority) may wait for what will not come: they are to be told."""
        for flow in flows:
            self._floors_due[flow] = self.spool.next_number(*flow)
            self._floors_untold.add(flow)

    def send_floors(self, turn: Turn) -> None:
        """Tell destinations what will not come: what is known now, and again when older mail has ended too."""
        for (destination, priority), wanted in list(self._floors_due.items()):
            if self.membership.public_key(destination) is None:  # it has left the mesh: nobody is to be told
                del self._floors_due[destination, priority]
                self._floors_untold.discard((destination, priority))
                continue
            link, _ = self.peers.way(destination)
            is_own = destination == self.membership.me
            is_told = (destination, priority) not in self._floors_untold
            links = [link] if link is not None else [] if is_own or is_told else self._bearers(turn, destination)
            floor = self.spool.floor(destination, priority) if links or is_own else None
            if floor is None:  # there is no way, or the disk will tell
                continue
            if floor >= wanted:
                del self._floors_due[destination, priority]
            elif is_told:
                continue
            self._floors_untold.discard((destination, priority))
            body = encode_floor(priority, floor)
            if is_own:
                self.arriving.floor_raised(turn, destination, body)
                continue
            if links[0].peer != destination:
                body = sign_blob(self.membership.identity, FLOOR_LABEL, destination + body)
            for one in links:
                turn.send(one.number, Routed(self.membership.me, destination, MAX_HOPS, Kind.FLOOR, body))

    def _bearers(self, turn: Turn, destination: NodeId) -> list[Link]:
        return self.carriers.bearers(destination, turn.now)
