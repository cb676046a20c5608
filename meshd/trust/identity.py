"""A device's key: its id, its certificate, and what it signs."""

import contextlib
import datetime
import functools
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshd.errors import LocalProtocolError, MeshdError, RemoteProtocolError
from meshd.ids import NodeId, node_id_of, to_text

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
SEED_SIZE = 32
KEY_FILE = "identity.key"
RESTORE = (
    "Restore the file from a backup. Without one this is a new device: move the state directory away, start, and join."
)
"""What to do about a key that is gone."""

_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""DER of an Ed25519 SubjectPublicKeyInfo up to the 32 key bytes (RFC 8410, section 4)."""

_SIGNATURE_HEAD = bytes.fromhex("300506032b6570034100")
"""DER between a certificate's signed part and its 64 signature bytes."""

_OUTER_HEAD_SIZE = 4
"""Bytes of DER before a certificate's signed part: SEQUENCE and a length of two bytes."""

_MAX_KEY_FILE_BYTES = 4096


def signed_bytes(label: str, *parts: bytes) -> bytes:
    """What a signature or MAC is made over: the label, then each part with its length.

    No two different (label, parts) give the same bytes. Raises LocalProtocolError for a label that
    is empty or holds a NUL.
    """
    if not label or "\0" in label:
        raise LocalProtocolError(f"not a label: {label!r}")
    return b"".join((label.encode(), b"\0", *(len(part).to_bytes(4, "big") + part for part in parts)))


def key_node_id(public_key: bytes) -> NodeId:
    """The id of the device that holds this raw Ed25519 public key."""
    return node_id_of(_SPKI_PREFIX + public_key)


def server_name(node_id: NodeId) -> str:
    """The name in a device's certificate."""
    return f"{to_text(node_id)}.meshd"


def verify(public_key: bytes, signature: bytes, label: str, *parts: bytes) -> bool:
    """Whether ``signature`` over (label, parts) was made with the key of ``public_key`` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed_bytes(label, *parts))
    except (InvalidSignature, ValueError):
        return False
    return True


@attrs.frozen
class Identity:
    """An Ed25519 key with everything that follows from it. Made by ``generate``, ``from_seed``, ``load_or_create``.

    Args:
        node_id: names the device.
        public_key: 32 raw bytes.
        certificate: DER, self-signed; a pure function of the key.
    """

    node_id: NodeId
    public_key: bytes
    certificate: bytes
    _private_key: Ed25519PrivateKey = attrs.field(repr=False, eq=False)

    @classmethod
    def generate(cls, rng: random.Random) -> "Identity":
        """A new identity."""
        return cls.from_seed(rng.randbytes(SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes) -> "Identity":
        """The identity of this 32-byte secret: the same seed, the same identity, to the last byte."""
        private_key = Ed25519PrivateKey.from_private_bytes(seed)
        public_key = private_key.public_key().public_bytes_raw()
        body = _certificate_body(public_key)
        certificate = _outer(body) + private_key.sign(body)
        return cls(key_node_id(public_key), public_key, certificate, private_key)

    def sign(self, label: str, *parts: bytes) -> bytes:
        """64 signature bytes over (label, parts). Each use has a label of its own."""
        return self._private_key.sign(signed_bytes(label, *parts))

    def private_key_pem(self) -> bytes:
        """PKCS #8, unencrypted, for TLS."""
        return self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate_pem(self) -> bytes:
        """The certificate as TLS libraries read it."""
        return x509.load_der_x509_certificate(self.certificate).public_bytes(Encoding.PEM)


@functools.cache
def _template() -> tuple[bytes, bytes, bytes]:
    # The signed part of a certificate, with the name and the key that are to be replaced in it. All
    # fields have fixed lengths, so replacing them leaves the DER around them as it is.
    private_key = Ed25519PrivateKey.from_private_bytes(bytes(SEED_SIZE))
    public_key = private_key.public_key().public_bytes_raw()
    name = server_name(key_node_id(public_key))
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(1950, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private_key, None)
    )
    return certificate.tbs_certificate_bytes, name.encode(), public_key


def _certificate_body(public_key: bytes) -> bytes:
    body, name, key = _template()
    return body.replace(name, server_name(key_node_id(public_key)).encode()).replace(key, public_key)


def _outer(body: bytes) -> bytes:
    content_size = len(body) + len(_SIGNATURE_HEAD) + SIGNATURE_SIZE
    return b"\x30\x82" + content_size.to_bytes(2, "big") + body + _SIGNATURE_HEAD


@functools.lru_cache(maxsize=32 * 1024)  # more than a roster takes in: it is read as a whole, again and again
def certificate_key(der: bytes) -> bytes:
    """The raw public key of a device's certificate.

    A certificate is a pure function of its key, so it is compared with what it must be: no X.509
    parser ever sees a peer's bytes.

    Raises:
        RemoteProtocolError: ``P_AUTH`` when ``der`` is anything but a device's certificate.
    """
    body, _, template_key = _template()
    at = _OUTER_HEAD_SIZE + body.index(template_key)
    public_key = der[at : at + PUBLIC_KEY_SIZE]
    if len(public_key) == PUBLIC_KEY_SIZE:
        body = _certificate_body(public_key)
        if der[:-SIGNATURE_SIZE] == _outer(body):
            with contextlib.suppress(InvalidSignature, ValueError):
                Ed25519PublicKey.from_public_bytes(public_key).verify(der[-SIGNATURE_SIZE:], body)
                return public_key
    raise RemoteProtocolError("P_AUTH", "not the certificate of a device")


def certificate_node_id(der: bytes) -> NodeId:
    """The device that a certificate is of. Raises RemoteProtocolError (``P_AUTH``)."""
    return key_node_id(certificate_key(der))


def load_or_create(state_dir: Path, rng: random.Random) -> Identity:
    """The identity kept in ``state_dir``; a new one, safely on disk, when there is none.

    Raises:
        MeshdError: ``E_STATE_DIR`` when the file can't be read or written, is open to other users,
            or holds no key. It is never replaced: that would be another device.
    """
    path = state_dir / KEY_FILE
    with _explained(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            identity = Identity.generate(rng)
            _write_new(path, identity.private_key_pem())
            return identity
        with open(descriptor, "rb") as file:
            _check_private(path, os.fstat(descriptor))
            pem = file.read(_MAX_KEY_FILE_BYTES)
    try:
        private_key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "is damaged: it holds no key" if pem else "is empty"
        raise MeshdError("E_STATE_DIR", f"{path} {what}.", RESTORE) from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise MeshdError("E_STATE_DIR", f"{path} holds a key of another kind.", RESTORE)
    return Identity.from_seed(private_key.private_bytes_raw())


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MeshdError("E_STATE_DIR", f"Can't use {path}: {error.strerror}.") from error


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise MeshdError("E_STATE_DIR", f"{path} is not a file.")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise MeshdError("E_STATE_DIR", f"{path} is open to other users (mode {mode:o}).", f"Run: chmod 600 {path}")


def _write_new(path: Path, data: bytes) -> None:
    # Under another name until it is whole and on disk: a power cut leaves no half key behind.
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
