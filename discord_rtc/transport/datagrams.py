"""One connected UDP socket on the running asyncio loop, read as fast as Python can."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from discord_rtc.errors import ConnectError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

DRAIN_LIMIT = 64
"""Datagrams read per wake-up: asyncio's own endpoints read one per loop turn, which costs half the
throughput; more would keep other tasks waiting."""

_MTU = 1280  # RFC 8200 section 5: what every IPv6 link carries, and in practice every tunnel
_IPV4_AND_UDP = 20 + 8  # headers: RFC 791, RFC 768
_IPV6_AND_UDP = 40 + 8  # headers: RFC 8200, RFC 768
_RECEIVE_SIZE = 2048  # "receive buffer >= 2048 bytes": more than any datagram on the public net
_RECEIVE_BUFFER = 4 << 20  # keyframe bursts overrun the default of 208 KiB; the OS may cap it
_TAKEN = {errno.EADDRINUSE, errno.EACCES}  # the latter for ports that the system reserves


class Endpoint(asyncio.DatagramProtocol):
    """The same socket in asyncio's hands, for loops without ``add_reader``.

    Args:
        receive: Called with each datagram.
        failed: Called with each error that the socket reports.
    """

    def __init__(
        self, receive: Callable[[bytes], None], failed: Callable[[Exception], None]
    ) -> None:
        self.closed = asyncio.Event()
        self._receive = receive
        self._failed = failed
        self._transport: asyncio.DatagramTransport | None = None
        self._blocked = False

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio's own subtype
        """Called by asyncio: the socket is its own now."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - connected
        """Called by asyncio."""
        self._receive(data)

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio."""
        self._failed(exc)

    def pause_writing(self) -> None:
        """Called by asyncio: 64 KiB wait for the socket, its default bound."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Called by asyncio: there is room again."""
        self._blocked = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - only we close it
        """Called by asyncio: the socket is closed."""
        self.closed.set()

    def send(self, datagram: bytes) -> None:
        """Send one datagram.

        Raises:
            BlockingIOError: Too many are waiting.
        """
        if self._blocked or self._transport is None:
            raise BlockingIOError
        self._transport.sendto(datagram)

    async def aclose(self) -> None:
        """Close the socket, at once and for sure."""
        if self._transport is not None:
            self._transport.abort()
            await self.closed.wait()


class DatagramSocket:
    """A connected UDP socket. Trouble with single datagrams is counted, never raised.

    Made by `connect`. Drops: ``refused`` (nobody listens there at the moment), ``blocked`` (the
    socket's send buffer is full), ``socket-error``.
    """

    def __init__(
        self, sock: socket.socket, receive: Callable[[bytes], None], drops: Counter[str]
    ) -> None:
        self.local_address: tuple[str, int] = sock.getsockname()[:2]
        self._socket = sock
        self._receive = receive
        self._drops = drops
        self._closed = False
        self._endpoint: Endpoint | None = None

    @classmethod
    async def connect(
        cls,
        remote: tuple[str, int],
        *,
        bind: tuple[str, int] | None,
        receive: Callable[[bytes], None],
        drops: Counter[str],
        port_range: tuple[int, int] | None = None,
    ) -> DatagramSocket:
        """Open a socket whose only peer is ``remote``.

        Args:
            remote: IP address as text, and port.
            bind: Local address and port, or None for any.
            receive: Called on the loop with each datagram.
            drops: Where to count.
            port_range: First and last local port to choose from, at random, instead of the one
                in ``bind``.

        Raises:
            ConnectError: Not an address, no route to it, or nothing to bind to is free.
        """
        try:
            # A name would make connect() ask DNS and block the loop: addresses only.
            version = ipaddress.ip_address(remote[0]).version
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            if not 0 < remote[1] <= 0xFFFF:
                raise ValueError("no such port")
            sock = _connected(family, remote, bind, port_range)
        except (ValueError, OSError, OverflowError) as error:
            raise ConnectError(
                f"no UDP socket to the voice server at {remote[0]!r:.60} port {remote[1]}: {error}"
            ) from error
        self = cls(sock, receive, drops)
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(sock, self._drain)
        except NotImplementedError:  # Windows' default loop has no add_reader
            endpoint = self._endpoint = Endpoint(receive, self._failed)
            await loop.create_datagram_endpoint(lambda: endpoint, sock=sock)
        return self

    def send(self, datagram: bytes) -> bool:
        """Send one datagram, or count why not. Never blocks.

        Returns:
            Whether the operating system took it.
        """
        if self._closed:
            self._drops["closed"] += 1
            return False
        try:
            if self._endpoint is None:
                self._socket.send(datagram)
            else:
                self._endpoint.send(datagram)
        except OSError as error:
            self._failed(error)
            return False
        return True

    async def aclose(self) -> None:
        """Close the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._endpoint is not None:
            await self._endpoint.aclose()
        else:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            if self._closed:  # by the receiver of the datagram before
                return
            try:
                datagram = self._socket.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP error of an earlier send; reading clears it
                self._failed(error)
            else:
                self._receive(datagram)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ConnectionRefusedError):
            self._drops["refused"] += 1
        elif isinstance(error, BlockingIOError):
            self._drops["blocked"] += 1
        else:
            self._drops["socket-error"] += 1


def largest_datagram(host: str) -> int:
    """Bytes that fit into one UDP datagram to a host, whatever lies between.

    Args:
        host: IP address as text.
    """
    version = ipaddress.ip_address(host).version
    return _MTU - (_IPV4_AND_UDP if version == 4 else _IPV6_AND_UDP)


def _connected(
    family: socket.AddressFamily,
    remote: tuple[str, int],
    bind: tuple[str, int] | None,
    port_range: tuple[int, int] | None,
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):  # some systems refuse instead of capping
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        if port_range is not None:
            any_address = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - connected
            _bind_within(sock, any_address if bind is None else bind[0], port_range)
        elif bind is not None:
            sock.bind(bind)
        sock.connect(remote)
    except (OSError, OverflowError):  # the latter for a port that is none
        sock.close()
        raise
    return sock


def _bind_within(sock: socket.socket, address: str, port_range: tuple[int, int]) -> None:
    # In random order: ports next to each other would be guessable, and a fresh one after each
    # reconnect keeps stray datagrams of the previous path away (RFC 6056 section 3.3.1).
    first, last = port_range
    for port in random.sample(range(first, last + 1), last - first + 1):
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        else:
            return
    raise OSError(errno.EADDRINUSE, f"no local port from {first} to {last} is free")
