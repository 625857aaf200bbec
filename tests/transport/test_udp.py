"""The UDP transport against a tiny voice server on real loopback sockets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.crypto.modes import DISCONTINUED_MODES, MODES, create_cipher
from discord_rtc.errors import (
    ConnectError,
    DiscoveryTimeout,
    InvalidState,
    MalformedMessage,
    NoCommonCodec,
    NoCommonMode,
    NonceExhausted,
)
from discord_rtc.protocol.discovery import (
    build_ping,
    build_pong,
    build_request,
    build_response,
    is_discovery,
    parse_ping,
    parse_request,
)
from discord_rtc.transport.base import MediaOffer
from discord_rtc.transport.inbox import EARLY_DATAGRAMS
from discord_rtc.transport.path import UdpTimings
from discord_rtc.transport.udp import UdpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.protocol.messages import Ready, SessionDescription
    from discord_rtc.transport.base import NegotiatedMedia

    from .conftest import RecordingSink

pytestmark = pytest.mark.asyncio

KEY = bytes(range(32))
PATIENT = UdpTimings(discovery_schedule=tuple(n * 0.01 for n in range(200)))
"""For everything that shall not depend on the machine's speed."""
QUICK = UdpTimings(
    discovery_schedule=(0.0, 0.01, 0.02, 0.03), discovery_deadline=0.15, ping_interval=0.05
)
quickly = pytest.mark.parametrize("timings", [QUICK], ids=["quick"])


