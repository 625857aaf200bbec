"""Two RTP sessions over a bad network, in memory and with a clock that moves when told to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import count, pairwise
from typing import TYPE_CHECKING

import pytest

from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.netem import Impairment, Netem
from discord_rtc.rtp import outbound as outbound_module
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.packet import is_rtcp, parse_rtp
from discord_rtc.rtp.rtcp import Nack, build_rtcp
from discord_rtc.rtp.session import (
    FrameReceived,
    KeyframeRequested,
    RtpSession,
    SenderConfig,
    SenderReportReceived,
    StreamEnded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.rtp.stats import InboundStats, OutboundStats

_NTP_OFFSET = 3_900_000_000.0
_AUDIO, _VIDEO, _RTX = 1001, 1002, 1003
_RATES = {_AUDIO: 50, _VIDEO: 30}
_TICK = 0.001


def _session(seed: int, feedback: frozenset[str]) -> RtpSession:
    return RtpSession(
        payload_types={120: Codec.OPUS, 101: Codec.H264},
        rtx_payload_types={102: 101},
        extension_ids=NATIVE_EXTENSION_IDS,
        max_packet_size=1200,
        ntp_offset=_NTP_OFFSET,
        cname=f"peer-{seed}",
        feedback=feedback,
        seed=seed,
    )


def _h264(number: int, *, keyframe: bool) -> EncodedFrame:
    """A frame of several packets that says its number, sometimes with parameter sets."""
    start = b"\0\0\0\1"
    stamp = b"%08d" % number
    if keyframe:
        data = start + b"\x67sps" + start + b"\x68pps" + start + b"\x65" + stamp + b"I" * 9000
    else:
        data = start + b"\x41" + stamp + b"P" * (number * 137 % 4000)
    return EncodedFrame(data, Codec.H264, number, Fraction(1, 30), keyframe)


_PLAIN = SenderConfig(_VIDEO, Codec.H264, 101)
_REPAIRED = SenderConfig(_VIDEO, Codec.H264, 101, rtx_ssrc=_RTX, rtx_payload_type=102)
_NACK = frozenset({"nack", "pli"})


class Pair:
    """A sender that obeys keyframe requests, a receiver, and the network between them.

    Args:
        impairment: Of both directions.
        seed: Of the network and of the numbers.
        video: How video is sent.
        feedback: As negotiated.
    """

    def __init__(
        self,
        impairment: Impairment,
        seed: int,
        video: SenderConfig = _PLAIN,
        feedback: frozenset[str] = frozenset(),
    ) -> None:
        self.sender, self.receiver = _session(seed, feedback), _session(seed + 1, feedback)
        self.sender.add_sender(SenderConfig(_AUDIO, Codec.OPUS, 120))
        self.sender.add_sender(video)
        self.eaten: Callable[[bytes], bool] = lambda _: False
        self.there, self.back = Netem(impairment, seed), Netem(impairment, seed + 1)
        self.now = 0.0
        self.sent: dict[int, list[EncodedFrame]] = {_AUDIO: [], _VIDEO: []}
        self.received: dict[int, list[FrameReceived]] = {_AUDIO: [], _VIDEO: []}
        self.reports: list[SenderReportReceived] = []
        self.ended: list[int] = []
        self._keyframe = True

    def run(self, seconds: float, *, media: bool = True) -> None:
        """Let time pass, a millisecond at a time; deadlines are met within one."""
        for _ in range(round(seconds / _TICK)):
            if media:
                self._send_media()
            for session, outward in ((self.sender, self.there), (self.receiver, self.back)):
                deadline = session.next_timeout()
                if deadline is not None and deadline <= self.now:
                    session.handle_timeout(self.now)
                for packet, _ in session.packets_to_send(self.now):
                    outward.send(packet, self.now)
            self._deliver(self.there, self.receiver)
            self._deliver(self.back, self.sender)
            self._take_events()
            self.now += _TICK

    def demand_keyframe(self) -> None:
        """The next video frame will be a keyframe."""
        self._keyframe = True

    def _send_media(self) -> None:
        if self.now >= len(self.sent[_AUDIO]) / 50:
            number = len(self.sent[_AUDIO])
            frame = EncodedFrame(
                b"\xfc%08d" % number, Codec.OPUS, number, Fraction(1, 50), keyframe=True
            )
            self._send(_AUDIO, frame)
        if self.now >= len(self.sent[_VIDEO]) / 30:
            frame = _h264(len(self.sent[_VIDEO]), keyframe=self._keyframe)
            self._keyframe = False
            self._send(_VIDEO, frame)

    def _send(self, ssrc: int, frame: EncodedFrame) -> None:
        self.sent[ssrc].append(frame)
        self.sender.send_frame(ssrc, frame, self.now, speaking=1)

    def _deliver(self, link: Netem, session: RtpSession) -> None:
        for packet in link.receive(self.now):
            if self.eaten(packet):
                continue
            if is_rtcp(packet):
                session.receive_rtcp(packet, self.now)
            else:
                session.receive_rtp(packet, self.now)

    def _take_events(self) -> None:
        while (event := self.sender.next_event()) is not None:
            assert event == KeyframeRequested(_VIDEO)
            self._keyframe = True
        while (event := self.receiver.next_event()) is not None:
            match event:
                case FrameReceived():
                    self.received[event.ssrc].append(event)
                case SenderReportReceived():
                    self.reports.append(event)
                case StreamEnded():
                    self.ended.append(event.ssrc)

    @property
    def video_in(self) -> InboundStats:
        """What the receiver says about the video."""
        return next(stats for stats in self.receiver.stats().inbound if stats.ssrc == _VIDEO)

    @property
    def video_out(self) -> OutboundStats:
        """What the sender says about the video."""
        return next(stats for stats in self.sender.stats().outbound if stats.ssrc == _VIDEO)

    def numbers(self, ssrc: int) -> list[int]:
        """Which frames arrived, checked to be the ones that were sent."""
        origin = {stats.ssrc: stats.origin_ticks for stats in self.sender.stats().outbound}[ssrc]
        assert origin is not None
        numbers = []
        for frame in self.received[ssrc]:
            number = round((frame.ticks - origin) / frame.codec.clock_rate * _RATES[ssrc])
            assert frame.data == self.sent[ssrc][number].data
            assert frame.keyframe is self.sent[ssrc][number].keyframe
            numbers.append(number)
        return numbers


def test_everything_arrives_once_in_order_over_a_network_that_reorders_and_doubles() -> None:
    pair = Pair(Impairment(delay=0.02, jitter=0.03, reorder=0.05, duplicate=0.05), seed=3)
    pair.run(10.0)
    pair.run(0.5, media=False)
    assert pair.there.counters.reordered > 20
    assert pair.numbers(_AUDIO) == list(range(500))
    assert pair.numbers(_VIDEO) == list(range(300))
    assert not any(frame.lost for frame in pair.received[_AUDIO] + pair.received[_VIDEO])
    audio, video = pair.receiver.stats().inbound
    assert audio.duplicates > 0
    assert (audio.cumulative_lost, video.keyframe_requests) == (-audio.duplicates, 0)


@pytest.mark.parametrize("seed", range(5))
def test_loss_costs_only_the_frames_it_touches_and_those_that_depend_on_them(seed: int) -> None:
    pair = Pair(Impairment(loss=0.02, delay=0.03, jitter=0.02, reorder=0.02), seed)
    pair.run(20.0)
    pair.run(0.5, media=False)
    audio = pair.numbers(_AUDIO)
    stats = {stats.ssrc: stats for stats in pair.receiver.stats().inbound}
    assert audio == sorted(set(audio))
    assert len(audio) == 1000 - stats[_AUDIO].cumulative_lost == stats[_AUDIO].frames
    assert sum(frame.lost for frame in pair.received[_AUDIO]) == audio[-1] + 1 - len(audio)
    video = pair.numbers(_VIDEO)
    assert video == sorted(set(video))
    for before, number in pairwise(video):
        assert number == before + 1 or pair.sent[_VIDEO][number].keyframe
    assert len(video) > 300
    assert stats[_VIDEO].keyframe_requests > 5
    # Every stretch without picture is short: window, request, answer.
    gaps = [b - a for a, b in pairwise(video)]
    assert max(gaps) < 45


def test_both_sides_learn_about_the_path_from_reports() -> None:
    pair = Pair(Impairment(loss=0.1, delay=0.05), seed=1)
    pair.run(11.0)
    for outbound in pair.sender.stats().outbound:
        assert outbound.rtt == pytest.approx(0.1, abs=0.005)
        assert outbound.fraction_lost is not None
        assert 0.02 < outbound.fraction_lost < 0.25
        assert outbound.cumulative_lost > 0


def test_sender_reports_put_audio_and_video_on_one_clock() -> None:
    pair = Pair(Impairment(delay=0.05, jitter=0.04), seed=5)
    pair.run(11.0)
    assert len(pair.reports) == 6
    for report in pair.reports:
        frame = pair.received[report.ssrc][-1]
        ahead = (frame.ticks - report.ticks) / frame.codec.clock_rate
        passed = (frame.ticks - pair.received[report.ssrc][0].ticks) / frame.codec.clock_rate
        assert report.ntp + ahead == pytest.approx(_NTP_OFFSET + passed, abs=0.002)


def test_streams_end_with_their_last_frame_over_a_network_with_jitter() -> None:
    pair = Pair(Impairment(delay=0.02, jitter=0.05, reorder=0.1), seed=4)
    pair.run(2.0)
    for ssrc in (_AUDIO, _VIDEO):
        pair.sender.remove_sender(ssrc, pair.now)
    pair.run(1.0, media=False)
    assert sorted(pair.ended) == [_AUDIO, _VIDEO]
    assert [len(pair.received[ssrc]) for ssrc in (_AUDIO, _VIDEO)] == [100, 60]
    assert "after-bye" not in pair.receiver.stats().drops


def test_a_stream_that_stops_and_starts_again_is_seen_at_once() -> None:
    pair = Pair(Impairment(delay=0.02), seed=7)
    pair.run(1.0)
    pair.sender.remove_sender(_VIDEO, pair.now)
    pair.sender.add_sender(SenderConfig(_VIDEO, Codec.H264, 101))
    pair.demand_keyframe()
    pair.run(1.0)
    pair.run(0.2, media=False)
    assert pair.ended == [_VIDEO]
    assert len(pair.received[_VIDEO]) == 60
    # The second report of the video came with its BYE, the third in front of its new packets.
    assert [report.ssrc for report in pair.reports] == [_AUDIO, _VIDEO, _VIDEO, _VIDEO]


def test_no_queue_comes_near_its_bound() -> None:
    pair = Pair(Impairment(loss=0.05, delay=0.05, jitter=0.05, reorder=0.1), seed=6)
    pair.run(10.0)
    for session in (pair.sender, pair.receiver):
        for queue in session.stats().queues:
            assert queue.dropped == 0
            assert queue.high_water < queue.bound / 2


# ---- repair -------------------------------------------------------------------------------

_FORTY = Impairment(delay=0.02)  # ms round trip


def _repaired(impairment: Impairment, seed: int, video: SenderConfig = _REPAIRED) -> Pair:
    return Pair(impairment, seed, video, _NACK)


def _is_rtx(packet: bytes) -> bool:
    return not is_rtcp(packet) and parse_rtp(packet).ssrc == _RTX


def _is_video(packet: bytes) -> bool:
    return not is_rtcp(packet) and parse_rtp(packet).ssrc == _VIDEO


@pytest.mark.parametrize("video", [_REPAIRED, _PLAIN], ids=["rtx", "plain"])
@pytest.mark.parametrize("seed", range(3))
def test_five_percent_loss_is_repaired(seed: int, video: SenderConfig) -> None:
    pair = _repaired(replace(_FORTY, loss=0.05), seed, video)
    pair.run(30.0)
    pair.run(0.5, media=False)
    shown = pair.numbers(_VIDEO)
    assert shown == sorted(set(shown))
    assert len(shown) >= 0.99 * 900
    assert pair.video_in.keyframe_requests <= 2
    assert pair.video_in.recovered > 70
    # Not much more is sent than is lost.
    assert pair.video_out.retransmitted < 1.2 * pair.video_in.recovered
    assert pair.video_in.nacked < 1.4 * pair.video_in.recovered


@pytest.mark.parametrize("seed", range(3))
def test_most_of_twenty_percent_loss_is_repaired(seed: int) -> None:
    pair = _repaired(replace(_FORTY, loss=0.2), seed)
    pair.run(30.0)
    pair.run(0.5, media=False)
    shown = pair.numbers(_VIDEO)
    for before, number in pairwise(shown):
        assert number == before + 1 or pair.sent[_VIDEO][number].keyframe
    assert len(shown) > 0.85 * 900
    assert pair.video_in.keyframe_requests < 12


@pytest.mark.parametrize("delay", [0.001, 0.05, 0.1])
def test_repair_adapts_to_the_length_of_the_way(delay: float) -> None:
    pair = _repaired(Impairment(loss=0.03, delay=delay), 2)
    pair.run(30.0)
    pair.run(1.0, media=False)
    assert len(pair.numbers(_VIDEO)) >= 0.97 * 900
    # Who asks too soon gets everything twice.
    assert pair.video_in.rtx_duplicates < 5


def test_a_way_that_becomes_longer_is_noticed() -> None:
    pair = _repaired(Impairment(loss=0.03, delay=0.01), 1)
    pair.run(10.0)
    pair.there = Netem(Impairment(loss=0.03, delay=0.08), 8)
    pair.back = Netem(Impairment(loss=0.03, delay=0.08), 9)
    pair.run(20.0)
    before = len(pair.numbers(_VIDEO))
    pair.run(10.0)
    assert len(pair.numbers(_VIDEO)) - before > 0.95 * 300


@pytest.mark.parametrize("seed", range(3))
def test_reordering_is_not_taken_for_loss(seed: int) -> None:
    pair = _repaired(Impairment(delay=0.02, jitter=0.03, reorder=0.05), seed)
    pair.run(20.0)
    pair.run(0.5, media=False)
    assert pair.there.counters.reordered > 50
    assert pair.numbers(_VIDEO) == list(range(600))
    assert pair.video_in.nacked == pair.video_out.retransmitted == 0


def test_a_lost_burst_is_repaired() -> None:
    pair = _repaired(_FORTY, 1)
    pair.run(2.0)
    left = 30

    def eaten(packet: bytes) -> bool:
        nonlocal left
        left -= _is_video(packet)
        return left >= 0 and _is_video(packet)

    pair.eaten = eaten
    pair.run(2.0)
    pair.run(0.5, media=False)
    assert pair.numbers(_VIDEO) == list(range(120))
    assert (pair.video_in.recovered, pair.video_in.nacked) == (30, 30)
    assert pair.video_in.keyframe_requests == 0


def test_retransmissions_that_are_lost_are_asked_for_again() -> None:
    pair = _repaired(_FORTY, 1)
    eaten: set[int] = set()

    def eaten_twice(packet: bytes) -> bool:
        """Every thirtieth packet, and the first retransmission of it."""
        if _is_video(packet):
            return parse_rtp(packet).sequence % 30 == 0
        if not _is_rtx(packet):
            return False
        original = int.from_bytes(parse_rtp(packet).payload[:2], "big")
        first = original not in eaten
        eaten.add(original)
        return first

    pair.eaten = eaten_twice
    pair.run(20.0)
    pair.run(0.5, media=False)
    assert len(eaten) > 30
    assert pair.numbers(_VIDEO) == list(range(600))
    assert pair.video_in.nacked == 2 * pair.video_in.recovered == 2 * len(eaten)


def test_without_any_answer_keyframes_repair() -> None:
    pair = _repaired(replace(_FORTY, loss=0.01), 1)
    pair.eaten = _is_rtx
    pair.run(20.0)
    pair.run(1.0, media=False)
    shown = pair.numbers(_VIDEO)
    assert len(shown) > 300
    assert pair.video_in.keyframe_requests > 5
    # Each gap: a window, the request, the keyframe.
    assert max(b - a for a, b in pairwise(shown)) < 45


def _shortly_before_the_wrap() -> Pair:
    """A pair whose video has begun less than 200 numbers before they wrap."""
    for seed in count():
        pair = _repaired(_FORTY, seed)
        pair.run(_TICK)
        last = pair.video_out.last_sequence
        if last is not None and 65_336 < last < 65_500:
            return pair
    raise AssertionError


def test_numbers_may_wrap_in_mid_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound_module, "FIRST_SEQUENCE_BITS", 16)  # and not half an hour away
    pair = _shortly_before_the_wrap()

    def eaten(packet: bytes) -> bool:
        """Everything from six packets before the wrap to six behind it."""
        return _is_video(packet) and (parse_rtp(packet).sequence + 6) % 65536 < 12

    pair.eaten = eaten
    pair.run(5.0)
    pair.run(0.5, media=False)
    last = pair.video_out.last_sequence
    assert last is not None
    assert 6 < last < 1000
    assert pair.numbers(_VIDEO) == list(range(len(pair.sent[_VIDEO])))
    assert pair.video_in.recovered == 12


def test_a_flood_of_requests_is_answered_within_bounds() -> None:
    pair = _repaired(_FORTY, 1)
    rate = 8_000_000
    pair.sender.set_pacing_rate(rate)
    rtx_bytes = 0

    def eaten(packet: bytes) -> bool:
        nonlocal rtx_bytes
        rtx_bytes += len(packet) * _is_rtx(packet)
        return False

    pair.eaten = eaten
    for _ in range(100):
        pair.run(0.05)
        last = pair.video_out.last_sequence or 0
        wanted = tuple((last - back) % 65536 for back in range(1000))
        pair.sender.receive_rtcp(build_rtcp((Nack(9, _VIDEO, wanted),)), pair.now)
    pair.run(0.5, media=False)
    assert pair.numbers(_VIDEO) == list(range(150))
    assert rtx_bytes * 8 < 0.5 * rate * (5.0 + 0.5)
    assert pair.sender.stats().drops["rtx-limited"] > 1000
    assert pair.sender.stats().drops["rtx-not-kept"] > 1000
    for session in (pair.sender, pair.receiver):
        assert all(queue.dropped == 0 for queue in session.stats().queues)


def test_retransmissions_for_somebody_else_are_dropped() -> None:
    pair = _repaired(_FORTY, 1)
    for _ in range(20):
        pair.run(0.1)
        last = pair.video_out.last_sequence or 0
        pair.sender.receive_rtcp(build_rtcp((Nack(9, _VIDEO, (last,)),)), pair.now)
    pair.run(0.5, media=False)
    assert pair.numbers(_VIDEO) == list(range(len(pair.sent[_VIDEO])))
    stats = pair.video_in
    assert (stats.rtx_duplicates, stats.recovered, stats.nacked) == (20, 0, 0)
    assert (stats.duplicates, stats.cumulative_lost) == (0, 0)


def test_a_way_that_carries_too_little_is_not_filled_with_retransmissions() -> None:
    # The video has about 0.5 Mbit/s; what the queue drops is asked for and comes on top.
    impairment = Impairment(delay=0.02, rate_bps=450_000, queue_limit=30)
    pair = _repaired(impairment, 1)
    pair.sender.set_pacing_rate(1_250_000)
    pair.run(20.0)
    assert pair.there.counters.overflowed > 100
    assert pair.video_out.rtx_octets < 20 * 1_250_000 / 2 / 8
    assert len(pair.numbers(_VIDEO)) > 50
