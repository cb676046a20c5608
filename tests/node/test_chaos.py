"""Whatever happens to links, disks and devices: what was accepted arrives once, in order, and the books balance."""

import random
from collections import defaultdict

import attrs
import pytest

from meshd.ids import NodeId, Priority
from meshd.node.requests import Result
from meshd.store.ops import PutSpool
from meshd.wire.frames import Ack, BundleFrame, Frame, Kind, Routed
from tests.node.harness import Device, Reader, World

SERVICES = ("box", "jobs")
PRIORITIES = (Priority.CRITICAL, Priority.NORMAL)


@attrs.frozen
class Sent:
    """One submission, in the order they were made."""

    sender: Device
    receiver: Device
    service: str
    priority: Priority
    payloads: tuple[bytes, ...]
    request: int
    replies: dict[int, list[object]]

    @property
    def accepted(self) -> bool:
        """Whether the sender was told so."""
        return any(isinstance(reply, Result) for reply in self.replies.get(self.request, []))


class Chaos:
    """A world, what was sent in it, and what was read."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(2, seed=seed)
        self.a, self.b = self.world.devices
        self.sent: list[Sent] = []
        self.readers: dict[tuple[NodeId, str], Reader] = {}
        self.lives: dict[tuple[NodeId, str], list[Reader]] = defaultdict(list)
        self.loss = 0.0
        self.world.loses = lambda _, __, frame: self.may_be_lost(frame) and self.rng.random() < self.loss
        for device in self.world.devices:
            self.subscribe(device)

    @staticmethod
    def may_be_lost(frame: Frame) -> bool:
        """What is sent again while its link lives. The rest is lost with a link alone, and sent over the next one."""
        if isinstance(frame, Routed):
            return frame.kind in (Kind.RECEIPT, Kind.OFFER, Kind.NEED_OFFER)
        return isinstance(frame, BundleFrame | Ack)

    def subscribe(self, device: Device) -> None:
        for service in SERVICES:
            self.readers[device.id, service] = device.read(service)
            self.lives[device.id, service].append(self.readers[device.id, service])

    # --- what can happen

    def send(self) -> None:
        sender, receiver = self.rng.sample(self.world.devices, 2)
        if self.rng.random() < 0.1:
            receiver = sender
        number = len(self.sent)
        size = self.rng.choice((1, 1, 10, 30_000))
        payloads = tuple(b"%d.%d " % (number, i) + self.rng.randbytes(size) for i in range(self.rng.choice((1, 1, 3))))
        service, priority = self.rng.choice(SERVICES), self.rng.choice(PRIORITIES)
        request = sender.send(receiver.name, *payloads, service=service, priority=priority)
        self.sent.append(Sent(sender, receiver, service, priority, payloads, request, sender.client.replies))

    def link(self) -> None:
        if self.b.id in self.a.links:
            self.world.disconnect(self.a, self.b)
        else:
            self.world.connect(*self.rng.sample(self.world.devices, 2))

    def lose(self) -> None:
        self.loss = self.rng.choice((0.0, 0.05, 0.3))

    def wait(self) -> None:
        self.world.advance(self.rng.choice((0.1, 1.0, 7.0, 30.0)))

    def crash(self) -> None:
        device = self.rng.choice(self.world.devices)
        device.run_store(self.rng.randint(0, len(device.store)))
        device.crash()
        device.is_store_held = False
        self.subscribe(device)

    def hold_store(self) -> None:
        device = self.rng.choice(self.world.devices)
        device.is_store_held = not device.is_store_held
        self.world.pump()

    def hold_bundles(self) -> None:
        self.world.holds = lambda _, __, frame: isinstance(frame, BundleFrame)

    def release_bundles(self) -> None:
        self.rng.shuffle(self.world.held)
        self.world.release()

    def fill_disk(self) -> None:
        device = self.rng.choice(self.world.devices)
        device.fails = lambda commit: any(isinstance(op, PutSpool) for op in commit.ops)
        self.send()
        self.world.pump()
        device.fails = lambda _: False

    def ack(self) -> None:
        self.readers[self.rng.choice(self.world.devices).id, self.rng.choice(SERVICES)].ack()

    def run(self, steps: int) -> None:
        """Let things happen, then make everything well again and wait."""
        actions = [self.send] * 8 + [self.ack] * 3 + [self.wait] * 2
        actions += [self.link, self.lose, self.crash, self.hold_store, self.hold_bundles]
        actions += [self.release_bundles] * 2 + [self.fill_disk]
        for _ in range(steps):
            self.rng.choice(actions)()
        self.loss = 0.0
        for device in self.world.devices:
            device.is_store_held = False
        self.world.release()
        if self.b.id not in self.a.links:
            self.world.connect(self.a, self.b)
        for _ in range(8):
            self.world.advance(600)
            for reader in self.readers.values():
                reader.ack()

    # --- what must hold then

    def check(self) -> None:
        for device in self.world.devices:
            assert device.failed is None
            for service in SERVICES:
                self.check_mailbox(device, service)
            self.check_books(device)

    def check_mailbox(self, device: Device, service: str) -> None:
        done: set[bytes] = set()
        maybe_done: set[bytes] = set()
        for reader in self.lives[device.id, service]:
            assert not done & set(reader.payloads), "delivered again after its ack"
            assert len(reader.payloads) == len(set(reader.payloads)), "delivered twice in one life"
            done |= reader.acked
            maybe_done |= reader.maybe_acked
            self.check_order(reader)
        sent = [item for item in self.sent if item.receiver is device and item.service == service]
        for item in sent:
            if item.accepted:
                assert maybe_done.issuperset(item.payloads), "accepted, and never delivered"

    def check_order(self, reader: Reader) -> None:
        order = {payload: i for i, payload in enumerate(payload for item in self.sent for payload in item.payloads)}
        flows: dict[tuple[Priority, NodeId], list[int]] = defaultdict(list)
        for message in reader.messages:
            if not message.late:
                flows[message.priority, message.source].append(order[message.payload])
        for flow in flows.values():
            assert flow == sorted(flow), "out of order"

    def check_books(self, device: Device) -> None:
        assert device.query("queue") == []
        assert device.node.spool.size_bytes == device.node.spool.messages == 0
        self.world.flush()
        snapshot = device.database.snapshot()
        assert (snapshot.backlogs, snapshot.held, snapshot.mailboxes) == ((), (), ())
        assert not any(device.node._mail.arriving._usage.values())


@pytest.mark.parametrize("seed", range(60))
def test_exactly_once_in_order(seed: int) -> None:
    chaos = Chaos(seed)
    chaos.run(60)
    chaos.check()
