"""How a device with a code and the device that made it come to trust each other: both sides, pure.

The frames and what is proven with them are in ``joining``; codes and their register in ``invitations``.
"""

import enum
import hashlib
import random
from collections.abc import Iterable

import attrs

from meshd.errors import CATALOGUE, LocalProtocolError, MeshdError, RemoteProtocolError
from meshd.ids import NodeId, is_device_name
from meshd.trust.identity import Identity, certificate_key, key_node_id
from meshd.trust.invitations import Invitation, Invitations, InviteCode
from meshd.trust.joining import (
    INVITER_LABEL,
    JOIN_VERSION,
    JOINER_LABEL,
    MAX_ANSWER_BYTES,
    NONCE_SIZE,
    PART_BYTES,
    ROSTER_SHAPE,
    JoinAnswer,
    JoinChallenge,
    JoinFrame,
    JoinHello,
    JoinPart,
    JoinProof,
    JoinRefusal,
    Transcript,
    decode_join_frame,
    encode_join_frame,
)
from meshd.trust.roster import Roster
from meshd.trust.statement import Role
from meshd.wire import codec

__all__ = ["Admission", "Invitation", "Invitations", "InviteCode", "InviterExchange", "Joined", "JoinerExchange"]


class _State(enum.Enum):
    START = "start"
    HELLO = "hello"
    PROOF = "proof"
    ANSWER = "answer"
    DONE = "done"
    FAILED = "failed"


@attrs.frozen
class Admission:
    """A device has proven the code. Commit ``roster.add(identity, certificate, name, role)`` and
    ``invitations.consume(code_id, public_key, now)`` in ONE transaction, then call ``admitted``.

    Args:
        repeat: the device is in the mesh already (its answer was lost): nothing to commit.
    """

    certificate: bytes
    public_key: bytes
    name: str
    role: Role
    code_id: bytes
    repeat: bool


@attrs.frozen
class Joined:
    """We are in: the roster with us in it, the signed cards of others, and who let us in. Cards are unverified."""

    roster: Roster
    cards: tuple[bytes, ...]
    inviter: NodeId
    name: str


