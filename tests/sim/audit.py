"""When all is settled: what is left on disks and in memory must be nothing, or agree."""

from meshd.delivery.arrivals import FlowArrivals
from meshd.delivery.receipts import Receipt
from meshd.delivery.sequences import SequenceSet
from meshd.delivery.sessions import IncomingSessions
from meshd.ids import Number, parse_message_id
from meshd.node.insight.views import Told
from meshd.store.reads import ReadTrace
from tests.sim.host import Host, Life
from tests.sim.ledger import LONG_MS, BrokenPromise, Ledger


def audit(hosts: list[Host], ledger: Ledger) -> None:
    """Raises BrokenPromise at the first thing that is wrong."""
    inside = [host for host in hosts if not host.is_removed]
    for host in inside:
        assert host.life is not None
        _check_memory(host, host.life)
        _check_disk(host, host.life)
    for host in inside:
        for other in inside:
            _check_receipts(host, other)
    _check_ends({host.name: host for host in inside}, ledger)


def _require_empty(host: Host, **collections: object) -> None:
    for name, collection in collections.items():
        if collection:
            raise BrokenPromise(f"{host.name} still holds {name}: {str(collection)[:300]}")


def _check_memory(host: Host, life: Life) -> None:
    node = life.node
    links = [link for peer in node.peers.known.values() for link in peer.links.values()]
    _require_empty(
        host,
        unacked=[link.number for link in links if link.unacked or link.unacked_bytes],
        second_links=[peer for peer in node.peers.known.values() if len(peer.links) > 1],
        forgotten_links=set(node.peers._links) ^ {link.number for link in links},
        dead_links=set(life.loop._outgoing) - {link.number for link in links},
        spool_loads=node.spool.loading._loads,
        endings=node.spool.endings._rows,
        mailbox_loads=node._mail.mailboxes._loads,
        tickets=node._parts.tickets._waiting,
        lazy_tickets=node._parts.tickets._waiting_lazily,
        unwritten_ends=node.spool.outcomes._unwritten,
        submissions=node._mail.acceptor._submissions,
        accepting=node._mail.acceptor._accepting,
        keys=node._mail.acceptor._keys,
        key_reads=node._clients._key_reads,
        looked_up_keys=node._clients._keys,
        trace_reads=node._clients._trace_reads,
        floors_due=node._parts.exchange._floors_due,
    )
    _check_unopened(host, node._mail.arriving.opening._sessions)
    for queue in node.spool.queues():
        counts = (queue.rows, queue.messages, queue.size_bytes, queue.in_flight_bytes, queue._window_bytes)
        if any(counts):
            raise BrokenPromise(f"{host.name}: an empty queue counts {counts}")


def _check_unopened(host: Host, sessions: IncomingSessions) -> None:
    """A source that crashed may have sent what it never accepted: nobody has the key, and it waits for its end."""
    held = [item for waiting in sessions._held.values() for item in waiting]
    if sum(len(item.frame.body) for item in held) > sessions._held_bytes or (not held and sessions._held_bytes):
        raise BrokenPromise(f"{host.name} counts {sessions._held_bytes} bytes of {len(held)} unopened bundles")
    if held and (sessions.next_end is None or sessions.next_end > min(item.until for item in held)):
        raise BrokenPromise(f"{host.name} holds {len(held)} bundles unopened, and never looks at them again")


def _check_disk(host: Host, life: Life) -> None:
    snapshot = host.database.snapshot()
    waiting = host.spool_rows()
    if waiting or snapshot.backlogs:
        raise BrokenPromise(f"{host.name} has {waiting} rows in the spool on disk, and counts {snapshot.backlogs}")
    usage = {source: size for source, size in life.node._mail.arriving._usage.items() if size}
    if usage != snapshot.inbox_usage:
        raise BrokenPromise(f"{host.name} counts inbox bytes {usage}, and the disk holds {snapshot.inbox_usage}")
    held = {row.row for row in snapshot.held}
    waiting = sorted(life.node._mail.arriving.releasing._held)
    if sorted(held) != waiting:
        raise BrokenPromise(f"{host.name} holds rows {waiting}, and the disk {sorted(held)}")


def _check_receipts(source: Host, destination: Host) -> None:
    assert source.life is not None
    assert destination.life is not None
    there, here = destination.identity.node_id, source.identity.node_id
    for queue in source.life.node.spool.queues_for(there):
        priority = queue.priority
        flow = destination.life.node._mail.arriving._flows.get((here, priority))
        if flow is None or queue.receipt is None:
            continue
        truth = flow.receipt(queue.receipt.order, queue.receipt.credit_bytes)
        if truth != _after_floor(queue.receipt, truth.floor):
            raise BrokenPromise(
                f"{source.name}'s last receipt of {destination.name} ({priority.name}) is not the state there: "
                f"{queue.receipt} against {truth}"
            )


def _after_floor(receipt: Receipt, floor: Number | None) -> Receipt:
    """What the source knows: what it was told, and its own word of what is finished.

    A hop may lose the receipt that only repeats that word. Nothing asks for it again, as it tells nothing new.
    """
    if floor is None:
        return receipt
    flow = FlowArrivals(receipt.priority)
    flow.floor = receipt.floor
    for entry in receipt.epochs:
        flow._arrived[entry.epoch] = SequenceSet(entry.arrived, entry.arrived_spans)
        flow._consumed[entry.epoch] = SequenceSet(entry.consumed, entry.consumed_spans)
    flow._refused = dict(receipt.refused)
    flow.raise_floor(floor)
    return flow.receipt(receipt.order, receipt.credit_bytes)


def _check_ends(hosts: dict[str, Host], ledger: Ledger) -> None:
    """What the source tells of each message must be what happened."""
    for sent in ledger.sent.values():
        host = hosts.get(sent.source)
        if sent.message_id is None or sent.ephemeral or sent.excused or host is None or host.life is None:
            continue
        ref, index = parse_message_id(sent.message_id)
        record = host.database.read(ReadTrace(ref))
        if record is None:
            raise BrokenPromise(f"{sent.source} knows nothing of message {sent.uid}")
        told = [
            Told(entry.at_ms / 1000, host.name, entry.event, entry.reason, entry.detail) for entry in record.journal
        ]
        views = host.life.node._sight.views
        state = views.trace(ref, index, record, None, told, [], host.now())["state"]
        events = [(entry.event, entry.reason) for entry in record.journal]
        if state in ("consumed", "delivered") and ledger.readers_of(sent) and not ledger.is_acked(sent):
            raise BrokenPromise(
                f"message {sent.uid} of {sent.source} shows as {state}, and nobody has acked it: {events}"
            )
        if sent.lifetime_ms >= LONG_MS and state != "consumed" and ledger.readers_of(sent):
            raise BrokenPromise(f"message {sent.uid} of {sent.source} shows as {state}, and it is consumed: {events}")
