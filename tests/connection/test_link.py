"""The RTP session of a connection, tied to its transport."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock, SystemClock
from discord_rtc.connection.link import MediaLink
from discord_rtc.errors import NonceExhausted
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.netem import Impairment, Netem
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.rtcp import BitrateEstimate, Nack, PictureLoss, build_rtcp, parse_rtcp
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


async def test_lost_packets_are_sent_again(media: NegotiatedMedia, sink: Sink) -> None:
    near, far = memory_pair(a_to_b=Netem(Impairment(loss=0.1), seed=3))
    clock = SystemClock()
    link, far_link = MediaLink(near, media, sink, clock), MediaLink(far, media, sink, clock)
    link.add_sender(replace(VIDEO, rtx_ssrc=1002, rtx_payload_type=106))
    for number in range(30):
        link.send_frame(1001, vp8(number, keyframe=number == 0, size=3000))
        await asyncio.sleep(0.003)
    link.send_frame(1001, vp8(30))
    await sink.until(lambda: len(sink.frames) >= 30)
    ticks = [frame.ticks for frame in sink.frames]
    assert [tick - ticks[0] for tick in ticks[:30]] == [3000 * number for number in range(30)]
    [inbound] = far_link.stats()[0].inbound
    [outbound] = link.stats()[0].outbound
    assert inbound.recovered >= inbound.cumulative_lost - 1 > 0
    assert outbound.retransmitted >= inbound.recovered
    for one in (link, far_link):
        one.close()
    for end in (near, far):
        await end.aclose()


@pytest.mark.parametrize("description", [None, "v=0"], ids=["aead", "srtp"])
async def test_packets_are_repeated_as_they_were_only_where_that_is_safe(
    media: NegotiatedMedia, sink: Sink, description: str | None
) -> None:
    media = replace(media, remote_description=description)
    near, far = memory_pair()
    link = MediaLink(near, media, sink, SystemClock())
    link.add_sender(VIDEO)
    link.send_frame(1001, vp8(0, keyframe=True))
    [outbound] = link.stats()[0].outbound
    assert outbound.last_sequence is not None
    link.rtcp(Nack(9, 1001, (outbound.last_sequence,)).to_bytes(), SystemClock().now())
    assert link.stats()[0].outbound[0].retransmitted == (description is None)
    link.close()
    for end in (near, far):
        await end.aclose()


async def test_nothing_is_asked_for_where_that_is_not_negotiated(
    media: NegotiatedMedia, sink: Sink
) -> None:
    near, far = memory_pair()
    media = replace(media, feedback=frozenset({"pli"}))
    link = MediaLink(far, media, sink, SystemClock())
    for number in (1, 30, 31):
        packet = RtpPacket(105, number, 3000 * number, 1001, b"\x90\x80\x80\0\0", marker=True)
        near.send_rtp(packet.to_bytes())
    await sink.until(lambda: len(sink.frames) == 2)  # after the window, behind a whole frame
    assert link.stats()[0].inbound[0].nacked == 0
    link.close()
    for end in (near, far):
        await end.aclose()


async def test_retransmissions_of_a_codec_that_was_not_agreed_on_are_no_trouble(
    media: NegotiatedMedia, sink: Sink
) -> None:
    near, far = memory_pair()
    media = replace(media, payload_types={Codec.OPUS: 120}, rtx_payload_types={Codec.VP8: 106})
    link = MediaLink(far, media, sink, SystemClock())
    link.rtp(RtpPacket(106, 1, 2, 3, b"\0\1media").to_bytes(), 0.0)
    assert link.stats()[0].drops == {"unknown-payload-type": 1}
    link.close()
    for end in (near, far):
        await end.aclose()


async def test_who_only_receives_is_known_by_the_assigned_ssrc(
    media: NegotiatedMedia, ends: Ends, eventually: Eventually
) -> None:
    packets: list[bytes] = []

    class Tap:
        def rtp(self, packet: bytes, now: float) -> None:
            """Only RTCP counts here."""

        def rtcp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - the protocol's shape
            packets.append(packet)

        def lost(self, error: Exception) -> None:
            raise AssertionError(error)

    ends.far_transport.deliver_to(Tap())
    ends.far_transport.send_rtp(RtpPacket(105, 1, 0, 7, b"\x90\x80\x80\0\1", True).to_bytes())
    await eventually(lambda: packets)
    assert parse_rtcp(packets[0]) == (PictureLoss(media.audio_ssrc, 7),)


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

    async def prepare(self) -> None:
        raise NotImplementedError

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


async def test_what_was_forgotten_is_not_sent_any_more(ends: Ends) -> None:
    ends.link.add_sender(VIDEO)
    ends.link.set_pacing_rate(80_000)
    ends.link.send_frame(1001, vp8(0, keyframe=True, size=20_000))
    ends.link.forget_packets()
    for number in (1, 2):  # the receiver cannot tell where the first one begins
        ends.link.send_frame(1001, vp8(number, keyframe=True, size=30))
    await ends.far.until(lambda: bool(ends.far.frames))
    assert ends.far.frames[0].data == vp8(2, keyframe=True, size=30).data
