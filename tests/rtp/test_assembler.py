"""Reorder windows, gaps and the keyframe gate."""

from __future__ import annotations

from math import inf

import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.assembler import (
    AUDIO_BOUND,
    AUDIO_WINDOW,
    VIDEO_BOUND,
    VIDEO_BOUND_BYTES,
    VIDEO_WINDOW,
    Arrival,
    AssembledFrame,
    AssemblerCounters,
    AudioAssembler,
    VideoAssembler,
)
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.payloads.base import payload_format

_KEY = b"\x00key frame"  # VP8: first bit 0
_DELTA = b"\x01delta frame"


def _arrival(
    sequence: int, payload: bytes, *, ticks: int = 0, now: float = 0.0, marker: bool = False
) -> Arrival:
    packet = RtpPacket(105, sequence & 0xFFFF, ticks & 0xFFFFFFFF, 7, payload, marker)
    return Arrival(sequence, ticks, now, packet)


# ---- audio -------------------------------------------------------------------------------


class Audio:
    """An audio assembler, and its frames as ``(payload, lost)``."""

    def __init__(self) -> None:
        self.counters = AssemblerCounters()
        self.assembler = AudioAssembler(payload_format(Codec.OPUS).depacketizer(), self.counters)

    def receive(self, *sequences: int, now: float = 0.0) -> list[tuple[int, int]]:
        frames: list[AssembledFrame] = []
        for sequence in sequences:
            payload = sequence.to_bytes(4, "big", signed=True)
            frames += self.assembler.receive(_arrival(sequence, payload, now=now))
        return [self._told(frame) for frame in frames]

    def wait_until(self, now: float) -> list[tuple[int, int]]:
        return [self._told(frame) for frame in self.assembler.handle_timeout(now)]

    def padding(self, sequence: int) -> list[tuple[int, int]]:
        return [self._told(frame) for frame in self.assembler.receive(_arrival(sequence, b""))]

    @staticmethod
    def _told(frame: AssembledFrame) -> tuple[int, int]:
        return int.from_bytes(frame.data, "big", signed=True), frame.lost


@pytest.fixture
def audio() -> Audio:
    return Audio()


def test_audio_in_order_is_not_delayed(audio: Audio) -> None:
    for sequence in range(5, 9):
        assert audio.receive(sequence) == [(sequence, 0)]
    assert audio.assembler.next_timeout() is None
    assert audio.counters == AssemblerCounters()


def test_reordered_audio_is_put_in_order(audio: Audio) -> None:
    assert audio.receive(1) == [(1, 0)]
    assert audio.receive(4, 3, now=1.0) == []
    assert audio.receive(2, now=1.01) == [(2, 0), (3, 0), (4, 0)]
    assert audio.assembler.next_timeout() is None
    assert audio.counters.high_water == 3


def test_audio_gap_is_given_up_after_the_window(audio: Audio) -> None:
    audio.receive(1)
    audio.receive(4, now=1.0)
    audio.receive(5, now=1.02)
    assert audio.assembler.next_timeout() == 1.0 + AUDIO_WINDOW
    assert audio.wait_until(1.059) == []
    assert audio.wait_until(1.06) == [(4, 2), (5, 0)]
    assert audio.assembler.next_timeout() is None


def test_each_audio_gap_has_its_own_time(audio: Audio) -> None:
    audio.receive(1)
    audio.receive(3, now=1.0)
    audio.receive(6, now=1.05)
    assert audio.wait_until(1.06) == [(3, 1)]
    assert audio.assembler.next_timeout() == pytest.approx(1.05 + AUDIO_WINDOW)
    assert audio.receive(4, 5, now=1.1) == [(4, 0), (5, 0), (6, 0)]


def test_audio_behind_a_given_up_gap_is_late(audio: Audio) -> None:
    audio.receive(1, 3)
    audio.wait_until(1.0)
    assert audio.receive(2) == []
    assert audio.counters.late == 1


def test_audio_window_holds_a_limited_number(audio: Audio) -> None:
    audio.receive(1)
    assert audio.receive(*range(3, 3 + AUDIO_BOUND - 1)) == []
    released = audio.receive(3 + AUDIO_BOUND - 1)
    assert released[0] == (3, 1)
    assert len(released) == AUDIO_BOUND
    assert audio.counters.overflows == 1


def test_padding_takes_its_place_but_makes_no_frame(audio: Audio) -> None:
    audio.receive(1)
    assert audio.padding(2) == []
    assert audio.receive(3) == [(3, 0)]
    audio.receive(6)
    assert audio.padding(5) == []
    assert audio.wait_until(9.0) == [(6, 1)]