class InviterExchange:
    """The side that made the code.

    Args:
        invitations: shared with the other exchanges; roster: as of now.
        certificate_hash: SHA-256 of the certificate that TLS presented.
        remote_host: whom wrong guesses are counted against.
    """

    def __init__(
        self,
        identity: Identity,
        invitations: Invitations,
        roster: Roster,
        certificate_hash: bytes,
        now: float,
        remote_host: str,
        rng: random.Random,
    ) -> None:
        self._identity = identity
        self._invitations = invitations
        self._roster = roster
        self._certificate_hash = certificate_hash
        self._now = now
        self._remote_host = remote_host
        self._nonce = rng.randbytes(NONCE_SIZE)
        self._state = _State.START
        self._hello: JoinHello | None = None
        self._invitation: Invitation | None = None
        self._transcript: Transcript | None = None
        self.admission: Admission | None = None
        self.rejection: bytes | None = None
        """After a MeshdError: the frame that tells the joiner, to be sent before closing."""

    def receive(self, data: bytes) -> tuple[bytes, ...]:
        """Take the joiner's next frame; returns the frames to answer with. Look at ``admission`` after it.

        Raises:
            MeshdError: it can't join: E_JOIN_RATE, E_CODE_WRONG, E_CODE_USED, E_CODE_EXPIRED,
                E_REMOVED_DEVICE, E_NOT_ADMIN. ``rejection`` is the frame to send.
            RemoteProtocolError: the bytes are no frame, or not the next one. No answer.
        """
        try:
            return self._step(decode_join_frame(data))
        except MeshdError as error:
            self.refuse(error)
            raise
        except RemoteProtocolError:
            self._state = _State.FAILED
            raise

    def refuse(self, error: MeshdError) -> bytes:
        """End the exchange with ``error``, also when committing the admission failed; returns the frame to send."""
        self._state = _State.FAILED
        self.admission = None
        self.rejection = encode_join_frame(JoinRefusal(error.code, error.message[:200]))
        return self.rejection

    def _step(self, frame: JoinFrame) -> tuple[bytes, ...]:
        match self._state, frame:
            case _State.START, JoinHello():
                return self._challenge(frame)
            case _State.HELLO, JoinProof():
                self._admit(frame)
                return ()
        raise RemoteProtocolError("P_UNEXPECTED", f"{type(frame).__name__} in state: {self._state.value}")

    def _challenge(self, hello: JoinHello) -> tuple[bytes, ...]:
        self._invitations.check_rate(self._remote_host, self._now)
        if not self._roster.is_admin(self._identity.node_id):
            raise MeshdError("E_NOT_ADMIN", "The inviting device is no admin any more.")
        self._hello = hello
        self._invitation = self._invitations.find(hello.code_id)
        if self._invitation is None:
            raise self._wrong()
        self._transcript = Transcript(
            self._roster.mesh_id,
            certificate_key(hello.certificate),
            self._identity.public_key,
            hello.nonce,
            self._nonce,
            self._certificate_hash,
        )
        self._state = _State.HELLO
        return (encode_join_frame(JoinChallenge(self._identity.certificate, self._nonce)),)

    def _wrong(self) -> MeshdError:
        self._invitations.count_guess(self._remote_host, self._now)
        return MeshdError("E_CODE_WRONG", "The inviting device does not know this code.")

    def _admit(self, proof: JoinProof) -> None:
        hello, invitation, transcript = self._hello, self._invitation, self._transcript
        assert hello is not None
        assert invitation is not None
        assert transcript is not None
        name = proof.name.encode()
        if not transcript.has_mac(proof.mac, JOINER_LABEL, invitation.key, name):
            raise self._wrong()
        if not transcript.has_signature(proof.signature, JOINER_LABEL, transcript.joiner_key, name):
            raise RemoteProtocolError("P_AUTH", "a joiner that does not hold its key")
        self._invitations.check_open(invitation, transcript.joiner_key, self._now)
        member = self._roster.members.get(key_node_id(transcript.joiner_key))
        if member is not None and member.removed:
            raise MeshdError("E_REMOVED_DEVICE", f"{member.name} was removed from this mesh.")
        self._state = _State.PROOF
        self.admission = Admission(
            hello.certificate,
            transcript.joiner_key,
            member.name if member else self._roster.free_name(proof.name),
            member.role if member else invitation.role,
            invitation.id,
            member is not None,
        )

    def admitted(self, genesis: bytes, statements: Iterable[bytes], cards: Iterable[bytes]) -> tuple[bytes, ...]:
        """The last frames for the joiner, once the admission is on disk: the whole roster, and known cards.

        Raises LocalProtocolError before there is an admission, or when the answer is over 16 MiB.
        """
        if self._state is not _State.PROOF or self._invitation is None or self._transcript is None:
            raise LocalProtocolError("nobody to admit")
        answer = codec.encode([genesis, list(statements), list(cards)])
        if len(answer) > MAX_ANSWER_BYTES:
            raise LocalProtocolError(f"an answer of {len(answer)} bytes")
        digest = hashlib.sha256(answer).digest()
        mac, signature = self._transcript.proof(INVITER_LABEL, self._invitation.key, self._identity, digest)
        self._state = _State.DONE
        parts = (JoinPart(answer[at : at + PART_BYTES]) for at in range(0, len(answer), PART_BYTES))
        return (encode_join_frame(JoinAnswer(len(answer), digest, mac, signature)), *map(encode_join_frame, parts))


