"""DTLS-SRTP: two ends of a path agree on SRTP keys. Sans-I/O. Spec: RFC 5764 over RFC 6347.

OpenSSL does the handshake over a memory BIO; this module gives it the face of every other sans-I/O
object. DTLS 1.2 only, the one version that every WebRTC stack has. No tickets, no renegotiation:
the association carries nothing but the handshake and the goodbye.

The peer's certificate is checked in the middle of the handshake, against the fingerprints from
signalling and nothing else, so with the wrong one the handshake fails at both ends and keys never
exist.

Two clocks repair loss:

* OpenSSL sends its last flight again after 1, 2, 4 s ... *by its own wall clock*. `next_timeout` is
  ``now`` plus what OpenSSL said was left when it was last looked at; a manual clock does not move
  it. This alone also answers a peer who asks again: a client whose last flight was lost, or ours.
* Calls have no second to lose, so in between the very datagrams of the last flight are repeated
  after `REPEATS`, by ``now``. To a peer who got them they are duplicates, which the record layer's
  replay check discards (RFC 6347 section 4.1.2.6); to one who did not, they are the flight.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from OpenSSL import SSL, crypto

from discord_rtc.crypto.certificate import Certificate, Fingerprint, usable_fingerprints
from discord_rtc.crypto.records import pack_records, screen_records
from discord_rtc.crypto.srtp import SrtpKeys, SrtpProfile
from discord_rtc.errors import InvalidState, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROFILES = tuple(SrtpProfile)
"""What is offered unless told otherwise, the preferred one first."""

REPEATS = (0.1, 0.2, 0.4)
"""Gaps in seconds between repetitions of one flight: done before OpenSSL's first second is over."""

MAX_UNSENT = 8
"""Datagrams that wait for `DtlsEndpoint.datagrams_to_send`; no flight has more than three."""

MIN_MTU = 256
"""OpenSSL cuts handshake messages no smaller (``dtls1_link_min_mtu``)."""

_DTLS_1_2 = 0xFEFD  # RFC 6347 section 4.1
_EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"  # RFC 5764 section 4.2
_READ_SIZE = 2**14  # RFC 5246 section 6.2.1: no record holds more

# RFC 8827 section 6.5: the first is the one that everybody has. Ours is always an ECDSA
# certificate; the RSA suites are for servers with another one.
_CIPHERS = b":".join(
    b"ECDHE-%s-%s" % (authentication, cipher)
    for authentication in (b"ECDSA", b"RSA")
    for cipher in (b"AES128-GCM-SHA256", b"AES256-GCM-SHA384", b"CHACHA20-POLY1305")
)


@dataclass(frozen=True, slots=True)
class KeysAgreed:
    """The handshake is done, and the peer has the certificate that it should have.

    Attributes:
        keys: Of both directions.
    """

    keys: SrtpKeys


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """There will be no keys; this endpoint is done.

    Attributes:
        reason: Text for people.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer said goodbye, or an authenticated alert ended the association."""


DtlsEvent: TypeAlias = KeysAgreed | HandshakeFailed | PeerClosed


class _State(Enum):
    NEW = auto()
    HANDSHAKING = auto()
    AGREED = auto()
    CLOSED = auto()


def is_dtls(datagram: bytes) -> bool:
    """Tell DTLS from what else shares the socket, by the first byte (RFC 7983 section 7)."""
    return bool(datagram) and 20 <= datagram[0] <= 63


class _PeerCheck:
    """OpenSSL's verify callback: only the fingerprint of the peer's own certificate counts.

    Who issued it, when it expires and what it says are no concern (RFC 8827 section 5).
    """

    def __init__(self, fingerprints: tuple[Fingerprint, ...]) -> None:
        self._fingerprints = fingerprints
        self.passed = False
        self.problem = ""

    def __call__(
        self, _connection: SSL.Connection, found: crypto.X509, _error: int, depth: int, _ok: int
    ) -> bool:
        if depth:
            return True  # an issuer's certificate
        certificate = crypto.dump_certificate(crypto.FILETYPE_ASN1, found)
        self.passed = any(expected.matches(certificate) for expected in self._fingerprints)
        if not self.passed:
            expected = self._fingerprints[0]
            actual = Fingerprint.of(certificate, expected.algorithm)
            self.problem = f"the peer's certificate is {actual}, announced was {expected}"
        return self.passed


