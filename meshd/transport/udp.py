"""A UDP socket that moves datagrams in batches, with the kernel's segmentation offload where it helps.

Linux ``udp(7)``: UDP_SEGMENT sends one buffer as many datagrams, UDP_GRO receives many as one,
``ip(7)``: IP_RECVERR brings the answer of a host where nobody listens.
"""

import errno
import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterator, Sequence

import trio

from meshd.transport.base import Address
from meshd.transport.sockets import SockAddr, bind, to_address

_UDP_SEGMENT = 103
_UDP_GRO = 104
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MAX_SEGMENTS = 64  # the kernel's UDP_MAX_SEGMENTS of old
_MAX_PAYLOAD = 65_000
_BUFFER_BYTES = 4 * 1024 * 1024
_READS_PER_WAKEUP = 16
_CONTROL_BYTES = socket.CMSG_SPACE(64)
_SIZE = struct.Struct("=H")
_GRO_SIZE = struct.Struct("=i")
_NO_OFFLOAD = frozenset({errno.EIO, errno.EOPNOTSUPP, errno.ENOPROTOOPT})
_NOT_THERE = frozenset({errno.EINVAL, errno.EMSGSIZE})
"""What the kernel says of one target: the path is too narrow, or the port is 0. Anybody can have such an address."""


class UdpSocket:
    """One bound socket. Datagrams that can't be sent are lost, as on the way."""

    def __init__(self, host: str, port: int, *, offload: bool = True) -> None:
        """Raises OSError that names the address."""
        self._socket = bind(socket.SOCK_DGRAM, host, port)
        self._offload = offload
        self._writable = trio.Lock()
        self.was_refused = False
        """Whether :meth:`refusals` may have something to tell; each look is a system call."""
        self.family = self._socket.family
        name = self._socket.getsockname()
        self.address: Address = to_address("quic", name)
        self._is_wildcard = ipaddress.ip_address(name[0].partition("%")[0]).is_unspecified
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        if offload:
            self._try_option(socket.IPPROTO_UDP, _UDP_GRO)
        self._try_option(socket.IPPROTO_IP, _IP_RECVERR)
        if self.family == socket.AF_INET6:
            self._try_option(socket.IPPROTO_IPV6, _IPV6_RECVERR)

    def _try_option(self, level: int, option: int) -> None:
        try:
            self._socket.setsockopt(level, option, 1)
        except OSError as error:
            if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                raise
            # an old kernel: it works without, only slower

    def close(self) -> None:
        """Close; who waits for it sees trio.ClosedResourceError."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    async def resolve(self, host: str, port: int) -> SockAddr | None:
        """The address to send to, in this socket's family; None when it can't reach that kind of address.

        Raises OSError when the name is unknown.
        """
        flags = socket.AI_V4MAPPED | socket.AI_ALL if self.family == socket.AF_INET6 else 0
        try:
            found = await trio.socket.getaddrinfo(host, port, self.family, socket.SOCK_DGRAM, flags=flags)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_ADDRFAMILY, socket.EAI_NONAME):
                return None
            raise
        for *_, sockaddr in found:
            target: SockAddr = sockaddr  # type: ignore[assignment]  # IPv4 and IPv6 alone were asked for
            if self._is_wildcard or _version(to_address("quic", target)) == _version(self.address):
                return target
        return None

    async def receive(self) -> Sequence[tuple[bytes, SockAddr]]:
        """Wait, then return all datagrams that have come (bounded). Empty when only errors have. Cancel-safe."""
        await trio.lowlevel.wait_readable(self._socket)
        datagrams: list[tuple[bytes, SockAddr]] = []
        for _ in range(_READS_PER_WAKEUP):
            try:
                data, control, _flags, source = self._socket.recvmsg(65_536, _CONTROL_BYTES)
            except BlockingIOError:
                break
            except OSError:
                self.was_refused = True  # an error of something sent before, which is in the error queue
                break
            size = next((_GRO_SIZE.unpack(v)[0] for _, kind, v in control if kind == _UDP_GRO), len(data))
            if size >= len(data):
                datagrams.append((data, source))
            else:
                datagrams.extend((data[i : i + size], source) for i in range(0, len(data), size))
        self.was_refused = self.was_refused or not datagrams  # it is not woken for nothing
        return datagrams

    def refusals(self) -> Iterator[SockAddr]:
        """The addresses from which the network has answered that nobody is there."""
        self.was_refused = False
        while True:
            try:
                _data, control, _flags, target = self._socket.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return
            if any(_is_refusal(kind, value) for _, kind, value in control):
                yield target

    async def send(self, datagrams: Sequence[tuple[bytes, SockAddr]]) -> OSError | None:
        """Send in order. Returns the last error: such datagrams are lost."""
        failure: OSError | None = None
        for target, group in itertools.groupby(datagrams, key=lambda item: item[1]):
            for batch in _batches([data for data, _ in group]):
                failure = await self._send(batch, target) or failure
        return failure

    async def _send(self, batch: list[bytes], target: SockAddr) -> OSError | None:
        if len(batch) > 1 and not self._offload:
            return await self._send_singly(batch, target)
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, _SIZE.pack(len(batch[0])))] if len(batch) > 1 else []
        for attempt in range(2):
            try:
                self._socket.sendmsg(batch, control, 0, target)
            except BlockingIOError:
                await self._send_when_writable(batch, control, target)
            except OSError as error:
                if control and error.errno in _NO_OFFLOAD:
                    self._offload = False
                    return await self._send_singly(batch, target)
                if control and error.errno in _NOT_THERE:
                    return await self._send_singly(batch, target)
                # What an earlier datagram met is reported by the next call, which then sends nothing.
                self.was_refused = True
                if attempt or error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                    return error
                continue
            return None
        return None

    async def _send_singly(self, batch: list[bytes], target: SockAddr) -> OSError | None:
        failure: OSError | None = None
        for data in batch:
            failure = await self._send([data], target) or failure
        return failure

    async def _send_when_writable(
        self, batch: list[bytes], control: list[tuple[int, int, bytes]], target: SockAddr
    ) -> None:
        async with self._writable:  # Trio lets one task wait for a socket
            while True:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    self._socket.sendmsg(batch, control, 0, target)
                except BlockingIOError:
                    continue
                except OSError:
                    pass  # lost, as on the way
                return


def _batches(datagrams: list[bytes]) -> Iterator[list[bytes]]:
    """Cut into runs that the kernel can send at once: equal sizes, but for a shorter last one."""
    batch: list[bytes] = []
    total = 0
    for data in datagrams:
        fits = (
            batch
            and len(data) <= len(batch[0])
            and len(batch[-1]) == len(batch[0])
            and len(batch) < _MAX_SEGMENTS
            and total + len(data) <= _MAX_PAYLOAD
        )
        if batch and not fits:
            yield batch
            batch, total = [], 0
        batch.append(data)
        total += len(data)
    if batch:
        yield batch


def _is_refusal(kind: int, value: bytes) -> bool:
    return kind in (_IP_RECVERR, _IPV6_RECVERR) and struct.unpack_from("=I", value)[0] == errno.ECONNREFUSED


def _version(address: Address) -> int:
    return ipaddress.ip_address(address.host.partition("%")[0]).version
