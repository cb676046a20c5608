"""Which neighbours' links a router could do without. All links cost 10."""

from tests.routing.lone import Lone, entry
from tests.routing.simulation import node_id


def mesh() -> Lone:
    """``me`` is linked with a, b and c, and each has told of itself."""
    it = Lone("a", "b", "c")
    for name in "abc":
        it.hear(name, entry(name, 0))
    return it


def test_the_only_neighbour_is_never_spared() -> None:
    it = Lone("a")
    it.hear("a", entry("a", 0), entry("d", 10))
    assert not it.router.can_spare(node_id("a"))


def test_a_neighbour_that_another_one_is_linked_with_can_be_spared_though_its_route_is_not_feasible() -> None:
    it = mesh()
    assert not it.router.can_spare(node_id("a"))
    it.hear("b", entry("a", 10))
    assert it.router.can_spare(node_id("a"))
    assert not it.router.can_spare(node_id("b"))


def test_an_offer_that_may_lead_back_here_does_not_count() -> None:
    it = mesh()
    it.hear("b", entry("a", 20))  # as far as b would be by way of me
    assert not it.router.can_spare(node_id("a"))


def test_a_neighbour_is_kept_for_whom_it_alone_leads_to() -> None:
    it = mesh()
    it.hear("a", entry("d", 10))
    it.hear("b", entry("a", 10))
    assert not it.router.can_spare(node_id("a"))
    it.hear("c", entry("d", 20))
    assert it.router.can_spare(node_id("a"))


def test_a_retracted_offer_is_none() -> None:
    it = mesh()
    it.hear("b", entry("a", 10))
    it.retract("b", "a")
    assert not it.router.can_spare(node_id("a"))
