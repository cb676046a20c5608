"""``receive``: print messages as they come, acknowledging each only after it was printed."""

import base64
import time

import click

from meshd.cli import screen
from meshd.cli.session import Command, Session, pass_session
from meshd.cli.units import age
from meshd.cli.units import count as counted
from meshd.client.blocking import Delivery, Subscription
from meshd.errors import MeshdError

QUIET_S = 0.3
"""A mailbox that hands out nothing for this long is taken for empty."""

_OLD_S = 60.0
"""From this age on, text output tells how old a message is."""


@click.command(cls=Command)
@click.argument("service", default="default")
@click.option("--count", type=click.IntRange(1, 1_000_000), help="Wait for this many messages, then end.")
@click.option(
    "--consumer",
    default="default",
    show_default=True,
    help="Whose place in the mailbox to read from and move on. One reader at a time.",
)
@click.option("--follow", is_flag=True, help="Wait for more for ever.")
@pass_session
def receive(session: Session, service: str, count: int | None, consumer: str, follow: bool) -> None:
    """Print the messages that came for a SERVICE.

    SERVICE is `default` unless given. Prints what is waiting, and ends when nothing more comes for
    0.3 s, with exit code 0 even if there was nothing. With --count, waits for that many; with
    --follow, never ends. --timeout limits it all: when it passes first, the exit code is 4.

    Each message is acknowledged after it was printed, and then never shown to this consumer again.
    Without --json a message that is not text is shown by its size only, and stays in the mailbox.
    """
    if count is not None and follow:
        raise MeshdError("E_USAGE", "--count and --follow exclude each other.")
    deadline = None if session.timeout is None else time.monotonic() + session.timeout
    quiet_s = QUIET_S if count is None and not follow else None
    shown = 0
    with session.client() as client, client.subscribe(service, consumer, credit=count) as subscription:
        while shown != count:
            delivery = _next(subscription, deadline, quiet_s)
            if delivery is None and quiet_s is not None and not _passed(deadline):
                break
            if delivery is None:
                wanted = f" of {count}" if count else ""
                received = f"{shown}{wanted} received" if shown else "Nothing received"
                raise MeshdError("E_TIMEOUT", f"{received} within {session.timeout:g} s.")
            is_whole = _show(session, service, delivery)
            shown += 1
            if is_whole:
                subscription.ack(delivery)
            if delivery.index + 1 == delivery.batch.count:  # one round trip and one commit a batch, not a message
                subscription.flush()
    if not shown and not session.as_json and screen.on_terminal():
        screen.hint(f"Nothing is waiting in {service}. To wait for messages: meshctl receive {service} --follow")


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _next(subscription: Subscription, deadline: float | None, quiet_s: float | None) -> Delivery[Subscription] | None:
    """The next message, or None when there is none before the deadline or for the quiet time."""
    if _passed(deadline):
        return None
    left_s = None if deadline is None else deadline - time.monotonic()
    waits = [wait for wait in (left_s, quiet_s) if wait is not None]
    try:
        return subscription.next(min(waits, default=None))
    except MeshdError as error:
        if error.code != "E_TIMEOUT" or not waits:
            raise
        return None


def _show(session: Session, service: str, delivery: Delivery[Subscription]) -> bool:
    """Print a message. Returns whether all of it was: its size is not what somebody waits for."""
    if session.as_json:
        screen.document(_document(service, delivery))
        return True
    if delivery.missing is not None:
        some = "some mail" if delivery.missing.bundles is None else counted(delivery.missing.bundles, "bundle")
        screen.hint(f"({some} from {delivery.source_name} will not come: {delivery.missing.reason})")
    notes = [f"{age(delivery.age_s)} old"] if delivery.age_s >= _OLD_S else []
    notes += [note for note, is_so in (("late", delivery.late), ("again", delivery.redelivered)) if is_so]
    label = screen.paint(screen.printable(delivery.source_name), bold=True)
    aside = screen.paint(f" ({', '.join(notes)})", dim=True) if notes else ""
    text = _text(delivery.payload)
    kept = f"<{counted(len(delivery.payload), 'byte')}, not text; kept for --json>"
    screen.line(f"{label}{aside}: {kept if text is None else text}")
    return text is not None


def _text(payload: bytes) -> str | None:
    try:
        # Indented, so that no line of a message looks like a message of another device.
        return screen.printable(payload.decode()).removesuffix("\n").replace("\n", "\n  ")
    except UnicodeDecodeError:
        return None


def _document(service: str, delivery: Delivery[Subscription]) -> dict[str, object]:
    document: dict[str, object] = {
        "id": delivery.id,
        "source": delivery.source,
        "source_name": delivery.source_name,
        "service": service,
        "sequence": delivery.sequence,
        "priority": delivery.priority.name.lower(),
        "age_s": delivery.age_s,
    }
    try:
        document["payload"] = delivery.payload.decode()
    except UnicodeDecodeError:
        document["payload_b64"] = base64.b64encode(delivery.payload).decode()
    missing = delivery.missing
    return document | {
        "headers": delivery.headers,
        "reply_to": delivery.reply_to,
        "redelivered": delivery.redelivered,
        "late": delivery.late,
        "missing": None if missing is None else {"bundles": missing.bundles, "reason": missing.reason},
    }
