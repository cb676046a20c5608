"""meshd: durable, sealed, exactly-once messages between the devices of a local network."""

__version__ = "0.1.0"
