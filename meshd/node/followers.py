"""Who waits to hear how far a message has come."""

import enum

import attrs

from meshd.errors import CATALOGUE, MeshdError
from meshd.ids import BundleRef, parse_message_id
from meshd.node.requests import Await, Failure, Port, Result, Submit
from meshd.node.turn import Turn


class Stage(enum.IntEnum):
    """How far a message has come. EXPIRED and REFUSED are ends of their own."""

    ACCEPTED = 0
    SENT = 1
    DELIVERED = 2
    CONSUMED = 3
    EXPIRED = 8
    REFUSED = 9


STAGES = {stage.name.lower(): stage for stage in Stage}
_FAILURES = {
    Stage.EXPIRED: ("E_EXPIRED", "The message expired before it was read there"),
    Stage.REFUSED: ("E_REFUSED", "The message was refused"),
}
_WORDS = {
    "lifetime": "its lifetime ended",
    "unread": "its lifetime ended",
    "removed": "the device was removed from the mesh",
}
"""Why, in words. Other codes are told as they are."""


@attrs.define(eq=False)
class Follower:
    """A request that is answered once its bundles are on disk and all have reached ``stage``."""

    request: Submit | Await
    stage: Stage
    answer: dict[str, object]
    accepted: bool
    pending: set[BundleRef]
    answered: bool = False


class Followers:
    """Requests by the bundles they wait for."""

    def __init__(self) -> None:
        self._by_ref: dict[BundleRef, list[Follower]] = {}

    def __contains__(self, ref: BundleRef) -> bool:
        return ref in self._by_ref

    def follow(self, follower: Follower) -> None:
        """Register a follower; stages reached from now on count."""
        for ref in follower.pending:
            self._by_ref.setdefault(ref, []).append(follower)

    def accept(self, turn: Turn, follower: Follower) -> None:
        """The follower's bundles are on disk."""
        follower.accepted = True
        self._answer_if_done(turn, follower)

    def repeat(self, turn: Turn, request: Submit, ids: list[str]) -> Follower:
        """A request asks again for what is on disk with these ids: it is told them when that is as far as it asks."""
        stage = STAGES[request.wait]
        refs = {parse_message_id(message_id)[0] for message_id in ids} if stage > Stage.ACCEPTED else set()
        follower = Follower(request, stage, {"ids": ids, "state": request.wait}, accepted=True, pending=refs)
        self.follow(follower)
        self._answer_if_done(turn, follower)
        return follower

    def reach(self, turn: Turn, ref: BundleRef, stage: Stage, reason: str | None = None) -> None:
        """The bundle has come to ``stage``."""
        followers = self._by_ref.get(ref)
        if followers is None:
            return
        remaining: list[Follower] = []
        for follower in followers:
            if stage in _FAILURES:
                code, message = _FAILURES[stage]
                detail = f"{message}." if reason is None else f"{message}: {_WORDS.get(reason, reason)}."
                self._drop(follower, besides=ref)
                follower.pending.clear()
                self._answer(turn, follower, Failure(MeshdError(code, detail)))
            elif stage >= follower.stage:
                follower.pending.discard(ref)
                self._answer_if_done(turn, follower)
            else:
                remaining.append(follower)
        if remaining:
            self._by_ref[ref] = remaining
        else:
            self._by_ref.pop(ref, None)

    def fail(self, turn: Turn, follower: Follower, error: MeshdError) -> None:
        """Forget one follower: what it waits for can't be."""
        self._drop(follower, besides=None)
        self._answer(turn, follower, Failure(error))

    def part(self, turn: Turn, ref: BundleRef) -> None:
        """The bundle is delivered, and nobody will tell any more whether it is read."""
        for follower in tuple(self._by_ref.get(ref, ())):
            self.fail(turn, follower, MeshdError("E_GONE", CATALOGUE["E_GONE"].meaning))

    def drop_port(self, port: Port, request_id: int | None = None) -> None:
        """The client is gone, or gave up on one request."""
        gone = {
            id(follower): follower
            for followers in self._by_ref.values()
            for follower in followers
            if follower.request.port is port and request_id in (None, follower.request.id)
        }
        for follower in gone.values():
            self._drop(follower, besides=None)

    def _drop(self, follower: Follower, *, besides: BundleRef | None) -> None:
        for ref in follower.pending:
            if ref != besides and ref in self._by_ref:
                self._by_ref[ref] = [other for other in self._by_ref[ref] if other is not follower]
                if not self._by_ref[ref]:
                    del self._by_ref[ref]

    def _answer_if_done(self, turn: Turn, follower: Follower) -> None:
        if follower.accepted and not follower.pending:
            self._answer(turn, follower, Result(follower.answer))

    def _answer(self, turn: Turn, follower: Follower, reply: Result | Failure) -> None:
        # A destination may refuse a bundle before our own commit of it has ended.
        if not follower.answered:
            follower.answered = True
            turn.answer(follower.request, reply)
