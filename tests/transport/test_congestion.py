"""A congestion window grows by use alone, and only then does a longer round trip say anything."""

import itertools
from collections.abc import Iterable

import pytest
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.tls import Epoch

from meshd.transport import congestion
from meshd.transport.congestion import UsedWindowReno

DATAGRAM_BYTES = 1200
RTT_S = 0.002


@pytest.fixture
def window() -> UsedWindowReno:
    made = create_congestion_control(congestion.NAME, max_datagram_size=DATAGRAM_BYTES)
    assert isinstance(made, UsedWindowReno)
    return made


def _packet(number: int, sent_time: float, size_bytes: int = DATAGRAM_BYTES) -> QuicSentPacket:
    packet = QuicSentPacket(
        epoch=Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=number,
        packet_type=QuicPacketType.ONE_RTT,
    )
    packet.sent_time = sent_time
    packet.sent_bytes = size_bytes
    return packet


def _round_trips(window: UsedWindowReno, rtts: Iterable[float], *, packets: int | None) -> None:
    """Round trips with so many packets each; None: as many as the window allows."""
    numbers = itertools.count()
    now = 1.0
    for rtt in rtts:
        in_flight = []
        while len(in_flight) < packets if packets else window.bytes_in_flight < window.congestion_window:
            in_flight.append(_packet(next(numbers), now))
            window.on_packet_sent(packet=in_flight[-1])
        now += rtt
        for packet in in_flight:
            window.on_packet_acked(now=now, packet=packet)
        window.on_rtt_measurement(now=now, rtt=rtt)


def test_a_window_of_which_little_is_used_stays(window: UsedWindowReno) -> None:
    before = window.congestion_window
    _round_trips(window, [RTT_S] * 10_000, packets=2)
    assert window.congestion_window == before
    assert window.bytes_in_flight == 0


def test_a_window_in_use_doubles_with_each_round_trip(window: UsedWindowReno) -> None:
    before = window.congestion_window
    _round_trips(window, [RTT_S] * 5, packets=None)
    assert window.congestion_window == before * 2**5


@pytest.mark.parametrize(("packets", "ends"), [(2, False), (None, True)])
def test_growing_round_trips_end_the_slow_start_only_of_a_window_in_use(
    window: UsedWindowReno, packets: int | None, ends: bool
) -> None:
    _round_trips(window, [0.01 * 1.2**step for step in range(20)], packets=packets)
    assert (window.ssthresh is not None) is ends


def test_loss_halves_it_whether_in_use_or_not(window: UsedWindowReno) -> None:
    before = window.congestion_window
    lost = _packet(1, 1.0)
    window.on_packet_sent(packet=lost)
    window.on_packets_lost(now=1.0 + RTT_S, packets=[lost])
    assert window.congestion_window == before // 2
    assert window.bytes_in_flight == 0
