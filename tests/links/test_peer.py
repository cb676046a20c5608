import ipaddress
import math
import random

import attrs
import pytest

from meshd.ids import Epoch, NodeId
from meshd.links.breaker import State
from meshd.links.choice import LocalNetwork
from meshd.links.events import LinkDown, LinkUp
from meshd.links.outgoing import Outgoing
from meshd.links.peer import MAX_CANDIDATES, UNHURRIED_SECONDS, Decision, DialOutcome, PeerControl, Step
from meshd.transport.base import Address

LOW, HIGH = NodeId(b"\x01" * 16), NodeId(b"\x02" * 16)
QUIC, WEBSOCKET = Address("quic", "10.0.0.2", 7843), Address("websocket", "10.0.0.2", 7843)


def control(*, me: NodeId = LOW, peer: NodeId = HIGH) -> PeerControl:
    return PeerControl(me=me, peer=peer, transports=["quic", "websocket"], rng=random.Random(1), now=0.0)


def link(number: int, transport: str = "quic", *, dialed: bool = False) -> LinkUp:
    return LinkUp(number, HIGH, transport, QUIC, dialed, Epoch(1, bytes(8)), None, outgoing=Outgoing())


def closing(up: LinkUp) -> str | None:
    assert isinstance(up.outgoing, Outgoing)
    return None if up.outgoing.closing is None else up.outgoing.closing.code


def dial_fails(peer: PeerControl, now: float, outcome: DialOutcome = DialOutcome.FAILED) -> None:
    step = peer.next_step(now)
    assert step.decision is Decision.DIALING
    for candidate in step.candidates:
        peer.attempt_failed(candidate.address, "refused", now)
    peer.dial_ended(outcome, now)


def test_nothing_to_dial_is_a_wait_for_news() -> None:
    step = control().next_step(0.0)
    assert (step.decision, step.until, step.candidates) == (Decision.NO_ADDRESS, math.inf, ())


@pytest.mark.parametrize(("me", "peer", "wait"), [(LOW, HIGH, 0.0), (HIGH, LOW, 0.1)])
def test_the_higher_id_gives_the_lower_a_head_start(me: NodeId, peer: NodeId, wait: float) -> None:
    it = control(me=me, peer=peer)
    it.candidates_seen([QUIC], "mdns", 50.0)
    if wait:
        assert it.next_step(50.0).until == pytest.approx(50.0 + wait)
    assert it.next_step(50.0 + wait).decision is Decision.DIALING


def test_addresses_of_transports_not_in_use_are_ignored() -> None:
    it = control()
    it.candidates_seen([Address("carrier-pigeon", "10.0.0.2", 1)], "mdns", 0.0)
    assert it.next_step(0.0).decision is Decision.NO_ADDRESS


def test_failed_dials_wait_longer_and_open_the_breaker() -> None:
    it = control()
    it.candidates_seen([QUIC], "mdns", 0.0)
    now, waits = 0.0, []
    for _ in range(5):
        dial_fails(it, now)
        step = it.next_step(now)
        waits.append(step.until - now)
        now = step.until
    assert waits == sorted(waits)
    assert it.statistics(now).breaker.openings == 1
    assert it.statistics(now).last_error == f"{QUIC}: refused"


def test_our_own_trouble_waits_but_never_opens_the_breaker() -> None:
    it = control()
    it.candidates_seen([QUIC], "mdns", 0.0)
    now = 0.0
    for _ in range(50):
        dial_fails(it, now, DialOutcome.VOID)
        step = it.next_step(now)
        assert step.decision is Decision.WAITING
        assert 0.1 <= step.until - now <= 8.0
        now = step.until
    assert it.statistics(now).breaker.state is State.CLOSED


def open_for_long(it: PeerControl) -> float:
    """Fail until the breaker stays open for minutes; returns the time then."""
    now = 0.0
    while (step := it.next_step(now)).until - now < 60:
        if step.candidates:
            it.dial_ended(DialOutcome.FAILED, now)
        else:
            now = step.until
    return now


def test_news_earns_an_early_probe() -> None:
    for source, address in (("mdns", QUIC), ("card", Address("quic", "10.0.0.3", 7843))):
        it = control()
        it.candidates_seen([QUIC], "card", 0.0)
        now = open_for_long(it)
        assert it.next_step(now + 1).decision is Decision.BREAKER_OPEN
        it.candidates_seen([QUIC], "card", now + 1)
        assert it.next_step(now + 1).decision is Decision.BREAKER_OPEN, "nothing new in that"
        it.candidates_seen([address], source, now + 1)
        assert it.next_step(now + 1).decision is Decision.DIALING


def test_waking_forgets_failures_and_probes_what_is_up() -> None:
    it = control()
    it.candidates_seen([QUIC], "card", 0.0)
    now = open_for_long(it)
    generation = it.generation
    up = link(1)
    it.link_up(up, now)
    near = LocalNetwork(interface="wlan0", network=ipaddress.ip_network("10.0.0.0/24"))
    it.networks_changed([near], now)
    assert isinstance(up.outgoing, Outgoing)
    assert up.outgoing.take_probe()
    assert it.generation == generation + 1
    assert all(candidate.last_error is None for candidate in it.statistics(now).candidates)
    it.link_down(LinkDown(1, HIGH, "closed", "x"), now)
    it.wake(now)
    assert it.next_step(now).decision is Decision.DIALING


