"""IP discovery and UDP ping, the two unprotected exchanges of the media path. Sans-I/O.

Spec: Discord docs, "Voice Connections", IP discovery; userdoccers, same page, UDP ping.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Sequence

DISCOVERY_LENGTH = 74
"""Bytes of request and response alike: two u16, the SSRC, 64 bytes of text, a port."""

DISCOVERY_SCHEDULE = (0.0, 0.1, 0.3, 0.7, 1.5, 2.5, 3.5)
"""When requests are sent, seconds after the first: quick at first, since UDP loses datagrams."""

DISCOVERY_DEADLINE = 4.5
"""Seconds after which nobody will answer any more."""

PING_INTERVAL = 5.0
"""Seconds between pings, and how long one may stay unanswered (userdoccers, UDP ping)."""

_DISCOVERY = struct.Struct("!HHI64sH")
_REQUEST_TYPE = 1
_RESPONSE_TYPE = 2
_BODY_LENGTH = 70  # what follows type and length

_PING_MAGIC = bytes.fromhex("1337cafe")
_PONG_MAGIC = bytes.fromhex("1337f00d")
_PING_LENGTH = 8  # magic and u32 sequence number
_SEQUENCE_MASK = 0xFFFF_FFFF


def is_discovery(datagram: bytes) -> bool:
    """Whether a datagram looks like IP discovery, request or response."""
    return (
        len(datagram) == DISCOVERY_LENGTH
        and datagram[0] == 0
        and datagram[1] in (_REQUEST_TYPE, _RESPONSE_TYPE)
        and datagram[2] == 0
        and datagram[3] == _BODY_LENGTH
    )


def build_request(ssrc: int) -> bytes:
    """Ask the server how it sees our address; ``ssrc`` is our audio SSRC from Ready."""
    return _DISCOVERY.pack(_REQUEST_TYPE, _BODY_LENGTH, ssrc, b"", 0)


def build_response(ssrc: int, ip: str, port: int) -> bytes:
    """Tell a client its address as seen from outside.

    Args:
        ssrc: As in the request.
        ip: IPv4 or IPv6 address as text.
        port: 1 to 65535.
    """
    return _DISCOVERY.pack(_RESPONSE_TYPE, _BODY_LENGTH, ssrc, ip.encode("ascii"), port)


def parse_request(datagram: bytes) -> int:
    """Read a discovery request.

    Returns:
        The SSRC it asks for.

    Raises:
        MalformedPacket: Not a request.
    """
    return _parse(datagram, _REQUEST_TYPE)[0]


def parse_response(datagram: bytes, ssrc: int) -> tuple[str, int]:
    """Read a discovery response.

    Args:
        datagram: What came from the server.
        ssrc: What the request asked for.

    Returns:
        Address (IPv4 or IPv6, normalised text) and port of this client as seen from outside.

    Raises:
        MalformedPacket: Not a response, for another SSRC, or without a usable address.
    """
    answered, text, port = _parse(datagram, _RESPONSE_TYPE)
    if answered != ssrc:
        raise MalformedPacket("discovery response for another SSRC")
    address, terminator, _ = text.partition(b"\0")
    if not terminator:
        raise MalformedPacket("discovery response without the NUL after its address")
    try:
        ip = ipaddress.ip_address(address.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one too
        raise MalformedPacket("discovery response without an IP address") from None
    if not port:
        raise MalformedPacket("discovery response with port 0")
    return str(ip), port


def _parse(datagram: bytes, expected_type: int) -> tuple[int, bytes, int]:
    if not is_discovery(datagram):
        raise MalformedPacket("not IP discovery")
    message_type, _, ssrc, text, port = _DISCOVERY.unpack(datagram)
    if message_type != expected_type:
        raise MalformedPacket("IP discovery in the wrong direction")
    return ssrc, text, port


def build_ping(sequence: int) -> bytes:
    """Build a ping with a 32-bit sequence number."""
    return _PING_MAGIC + sequence.to_bytes(4, "big")


def build_pong(sequence: int) -> bytes:
    """Build the answer to the ping of that number."""
    return _PONG_MAGIC + sequence.to_bytes(4, "big")


def parse_ping(datagram: bytes) -> int | None:
    """Read the number of a ping; None when it is something else."""
    return _parse_sequence(datagram, _PING_MAGIC)


def parse_pong(datagram: bytes) -> int | None:
    """Read the number that a ping answer answers; None when it is something else."""
    return _parse_sequence(datagram, _PONG_MAGIC)


def _parse_sequence(datagram: bytes, magic: bytes) -> int | None:
    if len(datagram) != _PING_LENGTH or not datagram.startswith(magic):
        return None
    return int.from_bytes(datagram[4:], "big")


class DiscoveryExchange:
    """One run of IP discovery: requests by schedule until an answer or the deadline.

    Args:
        ssrc: Our audio SSRC from Ready.
        now: Start, monotonic seconds.
        schedule: Seconds after ``now`` at which requests are sent, ascending.
        deadline: Seconds after ``now`` at which the run has failed.
    """

    def __init__(
        self,
        ssrc: int,
        now: float,
        *,
        schedule: Sequence[float] = DISCOVERY_SCHEDULE,
        deadline: float = DISCOVERY_DEADLINE,
    ) -> None:
        self._ssrc = ssrc
        self._due = [now + offset for offset in schedule]
        self._deadline = now + deadline
        self._outbox: list[bytes] = []
        self._address: tuple[str, int] | None = None
        self._failed = False
        self.handle_timeout(now)

    @property
    def address(self) -> tuple[str, int] | None:
        """Our address as seen from outside, once it is known."""
        return self._address

    @property
    def failed(self) -> bool:
        """Whether the deadline passed without an answer."""
        return self._failed

    @property
    def finished(self) -> bool:
        """Whether it came to an end, one way or the other."""
        return self._failed or self._address is not None

    def receive_datagram(self, datagram: bytes) -> None:
        """Take what may be the answer; the first good one counts, later ones are duplicates.

        Raises:
            MalformedPacket: It is not the answer. The exchange goes on.
        """
        address = parse_response(datagram, self._ssrc)
        if not self.finished:
            self._address = address

    def datagrams_to_send(self) -> list[bytes]:
        """Requests that are due, each handed out once."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is wanted next; None once finished."""
        if self.finished:
            return None
        return min(self._due[0], self._deadline) if self._due else self._deadline

    def handle_timeout(self, now: float) -> None:
        """Send what is due, or fail."""
        if self.finished:
            return
        if now >= self._deadline:
            self._failed = True
            return
        if self._due and self._due[0] <= now:
            # a late wake-up sends one request, not all that were missed
            self._due = [due for due in self._due if due > now]
            self._outbox.append(build_request(self._ssrc))


