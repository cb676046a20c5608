import hashlib
import random
import ssl
from pathlib import Path

import pytest
from aioquic.tls import verify_certificate
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import LocalProtocolError, MeshdError, RemoteProtocolError
from meshd.ids import node_id_of, to_text
from meshd.trust.identity import (
    KEY_FILE,
    Identity,
    certificate_key,
    certificate_node_id,
    key_node_id,
    load_or_create,
    server_name,
    signed_bytes,
    verify,
)
from tests.trust.people import device


def test_one_key_always_gives_the_same_identity():
    again = Identity.from_seed((1).to_bytes(32, "big"))
    assert again == device(1)
    assert again.certificate == device(1).certificate
    assert device(2).node_id != again.node_id


def test_the_certificate_of_a_key_is_the_same_in_every_version():
    """Rosters hold it, and a byte that is another one shuts the device out."""
    known = "800bd62622cc0b132af627c3e8cb00f3517f9099e58080bcfa566f566869f8c0"
    assert hashlib.sha256(device(1).certificate).hexdigest() == known


def test_id_is_the_hash_of_the_public_key_info():
    certificate = x509.load_der_x509_certificate(device(1).certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert device(1).node_id == node_id_of(spki) == key_node_id(device(1).public_key)


def test_certificate_is_valid_der_with_the_fields_of_the_design():
    certificate = x509.load_der_x509_certificate(device(1).certificate)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_bytes(Encoding.DER) == device(1).certificate
    assert certificate.not_valid_before_utc.year == 1950
    assert certificate.not_valid_after_utc.year == 9999
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    expected = f"{to_text(device(1).node_id)}.meshd"
    assert names.get_values_for_type(x509.DNSName) == [expected] == [server_name(device(1).node_id)]
    assert certificate.subject.rfc4514_string() == f"CN={expected}" == certificate.issuer.rfc4514_string()


def test_certificate_names_its_device():
    assert certificate_key(device(1).certificate) == device(1).public_key
    assert certificate_node_id(device(1).certificate) == device(1).node_id


@pytest.mark.parametrize("position", range(0, 333, 4))
def test_certificate_with_any_byte_changed_is_refused(position: int):
    changed = bytearray(device(1).certificate)
    changed[position] ^= 1
    with pytest.raises(RemoteProtocolError) as caught:
        certificate_key(bytes(changed))
    assert caught.value.code == "P_AUTH"


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_certificate(data: bytes):
    for candidate in (data, device(1).certificate + data[:1] + b"x", device(1).certificate[: len(data) % 333]):
        with pytest.raises(RemoteProtocolError):
            certificate_key(candidate)


def _handshake(server_of: Identity, trusted: Identity, name: str, tmp_path: Path) -> str | None:
    pem = tmp_path / "server.pem"
    pem.write_bytes(server_of.private_key_pem() + server_of.certificate_pem())
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(pem)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.load_verify_locations(cadata=trusted.certificate)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(down, up, server_hostname=name)
    server = server_context.wrap_bio(up, down, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.version()


def test_tls_trusts_exactly_the_pinned_certificate(tmp_path: Path):
    ours, other = device(1), device(2)
    assert _handshake(ours, ours, server_name(ours.node_id), tmp_path) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(ours, other, server_name(ours.node_id), tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(ours, ours, server_name(other.node_id), tmp_path)


def test_quic_trusts_the_pinned_certificate():
    certificate = x509.load_der_x509_certificate(device(1).certificate)
    verify_certificate(
        certificate=certificate,
        chain=[],
        server_name=server_name(device(1).node_id),
        cadata=device(1).certificate_pem(),
    )


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_parts_never_sign_the_same_bytes(left: list[bytes], right: list[bytes]):
    assert (signed_bytes("a", *left) == signed_bytes("a", *right)) == (left == right)
    assert signed_bytes("a", *left) != signed_bytes("ab", *left)


@pytest.mark.parametrize("label", ["", "a\0b"])
def test_unfit_labels_are_our_bug(label: str):
    with pytest.raises(LocalProtocolError):
        device(1).sign(label)


def test_verify_takes_what_was_signed_and_nothing_else():
    signature = device(1).sign("label", b"one", b"two")
    key = device(1).public_key
    assert verify(key, signature, "label", b"one", b"two")
    assert not verify(key, signature, "label", b"onet", b"wo")
    assert not verify(key, signature, "other", b"one", b"two")
    assert not verify(device(2).public_key, signature, "label", b"one", b"two")
    assert not verify(key, signature[:-1], "label", b"one", b"two")
    assert not verify(b"short", signature, "label", b"one", b"two")


def test_the_secret_is_not_shown():
    assert "private" not in repr(device(1))


def test_the_key_file_is_made_once_and_read_again(tmp_path: Path):
    first = load_or_create(tmp_path, random.Random(1))
    assert load_or_create(tmp_path, random.Random(2)) == first
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_left_over_half_written_key_does_not_matter(tmp_path: Path):
    (tmp_path / "identity.new").write_bytes(b"half")
    first = load_or_create(tmp_path, random.Random(1))
    assert load_or_create(tmp_path, random.Random(2)) == first


def _refusal(tmp_path: Path) -> MeshdError:
    with pytest.raises(MeshdError) as caught:
        load_or_create(tmp_path, random.Random(1))
    assert caught.value.code == "E_STATE_DIR"
    return caught.value


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int):
    load_or_create(tmp_path, random.Random(1))
    (tmp_path / KEY_FILE).chmod(mode)
    assert "chmod 600" in (_refusal(tmp_path).hint or "")


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff" * 5000])
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, content: bytes):
    path = tmp_path / KEY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    message = _refusal(tmp_path).message
    assert message == f"{path} is damaged: it holds no key." if content else f"{path} is empty."
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path):
    key = generate_private_key(SECP256R1())
    path = tmp_path / KEY_FILE
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    assert "another kind" in _refusal(tmp_path).message


def test_a_key_under_a_password_is_refused(tmp_path: Path):
    key = load_pem_private_key(device(1).private_key_pem(), None)
    path = tmp_path / KEY_FILE
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")))
    path.chmod(0o600)
    assert "holds no key" in _refusal(tmp_path).message


def test_a_missing_directory_a_link_and_a_directory_are_refused(tmp_path: Path):
    _refusal(tmp_path / "missing")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    load_or_create(elsewhere, random.Random(1))
    (tmp_path / KEY_FILE).symlink_to(elsewhere / KEY_FILE)
    _refusal(tmp_path)
    (tmp_path / KEY_FILE).unlink()
    (tmp_path / KEY_FILE).mkdir(0o700)
    _refusal(tmp_path)
