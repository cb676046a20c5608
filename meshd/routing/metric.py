"""Metrics: link costs, their sums, and which differences matter (RFC 8966 sections 3.5.2, 3.6 and 3.7.2)."""

from meshd.wire.routing import METRIC_INFINITY

INFINITY = METRIC_INFINITY
COST_MIN = 1
"""A link without cost would break the strict monotonicity that loop freedom rests on (section 3.5.2)."""
COST_MAX = INFINITY - 1

SWITCH_RATIO = 0.8
"""A route replaces a working one only when its metric is below this share of it."""
SWITCH_SECONDS = 5.0
"""... and has been for so long."""

_COST_BAND = 0.2
_SIGNIFICANT = 0.125
_SIGNIFICANT_BITS = 4


def quantised(cost: int) -> int:
    """``cost`` rounded up to 4 significant bits (steps of at most an eighth), within COST_MIN..COST_MAX."""
    shift = max(0, cost.bit_length() - _SIGNIFICANT_BITS)
    return max(COST_MIN, min(-(-cost >> shift) << shift, COST_MAX))


def damped(used: int, measured: int) -> int:
    """The link cost to use from now on: ``used``, until the measured one is a fifth away from it."""
    return used if abs(measured - used) <= used * _COST_BAND else quantised(measured)


def extended(metric: int, cost: int) -> int:
    """The metric over a link of this cost. Strictly greater than ``metric``, or INFINITY."""
    total = metric + cost
    return min(INFINITY, total)


def is_much_better(metric: int, current: int) -> bool:
    """Whether ``metric`` is worth leaving a working route for."""
    return metric < SWITCH_RATIO * current


def is_news(told: int, metric: int) -> bool:
    """Whether neighbours should hear of this change before the next periodic update (section 3.7.2)."""
    return (told == INFINITY) != (metric == INFINITY) or abs(metric - told) > told * _SIGNIFICANT