def test_a_link_that_died_of_silence_opens_the_breaker_unless_another_is_up() -> None:
    it = control()
    it.link_up(link(1), 0.0)
    it.link_up(link(2, "websocket"), 0.0)
    it.link_down(LinkDown(1, HIGH, "P_TIMEOUT", "silent"), 5.0)
    assert it.statistics(5.0).breaker.state is State.CLOSED
    assert it.statistics(5.0).links == (2,)
    it.link_down(LinkDown(2, HIGH, "P_TIMEOUT", "silent"), 5.0)
    assert it.statistics(5.0).breaker.state is State.OPEN


@pytest.mark.parametrize(("code", "failures"), [("closed", 0), ("E_STOPPING", 0), ("lost", 1), ("P_MALFORMED", 1)])
def test_how_a_link_ended_tells_the_breaker(code: str, failures: int) -> None:
    it = control()
    it.link_up(link(1), 0.0)
    it.link_down(LinkDown(1, HIGH, code, "x"), 5.0)
    it.link_down(LinkDown(1, HIGH, code, "x"), 5.0)
    assert it.statistics(5.0).breaker.recent_failures == failures


def test_links_that_keep_breaking_are_dialed_more_slowly() -> None:
    it = control()
    it.candidates_seen([QUIC], "mdns", 0.0)
    now, waits = 0.0, []
    for n in range(4):
        assert it.next_step(now).decision is Decision.DIALING
        it.dial_won(QUIC, link(n, dialed=True), now)
        it.link_down(LinkDown(n, HIGH, "lost", "x"), now + 1)
        waits.append(it.next_step(now + 1).until - now - 1)
        now = it.next_step(now + 1).until
    assert waits[-1] > 2 * waits[0]
    it.next_step(now)
    it.dial_won(QUIC, link(9, dialed=True), now)
    it.link_down(LinkDown(9, HIGH, "lost", "x"), now + 60)
    assert it.next_step(now + 60).until - now - 60 <= 0.25


def test_missing_data_acks_close_the_links_of_an_opened_breaker() -> None:
    it = control()
    up = link(1)
    it.link_up(up, 0.0)
    for n in range(12):
        assert closing(up) is None
        it.answered(float(n))
        it.data_timeout(float(n))
    assert closing(up) == "P_TIMEOUT"
    assert it.statistics(12.0).breaker.state is State.OPEN


def test_acked_data_keeps_links() -> None:
    it = control()
    up = link(1)
    it.link_up(up, 0.0)
    for n in range(100):
        it.data_timeout(float(n))
        it.data_acked(float(n))
    assert closing(up) is None


def test_a_worse_transport_is_upgraded_slowly_and_without_the_breaker() -> None:
    it = control()
    it.candidates_seen([QUIC, WEBSOCKET], "mdns", 0.0)
    it.link_up(link(1, "websocket"), 0.0)
    now, waits = 0.0, []
    for _ in range(12):
        step = it.next_step(now)
        assert step.decision is Decision.LINKED
        waits.append(step.until - now)
        now = step.until
        step = it.next_step(now)
        assert step.decision is Decision.UPGRADING
        assert [candidate.address for candidate in step.candidates] == [QUIC]
        it.dial_ended(DialOutcome.FAILED, now)
    assert 5 <= waits[0] <= 10
    assert 300 <= waits[-1] <= 600
    assert it.statistics(now).breaker.dial_failures == 0


def test_waking_tries_the_better_transport_at_once() -> None:
    it = control()
    it.candidates_seen([QUIC, WEBSOCKET], "mdns", 0.0)
    it.link_up(link(1, "websocket"), 0.0)
    it.wake(1.0)
    assert it.next_step(1.0).decision is Decision.UPGRADING


def test_the_best_transport_needs_no_upgrade() -> None:
    it = control()
    it.candidates_seen([QUIC, WEBSOCKET], "mdns", 0.0)
    it.link_up(link(1, "quic"), 0.0)
    assert it.next_step(1000.0) == attrs.evolve(it.next_step(1000.0), decision=Decision.LINKED, until=math.inf)


def test_links_that_were_dialed_here_come_from_the_dialer_alone() -> None:
    it = control()
    it.link_up(link(1, dialed=True), 0.0)
    assert it.statistics(0.0).links == ()


def test_reset_dials_at_once() -> None:
    it = control()
    it.candidates_seen([QUIC], "card", 0.0)
    now = open_for_long(it)
    it.reset(now)
    assert it.next_step(now).decision is Decision.DIALING


