"""The link handshake: the same four frames over every transport, as two pure state machines.

::

    dialer                                  listener
      | -- Hello(versions, nonce) ------------> |
      | <------- Challenge(version, nonce) ---- |
      | -- Proof(certificate, epoch, seen,      |
      |          chain, sig) -----------------> |   merges the chain, then decides
      | <-------- Welcome(epoch, seen, sig) --- |

TLS has shown the dialer the listener's certificate, and that is part of what both sign, so neither
a relayed nor a replayed handshake verifies. After an error a machine is of no further use.
"""

import enum
import hashlib
import random
from collections.abc import Mapping, Sequence

import attrs

from meshd.errors import CATALOGUE, LocalProtocolError, RemoteProtocolError
from meshd.ids import Epoch, NodeId, to_text
from meshd.trust.identity import Identity, certificate_key, key_node_id, verify
from meshd.trust.roster import MAX_CHAIN_BYTES, Roster
from meshd.trust.transcript import Transcript
from meshd.wire.frames import PROTOCOL_VERSION, Challenge, Frame, Hello, Proof, Reject, Welcome

VERSIONS = (PROTOCOL_VERSION,)
"""The protocol versions that this program speaks, best first."""

NONCE_SIZE = 32

_DIALER_LABEL = "meshd/handshake/dialer/v1"
_LISTENER_LABEL = "meshd/handshake/listener/v1"
_MAX_REASON = 200


@attrs.frozen
class HandshakeResult:
    """A link is up.

    Args:
        seen: the highest epoch of ours that the peer knows.
        chain: the new statements that the dialer brought, verified; only the listener learns them.
        tag: the same at both ends, and another for each link: to find it in both logs. No secret.
    """

    peer: NodeId
    peer_epoch: Epoch
    seen: Epoch | None
    version: int
    chain: tuple[bytes, ...] = ()
    tag: str = ""


class _State(enum.Enum):
    START = "start"
    HELLO_SENT = "hello sent"
    CHALLENGE_SENT = "challenge sent"
    PROOF_SENT = "proof sent"
    PROOF_HELD = "proof held"
    DONE = "done"
    FAILED = "failed"


class TurnedAway(RemoteProtocolError):
    """A device is not let in. ``proof``: signed statements that show that it was removed, if it was."""

    def __init__(self, code: str, reason: str, proof: tuple[bytes, ...]) -> None:
        super().__init__(code, reason)
        self.proof = proof


def check_member(roster: Roster, node: NodeId, certificate: bytes, chain: Sequence[bytes] = ()) -> None:
    """Raises RemoteProtocolError unless the device is in the mesh now; ``chain`` is what it brought, genesis first."""
    member = roster.members.get(node)
    if member is None:
        proof = roster.removal_of(node, chain[1:])
        raise TurnedAway("P_NOT_MEMBER", f"{to_text(node)} is not in this mesh", proof)
    if member.removed:
        raise TurnedAway("P_REMOVED", f"{member.name} was removed from this mesh", roster.removal_of(node))
    if member.certificate != certificate:
        raise RemoteProtocolError("P_AUTH", f"not the certificate of {member.name}")


def _rejected(frame: Reject) -> TurnedAway:
    # The peer's words may end in a log or on a terminal.
    code = frame.code if frame.code.startswith("P_") and frame.code in CATALOGUE else "P_UNEXPECTED"
    reason = "".join(character for character in frame.reason if character.isprintable())
    return TurnedAway(code, f"the peer refused: {reason}", frame.proof)


def _reject(error: RemoteProtocolError) -> Reject:
    return Reject(error.code, error.reason[:_MAX_REASON], error.proof if isinstance(error, TurnedAway) else ())


class _Machine:
    """What both ends share: the state, and what becomes of it after an error."""

    def __init__(self) -> None:
        self._state = _State.START
        self.done: HandshakeResult | None = None
        self.rejection: Reject | None = None
        """After an error that is not the peer's Reject: what to tell it before closing."""

    def receive(self, frame: Frame) -> Frame | None:
        """Take the peer's next frame; returns the one to answer with, if any.

        Raises:
            RemoteProtocolError: the link can't be. ``P_UNEXPECTED`` also for any frame after an error
                or after the end.
        """
        if self._state is _State.FAILED:
            raise self._unexpected(frame)
        try:
            if isinstance(frame, Reject) and self._state is not _State.DONE:
                raise _rejected(frame)
            return self._step(frame)
        except RemoteProtocolError as error:
            if not isinstance(frame, Reject):
                self.rejection = _reject(error)
            self._state = _State.FAILED
            self.done = None
            raise

    def _step(self, frame: Frame) -> Frame | None:
        raise self._unexpected(frame)

    def _unexpected(self, frame: Frame) -> RemoteProtocolError:
        return RemoteProtocolError("P_UNEXPECTED", f"{type(frame).__name__} in state: {self._state.value}")


