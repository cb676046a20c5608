"""Counts of what happened since the start: plain integers, raised where it happens, read by ``measures``."""

from typing import TypeAlias

import attrs

from meshd.errors import CATALOGUE
from meshd.ids import Priority

Counts: TypeAlias = dict[str, int]
"""How often, by a word from a bounded set."""

OTHER = "other"
"""Stands for words that are not ours: a peer chose them, and may choose new ones for ever."""

REASONS = frozenset(
    (
        "already-held",
        "busy",
        "expired",
        "hop-limit",
        "lifetime",
        "loop",
        "malformed",
        "passed-on",
        "removed",
        "not-a-carrier",
        "not-authentic",
        "receipted",
        "stale-epoch",
        "too-many-services",
        "unknown-destination",
        "unknown-source",
        "unread",
        "closed",
        "lost",
    )
)
"""Why bundles and links end, in words of this program."""


def _per_priority() -> list[int]:
    return [0] * len(Priority)


@attrs.define(eq=False, kw_only=True)
class Tally:
    """One per node; reached through each turn. Lists are indexed by priority.

    Of this device's own mail ``accepted``, ``delivered``, ``consumed``, ``expired``, ``refused`` and ``turned_down``
    (never accepted, by error code) count messages; ``arrived``, ``read`` and ``unread`` do so for mail to it.
    ``sent`` and ``received`` count bundles by transport, whosever they are.
    """

    accepted: list[int] = attrs.field(factory=_per_priority)
    delivered: list[int] = attrs.field(factory=_per_priority)
    consumed: list[int] = attrs.field(factory=_per_priority)
    expired: Counts = attrs.field(factory=dict)
    refused: Counts = attrs.field(factory=dict)
    turned_down: Counts = attrs.field(factory=dict)
    content_bytes: int = 0
    packed_bytes: int = 0
    ephemeral_sent: int = 0

    arrived: list[int] = attrs.field(factory=_per_priority)
    read: list[int] = attrs.field(factory=_per_priority)
    unread: Counts = attrs.field(factory=dict)
    ephemeral_arrived: int = 0
    duplicates: int = 0
    unauthentic: int = 0

    sent: Counts = attrs.field(factory=dict)
    sent_bytes: Counts = attrs.field(factory=dict)
    received: Counts = attrs.field(factory=dict)
    received_bytes: Counts = attrs.field(factory=dict)
    resent: int = 0
    detoured: int = 0
    turned_away: Counts = attrs.field(factory=dict)

    taken_over: int = 0
    custody_ended: Counts = attrs.field(factory=dict)
    hop_duplicates: int = 0
    carried: int = 0
    copies_given: int = 0

    links_up: Counts = attrs.field(factory=dict)
    links_down: Counts = attrs.field(factory=dict)
    dials: Counts = attrs.field(factory=dict)
    strangers: Counts = attrs.field(factory=dict)
    upgrades: int = 0
    downgrades: int = 0
    route_changes: int = 0
    protocol_errors: Counts = attrs.field(factory=dict)

    requests: Counts = attrs.field(factory=dict)
    request_errors: Counts = attrs.field(factory=dict)
    commits_failed: int = 0


def count(counts: Counts, word: str, by: int = 1) -> None:
    """Count under a word that is ours and from a bounded set."""
    counts[word] = counts.get(word, 0) + by


def count_reason(counts: Counts, word: str, by: int = 1) -> None:
    """Count under a word that may come from a peer: what is not known is counted as ``other``."""
    count(counts, word if word in CATALOGUE or word in REASONS else OTHER, by)
