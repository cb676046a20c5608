"""Relays come into the mesh and leave it: an admin names the certificate, this device issues the statement."""

import hashlib

import attrs

from meshd.errors import MeshdError, RemoteProtocolError
from meshd.ids import NodeId, is_device_name, to_text
from meshd.kinds import RELAY_PORT, relay_place
from meshd.node.effects import FetchCertificate
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.requests import AddRelay, Failure, RemoveRelay, Result
from meshd.node.turn import Tickets, Turn
from meshd.store.ops import DeleteFact, PutFact
from meshd.transport.base import Address
from meshd.trust.identity import certificate_node_id
from meshd.trust.standing import Member

_MAX_URL = 128
"""Characters: as many as a card's fact holds."""


@attrs.frozen
class CertificateFetched:
    """Event: what FetchCertificate with this ticket found (DER), or why it found nothing."""

    ticket: int
    certificate: bytes | None
    error: MeshdError | None = None


class Enlisting:
    """Carries out ``meshctl relay add`` and ``remove``."""

    def __init__(self, membership: Membership, tickets: Tickets) -> None:
        self._membership = membership
        self._tickets = tickets
        self._fetching: dict[int, AddRelay] = {}

    def add(self, turn: Turn, request: AddRelay, peers: Peers) -> None:
        """Take a relay in; its certificate is fetched first when only its hash is given. Raises MeshdError."""
        roster = self._membership.require_roster()
        if not roster.is_admin(self._membership.me):
            raise MeshdError("E_NOT_ADMIN", "This device is no admin of the mesh.")
        place = _place(request.url)
        if request.name is not None and not is_device_name(request.name):
            raise MeshdError("E_USAGE", f"{request.name[:70]!r} is no name of a relay.", "Choose another --name.")
        if request.certificate is not None:
            self._enlist(turn, request, request.certificate, peers)
        elif request.certificate_hash is not None:
            ticket = self._tickets.take()
            self._fetching[ticket] = request
            turn.emit(FetchCertificate(ticket, Address("websocket", place.host, place.port)))
        else:
            raise MeshdError("E_USAGE", "Neither the relay's certificate nor its hash is given.")

    def fetched(self, turn: Turn, event: CertificateFetched, peers: Peers) -> None:
        """The certificate at the URL is known, and not trusted before its hash is the one that was named."""
        request = self._fetching.pop(event.ticket)
        try:
            if event.certificate is None:
                raise event.error or MeshdError("E_INTERNAL", "The certificate was not fetched.")
            if hashlib.sha256(event.certificate).digest() != request.certificate_hash:
                raise MeshdError("E_RELAY_CERTIFICATE", f"What answers at {request.url} shows another certificate.")
            self._enlist(turn, request, event.certificate, peers)
        except MeshdError as error:
            turn.answer(request, Failure(error))

    def _enlist(self, turn: Turn, request: AddRelay, certificate: bytes, peers: Peers) -> None:
        membership = self._membership
        roster = membership.require_roster()
        try:
            relay = certificate_node_id(certificate)
        except RemoteProtocolError as error:
            raise MeshdError(
                "E_RELAY_CERTIFICATE",
                "This is not the certificate of a relay.",
                "Print it with: meshd-relay --certificate",
            ) from error
        member = roster.members.get(relay)
        if member is None or member.removed or member.role != "relay":
            name = roster.free_name(request.name or _name_from(request.url))
            statement = roster.add(membership.identity, certificate, name, "relay")
        else:
            name, statement = member.name, None  # it has moved
        turn.ops.append(PutFact("relay-url", relay, request.url.encode()))
        membership.relay_urls[relay] = request.url
        if statement is not None:
            membership.issue(turn, statement, peers)
        membership.news.add(relay)
        membership.refresh_card(turn, peers)
        turn.answer_when_durable(request, Result({"id": to_text(relay), "name": name, "url": request.url}))

    def remove(self, turn: Turn, request: RemoveRelay, peers: Peers) -> None:
        """Shut a relay out for ever. Raises MeshdError."""
        membership = self._membership
        relay = self._find(request.relay)
        membership.issue(turn, membership.require_roster().remove(membership.identity, relay.id), peers)
        if membership.relay_urls.pop(relay.id, None) is not None:
            turn.ops.append(DeleteFact("relay-url", relay.id))
        membership.refresh_card(turn, peers)
        turn.answer_when_durable(request, Result({"id": to_text(relay.id), "name": relay.name}))

    def _find(self, text: str) -> Member:
        roster = self._membership.require_roster()
        at_url = [relay for relay in roster.relays() if text in self._membership.urls_of(NodeId(relay.id))]
        member = at_url[0] if len(at_url) == 1 else roster.resolve(text)
        if member.role != "relay":
            raise MeshdError("E_USAGE", f"{member.name} is no relay.", "Relays: meshctl relay list")
        return member


def _place(url: str) -> Address:
    try:
        if len(url) > _MAX_URL:
            raise ValueError("too long")
        return Address(*relay_place(url))
    except ValueError as error:
        raise MeshdError(
            "E_USAGE",
            f"{url[:_MAX_URL]!r} is no URL of a relay.",
            f'Write "wss://host" or "quic://host", with ":port" unless it is {RELAY_PORT}.',
        ) from error


def _name_from(url: str) -> str:
    host = relay_place(url)[1]
    return host if is_device_name(host) and ":" not in host else "relay"
