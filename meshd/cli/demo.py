"""``demo``: a mesh of three real daemons on this machine, each step shown and checked."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import attrs
import click

from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of, rows_of
from meshd.cli.processes import Daemon, stop_on_sigterm
from meshd.cli.session import Command, Session, pass_session
from meshd.cli.units import count
from meshd.cli.views import reason_in_words
from meshd.client.blocking import Client
from meshd.errors import MeshdError

NAMES = ("kitchen", "garage", "attic")
STEP_TIMEOUT_S = 20.0
_LOOK_INTERVAL_S = 0.05

_FIRST = b"Lunch is ready."
_SECOND = b"The parcel for you is by the door."


@attrs.frozen
class Mesh:
    """The three daemons of the demo."""

    kitchen: Daemon
    garage: Daemon
    attic: Daemon

    def all(self) -> tuple[Daemon, Daemon, Daemon]:
        """In the order they are started."""
        return self.kitchen, self.garage, self.attic


@attrs.define(eq=False)
class Stage:
    """Shows the steps of the demo as they happen, with the time each took."""

    as_json: bool
    number: int = 0

    def step(self, title: str, act: Callable[[], list[str]]) -> None:
        """Do one step and show what came of it. What it raises ends the demo."""
        self.number += 1
        began = time.monotonic()
        details = act()
        seconds = round(time.monotonic() - began, 3)
        if self.as_json:
            screen.document({"step": self.number, "title": title, "details": details, "seconds": seconds})
            return
        screen.line(f"{self.number:>2}  {screen.paint(title.ljust(62), bold=True)} {seconds:6.2f} s")
        for detail in details:
            screen.line(f"    {screen.printable(detail)}")


@click.command(cls=Command)
@click.option("--keep", is_flag=True, help="Keep the daemons' directory (state, logs) and say where it is.")
@pass_session
def demo(session: Session, keep: bool) -> int:
    """Show a mesh of three daemons on this machine.

    Real ones, step by step. They use a temporary directory, loopback and free ports only, and are
    gone afterwards. It takes some seconds. Exit code 0 means that every step truly happened.
    """
    stop_on_sigterm()
    directory = Path(tempfile.mkdtemp(prefix="meshd-demo-"))
    try:
        return perform(Mesh(*(Daemon(name, directory / name) for name in NAMES)), as_json=session.as_json)
    finally:
        if keep:
            click.echo(f"Kept: {directory}", err=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def perform(mesh: Mesh, *, as_json: bool) -> int:
    """Show all steps with these daemons, and end them in any case. Returns the exit code."""
    stage = Stage(as_json)
    began = time.monotonic()
    try:
        if not as_json:
            screen.line(f"A mesh of three devices on this machine: {', '.join(NAMES)}.\n")
        for title, act in _steps(mesh):
            stage.step(title, act)
        for daemon in mesh.all():
            daemon.stop()
    except MeshdError as error:
        _show_failure(mesh, stage.number, error, as_json=as_json)
        return 1
    finally:
        with ExitStack() as clean_up:  # each of them, whatever happens to the others
            for daemon in mesh.all():
                clean_up.callback(daemon.abandon)
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        screen.document({"ok": True, "steps": stage.number, "seconds": seconds})
    else:
        screen.line(f"\nAll of it worked, in {seconds:.1f} s. The three daemons are stopped.")
        screen.hint("On your own devices: meshctl init NAME, meshctl invite, meshctl join CODE")
    return 0


def _show_failure(mesh: Mesh, step: int, error: MeshdError, *, as_json: bool) -> None:
    logs = {daemon.name: daemon.log_tail() for daemon in mesh.all()}
    if as_json:
        screen.document({"ok": False, "step": step, "logs": logs})
    screen.failure(error.code, f"Step {step} failed: {error.message}", error.hint, as_json=as_json)
    if as_json:
        return
    for name, lines in logs.items():
        click.echo(f"\nThe end of {name}'s log:" if lines else f"\n{name} wrote no log.", err=True)
        for text in lines:
            click.echo(f"  {screen.printable(text)}", err=True)


def _steps(mesh: Mesh) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    kitchen, garage, attic = mesh.all()
    yield "Three daemons start, each with its own key and disk", lambda: _start(mesh)
    yield "kitchen founds a mesh", lambda: _found(kitchen)
    yield "garage joins with a single-use code", lambda: _pair(kitchen, garage)
    yield "attic joins with another code", lambda: _pair(kitchen, attic)
    # An invitation carries addresses, and links are remembered: new ports make all of that useless.
    yield "All three restart on new ports: only mDNS can find them now", lambda: _restart(mesh)
    yield "Everyone is linked with everyone", lambda: _linked(mesh)
    yield "attic sends to garage", lambda: _send_to_running(attic, garage)
    yield "garage is switched off", lambda: _switch_off(garage)
    sent: list[str] = []
    yield "attic sends to it all the same", lambda: _send_to_stopped(attic, garage, sent)
    yield "garage is switched on: the message arrives", lambda: _arrives(attic, garage, sent)
    yield "attic tells the life of that message", lambda: _trace(attic, sent)


def _start(mesh: Mesh) -> list[str]:
    for daemon in mesh.all():
        daemon.start()
    versions = {_ask(daemon, "status").text("version") for daemon in mesh.all()}
    return [f"meshd {', '.join(sorted(versions))}"]


def _found(kitchen: Daemon) -> list[str]:
    mesh = _ask(kitchen, "init", {"name": "home"}).inner("mesh")
    return [f"{mesh.text('name')}, id {mesh.text('id')}"]


def _pair(admin: Daemon, newcomer: Daemon) -> list[str]:
    code = _ask(admin, "invite", {"expires_s": 60, "role": "member"}).text("code")
    device = _ask(newcomer, "join", {"code": code, "name": newcomer.name}).inner("device")
    _expect(device.text("name") == newcomer.name, f"it joined under the name {device.text('name')}")
    return [f"{device.text('name')}, id {device.text('id')}"]


def _restart(mesh: Mesh) -> list[str]:
    before = [_addresses(daemon) for daemon in mesh.all()]
    for daemon in mesh.all():
        daemon.stop()
    for daemon in mesh.all():
        daemon.start()
    after = [_addresses(daemon) for daemon in mesh.all()]
    _expect(all(not old & new for old, new in zip(before, after, strict=True)), "a daemon has its old port again")
    return [f"{daemon.name}: {', '.join(sorted(new))}" for daemon, new in zip(mesh.all(), after, strict=True)]


def _addresses(daemon: Daemon) -> set[str]:
    listen = _ask(daemon, "status").inner("listen")
    return {*listen.texts("quic"), *listen.texts("websocket")}


def _linked(mesh: Mesh) -> list[str]:
    """Look until every daemon has both others up; the local API has no event to wait for."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    details = []
    for daemon in mesh.all():
        with _client(daemon) as client:
            while True:
                rows = rows_of(client.call("peers"))
                up = [row for row in rows if row.text("state") == "up"]
                if len(up) == len(NAMES) - 1:
                    break
                states = ", ".join(f"{row.text('name')} {row.text('state')}" for row in rows) or "no peers"
                _expect(time.monotonic() < deadline, f"{daemon.name} still sees {states} after {STEP_TIMEOUT_S:g} s")
                time.sleep(_LOOK_INTERVAL_S)
        links = (f"{row.text('name')} over {row.text_or('transport', '?')}" for row in up)
        details.append(f"{daemon.name}: {', '.join(sorted(links))}")
    return details


