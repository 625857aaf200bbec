"""The five verbs of an RTP session."""

from __future__ import annotations

from fractions import Fraction

import pytest

from discord_rtc.errors import NoCommonCodec, UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.rtcp import (
    BitrateEstimate,
    FullIntraRequest,
    Goodbye,
    Nack,
    PictureLoss,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    TransportFeedback,
    UnknownRtcp,
    build_rtcp,
    ntp_middle,
    ntp_to_64,
    parse_rtcp,
)
from discord_rtc.rtp.session import (
    BitrateEstimated,
    Event,
    FrameReceived,
    KeyframeRequested,
    RtpSession,
    SenderConfig,
    SenderReportReceived,
    StreamEnded,
)

_NTP_OFFSET = 3_900_000_000.0
_AUDIO, _VIDEO = 11, 12
_KEY = b"\x90\x80\x80\x00\x00key"
_DELTA = b"\x90\x80\x80\x00\x01delta"


def _session() -> RtpSession:
    return RtpSession(
        payload_types={120: Codec.OPUS, 105: Codec.VP8},
        rtx_payload_types=(106,),
        extension_ids=NATIVE_EXTENSION_IDS,
        max_packet_size=1200,
        ntp_offset=_NTP_OFFSET,
        cname="me",
        seed=1,
    )


@pytest.fixture
def receiver() -> RtpSession:
    return _session()


@pytest.fixture
def sender() -> RtpSession:
    session = _session()
    session.add_sender(SenderConfig(_AUDIO, Codec.OPUS, 120))
    session.add_sender(SenderConfig(_VIDEO, Codec.VP8, 105))
    return session


def _audio(number: int) -> EncodedFrame:
    return EncodedFrame(b"\xfcopus", Codec.OPUS, number, Fraction(1, 50), keyframe=True)


def _video(number: int, *, keyframe: bool = True, size: int = 100) -> EncodedFrame:
    data = bytes((not keyframe,)) * size
    return EncodedFrame(data, Codec.VP8, number, Fraction(1, 30), keyframe)


def _rtp(payload: bytes, sequence: int = 1, *, kind: int = 105, ssrc: int = 2) -> bytes:
    return RtpPacket(kind, sequence, sequence * 3000, ssrc, payload, marker=True).to_bytes()


def _events(session: RtpSession) -> list[Event]:
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


def _control(session: RtpSession, now: float) -> list[RtcpPacket]:
    packets = session.packets_to_send(now)
    return [part for packet, rtcp in packets if rtcp for part in parse_rtcp(packet)]


def _receive(session: RtpSession, *parts: RtcpPacket, now: float = 0.0) -> list[Event]:
    session.receive_rtcp(build_rtcp(parts), now)
    return _events(session)


# ---- sending -----------------------------------------------------------------------------


def test_frames_arrive_at_another_session(sender: RtpSession, receiver: RtpSession) -> None:
    sender.send_frame(_AUDIO, _audio(0), 1.0, speaking=1, level=-20)
    sender.send_frame(_VIDEO, _video(0, size=3000), 1.0)
    for packet, rtcp in sender.packets_to_send(1.0):
        (receiver.receive_rtcp if rtcp else receiver.receive_rtp)(packet, 1.1)
    assert sender.packets_to_send(1.0) == []
    audio_report, audio, video_report, video = _events(receiver)
    origins = [stats.origin_ticks for stats in sender.stats().outbound]
    assert isinstance(audio, FrameReceived)
    assert audio == FrameReceived(
        _AUDIO, Codec.OPUS, b"\xfcopus", audio.ticks, True, 1.1, flags=1, level=-20
    )
    assert isinstance(video, FrameReceived)
    assert video == FrameReceived(_VIDEO, Codec.VP8, bytes(3000), video.ticks, True, 1.1)
    assert [audio.ticks, video.ticks] == origins
    ntp = _NTP_OFFSET + 1.0
    assert audio_report == SenderReportReceived(_AUDIO, ntp, audio.ticks, 1.1)
    assert video_report == SenderReportReceived(_VIDEO, ntp, video.ticks, 1.1)


def test_equal_seeds_start_equally(sender: RtpSession) -> None:
    other = _session()
    other.add_sender(SenderConfig(_AUDIO, Codec.OPUS, 120))
    sender.send_frame(_AUDIO, _audio(0), 0.0)
    other.send_frame(_AUDIO, _audio(0), 0.0)
    first = sender.stats().outbound[0].last_sequence
    assert first == other.stats().outbound[0].last_sequence


def test_the_pacing_rate_sets_the_backlog(sender: RtpSession) -> None:
    sender.set_pacing_rate(1_000_000)
    assert sender.backlog(0.0) == 0.0
    sender.send_frame(_VIDEO, _video(0, size=25_000), 0.0)
    sender.packets_to_send(0.0)
    assert sender.backlog(0.0) == pytest.approx(0.2, rel=0.1)
    deadline = sender.next_timeout()
    assert deadline is not None
    assert 0.0 < deadline < 0.1
    sender.handle_timeout(deadline)
    assert len(sender.packets_to_send(deadline)) in (1, 2)


