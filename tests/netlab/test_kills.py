"""A chain of four whose daemons die at random while messages cross it: none lost, none twice, all in order.

a --- b --- c --- d
"""

import random
from collections.abc import Callable

import pytest

from .lab import Lab
from .scenes import at_rest
from .test_core import Kills, deliver_through_kills
from .test_mesh import line, routed

pytestmark = pytest.mark.netlab

Make = Callable[..., Lab]


def cross(lab: Lab, *, messages: int, kills: int, seed: int) -> None:
    a, b, c, d = line(lab)
    routed(a, d, b)
    routed(d, a, c)
    rng = random.Random(seed)
    moments = sorted(rng.sample(range(messages // 100, messages), kills))
    victims: Kills = [(moment, (rng.choice((a, b, c, d)),)) for moment in moments]
    deliver_through_kills(a, d, messages, victims)
    at_rest(a, b, c, d)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_twenty_kills_during_two_thousand_messages(lab: Make) -> None:
    cross(lab(4), messages=2000, kills=20, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_hundred_kills_during_twenty_thousand_messages(lab: Make) -> None:
    cross(lab(4), messages=20_000, kills=200, seed=2)
