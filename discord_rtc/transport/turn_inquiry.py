"""Asks a TURN server why there is no relay, for the error message. aioice does not tell.

Done only where ICE is failing anyway: an allocation, a permission for the voice server, and the
release of both, up to the first refusal.

Spec: RFC 8656 (TURN), RFC 8489 section 9.2 (long-term credentials).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import secrets
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import ConnectError, MalformedPacket
from discord_rtc.ice.stun import MessageClass, parse_stun
from discord_rtc.transport.datagrams import DatagramSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.ice.stun import StunMessage
    from discord_rtc.transport.ice_options import IceServer
    from discord_rtc.transport.ice_path import Address

RETRY = 0.5
"""Seconds between repetitions over UDP: the initial RTO of RFC 8489 section 6.2.1."""

_COOKIE = 0x2112A442
_ALLOCATE, _REFRESH, _CREATE_PERMISSION = 0x003, 0x004, 0x008  # RFC 8656 section 17
_USERNAME, _MESSAGE_INTEGRITY, _ERROR_CODE = 0x0006, 0x0008, 0x0009
_LIFETIME, _XOR_PEER_ADDRESS, _REALM, _NONCE = 0x000D, 0x0012, 0x0014, 0x0015
_REQUESTED_TRANSPORT = 0x0019
_UDP = bytes((17, 0, 0, 0))  # the protocol number of IPv4
_UNAUTHORIZED = 401  # asks for credentials the first time, refuses them the second


class TurnInquiry:
    """One conversation with a TURN server. Sans-I/O.

    Args:
        username: For the server.
        credential: For the server.
        peer: Whom a relay is wanted to, an IP address as text and a port.
        random_bytes: For transaction ids.
    """

    def __init__(
        self,
        username: str,
        credential: str,
        peer: Address,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._username = username
        self._credential = credential
        self._peer = peer
        self._random_bytes = random_bytes
        self._nonce = self._realm = b""
        self._refusal: str | None = None
        self._finished = False
        self._method = _ALLOCATE
        self._transaction = random_bytes(12)

    @property
    def finished(self) -> bool:
        """Whether the server has said all that is to know."""
        return self._finished

    @property
    def refusal(self) -> str | None:
        """What it refused with; None when it gave everything, or did not answer."""
        return self._refusal

    def request(self) -> bytes:
        """What to ask now; the same again until there is an answer."""
        attributes = []
        if self._method == _ALLOCATE:
            attributes.append((_REQUESTED_TRANSPORT, _UDP))
        elif self._method == _REFRESH:
            attributes.append((_LIFETIME, bytes(4)))
        else:
            attributes.append((_XOR_PEER_ADDRESS, _xor_address(self._peer, self._transaction)))
        if self._realm:
            attributes += [
                (_USERNAME, self._username.encode()),
                (_REALM, self._realm),
                (_NONCE, self._nonce),
            ]
        return _build(self._method, self._transaction, attributes, self._key())

    def receive(self, datagram: bytes) -> bool:
        """Take an answer; returns whether there is something else to ask now."""
        try:
            answer = parse_stun(datagram)
        except MalformedPacket:
            return False
        if self._finished or answer.transaction_id != self._transaction:
            return False
        if answer.message_class is MessageClass.SUCCESS:
            self._advance(_CREATE_PERMISSION if self._method == _ALLOCATE else _REFRESH)
        elif answer.error_code == _UNAUTHORIZED and not self._realm and _REALM in answer.attributes:
            self._realm = answer.attributes[_REALM]
            self._nonce = answer.attributes.get(_NONCE, b"")
            self._transaction = self._random_bytes(12)
        else:
            self._refuse(answer)
        return not self._finished

    def _advance(self, method: int) -> None:
        self._finished = self._method == _REFRESH
        self._method = method
        self._transaction = self._random_bytes(12)

    def _refuse(self, answer: StunMessage) -> None:
        if self._refusal is None:
            phrase = answer.attributes.get(_ERROR_CODE, b"")[4:].decode(errors="replace")
            self._refusal = f"{answer.error_code} {phrase:.60}".strip()
        if self._method == _CREATE_PERMISSION:
            self._advance(_REFRESH)
        else:
            self._finished = True

    def _key(self) -> bytes | None:
        if not self._realm:
            return None
        # RFC 8489 section 9.2.2: MD5 is what servers understand
        text = self._username.encode() + b":" + self._realm + b":" + self._credential.encode()
        return hashlib.md5(text, usedforsecurity=False).digest()


def _xor_address(address: Address, transaction_id: bytes) -> bytes:
    ip = ipaddress.ip_address(address[0])
    mask = struct.pack("!I", _COOKIE) + transaction_id
    packed = bytes(byte ^ mask[position] for position, byte in enumerate(ip.packed))
    return struct.pack("!BBH", 0, 1 if ip.version == 4 else 2, address[1] ^ _COOKIE >> 16) + packed


def _build(
    method: int, transaction_id: bytes, attributes: list[tuple[int, bytes]], key: bytes | None
) -> bytes:
    body = b"".join(
        struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) & 3)
        for kind, value in attributes
    )
    length = len(body) + (0 if key is None else 24)
    message = struct.pack("!HHI", method, length, _COOKIE) + transaction_id + body
    if key is not None:
        message += struct.pack("!HH", _MESSAGE_INTEGRITY, 20) + hmac.digest(key, message, "sha1")
    return message


class _Conversation(Protocol):
    async def __call__(self, server: IceServer, inquiry: TurnInquiry) -> None: ...


async def ask_turn(server: IceServer, peer: Address) -> str | None:
    """Find out why a TURN server gives no relay.

    Waits as long as the server is silent, so it is for the caller to set a limit.

    Args:
        server: The TURN server.
        peer: Whom a relay is wanted to.

    Returns:
        What the server, or the way to it, said; None when it gives a relay now.
    """
    inquiry = TurnInquiry(server.username or "", server.credential or "", peer)
    talk: _Conversation = _talk_stream if server.over_tcp else _talk_datagrams
    try:
        await talk(server, inquiry)
    except (OSError, ConnectError, EOFError, UnicodeError) as error:  # SSLError is an OSError
        if isinstance(error, ConnectionError) and error.errno is not None:
            return os.strerror(error.errno)
        return str(error) or type(error).__name__
    return inquiry.refusal


async def _talk_datagrams(server: IceServer, inquiry: TurnInquiry) -> None:
    found = await asyncio.get_running_loop().getaddrinfo(
        server.host, server.port, type=socket.SOCK_DGRAM
    )
    changed = asyncio.Event()

    def receive(datagram: bytes) -> None:
        if inquiry.receive(datagram) or inquiry.finished:
            changed.set()

    address = found[0][4]
    sock = await DatagramSocket.connect(
        (str(address[0]), int(address[1])), bind=None, receive=receive, drops=Counter()
    )
    try:
        while not inquiry.finished:
            changed.clear()
            sock.send(inquiry.request())
            try:
                async with asyncio.timeout(RETRY):
                    await changed.wait()
            except TimeoutError:
                continue
    finally:
        await sock.aclose()


async def _talk_stream(server: IceServer, inquiry: TurnInquiry) -> None:
    tls = True if server.scheme == "turns" else None
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=tls)
    try:
        while not inquiry.finished:
            writer.write(inquiry.request())
            answered = False
            while not answered:
                header = await reader.readexactly(20)
                body = await reader.readexactly(int.from_bytes(header[2:4], "big"))
                answered = inquiry.receive(header + body) or inquiry.finished
    finally:
        writer.close()
