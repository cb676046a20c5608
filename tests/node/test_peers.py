"""Which of several links to a device is in use, and what is counted of it."""

from meshd.ids import Epoch, NodeId
from meshd.links.events import LinkDown, LinkUp
from meshd.node.effects import CloseLink
from meshd.node.peers import Peers
from meshd.node.turn import Turn
from meshd.transport.base import Address

ME, OTHER = NodeId(b"\1" * 16), NodeId(b"\2" * 16)


def up(number: int, transport: str) -> LinkUp:
    return LinkUp(number, OTHER, transport, Address(transport, "10.0.0.2", 7843), True, Epoch(1, bytes(8)), None)


def test_changes_of_transport_are_counted_made_before_the_break_or_after_it() -> None:
    peers, turn = Peers(ME), Turn(0.0)
    peer = peers.peer(OTHER)
    peers.up(turn, up(1, "websocket"))
    assert (peer.upgrades, peer.downgrades) == (0, 0)
    peers.up(turn, up(2, "quic"))
    assert [effect.link for effect in turn.effects if isinstance(effect, CloseLink)] == [1]
    peers.down(turn, LinkDown(1, OTHER, "closed", "surplus"))
    assert (peer.upgrades, peer.downgrades) == (1, 0)
    peers.down(turn, LinkDown(2, OTHER, "P_TIMEOUT", "silent"))
    peers.up(turn, up(3, "quic"))
    assert (peer.upgrades, peer.downgrades) == (1, 0)
    peers.down(turn, LinkDown(3, OTHER, "lost", "broken"))
    peers.up(turn, up(4, "websocket"))
    assert (peer.upgrades, peer.downgrades) == (1, 1)


def test_a_second_link_of_a_worse_transport_counts_for_nothing() -> None:
    peers, turn = Peers(ME), Turn(0.0)
    peers.up(turn, up(1, "quic"))
    peers.up(turn, up(2, "websocket"))
    peers.down(turn, LinkDown(2, OTHER, "closed", "surplus"))
    assert (peers.peer(OTHER).upgrades, peers.peer(OTHER).downgrades) == (0, 0)