class VoiceServer(asyncio.DatagramProtocol):
    """Answers discovery and pings, and keeps everything else.

    Attributes:
        ignored_requests: How many discovery requests to leave unanswered.
        before_answer: Datagrams sent before each discovery answer.
        answers_pings: Whether it does.
    """

    def __init__(self) -> None:
        self.ignored_requests = 0
        self.before_answer: list[bytes] = []
        self.answers_pings = True
        self.requests = 0
        self.pings: list[int] = []
        self.received: list[bytes] = []
        self.client: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # asyncio's own subtype
        self._transport = transport

    @property
    def port(self) -> int:
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.client = addr
        self._changed.set()
        if is_discovery(data):
            self.requests += 1
            if self.requests > self.ignored_requests:
                for datagram in self.before_answer:
                    self.send(datagram)
                self.send(build_response(parse_request(data), *addr))
        elif (sequence := parse_ping(data)) is not None:
            self.pings.append(sequence)
            if self.answers_pings:
                self.send(build_pong(sequence))
        else:
            self.received.append(data)

    def send(self, datagram: bytes) -> None:
        assert self._transport is not None
        assert self.client is not None
        self._transport.sendto(datagram, self.client)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with a datagram."""
        async with asyncio.timeout(3):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[VoiceServer]:
    server = VoiceServer()
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", 0)
    )
    yield server
    server.close()
    await asyncio.sleep(0)  # asyncio closes sockets one turn later


@pytest.fixture
def there(server: VoiceServer, ready: Ready) -> Ready:
    return replace(ready, port=server.port, modes=tuple(MODES))


@pytest.fixture
def timings() -> UdpTimings:
    return PATIENT


@pytest_asyncio.fixture
async def transport(timings: UdpTimings) -> AsyncIterator[UdpTransport]:
    transport = UdpTransport(timings=timings)
    yield transport
    await transport.aclose()


@pytest.fixture
def server_cipher() -> TransportCipher:
    return create_cipher("aead_aes256_gcm_rtpsize", KEY, side="server")


@pytest.fixture
def connect(
    transport: UdpTransport, there: Ready, answer: SessionDescription
) -> Callable[[], asyncio.Task[NegotiatedMedia]]:
    async def connect() -> NegotiatedMedia:
        await transport.open(there, MediaOffer())
        return await transport.accept(answer)

    return lambda: asyncio.get_running_loop().create_task(connect())


async def settled(transport: UdpTransport, count: int) -> None:
    """Wait until the transport has read that many datagrams."""
    async with asyncio.timeout(3):
        while transport.stats().datagrams_received < count:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.001)


async def test_discovery_tells_the_server_our_address(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    select = await transport.open(there, MediaOffer(rtc_connection_id="an id", experiments=("e",)))
    assert (select.address, select.port) == server.client
    assert select.protocol == "udp"
    assert select.mode == "aead_aes256_gcm_rtpsize"
    assert [codec.name for codec in select.codecs] == ["opus", "H264", "VP8"]
    assert (select.rtc_connection_id, select.experiments) == ("an id", ("e",))
    stats = transport.stats()
    assert stats.local_address == server.client
    assert stats.remote_address == ("127.0.0.1", server.port)


async def test_lost_requests_are_repeated(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.ignored_requests = 2
    await transport.open(there, MediaOffer())
    assert server.requests == 3


async def test_junk_before_the_answer_is_ignored(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.before_answer = [
        b"\0" * 74,
        b"\x80" * 8,
        build_request(there.ssrc),
        build_response(there.ssrc + 1, "203.0.113.7", 1),
        build_response(there.ssrc, "203.0.113.7", 1)[:-1],
        build_response(there.ssrc, "not an address", 1),
    ]
    select = await transport.open(there, MediaOffer())
    assert (select.address, select.port) == server.client
    assert transport.stats().drops == {"junk": len(server.before_answer)}


@quickly
async def test_silence_is_a_discovery_timeout_that_helps(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.ignored_requests = 100
    with pytest.raises(DiscoveryTimeout) as caught:
        await transport.open(there, MediaOffer())
    assert 0 < server.requests <= len(QUICK.discovery_schedule)
    for part in ("UDP", "127.0.0.1", str(server.port), "blocked", "0.15 s", "firewall"):
        assert part in str(caught.value)


@quickly
async def test_closed_port_is_a_discovery_timeout_too(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.close()
    await asyncio.sleep(0)
    with pytest.raises(DiscoveryTimeout):
        await transport.open(there, MediaOffer())
    assert transport.stats().drops["refused"] > 0


async def test_send_only_client_skips_discovery(
    server: VoiceServer, transport: UdpTransport, there: Ready, answer: SessionDescription
) -> None:
    select = await transport.open(there, MediaOffer(receive=False))
    assert select.address == "127.0.0.1"
    assert select.port
    assert server.requests == 0
    await transport.accept(answer)
    await server.until(lambda: bool(server.pings))
    assert server.client == (select.address, select.port)
    assert server.requests == 0


async def test_local_address_can_be_given(server: VoiceServer, there: Ready) -> None:
    transport = UdpTransport(bind=("127.0.0.2", 0), timings=PATIENT)
    select = await transport.open(there, MediaOffer())
    await transport.aclose()
    assert select.address == "127.0.0.2"


async def test_local_port_can_be_of_a_range(server: VoiceServer, there: Ready) -> None:
    transport = UdpTransport(port_range=(42_000, 42_999), timings=PATIENT)
    select = await transport.open(there, MediaOffer())
    await transport.aclose()
    assert select.port in range(42_000, 43_000)


@pytest.mark.parametrize("ip", ["voice.example.org", "", "300.1.2.3"])
async def test_unusable_address_is_a_connect_error(
    ip: str, transport: UdpTransport, there: Ready
) -> None:
    with pytest.raises(ConnectError):
        await transport.open(replace(there, ip=ip), MediaOffer())


async def test_discontinued_modes_need_to_be_asked_for(
    transport: UdpTransport, there: Ready
) -> None:
    with pytest.raises(NoCommonMode, match="xsalsa20_poly1305"):
        await transport.open(replace(there, modes=DISCONTINUED_MODES), MediaOffer())


@pytest.mark.parametrize("mode", MODES)
async def test_every_mode_carries_media_both_ways(
    *,
    mode: str,
    server: VoiceServer,
    transport: UdpTransport,
    there: Ready,
    answer: SessionDescription,
    sink: RecordingSink,
    rtp: Callable[[int], bytes],
    report: bytes,
) -> None:
    select = await transport.open(there, MediaOffer(modes=(mode,)))
    assert select.mode == mode
    await transport.accept(replace(answer, mode=mode))
    transport.deliver_to(sink)
    cipher = create_cipher(mode, KEY, side="server")
    transport.send_rtp(rtp(1))
    transport.send_rtcp(report)
    await server.until(lambda: len(server.received) == 2)
    assert cipher.unprotect_rtp(server.received[0]) == rtp(1)
    assert cipher.unprotect_rtcp(server.received[1]) == report
    server.send(cipher.protect_rtcp(report))
    server.send(cipher.protect_rtp(rtp(7)))
    await sink.holds(2)
    assert (sink.rtp_packets, sink.rtcp_packets) == ([rtp(7)], [report])
    assert transport.stats().datagrams_sent == 2


async def test_largest_packet_fits_into_1280_bytes(
    server: VoiceServer, transport: UdpTransport, there: Ready, answer: SessionDescription
) -> None:
    mode = "xsalsa20_poly1305_suffix"
    await transport.open(there, MediaOffer(modes=(mode,)))
    media = await transport.accept(replace(answer, mode=mode))
    transport.send_rtp(b"\x80" + bytes(media.max_packet_size - 1))
    await server.until(lambda: bool(server.received))
    assert len(server.received[0]) + 20 + 8 == 1280


async def test_negotiated_media(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]], there: Ready
) -> None:
    media = await connect()
    assert media.audio_ssrc == there.ssrc
    assert media.max_packet_size == 1280 - 28 - 20


@quickly
async def test_round_trip_is_measured(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: UdpTransport,
    server: VoiceServer,
) -> None:
    await connect()
    assert transport.stats().rtt is None
    await server.until(lambda: len(server.pings) >= 3 and transport.stats().rtt is not None)
    assert 0 < (transport.stats().rtt or 0) < 1
    assert server.pings[:3] == [1, 2, 3]


@quickly
async def test_unanswered_pings_are_counted_and_nothing_else(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    transport: UdpTransport,
    server: VoiceServer,
    sink: RecordingSink,
) -> None:
    server.answers_pings = False
    await connect()
    transport.deliver_to(sink)
    await server.until(lambda: len(server.pings) >= 3)
    assert transport.stats().drops["ping-unanswered"] >= 2
    assert transport.stats().rtt is None
    assert sink.errors == []


async def test_pings_of_the_server_are_answered(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]], server: VoiceServer
) -> None:
    await connect()
    server.send(build_ping(99))
    await server.until(lambda: build_pong(99) in server.received)


async def test_media_before_the_key_is_kept_and_bounded(
    *,
    server: VoiceServer,
    transport: UdpTransport,
    there: Ready,
    answer: SessionDescription,
    sink: RecordingSink,
    server_cipher: TransportCipher,
    rtp: Callable[[int], bytes],
) -> None:
    await transport.open(there, MediaOffer())
    for number in range(EARLY_DATAGRAMS + 3):
        server.send(server_cipher.protect_rtp(rtp(number)))
    await settled(transport, 1 + EARLY_DATAGRAMS + 3)
    await transport.accept(answer)
    transport.deliver_to(sink)
    assert sink.rtp_packets == [rtp(n) for n in range(EARLY_DATAGRAMS)]
    assert transport.stats().drops["early"] == 3


async def test_replays_and_forgeries_are_counted_and_not_delivered(
    *,
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    server: VoiceServer,
    transport: UdpTransport,
    sink: RecordingSink,
    server_cipher: TransportCipher,
    rtp: Callable[[int], bytes],
    report: bytes,
) -> None:
    await connect()
    transport.deliver_to(sink)
    media, feedback = server_cipher.protect_rtp(rtp(1)), server_cipher.protect_rtcp(report)
    for datagram in (media, feedback, media, feedback, media):
        server.send(datagram)
    server.send(media[:-1] + b"\xff")
    server.send(media[:20])
    server.send(b"\x8f" + media[1:])
    server.send(server_cipher.protect_rtp(rtp(2)))
    await sink.holds(3)
    assert (sink.rtp_packets, sink.rtcp_packets) == ([rtp(1), rtp(2)], [report])
    assert transport.stats().drops == {"replay": 3, "bad-auth": 1, "short": 1, "malformed": 1}


async def test_garbage_flood_does_no_harm(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    server: VoiceServer,
    transport: UdpTransport,
    sink: RecordingSink,
    server_cipher: TransportCipher,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.deliver_to(sink)
    flood = [bytes([n % 256]) * (n % 300 + 1) for n in range(2000)]
    before = transport.stats().datagrams_received
    for start in range(0, len(flood), 100):
        for datagram in flood[start : start + 100]:
            server.send(datagram)
        await settled(transport, before + start + 100)
    server.send(server_cipher.protect_rtp(rtp(1)))
    await sink.holds(1)
    stats = transport.stats()
    assert sink.rtp_packets == [rtp(1)]
    assert sum(stats.drops.values()) == len(flood)
    assert set(stats.drops) <= {"junk", "short", "bad-auth", "malformed"}


@pytest.mark.parametrize("mode", ["aead_xchacha20_poly1305_rtpsize", None])
async def test_answer_for_another_mode_is_refused(
    mode: str | None, transport: UdpTransport, there: Ready, answer: SessionDescription
) -> None:
    await transport.open(there, MediaOffer())
    with pytest.raises(NoCommonMode, match="aead_aes256_gcm_rtpsize"):
        await transport.accept(replace(answer, mode=mode))


@pytest.mark.parametrize("key", [None, b"", KEY[:31], KEY + b"x"])
async def test_answer_without_a_proper_key_is_refused(
    key: bytes | None, transport: UdpTransport, there: Ready, answer: SessionDescription
) -> None:
    await transport.open(there, MediaOffer())
    with pytest.raises(MalformedMessage, match="32") as caught:
        await transport.accept(replace(answer, secret_key=key))
    assert "\\x" not in str(caught.value)


async def test_refused_answer_leaves_the_way_open_for_a_better_one(
    transport: UdpTransport, there: Ready, answer: SessionDescription, rtp: Callable[[int], bytes]
) -> None:
    await transport.open(there, MediaOffer())
    with pytest.raises(NoCommonCodec):
        await transport.accept(replace(answer, audio_codec="lyra"))
    with pytest.raises(InvalidState):
        transport.send_rtp(rtp(1))
    await transport.accept(answer)
    transport.send_rtp(rtp(1))


async def test_repeated_answer_goes_on_with_nonces_and_replay_memory(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    server: VoiceServer,
    transport: UdpTransport,
    answer: SessionDescription,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.send_rtp(rtp(1))
    await transport.accept(replace(answer, video_codec="VP8"))
    transport.send_rtp(rtp(2))
    await transport.accept(replace(answer, secret_key=KEY[::-1]))
    transport.send_rtp(rtp(3))
    await server.until(lambda: len(server.received) == 3)
    assert [datagram[-4:] for datagram in server.received] == [
        bytes(4),
        bytes([0, 0, 0, 1]),
        bytes(4),
    ]


async def test_exhausted_nonces_reach_the_sender(
    there: Ready, answer: SessionDescription, rtp: Callable[[int], bytes], report: bytes
) -> None:
    near_the_end = partial(create_cipher, first_nonce=0x7FFF_FFFF)
    transport = UdpTransport(timings=PATIENT, cipher_factory=near_the_end)
    await transport.open(there, MediaOffer())
    await transport.accept(answer)
    transport.send_rtp(rtp(1))
    with pytest.raises(NonceExhausted):
        transport.send_rtp(rtp(2))
    with pytest.raises(NonceExhausted):
        transport.send_rtcp(report)
    await transport.aclose()


async def test_calls_out_of_order_are_refused(
    transport: UdpTransport, there: Ready, answer: SessionDescription, report: bytes
) -> None:
    with pytest.raises(InvalidState):
        await transport.accept(answer)
    with pytest.raises(InvalidState):
        transport.send_rtcp(report)
    await transport.open(there, MediaOffer())
    with pytest.raises(InvalidState):
        await transport.open(there, MediaOffer())
    await transport.aclose()
    with pytest.raises(InvalidState):
        await transport.accept(answer)


@quickly
async def test_closed_transport_is_silent_and_counts(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]],
    server: VoiceServer,
    transport: UdpTransport,
    sink: RecordingSink,
    server_cipher: TransportCipher,
    rtp: Callable[[int], bytes],
) -> None:
    await connect()
    transport.deliver_to(sink)
    await server.until(lambda: bool(server.pings))
    await transport.aclose()
    await transport.aclose()
    transport.send_rtp(rtp(1))
    server.send(server_cipher.protect_rtp(rtp(1)))
    await asyncio.sleep(QUICK.ping_interval)  # for a ping that was on its way
    pings = len(server.pings)
    await asyncio.sleep(3 * QUICK.ping_interval)
    assert sink.times == []
    assert server.received == []
    assert len(server.pings) == pings
    assert transport.stats().drops["closed"] == 1


async def test_closed_before_opening_does_not_open(transport: UdpTransport, there: Ready) -> None:
    await transport.aclose()
    with pytest.raises(InvalidState):
        await transport.open(there, MediaOffer())


async def test_closing_ends_an_open_under_way(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.ignored_requests = 100
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(fails_to_open(transport, there))
        await server.until(lambda: server.requests > 0)
        await transport.aclose()
    assert "closed" in opening.result()


async def fails_to_open(transport: UdpTransport, there: Ready) -> str:
    with pytest.raises(ConnectError) as caught:
        await transport.open(there, MediaOffer())
    return str(caught.value)


async def test_cancelled_open_releases_its_socket(
    server: VoiceServer, transport: UdpTransport, there: Ready
) -> None:
    server.ignored_requests = 100
    opening = asyncio.create_task(transport.open(there, MediaOffer()))
    await server.until(lambda: server.requests > 0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    requests = server.requests
    await asyncio.sleep(0.05)
    assert server.requests == requests
    with pytest.raises(InvalidState):
        await transport.open(there, MediaOffer())


async def test_keys_do_not_show_in_representations(
    connect: Callable[[], asyncio.Task[NegotiatedMedia]], transport: UdpTransport
) -> None:
    assert repr(KEY) not in repr(transport) + repr(await connect())


async def test_closing_ends_an_open_that_waits_for_its_socket(
    loop_without_readers: Callable[[], asyncio.AbstractEventLoop], there: Ready
) -> None:
    async def story() -> str:
        transport = UdpTransport(timings=QUICK)
        opening = asyncio.create_task(fails_to_open(transport, there))
        await asyncio.sleep(0)
        await transport.aclose()
        return await opening

    def run() -> str:
        with asyncio.Runner(loop_factory=loop_without_readers) as runner:
            return runner.run(story())

    assert "closed" in await asyncio.to_thread(run)
