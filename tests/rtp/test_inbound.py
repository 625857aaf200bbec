"""Received streams: from packets to frames, reports and requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.assembler import AUDIO_WINDOW, VIDEO_WINDOW
from discord_rtc.rtp.events import FrameReceived, SenderReportReceived, StreamEnded
from discord_rtc.rtp.extensions import build_elements
from discord_rtc.rtp.inbound import (
    ENDING_TIME,
    KEYFRAME_REQUEST_INTERVAL,
    KEYFRAME_REQUEST_TIME,
)
from discord_rtc.rtp.loss import LONGEST_WINDOW, MOST_MISSING, REORDER_SECONDS
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.rtcp import ReportBlock, SenderReport

if TYPE_CHECKING:
    from tests.rtp.conftest import ReceivedStreams

_OPUS = payload_format(Codec.OPUS)
_VP8 = payload_format(Codec.VP8)
_KEY = b"\x90\x80\x80\x00\x00key"  # one payload: VP8 descriptor and frame
_DELTA = b"\x90\x80\x80\x00\x01delta"


def _report(ssrc: int, ticks: int, ntp: int = 5 << 32) -> SenderReport:
    return SenderReport(ssrc, ntp, ticks, 0, 0)


# ---- frames ------------------------------------------------------------------------------


def test_a_packet_becomes_a_frame(received: ReceivedStreams) -> None:
    received.audio(3, 7.5)
    assert received.events == [
        FrameReceived(1, Codec.OPUS, b"opus", 2880, keyframe=True, now=7.5, lost=0)
    ]
    received.video(9, _KEY, 8.0)
    assert received.events[1] == FrameReceived(
        2, Codec.VP8, b"\x00key", 27_000, keyframe=True, now=8.0
    )
    assert received.streams.next_timeout() is None


def test_ticks_and_sequence_numbers_go_on_across_their_wraps(received: ReceivedStreams) -> None:
    first = (1 << 32) // 960 - 2  # ticks wrap two frames later
    for sequence in range(first, first + 6):
        received.audio(sequence)
    ticks = [frame.ticks for frame in received.frames()]
    assert ticks == [sequence * 960 for sequence in range(first, first + 6)]
    assert ticks[-1] > 1 << 32
    assert received.stats(1).cumulative_lost == 0


def test_a_gap_is_given_up_by_the_timer(received: ReceivedStreams) -> None:
    received.audio(1, 0.0)
    received.audio(3, 0.04)
    deadline = received.streams.next_timeout()
    assert deadline == pytest.approx(0.04 + AUDIO_WINDOW)
    received.streams.handle_timeout(0.05)
    assert len(received.frames()) == 1
    received.streams.handle_timeout(0.1)
    assert [(frame.lost, frame.now) for frame in received.frames()] == [(0, 0.0), (1, 0.1)]
    assert received.streams.next_timeout() is None


def test_a_late_packet_is_counted_not_raised(received: ReceivedStreams) -> None:
    received.audio(1, 0.0)
    received.audio(3, 0.0)
    received.streams.handle_timeout(1.0)
    received.audio(2, 1.0)
    received.audio(2, 1.0)
    stats = received.stats(1)
    assert (stats.late, stats.duplicates, stats.packets, stats.frames) == (1, 1, 4, 2)
    assert stats.cumulative_lost == -1


def test_voice_extensions_come_with_the_frame(received: ReceivedStreams) -> None:
    received.audio(1, extension=build_elements(((1, b"\x9e"), (9, b"\x05")))[1])
    received.audio(2, extension=build_elements(((9, b"\x02"),))[1])
    received.audio(3, extension=build_elements(((1, b"\x7f"),))[1])
    received.audio(4, extension=build_elements(((3, b"abc"),))[1])
    received.audio(5)
    assert [(frame.flags, frame.level) for frame in received.frames()] == [
        (6 | 1, -30),  # sound share, priority, which implies voice
        (1, None),
        (None, -127),
        (None, None),
        (None, None),
    ]


def test_voice_extensions_of_a_wrong_length_are_counted_and_left_out(
    received: ReceivedStreams,
) -> None:
    received.audio(1, extension=build_elements(((1, b"\x9e\x00"), (9, b"\x02")))[1])
    assert [(frame.flags, frame.level) for frame in received.frames()] == [(None, None)]
    assert received.drops == {"malformed-extension": 1}


def test_a_stream_that_restarts_goes_on(received: ReceivedStreams) -> None:
    received.audio(100)
    received.audio(40_000)
    assert len(received.frames()) == 1
    received.audio(40_001)
    received.audio(40_002)
    assert [frame.lost for frame in received.frames()] == [0, 0, 0]
    stats = received.stats(1)
    assert (stats.restarts, stats.disbelieved) == (1, 1)


def test_a_stream_may_change_its_codec(received: ReceivedStreams) -> None:
    received.audio(10, ssrc=7)
    received.audio(12, ssrc=7)
    received.video(13, _KEY, ssrc=7)
    assert [(frame.codec, frame.lost) for frame in received.frames()] == [
        (Codec.OPUS, 0),
        (Codec.OPUS, 1),
        (Codec.VP8, 0),
    ]
    assert received.stats(7).codec is Codec.VP8


def test_counters(received: ReceivedStreams) -> None:
    received.video(1, _KEY, 0.0)
    received.video(2, _DELTA, 0.0)  # 3000 ticks too early
    received.video(3, b"\x80", 0.0)  # no start: malformed, closes the gate
    received.video(4, _DELTA, 0.0)
    stats = received.stats(2)
    assert (stats.packets, stats.frames, stats.keyframes) == (4, 2, 1)
    assert (stats.frames_dropped, stats.malformed_frames) == (1, 1)
    assert stats.payload_octets == len(_KEY) + 2 * len(_DELTA) + 1
    j = 3000 / 16
    j += (3000 - j) / 16
    j += (3000 - j) / 16
    assert stats.jitter == pytest.approx(j / 90_000)


# ---- keyframes ---------------------------------------------------------------------------


def test_a_keyframe_is_asked_for_until_it_comes(received: ReceivedStreams) -> None:
    received.video(1, _DELTA, 1.0)
    assert received.requests == [2]
    received.video(2, _DELTA, 1.1)
    assert received.requests == [2]
    assert received.streams.next_timeout() == 1.0 + KEYFRAME_REQUEST_INTERVAL
    received.streams.handle_timeout(1.5)
    assert received.requests == [2, 2]
    received.video(3, _KEY, 1.6)
    assert received.streams.next_timeout() is None
    assert received.stats(2).keyframe_requests == 2


def test_a_gap_leads_to_a_keyframe_request(received: ReceivedStreams) -> None:
    received.video(1, _KEY, 1.0)
    received.video(3, _DELTA, 1.0)
    received.streams.handle_timeout(1.0 + VIDEO_WINDOW)
    assert received.requests == [2]


def test_a_stream_that_stopped_is_not_asked_for_ever(received: ReceivedStreams) -> None:
    received.video(1, _DELTA, 0.0)
    times = []
    while (deadline := received.streams.next_timeout()) is not None:
        times.append(deadline)
        received.streams.handle_timeout(deadline)
    assert len(times) == round(KEYFRAME_REQUEST_TIME / KEYFRAME_REQUEST_INTERVAL) - 1
    assert max(times) < KEYFRAME_REQUEST_TIME
    received.video(2, _DELTA, 100.0)
    assert len(received.requests) == len(times) + 2


def test_the_owner_may_ask_for_a_keyframe(received: ReceivedStreams) -> None:
    received.video(1, _KEY, 0.0)
    received.streams.ask_keyframe(2, 60.0)
    assert received.requests == [2]
    assert received.streams.next_timeout() is None
    received.streams.ask_keyframe(2, 60.2)  # too soon: later
    assert received.requests == [2]
    assert received.streams.next_timeout() == 60.5
    received.streams.handle_timeout(60.5)
    assert received.requests == [2, 2]
    assert received.streams.next_timeout() is None


def test_a_keyframe_answers_the_request_of_the_owner(received: ReceivedStreams) -> None:
    received.video(1, _KEY, 0.0)
    received.streams.ask_keyframe(2, 0.0)
    received.streams.ask_keyframe(2, 0.1)
    received.video(2, _KEY, 0.2)
    assert received.streams.next_timeout() is None


def test_nobody_is_asked_for_audio_or_unknown_streams(received: ReceivedStreams) -> None:
    received.audio(1)
    received.streams.ask_keyframe(1, 0.0)
    received.streams.ask_keyframe(99, 0.0)
    assert received.requests == []


# ---- reports -----------------------------------------------------------------------------


def test_a_sender_report_has_the_ticks_of_the_frames(received: ReceivedStreams) -> None:
    first = (1 << 32) // 960 - 1
    received.audio(first)
    received.streams.receive_report(_report(1, 100, ntp=(7 << 32) + (1 << 31)), 2.0)
    assert received.events[1] == SenderReportReceived(1, 7.5, (1 << 32) + 100, 2.0)


def test_a_strange_sender_report_does_not_mislead_the_ticks(received: ReceivedStreams) -> None:
    received.audio(1)
    for ticks in (1 << 31, 0xFFFF_0000):
        received.streams.receive_report(_report(1, ticks), 0.0)
    received.audio(2)
    assert [frame.ticks for frame in received.frames()] == [960, 1920]


def test_report_blocks_tell_what_was_received(received: ReceivedStreams) -> None:
    received.audio(65_535, 0.0)
    received.audio(65_537, 0.04)
    received.streams.receive_report(_report(1, 0, ntp=0x0001_8000 << 16), 1.0)
    (block,) = received.streams.reports(1.5)
    assert block == ReportBlock(1, 85, 1, 65_537, 0, 0x0001_8000, 0x8000)
    assert received.streams.reports(6.5) == []  # nothing new
    received.audio(65_538, 7.0)
    assert received.streams.reports(7.0)[0].fraction_lost == 0


# ---- beginning and end -------------------------------------------------------------------


def test_a_stream_ends_a_moment_after_its_goodbye(received: ReceivedStreams) -> None:
    received.audio(1, 0.0)
    received.streams.end(1, 1.0)
    received.streams.end(1, 1.05)  # repeated: the first counts
    received.audio(3, 1.06)  # still on its way
    assert received.streams.next_timeout() == pytest.approx(1.0 + ENDING_TIME)
    received.streams.handle_timeout(1.0 + ENDING_TIME)
    assert received.events[-2:] == [
        FrameReceived(1, Codec.OPUS, b"opus", 2880, True, 1.0 + ENDING_TIME, lost=1),
        StreamEnded(1),
    ]
    assert received.streams.next_timeout() is None
    assert received.streams.reports(2.0) == []
    assert received.stats(1).frames == 2


@pytest.mark.parametrize("sequence", [99, 101])
def test_a_packet_that_comes_soon_after_the_goodbye_belongs_to_the_old_stream(
    received: ReceivedStreams, sequence: int
) -> None:
    received.video(98, _KEY, 0.0)
    received.video(100, _DELTA, 0.0)
    received.streams.end(2, 0.0)
    received.video(sequence, _KEY, 0.02)
    assert received.stats(2).packets == 3
    assert StreamEnded(2) not in received.events


def test_reorder_windows_show_their_high_water(received: ReceivedStreams) -> None:
    for sequence in (1, 3, 4, 5):
        received.audio(sequence)
    window = received.streams.queue_stats()[1]
    assert (window.name, window.high_water, window.bound) == ("reorder-1", 3, 64)


def test_an_ended_stream_tells_stale_packets_from_new_ones(received: ReceivedStreams) -> None:
    received.audio(100, 0.0)
    received.streams.end(1, 0.0)
    received.streams.handle_timeout(0.2)
    received.audio(99, 0.3)
    assert received.drops == {"after-bye": 1}
    received.audio(101, 0.3)
    assert [type(event) for event in received.events] == [FrameReceived, StreamEnded, FrameReceived]


# ---- retransmissions ----------------------------------------------------------------------


def test_a_missing_packet_is_asked_for_and_its_frame_shown_in_order(
    repaired: ReceivedStreams,
) -> None:
    repaired.video(1, _KEY, 1.0)
    repaired.video(3, _DELTA, 1.033)
    assert repaired.missing == []
    deadline = repaired.streams.next_timeout()
    assert deadline == 1.033 + REORDER_SECONDS
    repaired.streams.handle_timeout(deadline)
    assert repaired.missing == [(2, [2])]
    repaired.rtx(2, _DELTA, 1.09)
    frames = repaired.frames()
    assert [frame.ticks for frame in frames] == [3000, 6000, 9000]
    assert [frame.now for frame in frames] == [1.0, 1.09, 1.09]
    assert not any(frame.lost for frame in frames)
    assert repaired.requests == []
    assert repaired.streams.next_timeout() is None


def test_a_burst_is_asked_for_with_the_packet_behind_it(repaired: ReceivedStreams) -> None:
    repaired.video(65_530, _KEY)
    repaired.video(65_541, _DELTA)
    assert repaired.missing == [(2, [65_531, 65_532, 65_533, 65_534, 65_535, 0, 1, 2])]


def test_nothing_is_asked_for_where_nothing_is_sent_again(received: ReceivedStreams) -> None:
    received.video(1, _KEY)
    received.video(30, _DELTA)
    received.streams.handle_timeout(0.1)
    received.rtx(2, _DELTA, 0.1)
    assert received.missing == []
    assert received.drops == {"rtx-unpaired": 1}


def test_no_audio_is_asked_for(repaired: ReceivedStreams) -> None:
    repaired.audio(1)
    repaired.audio(30)
    repaired.streams.handle_timeout(0.05)
    assert repaired.missing == []


def test_no_keyframe_is_asked_for_while_packets_are(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(3, _DELTA, 0.0)
    times = []
    while not repaired.requests:
        deadline = repaired.streams.next_timeout()
        assert deadline is not None
        times.append(deadline)
        repaired.streams.handle_timeout(deadline)
    assert repaired.missing == [(2, [2])] * (len(times) - 1)
    assert len(times) == 5
    assert VIDEO_WINDOW < times[-1] < LONGEST_WINDOW
    # From here on a keyframe is waited for, not the packet.
    repaired.streams.handle_timeout(10.0)
    repaired.rtx(2, _DELTA, 10.0)
    assert len(repaired.missing) == 4
    assert repaired.stats(2).rtx_duplicates == 1


def test_a_gap_that_is_too_long_is_given_up_at_once(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(2 + MOST_MISSING + 1, _DELTA, 0.0)
    assert repaired.missing == []
    assert repaired.requests == [2]
    repaired.video(2 + MOST_MISSING + 2, _KEY, 0.1)
    assert repaired.frames()[1].lost == MOST_MISSING + 1


def test_reports_are_about_original_packets_only(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(5, _DELTA, 0.0)
    for sequence in (2, 3, 4):
        repaired.rtx(sequence, _DELTA, 0.005)
    stats = repaired.stats(2)
    assert (stats.frames, stats.packets, stats.cumulative_lost, stats.duplicates) == (5, 2, 3, 0)
    assert (stats.nacked, stats.recovered, stats.rtx_duplicates) == (1, 3, 0)
    assert stats.payload_octets == len(_KEY) + len(_DELTA)
    (block,) = repaired.streams.reports(0.2)
    assert (block.cumulative_lost, block.highest_sequence, block.fraction_lost) == (3, 5, 153)


def test_retransmissions_for_others_change_nothing(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(2, _DELTA, 0.0)
    before = repaired.stats(2)
    for sequence in (0, 1, 2, 3, 40_000):
        repaired.rtx(sequence, _KEY, 0.1)
    assert repaired.stats(2) == replace(before, rtx_duplicates=5)
    assert len(repaired.events) == 2


def test_a_retransmission_is_used_once(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY)
    repaired.video(4, _DELTA)
    repaired.rtx(3, _DELTA)
    repaired.rtx(3, _DELTA)
    repaired.rtx(2, _DELTA)
    repaired.video(2, _DELTA)  # the original was only slow
    stats = repaired.stats(2)
    assert (stats.recovered, stats.rtx_duplicates, stats.frames) == (2, 1, 4)


def test_packets_sent_again_as_they_were_count_as_recovered(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(3, _DELTA, 0.0)
    repaired.streams.handle_timeout(REORDER_SECONDS)
    repaired.video(2, _DELTA, 0.06)
    stats = repaired.stats(2)
    assert (stats.nacked, stats.recovered, stats.cumulative_lost, stats.frames) == (1, 1, 0, 3)


def test_what_is_missing_is_forgotten_when_the_numbers_begin_anew(
    repaired: ReceivedStreams,
) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(3, _DELTA, 0.0)
    repaired.video(40_000, _KEY, 0.0)
    repaired.video(40_001, _KEY, 0.0)
    assert repaired.stats(2).restarts == 1
    assert repaired.streams.next_timeout() is None
    assert repaired.missing == []


def test_another_codec_is_repaired_from_its_first_packet_on(repaired: ReceivedStreams) -> None:
    repaired.audio(10, ssrc=2)
    repaired.video(500, _KEY)
    repaired.video(505, _DELTA)
    assert repaired.missing == [(2, [501, 502])]
    repaired.audio(506, ssrc=2)
    repaired.rtx(501, _DELTA)
    assert repaired.drops == {"rtx-unpaired": 1}
    repaired.streams.handle_timeout(1.0)
    assert len(repaired.missing) == 1


def test_nothing_is_asked_for_after_the_goodbye(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(3, _DELTA, 0.0)
    repaired.streams.end(2, 0.0)
    assert repaired.streams.next_timeout() == ENDING_TIME
    repaired.streams.handle_timeout(0.05)
    assert repaired.missing == []
    repaired.rtx(2, _DELTA, 0.06)  # somebody else asked
    assert len(repaired.frames()) == 3
    repaired.streams.handle_timeout(ENDING_TIME)
    repaired.rtx(2, _DELTA, 0.2)
    assert repaired.drops == {"rtx-unpaired": 1}


def test_the_window_follows_the_way(repaired: ReceivedStreams) -> None:
    repaired.video(1, _KEY, 0.0)
    repaired.video(3, _DELTA, 0.0)
    repaired.streams.handle_timeout(REORDER_SECONDS)
    repaired.rtx(2, _DELTA, REORDER_SECONDS + 0.005)
    repaired.video(5, _DELTA, 1.0)
    repaired.streams.handle_timeout(1.0 + VIDEO_WINDOW - 0.001)
    assert repaired.requests == []
    repaired.streams.handle_timeout(1.0 + VIDEO_WINDOW)
    assert repaired.requests == [2]


@pytest.mark.parametrize(("ticks", "missed"), [(2, True), (100, True), (200, False)])
def test_a_retransmission_from_elsewhere_must_be_near_in_number_and_time(
    repaired: ReceivedStreams, ticks: int, missed: bool
) -> None:
    repaired.video(1, _KEY)
    repaired.video(3, _DELTA)
    packet = RtpPacket(106, 1, ticks * 3000, 7777, b"\0\2" + _DELTA)
    repaired.streams.receive_retransmission(packet, 105, _VP8, 0.0)
    assert repaired.stats(2).recovered == missed
