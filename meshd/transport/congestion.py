"""QUIC's congestion control: aioquic's Reno, whose window grows only while it is used (RFC 9002 section 7.8).

aioquic's own grows with every acknowledgement, also of an application that sends little; after a while on a LAN
it allows 12 MB. It says nothing of the path any more, and the pacer, whose shortest interval is a microsecond,
lets two packets pass at a time instead of sixteen: such a connection carried a third of the messages.
"""

import math
from typing import Final

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket

NAME: Final = "reno-as-used"
"""For ``QuicConfiguration.congestion_control_algorithm``."""

_CLOCK_NOISE_S: Final = 1e-6
"""A time of sending that was subtracted and added is the same within so much."""


class UsedWindowReno(RenoCongestionControl):
    """New Reno (RFC 9002 section 7) that learns nothing from packets which the application could have doubled."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._used_at = -math.inf
        """When a packet was last sent that filled at least half of the window."""

    def on_packet_sent(self, *, packet: QuicSentPacket) -> None:
        """Count it, and note whether the window is in use."""
        super().on_packet_sent(packet=packet)
        if 2 * self.bytes_in_flight >= self.congestion_window and packet.sent_time is not None:
            self._used_at = packet.sent_time

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """Let the window grow by it if it was in use when the packet left."""
        if packet.sent_time is not None and packet.sent_time > self._used_at:
            self.bytes_in_flight -= packet.sent_bytes
        else:
            super().on_packet_acked(now=now, packet=packet)

    def on_rtt_measurement(self, *, now: float, rtt: float) -> None:
        """End the slow start when round trips grow, unless they were those of a window not in use."""
        if now - rtt <= self._used_at + _CLOCK_NOISE_S:
            super().on_rtt_measurement(now=now, rtt=rtt)


register_congestion_control(NAME, UsedWindowReno)
