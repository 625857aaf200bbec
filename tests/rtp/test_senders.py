"""The table of sent streams: queues, reports and feedback."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.events import KeyframeRequested
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
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

_AUDIO, _VIDEO = 11, 12
_NTP_OFFSET = 3_900_000_000.0


class Fixture:
    """Senders with one audio and one video stream."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        context = SendersContext(
            NATIVE_EXTENSION_IDS, 1200, _NTP_OFFSET, "me", Random(1), self.events.append
        )
        self.senders = Senders(context)
        self.senders.add(SenderConfig(_AUDIO, Codec.OPUS, 120))
        self.senders.add(SenderConfig(_VIDEO, Codec.VP8, 105))

    def audio(self, now: float) -> None:
        pts = round(now * 48_000)
        frame = EncodedFrame(b"\xfcopus", Codec.OPUS, pts, Fraction(1, 48_000), keyframe=True)
        self.senders.send(self.senders.stream(_AUDIO), frame, now)

    def video(self, now: float, *, size: int = 100, keyframe: bool = True) -> None:
        pts = round(now * 90_000)
        frame = EncodedFrame(bytes(size), Codec.VP8, pts, Fraction(1, 90_000), keyframe=keyframe)
        self.senders.send(self.senders.stream(_VIDEO), frame, now)


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
    assert senders.receive_nack(Nack(9, _VIDEO, (1, 2, 3)))
    assert senders.receive_picture_loss(_VIDEO)
    intra = FullIntraRequest(9, ((_VIDEO, 4), (99, 1)))
    assert senders.receive_intra_request(intra)
    assert senders.receive_intra_request(intra)  # the same again
    assert fixture.events == [KeyframeRequested(_VIDEO)] * 2
    stats = senders.stats()[1]
    assert (stats.nacked, stats.keyframe_requests) == (3, 2)


def test_requests_to_others_are_told_apart(fixture: Fixture) -> None:
    senders = fixture.senders
    assert not senders.receive_nack(Nack(9, 99, (1,)))
    assert not senders.receive_picture_loss(99)
    assert not senders.receive_intra_request(FullIntraRequest(9, ((99, 4),)))
    assert fixture.events == []
