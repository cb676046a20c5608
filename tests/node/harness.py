"""Nodes without a daemon around them: a real store in memory, links that deliver at once, a clock that is set.

What is under way can be lost or held back, commits can fail, and a device can crash and start again
from its disk. Control frames go through their encoding, so that one that others would refuse shows.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import apsw
import attrs

from meshd.ids import NodeId, Priority, parse_message_id
from meshd.links.events import FramesReceived, LinkDown, LinkUp
from meshd.links.peer import PeerStatistics
from meshd.node.effects import Answer, CloseLink, Commit, Effect, Fail, Load, Log, SendBundle, SendControl
from meshd.node.epochs import next_epoch
from meshd.node.requests import (
    Acknowledge,
    Await,
    Cancel,
    Disconnected,
    Failure,
    Item,
    Query,
    Reply,
    Request,
    Result,
    Submit,
    Subscribe,
)
from meshd.node.settings import Settings
from meshd.node.step import Node
from meshd.store.database import Database
from meshd.store.ops import Committed, PutFact
from meshd.store.reads import Loaded
from meshd.transport.base import Address
from meshd.trust.roster import Roster
from meshd.wire.bundle import Message, decode_messages
from meshd.wire.frames import BundleFrame, Frame, decode_frame, encode_frame
from tests.trust.people import added, device, mesh_of

START = 1_000_000.0
DAY = 86_400.0
Loses = Callable[["Device", "Device", Frame], bool]


class Client:
    """The way back to an app; keeps every reply."""

    def __init__(self) -> None:
        self.replies: dict[int, list[Reply]] = {}

    def reply_nowait(self, request_id: int, reply: Reply) -> None:
        self.replies.setdefault(request_id, []).append(reply)


@attrs.frozen
class Received:
    """One message as a reader gets it."""

    payload: bytes
    source: NodeId
    priority: Priority
    offset: int
    redelivered: bool
    late: bool
    missing: dict[str, Any] | None


class Reader:
    """A subscription, and what came over it."""

    def __init__(self, owner: "Device", number: int) -> None:
        self._owner = owner
        self._client = owner.client
        self._acks: list[tuple[int, frozenset[bytes]]] = []
        self.number = number

    @property
    def messages(self) -> list[Received]:
        """Everything delivered so far."""
        return [
            Received(message.payload, batch[4], Priority(batch[0]), batch[1] + i, batch[7], batch[8], batch[9])
            for reply in self._client.replies.get(self.number, [])
            if isinstance(reply, Item)
            for batch in reply.value
            for i, message in enumerate(decode_messages(batch[10], batch[2]))
        ]

    @property
    def payloads(self) -> list[bytes]:
        """Their bodies."""
        return [message.payload for message in self.messages]

    def ack(self) -> None:
        """Ack everything delivered so far."""
        up_to: dict[int, int] = {}
        for message in self.messages:
            up_to[message.priority] = max(message.offset, up_to.get(message.priority, 0))
        payloads = frozenset(message.payload for message in self.messages)
        request = self._owner.ask(Acknowledge, subscription=self.number, up_to=up_to, ranges={}, nack={})
        self._acks.append((request, payloads))

    @property
    def maybe_acked(self) -> frozenset[bytes]:
        """The bodies that were acked, whether or not the reader was told how that ended."""
        return frozenset().union(*[payloads for _, payloads in self._acks])

    @property
    def acked(self) -> frozenset[bytes]:
        """The bodies whose acks are durable, as far as the reader was told."""
        told = [payloads for request, payloads in self._acks if self._client.replies.get(request) == [Result({})]]
        return frozenset().union(*told)


class Device:
    """One device: its disk, and its node of now."""

    def __init__(self, world: "World", number: int, roster: Roster | None, quota_bytes: int) -> None:
        self.world = world
        self.identity = device(number)
        self.name = f"d{number}"
        self.quota_bytes = quota_bytes
        self.database = Database.in_memory()
        self.client = Client()
        self.free_bytes = 1 << 40
        self.spare_bytes = 0
        self.dialers: dict[NodeId, PeerStatistics] = {}
        self.fails: Callable[[Commit], bool] = lambda _: False
        self.is_store_held = False
        self._requests = 0
        if roster is not None:
            facts = [PutFact("genesis", b"", roster.genesis)]
            facts += [PutFact("statement", hashlib.sha256(data).digest(), data) for data in roster.all_statements()]
            self.database.apply([(0, facts)], int(START * 1000))
        self.start()

    @property
    def id(self) -> NodeId:
        return self.identity.node_id

    # --- lives

    def start(self) -> None:
        """A new life, from the disk."""
        self.inbox: deque[object] = deque()
        self.store: deque[Commit | Load] = deque()
        self.links: dict[NodeId, int] = {}
        self.logs: list[Log] = []
        self.closed: list[CloseLink] = []
        self.failed: Fail | None = None
        self.other: list[Effect] = []
        snapshot = self.database.snapshot()
        epoch, fact = next_epoch(snapshot, self.world.rng)
        self.database.apply([(0, [fact])], self.world.now_ms)
        settings = Settings(
            name=self.name,
            quota_bytes=self.quota_bytes,
            default_lifetime_ms=7 * 86_400_000,
            max_lifetime_ms=30 * 86_400_000,
            neighbour_bytes=self.world.neighbour_bytes,
        )
        self.node = Node(
            identity=self.identity,
            settings=settings,
            snapshot=snapshot,
            epoch=epoch,
            now=self.world.now,
            rng=self.world.rng,
            dialer=lambda peer: self.dialers.get(peer),
            free_bytes=lambda: self.free_bytes,
            spare_bytes=lambda: self.spare_bytes,
        )
        self._carry_out(self.node.start(self.world.now))

    def crash(self, *, disk: bytes | None = None) -> None:
        """Power cut and new start: what was not committed is gone, all links end. With an older ``disk``, if given."""
        for peer in list(self.links):
            self.world.disconnect(self, self.world.device(peer))
        self.client = Client()
        if disk is not None:
            connection = apsw.Connection(":memory:")
            connection.deserialize("main", disk)
            self.database = Database(connection, None)
        self.start()

    def image(self) -> bytes:
        """A copy of the disk as it is now."""
        return self.database._connection.serialize("main")

    # --- turns

    def turn(self, *, lazy: bool = False) -> bool:
        """Let the store and then the node do what is waiting. Returns whether there was anything."""
        urgent = any(isinstance(request, Load) or request.urgent for request in self.store)
        did = False
        if not self.is_store_held and self.store and (urgent or lazy):
            did = True
            while self.store:
                self.inbox.append(self._answer_of_store(self.store.popleft()))
        if self.inbox:
            did = True
            events, self.inbox = list(self.inbox), deque()
            self._carry_out(self.node.step(events, self.world.now))
        return did

    def step(self) -> None:
        """A turn without events, because of the time."""
        self._carry_out(self.node.step([], self.world.now))

    def _answer_of_store(self, request: Commit | Load) -> object:
        if isinstance(request, Load):
            return Loaded(request.ticket, self.database.read(request.read))
        if self.fails(request):
            return Committed((request.ticket,), "E_FULL", "the disk is full")
        [committed] = self.database.apply([(request.ticket, request.ops)], self.world.now_ms)
        assert committed.error is None, committed
        return committed

    def run_store(self, count: int = 1) -> None:
        """While the store is held: carry out the next requests, and post their answers."""
        for _ in range(count):
            self.inbox.append(self._answer_of_store(self.store.popleft()))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendControl():
                    self.world.carry(self, effect.link, decode_frame(encode_frame(effect.frame)))
                case SendBundle():
                    self.world.carry(self, effect.link, effect.frame)
                case Commit() | Load():
                    self.store.append(effect)
                case Answer():
                    effect.port.reply_nowait(effect.id, effect.reply)
                case CloseLink():
                    self.closed.append(effect)
                    self.world.close(self, effect.link)
                case Log():
                    self.logs.append(effect)
                case Fail():
                    self.failed = effect
                case _:
                    self.other.append(effect)

    # --- requests

    def ask(self, make: type[Request], **arguments: Any) -> int:
        """Post a request and let everything run; returns its number."""
        self._requests += 1
        self.inbox.append(make(port=self.client, id=self._requests, principal="uid:1", **arguments))
        self.world.pump()
        return self._requests

    def replies(self, request: int) -> list[Reply]:
        """All replies to a request."""
        return self.client.replies.get(request, [])

    def result(self, request: int) -> Any:
        """The one answer to a request, a good one."""
        [reply] = self.replies(request)
        assert isinstance(reply, Result), reply
        return reply.value

    def code(self, request: int) -> str:
        """The code of the one answer to a request, a failure."""
        [reply] = self.replies(request)
        assert isinstance(reply, Failure), reply
        return reply.error.code

    def send(self, to: str, *payloads: bytes, service: str = "box", **options: Any) -> int:
        """Submit messages to a service of a device."""
        messages = tuple(Message(payload) for payload in payloads)
        return self.ask(Submit, destination=to, service=service, messages=messages, **options)

    def read(self, service: str = "box", consumer: str = "default", credit: int = 10_000) -> Reader:
        """Subscribe."""
        return Reader(self, self.ask(Subscribe, service=service, consumer=consumer, credit=credit))

    def wait_for(self, message_id: str, state: str) -> int:
        """Await a state of a message."""
        ref, index = parse_message_id(message_id)
        return self.ask(Await, ref=ref, index=index, state=state)

    def query(self, view: str, argument: Any = None) -> Any:
        """A view."""
        return self.result(self.ask(Query, view=view, argument=argument))

    def cancel(self, target: int) -> None:
        """Give up on a request."""
        self.ask(Cancel, target=target)

    def disconnect_client(self) -> None:
        """The app is gone; another comes."""
        self.ask(Disconnected)
        self.client = Client()

    def events(self) -> list[str]:
        """The names of what was logged."""
        return [log.event for log in self.logs]


class World:
    """Devices 0..n-1 of one mesh, their links and their clock; some of them may be relays."""

    def __init__(
        self,
        count: int = 2,
        *,
        seed: int = 1,
        quota_bytes: int = 64 * 1024 * 1024,
        relays: Collection[int] = (),
        neighbour_bytes: int | None = None,
    ) -> None:
        self.neighbour_bytes = neighbour_bytes
        self.rng = random.Random(seed)
        self.now = START
        self._links = 0
        self._ends: dict[tuple[NodeId, int], tuple[Device, int]] = {}
        self.loses: Loses = lambda *_: False
        self.holds: Loses = lambda *_: False
        self.held: deque[tuple[Device, int, Frame]] = deque()
        self.bundles: list[BundleFrame] = []
        roster = mesh_of(*(number for number in range(1, count) if number not in relays))
        for number in relays:
            roster = added(roster, 0, number, "relay")
        self.roster = roster
        self.devices = [Device(self, number, roster, quota_bytes) for number in range(count)]
        self.pump()

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)

    def device(self, node: NodeId) -> Device:
        return next(found for found in self.devices if found.id == node)

    # --- links

    def connect(self, one: Device, other: Device) -> None:
        """A new link; ``one`` dialed."""
        self._links += 1
        number = self._links
        for mine, its in ((one, other), (other, one)):
            mine.links[its.id] = number
            self._ends[mine.id, number] = (its, number)
        seen = [(mine, its, its.node.membership.seen_epochs.get(mine.id)) for mine, its in ((one, other), (other, one))]
        for mine, its, known in seen:
            remote = Address("memory", its.name, 1)
            mine.inbox.append(LinkUp(number, its.id, "memory", remote, mine is one, its.node.epoch, known))
        self.pump()

    def disconnect(self, one: Device, other: Device) -> None:
        """The link breaks: what was under way on it is lost."""
        number = one.links.pop(other.id)
        del other.links[one.id]
        for mine, its in ((one, other), (other, one)):
            self._ends.pop((mine.id, number), None)
            mine.inbox = deque(e for e in mine.inbox if not (isinstance(e, FramesReceived) and e.link == number))
            mine.inbox.append(LinkDown(number, its.id, "lost", "cut by the test"))
        self.held = deque(item for item in self.held if item[1] != number)
        self.pump()

    def close(self, one: Device, number: int) -> None:
        """``one`` closed a link: what it said before still arrives."""
        end = self._ends.get((one.id, number))
        if end is None or one.links.get(end[0].id) != number:
            return
        for mine, its in ((one, end[0]), (end[0], one)):
            del mine.links[its.id], self._ends[mine.id, number]
            mine.inbox.append(LinkDown(number, its.id, "closed", "on purpose"))

    def carry(self, sender: Device, number: int, frame: Frame) -> None:
        """Take a frame over a link, unless it is lost or held back."""
        end = self._ends.get((sender.id, number))
        if end is None:
            return
        receiver, its_number = end
        if isinstance(frame, BundleFrame):
            self.bundles.append(frame)
        if self.loses(sender, receiver, frame):
            return
        if self.holds(sender, receiver, frame):
            self.held.append((receiver, its_number, frame))
            return
        receiver.inbox.append(FramesReceived(its_number, (frame,)))

    def release(self) -> None:
        """What was held back arrives."""
        self.holds = lambda *_: False
        while self.held:
            receiver, number, frame = self.held.popleft()
            receiver.inbox.append(FramesReceived(number, (frame,)))
        self.pump()

    def inject(self, sender: Device, receiver: Device, *frames: Frame) -> None:
        """``sender`` says something that its node did not."""
        receiver.inbox.append(FramesReceived(receiver.links[sender.id], frames))
        self.pump()

    # --- time

    def pump(self) -> None:
        """Run until nothing more happens by itself."""
        for _ in range(10_000):
            if not [True for device in self.__dict__.get("devices", ()) if device.turn()]:
                return
        raise AssertionError("the nodes never come to rest")

    def advance(self, seconds: float) -> None:
        """Let time pass, with everything that is due in it."""
        end = self.now + seconds
        for _ in range(10_000):
            deadlines = [due for device in self.devices if (due := device.node.next_deadline()) is not None]
            due = min(deadlines, default=end)
            if due > end:
                break
            self.now = max(self.now, due)
            for one in self.devices:
                found = one.node.next_deadline()
                if found is not None and found <= self.now:
                    one.step()
            self.pump()
        else:
            raise AssertionError("deadlines that never end")
        self.now = end
        self.flush()

    def sleep(self, seconds: float) -> None:
        """Everybody is asleep for so long; what was due meanwhile is overdue."""
        self.now += seconds
        for one in self.devices:
            one.step()
        self.pump()

    def flush(self) -> None:
        """Commit what could wait."""
        while [True for device in self.devices if device.turn(lazy=True)]:
            pass
