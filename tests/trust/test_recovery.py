import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import MeshdError
from meshd.trust.identity import Identity
from meshd.trust.recovery import new_recovery, recovery_seed, recovery_words


@given(st.binary(min_size=32, max_size=32))
def test_words_bring_the_seed_back(seed: bytes):
    words = recovery_words(seed)
    assert [len(word) for word in words.split()] == [4] * 14
    assert recovery_seed(words) == seed


def test_handwriting_is_forgiven():
    seed = bytes(range(32))
    words = recovery_words(seed)
    sloppy = words.upper().replace("O", "0").replace("L", "1").replace("B", "8").replace(" ", "-\n")
    assert sloppy != words
    assert recovery_seed(sloppy) == seed


@given(st.binary(min_size=32, max_size=32), st.integers(0, 55), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_slip_is_noticed(seed: bytes, at: int, letter: str):
    text = recovery_words(seed).replace(" ", "")
    slipped = text[:at] + letter + text[at + 1 :]
    if slipped != text:
        with pytest.raises(MeshdError):
            recovery_seed(slipped)


@given(st.text(max_size=80))
def test_any_text_is_words_or_an_error_for_people(text: str):
    with pytest.raises(MeshdError):
        recovery_seed(text)


def test_a_new_key_fits_its_seed():
    seed, public_key = new_recovery(random.Random(1))
    assert Identity.from_seed(seed).public_key == public_key
