"""What logs can be told to show: levels, and the components that have one of their own."""

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_COMPONENTS = (
    *("alerts", "api", "daemon", "delivery", "discovery", "http"),
    *("lib", "links", "node", "relay", "store", "transport"),
)
"""What the names of loggers begin with. ``delivery`` tells the life of each message, ``lib`` is other libraries."""


def is_log_component(name: str) -> bool:
    """Whether it is one of LOG_COMPONENTS, or a part of one, such as ``discovery.mdns``."""
    return name.removeprefix("meshd.").partition(".")[0] in LOG_COMPONENTS