def test_a_lost_frame_in_front_of_padding_is_told_with_the_next_frame(audio: Audio) -> None:
    audio.receive(1)
    audio.padding(3)
    assert audio.wait_until(9.0) == []
    assert audio.receive(4) == [(4, 1)]


def test_restarted_audio_begins_anywhere_and_releases_what_was_held(audio: Audio) -> None:
    audio.receive(1, 3)
    assert [frame.lost for frame in audio.assembler.restart()] == [1]
    assert audio.receive(70000) == [(70000, 0)]


def test_audio_that_the_format_refuses_is_counted() -> None:
    # No Opus payload is refused one by one, so a format that wants a start stands in.
    counters = AssemblerCounters()
    assembler = AudioAssembler(payload_format(Codec.VP8).depacketizer(), counters)
    assert list(assembler.receive(_arrival(1, b"\x00"))) == []
    assert counters.malformed == 1


# ---- video -------------------------------------------------------------------------------


def _frame(
    data: bytes, first: int, ticks: int, *, size: int = 4, now: float = 0.0
) -> list[Arrival]:
    """The packets of one VP8 frame, cut into pieces of ``size`` bytes."""
    payloads = payload_format(Codec.VP8).packetizer().packetize(data, size + 4)
    return [
        _arrival(first + index, payload, ticks=ticks, now=now, marker=index == len(payloads) - 1)
        for index, payload in enumerate(payloads)
    ]


class Video:
    """A video assembler, and its frames as ``(first byte, ticks, keyframe, lost)``."""

    def __init__(self, codec: Codec = Codec.VP8) -> None:
        self.counters = AssemblerCounters()
        self.assembler = VideoAssembler(payload_format(codec).depacketizer(), self.counters)

    def receive(self, *arrivals: Arrival) -> list[tuple[bytes, int, int]]:
        frames: list[AssembledFrame] = []
        for arrival in arrivals:
            frames += self.assembler.receive(arrival)
        return [self._told(frame) for frame in frames]

    def wait_until(self, now: float) -> list[tuple[bytes, int, int]]:
        return [self._told(frame) for frame in self.assembler.handle_timeout(now)]

    @staticmethod
    def _told(frame: AssembledFrame) -> tuple[bytes, int, int]:
        assert frame.keyframe is (frame.data == _KEY)
        return frame.data, frame.ticks, frame.lost


@pytest.fixture
def video() -> Video:
    return Video()


@pytest.fixture
def running() -> Video:
    """Has shown a keyframe of the packets 10 to 12, ticks 0."""
    video = Video()
    assert video.receive(*_frame(_KEY, 10, 0)) == [(_KEY, 0, 0)]
    return video


def test_a_frame_is_complete_at_its_marker(video: Video) -> None:
    *packets, last = _frame(_KEY, 10, 0)
    assert video.receive(*packets) == []
    assert video.receive(last) == [(_KEY, 0, 0)]
    assert video.assembler.next_timeout() is None
    assert not video.assembler.keyframe_wanted


def test_frames_before_the_first_keyframe_are_dropped(video: Video) -> None:
    assert video.receive(*_frame(_DELTA, 10, 0)) == []
    assert video.assembler.keyframe_wanted
    assert video.receive(*_frame(_DELTA, 13, 3000)) == []
    assert video.counters.frames_dropped == 2
    assert video.receive(*_frame(_KEY, 16, 6000)) == [(_KEY, 6000, 0)]
    assert not video.assembler.keyframe_wanted
    assert video.receive(*_frame(_DELTA, 19, 9000)) == [(_DELTA, 9000, 0)]


def test_reordered_packets_are_put_in_order(running: Video) -> None:
    packets = _frame(_DELTA, 13, 3000) + _frame(_DELTA, 16, 6000)
    assert running.receive(*packets[:0:-1]) == []
    assert running.assembler.next_timeout() == VIDEO_WINDOW
    assert running.receive(packets[0]) == [(_DELTA, 3000, 0), (_DELTA, 6000, 0)]
    assert running.assembler.next_timeout() is None


def test_the_first_frame_may_be_reordered(video: Video) -> None:
    first, second, third = _frame(_KEY, 10, 0)
    assert video.receive(third) == []
    assert video.assembler.next_timeout() == VIDEO_WINDOW
    assert video.receive(second, first) == [(_KEY, 0, 0)]


def test_a_lower_packet_without_a_start_still_waits_for_the_start(video: Video) -> None:
    first, second, third = _frame(_KEY, 10, 0)
    later = _frame(_DELTA, 13, 3000)
    assert video.receive(later[0], third, second) == []
    assert video.receive(first) == [(_KEY, 0, 0)]
    assert video.receive(*later[1:]) == [(_DELTA, 3000, 0)]


