"""What neighbours tell of their meetings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.errors import RemoteProtocolError
from meshd.ids import NodeId
from meshd.wire import codec
from meshd.wire.encounters import MAX_TOLD, Encounters, decode_encounters, encode_encounters

NODES = st.binary(min_size=16, max_size=16).map(NodeId)


@given(st.booleans(), st.dictionaries(NODES, st.floats(0, 1), max_size=20))
def test_it_comes_back(carries: bool, met: dict[NodeId, float]) -> None:
    told = decode_encounters(encode_encounters(Encounters(carries, met)))
    assert told.carries is carries
    assert told.met == pytest.approx(met, abs=1e-5)


def test_of_many_the_most_likely_are_told_and_they_fit_into_a_frame() -> None:
    met = {NodeId(number.to_bytes(16, "big")): number / 2000 for number in range(MAX_TOLD + 100)}
    body = encode_encounters(Encounters(carries=True, met=met))
    assert len(body) <= 32_768
    assert min(decode_encounters(body).met.values()) == pytest.approx(100 / 2000, abs=1e-4)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [True],
        [1, []],
        [True, [[bytes(16), 65_536]]],
        [True, [[bytes(16), -1]]],
        [True, [[bytes(16), 0.5]]],
        [True, [[bytes(15), 1]]],
        [True, [[bytes(16), 1]] * (MAX_TOLD + 1)],
        [True, [], 1],
    ],
)
def test_nothing_else_is_taken(value: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_encounters(codec.encode(value))
