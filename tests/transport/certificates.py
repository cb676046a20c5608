"""Certificates for the tests: self-signed Ed25519, as the devices' own."""

import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshd.transport.base import Pin


@attrs.frozen
class Certificate:
    """A certificate with its key."""

    name: str
    pem: bytes
    key_pem: bytes
    der: bytes

    @property
    def pin(self) -> Pin:
        """What a dialer must know of it."""
        return Pin(self.der, self.name)


def make(name: str) -> Certificate:
    """A new key, and a certificate for ``name``."""
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1950, 1, 1))  # noqa: DTZ001 - the builder wants naive UTC
        .not_valid_after(datetime.datetime(9999, 12, 31))  # noqa: DTZ001
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    return Certificate(
        name,
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.DER),
    )
