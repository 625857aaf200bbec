"""The table of received streams: who is in it, from when and until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.events import FrameReceived, SenderReportReceived, StreamEnded
from discord_rtc.rtp.inbound import (
    ENDING_TIME,
    STALE_TIME,
)
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.receivers import MOST_STREAMS
from discord_rtc.rtp.rtcp import SenderReport

if TYPE_CHECKING:
    from tests.rtp.conftest import ReceivedStreams

_OPUS = payload_format(Codec.OPUS)
_VP8 = payload_format(Codec.VP8)
_KEY = b"\x90\x80\x80\x00\x00key"  # one payload: VP8 descriptor and frame
_DELTA = b"\x90\x80\x80\x00\x01delta"


def _report(ssrc: int, ticks: int, ntp: int = 5 << 32) -> SenderReport:
    return SenderReport(ssrc, ntp, ticks, 0, 0)


def test_a_report_before_the_first_packet_is_kept_for_it(received: ReceivedStreams) -> None:
    received.streams.receive_report(_report(2, 0xFFFF_FFFF), 0.5)
    received.streams.receive_report(_report(2, 0xFFFF_FFFF, ntp=6 << 32), 1.0)
    assert received.events == []
    received.video(0, _KEY, 1.5)  # ticks 0: one after the wrap
    assert received.events == [
        SenderReportReceived(2, 6.0, 0xFFFF_FFFF, 1.0),
        FrameReceived(2, Codec.VP8, b"\x00key", 1 << 32, keyframe=True, now=1.5),
    ]
    assert received.streams.reports(1.5)[0].last_sr == 6 << 16


def test_reports_of_streams_that_never_come_are_bounded(received: ReceivedStreams) -> None:
    for ssrc in range(MOST_STREAMS + 3):
        received.streams.receive_report(_report(ssrc + 1, 0), 0.0)
    assert received.drops == {"early-report": 3}
    received.audio(1, ssrc=3)
    assert len(received.events) == 1  # pushed out
    received.audio(1, ssrc=4)
    assert isinstance(received.events[1], SenderReportReceived)


def test_an_ended_stream_takes_no_more_input(received: ReceivedStreams) -> None:
    received.video(1, _KEY, 0.0)
    received.streams.end(2, 0.0)
    received.streams.handle_timeout(1.0)
    received.events.clear()
    received.video(1, _KEY, 1.1)
    received.streams.ask_keyframe(2, 1.1)
    received.streams.end(2, 1.1)
    received.streams.receive_report(_report(2, 5), 1.1)
    assert received.events == []
    assert received.requests == []
    assert received.drops == {"after-bye": 1}


@pytest.mark.parametrize(
    ("sequence", "now"), [(101, 0.5), (30_000, 0.5), (90, ENDING_TIME + STALE_TIME)]
)
def test_an_ssrc_may_come_back(received: ReceivedStreams, sequence: int, now: float) -> None:
    received.audio(100, 0.0)
    received.streams.end(1, 0.0)
    received.streams.handle_timeout(0.2)
    received.audio(sequence, now)
    assert [type(event) for event in received.events] == [FrameReceived, StreamEnded, FrameReceived]
    assert received.stats(1).packets == 1


def test_an_ssrc_may_come_back_before_its_goodbye_takes_effect(received: ReceivedStreams) -> None:
    received.video(100, _KEY, 0.0)
    received.streams.end(2, 0.0)
    received.streams.receive_report(_report(2, 60_000 * 3000), 0.01)  # of the new stream
    received.video(60_000, _KEY, 0.02)
    received.streams.handle_timeout(1.0)
    received.video(60_001, _DELTA, 1.0)
    kinds = [FrameReceived, StreamEnded, SenderReportReceived, FrameReceived, FrameReceived]
    assert [type(event) for event in received.events] == kinds
    assert received.requests == []
    assert received.stats(2).packets == 2


def test_a_goodbye_of_an_unknown_stream_means_nothing(received: ReceivedStreams) -> None:
    received.streams.receive_report(_report(1, 0), 0.0)
    received.streams.end(1, 0.0)
    received.audio(1)
    assert [type(event) for event in received.events] == [FrameReceived]


def test_a_forgotten_stream_begins_anew(received: ReceivedStreams) -> None:
    received.video(1, _DELTA, 0.0)
    received.streams.forget(2)
    received.streams.forget(2)
    assert received.streams.stats() == ()
    assert received.streams.next_timeout() is None
    received.video(2, _KEY, 0.0)
    assert len(received.frames()) == 1


def test_the_longest_silent_stream_makes_room(received: ReceivedStreams) -> None:
    for ssrc in range(MOST_STREAMS):
        received.audio(1, float(ssrc), ssrc=ssrc)
    received.audio(2, 1000.0, ssrc=0)
    received.audio(1, 1001.0, ssrc=5000)
    assert StreamEnded(1) in received.events
    assert len(received.streams.stats()) == MOST_STREAMS
    table = received.streams.queue_stats()[0]
    assert (table.high_water, table.bound, table.dropped) == (MOST_STREAMS, MOST_STREAMS, 1)


def test_an_ended_stream_makes_room_without_ending_twice(received: ReceivedStreams) -> None:
    for ssrc in range(MOST_STREAMS):
        received.audio(1, float(ssrc), ssrc=ssrc)
    received.streams.end(0, 500.0)
    received.streams.handle_timeout(501.0)
    received.audio(1, 502.0, ssrc=5000)
    assert [event for event in received.events if isinstance(event, StreamEnded)] == [
        StreamEnded(0)
    ]


def test_streams_are_reported_and_asked_one_by_one(received: ReceivedStreams) -> None:
    received.audio(1)
    received.video(1, _KEY)
    received.streams.receive_report(_report(1, 960, ntp=9 << 32), 0.0)
    assert [(block.ssrc, block.last_sr) for block in received.streams.reports(0.0)] == [
        (1, 9 << 16),
        (2, 0),
    ]
    assert received.streams.reports(5.0) == []
    received.streams.ask_keyframe(2, 1.0)
    received.streams.ask_keyframe(2, 1.1)
    assert received.requests == [2]
    assert received.streams.next_timeout() == 1.5
    assert [stats.ssrc for stats in received.streams.stats()] == [1, 2]


# ---- whose retransmissions ----------------------------------------------------------------


def _gap(streams: ReceivedStreams, ssrc: int, first: int) -> None:
    """A stream that misses the packet behind its first one."""
    streams.video(first, _KEY, ssrc=ssrc)
    streams.video(first + 2, _DELTA, ssrc=ssrc)


def test_retransmissions_come_from_the_next_ssrc(repaired: ReceivedStreams) -> None:
    _gap(repaired, 100, 10)
    _gap(repaired, 200, 10)
    repaired.rtx(11, _DELTA, ssrc=201)
    assert [repaired.stats(ssrc).recovered for ssrc in (100, 200)] == [0, 1]
    assert repaired.drops == {}


def test_the_last_ssrc_is_followed_by_the_first(repaired: ReceivedStreams) -> None:
    _gap(repaired, 0xFFFFFFFF, 10)
    repaired.rtx(11, _DELTA, ssrc=0)
    assert repaired.stats(0xFFFFFFFF).recovered == 1


def test_any_ssrc_is_learned_from_what_one_stream_misses(repaired: ReceivedStreams) -> None:
    _gap(repaired, 100, 10)
    _gap(repaired, 200, 20)
    repaired.rtx(21, _DELTA, ssrc=7777)
    repaired.rtx(12, _DELTA, ssrc=7777)  # learned: not missed there, though by the other one
    assert [repaired.stats(ssrc).recovered for ssrc in (100, 200)] == [0, 1]
    assert repaired.stats(200).rtx_duplicates == 1
    assert repaired.drops == {}


@pytest.mark.parametrize("sequence", [11, 12, 40_000])
def test_retransmissions_that_nobody_or_several_miss_are_counted(
    repaired: ReceivedStreams, sequence: int
) -> None:
    _gap(repaired, 100, 10)
    _gap(repaired, 200, 10)
    repaired.rtx(sequence, _DELTA, ssrc=7777)
    assert repaired.drops == {"rtx-unpaired": 1}
    assert [repaired.stats(ssrc).rtx_duplicates for ssrc in (100, 200)] == [0, 0]


def test_the_right_number_at_another_time_teaches_nothing(repaired: ReceivedStreams) -> None:
    _gap(repaired, 100, 10)
    packet = RtpPacket(106, 1, 1 << 31, 7777, b"\0\x0b" + _DELTA)
    repaired.streams.receive_retransmission(packet, 105, _VP8, 0.0)
    assert repaired.drops == {"rtx-unpaired": 1}


def test_what_was_learned_about_a_stream_that_is_gone_is_learned_anew(
    repaired: ReceivedStreams,
) -> None:
    _gap(repaired, 100, 10)
    repaired.rtx(11, _DELTA, ssrc=7777)
    repaired.streams.forget(100)
    _gap(repaired, 200, 20)
    repaired.rtx(21, _DELTA, ssrc=7777)
    assert repaired.stats(200).recovered == 1


def test_what_is_learned_is_bounded(repaired: ReceivedStreams) -> None:
    last = 11 + MOST_STREAMS + 2
    repaired.video(10, _KEY, ssrc=100)
    repaired.video(last, _DELTA, ssrc=100)
    for number in range(MOST_STREAMS + 1):
        original = (11 + number).to_bytes(2, "big")
        packet = RtpPacket(106, 1, last * 3000, 5000 + number, original + _DELTA)
        repaired.streams.receive_retransmission(packet, 105, _VP8, 0.0)
    assert repaired.stats(100).recovered == MOST_STREAMS + 1
    repaired.rtx(11, _DELTA, ssrc=5001)
    assert repaired.stats(100).rtx_duplicates == 1
    repaired.rtx(11, _DELTA, ssrc=5000)  # pushed out
    assert repaired.drops == {"rtx-unpaired": 1}


def test_retransmissions_of_audio_or_another_codec_are_counted(repaired: ReceivedStreams) -> None:
    repaired.audio(10, ssrc=100)
    repaired.rtx(11, b"opus", ssrc=101)
    _gap(repaired, 200, 10)
    packet = RtpPacket(102, 1, 11 * 3000, 201, b"\0\x0bdata")
    h264 = payload_format(Codec.H264)
    repaired.streams.receive_retransmission(packet, 101, h264, 0.0)
    assert repaired.drops == {"rtx-unpaired": 2}


def test_probes_are_counted_whoever_sends_them(repaired: ReceivedStreams) -> None:
    _gap(repaired, 100, 10)
    repaired.rtx(0, b"", ssrc=101, probe=True)
    repaired.rtx(0, b"", ssrc=7777, probe=True)
    assert repaired.drops == {"probe": 2}
