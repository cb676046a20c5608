import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import MeshdError
from meshd.ids import to_text
from meshd.trust.card import CardAddress
from meshd.trust.invitations import (
    CODE_PREFIX,
    GUESS_WINDOW_S,
    KEPT_AFTER_END_S,
    MAX_CODE_ADDRESSES,
    MAX_GUESSERS,
    MAX_GUESSES,
    MAX_INVITATIONS,
    Invitations,
    InviteCode,
)
from meshd.wire import codec

ADDRESSES = tuple(
    CardAddress("websocket", host, 7843) for host in ("192.0.2.1", "2001:db8::1", "fe80::1%eth0", "pi.local")
)
CODE = InviteCode(b"s" * 16, b"g" * 32, b"c" * 32, ADDRESSES)
KEY, OTHER_KEY = b"K" * 32, b"O" * 32


def create(invitations: Invitations, now: float = 0.0, seed: int = 1, expires_s: float = 600.0) -> InviteCode:
    return invitations.create(
        now,
        expires_s,
        "member",
        genesis_hash=b"g" * 32,
        certificate_hash=b"c" * 32,
        addresses=ADDRESSES,
        rng=random.Random(seed),
    )


def code_of(call, *args) -> str:
    with pytest.raises(MeshdError) as caught:
        call(*args)
    return caught.value.code


def test_a_code_is_one_word_that_survives_copying():
    word = str(CODE)
    assert word.startswith(CODE_PREFIX)
    assert word == word.lower()
    assert "".join(word.split()) == word
    assert len(word) < 300  # a QR code of 24 x 24 terminal cells or so
    for copied in (word, word.upper(), f"  {word[:40]}\n  {word[40:]}\n"):
        assert InviteCode.parse(copied) == CODE


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
    st.lists(st.tuples(st.ip_addresses().map(str), st.integers(1, 65535)), max_size=MAX_CODE_ADDRESSES),
)
def test_codes_come_back(secret: bytes, hashed: bytes, addresses: list[tuple[str, int]]):
    code = InviteCode(secret, hashed, hashed[::-1], tuple(CardAddress("websocket", *address) for address in addresses))
    assert InviteCode.parse(str(code)) == code