class DialerHandshake(_Machine):
    """The side that connected.

    Args:
        roster: must hold ``peer``.
        peer: whom we want to reach; listener_certificate: DER that TLS verified, so that the other end holds its key.
        epoch: ours; seen: the highest epoch known of the peer.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        peer: NodeId,
        listener_certificate: bytes,
        alpn: str,
        epoch: Epoch,
        seen: Epoch | None,
        rng: random.Random,
    ) -> None:
        super().__init__()
        self._identity = identity
        self._roster = roster
        self._peer = peer
        self._listener_certificate = listener_certificate
        self._alpn = alpn
        self._epoch = epoch
        self._seen = seen
        self._hello = Hello(VERSIONS, rng.randbytes(NONCE_SIZE))
        self._transcript: Transcript | None = None

    def start(self) -> Hello:
        """The first frame.

        Raises RemoteProtocolError when TLS showed another certificate than the roster has for the peer
        (``P_AUTH``), or the peer is not in the mesh (``P_NOT_MEMBER``, ``P_REMOVED``).
        """
        try:
            check_member(self._roster, self._peer, self._listener_certificate)
        except RemoteProtocolError:
            self._state = _State.FAILED
            raise
        self._state = _State.HELLO_SENT
        return self._hello

    def _step(self, frame: Frame) -> Frame | None:
        match self._state, frame:
            case _State.HELLO_SENT, Challenge():
                return self._prove(frame)
            case _State.PROOF_SENT, Welcome():
                self._finish(frame)
                return None
        raise self._unexpected(frame)

    def _prove(self, challenge: Challenge) -> Proof:
        if challenge.version not in self._hello.versions:
            raise RemoteProtocolError("P_VERSION", f"version {challenge.version} was not offered")
        self._transcript = Transcript(
            mesh_id=self._roster.mesh_id,
            alpn=self._alpn,
            offered=self._hello.versions,
            chosen=challenge.version,
            dialer_key=self._identity.public_key,
            listener_key=certificate_key(self._listener_certificate),
            dialer_nonce=self._hello.nonce,
            listener_nonce=challenge.nonce,
            listener_certificate=self._listener_certificate,
        )
        signature = self._identity.sign(_DIALER_LABEL, *self._transcript.proof(self._epoch, self._seen))
        members = self._roster.members
        # Who made us a member may have been cut: then there is nothing to show, but others may know more than we do.
        proven = [self._identity.node_id] if self._identity.node_id in members else []
        if members[self._peer].role == "relay":  # it may hear of this mesh for the first time
            proven.append(self._peer)
        chain = self._roster.chain_for(*proven)
        self._state = _State.PROOF_SENT
        return Proof(self._identity.certificate, self._epoch, self._seen, chain, signature)

    def _finish(self, welcome: Welcome) -> None:
        transcript = self._transcript
        assert transcript is not None
        parts = transcript.welcome(self._epoch, welcome.epoch, welcome.seen)
        if not verify(transcript.listener_key, welcome.signature, _LISTENER_LABEL, *parts):
            raise RemoteProtocolError("P_AUTH", "a welcome with a wrong signature")
        self._state = _State.DONE
        self.done = HandshakeResult(self._peer, welcome.epoch, welcome.seen, transcript.chosen, tag=transcript.tag)


class _Listening(_Machine):
    """What every listener does: answer the hello, and check a proof before anything in it is believed."""

    def __init__(self, identity: Identity, alpn: str, rng: random.Random) -> None:
        super().__init__()
        self._identity = identity
        self._alpn = alpn
        self._nonce = rng.randbytes(NONCE_SIZE)
        self._hello: Hello | None = None
        self._version = 0

    def _step(self, frame: Frame) -> Frame | None:
        match self._state, frame:
            case _State.START, Hello():
                return self._challenge(frame)
            case _State.CHALLENGE_SENT, Proof():
                return self._proven(frame)
        raise self._unexpected(frame)

    def _challenge(self, hello: Hello) -> Challenge:
        common = [version for version in VERSIONS if version in hello.versions]
        if not common:
            raise RemoteProtocolError("P_VERSION", f"the peer speaks {list(hello.versions)}, we {list(VERSIONS)}")
        self._hello, self._version = hello, common[0]
        self._state = _State.CHALLENGE_SENT
        return Challenge(self._version, self._nonce)

    def _proven(self, proof: Proof) -> Welcome | None:
        raise self._unexpected(proof)

    def _check(self, proof: Proof, mesh_id: bytes) -> "Applicant":
        """Cheap checks first: only who proves the possession of a key gets its statements read."""
        if sum(map(len, proof.chain)) > MAX_CHAIN_BYTES:
            raise RemoteProtocolError("P_OVERSIZED", "a chain over 16 KiB")
        if not proof.chain or hashlib.sha256(proof.chain[0]).digest() != mesh_id:
            raise RemoteProtocolError("P_OTHER_MESH", "the chain begins with another genesis")
        dialer_key = certificate_key(proof.certificate)
        peer = key_node_id(dialer_key)
        if peer == self._identity.node_id:
            raise RemoteProtocolError("P_AUTH", "a link to itself")
        transcript = self._transcript(mesh_id, dialer_key)
        if not verify(dialer_key, proof.signature, _DIALER_LABEL, *transcript.proof(proof.epoch, proof.seen)):
            raise RemoteProtocolError("P_AUTH", "a proof with a wrong signature")
        return Applicant(peer, proof.certificate, proof.epoch, proof.seen, proof.chain, transcript)

    def _welcome(
        self, applicant: "Applicant", roster: Roster, chain: tuple[bytes, ...], epoch: Epoch, seen: Epoch | None
    ) -> Welcome:
        """Let the applicant in, if ``roster``, with its chain merged, has it."""
        check_member(roster, applicant.peer, applicant.certificate, applicant.chain)
        parts = applicant.transcript.welcome(applicant.epoch, epoch, seen)
        signature = self._identity.sign(_LISTENER_LABEL, *parts)
        self._state = _State.DONE
        self.done = HandshakeResult(
            applicant.peer, applicant.epoch, applicant.seen, self._version, chain, tag=applicant.transcript.tag
        )
        return Welcome(epoch, seen, signature)

    def _transcript(self, mesh_id: bytes, dialer_key: bytes) -> Transcript:
        assert self._hello is not None
        return Transcript(
            mesh_id=mesh_id,
            alpn=self._alpn,
            offered=self._hello.versions,
            chosen=self._version,
            dialer_key=dialer_key,
            listener_key=self._identity.public_key,
            dialer_nonce=self._hello.nonce,
            listener_nonce=self._nonce,
            listener_certificate=self._identity.certificate,
        )


@attrs.frozen
class Applicant:
    """A dialer that has proven to hold its key; what it says of the mesh is not judged yet.

    Args:
        seen: the highest epoch of ours that it knows.
        chain: the genesis, then statements.
    """

    peer: NodeId
    certificate: bytes
    epoch: Epoch
    seen: Epoch | None
    chain: tuple[bytes, ...]
    transcript: Transcript = attrs.field(repr=False)

    @property
    def genesis(self) -> bytes:
        """The founding statement of the mesh that it comes from."""
        return self.chain[0]


class ListenerHandshake(_Listening):
    """The side that was connected to. It presented ``identity``'s certificate in TLS.

    Args:
        epoch: ours; seen: the highest epoch known of each device.
    """

    def __init__(
        self,
        identity: Identity,
        roster: Roster,
        alpn: str,
        epoch: Epoch,
        seen: Mapping[NodeId, Epoch],
        rng: random.Random,
    ) -> None:
        super().__init__(identity, alpn, rng)
        self._roster = roster
        self._epoch = epoch
        self._seen = seen

    def _proven(self, proof: Proof) -> Welcome:
        applicant = self._check(proof, self._roster.mesh_id)
        roster, chain = self._roster.merge(applicant.chain[1:])
        return self._welcome(applicant, roster, chain, self._epoch, self._seen.get(applicant.peer))


class RelayHandshake(_Listening):
    """The listener of a relay, which serves several meshes: the proof tells of which one the dialer is.

    After the proof, ``applicant`` waits for :meth:`admit` or :meth:`refuse`.
    """

    def __init__(self, identity: Identity, alpn: str, rng: random.Random) -> None:
        super().__init__(identity, alpn, rng)
        self.applicant: Applicant | None = None

    def _proven(self, proof: Proof) -> None:
        mesh_id = hashlib.sha256(proof.chain[0]).digest() if proof.chain else b""
        self.applicant = self._check(proof, mesh_id)
        self._state = _State.PROOF_HELD

    def admit(self, roster: Roster, chain: tuple[bytes, ...], epoch: Epoch, seen: Epoch | None) -> Welcome:
        """Let the applicant in.

        Args:
            roster: of its mesh, with its chain merged; chain: what of that was new.
            epoch: ours in that mesh; seen: the highest epoch known of the applicant.

        Raises RemoteProtocolError when the roster does not have it.
        """
        if self.applicant is None or self._state is not _State.PROOF_HELD:
            raise LocalProtocolError("nobody asks to be let in")
        try:
            return self._welcome(self.applicant, roster, chain, epoch, seen)
        except RemoteProtocolError as error:
            self.refuse(error)
            raise

    def refuse(self, error: RemoteProtocolError) -> None:
        """Turn the applicant away; ``rejection`` tells it why."""
        self.rejection = _reject(error)
        self._state = _State.FAILED