def test_another_source_continues_in_time(sender: RtpSession, receiver: RtpSession) -> None:
    sender.send_frame(_AUDIO, _audio(1000), 0.0)
    sender.restart_source(_AUDIO, 1.0)
    sender.send_frame(_AUDIO, _audio(3), 2.0)
    for packet, rtcp in sender.packets_to_send(2.0):
        (receiver.receive_rtcp if rtcp else receiver.receive_rtp)(packet, 2.0)
    before, after = (event for event in _events(receiver) if isinstance(event, FrameReceived))
    assert after.ticks - before.ticks == 2 * 48_000


def test_a_removed_sender_says_goodbye(sender: RtpSession, receiver: RtpSession) -> None:
    sender.send_frame(_AUDIO, _audio(0), 0.0)
    sender.remove_sender(_AUDIO, 0.02)
    for packet, rtcp in sender.packets_to_send(0.02):
        (receiver.receive_rtcp if rtcp else receiver.receive_rtp)(packet, 0.02)
    deadline = receiver.next_timeout()
    assert deadline is not None
    receiver.handle_timeout(deadline)
    assert _events(receiver)[-1] == StreamEnded(_AUDIO)


def test_streams_that_do_not_exist_are_refused(sender: RtpSession) -> None:
    with pytest.raises(UsageError):
        sender.send_frame(99, _audio(0), 0.0)
    with pytest.raises(UsageError):
        sender.restart_source(99, 0.0)
    with pytest.raises(UsageError):
        sender.remove_sender(99, 0.0)


def test_codecs_without_a_payload_format_are_refused() -> None:
    with pytest.raises(NoCommonCodec):
        RtpSession(
            payload_types={103: Codec.H265},
            rtx_payload_types=(),
            extension_ids={},
            max_packet_size=1200,
            ntp_offset=0.0,
            cname="me",
        )


def test_a_full_pacer_asks_the_owner_for_a_keyframe(sender: RtpSession) -> None:
    sender.send_frame(_VIDEO, _video(0, size=2_000_000), 0.0)
    sender.send_frame(_VIDEO, _video(1, size=2_000_000, keyframe=False), 0.0)
    assert _events(sender) == [KeyframeRequested(_VIDEO)]


# ---- receiving ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "malformed-rtp"),
        (b"\x00" * 20, "malformed-rtp"),
        (_rtp(b"\x00\x01media", kind=106), "rtx"),
        (_rtp(b"", kind=96), "probe"),
        (_rtp(b"media", kind=103), "unknown-payload-type"),
    ],
)
def test_packets_that_cannot_be_used_are_counted(
    receiver: RtpSession, packet: bytes, reason: str
) -> None:
    receiver.receive_rtp(packet, 0.0)
    stats = receiver.stats()
    assert stats.drops == {reason: 1}
    assert stats.inbound == ()


def test_payload_type_96_is_media_where_it_was_negotiated() -> None:
    session = RtpSession(
        payload_types={96: Codec.VP8},
        rtx_payload_types=(),
        extension_ids={},
        max_packet_size=1200,
        ntp_offset=0.0,
        cname="me",
    )
    session.receive_rtp(_rtp(_KEY, kind=96), 0.0)
    assert len(_events(session)) == 1


def test_drops_cannot_be_changed_from_outside(receiver: RtpSession) -> None:
    drops = receiver.stats().drops
    receiver.receive_rtp(b"", 0.0)
    assert drops == {}


@pytest.mark.parametrize("packet", [b"", b"\x80\xc8\x00\x06", b"\x00" * 8])
def test_malformed_rtcp_is_counted(receiver: RtpSession, packet: bytes) -> None:
    receiver.receive_rtcp(packet, 0.0)
    assert receiver.stats().drops == {"malformed-rtcp": 1}


def test_rtcp_that_nobody_uses_is_counted(receiver: RtpSession) -> None:
    feedback = TransportFeedback(1, 2, 0, 0, 0, (0, 1))
    assert _receive(receiver, UnknownRtcp(204, 0, bytes(8)), feedback) == []
    assert _receive(receiver, SourceDescription(((5, ((1, "you"),)),))) == []
    assert receiver.stats().drops == {"unused-rtcp": 2}


def test_a_keyframe_is_requested_with_a_picture_loss(receiver: RtpSession) -> None:
    receiver.receive_rtp(_rtp(_DELTA), 0.0)
    assert _control(receiver, 0.0) == [PictureLoss(1, 2)]
    receiver.handle_timeout(0.5)
    assert _control(receiver, 0.5) == [PictureLoss(1, 2)]


