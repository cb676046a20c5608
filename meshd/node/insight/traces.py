"""The life of a message as all devices together know it: ``meshctl trace``."""

import attrs

from meshd.errors import MeshdError
from meshd.ids import BundleRef
from meshd.node.insight.inquiries import Findings, Inquiries
from meshd.node.insight.views import Told, Unasked, Views
from meshd.node.membership import Membership
from meshd.node.peers import Peers
from meshd.node.requests import Failure, Query, Result
from meshd.node.turn import Turn
from meshd.store.reads import TraceRecord
from meshd.wire.inquiry import Topic, encode_argument

ANSWER_WITHIN_S = 3.0


_RANK = {
    event: rank
    for rank, event in enumerate(
        ("accepted", "sent", "custody", "forwarded", "arrived", "custody-ended", "delivered", "consumed")
    )
}
"""What comes first of what happened in one millisecond."""


@attrs.frozen
class _Asking:
    request: Query
    ref: BundleRef
    index: int
    record: TraceRecord | None


class Traces:
    """The traces that are being put together."""

    def __init__(self, membership: Membership, inquiries: Inquiries, views: Views) -> None:
        self._membership = membership
        self._inquiries = inquiries
        self._views = views
        self._asking: dict[int, _Asking] = {}

    def start(
        self, turn: Turn, request: Query, ref: BundleRef, index: int, record: TraceRecord | None, peers: Peers
    ) -> None:
        """Ask all others what they know of the bundle; ``record`` is what this device does."""
        nodes = [member.id for member in self._membership.members()]
        argument = encode_argument(ref)
        number = self._inquiries.ask(turn, Topic.TRACE, argument, nodes, peers, within_s=ANSWER_WITHIN_S)
        self._asking[number] = _Asking(request, ref, index, record)

    def finished(self, turn: Turn, findings: Findings) -> None:
        """All have answered who will."""
        asking = self._asking.pop(findings.number)
        told = self._told(asking.record, findings)
        unasked = [Unasked(self._membership.name_of(node), reason) for node, reason in findings.silent.items()]
        state = None if asking.record is None else asking.record.state
        if not told and state is None:
            silent = ", ".join(f"{row.device} ({row.reason})" for row in unasked)
            where = f"No device that could be asked has a record of the message; not asked: {silent}."
            message = where if silent else "No device of the mesh has a record of the message."
            turn.answer(asking.request, Failure(MeshdError("E_UNKNOWN_MESSAGE", message)))
            return
        elsewhere = [trace.state for trace in findings.answers.values() if trace.state is not None]
        view = self._views.trace(
            asking.ref, asking.index, asking.record, elsewhere[0] if elsewhere else None, told, unasked, turn.now
        )
        turn.answer(asking.request, Result(view))

    def _told(self, record: TraceRecord | None, findings: Findings) -> list[Told]:
        """Everybody's events in order. Ages are used and no wall clock: two of those never agree."""
        me = self._membership.name_of(self._membership.me)
        told = [
            Told(entry.at_ms / 1000, me, entry.event, entry.reason, entry.detail)
            for entry in (() if record is None else record.journal)
        ]
        for node, trace in findings.answers.items():
            name = self._membership.name_of(node)
            told += [
                Told(findings.moments[node] - event.age_ms / 1000, name, event.event, event.reason, event.detail)
                for event in trace.events
            ]
        return sorted(told, key=lambda event: (round(event.at, 3), _RANK.get(event.event, len(_RANK))))
