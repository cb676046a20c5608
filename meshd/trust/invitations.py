"""Invitations: the code that a person carries over, and the register of those that were made."""

import hashlib
import hmac
import ipaddress
import random
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs

from meshd.errors import MeshdError
from meshd.ids import from_text, to_text
from meshd.trust.card import CardAddress, is_host
from meshd.trust.identity import PUBLIC_KEY_SIZE, signed_bytes
from meshd.trust.statement import Role, role
from meshd.wire import codec
from meshd.wire.codec import array, blob, matching, optional, record, text, uint

CODE_PREFIX = "meshd1-"
CODE_TRANSPORT = "websocket"
"""The transport whose TLS over TCP listener takes joins; a code has no other addresses."""

SECRET_SIZE = 16
HASH_SIZE = 32
CODE_ID_SIZE = 16
MAX_CODE_ADDRESSES = 8
MAX_INVITATIONS = 64
KEPT_AFTER_END_S = 24 * 3600.0
"""How long an ended code is remembered, to say what became of it and to answer a late retry (seconds)."""

MAX_GUESSES = 5
GUESS_WINDOW_S = 60.0
MAX_GUESSERS = 1024

_CHECK_SIZE = 4
_MAX_CODE_CHARACTERS = 2048
_ID_LABEL = "meshd/invite-id/v1"
_KEY_LABEL = "meshd/invite-key/v1"


def _packed_host(host: str) -> bytes | str:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if "%" in host else literal.packed


def _host(value: Any) -> str:
    if type(value) is bytes:
        if len(value) not in (4, 16):
            raise codec.ShapeError("expected an IP address")
        return str(ipaddress.ip_address(value))
    checked: str = matching(text(270), is_host, "a host")(value)
    return checked


@attrs.frozen
class InviteCode:
    """What ``meshctl invite`` shows and ``meshctl join`` takes.

    Args:
        secret: 16 bytes, for one use.
        genesis_hash: the mesh; certificate_hash: SHA-256 of the inviting device's certificate (DER).
        addresses: where it listens for TLS over TCP (transport ``websocket``); up to 8.
    """

    secret: bytes = attrs.field(repr=False)
    genesis_hash: bytes
    certificate_hash: bytes
    addresses: tuple[CardAddress, ...]

    @property
    def id(self) -> bytes:
        """16 bytes that name the code to its maker, and tell nobody the secret."""
        return hmac.digest(self.secret, signed_bytes(_ID_LABEL, self.genesis_hash), "sha256")[:CODE_ID_SIZE]

    @property
    def key(self) -> bytes:
        """32 bytes that both sides make their proofs with."""
        return hmac.digest(self.secret, signed_bytes(_KEY_LABEL, self.genesis_hash), "sha256")

    def __str__(self) -> str:
        """One word: a prefix, then base32 with a checksum. Upper case is read as well, for denser QR codes."""
        addresses = [[_packed_host(address.host), address.port] for address in self.addresses]
        payload = codec.encode([self.secret, self.genesis_hash, self.certificate_hash, addresses])
        return CODE_PREFIX + to_text(payload + _checksum(payload))

    @classmethod
    def parse(cls, word: str) -> "InviteCode":
        """Inverse of ``str``; forgives case and line breaks. Raises MeshdError (``E_CODE_MALFORMED``)."""
        joined = "".join(word[:_MAX_CODE_CHARACTERS].split()).lower()
        problem = f"it does not begin with {CODE_PREFIX}"
        try:
            if not joined.startswith(CODE_PREFIX):
                raise ValueError(problem)
            problem = "a character is wrong or missing"
            raw = from_text(joined.removeprefix(CODE_PREFIX))
            payload, check = raw[:-_CHECK_SIZE], raw[-_CHECK_SIZE:]
            if check != _checksum(payload):
                raise ValueError(problem)
            problem = "another version of meshd made it"
            code: InviteCode = _CODE(codec.decode(payload))
        except ValueError as error:  # its own words may quote the code, which is a secret
            raise MeshdError("E_CODE_MALFORMED", f"This is not an invitation code: {problem}.") from error
        return code


_CODE = record(
    InviteCode,
    blob(SECRET_SIZE),
    blob(HASH_SIZE),
    blob(HASH_SIZE),
    array(
        record(lambda host, port: CardAddress(CODE_TRANSPORT, host, port), _host, uint(65535, 1)), MAX_CODE_ADDRESSES
    ),
)


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(b"meshd/invite-code/v1" + payload).digest()[:_CHECK_SIZE]


@attrs.frozen
class Invitation:
    """A code as its maker remembers it: without the secret.

    Args:
        expires_s: in the seconds of ``now``; used_by: the public key it was used with.
    """

    id: bytes
    key: bytes = attrs.field(repr=False)
    role: Role
    expires_s: float
    used_by: bytes | None = None