def test_joining_in_the_middle_of_a_frame(video: Video) -> None:
    assert video.receive(*_frame(_DELTA, 10, 0)[1:]) == []
    assert video.wait_until(VIDEO_WINDOW) == []
    assert video.assembler.keyframe_wanted
    assert video.receive(*_frame(_KEY, 13, 3000)) == [(_KEY, 3000, 0)]


def test_a_duplicate_changes_nothing(running: Video) -> None:
    first, second, third = _frame(_DELTA, 13, 3000)
    assert running.receive(first, first, second, second, third) == [(_DELTA, 3000, 0)]
    assert running.receive(third) == []
    assert running.counters == AssemblerCounters(late=1, high_water=3)


def test_a_gap_is_given_up_and_the_gate_closes_until_a_keyframe(running: Video) -> None:
    first, _, third = _frame(_DELTA, 13, 3000, now=1.0)
    assert running.receive(first, third) == []
    assert running.assembler.next_timeout() == 1.0 + VIDEO_WINDOW
    assert running.receive(*_frame(_DELTA, 16, 6000, now=1.1)) == []
    assert running.wait_until(1.119) == []
    assert not running.assembler.keyframe_wanted
    assert running.wait_until(1.12) == []
    assert running.assembler.keyframe_wanted
    assert running.assembler.next_timeout() is None
    assert running.counters.frames_dropped == 2
    assert running.receive(*_frame(_KEY, 19, 9000)) == [(_KEY, 9000, 1)]


def test_a_keyframe_behind_the_gap_is_shown_when_the_gap_is_given_up(running: Video) -> None:
    running.receive(*_frame(_DELTA, 13, 3000)[1:])
    assert running.receive(*_frame(_KEY, 16, 6000)) == []
    assert running.wait_until(VIDEO_WINDOW) == [(_KEY, 6000, 1)]
    assert not running.assembler.keyframe_wanted


def test_a_packet_of_a_given_up_frame_is_late(running: Video) -> None:
    first, second, third = _frame(_DELTA, 13, 3000)
    running.receive(first, third)
    running.wait_until(1.0)
    assert running.receive(second) == []
    assert running.counters.late == 1


def test_two_gaps_are_given_up_one_after_the_other(running: Video) -> None:
    running.receive(*_frame(_DELTA, 13, 3000, now=1.0)[1:])
    running.receive(*_frame(_DELTA, 16, 6000, now=1.05)[1:])
    assert running.wait_until(1.12) == []
    assert running.assembler.next_timeout() == 1.05 + VIDEO_WINDOW
    assert running.receive(*_frame(_KEY, 19, 9000, now=1.1)) == []
    assert running.wait_until(1.17) == [(_KEY, 9000, 2)]


def test_losing_the_end_of_a_frame_costs_the_next_one_whose_start_is_unsure(
    running: Video,
) -> None:
    running.receive(*_frame(_DELTA, 13, 3000)[:2])
    running.receive(*_frame(_KEY, 16, 6000))
    assert running.wait_until(1.0) == []
    assert running.receive(*_frame(_KEY, 19, 9000, now=1.0)) == [(_KEY, 9000, 1)]


def test_without_an_end_in_sight_the_next_one_is_awaited(running: Video) -> None:
    _, second, third = _frame(_DELTA, 13, 3000)
    running.receive(second)
    assert running.wait_until(1.0) == []
    assert running.assembler.next_timeout() is None
    assert running.receive(third) == []
    assert running.receive(*_frame(_KEY, 16, 6000)) == [(_KEY, 6000, 1)]


def test_changing_ticks_show_the_end_as_well_as_a_marker(running: Video) -> None:
    # A stream without any markers, astray behind a lost packet.
    _, second, third = _frame(_DELTA, 13, 3000)
    running.receive(second)
    running.wait_until(1.0)
    third = third._replace(packet=third.packet._replace(marker=False))
    following = _frame(_KEY, 16, 6000)
    assert running.receive(third) == []
    assert running.receive(*following) == [(_KEY, 6000, 1)]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_a_change_of_ticks_is_found_from_either_side(
    running: Video, order: tuple[int, ...]
) -> None:
    running.receive(_frame(_DELTA, 13, 3000)[1])
    running.wait_until(1.0)
    assert running.assembler.keyframe_wanted
    unmarked = _arrival(15, b"\x80\x80\x80\x00", ticks=3000)
    packets = (unmarked, *_frame(_KEY, 16, 6000, size=6))
    assert running.receive(*(packets[index] for index in order)) == [(_KEY, 6000, 1)]


def test_a_sender_without_markers_is_understood_by_its_ticks(running: Video) -> None:
    packets = [
        arrival._replace(packet=arrival.packet._replace(marker=False))
        for arrival in _frame(_DELTA, 13, 3000) + _frame(_DELTA, 16, 6000)
    ]
    assert running.receive(*packets) == [(_DELTA, 3000, 0)]


