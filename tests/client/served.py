"""A daemon in a thread of its own, for clients that block or run on another event loop."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from tests.api.node import Node, daemon

T = TypeVar("T")


@attrs.define(eq=False)
class Served:
    """The running daemon. ``stop`` ends it, as a crash would; leaving the block does too."""

    path: str = ""
    node: Node = attrs.field(default=None)
    token: trio.lowlevel.TrioToken = attrs.field(default=None)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    thread: threading.Thread = attrs.field(default=None)

    def look(self, function: Callable[[Node], T]) -> T:
        """Run ``function(node)`` in the daemon's thread."""
        return trio.from_thread.run_sync(function, self.node, trio_token=self.token)

    def until(self, condition: Callable[[Node], object]) -> None:
        """Wait until the node is as described."""
        trio.from_thread.run(self.node.until, condition, trio_token=self.token)

    def stop(self) -> None:
        """End the daemon, and wait for its end."""
        if self.thread.is_alive():
            self.token.run_sync_soon(self.scope.cancel)
            self.thread.join(10)
            assert not self.thread.is_alive()


@contextlib.contextmanager
def served(directory: Path) -> Iterator[Served]:
    """A daemon whose socket is in ``directory``."""
    running = Served()
    ready = threading.Event()

    async def main() -> None:
        with running.scope:
            async with daemon(directory) as (node, _, path):
                running.path, running.node, running.token = path, node, trio.lowlevel.current_trio_token()
                ready.set()
                await trio.sleep_forever()

    running.thread = threading.Thread(target=trio.run, args=(main,))
    running.thread.start()
    assert ready.wait(10)
    try:
        yield running
    finally:
        running.stop()
