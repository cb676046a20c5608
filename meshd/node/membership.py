"""Who is in the mesh: the roster and the cards, kept, exchanged with peers, and acted upon."""

import hashlib
import random
from collections import deque
from collections.abc import Iterable, Sequence

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from meshd.delivery.outbox import Recipient
from meshd.errors import MeshdError, RemoteProtocolError
from meshd.ids import Epoch, NodeId, to_text
from meshd.node.effects import Announce, CloseLink, LeavePeer
from meshd.node.peers import Link, Peers
from meshd.node.turn import Turn
from meshd.store.ops import PutFact
from meshd.store.reads import Snapshot
from meshd.trust.card import Card, CardAddress, Prekeys, open_card, peek_card_node, sign_card
from meshd.trust.identity import Identity, certificate_key
from meshd.trust.recovery import new_recovery, recovery_words
from meshd.trust.roster import Member, Roster, found
from meshd.wire.codec import decode, encode
from meshd.wire.frames import MAX_HEADS, Cards, CardVersions, Frame, RosterHeads, Statements, plain_epoch

_BYTES_PER_FRAME = 48 * 1024
_ONLY = b""
_TRIAL_KEY = X25519PrivateKey.from_private_bytes(b"meshd/trial key, not a secret /1")
_LIVES_REMEMBERED = 4
"""Epochs of a peer, in the order of its handshakes, to notice a copied disk by."""


@attrs.define(eq=False)
class _KnownCard:
    card: Card
    data: bytes


