"""What a neighbour says of a device that is silent here: who is asked, when, and what its answer is good for.

All devices are linked with each other; ``a`` asks about ``b``, which ``c`` may hear.
"""

from collections.abc import Callable
from typing import Any

import pytest

from meshd.ids import NodeId
from meshd.links.events import LinkDown, LinkMeasured
from meshd.node.effects import ExpectLife
from meshd.wire.frames import Frame, ProbeRequest, ProbeResult
from tests.node.harness import Device, World

Said = list[tuple[str, str, Frame]]

PATH = "d2 hears it: the path between is broken"
OFF = "d2 does not hear it either: it is probably off, asleep or away"
UNTOLD = "d2 was asked about it, and could not tell in time"


def mesh(count: int = 3, *, relays: tuple[int, ...] = ()) -> World:
    """All linked, and at rest."""
    world = World(count, relays=relays)
    for number, one in enumerate(world.devices):
        for other in world.devices[number + 1 :]:
            world.connect(one, other)
    world.advance(30)
    return world


def cut(world: World, *pairs: tuple[Device, Device]) -> None:
    """Nothing gets through between these any more, and nobody knows."""
    world.loses = lambda sender, receiver, _: any({sender, receiver} == set(pair) for pair in pairs)


def probes(world: World) -> Said:
    """From now on, who asks and tells whom, also what is lost."""
    said: Said = []
    loses = world.loses

    def look(sender: Device, receiver: Device, frame: Frame) -> bool:
        if isinstance(frame, ProbeRequest | ProbeResult):
            said.append((sender.name, receiver.name, frame))
        return loses(sender, receiver, frame)

    world.loses = look
    return said


def falls_silent(one: Device, other: Device) -> None:
    """The failure detector of a link reports."""
    one.inbox.append(LinkMeasured(one.links[other.id], None, True))
    one.world.pump()


def speaks(one: Device, other: Device) -> None:
    one.inbox.append(LinkMeasured(one.links[other.id], 0.01, False))
    one.world.pump()


def dies(one: Device, other: Device, code: str = "P_TIMEOUT") -> None:
    """At this end only; the other may not know yet."""
    one.inbox.append(LinkDown(one.links[other.id], other.id, code, "it is silent"))
    one.world.pump()


def record(one: Device) -> dict[str, Any]:
    """The last link that ended."""
    found: dict[str, Any] = [e for e in one.query("events", 1000) if e["event"] == "link-down"][-1]
    return found


def word(one: Device, other: Device) -> str | None:
    """What ``why`` has of hearsay."""
    hearsay = one.query("why", other.name)["hearsay"]
    assert hearsay is None or isinstance(hearsay["detail"], str)
    return None if hearsay is None else hearsay["detail"]


def hears(one: Device, other: Device) -> bool | None:
    """What the neighbour that was asked has said."""
    answer: bool | None = one.query("why", other.name)["hearsay"]["hears"]
    return answer


