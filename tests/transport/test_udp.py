"""Datagrams in batches, with the kernel's help and without."""

import errno
import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from meshd.transport.sockets import SockAddr
from meshd.transport.udp import UdpSocket, _batches
from tests.transport.worlds import run

SIZES = [1200] * 70 + [300, 1200, 1200, 1350, 5, 5, 1200, 1]


async def receive_all(udp: UdpSocket, count: int) -> list[bytes]:
    received: list[bytes] = []
    with trio.fail_after(5):
        while len(received) < count:
            received.extend(data for data, _ in await udp.receive())
    return received


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_batches_arrive_as_the_datagrams_they_were(offload: bool, host: str) -> None:
    datagrams = [bytes([number]) * size for number, size in enumerate(SIZES)]

    async def body() -> None:
        sender, receiver = UdpSocket("::", 0, offload=offload), UdpSocket(host, 0, offload=offload)
        target = await sender.resolve(host, receiver.address.port)
        assert target is not None
        assert await sender.send([(data, target) for data in datagrams]) is None
        assert await receive_all(receiver, len(datagrams)) == datagrams
        sender.close()
        receiver.close()

    run("quic", body)


def test_what_can_not_be_sent_is_lost_and_the_rest_is_not() -> None:
    async def body() -> None:
        udp = UdpSocket("127.0.0.1", 0)
        target: SockAddr = ("127.0.0.1", udp.address.port)
        error = await udp.send([(b"first", target), (b"x" * 70_000, target), (b"last", target)])
        assert error is not None
        assert error.errno == errno.EMSGSIZE
        assert await receive_all(udp, 2) == [b"first", b"last"]
        udp.close()

    run("quic", body)


def test_nobody_there_is_told_and_stops_nothing() -> None:
    async def body() -> None:
        udp = UdpSocket("::", 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            port = gone.getsockname()[1]
        target = await udp.resolve("127.0.0.1", port)
        here = await udp.resolve("127.0.0.1", udp.address.port)
        assert target is not None
        assert here is not None
        await udp.send([(b"anyone?", target)])
        with trio.fail_after(5):
            assert await udp.receive() == []
        assert list(udp.refusals()) == [target]
        await udp.send([(b"anyone?", target), (b"me", here)])
        assert await receive_all(udp, 1) == [b"me"]
        udp.close()

    run("quic", body)


def test_a_socket_of_one_address_reaches_its_own_family_alone() -> None:
    async def body() -> None:
        four, six = UdpSocket("127.0.0.1", 0), UdpSocket("::1", 0)
        assert await four.resolve("::1", 5) is None
        assert await six.resolve("127.0.0.1", 5) is None
        assert await four.resolve("127.0.0.1", 5) == ("127.0.0.1", 5)
        four.close()
        six.close()

    run("quic", body)


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=200))
def test_runs_are_what_the_kernel_takes(datagrams: list[bytes]) -> None:
    batches = list(_batches(datagrams))
    assert [data for batch in batches for data in batch] == datagrams
    for batch in batches:
        assert len(batch) <= 64
        assert sum(map(len, batch)) <= 65_507
        assert {len(data) for data in batch[:-1]} <= {len(batch[0])}
        assert len(batch[-1]) <= len(batch[0])


def test_a_target_that_takes_no_batches_costs_the_others_nothing() -> None:
    async def main() -> None:
        sender, receiver = UdpSocket("127.0.0.1", 0), UdpSocket("127.0.0.1", 0)
        failure = await sender.send([(b"x" * 1200, ("127.0.0.1", 0))] * 2)
        assert failure is not None
        assert failure.errno == errno.EINVAL
        assert sender._offload
        assert await sender.send([(b"y" * 1200, ("127.0.0.1", receiver.address.port))] * 2) is None
        assert await receive_all(receiver, 2) == [b"y" * 1200] * 2
        sender.close()
        receiver.close()

    trio.run(main)