def test_a_flood_of_addresses_is_bounded_and_spares_the_best() -> None:
    it = control()
    it.candidates_seen([QUIC], "static", 0.0)
    for n in range(500):
        it.candidates_seen([Address("quic", f"10.1.{n // 250}.{n % 250}", 7843)], "mdns", 0.0)
    candidates = it.statistics(0.0).candidates
    assert len(candidates) == MAX_CANDIDATES
    assert QUIC in [candidate.address for candidate in candidates]


def test_a_peer_that_is_spared_is_not_dialed_until_it_is_wanted() -> None:
    it = control()
    it.candidates_seen([QUIC], "mdns", 0.0)
    it.want(False, 0.0)
    assert it.next_step(0.0) == Step(decision=Decision.SPARED)
    it.candidates_seen([WEBSOCKET], "mdns", 5.0)
    assert it.next_step(5.0).decision is Decision.SPARED
    it.want(True, 6.0)
    assert it.next_step(6.0).decision is Decision.DIALING


def test_a_link_that_was_given_up_as_surplus_is_not_dialed_again_unless_wanted() -> None:
    it = control()
    it.candidates_seen([QUIC], "mdns", 0.0)
    it.link_up(link(1), 0.0)
    it.link_down(LinkDown(1, HIGH, "E_SURPLUS", "enough"), 100.0)
    assert it.next_step(5000.0).decision is Decision.SPARED
    assert it.statistics(100.0).breaker.recent_failures == 0
    it.want(True, 5000.0)
    assert it.next_step(5000.0).decision is Decision.DIALING


def test_many_who_hear_of_one_device_do_not_all_dial_it_at_once() -> None:
    starts = []
    for seed in range(50):
        it = PeerControl(me=LOW, peer=HIGH, transports=["quic"], rng=random.Random(seed), now=0.0)
        it.want(True, 0.0, unhurried=True)
        it.candidates_seen([QUIC], "mdns", 100.0)
        starts.append(it.next_step(100.0).until - 100.0)
    assert max(starts) <= UNHURRIED_SECONDS
    assert all(sum(at <= start < at + 0.5 for start in starts) <= 15 for at in (0.0, 0.5, 1.0, 2.0, 4.0))


def test_what_is_announced_no_more_on_a_network_comes_last_and_is_forgotten_when_it_fails() -> None:
    it = control()
    lan = LocalNetwork(interface="eth0", network=ipaddress.ip_network("10.0.0.0/24"))
    it.networks_changed([lan], 0.0)
    old, new = Address("quic", "10.0.0.2", 7843), Address("quic", "10.0.0.9", 7843)
    elsewhere, written = Address("quic", "192.0.2.7", 7843), Address("quic", "10.0.0.3", 7843)
    it.candidates_seen([old, elsewhere], "card", 0.0)
    it.candidates_seen([written], "static", 0.0)
    it.candidates_seen([old], "mdns", 1.0)
    it.dial_won(old, link(1, dialed=True), 1.0)
    it.candidates_seen([new], "mdns", 100.0)
    it.candidates_seen([old, elsewhere], "card", 100.5)  # an old one, which somebody still has
    assert [c.address for c in it.statistics(101.0).candidates] == [written, new, elsewhere, old]
    it.candidates_seen([Address("websocket", "10.0.0.10", 7843)], "mdns", 101.0)
    assert [c.address.host for c in it.statistics(101.0).candidates if c.is_outdated] == [old.host]
    it.attempt_failed(new, "no answer", 102.0)
    it.attempt_failed(old, "no answer", 102.0)
    assert {c.address for c in it.statistics(102.0).candidates if c.address.transport == "quic"} == {
        new,
        elsewhere,
        written,
    }


def test_a_stranger_that_repeats_an_announcement_makes_nobody_forget_where_a_device_is() -> None:
    it = control()
    it.networks_changed([LocalNetwork(interface="eth0", network=ipaddress.ip_network("10.0.0.0/24"))], 0.0)
    real, forged = Address("quic", "10.0.0.2", 7843), Address("quic", "10.0.0.66", 7843)
    it.candidates_seen([real], "mdns", 0.0)
    it.candidates_seen([forged], "mdns", 1.0)
    dialed = it.next_step(2.0).candidates
    assert [candidate.address for candidate in dialed] == [forged, real]
    it.attempt_failed(forged, "certificate refused", 2.0)
    it.dial_won(real, link(1, dialed=True), 2.0)
    it.candidates_seen([forged], "card", 3.0)
    assert [c.address for c in it.statistics(3.0).candidates] == [real, forged]


def test_no_flood_of_announcements_pushes_out_what_a_person_wrote_down() -> None:
    it = control()
    far = Address("quic", "203.0.113.9", 7843)
    it.networks_changed([LocalNetwork(interface="eth0", network=ipaddress.ip_network("10.0.0.0/8"))], 0.0)
    it.candidates_seen([far], "static", 0.0)
    dial_fails(it, 1.0)  # it ranks last now
    it.candidates_seen([Address("quic", f"10.1.{n}.1", 7843) for n in range(200)], "mdns", 2.0)
    candidates = [candidate.address for candidate in it.statistics(2.0).candidates]
    assert len(candidates) == MAX_CANDIDATES
    assert far in candidates