class TestTheRecord:
    def test_a_path_that_is_broken(self) -> None:
        world = mesh()
        a, b, _ = world.devices
        cut(world, (a, b))
        said = probes(world)
        falls_silent(a, b)
        assert said == [
            ("d0", "d2", ProbeRequest(b.id)),
            ("d2", "d1", ProbeRequest(b.id)),
            ("d1", "d2", ProbeResult(b.id, alive=True)),
            ("d2", "d0", ProbeResult(b.id, alive=True)),
        ]
        dies(a, b)
        assert record(a)["detail"] == f"it is silent; {PATH}"
        assert (record(a)["neighbour"], record(a)["neighbour_hears"]) == ("d2", True)
        [line] = [log for log in a.logs if log.event == "link down"]
        assert line.fields["reason"] == f"it is silent; {PATH}"
        world.now += 5.0
        assert a.query("why", "d1")["hearsay"] == {"neighbour": "d2", "hears": True, "detail": PATH, "ago_s": 5.0}

    def test_a_device_that_is_off_and_whose_other_link_says_so_too(self) -> None:
        """The neighbour does not know yet: it doubts its own link because it was asked."""
        world = mesh()
        a, b, c = world.devices
        cut(world, (a, b), (c, b))
        c.other.clear()
        falls_silent(a, b)
        assert c.other == [ExpectLife(c.links[b.id])]
        falls_silent(c, b)
        dies(a, b)
        assert record(a)["detail"] == f"it is silent; {OFF}"
        assert word(a, b) == OFF
        dies(c, b)
        assert word(c, b) == OFF.replace("d2", "d0"), "each is told by the other"

    @pytest.mark.parametrize("is_gone", [False, True], ids=["suspect", "unlinked"])
    def test_a_device_that_the_neighbour_misses_already(self, *, is_gone: bool) -> None:
        world = mesh()
        a, b, c = world.devices
        cut(world, (a, b), (c, b))
        (dies if is_gone else falls_silent)(c, b)
        said = probes(world)
        falls_silent(a, b)
        assert said[-2:] == [("d0", "d2", ProbeRequest(b.id)), ("d2", "d0", ProbeResult(b.id, alive=False))]
        dies(a, b)
        assert word(a, b) == OFF

    def test_the_neighbour_loses_it_while_it_looks(self) -> None:
        world = mesh()
        a, b, c = world.devices
        cut(world, (a, b), (c, b))
        falls_silent(a, b)
        dies(c, b, "lost")
        dies(a, b)
        assert word(a, b) == OFF

    def test_no_answer_in_time_is_no_answer(self) -> None:
        world = mesh()
        a, b, c = world.devices
        cut(world, (a, b), (c, b))
        falls_silent(a, b)
        dies(a, b)
        assert record(a)["detail"] == f"it is silent; {UNTOLD}"
        assert record(a)["neighbour_hears"] is None
        falls_silent(c, b)  # too late: the record stays as it is
        assert word(a, b) == UNTOLD

    def test_of_a_device_that_it_never_was_linked_with_the_neighbour_says_nothing(self) -> None:
        world = World(3)
        a, b, c = world.devices
        world.connect(a, b)
        world.connect(a, c)
        world.advance(30)
        said = probes(world)
        falls_silent(a, b)
        assert said == [("d0", "d2", ProbeRequest(b.id))]
        dies(a, b)
        assert word(a, b) == UNTOLD

    def test_with_nobody_to_ask_nothing_is_said(self) -> None:
        world = mesh(2)
        a, b = world.devices
        falls_silent(a, b)
        dies(a, b)
        assert record(a)["detail"] == "it is silent"
        assert (record(a)["neighbour"], record(a)["neighbour_hears"]) == (None, None)
        assert word(a, b) is None

    def test_a_link_that_broke_or_was_closed_needs_no_explanation(self) -> None:
        world = mesh()
        a, b, _ = world.devices
        for code in ("lost", "closed"):
            falls_silent(a, b)
            dies(a, b, code)
            assert (record(a)["detail"], word(a, b)) == ("it is silent", None)
            world.connect(a, b)

    def test_a_link_that_spoke_again_before_it_died(self) -> None:
        world = mesh()
        a, b, _ = world.devices
        falls_silent(a, b)
        speaks(a, b)
        dies(a, b)
        assert (record(a)["detail"], word(a, b)) == ("it is silent", None)

    def test_the_next_link_makes_it_old(self) -> None:
        world = mesh()
        a, b, _ = world.devices
        falls_silent(a, b)
        world.disconnect(a, b)
        world.connect(a, b)
        falls_silent(a, b)
        dies(a, b)
        assert word(a, b) == PATH
        world.connect(a, b)
        assert word(a, b) is None
        world.disconnect(a, b)
        assert word(a, b) is None


class TestWhoIsAsked:
    def test_nobody_while_all_is_well(self) -> None:
        world = mesh()
        a, b, c = world.devices
        said = probes(world)
        for _ in range(5):
            for one, other in ((a, b), (b, a), (c, a)):
                speaks(one, other)
        a.send("d1", b"x")
        world.advance(3600)
        assert said == []

    def test_one_and_again_when_the_silence_lasts(self) -> None:
        """First when mail is not answered for, then when the link is about to end: the answer in the record is new."""
        world = mesh(5)
        a, b = world.devices[:2]
        cut(world, *((b, other) for other in world.devices))
        said = probes(world)
        falls_silent(a, b)
        assert [(sender, frame) for sender, _, frame in said if sender == "d0"] == [("d0", ProbeRequest(b.id))]
        falls_silent(a, b)
        assert [(sender, frame) for sender, _, frame in said if sender == "d0"] == [("d0", ProbeRequest(b.id))] * 2

    def test_not_one_that_is_silent_too(self) -> None:
        world = mesh(4)
        a, b, c, d = world.devices
        for silent, asked in ((c, d), (d, c)):
            said = probes(world)
            falls_silent(a, silent)
            said.clear()
            falls_silent(a, b)
            assert ("d0", asked.name, ProbeRequest(b.id)) in said
            speaks(a, silent)

    def test_the_best_link(self) -> None:
        world = mesh(4)
        a, b, c, d = world.devices
        for slow, asked in ((c, d), (d, c)):
            for other in (c, d):
                for _ in range(50):
                    a.inbox.append(LinkMeasured(a.links[other.id], 0.9 if other is slow else 0.002, False, answered=1))
            world.pump()
            said = probes(world)
            falls_silent(a, b)
            assert said[0] == ("d0", asked.name, ProbeRequest(b.id))

    def test_rather_one_that_offers_a_way(self) -> None:
        world = World(4)
        a, b, c, d = world.devices
        for one, other in ((a, b), (a, c), (a, d), (d, b)):
            world.connect(one, other)
        world.advance(30)
        for _ in range(50):
            a.inbox.append(LinkMeasured(a.links[d.id], 0.2, False, answered=1))
        world.pump()
        said = probes(world)
        falls_silent(a, b)
        assert said[0] == ("d0", "d3", ProbeRequest(b.id))

    @pytest.mark.parametrize("relays", [(2,), (3,)])
    def test_a_relay_only_when_there_is_nobody_else(self, relays: tuple[int, ...]) -> None:
        world = mesh(4, relays=relays)
        a, b = world.devices[:2]
        [relay] = [world.devices[number] for number in relays]
        [member] = [one for one in world.devices[2:] if one is not relay]
        said = probes(world)
        falls_silent(a, b)
        assert said[0] == ("d0", member.name, ProbeRequest(b.id))
        speaks(a, b)
        world.disconnect(a, member)
        said.clear()
        falls_silent(a, b)
        assert said[0] == ("d0", relay.name, ProbeRequest(b.id))


