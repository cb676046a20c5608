"""The client library for apps: ``meshd.client.connect``, on anyio; ``meshd.client.blocking`` without.

async with meshd.client.connect() as client:
    await client.send("kitchen-pi", b"hello")
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshd.client.asynchronous import Client, connect
    from meshd.client.delivery import Batch, Missing
    from meshd.client.sending import Publisher
    from meshd.client.session import SendResult
    from meshd.client.subscription import Delivery, Subscription

__all__ = ["Batch", "Client", "Delivery", "Missing", "Publisher", "SendResult", "Subscription", "connect"]

_HOMES = {
    "Batch": "delivery",
    "Client": "asynchronous",
    "Delivery": "subscription",
    "Missing": "delivery",
    "Publisher": "sending",
    "SendResult": "session",
    "Subscription": "subscription",
    "connect": "asynchronous",
}


def __getattr__(name: str) -> object:
    # Importing meshd.client.blocking passes through here: it must not pay for anyio (30 ms).
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
