"""The table of sent streams: queues, reports and feedback."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.events import KeyframeRequested
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.history import HISTORY_SECONDS, LEAST_SPACING, original_sequence, unwrap_rtx
from discord_rtc.rtp.outbound import SenderConfig
from discord_rtc.rtp.packet import parse_rtp
from discord_rtc.rtp.rtcp import (
    FullIntraRequest,
    Goodbye,
    Nack,
    PictureLoss,
    ReportBlock,
    SenderReport,
    SourceDescription,
    parse_rtcp,
)
from discord_rtc.rtp.senders import REPORT_INTERVAL, Senders, SendersContext

if TYPE_CHECKING:
    from discord_rtc.rtp.events import Event
    from discord_rtc.rtp.pacer import Outgoing
    from discord_rtc.rtp.packet import RtpPacket

_AUDIO, _VIDEO, _RTX = 11, 12, 13
_NTP_OFFSET = 3_900_000_000.0


class Fixture:
    """Senders with one audio and one video stream."""

    def __init__(self, *, nack: bool = False, rtx: bool = False, repeats: bool = True) -> None:
        self.events: list[Event] = []
        self.drops: Counter[str] = Counter()
        context = SendersContext(
            NATIVE_EXTENSION_IDS,
            1200,
            _NTP_OFFSET,
            "me",
            1,
            Random(1),
            self.events.append,
            self.drops,
            nack,
            repeats,
        )
        self.senders = Senders(context)
        self.senders.add(SenderConfig(_AUDIO, Codec.OPUS, 120))
        video = SenderConfig(_VIDEO, Codec.VP8, 105)
        if rtx:
            video = replace(video, rtx_ssrc=_RTX, rtx_payload_type=106)
        self.senders.add(video)

    def audio(self, now: float) -> None:
        pts = round(now * 48_000)
        frame = EncodedFrame(b"\xfcopus", Codec.OPUS, pts, Fraction(1, 48_000), keyframe=True)
        self.senders.send(self.senders.stream(_AUDIO), frame, now)

    def video(self, now: float, *, size: int = 100, keyframe: bool = True) -> None:
        pts = round(now * 90_000)
        frame = EncodedFrame(bytes(size), Codec.VP8, pts, Fraction(1, 90_000), keyframe=keyframe)
        self.senders.send(self.senders.stream(_VIDEO), frame, now)

    def sent(self, now: float) -> list[RtpPacket]:
        """The RTP packets that may go now."""
        return [parse_rtp(packet) for packet, rtcp in self.senders.packets_to_send(now) if not rtcp]

    def nack(self, *lost: int, now: float) -> None:
        """A receiver misses packets of the video."""
        assert self.senders.receive_nack(Nack(9, _VIDEO, lost), now)


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def _kinds(sent: list[Outgoing]) -> list[str | int]:
    """``"SR"`` and so on for RTCP, the SSRC for RTP."""
    kinds: list[str | int] = []
    for outgoing in sent:
        if outgoing.rtcp:
            kinds.append("+".join(type(part).__name__ for part in parse_rtcp(outgoing.packet)))
        else:
            kinds.append(parse_rtp(outgoing.packet).ssrc)
    return kinds


_REPORT = "SenderReport+SourceDescription"


def test_the_first_report_goes_in_front_of_the_first_packet(fixture: Fixture) -> None:
    fixture.audio(0.0)
    fixture.video(0.0)
    assert _kinds(fixture.senders.packets_to_send(0.0)) == [_REPORT, _AUDIO, _REPORT, _VIDEO]
    fixture.audio(0.02)
    assert _kinds(fixture.senders.packets_to_send(0.02)) == [_AUDIO]


def test_a_report_is_28_bytes_and_the_compound_names_its_sender(fixture: Fixture) -> None:
    fixture.audio(2.0)
    packet = fixture.senders.packets_to_send(2.0)[0].packet
    assert packet[:4].hex() == "80c80006"
    report, description = parse_rtcp(packet)
    assert isinstance(report, SenderReport)
    assert report.ntp == int(_NTP_OFFSET + 2) << 32
    assert description == SourceDescription(((_AUDIO, ((1, "me"),)),))


def test_audio_passes_waiting_video(fixture: Fixture) -> None:
    fixture.video(0.0, size=200_000)
    waiting = len(fixture.senders.packets_to_send(0.0))
    assert 2 < waiting < 40
    fixture.audio(0.0)
    assert _kinds(fixture.senders.packets_to_send(0.0)) == [_REPORT, _AUDIO]
    assert fixture.senders.pacer.backlog(0.0) == pytest.approx(200_000 * 8 / 25e6 - 0.01, rel=0.1)


def test_reports_repeat_while_frames_are_sent(fixture: Fixture) -> None:
    fixture.audio(0.0)
    fixture.senders.packets_to_send(0.0)
    assert fixture.senders.next_timeout() == REPORT_INTERVAL
    fixture.senders.handle_timeout(4.9)
    assert fixture.senders.packets_to_send(4.9) == []
    fixture.senders.handle_timeout(5.0)
    assert _kinds(fixture.senders.packets_to_send(5.0)) == [_REPORT]
    fixture.senders.handle_timeout(10.0)  # silent for two intervals
    assert fixture.senders.packets_to_send(10.0) == []
    assert fixture.senders.next_timeout() is None
    fixture.audio(60.0)
    assert _kinds(fixture.senders.packets_to_send(60.0)) == [_REPORT, _AUDIO]


def test_a_full_pacer_drops_frames_until_a_keyframe(fixture: Fixture) -> None:
    fixture.video(0.0, size=1_150_000)
    fixture.video(0.1, size=1_150_000)
    fixture.video(0.2, size=1_150_000, keyframe=False)  # no room
    assert fixture.events == [KeyframeRequested(_VIDEO)]
    sent = fixture.senders.packets_to_send(0.2)
    now = 0.2
    while (deadline := fixture.senders.next_timeout()) is not None and deadline < 4.0:
        now = deadline
        sent += fixture.senders.packets_to_send(now)
    fixture.video(4.0, keyframe=False)  # room, but it depends on the dropped one
    assert fixture.senders.packets_to_send(4.0) == []
    fixture.video(4.1)
    sent += fixture.senders.packets_to_send(4.1)
    sequences = [parse_rtp(packet).sequence for packet, rtcp in sent if not rtcp]
    steps = {(b - a) % 65536 for a, b in pairwise(sequences)}
    assert steps == {1}  # dropped frames leave no hole
    stats = fixture.senders.stats()[1]
    assert (stats.frames, stats.frames_dropped) == (3, 2)
    assert fixture.senders.queue_stats()[0].dropped > 900


def test_a_goodbye_follows_the_last_packet(fixture: Fixture) -> None:
    fixture.audio(0.0)
    fixture.video(0.0, size=50_000)
    fixture.senders.remove(_AUDIO, 0.0)
    fixture.senders.remove(_VIDEO, 0.0)
    sent = fixture.senders.packets_to_send(0.0)
    while (deadline := fixture.senders.next_timeout()) is not None:
        sent += fixture.senders.packets_to_send(deadline)
    kinds = _kinds(sent)
    goodbye = _REPORT + "+Goodbye"
    assert kinds[:4] == [_REPORT, _AUDIO, goodbye, _REPORT]
    assert kinds[4:] == [_VIDEO] * (len(kinds) - 5) + [goodbye]
    report, _, farewell = parse_rtcp(sent[-1].packet)
    assert farewell == Goodbye((_VIDEO,))
    assert isinstance(report, SenderReport)
    assert report.packets == len(kinds) - 5


def test_a_goodbye_passes_a_full_pacer(fixture: Fixture) -> None:
    limit = 1200 - 12 - 8 - 4  # header, extensions, VP8 descriptor
    fixture.video(0.0, size=1999 * limit)
    assert not fixture.senders.pacer.has_room(1)
    fixture.senders.remove(_VIDEO, 0.0)
    assert _kinds(fixture.senders.packets_to_send(0.0))[0] == _REPORT + "+Goodbye"


def test_who_sent_nothing_says_no_goodbye(fixture: Fixture) -> None:
    fixture.senders.remove(_AUDIO, 0.0)
    assert fixture.senders.packets_to_send(0.0) == []
    with pytest.raises(UsageError, match="11 is not being sent"):
        fixture.senders.remove(_AUDIO, 0.0)


def test_an_ssrc_is_sent_once(fixture: Fixture) -> None:
    with pytest.raises(UsageError, match="11 is being sent already"):
        fixture.senders.add(SenderConfig(_AUDIO, Codec.OPUS, 120))


def test_feedback_comes_from_the_first_stream_or_from_nobody(fixture: Fixture) -> None:
    assert fixture.senders.reporter == _AUDIO
    fixture.senders.remove(_AUDIO, 0.0)
    fixture.senders.remove(_VIDEO, 0.0)
    assert fixture.senders.reporter == 1


def test_control_packets_go_at_once(fixture: Fixture) -> None:
    fixture.senders.send_control(PictureLoss(1, 2))
    (outgoing,) = fixture.senders.packets_to_send(0.0)
    assert outgoing.rtcp
    assert outgoing.packet.hex() == "81ce00020000000100000002"


def test_report_blocks_reach_their_stream(fixture: Fixture) -> None:
    others = ReportBlock(99, 255, 9, 0, 0, 0, 0)
    ours = ReportBlock(_VIDEO, 128, 5, 0, 0, 0, 0)
    fixture.senders.receive_blocks((others, ours), 0.0)
    audio, video = fixture.senders.stats()
    assert (audio.fraction_lost, video.fraction_lost) == (None, 0.5)


def test_requests_reach_their_stream(fixture: Fixture) -> None:
    senders = fixture.senders
    assert senders.receive_nack(Nack(9, _VIDEO, (1, 2, 3)), 0.0)
    assert senders.receive_picture_loss(_VIDEO)
    intra = FullIntraRequest(9, ((_VIDEO, 4), (99, 1)))
    assert senders.receive_intra_request(intra)
    assert senders.receive_intra_request(intra)  # the same again
    assert fixture.events == [KeyframeRequested(_VIDEO)] * 2
    stats = senders.stats()[1]
    assert (stats.nacked, stats.keyframe_requests) == (3, 2)


# ---- retransmissions ----------------------------------------------------------------------


@pytest.fixture
def repairing() -> Fixture:
    return Fixture(nack=True, rtx=True, repeats=False)


def test_missed_packets_go_out_again_as_rtx(repairing: Fixture) -> None:
    repairing.video(0.0, size=3000)
    packets = repairing.sent(0.0)
    repairing.nack(packets[0].sequence, packets[2].sequence, now=0.1)
    again = repairing.sent(0.1)
    assert [(packet.ssrc, packet.payload_type) for packet in again] == [(_RTX, 106)] * 2
    assert (again[1].sequence - again[0].sequence) % 65536 == 1
    assert [unwrap_rtx(packet, _VIDEO, 105) for packet in again] == [packets[0], packets[2]]
    stats = repairing.senders.stats()[1]
    assert (stats.nacked, stats.retransmitted) == (2, 2)
    assert stats.rtx_octets == len(packets[0].payload) + len(packets[2].payload)
    assert (stats.packets, stats.payload_octets) == (3, sum(len(p.payload) for p in packets))
    assert repairing.drops == {}


def test_missed_packets_go_out_again_as_they_were_without_rtx() -> None:
    fixture = Fixture(nack=True)
    fixture.video(0.0)
    sent = fixture.senders.packets_to_send(0.0)
    fixture.nack(parse_rtp(sent[-1].packet).sequence, now=0.1)
    assert fixture.senders.packets_to_send(0.1) == [sent[-1]]
    assert fixture.senders.stats()[1].retransmitted == 1


@pytest.mark.parametrize(
    "fixture",
    [Fixture(rtx=True), Fixture(nack=True, repeats=False)],
    ids=["no feedback", "no rtx over srtp"],
)
def test_nothing_goes_out_again_where_that_cannot_be_done(fixture: Fixture) -> None:
    fixture.video(0.0)
    fixture.nack(fixture.sent(0.0)[0].sequence, now=0.1)
    assert fixture.sent(0.1) == []
    assert fixture.senders.stats()[1].nacked == 1


def test_audio_is_not_sent_again(repairing: Fixture) -> None:
    repairing.audio(0.0)
    missed = Nack(9, _AUDIO, (repairing.sent(0.0)[0].sequence,))
    assert repairing.senders.receive_nack(missed, 0.1)
    assert repairing.sent(0.1) == []


def test_retransmissions_pass_waiting_video_but_not_audio(repairing: Fixture) -> None:
    repairing.video(0.0, size=200_000)
    first = repairing.sent(0.0)[0]
    repairing.nack(first.sequence, now=0.005)
    repairing.audio(0.005)
    ssrcs = [packet.ssrc for packet in repairing.sent(0.005)]
    assert ssrcs[:3] == [_AUDIO, _RTX, _VIDEO]


def test_the_same_packet_is_not_sent_again_at_once(repairing: Fixture) -> None:
    repairing.video(0.0)
    missed = repairing.sent(0.0)[0].sequence
    for now in (0.1, 0.1 + LEAST_SPACING / 2, 0.1 + LEAST_SPACING):
        repairing.nack(missed, missed, now=now)
    assert [original_sequence(packet) for packet in repairing.sent(1.0)] == [missed, missed]
    assert repairing.drops == {"rtx-too-soon": 4}


def test_packets_that_are_gone_are_counted(repairing: Fixture) -> None:
    repairing.video(0.0)
    missed = repairing.sent(0.0)[0].sequence
    repairing.nack((missed + 1) % 65536, now=0.1)
    repairing.nack(missed, now=HISTORY_SECONDS + 0.1)
    assert repairing.sent(10.0) == []
    assert repairing.drops == {"rtx-not-kept": 2}


def test_retransmissions_are_limited_whatever_is_asked_for(repairing: Fixture) -> None:
    repairing.senders.pacer.set_rate(2_000_000)
    sent = Counter[int]()
    seen: list[int] = []
    for step in range(2000):
        now = step / 500
        if step % 20 == 0:
            repairing.video(now, size=4000)  # 100 kB/s; the pacer has 250 kB/s
            repairing.nack(*seen, now=now)
        for packet in repairing.sent(now):
            sent[packet.ssrc] += len(packet.to_bytes())
            if packet.ssrc == _VIDEO:
                seen.append(packet.sequence)
    # Half of the rate, and half a second of that at once.
    assert sent[_RTX] * 8 == pytest.approx(4 * 1_000_000 + 500_000, rel=0.02)
    assert sent[_VIDEO] >= 99 * 4000
    assert repairing.senders.pacer.backlog(4.0) < 0.05
    assert repairing.drops["rtx-limited"] > 1000
    assert all(queue.dropped == 0 for queue in repairing.senders.queue_stats())


def test_a_removed_stream_sends_nothing_again(repairing: Fixture) -> None:
    repairing.video(0.0)
    missed = repairing.sent(0.0)[0].sequence
    repairing.senders.remove(_VIDEO, 0.0)
    assert not repairing.senders.receive_nack(Nack(9, _VIDEO, (missed,)), 0.0)


def test_requests_to_others_are_told_apart(fixture: Fixture) -> None:
    senders = fixture.senders
    assert not senders.receive_nack(Nack(9, 99, (1,)), 0.0)
    assert not senders.receive_picture_loss(99)
    assert not senders.receive_intra_request(FullIntraRequest(9, ((99, 4),)))
    assert fixture.events == []


def test_forgotten_packets_are_sent_neither_late_nor_again(repairing: Fixture) -> None:
    repairing.senders.pacer.set_rate(80_000)
    repairing.video(0.0)
    (seen,) = repairing.sent(0.0)
    repairing.video(0.1, size=20_000)
    repairing.senders.forget_packets()
    repairing.nack(seen.sequence, now=0.2)
    repairing.video(0.3, keyframe=False)
    assert repairing.sent(100.0) == []
    repairing.video(100.0)
    assert len(repairing.sent(100.0)) == 1