class Membership:
    """The roster, the cards, and this device's own place in them."""

    def __init__(self, identity: Identity, name: str, rng: random.Random, *, max_lifetime_s: float) -> None:
        self.identity = identity
        self.name = name
        self._rng = rng
        self.roster: Roster | None = None
        self.prekeys = Prekeys(max_lifetime_s)
        self._max_lifetime_s = max_lifetime_s
        self._cards: dict[NodeId, _KnownCard] = {}
        self._keys: dict[NodeId, bytes] = {}
        self._addresses: tuple[CardAddress, ...] = ()
        self.relay_urls: dict[NodeId, str] = {}
        """Where this device, as an admin, was told that relays are; its card tells the others."""
        self.seen_epochs: dict[NodeId, Epoch] = {}
        self._lives: dict[NodeId, deque[Epoch]] = {}
        self.clones: set[NodeId] = set()
        """Devices whose key was seen on two at a time, in this life."""
        self.news: set[NodeId] = set()
        """Members that were added, removed or changed, or whose card is new; the node looks and clears."""
        self._lost: set[NodeId] = set()
        """Members until lately, of whom it is not certain that they are none any more."""

    @property
    def me(self) -> NodeId:
        """This device."""
        return self.identity.node_id

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the mesh of the last life."""
        facts = snapshot.facts
        self.prekeys = Prekeys.restore(self._max_lifetime_s, facts.get("prekey", {}))
        for key, value in facts.get("seen-epoch", {}).items():
            counter, rand = decode(value)
            self.seen_epochs[NodeId(key)] = Epoch(counter, rand)
        self.relay_urls = {NodeId(key): value.decode() for key, value in facts.get("relay-url", {}).items()}
        genesis = facts.get("genesis", {}).get(_ONLY)
        if genesis is None:
            return
        roster = Roster.from_statements(genesis, facts.get("statement", {}).values())
        self._use(roster)
        for data in facts.get("card", {}).values():
            node = peek_card_node(data)
            public_key = self._key(node)
            if public_key is not None:
                self._cards[node] = _KnownCard(open_card(data, public_key), data)
        self.news |= {self.me, *roster.members}

    def _use(self, roster: Roster) -> None:
        before = {} if self.roster is None else self.roster.members
        self.roster = roster
        self._keys = {
            member.id: certificate_key(member.certificate) for member in roster.members.values() if not member.removed
        }
        changed = {node for node, member in roster.members.items() if before.get(node) != member}
        # Who added these was cut. In doubt, their links are kept: the rest may come over those alone.
        self._lost = {*self._lost, *before} - roster.members.keys()
        certain = {node for node in self._lost if not roster.is_doubted(node)}
        self._lost -= certain
        self.news |= changed | certain

    def _key(self, node: NodeId) -> bytes | None:
        if self.roster is None or node not in self.roster.members:
            return None
        return certificate_key(self.roster.members[node].certificate)

    # --- what others ask

    def require_roster(self) -> Roster:
        """The roster. Raises MeshdError E_NO_MESH."""
        if self.roster is None:
            raise MeshdError("E_NO_MESH", "This device belongs to no mesh yet.")
        return self.roster

    def check_not_removed(self) -> None:
        """Raises MeshdError E_REMOVED_DEVICE when this device is in its mesh no more."""
        if self.is_shut_out:
            mesh_name = self.require_roster().mesh_name
            raise MeshdError("E_REMOVED_DEVICE", f"This device was removed from the mesh {mesh_name}.")

    def check_free(self) -> None:
        """See that this device may enter a mesh. Raises MeshdError E_ALREADY_IN_MESH, E_REMOVED_DEVICE."""
        self.check_not_removed()
        if self.roster is not None:
            raise MeshdError("E_ALREADY_IN_MESH", f"This device is in the mesh {self.roster.mesh_name}.")

    def public_key(self, node: NodeId) -> bytes | None:
        """The full Ed25519 key of a device that is in the mesh now."""
        return self._keys.get(node)

    @property
    def is_shut_out(self) -> bool:
        """Whether this device is in its mesh no more: it was removed, or what added it is void."""
        return self.roster is not None and self.me not in self._keys

    def is_removed(self, node: NodeId) -> bool:
        """Whether a statement that counts removes the device: for good, but for a cut from above.

        Of one whose adding is void nothing is said. It may be added again, and be void only for want of statements
        that are still on their way.
        """
        member = None if self.roster is None else self.roster.members.get(node)
        return member is not None and member.removed

    def members(self) -> list[Member]:
        """The other devices in the mesh now."""
        if self.roster is None:
            return []
        return [member for member in self.roster.members.values() if not member.removed and member.id != self.me]

    def is_relay(self, node: NodeId) -> bool:
        """Whether this device forwards and keeps mail, and has none of its own."""
        member = None if self.roster is None else self.roster.members.get(node)
        return member is not None and member.role == "relay"

    def relays(self) -> tuple[Member, ...]:
        """The relays in the mesh now, first added first."""
        return () if self.roster is None else self.roster.relays()

    def urls_of(self, relay: NodeId) -> tuple[str, ...]:
        """Where a relay is, as far as admins say: this device's own word first."""
        name = relay_fact(relay)
        own = self.relay_urls.get(relay)
        told = [
            str(known.card.facts[name])
            for node, known in sorted(self._cards.items())
            if name in known.card.facts and self.roster is not None and self.roster.is_admin(node)
        ]
        return tuple(dict.fromkeys([*([] if own is None else [own]), *told]))

    def name_of(self, node: NodeId) -> str:
        """A device's name, or the beginning of its id."""
        member = None if self.roster is None else self.roster.members.get(node)
        return to_text(node)[:8] if member is None else member.name

    def recipient(self, node: NodeId) -> Recipient | None:
        """Whom to seal for; None while the device's card is not known."""
        known = self._cards.get(node)
        key = self._keys.get(node)
        return None if known is None or key is None or not known.card.prekeys else Recipient(node, key, known.card)

    def card(self, node: NodeId) -> Card | None:
        """The newest card of a device."""
        known = self._cards.get(node)
        return None if known is None else known.card

    @property
    def own_card(self) -> bytes | None:
        """Our signed card."""
        known = self._cards.get(self.me)
        return None if known is None else known.data

    def all_cards(self) -> tuple[bytes, ...]:
        """Every card known, signed."""
        return tuple(known.data for known in self._cards.values())

    # --- changes from here

    def found(self, turn: Turn, mesh_name: str) -> str:
        """Found a mesh with this device as admin; return the recovery words. Raises MeshdError."""
        self.check_free()
        seed, public_key = new_recovery(self._rng)
        self.enter(turn, found(self.identity, mesh_name, self.name, public_key))
        return recovery_words(seed)

    def enter(self, turn: Turn, roster: Roster, cards: Iterable[bytes] = ()) -> None:
        """This device is in the mesh of ``roster`` now. ``cards`` are as they came; what is none is left out."""
        turn.ops.append(PutFact("genesis", _ONLY, roster.genesis))
        self._store_statements(turn, roster.all_statements())
        self._use(roster)
        for data in cards:
            try:
                self._take_card(turn, data)
            except RemoteProtocolError as error:
                turn.log("warning", "card refused", code=error.code, reason=error.reason)
        self.refresh_card(turn)
        turn.emit(Announce(bytes(roster.mesh_id)))

    def issue(self, turn: Turn, statement: bytes, peers: Peers) -> None:
        """A statement of our own: keep it, act on it, pass it on."""
        roster, new = self.require_roster().merge([statement])
        self._store_statements(turn, new)
        self._use(roster)
        self._flood(turn, peers, [Statements(tuple(new))], besides=None)
        self.shut_out_removed(turn, peers)

    def listen(self, turn: Turn, addresses: Sequence[CardAddress], peers: Peers) -> None:
        """This device is reached at these addresses now."""
        if tuple(addresses) != self._addresses:
            self._addresses = tuple(addresses)
            self.refresh_card(turn, peers)

    def refresh_card(self, turn: Turn, peers: Peers | None = None) -> None:
        """Sign a new card when what it says has changed, and pass it on. Rotates the prekeys when due."""
        if self.roster is None:
            return
        if self.prekeys.advance(turn.now, self._rng):
            turn.ops += [PutFact("prekey", key, value) for key, value in self.prekeys.export().items()]
        known = self._cards.get(self.me)
        member = self.roster.members.get(self.me)
        name = self.name if member is None else member.name
        version = 1 if known is None else known.card.version + 1
        card = Card(
            node=self.me,
            version=version,
            name=name,
            # Nothing can be sealed for a relay.
            prekeys=() if self.is_relay(self.me) else self.prekeys.published,
            addresses=self._addresses[:16],
            facts={relay_fact(relay.id): url for relay in self.relays() if (url := self.relay_urls.get(relay.id))},
        )
        if known is not None and attrs.evolve(card, version=known.card.version) == known.card:
            return
        data = sign_card(self.identity, card)
        self._cards[self.me] = _KnownCard(card, data)
        turn.ops.append(PutFact("card", self.me, data))
        if peers is not None:
            self._flood(turn, peers, [Cards((data,))], besides=None)

    def next_deadline(self) -> float | None:
        """When the prekeys rotate, mesh-local seconds."""
        return self.prekeys.deadline if self.roster is not None else None

    def saw_epoch(self, turn: Turn, node: NodeId, epoch: Epoch) -> None:
        """A peer proved to live in this epoch. Two lives that take turns are two devices with one key."""
        lives = self._lives.setdefault(node, deque(maxlen=_LIVES_REMEMBERED))
        if epoch in lives and epoch != lives[-1]:
            self.clones.add(node)
            turn.log("error", "one key on two devices", peer=node, advice="remove it, and let each device join anew")
        lives.append(epoch)
        known = self.seen_epochs.get(node)
        if known is None or epoch > known:
            self.seen_epochs[node] = epoch
            turn.lazy_ops.append(PutFact("seen-epoch", node, encode(plain_epoch(epoch))))

    # --- exchange with peers

    def greet(self, turn: Turn, link: Link) -> None:
        """A link came up: tell the peer how far we know the mesh."""
        roster = self.require_roster()
        turn.send(link.number, RosterHeads(roster.heads()[:MAX_HEADS]))  # of the others, all is sent again
        versions = tuple((node, known.card.version) for node, known in self._cards.items())
        turn.send(link.number, CardVersions(versions[:MAX_HEADS]))

    def received(self, turn: Turn, link: Link, frame: Frame, peers: Peers) -> bool:
        """Take a frame of the exchange. Returns whether it was one. Raises RemoteProtocolError."""
        if isinstance(frame, RosterHeads | CardVersions) and not link.questions.take(turn.now):
            raise RemoteProtocolError("P_FLOOD", "more questions for roster and cards than its share")
        match frame:
            case RosterHeads():
                for part in _chunks(self.require_roster().statements_beyond(frame.heads)):
                    turn.send(link.number, Statements(part))
            case Statements():
                self.learn(turn, frame.statements, peers, link)
            case CardVersions():
                versions = dict(frame.versions)
                newer = [k.data for node, k in self._cards.items() if k.card.version > versions.get(node, 0)]
                for part in _chunks(newer):
                    turn.send(link.number, Cards(part))
            case Cards():
                news = tuple(data for data in frame.cards if self._take_card(turn, data))
                if news:
                    self._flood(turn, peers, [Cards(part) for part in _chunks(news)], besides=link)
            case _:
                return False
        return True

    def learn(self, turn: Turn, statements: Iterable[bytes], peers: Peers, link: Link | None) -> None:
        """Statements came: merge, keep and pass on what is new. Raises RemoteProtocolError."""
        roster, new = self.require_roster().merge(statements)
        if not new:
            if roster is not self.roster:
                self.roster = roster
            return
        self._store_statements(turn, new)
        self._use(roster)
        self._flood(turn, peers, [Statements(part) for part in _chunks(new)], besides=link)
        self.shut_out_removed(turn, peers)

    def hear_proof(self, turn: Turn, proof: Sequence[bytes], peers: Peers) -> None:
        """A peer that we dialed turned us away, and says that these statements show why."""
        try:
            self.learn(turn, proof, peers, None)
        except RemoteProtocolError as error:
            turn.log("warning", "proof of a removal not authentic", code=error.code, reason=error.reason)

    def shut_out_removed(self, turn: Turn, peers: Peers) -> None:
        """Close the links of devices that are in the mesh no more."""
        for node in list(self.news):
            if self.public_key(node) is not None or node == self.me:
                continue
            turn.emit(LeavePeer(node))
            for link in list(peers.peer(node).links.values()):
                turn.emit(CloseLink(link.number, "P_REMOVED", "this device was removed from the mesh"))

    def _take_card(self, turn: Turn, data: bytes) -> bool:
        node = peek_card_node(data)
        key = self._key(node)
        if key is None or node == self.me:
            return False
        card = open_card(data, key)
        known = self._cards.get(node)
        if known is not None and known.card.version >= card.version:
            return False
        if not all(is_usable_prekey(public_bytes) for _, public_bytes in card.prekeys):
            # Its maker's fault, not that of whoever passed it on; mail for it goes on waiting.
            turn.log("warning", "card with an unusable prekey", source=node)
            return False
        self._cards[node] = _KnownCard(card, data)
        turn.lazy_ops.append(PutFact("card", node, data))
        self.news.add(node)
        return True

    def take_card(self, turn: Turn, data: bytes) -> bool:
        """A single card that came in another way. Returns whether it was new. Raises RemoteProtocolError."""
        return self._take_card(turn, data)

    def _store_statements(self, turn: Turn, statements: Iterable[bytes]) -> None:
        turn.ops += [PutFact("statement", hashlib.sha256(data).digest(), data) for data in statements]

    def _flood(self, turn: Turn, peers: Peers, frames: Sequence[Frame], *, besides: Link | None) -> None:
        for link in peers.links():
            if link is not besides:
                for frame in frames:
                    turn.send(link.number, frame)

    def check_peer(self, node: NodeId) -> None:
        """Raises RemoteProtocolError when the device is not in the mesh now."""
        if self.public_key(node) is None:
            raise RemoteProtocolError("P_NOT_MEMBER", "not in the mesh")


def relay_fact(relay: NodeId) -> str:
    """The name under which an admin's card tells where a relay is."""
    return f"relay_{to_text(relay)}"


def is_usable_prekey(public_bytes: bytes) -> bool:
    """Whether something can be sealed to an X25519 public key: not to a point of low order (RFC 7748, section 6.1)."""
    try:
        _TRIAL_KEY.exchange(X25519PublicKey.from_public_bytes(public_bytes))
    except ValueError:
        return False
    return True


def _chunks(items: Iterable[bytes]) -> Iterable[tuple[bytes, ...]]:
    """The items in groups that fit into a frame."""
    group: list[bytes] = []
    size = 0
    for item in items:
        if group and size + len(item) > _BYTES_PER_FRAME:
            yield tuple(group)
            group, size = [], 0
        group.append(item)
        size += len(item) + 3
    if group:
        yield tuple(group)
