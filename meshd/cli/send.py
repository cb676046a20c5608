"""``send``: hand one message to the daemon, and wait as far as asked."""

import os
import sys
from pathlib import Path

import click

from meshd.api.arguments import MAX_PAYLOAD_BYTES
from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of
from meshd.cli.progress import waiting
from meshd.cli.session import Command, Session, Span, pass_session
from meshd.client.blocking import Client
from meshd.errors import MeshdError

PRIORITIES = ("critical", "high", "normal", "bulk")


@click.command(cls=Command)
@click.argument("dest", metavar="DEST[/SERVICE]")
@click.argument("text", required=False, metavar="[TEXT|-]")
@click.option("--file", "path", type=click.Path(path_type=Path), help="Send what is in this file.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option("--lifetime", type=Span(), help="Give up after this long, e.g. 90s, 2h, 7d.  [default: the daemon's, 7d]")
@click.option("--ephemeral", is_flag=True, help="Now or never: not kept on disk, answered `sent`.")
@click.option(
    "--wait",
    type=click.Choice(["accepted", "delivered", "consumed"]),
    help="Return when it is safe on this disk, in the mailbox there, or read by every consumer there.  "
    "[default: accepted]",
)
@click.option("--key", help="Idempotency key: repeating a send with the same key sends nothing twice.")
@pass_session
def send(
    session: Session,
    dest: str,
    text: str | None,
    path: Path | None,
    priority: str,
    lifetime: int | None,
    ephemeral: bool,
    wait: str | None,
    key: str | None,
) -> None:
    """Send a message to a service of a device.

    The message is TEXT, a file, or standard input (-); up to 1 MiB. DEST is a name, an id, or the
    unambiguous start of an id. SERVICE is `default` unless given.

    The answer `accepted` means: on disk here, and it will get there. --wait delivered and --wait
    consumed have no time limit of their own; with --timeout, exit code 4 when it passes. The
    message stays accepted then.
    """
    if ephemeral and wait:
        raise MeshdError("E_USAGE", "An ephemeral message is only ever sent: nothing to --wait for.")
    device, slash, service = dest.partition("/")
    if not device or (slash and not service):
        raise MeshdError(
            "E_USAGE", f"{dest!r} is not DEST or DEST/SERVICE.", "For example: kitchen-pi, kitchen-pi/alarms"
        )
    request: dict[str, object] = {
        "destination": device,
        "service": service or "default",
        "messages": [_body(text, path)],
        "priority": priority,
        "lifetime_ms": lifetime,
        "ephemeral": ephemeral,
        "wait": "sent" if ephemeral else "accepted",
        "key": key,
    }
    message_id, state = _send(session, request, wait)
    _show(session, message_id, state)


def _send(session: Session, request: dict[str, object], wait: str | None) -> tuple[str, str]:
    """Send, then wait in a second request, so that the id is known whatever happens to the wait."""
    with session.client() as client:
        fields = fields_of(_accepted(client, request))
        message_id, state = _only_id(fields), fields.text("state")
        if wait in (None, "accepted"):
            return message_id, state
        client.timeout = session.timeout  # None: as long as it takes
        try:
            with waiting("await"):
                answer = client.call("await", {"id": message_id, "state": wait})
        except KeyboardInterrupt:
            click.echo(f"Message {message_id} was accepted, and will be delivered. {_follow(message_id)}", err=True)
            raise
        except MeshdError as error:
            raise _cut_off(message_id, wait, session.timeout, error) from error
        return message_id, fields_of(answer).text("state")


def _cut_off(message_id: str, wait: str | None, timeout: float | None, error: MeshdError) -> MeshdError:
    """What to tell when the wait for an accepted message failed: nobody is to send it twice for that."""
    if error.code == "E_TIMEOUT" and timeout is not None:
        return MeshdError(
            "E_TIMEOUT",
            f"Message {message_id} was accepted, but not {wait} within {timeout:g} s.",
            f"It is kept and will be delivered. {_follow(message_id)}",
        )
    if error.code in ("E_NO_DAEMON", "E_STOPPING"):
        return MeshdError(
            error.code,
            f"Message {message_id} was accepted, but meshd ended before it was {wait}.",
            f"It is kept. Don't send it again: start meshd. {_follow(message_id)}",
        )
    return MeshdError(error.code, f"Message {message_id}: {error.message}", error.hint)


def _follow(message_id: str) -> str:
    return f"Follow it: meshctl trace {message_id}"


def _accepted(client: Client, request: dict[str, object]) -> object:
    try:
        answer: object = client.call("send", request)
    except MeshdError as error:
        if error.code != "E_TIMEOUT":
            raise
        raise MeshdError(
            "E_TIMEOUT",
            "meshd did not answer in time: whether the message was accepted is unknown.",
            "Send it again with the same --key: that is safe. Without a key it may then arrive twice.",
        ) from error
    return answer


def _only_id(fields: Fields) -> str:
    ids = fields.texts("ids")
    return ids[0] if ids else fields.text("id")


def _show(session: Session, message_id: str, state: str) -> None:
    if session.as_json:
        screen.document({"id": message_id, "state": state})
        return
    screen.line(f"{screen.paint(screen.printable(state), 'green')}  {screen.printable(message_id)}")
    if state == "accepted" and screen.on_terminal():
        screen.hint(_follow(message_id))


def _body(text: str | None, path: Path | None) -> bytes:
    if (text is None) == (path is None):
        raise MeshdError("E_USAGE", "Give either a text, - for standard input, or --file FILE.")
    if path is not None:
        body = _file(path)
    elif text == "-":
        body = _standard_input()
    else:
        body = os.fsencode(text or "")
    if len(body) > MAX_PAYLOAD_BYTES:
        raise MeshdError("E_TOO_LARGE", "The message body is over 1 MiB.")
    return body


def _standard_input() -> bytes:
    try:
        return sys.stdin.buffer.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise MeshdError("E_USAGE", f"Can't read standard input: {error.strerror}.") from error


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PAYLOAD_BYTES + 1)
    except OSError as error:
        raise MeshdError("E_USAGE", f"Can't read {path}: {error.strerror}.", "Check the path and its mode.") from error