def test_padding_between_frames_is_passed_over(running: Video) -> None:
    padding = [_arrival(13, b"", ticks=0), _arrival(14, b"", ticks=0)]
    assert running.receive(*padding, *_frame(_DELTA, 15, 3000)) == [(_DELTA, 3000, 0)]


def test_a_frame_that_the_format_refuses_closes_the_gate(running: Video) -> None:
    assert running.receive(_arrival(13, b"\x80", marker=True, ticks=3000)) == []
    assert running.counters.malformed == 1
    assert running.assembler.keyframe_wanted
    assert running.receive(*_frame(_DELTA, 14, 6000)) == []
    assert running.receive(*_frame(_KEY, 17, 9000)) == [(_KEY, 9000, 0)]


def test_too_many_held_packets_are_given_up(running: Video) -> None:
    for number in range(VIDEO_BOUND):
        running.receive(_arrival(14 + number, b"\x80", ticks=3000))
    assert running.counters.overflows == 0
    running.receive(_arrival(14 + VIDEO_BOUND, b"\x80", ticks=3000, marker=True))
    assert running.counters == AssemblerCounters(
        frames_dropped=2, overflows=1, high_water=VIDEO_BOUND
    )
    assert running.assembler.keyframe_wanted
    assert running.receive(*_frame(_KEY, 15 + VIDEO_BOUND, 6000)) == [(_KEY, 6000, 1)]


def test_too_many_held_bytes_are_given_up(running: Video) -> None:
    payload = bytes(1 << 16)
    for number in range(VIDEO_BOUND_BYTES >> 16):
        running.receive(_arrival(14 + number, payload, ticks=3000))
    assert running.counters.overflows == 0
    running.receive(_arrival(1000, b"\x80", ticks=3000))
    assert running.counters.overflows == 1


def test_restarted_video_begins_anywhere_with_a_keyframe(running: Video) -> None:
    running.receive(*_frame(_DELTA, 13, 3000)[1:])
    assert running.assembler.restart() == []
    assert running.receive(*_frame(_DELTA, 70000, 50)) == []
    assert running.receive(*_frame(_KEY, 70003, 60)) == [(_KEY, 60, 0)]


def test_an_h264_frame_of_several_units_is_put_together() -> None:
    video = VideoAssembler(payload_format(Codec.H264).depacketizer(), AssemblerCounters())
    units = [b"\x67sps", b"\x68pps", b"\x65slice"]
    payloads = [*units]
    frames: list[AssembledFrame] = []
    for index, payload in enumerate(payloads):
        frames += video.receive(_arrival(index, payload, marker=index == 2))
    assert [frame.data for frame in frames] == [b"".join(b"\0\0\0\1" + unit for unit in units)]
    assert frames[0].keyframe


# ---- video that is sent again -------------------------------------------------------------


def test_a_gap_lasts_as_long_as_packets_are_sent_again(running: Video) -> None:
    first, second, third = _frame(_DELTA, 13, 3000, now=1.0)
    running.receive(first, third)
    running.assembler.window = 0.4
    assert running.assembler.next_timeout() == 1.4
    assert running.wait_until(1.39) == []
    assert running.receive(second) == [(_DELTA, 3000, 0)]


def test_what_may_be_missing_in_front_of_the_first_packet_is_not_sent_again(video: Video) -> None:
    video.assembler.window = 0.4
    video.receive(*_frame(_DELTA, 10, 0, now=1.0)[1:])
    assert video.assembler.next_timeout() == 1.0 + VIDEO_WINDOW


def test_a_gap_in_the_first_frame_may_be_filled_by_a_retransmission(video: Video) -> None:
    video.assembler.window = 0.4
    first, second, third = _frame(_KEY, 10, 0, now=1.0)
    video.receive(first, third)
    assert video.assembler.next_timeout() == 1.4
    assert video.receive(second) == [(_KEY, 0, 0)]


def test_packets_are_needed_from_the_first_gap_on(running: Video) -> None:
    assert running.assembler.needed_from == 13
    packets = _frame(_DELTA, 13, 3000)
    running.receive(packets[0], packets[2])
    assert running.assembler.needed_from == 14
    running.receive(packets[1])
    assert running.assembler.needed_from == 16


def test_nothing_is_needed_until_the_next_frame_starts(running: Video) -> None:
    packets = _frame(_DELTA, 13, 3000)
    running.receive(packets[1])
    running.wait_until(9.0)
    assert running.assembler.needed_from == inf
    running.receive(packets[2])
    assert running.assembler.needed_from == 16