@given(st.integers(7, len(str(CODE)) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-"))
def test_a_slip_in_a_code_is_noticed(at: int, letter: str):
    word = str(CODE)
    slipped = word[:at] + letter + word[at + 1 :]
    if slipped != word:
        assert code_of(InviteCode.parse, slipped) == "E_CODE_MALFORMED"
    assert code_of(InviteCode.parse, word[:at]) == "E_CODE_MALFORMED"


def test_what_is_wrong_is_said_without_the_code():
    for at in range(8, len(str(CODE))):  # some lengths are no base32 at all
        with pytest.raises(MeshdError, match="a character is wrong or missing") as caught:
            InviteCode.parse(str(CODE)[:at])
        assert str(CODE)[7:12] not in caught.value.message


@given(st.text(max_size=120), st.binary(max_size=120))
def test_any_text_is_a_code_or_an_error(text: str, raw: bytes):
    check = hashlib.sha256(b"meshd/invite-code/v1" + raw).digest()[:4]
    checked = CODE_PREFIX + to_text(raw + check)  # passes the checksum, fails the shape
    for word in (text, CODE_PREFIX + text, checked, checked * 100):
        assert code_of(InviteCode.parse, word) == "E_CODE_MALFORMED"


def test_a_code_begins_as_codes_do():
    with pytest.raises(MeshdError, match="does not begin with meshd1-"):
        InviteCode.parse(str(CODE).removeprefix(CODE_PREFIX))


def test_a_code_does_not_show_its_secret():
    assert repr(CODE.secret) not in repr(CODE)
    assert CODE.secret not in CODE.id + CODE.key


def test_only_addresses_that_take_joins_are_in_a_code():
    code = Invitations().create(
        0.0,
        1.0,
        "member",
        genesis_hash=bytes(32),
        certificate_hash=bytes(32),
        addresses=(CardAddress("quic", "192.0.2.1", 1), *(ADDRESSES * 3)),
        rng=random.Random(1),
    )
    assert code.addresses == (ADDRESSES * 3)[:MAX_CODE_ADDRESSES]


def test_a_code_is_for_one_key_and_a_time():
    invitations = Invitations()
    code = create(invitations)
    found = invitations.find(code.id)
    assert found is not None
    assert found.key == code.key
    invitations.check_open(found, KEY, 599.0)
    assert code_of(invitations.check_open, found, KEY, 600.0) == "E_CODE_EXPIRED"
    invitations.consume(code.id, KEY, 10.0)
    invitations.consume(code.id, KEY, 10_000.0)
    assert code_of(invitations.consume, code.id, OTHER_KEY, 20.0) == "E_CODE_USED"
    assert code_of(invitations.consume, bytes(16), KEY, 20.0) == "E_CODE_WRONG"


def test_a_failed_transaction_gives_the_code_back():
    invitations = Invitations()
    code = create(invitations)
    invitations.consume(code.id, KEY, 10.0)
    invitations.release(code.id)
    invitations.consume(code.id, OTHER_KEY, 10.0)
    invitations.release(bytes(16))


def test_codes_survive_a_restart_without_their_secret():
    invitations = Invitations()
    code = create(invitations)
    used = create(invitations, seed=2)
    invitations.consume(used.id, KEY, 10.0)
    stored = invitations.export()
    assert code.secret not in stored
    restored = Invitations.restore(stored)
    assert restored.find(code.id) == invitations.find(code.id)
    assert restored.find(used.id) == invitations.find(used.id)
    with pytest.raises(codec.ShapeError):
        Invitations.restore(codec.encode([1]))


def test_the_register_is_bounded():
    invitations = Invitations()
    codes = [create(invitations, seed=seed) for seed in range(MAX_INVITATIONS)]
    assert code_of(create, invitations, 0.0, 1000) == "E_BUSY"
    create(invitations, now=600.0, seed=1001)
    assert sum(invitations.find(code.id) is not None for code in codes) == MAX_INVITATIONS - 1
    create(invitations, now=600.0 + KEPT_AFTER_END_S, seed=1002)
    assert all(invitations.find(code.id) is None for code in codes)


def test_of_a_full_register_the_code_that_would_have_ended_first_makes_room():
    invitations = Invitations()
    codes = [create(invitations, seed=seed, expires_s=600.0 + seed) for seed in range(MAX_INVITATIONS)]
    for used in (20, 10, 30):
        invitations.consume(codes[used].id, KEY, 1.0)
    for number, gone in enumerate((10, 20, 30)):
        create(invitations, 2.0, 1000 + number)
        assert invitations.find(codes[gone].id) is None
    assert code_of(create, invitations, 2.0, 2000) == "E_BUSY"
    assert sum(invitations.find(code.id) is not None for code in codes) == MAX_INVITATIONS - 3


def test_guesses_are_counted_per_network():
    invitations = Invitations()
    for guess in range(MAX_GUESSES):
        invitations.check_rate("2001:db8::1", float(guess))
        invitations.count_guess("2001:db8::1", float(guess))
    assert code_of(invitations.check_rate, "2001:db8::2", 10.0) == "E_JOIN_RATE"
    invitations.check_rate("2001:db8:0:1::1", 10.0)
    invitations.check_rate("192.0.2.1", 10.0)
    invitations.check_rate("2001:db8::2", GUESS_WINDOW_S)
    for guess in range(MAX_GUESSES):
        invitations.count_guess("::ffff:192.0.2.1", float(guess))
    assert code_of(invitations.check_rate, "192.0.2.1", 10.0) == "E_JOIN_RATE"
    assert code_of(invitations.check_rate, "::ffff:192.0.2.1", 10.0) == "E_JOIN_RATE"


def test_guessers_are_bounded():
    invitations = Invitations()
    for _ in range(MAX_GUESSES):
        invitations.count_guess("192.0.2.1", 0.0)
    for number in range(MAX_GUESSERS - 1):
        invitations.count_guess(f"host{number}", 0.0)
    assert code_of(invitations.check_rate, "192.0.2.1", 1.0) == "E_JOIN_RATE"
    invitations.count_guess("one more", 0.0)
    invitations.check_rate("192.0.2.1", 1.0)
