"""Two ends in one process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock
from discord_rtc.errors import InvalidState, NoCommonCodec, NoCommonMode
from discord_rtc.frames import Codec
from discord_rtc.netem import REORDER_HOLD, Impairment, Netem
from discord_rtc.transport.base import MediaOffer
from discord_rtc.transport.memory import MemoryTransport, memory_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.messages import Ready, SessionDescription

    from .conftest import RecordingSink

pytestmark = pytest.mark.asyncio


async def test_packets_arrive_as_sent(
    sink: RecordingSink, rtp: Callable[[int], bytes], report: bytes
) -> None:
    a, b = memory_pair()
    b.deliver_to(sink)
    a.send_rtp(rtp(1))
    a.send_rtcp(report)
    a.send_rtp(rtp(2))
    assert sink.times == []  # never inside the sender's call
    await sink.holds(3)
    assert sink.rtp_packets == [rtp(1), rtp(2)]
    assert sink.rtcp_packets == [report]
    assert a.stats().datagrams_sent == b.stats().datagrams_received == 3
    assert not b.stats().drops


async def test_both_directions_are_separate(rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair(b_to_a=Netem(Impairment(loss=1.0)))

    class Echo:
        def __init__(self, end: MemoryTransport) -> None:
            self.end = end
            self.packets: list[bytes] = []
            self.times: list[float] = []

        def rtp(self, packet: bytes, now: float) -> None:
            self.packets.append(packet)
            self.times.append(now)
            self.end.send_rtp(packet)

        rtcp = rtp

        def lost(self, error: Exception) -> None:
            raise AssertionError(error)

    at_a, at_b = Echo(a), Echo(b)
    a.deliver_to(at_a)
    b.deliver_to(at_b)
    a.send_rtp(rtp(1))
    await asyncio.sleep(0.01)
    assert (at_a.packets, at_b.packets) == ([], [rtp(1)])
    assert dict(a.stats().drops) == {"link-lost": 1}


async def test_packets_wait_for_a_sink(sink: RecordingSink, rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair()
    a.send_rtp(rtp(1))
    await asyncio.sleep(0.01)
    b.deliver_to(sink)
    assert sink.rtp_packets == [rtp(1)]


async def test_impaired_packets_take_their_time(
    sink: RecordingSink, rtp: Callable[[int], bytes]
) -> None:
    loop = asyncio.get_running_loop()
    a, b = memory_pair(a_to_b=Netem(Impairment(delay=0.03)))
    b.deliver_to(sink)
    start = loop.time()
    a.send_rtp(rtp(1))
    await sink.holds(1)
    assert 0.03 <= sink.times[0] - start < 1


async def test_manual_clock_decides_when_to_deliver(
    sink: RecordingSink, rtp: Callable[[int], bytes]
) -> None:
    clock = ManualClock(5.0)
    a, b = memory_pair(clock, a_to_b=Netem(Impairment(delay=2.0)))
    b.deliver_to(sink)
    a.send_rtp(rtp(1))
    clock.advance(1.5)
    b.deliver_due()
    assert sink.times == []
    clock.advance(0.5)
    b.deliver_due()
    assert sink.times == [7.0]
    await a.aclose()
    await b.aclose()


async def test_overtaking_packet_moves_the_timer_forward(
    sink: RecordingSink, rtp: Callable[[int], bytes]
) -> None:
    loop = asyncio.get_running_loop()
    a, b = memory_pair(a_to_b=Netem(Impairment(reorder=1.0)))
    b.deliver_to(sink)
    start = loop.time()
    a.send_rtp(rtp(1))
    a.send_rtp(rtp(2))
    await sink.holds(2)
    assert sink.rtp_packets == [rtp(2), rtp(1)]
    assert sink.times[0] - start < REORDER_HOLD


async def test_link_is_bounded(sink: RecordingSink, rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair()
    b.deliver_to(sink)
    for number in range(1100):
        a.send_rtp(rtp(number))
    await sink.holds(1000)
    assert dict(b.stats().drops) == {"link-overflow": 100}


async def test_closed_ends_are_silent(sink: RecordingSink, rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair()
    b.deliver_to(sink)
    a.send_rtp(rtp(1))
    await b.aclose()
    await b.aclose()
    a.send_rtp(rtp(2))
    b.send_rtp(rtp(3))
    b.deliver_due()
    await asyncio.sleep(0.01)
    assert sink.times == []
    assert b.stats().drops["closed"] == 1


async def test_sink_may_close_its_end(rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair()

    class Closing:
        def __init__(self) -> None:
            self.packets: list[bytes] = []
            self.times: list[float] = []

        def rtp(self, packet: bytes, now: float) -> None:
            self.packets.append(packet)
            self.times.append(now)
            # runs until its first real suspension, of which there is none
            with pytest.raises(StopIteration):
                b.aclose().send(None)

        rtcp = rtp

        def lost(self, error: Exception) -> None:
            raise AssertionError(error)

    sink = Closing()
    b.deliver_to(sink)
    a.send_rtp(rtp(1))
    a.send_rtp(rtp(2))
    await asyncio.sleep(0.01)
    assert sink.packets == [rtp(1)]


async def test_broken_path_is_told(sink: RecordingSink, rtp: Callable[[int], bytes]) -> None:
    a, b = memory_pair()
    b.deliver_to(sink)
    error = ConnectionError("cable cut")
    b.lose(error)
    a.send_rtp(rtp(1))
    await asyncio.sleep(0.01)
    assert sink.errors == [error]
    assert sink.times == []


async def test_negotiates_as_udp_does(ready: Ready, answer: SessionDescription) -> None:
    end, _ = memory_pair()
    select = await end.open(ready, MediaOffer())
    assert select.mode == "aead_aes256_gcm_rtpsize"
    assert select.address
    assert [codec.name for codec in select.codecs] == ["opus", "H264", "VP8"]
    media = await end.accept(answer)
    assert media.audio_ssrc == ready.ssrc
    assert media.video_codec is Codec.H264
    assert media.max_packet_size == 1232


async def test_negotiation_errors_are_those_of_udp(
    ready: Ready, answer: SessionDescription
) -> None:
    end, other = memory_pair()
    with pytest.raises(InvalidState):
        await end.accept(answer)
    with pytest.raises(NoCommonMode):
        await end.open(ready, MediaOffer(modes=("xsalsa20_poly1305",)))
    await end.open(ready, MediaOffer(codecs=()))
    with pytest.raises(InvalidState):
        await end.open(ready, MediaOffer())
    with pytest.raises(NoCommonCodec):
        await end.accept(answer)
    await other.aclose()
    with pytest.raises(InvalidState):
        await other.open(ready, MediaOffer())