def _send_to_running(source: Daemon, destination: Daemon) -> list[str]:
    message_id = _send(source, destination, _FIRST, wait="delivered")
    return [_read(destination, source, _FIRST), f"id {message_id}"]


def _switch_off(daemon: Daemon) -> list[str]:
    daemon.stop()
    return []


def _send_to_stopped(source: Daemon, destination: Daemon, sent: list[str]) -> list[str]:
    sent.append(_send(source, destination, _SECOND, wait="accepted"))
    with _client(source) as client:
        waiting = [row for row in rows_of(client.call("queue")) if row.text_or("name") == destination.name]
    _expect(bool(waiting), f"nothing waits for {destination.name} in {source.name}'s queue")
    messages = sum(row.integer("messages") for row in waiting)
    reason = reason_in_words(waiting[0].text_or("reason", "unknown"))
    return [f"accepted: safe on attic's disk. Its queue: {count(messages, 'message')} for garage ({reason})"]


def _arrives(source: Daemon, destination: Daemon, sent: list[str]) -> list[str]:
    destination.start()
    told = _read(destination, source, _SECOND)
    with _client(source) as client:
        state = fields_of(client.call("await", {"id": sent[0], "state": "consumed"})).text("state")
    _expect(state == "consumed", f"{source.name} says that the message is {state}")
    return [told, f"{source.name} knows: {state}"]


def _trace(source: Daemon, sent: list[str]) -> list[str]:
    events = _ask(source, "trace", {"id": sent[0]}).rows("events")
    _expect(bool(events), "the message has no history")
    return [" > ".join(event.text("event") for event in events)]


def _send(source: Daemon, destination: Daemon, payload: bytes, *, wait: str) -> str:
    request = {"destination": destination.name, "messages": [payload], "wait": wait}
    answer = _ask(source, "send", request)
    _expect(answer.text("state") in (wait, "consumed"), f"the message is {answer.text('state')}, not {wait}")
    return answer.texts("ids")[0]


def _read(daemon: Daemon, source: Daemon, payload: bytes) -> str:
    with _client(daemon) as client, client.subscribe() as subscription:
        delivery = subscription.next(STEP_TIMEOUT_S)
        subscription.ack(delivery)
    right = delivery.payload == payload and delivery.source_name == source.name
    _expect(right, f"{daemon.name} got something else: {delivery.payload!r} from {delivery.source_name}")
    return f'{daemon.name} reads from {delivery.source_name}: "{delivery.payload.decode()}"'


def _client(daemon: Daemon) -> Client:
    return Client(str(daemon.socket_path), STEP_TIMEOUT_S)


def _ask(daemon: Daemon, op: str, args: Mapping[str, object] | None = None) -> Fields:
    with _client(daemon) as client:
        return fields_of(client.call(op, dict(args or {})))


def _expect(true: bool, otherwise: str) -> None:
    if not true:
        raise MeshdError("E_INTERNAL", f"{otherwise}.")
