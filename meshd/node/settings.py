"""What the configuration says, as far as the node is concerned. Pure."""

import attrs

from meshd.node.carriers import CARRY_BYTES
from meshd.node.insight.watch import Thresholds


@attrs.frozen(kw_only=True)
class Settings:
    """See the module.

    Args:
        neighbour_bytes: for what one neighbour hands over for others; None for a quarter of the quota.
        relay_urls: relays to be used before others, in this order.
        carry_bytes: copies of others' mail are taken along while no more than this waits here for others; None: never.
    """

    name: str
    quota_bytes: int
    default_lifetime_ms: int
    max_lifetime_ms: int
    max_links: int = 16
    neighbour_bytes: int | None = None
    relay_urls: tuple[str, ...] = ()
    carry_bytes: int | None = CARRY_BYTES
    alerts: Thresholds = attrs.field(factory=Thresholds)
