"""The RTP session of a connection, tied to its transport."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock, SystemClock
from discord_rtc.connection.link import MediaLink
from discord_rtc.errors import NonceExhausted
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.rtcp import BitrateEstimate, build_rtcp
from discord_rtc.rtp.session import SenderConfig
from discord_rtc.transport.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
    from discord_rtc.transport.base import (
        MediaOffer,
        NegotiatedMedia,
        PacketSink,
        TransportStats,
    )

    from .conftest import Ends, Eventually, Sink

pytestmark = pytest.mark.asyncio

AUDIO = SenderConfig(1000, Codec.OPUS, 120)
VIDEO = SenderConfig(1001, Codec.VP8, 105)


def vp8(number: int, *, keyframe: bool = False, size: int = 100) -> EncodedFrame:
    # RFC 6386 section 9.1: the lowest bit of a keyframe's tag is 0; then the start code.
    data = bytes([0 if keyframe else 1, 0, 0]) + b"\x9d\x01\x2a" + bytes(size)
    return EncodedFrame(data, Codec.VP8, number, Fraction(1, 30), keyframe)


async def test_frames_come_out_at_the_far_end(
    ends: Ends, opus: Callable[[int], EncodedFrame]
) -> None:
    ends.link.add_sender(AUDIO)
    for number in range(3):
        ends.link.send_frame(1000, opus(960 * number), speaking=5)
    await ends.far.until(lambda: len(ends.far.frames) == 3)
    assert [frame.data for frame in ends.far.frames] == [opus(960 * n).data for n in range(3)]
    assert {(frame.ssrc, frame.codec, frame.flags) for frame in ends.far.frames} == {
        (1000, Codec.OPUS, 5)
    }
    assert ends.far.reports[0].ssrc == 1000


async def test_adding_a_sender_again_goes_on_with_its_numbers(
    ends: Ends, opus: Callable[[int], EncodedFrame]
) -> None:
    ends.link.add_sender(AUDIO)
    ends.link.send_frame(1000, opus(0))
    ends.link.send_frame(1000, opus(960))
    ends.link.add_sender(AUDIO)
    ends.link.send_frame(1000, opus(-5_000_000))  # another source counts from elsewhere
    await ends.far.until(lambda: len(ends.far.frames) == 3)
    first, second, third = (frame.ticks for frame in ends.far.frames)
    assert second - first == 960
    assert 960 <= third - second < 4800
    [stream] = ends.far_link.stats()[0].inbound
    assert (stream.packets, stream.cumulative_lost, stream.restarts) == (3, 0, 0)


async def test_a_restarted_source_goes_on_in_time(
    ends: Ends, opus: Callable[[int], EncodedFrame]
) -> None:
    ends.link.add_sender(AUDIO)
    ends.link.send_frame(1000, opus(7_000_000))
    ends.link.restart_source(1000)
    ends.link.send_frame(1000, opus(0))
    await ends.far.until(lambda: len(ends.far.frames) == 2)
    assert 960 <= ends.far.frames[1].ticks - ends.far.frames[0].ticks < 4800


async def test_keyframe_requests_reach_the_sender(ends: Ends) -> None:
    ends.link.add_sender(VIDEO)
    ends.link.send_frame(1001, vp8(0, keyframe=True))
    await ends.far.until(lambda: bool(ends.far.frames))
    ends.far_link.request_keyframe(1001)
    await ends.near.until(lambda: ends.near.keyframes_wanted == [1001])


async def test_bitrate_estimates_are_taken_without_any_effect_yet(
    ends: Ends, opus: Callable[[int], EncodedFrame]
) -> None:
    ends.far_transport.send_rtcp(build_rtcp((BitrateEstimate(1, 100_000, (1000,)),)))
    ends.far_link.add_sender(replace(AUDIO, ssrc=2000))
    ends.far_link.send_frame(2000, opus(0))
    await ends.near.until(lambda: len(ends.near.frames) == 1)
    assert ends.near.errors == []


async def test_video_that_is_paced_shows_as_backlog(ends: Ends) -> None:
    ends.link.add_sender(VIDEO)
    assert ends.link.backlog() == 0
    ends.link.set_pacing_rate(100_000)
    ends.link.send_frame(1001, vp8(0, keyframe=True, size=20_000))
    assert 1 < ends.link.backlog() < 2
    ends.link.set_pacing_rate(100_000_000)
    await ends.far.until(lambda: bool(ends.far.frames))


async def test_closing_says_goodbye(ends: Ends, opus: Callable[[int], EncodedFrame]) -> None:
    ends.link.add_sender(AUDIO)
    ends.link.send_frame(1000, opus(0))
    await ends.far.until(lambda: bool(ends.far.frames))
    ends.link.close()
    await ends.far.until(lambda: ends.far.ended == [1000])


async def test_a_lost_path_is_told(ends: Ends) -> None:
    error = OSError("gone")
    ends.transport.lose(error)
    assert ends.near.errors == [error]


async def test_packets_from_before_the_link_are_not_lost(
    media: NegotiatedMedia, sink: Sink, opus: Callable[[int], EncodedFrame], eventually: Eventually
) -> None:
    one, two = memory_pair()
    sender = MediaLink(one, media, sink, SystemClock())
    sender.add_sender(AUDIO)
    sender.send_frame(1000, opus(0))
    await eventually(lambda: two.stats().datagrams_received == 2)  # a report and the frame
    MediaLink(two, media, sink, SystemClock()).close()
    assert [frame.data for frame in sink.frames] == [opus(0).data]
    sender.close()
    await one.aclose()
    await two.aclose()


class Exhausted:
    """A transport whose key is used up from the start; it never receives anything."""

    def __init__(self) -> None:
        self.asked = 0

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        raise NotImplementedError

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        raise NotImplementedError

    def send_rtp(self, packet: bytes) -> None:  # noqa: ARG002 - the protocol's shape
        self.asked += 1
        raise NonceExhausted

    def send_rtcp(self, packet: bytes) -> None:
        self.send_rtp(packet)

    def deliver_to(self, sink: PacketSink) -> None:
        """Nothing is delivered."""

    def stats(self) -> TransportStats:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held."""


async def test_a_used_up_key_found_while_sending_ends_the_link(
    media: NegotiatedMedia, sink: Sink, opus: Callable[[int], EncodedFrame]
) -> None:
    link = MediaLink(Exhausted(), media, sink, SystemClock())
    link.add_sender(AUDIO)
    link.send_frame(1000, opus(0))
    assert [type(error) for error in sink.errors] == [NonceExhausted]
    link.close()


async def test_a_used_up_key_found_while_receiving_ends_the_link_after_the_frame(
    ends: Ends, media: NegotiatedMedia, sink: Sink, eventually: Eventually
) -> None:
    clock = ManualClock(1000.0)
    transport = Exhausted()
    link = MediaLink(transport, media, sink, clock)
    packets: list[bytes] = []

    class Tap:
        def rtp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as above
            packets.append(packet)

        def rtcp(self, packet: bytes, now: float) -> None:
            """Only media counts here."""

        def lost(self, error: Exception) -> None:
            raise AssertionError(error)

    ends.far_transport.deliver_to(Tap())
    ends.link.add_sender(VIDEO)
    ends.link.send_frame(1001, vp8(0, keyframe=True))
    ends.link.send_frame(1001, vp8(1))
    await eventually(lambda: len(packets) == 2)
    # The second frame alone cannot be decoded, so a keyframe is asked for, and that is sending.
    link.rtp(packets[1], clock.now())
    assert transport.asked == 1
    assert [type(error) for error in sink.errors] == [NonceExhausted]
    link.close()
