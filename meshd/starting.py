"""Parts that the daemon can do without: started with it, and else tried again until they run."""

import random
from collections.abc import Awaitable, Callable, MutableMapping

import trio

from meshd.errors import MeshdError
from meshd.links.backoff import Backoff
from meshd.logs import get_logger
from meshd.node.insight.vitals import Outage

RETRY_SECONDS = (2.0, 60.0)
"""Base and cap of the waits: a port that was taken is free when its holder ends, and nothing tells when."""

log = get_logger("meshd.daemon")


async def start_part(
    nursery: trio.Nursery,
    part: str,
    start: Callable[[], Awaitable[None]],
    outages: MutableMapping[str, Outage],
    rng: random.Random,
) -> None:
    """Start a part; when it can't be, note why in ``outages``, and go on trying in ``nursery`` until it runs.

    Args:
        part: what people call it.
        start: returns when the part runs; raises MeshdError when it doesn't. Anything else ends the daemon.
    """
    if not await _attempt(part, start, outages):
        nursery.start_soon(_keep_trying, part, start, outages, Backoff(*RETRY_SECONDS, rng))


async def _keep_trying(
    part: str, start: Callable[[], Awaitable[None]], outages: MutableMapping[str, Outage], backoff: Backoff
) -> None:
    while True:
        await trio.sleep(backoff.next_wait())
        if await _attempt(part, start, outages):
            return


async def _attempt(part: str, start: Callable[[], Awaitable[None]], outages: MutableMapping[str, Outage]) -> bool:
    try:
        await start()
    except MeshdError as error:
        note_outage(outages, Outage(part=part, code=error.code, reason=error.message.rstrip("."), fix=error.hint))
        return False
    end_outage(outages, part)
    return True


def note_outage(outages: MutableMapping[str, Outage], outage: Outage) -> None:
    """A part doesn't run. Said once, not at every attempt."""
    if outages.get(outage.part) != outage:
        log.warning("part does not run", part=outage.part, code=outage.code, reason=outage.reason, fix=outage.fix)
    outages[outage.part] = outage


def end_outage(outages: MutableMapping[str, Outage], part: str) -> None:
    """A part runs."""
    if outages.pop(part, None) is not None:
        log.info("part runs now", part=part)