class JoinerExchange:
    """The side that was given the code.

    Args:
        certificate_seen_hash: SHA-256 of the certificate that TLS showed.
    """

    def __init__(
        self, identity: Identity, code: InviteCode, device_name: str, certificate_seen_hash: bytes, rng: random.Random
    ) -> None:
        self._identity = identity
        self._code = code
        self._name = device_name
        self._certificate_seen_hash = certificate_seen_hash
        self._nonce = rng.randbytes(NONCE_SIZE)
        self._state = _State.START
        self._transcript: Transcript | None = None
        self._expected: JoinAnswer | None = None
        self._answer = bytearray()
        self.joined: Joined | None = None

    def start(self) -> bytes:
        """The first frame.

        Raises MeshdError: ``E_CODE_OTHER_MESH`` when TLS showed another certificate than the code names,
        ``E_USAGE`` for an unfit name. Nothing was sent then.
        """
        if self._certificate_seen_hash != self._code.certificate_hash:
            raise self._failed(_other_device())
        if not is_device_name(self._name):
            raise self._failed(MeshdError("E_USAGE", f"Not a device name: {self._name[:80]!r}."))
        self._state = _State.HELLO
        return encode_join_frame(JoinHello(JOIN_VERSION, self._code.id, self._identity.certificate, self._nonce))

    def receive(self, data: bytes) -> tuple[bytes, ...]:
        """Take the inviter's next frame; returns the frames to answer with. ``joined`` is set after the last.

        Raises:
            MeshdError: the inviter refused, with its code; ``E_CODE_OTHER_MESH``.
            RemoteProtocolError: the inviter broke the protocol.
        """
        try:
            return self._step(decode_join_frame(data))
        except (MeshdError, RemoteProtocolError):
            self._state = _State.FAILED
            raise

    def _failed(self, error: MeshdError) -> MeshdError:
        self._state = _State.FAILED
        return error

    def _step(self, frame: JoinFrame) -> tuple[bytes, ...]:
        match self._state, frame:
            case ((_State.HELLO | _State.PROOF), JoinRefusal()):
                raise _refused(frame)
            case _State.HELLO, JoinChallenge():
                return self._prove(frame)
            case _State.PROOF, JoinAnswer():
                self._expect(frame)
                return ()
            case _State.ANSWER, JoinPart():
                self._collect(frame)
                return ()
        raise RemoteProtocolError("P_UNEXPECTED", f"{type(frame).__name__} in state: {self._state.value}")

    def _prove(self, challenge: JoinChallenge) -> tuple[bytes, ...]:
        if hashlib.sha256(challenge.certificate).digest() != self._code.certificate_hash:
            raise _other_device()
        self._transcript = Transcript(
            self._code.genesis_hash,
            self._identity.public_key,
            certificate_key(challenge.certificate),
            self._nonce,
            challenge.nonce,
            self._certificate_seen_hash,
        )
        mac, signature = self._transcript.proof(JOINER_LABEL, self._code.key, self._identity, self._name.encode())
        self._state = _State.PROOF
        return (encode_join_frame(JoinProof(self._name, mac, signature)),)

    def _expect(self, answer: JoinAnswer) -> None:
        transcript = self._transcript
        assert transcript is not None
        if not (
            transcript.has_mac(answer.mac, INVITER_LABEL, self._code.key, answer.digest)
            and transcript.has_signature(answer.signature, INVITER_LABEL, transcript.inviter_key, answer.digest)
        ):
            raise RemoteProtocolError("P_AUTH", "an inviter that does not know the code")
        self._expected = answer
        self._state = _State.ANSWER

    def _collect(self, part: JoinPart) -> None:
        expected, transcript = self._expected, self._transcript
        assert expected is not None
        assert transcript is not None
        self._answer += part.data
        if len(self._answer) > expected.size or not part.data:
            raise RemoteProtocolError("P_OVERSIZED", "an answer that is not as long as it said")
        if len(self._answer) == expected.size:
            answer = bytes(self._answer)
            if hashlib.sha256(answer).digest() != expected.digest:
                raise RemoteProtocolError("P_AUTH", "an answer that its inviter did not prove")
            self.joined = self._verified(answer, key_node_id(transcript.inviter_key))
            self._state = _State.DONE

    def _verified(self, answer: bytes, inviter: NodeId) -> Joined:
        genesis, statements, cards = codec.parse(answer, ROSTER_SHAPE)
        if hashlib.sha256(genesis).digest() != self._code.genesis_hash:
            raise MeshdError("E_CODE_OTHER_MESH", "The code is for another mesh than the inviting device is in.")
        roster = Roster.from_statements(genesis, statements)
        if not roster.is_admin(inviter):
            raise RemoteProtocolError("P_AUTH", "the inviter is no admin of the mesh")
        member = roster.members.get(self._identity.node_id)
        if member is None or member.removed or member.certificate != self._identity.certificate:
            raise RemoteProtocolError("P_AUTH", "the answer does not make us a member")
        return Joined(roster, cards, inviter, member.name)


def _other_device() -> MeshdError:
    return MeshdError("E_CODE_OTHER_MESH", "The device at that address is not the one that made the code.")


def _refused(frame: JoinRefusal) -> MeshdError | RemoteProtocolError:
    # The inviter's words end on a terminal.
    reason = "".join(character for character in frame.reason if character.isprintable())
    if frame.code.startswith("E_") and frame.code in CATALOGUE:
        return MeshdError(frame.code, reason)
    return RemoteProtocolError("P_UNEXPECTED", f"the inviter refused: {reason}")