_INVITATION = record(Invitation, blob(CODE_ID_SIZE), blob(32), role, uint(), optional(blob(PUBLIC_KEY_SIZE)))
_EXPORT = array(_INVITATION, MAX_INVITATIONS)


class Invitations:
    """The codes that this device has made, and who guesses wrong. Pure; ``now`` in seconds that survive a restart.

    A code ends by its time or by being used, never by a stranger's wrong guess.
    """

    def __init__(self) -> None:
        self._by_id: dict[bytes, Invitation] = {}
        self._guesses: dict[str, deque[float]] = {}

    def create(
        self,
        now: float,
        expires_s: float,
        role: Role,
        *,
        genesis_hash: bytes,
        certificate_hash: bytes,
        addresses: tuple[CardAddress, ...],
        rng: random.Random,
    ) -> InviteCode:
        """Make a code; store ``export`` before showing it. Raises MeshdError (``E_BUSY``) when 64 are open."""
        self._forget(now)
        if len(self._by_id) >= MAX_INVITATIONS:
            ended = [i for i in self._by_id.values() if i.used_by is not None or i.expires_s <= now]
            if not ended:
                raise MeshdError("E_BUSY", f"{MAX_INVITATIONS} invitation codes are open.", "Wait for some to expire.")
            del self._by_id[min(ended, key=lambda invitation: invitation.expires_s).id]
        reachable = tuple(address for address in addresses if address.transport == CODE_TRANSPORT)
        code = InviteCode(rng.randbytes(SECRET_SIZE), genesis_hash, certificate_hash, reachable[:MAX_CODE_ADDRESSES])
        self._by_id[code.id] = Invitation(code.id, code.key, role, now + expires_s)
        return code

    def find(self, id: bytes) -> Invitation | None:
        """The code with this id, in whatever state."""
        return self._by_id.get(id)

    def check_open(self, invitation: Invitation, public_key: bytes, now: float) -> None:
        """Raise MeshdError unless the holder of this key can use the code, for the first time or again.

        ``E_CODE_USED``, ``E_CODE_EXPIRED``.
        """
        if invitation.used_by == public_key:
            return
        if invitation.used_by is not None:
            raise MeshdError("E_CODE_USED", "Another device has used this code.")
        if invitation.expires_s <= now:
            raise MeshdError("E_CODE_EXPIRED", "The code has expired.")

    def consume(self, id: bytes, public_key: bytes, now: float) -> None:
        """Bind the code to a key: part of the transaction that adds the member. Raises as ``check_open``,
        and ``E_CODE_WRONG`` for an unknown code.
        """
        invitation = self._by_id.get(id)
        if invitation is None:
            raise MeshdError("E_CODE_WRONG", "No such code was made here.")
        self.check_open(invitation, public_key, now)
        self._by_id[id] = attrs.evolve(invitation, used_by=public_key)

    def release(self, id: bytes) -> None:
        """Undo ``consume``: its transaction failed."""
        if (invitation := self._by_id.get(id)) is not None:
            self._by_id[id] = attrs.evolve(invitation, used_by=None)

    def check_rate(self, host: str, now: float) -> None:
        """Raise MeshdError (``E_JOIN_RATE``) when ``host`` has guessed wrong too often of late."""
        guesses = self._guesses.get(_network(host))
        if guesses is not None and len(guesses) == MAX_GUESSES and now - guesses[0] < GUESS_WINDOW_S:
            raise MeshdError("E_JOIN_RATE", "Too many wrong codes came from this address.")

    def count_guess(self, host: str, now: float) -> None:
        """A wrong code came from ``host``. The hosts longest quiet are forgotten when there are too many."""
        network = _network(host)
        guesses = self._guesses.pop(network, None) or deque(maxlen=MAX_GUESSES)
        guesses.append(now)
        self._guesses[network] = guesses
        if len(self._guesses) > MAX_GUESSERS:
            del self._guesses[next(iter(self._guesses))]

    def export(self) -> bytes:
        """Everything but the guesses, as secret bytes for the store."""
        return codec.encode([[i.id, i.key, i.role, int(i.expires_s), i.used_by] for i in self._by_id.values()])

    @classmethod
    def restore(cls, stored: bytes) -> "Invitations":
        """Inverse of ``export``. Raises ShapeError when the store gives back something else."""
        invitations = cls()
        invitations._by_id = {invitation.id: invitation for invitation in _EXPORT(codec.decode(stored))}
        return invitations

    def _forget(self, now: float) -> None:
        kept: Mapping[bytes, Invitation] = self._by_id
        self._by_id = {id: i for id, i in kept.items() if now < i.expires_s + KEPT_AFTER_END_S}


def _network(host: str) -> str:
    # One household can use any address of an IPv6 /64: they count as one.
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
