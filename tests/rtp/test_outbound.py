"""Numbers, extensions and counters of one sent stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from random import Random

import pytest

from discord_rtc.errors import MalformedFrame, NoCommonCodec, UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp import extensions
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS, parse_elements
from discord_rtc.rtp.history import History, unwrap_rtx
from discord_rtc.rtp.outbound import OutboundStream, SenderConfig
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import ReportBlock

_AUDIO = SenderConfig(1, Codec.OPUS, 120)
_VIDEO = SenderConfig(2, Codec.VP8, 105, rid="100", content_type=1)
_REPAIRED = replace(_VIDEO, rtx_ssrc=3, rtx_payload_type=106)
_NTP = 3_900_000_000.0


def _stream(
    config: SenderConfig = _VIDEO,
    *,
    ids: dict[str, int] | None = None,
    size: int = 1200,
    seed: int = 1,
) -> OutboundStream:
    chosen = NATIVE_EXTENSION_IDS if ids is None else ids
    stream = OutboundStream(config, chosen, size, Random(seed))
    stream.keep_packets(History(size, Counter()))
    return stream


def _video(pts: int = 0, *, size: int = 100, base: Fraction = Fraction(1, 90_000)) -> EncodedFrame:
    return EncodedFrame(bytes(size), Codec.VP8, pts, base, keyframe=True)


def _audio(pts: int = 0) -> EncodedFrame:
    return EncodedFrame(b"\xfcopus", Codec.OPUS, pts, Fraction(1, 48_000), keyframe=True)


def _send(stream: OutboundStream, frame: EncodedFrame, now: float = 0.0) -> list[RtpPacket]:
    return [parse_rtp(packet) for packet in stream.build(stream.packetize(frame), frame, now)]


def _elements(packet: RtpPacket) -> dict[int, bytes]:
    assert packet.extension_profile is not None
    return dict(parse_elements(packet.extension_profile, packet.extension_data))


def test_a_video_frame_becomes_packets_with_a_marker_on_the_last() -> None:
    packets = _send(_stream(size=200), _video(size=500))
    assert [packet.marker for packet in packets] == [False, False, True]
    assert len({packet.ticks for packet in packets}) == 1
    assert {(packet.ssrc, packet.payload_type) for packet in packets} == {(2, 105)}
    first = packets[0].sequence
    assert [packet.sequence for packet in packets] == list(range(first, first + 3))


@pytest.mark.parametrize("size", [150, 600, 1200])
def test_no_packet_is_larger_than_allowed_and_room_is_used(size: int) -> None:
    packets = _send(_stream(size=size), _video(size=5000))
    lengths = [len(packet.to_bytes()) for packet in packets]
    assert max(lengths) == size


def test_sequence_numbers_and_ticks_start_at_random_and_wrap() -> None:
    sequences = {_send(_stream(seed=seed), _video())[0].sequence for seed in range(20)}
    ticks = {_send(_stream(seed=seed), _video())[0].ticks for seed in range(20)}
    assert len(sequences) == len(ticks) == 20
    stream = _stream(_AUDIO)
    numbers = [_send(stream, _audio(960 * n))[0].sequence for n in range(1 << 16)]
    assert sorted(numbers) == list(range(1 << 16))
    assert {(b - a) % (1 << 16) for a, b in pairwise(numbers)} == {1}


def test_ticks_are_computed_from_pts_and_never_added_up() -> None:
    stream = _stream()
    base = Fraction(1001, 30_000)  # NTSC: 3003 ticks a frame
    ticks = [_send(stream, _video(n, base=base))[0].ticks for n in (0, 1, 7, 30_000_000)]
    origin = stream.stats().origin_ticks
    assert origin == ticks[0]
    assert [(tick - origin) % (1 << 32) for tick in ticks] == [
        0,
        3003,
        7 * 3003,
        30_000_000 * 3003 % (1 << 32),
    ]


def test_ticks_are_rounded_to_the_nearest() -> None:
    stream = _stream()
    base = Fraction(1, 135_000)  # 2/3 tick
    ticks = [_send(stream, _video(n, base=base))[0].ticks for n in (0, 1, 2, 3, -1, -2)]
    assert [(tick - ticks[0] + 10) % (1 << 32) - 10 for tick in ticks] == [0, 1, 1, 2, -1, -1]


def test_origin_stands_for_pts_zero_wherever_pts_start() -> None:
    stream = _stream(_AUDIO)
    packet = _send(stream, _audio(48_000))[0]
    origin = stream.stats().origin_ticks
    assert origin is not None
    assert packet.ticks == (origin + 48_000) % (1 << 32)


def test_another_source_continues_by_the_time_that_passed() -> None:
    stream = _stream()
    before = _send(stream, _video(90_000), now=10.0)[0]
    stream.restart_source()
    after = _send(stream, _video(5), now=12.5)[0]
    assert (after.ticks - before.ticks) % (1 << 32) == round(2.5 * 90_000)
    following = _send(stream, _video(5 + 3000), now=12.6)[0]
    assert (following.ticks - after.ticks) % (1 << 32) == 3000


@pytest.mark.parametrize(("config", "least"), [(_VIDEO, 3000), (_AUDIO, 960)])
def test_another_source_begins_one_frame_later_at_least(config: SenderConfig, least: int) -> None:
    stream = _stream(config)
    frame = _video(7) if config is _VIDEO else _audio(7)
    before = _send(stream, frame, now=1.0)[0]
    stream.restart_source()
    after = _send(stream, frame, now=1.0)[0]
    assert (after.ticks - before.ticks) % (1 << 32) == least


def test_a_source_before_the_first_frame_is_no_other_source() -> None:
    stream = _stream()
    stream.restart_source()
    packet = _send(stream, _video(3000), now=5.0)[0]
    origin = stream.stats().origin_ticks
    assert origin is not None
    assert packet.ticks == (origin + 3000) % (1 << 32)


def test_video_carries_the_extensions_that_the_connection_knows() -> None:
    for packet in _send(_stream(size=200), _video(size=500)):
        assert _elements(packet) == {6: b"\0\0\0", 7: b"\x01", 11: b"100"}
    ids = {extensions.PLAYOUT_DELAY: 5, extensions.MID: 3}
    assert _elements(_send(_stream(ids=ids), _video())[0]) == {5: b"\0\0\0"}


def test_video_extensions_can_be_left_out() -> None:
    config = SenderConfig(2, Codec.VP8, 105, playout_delay_ms=None)
    assert _send(_stream(config), _video())[0].extension_profile is None
    delayed = SenderConfig(2, Codec.VP8, 105, playout_delay_ms=(100, 2000))
    assert _elements(_send(_stream(delayed), _video())[0]) == {6: b"\x00\xa0\xc8"}


def test_wide_extension_ids_use_the_two_byte_form() -> None:
    packet = _send(_stream(ids={extensions.PLAYOUT_DELAY: 20}), _video())[0]
    assert packet.extension_profile == 0x1000
    assert _elements(packet) == {20: b"\0\0\0"}


def test_audio_has_no_marker_and_only_the_extensions_that_are_given() -> None:
    stream = _stream(_AUDIO)
    packet = _send(stream, _audio())[0]
    assert not packet.marker
    assert packet.extension_profile is None
    stream.voice(1, -30)
    assert _send(stream, _audio(960))[0].extension_data.hex(" ") == "10 9e 90 02"
    stream.voice(None, -30)
    assert _elements(_send(stream, _audio(1920))[0]) == {1: b"\x9e"}
    stream.voice(0, -127)
    assert _elements(_send(stream, _audio(2880))[0]) == {1: b"\x7f", 9: b"\x00"}
    stream.voice(None, None)
    assert _send(stream, _audio(3840))[0].extension_profile is None


def test_video_has_no_voice() -> None:
    stream = _stream()
    stream.voice(1, -30)
    assert 1 not in _elements(_send(stream, _video())[0])


def test_frames_of_another_codec_are_refused() -> None:
    with pytest.raises(UsageError, match="opus frame on a stream of VP8"):
        _stream().packetize(_audio())


def test_frames_that_are_not_of_their_codec_are_refused() -> None:
    with pytest.raises(MalformedFrame):
        _stream().packetize(_video(size=0))


def test_packets_must_leave_room_for_a_payload() -> None:
    with pytest.raises(UsageError, match="90 bytes"):
        _stream(size=90)


def test_a_codec_without_a_payload_format_cannot_be_sent() -> None:
    with pytest.raises(NoCommonCodec):
        _stream(SenderConfig(2, Codec.H265, 103))


def test_counters_and_last_sequence() -> None:
    stream = _stream(size=200)
    assert stream.stats().last_sequence is None
    assert stream.stats().origin_ticks is None
    packets = _send(stream, _video(size=500))
    delta = EncodedFrame(bytes(10), Codec.VP8, 3000, Fraction(1, 90_000), keyframe=False)
    packets += _send(stream, delta)
    stream.drop()
    stats = stream.stats()
    assert (stats.frames, stats.keyframes, stats.frames_dropped) == (2, 1, 1)
    assert stats.packets == stream.packets == len(packets)
    assert stats.payload_octets == sum(len(packet.payload) for packet in packets)
    assert stats.last_sequence == packets[-1].sequence


def test_only_video_waits_for_a_keyframe_after_a_drop() -> None:
    audio, video = _stream(_AUDIO), _stream()
    for stream in (audio, video):
        stream.drop()
    assert not audio.waits_for_keyframe
    assert video.waits_for_keyframe
    _send(video, _video())
    assert not video.waits_for_keyframe
    assert (audio.paced, video.paced) == (False, True)


def test_a_sender_report_ties_ticks_to_the_wallclock() -> None:
    stream = _stream(size=200)
    packets = _send(stream, _video(size=500), now=10.0)
    report = stream.sender_report(11.0, _NTP)
    assert report.ssrc == 2
    assert report.ntp == 3_900_000_000 << 32
    assert report.ticks == (packets[0].ticks + 90_000) % (1 << 32)
    assert (report.packets, report.octets) == (3, sum(len(p.payload) for p in packets))
    assert stream.idle_for(11.0) == 1.0


def test_another_source_wants_its_own_report() -> None:
    stream = _stream()
    _send(stream, _video(), now=0.0)
    stream.report_at = 5.0
    stream.restart_source()
    assert stream.report_at is None
    packet = _send(stream, _video(), now=0.010)[0]  # sooner than one frame later
    assert stream.sender_report(0.010, _NTP).ticks == packet.ticks


def test_reports_of_receivers_are_kept() -> None:
    stream = _stream()
    assert stream.stats().fraction_lost is None
    sent_at = round(_NTP * 65536) & 0xFFFFFFFF
    block = ReportBlock(2, 64, 17, 0, 0, sent_at, 65536 // 2)
    stream.receive_report(block, _NTP + 0.75)
    stats = stream.stats()
    assert (stats.fraction_lost, stats.cumulative_lost, stats.rtt) == (0.25, 17, 0.25)
    stream.receive_report(ReportBlock(2, 0, 18, 0, 0, 0, 0), _NTP + 5)
    assert stream.stats().rtt == 0.25  # nothing new is known


def test_requests_of_receivers_are_counted_and_repeated_fir_is_not() -> None:
    stream = _stream()
    stream.receive_nack(3)
    stream.receive_nack(2)
    assert stream.receive_keyframe_request()
    assert stream.receive_keyframe_request((9, 1))
    assert not stream.receive_keyframe_request((9, 1))
    assert stream.receive_keyframe_request((9, 2))
    assert (stream.stats().nacked, stream.stats().keyframe_requests) == (5, 3)


# ---- retransmissions ----------------------------------------------------------------------


def _again(stream: OutboundStream, sequence: int, now: float = 0.1) -> RtpPacket:
    packet = stream.find(sequence, now)
    assert packet is not None
    return parse_rtp(stream.send_again(packet, now))


def test_a_retransmission_repeats_the_packet_in_another_stream() -> None:
    stream = _stream(_REPAIRED)
    original = _send(stream, _video(pts=77))[0]
    again = _again(stream, original.sequence)
    assert (again.ssrc, again.payload_type, again.marker) == (3, 106, True)
    restored = unwrap_rtx(again, 2, 105)
    assert restored._replace(extension_data=original.extension_data) == original


def test_a_retransmission_names_its_layer_by_another_extension() -> None:
    stream = _stream(_REPAIRED)
    sequence = _send(stream, _video())[0].sequence
    assert _elements(_again(stream, sequence)) == {6: b"\0\0\0", 7: b"\x01", 12: b"100"}


def test_extensions_that_the_connection_does_not_know_are_left_out_of_retransmissions() -> None:
    stream = _stream(_REPAIRED, ids={extensions.RID: 4})
    original = _send(stream, _video())[0]
    assert _elements(original) == {4: b"100"}
    assert _again(stream, original.sequence).extension_profile is None
    wide = _stream(_REPAIRED, ids={extensions.RID: 4, extensions.REPAIRED_RID: 40})
    again = _again(wide, _send(wide, _video())[0].sequence)
    assert again.extension_profile == 0x1000
    assert _elements(again) == {40: b"100"}


@pytest.mark.parametrize("ids", [None, {extensions.RID: 4, extensions.REPAIRED_RID: 40}, {}])
def test_no_retransmission_is_larger_than_allowed_and_room_is_used(
    ids: dict[str, int] | None,
) -> None:
    stream = _stream(_REPAIRED, ids=ids, size=300)
    packets = _send(stream, _video(size=5000))
    again = [_again(stream, packet.sequence) for packet in packets]
    assert max(len(packet.to_bytes()) for packet in again) == 300


def test_without_rtx_the_very_same_packet_is_sent_again() -> None:
    for config in (replace(_REPAIRED, rtx_ssrc=None), replace(_REPAIRED, rtx_payload_type=None)):
        stream = _stream(config)
        assert not stream.has_rtx
        original = _send(stream, _video())[0]
        assert _again(stream, original.sequence) == original


def test_numbers_of_retransmissions_start_at_random() -> None:
    firsts = set()
    for seed in range(20):
        stream = _stream(_REPAIRED, seed=seed)
        firsts.add(_again(stream, _send(stream, _video())[0].sequence).sequence)
    assert len(firsts) == 20


def test_the_round_trip_time_decides_how_soon_again() -> None:
    stream = _stream(_REPAIRED)
    sequence = _send(stream, _video())[0].sequence
    sent_at = round(_NTP * 65536) & 0xFFFFFFFF
    stream.receive_report(ReportBlock(2, 0, 0, 0, 0, sent_at, 0), _NTP + 0.2)
    _again(stream, sequence, 1.0)
    assert stream.find(sequence, 1.1) is None
    assert stream.find(sequence, 1.16) is not None


def test_retransmissions_are_counted_apart() -> None:
    stream = _stream(_REPAIRED)
    original = _send(stream, _video())[0]
    before = stream.stats()
    _again(stream, original.sequence)
    stats = stream.stats()
    assert (stats.retransmitted, stats.rtx_octets) == (1, len(original.payload))
    assert (stats.packets, stats.payload_octets) == (before.packets, before.payload_octets)
    assert stats.last_sequence == before.last_sequence


def test_a_stream_without_history_finds_nothing() -> None:
    stream = OutboundStream(_REPAIRED, NATIVE_EXTENSION_IDS, 1200, Random(1))
    sequence = _send(stream, _video())[0].sequence
    assert stream.find(sequence, 0.0) is None


def test_without_a_history_forgetting_only_waits_for_a_keyframe() -> None:
    stream = _stream(_REPAIRED)
    stream.forget_packets()
    assert stream.waits_for_keyframe
    stream = OutboundStream(_REPAIRED, {}, 1200, Random(1))
    stream.forget_packets()
    assert stream.waits_for_keyframe