class PingExchange:
    """Regular pings: they measure the round trip and keep the NAT binding open.

    An unanswered ping is counted and means nothing else; many servers do not answer.

    Args:
        now: When the first one is sent, monotonic seconds.
        interval: Seconds between pings, and how long an answer may take.
    """

    def __init__(self, now: float, *, interval: float = PING_INTERVAL) -> None:
        self._interval = interval
        self._next = now
        self._sequence = 0
        self._sent_at: float | None = None
        self._outbox: list[bytes] = []
        self._rtt: float | None = None
        self._unanswered = 0
        self.handle_timeout(now)

    @property
    def rtt(self) -> float | None:
        """Seconds that the latest answered ping took, None until the first answer."""
        return self._rtt

    @property
    def unanswered(self) -> int:
        """Pings without an answer in time."""
        return self._unanswered

    def receive_pong(self, sequence: int, now: float) -> None:
        """Take an answer. One to another ping than the latest is too late to count."""
        if self._sent_at is None or sequence != self._sequence:
            return
        self._rtt = now - self._sent_at
        self._sent_at = None

    def datagrams_to_send(self) -> list[bytes]:
        """Pings that are due, each handed out once."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def next_timeout(self) -> float:
        """When the next ping is due."""
        return self._next

    def handle_timeout(self, now: float) -> None:
        """Send the next ping if it is due; the one before it is then out of time."""
        if now < self._next:
            return
        if self._sent_at is not None:
            self._unanswered += 1
        self._sequence = (self._sequence + 1) & _SEQUENCE_MASK
        self._sent_at = now
        self._next = now + self._interval
        self._outbox.append(build_ping(self._sequence))