class DtlsEndpoint:
    """One end of one DTLS association.

    Args:
        certificate: Ours.
        client: Which role to take; the client speaks first.
        fingerprints: Of the peer's certificate, as in SDP. It must have one of them.
        profiles: SRTP profiles to offer or to choose from, the preferred one first.
        mtu: Largest datagram to send, in bytes.

    Attributes:
        counters: ``dtls-junk`` (datagrams with records that no peer sends), ``dtls-early`` (before
            `start`), ``dtls-stray`` (after the end), ``dtls-data`` (records of application data,
            which nobody reads), ``dtls-ignored`` (datagrams after the handshake with nothing new
            in them), ``dtls-repeated`` (flights sent again by our clock), ``dtls-timeouts`` (by
            OpenSSL's), ``dtls-unsent`` (datagrams dropped because nobody took them).

    Raises:
        MalformedSdp: None of the fingerprints can be read and checked.
        UsageError: No profile, or an ``mtu`` under `MIN_MTU`.
    """

    def __init__(
        self,
        certificate: Certificate,
        *,
        client: bool,
        fingerprints: Sequence[str],
        profiles: Sequence[SrtpProfile] = PROFILES,
        mtu: int = 1200,
    ) -> None:
        if mtu < MIN_MTU or not profiles:
            raise UsageError(f"DTLS-SRTP needs a profile and datagrams of {MIN_MTU} bytes")
        self.counters: Counter[str] = Counter()
        self._peer = _PeerCheck(usable_fingerprints(fingerprints))
        self._client = client
        self._mtu = mtu
        self._state = _State.NEW
        self._events: deque[DtlsEvent] = deque()  # one of a kind at most
        self._unsent: list[bytes] = []
        self._flight: list[bytes] = []
        self._gaps = iter(REPEATS)
        self._repeat_at: float | None = None
        self._retransmit_at: float | None = None
        self._ssl = SSL.Connection(_context(certificate, profiles, self._peer))
        self._ssl.set_ciphertext_mtu(mtu)
        if client:
            self._ssl.set_connect_state()
        else:
            self._ssl.set_accept_state()

    def start(self, now: float) -> None:
        """Begin the handshake: a client says hello, a server waits for that.

        Raises:
            InvalidState: It was begun or closed before.
        """
        if self._state is not _State.NEW:
            raise InvalidState("a DTLS endpoint is started once")
        self._state = _State.HANDSHAKING
        self._handshake(now)

    def receive_datagram(self, datagram: bytes, now: float) -> None:
        """Take one datagram for which `is_dtls` holds. Nothing in it makes this raise."""
        if self._state is _State.NEW:
            self.counters["dtls-early"] += 1
            return
        if self._state is _State.CLOSED:
            self.counters["dtls-stray"] += 1
            return
        records = screen_records(datagram, from_client=not self._client)
        if len(records) < len(datagram):
            self.counters["dtls-junk"] += 1
        if not records:
            return
        self._ssl.bio_write(records)
        if self._state is _State.HANDSHAKING:
            self._handshake(now)
        elif not self._read(now):
            self.counters["dtls-ignored"] += 1

    def datagrams_to_send(self) -> list[bytes]:
        """Return the datagrams to send, in order, and forget them."""
        datagrams, self._unsent = self._unsent, []
        return datagrams

    def next_event(self) -> DtlsEvent | None:
        """Return the oldest event that was not returned yet."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, or None."""
        times = [time for time in (self._repeat_at, self._retransmit_at) if time is not None]
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """Send the last flight again if it is time for that, by either clock."""
        if self._repeat_at is not None and now >= self._repeat_at:
            self.counters["dtls-repeated"] += 1
            self._queue(self._flight)
            self._arm_repeat(now)
        if self._state is _State.HANDSHAKING:
            self._handshake(now, look_at_timer=True)

    def close(self, now: float) -> None:
        """Say goodbye if there is somebody to say it to. Calling it again does nothing."""
        if self._state is _State.AGREED:
            self._ssl.shutdown()
        self._end()
        self._flush(now)

    def _handshake(self, now: float, *, look_at_timer: bool = False) -> None:
        try:
            if look_at_timer and self._ssl.DTLSv1_handle_timeout():
                self.counters["dtls-timeouts"] += 1
            self._ssl.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            self._fail(self._peer.problem or describe_failure(error))
        else:
            self._agree()
        self._flush(now)
        if self._state is _State.AGREED:
            self._read(now)

    def _agree(self) -> None:
        assert self._peer.passed  # OpenSSL asks for a certificate and does not go on without
        name = self._ssl.get_selected_srtp_profile().decode()
        profile = next((known for known in SrtpProfile if known.openssl_name == name), None)
        if profile is None:
            self._fail("the peer has no SRTP profile in common with us")
            return
        length = 2 * (profile.key_length + profile.salt_length)
        material = self._ssl.export_keying_material(_EXPORTER_LABEL, length)
        self._events.append(KeysAgreed(SrtpKeys.from_exported(profile, material)))
        self._state = _State.AGREED
        self._repeat_at = None  # a server's last flight is still to be flushed

    def _read(self, now: float) -> bool:
        """Let OpenSSL answer a peer who asks again, drop data, notice the goodbye.

        Returns:
            Whether there was data or a goodbye.
        """
        found = False
        while True:
            try:
                self._ssl.recv(_READ_SIZE)
            except SSL.WantReadError:
                break
            except SSL.Error:  # by now from authenticated records only
                self._events.append(PeerClosed())
                self._end()
                found = True
                break
            self.counters["dtls-data"] += 1
            found = True
        self._flush(now)
        return found

    def _fail(self, reason: str) -> None:
        self._events.append(HandshakeFailed(reason))
        self._end()

    def _end(self) -> None:
        self._state = _State.CLOSED
        self._repeat_at = None

    def _flush(self, now: float) -> None:
        """Take what OpenSSL wrote, which is one flight, an alert or nothing."""
        written = self._written()
        if written:
            flight = pack_records(written, self._mtu)
            self._queue(flight)
            if self._state is not _State.CLOSED:
                self._flight, self._gaps = flight, iter(REPEATS)
                self._arm_repeat(now)
        left = self._ssl.DTLSv1_get_timeout() if self._state is _State.HANDSHAKING else None
        self._retransmit_at = None if left is None else now + left

    def _written(self) -> bytes:
        chunks = []
        while True:
            try:
                chunks.append(self._ssl.bio_read(_READ_SIZE))
            except SSL.WantReadError:
                return b"".join(chunks)

    def _queue(self, datagrams: list[bytes]) -> None:
        room = MAX_UNSENT - len(self._unsent)
        self._unsent += datagrams[:room]
        if len(datagrams) > room:
            self.counters["dtls-unsent"] += len(datagrams) - room

    def _arm_repeat(self, now: float) -> None:
        gap = next(self._gaps, None)
        self._repeat_at = None if gap is None else now + gap


def describe_failure(error: SSL.Error) -> str:
    """Say in words why OpenSSL gave a handshake up."""
    if isinstance(error, SSL.ZeroReturnError):
        return "the peer closed the association during the handshake"
    match error.args:
        case ([*_, (_, _, str(reason))],):
            # OpenSSL: "tls alert handshake failure", "tlsv1 alert unknown ca"
            _, alert, name = reason.partition(" alert ")
            return f"the peer sent alert {name}" if alert else reason
        case _:
            return f"{error!r}"


def _context(
    certificate: Certificate, profiles: Sequence[SrtpProfile], verify: _PeerCheck
) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_min_proto_version(_DTLS_1_2)
    context.set_max_proto_version(_DTLS_1_2)
    # A memory BIO knows no MTU, so it must not be asked. A resumed session would skip the
    # certificate, hence neither tickets nor a cache.
    context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(_CIPHERS)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.private_key)
    context.set_tlsext_use_srtp(":".join(profile.openssl_name for profile in profiles).encode())
    return context
