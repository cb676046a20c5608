"""What the links of one daemon share."""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeAlias

import attrs

from meshd.ids import Epoch, NodeId
from meshd.links.events import LinkEvent
from meshd.links.liveness import PING_SECONDS
from meshd.trust.identity import Identity
from meshd.trust.roster import Roster

Post: TypeAlias = Callable[[LinkEvent], Awaitable[None]]
"""How events reach the node: waits while its inbox is full."""


@attrs.frozen(kw_only=True)
class Credentials:
    """What this device proves itself with, and judges others by, at one moment.

    Args:
        epoch: of this life of the daemon.
        seen: the highest epoch known of each peer.
    """

    identity: Identity
    roster: Roster
    epoch: Epoch
    seen: Mapping[NodeId, Epoch]


@attrs.frozen(kw_only=True)
class LinkContext:
    """What dialers and listeners need from their daemon.

    Args:
        credentials: the current ones; asked at each handshake.
        numbers: where link numbers come from: one ``itertools.count`` for dialed and accepted links.
        post: where events go.
        clock: monotonic seconds.
        ping_interval: seconds between pings on an idle link, asked each time; more on battery.
    """

    credentials: Callable[[], Credentials]
    numbers: Iterator[int]
    post: Post
    clock: Callable[[], float]
    rng: random.Random
    ping_interval: Callable[[], float] = lambda: PING_SECONDS