def state(one: Device) -> list[object]:
    """What a lie must not change: routes, links, breakers, the roster, mail, and what was asked of the shell."""
    views = [one.query(view) for view in ("routes", "members", "queue", "graph", "peers")]
    return [*views, list(one.closed), list(one.other), dict(one.links)]


class TestLies:
    """``c`` says what it likes; it costs a wrong word, and nothing else."""

    @pytest.mark.parametrize("alive", [False, True])
    def test_the_answer_changes_words_alone(self, *, alive: bool) -> None:
        def live(answer: Callable[[World], None]) -> tuple[list[object], list[object], bool | None]:
            world = mesh(4)
            a, b, *_ = world.devices
            reader = b.read()
            world.loses = lambda sender, receiver, frame: (
                {sender, receiver} == {a, b} or (receiver is a and isinstance(frame, ProbeResult))
            )
            a.send("d1", b"x")
            falls_silent(a, b)
            answer(world)
            during = state(a)
            dies(a, b)
            world.advance(20)
            assert reader.payloads == [b"x"]
            assert a.node.membership.public_key(b.id) is not None
            return during, state(a), hears(a, b)

        def lie(world: World) -> None:
            a, b, c, d = world.devices
            for liar in (c, d):
                world.inject(liar, a, ProbeResult(b.id, alive), ProbeResult(b.id, not alive))
            world.inject(c, a, *(ProbeResult(x.id, not alive) for x in world.devices))

        during, after, said = live(lambda _: None)
        assert said is None
        assert live(lie) == (during, after, alive)

    def test_what_nobody_asked_is_not_heard(self) -> None:
        world = mesh(4)
        a, b, c, _ = world.devices
        before = state(a)
        world.inject(c, a, *(ProbeResult(x.id, alive) for x in world.devices for alive in (True, False)))
        assert state(a) == before
        falls_silent(a, b)
        dies(a, b)
        assert hears(a, b) is True
        world.inject(c, a, ProbeResult(b.id, alive=False))
        assert hears(a, b) is True, "it comes too late"

    def test_a_third_device_has_no_say(self) -> None:
        world = mesh(4)
        a, b, c, d = world.devices
        world.loses = lambda sender, receiver, frame: isinstance(frame, ProbeResult)
        said = probes(world)
        falls_silent(a, b)
        [liar] = [one for one in (c, d) if one.name != said[0][1]]
        world.inject(liar, a, ProbeResult(b.id, alive=True))
        dies(a, b)
        assert hears(a, b) is None

    def test_a_question_asked_without_end_is_passed_on_once(self) -> None:
        world = mesh()
        a, b, c = world.devices
        cut(world, (b, c))
        said = probes(world)
        c.other.clear()
        world.inject(a, c, *[ProbeRequest(b.id)] * 100)
        assert said == [("d2", "d1", ProbeRequest(b.id))]
        assert c.other == [ExpectLife(c.links[b.id])]
        world.loses = lambda *_: False
        said = probes(world)
        world.inject(b, c, ProbeResult(b.id, alive=True))
        assert said == [("d2", "d0", ProbeResult(b.id, alive=True))]

    def test_questions_about_anybody_are_answered_as_far_as_can_be_told(self) -> None:
        world = mesh()
        a, b, c = world.devices
        said = probes(world)
        world.inject(a, c, ProbeRequest(c.id), ProbeRequest(a.id), ProbeRequest(NodeId(b"?" * 16)))
        assert said == [("d2", "d0", ProbeResult(c.id, alive=True)), ("d2", "d0", ProbeResult(a.id, alive=True))]
        assert set(a.links) == {b.id, c.id}

    def test_whoever_asked_and_is_gone_is_not_answered(self) -> None:
        world = mesh()
        a, b, c = world.devices
        cut(world, (b, c))
        world.inject(a, c, ProbeRequest(b.id))
        world.disconnect(a, c)
        said = probes(world)
        world.inject(b, c, ProbeResult(b.id, alive=True))
        assert said == []