def test_requests_come_from_our_first_stream(sender: RtpSession) -> None:
    sender.receive_rtp(_rtp(_KEY), 0.0)
    sender.request_keyframe(2, 0.0)
    sender.request_keyframe(2, 0.1)
    assert _control(sender, 0.1) == [PictureLoss(_AUDIO, 2)]
    assert sender.next_timeout() == 0.5


def test_a_forgotten_receiver_is_gone(receiver: RtpSession) -> None:
    receiver.receive_rtp(_rtp(_KEY), 0.0)
    receiver.forget_receiver(2)
    assert receiver.stats().inbound == ()


def test_requests_of_receivers_reach_the_owner(sender: RtpSession) -> None:
    assert _receive(sender, PictureLoss(9, _VIDEO)) == [KeyframeRequested(_VIDEO)]
    intra = FullIntraRequest(9, ((_VIDEO, 7),))
    assert _receive(sender, intra) == [KeyframeRequested(_VIDEO)]
    assert _receive(sender, intra) == []
    assert _receive(sender, Nack(9, _VIDEO, (5, 6))) == []
    video = sender.stats().outbound[1]
    assert (video.keyframe_requests, video.nacked) == (2, 2)
    assert sender.stats().drops == {}


def test_requests_to_others_are_counted(sender: RtpSession) -> None:
    others = (PictureLoss(9, 99), FullIntraRequest(9, ((99, 1),)), Nack(9, 99, (1,)))
    assert _receive(sender, *others) == []
    assert sender.stats().drops == {"feedback-to-others": 3}


def test_an_estimate_reaches_the_owner(sender: RtpSession) -> None:
    assert _receive(sender, BitrateEstimate(9, 1 << 20, (_VIDEO,))) == [BitrateEstimated(1 << 20)]


def test_report_blocks_come_with_either_kind_of_report(sender: RtpSession) -> None:
    sent = ntp_middle(ntp_to_64(_NTP_OFFSET + 1.0))
    block = ReportBlock(_AUDIO, 64, 3, 100, 0, sent, 1 << 15)
    _receive(sender, ReceiverReport(9, (block,)), now=1.75)
    audio = sender.stats().outbound[0]
    assert (audio.fraction_lost, audio.cumulative_lost, audio.rtt) == (0.25, 3, 0.25)
    block = ReportBlock(_AUDIO, 128, 4, 100, 0, 0, 0)
    _receive(sender, SenderReport(9, 0, 0, 0, 0, (block,)), now=2.0)
    assert sender.stats().outbound[0].fraction_lost == 0.5


def test_a_goodbye_ends_all_its_streams(receiver: RtpSession) -> None:
    receiver.receive_rtp(_rtp(_KEY, ssrc=2), 0.0)
    receiver.receive_rtp(_rtp(_KEY, ssrc=3), 0.0)
    assert len(_receive(receiver, Goodbye((2, 3)))) == 2
    receiver.handle_timeout(1.0)
    assert _events(receiver) == [StreamEnded(2), StreamEnded(3)]


# ---- time --------------------------------------------------------------------------------


def test_an_idle_session_waits_for_nothing(sender: RtpSession) -> None:
    assert sender.next_timeout() is None
    sender.handle_timeout(100.0)
    assert sender.packets_to_send(100.0) == []
    assert sender.next_event() is None


def test_what_is_received_is_reported_every_five_seconds(sender: RtpSession) -> None:
    sender.receive_rtp(_rtp(_KEY, 7), 1.0)
    assert sender.next_timeout() == 6.0
    sender.handle_timeout(6.0)
    report, description = _control(sender, 6.0)
    assert report == ReceiverReport(_AUDIO, (ReportBlock(2, 0, 0, 7, 0, 0, 0),))
    assert description == SourceDescription(((_AUDIO, ((1, "me"),)),))
    assert sender.next_timeout() == 11.0
    sender.handle_timeout(11.0)  # nothing came since
    assert _control(sender, 11.0) == []


def test_many_streams_are_reported_in_several_packets(receiver: RtpSession) -> None:
    for ssrc in range(100, 140):
        receiver.receive_rtp(_rtp(_KEY, ssrc=ssrc), 0.0)
    receiver.handle_timeout(5.0)
    reports = [part for part in _control(receiver, 5.0) if isinstance(part, ReceiverReport)]
    assert [len(report.blocks) for report in reports] == [31, 9]


def test_every_queue_is_named_with_its_bound(sender: RtpSession) -> None:
    sender.receive_rtp(_rtp(_KEY), 0.0)
    queues = sender.stats().queues
    assert [queue.name for queue in queues] == [
        "pacer",
        "urgent",
        "events",
        "streams",
        "reorder-2",
    ]
    assert all(queue.high_water < queue.bound for queue in queues)
