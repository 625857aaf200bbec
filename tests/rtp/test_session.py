"""The five verbs of an RTP session."""

from __future__ import annotations

from fractions import Fraction

import pytest

from discord_rtc.errors import NoCommonCodec, UsageError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.rtp.extensions import (
    NATIVE_EXTENSION_IDS,
    TRANSPORT_CC,
    build_elements,
    transport_sequence,
)
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
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


def _session(*feedback: str) -> RtpSession:
    return RtpSession(
        payload_types={120: Codec.OPUS, 105: Codec.VP8},
        rtx_payload_types={106: 105},
        extension_ids=NATIVE_EXTENSION_IDS,
        max_packet_size=1200,
        ntp_offset=_NTP_OFFSET,
        cname="me",
        feedback=frozenset(feedback),
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
            rtx_payload_types={},
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
        (_rtp(b"\x00\x01media", kind=106), "rtx-unpaired"),
        (_rtp(b"\x00", kind=106), "probe"),
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
        rtx_payload_types={},
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


# ---- repair ------------------------------------------------------------------------------


def test_a_lost_packet_is_asked_for_sent_again_and_shown() -> None:
    sender, receiver = _session("nack"), _session("nack")
    sender.add_sender(
        SenderConfig(_VIDEO, Codec.VP8, 105, rtx_ssrc=_VIDEO + 1, rtx_payload_type=106)
    )
    sender.send_frame(_VIDEO, _video(0, size=6000), 0.0)
    packets = [packet for packet, rtcp in sender.packets_to_send(0.0) if not rtcp]
    for packet in packets[:1] + packets[2:]:
        receiver.receive_rtp(packet, 0.02)
    assert _events(receiver) == []
    (nack,) = receiver.packets_to_send(0.02)
    lost = (parse_rtp(packets[1]).sequence,)
    assert parse_rtcp(nack.packet) == (Nack(1, _VIDEO, lost),)
    sender.receive_rtcp(nack.packet, 0.04)
    (again,) = sender.packets_to_send(0.04)
    assert parse_rtp(again.packet).ssrc == _VIDEO + 1
    receiver.receive_rtp(again.packet, 0.06)
    (frame,) = _events(receiver)
    assert isinstance(frame, FrameReceived)
    assert frame.data == _video(0, size=6000).data
    (outbound,), (inbound,) = sender.stats().outbound, receiver.stats().inbound
    assert (outbound.nacked, outbound.retransmitted) == (1, 1)
    assert (inbound.nacked, inbound.recovered, inbound.cumulative_lost) == (1, 1, 1)
    assert sender.stats().drops == receiver.stats().drops == {}


def test_without_nack_nothing_is_asked_for_or_sent_again() -> None:
    sender, receiver = _session("pli"), _session("pli")
    sender.add_sender(SenderConfig(_VIDEO, Codec.VP8, 105))
    receiver.receive_rtp(_rtp(_KEY, 1), 0.0)
    receiver.receive_rtp(_rtp(_DELTA, 20), 0.0)
    assert _control(receiver, 0.0) == []
    sender.send_frame(_VIDEO, _video(0), 0.0)
    packets = [packet for packet, rtcp in sender.packets_to_send(0.0) if not rtcp]
    _receive(sender, Nack(9, _VIDEO, (parse_rtp(packets[0]).sequence,)))
    assert sender.packets_to_send(0.0) == []


def test_many_missing_packets_are_asked_for_in_several_packets() -> None:
    receiver = _session("nack")
    receiver.receive_rtp(_rtp(_KEY, 100), 0.0)
    receiver.receive_rtp(_rtp(_DELTA, 504), 0.0)
    nacks = [part for part in _control(receiver, 0.0) if isinstance(part, Nack)]
    assert [len(nack.lost) for nack in nacks] == [256, 145]
    assert [number for nack in nacks for number in nack.lost] == list(range(101, 502))


def test_no_request_is_larger_than_a_packet() -> None:
    receiver = _session("nack")
    receiver.receive_rtp(_rtp(_KEY, 0), 0.0)
    for number in range(1, 400):  # as far apart as takes the most room
        receiver.receive_rtp(_rtp(_DELTA, 18 * number), 0.0)
        receiver.receive_rtp(_rtp(_DELTA, 18 * number + 1), 0.0)
    receiver.handle_timeout(0.01)
    assert max(len(packet) for packet, _ in receiver.packets_to_send(0.01)) <= 1200


def test_retransmissions_of_codecs_that_are_not_received_are_unknown() -> None:
    session = RtpSession(
        payload_types={105: Codec.VP8},
        rtx_payload_types={106: 105, 102: 101},
        extension_ids={},
        max_packet_size=1200,
        ntp_offset=0.0,
        cname="me",
    )
    session.receive_rtp(_rtp(b"\0\1media", kind=102), 0.0)
    assert session.stats().drops == {"unknown-payload-type": 1}


def test_who_sends_nothing_can_have_an_ssrc_all_the_same() -> None:
    session = RtpSession(
        payload_types={105: Codec.VP8},
        rtx_payload_types={},
        extension_ids={},
        max_packet_size=1200,
        ntp_offset=0.0,
        cname="me",
        ssrc=77,
    )
    session.receive_rtp(_rtp(_DELTA), 0.0)
    assert _control(session, 0.0) == [PictureLoss(77, 2)]


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


def _numbered(value: bytes, sequence: int) -> bytes:
    """A packet whose transport-wide number is that value."""
    profile, data = build_elements([(NATIVE_EXTENSION_IDS[TRANSPORT_CC], value)])
    return (
        parse_rtp(_rtp(_KEY, sequence))
        ._replace(extension_profile=profile, extension_data=data)
        .to_bytes()
    )


def test_a_server_that_numbers_its_packets_is_told_when_they_came() -> None:
    session = _session("transport-cc")
    session.receive_rtp(_numbered(transport_sequence(7), 1), 1.0)
    session.receive_rtp(_rtp(_KEY, 2), 1.01)
    session.receive_rtp(_numbered(b"\x00", 3), 1.01)
    session.receive_rtp(_numbered(transport_sequence(9), 4), 1.02)
    _control(session, 1.02)
    assert session.next_timeout() == pytest.approx(1.05)
    session.handle_timeout(1.04)
    assert _control(session, 1.04) == []
    session.handle_timeout(1.05)
    (feedback,) = _control(session, 1.05)
    assert isinstance(feedback, TransportFeedback)
    assert (feedback.media_ssrc, feedback.base_sequence) == (2, 7)
    assert [delta is None for delta in feedback.deltas] == [False, True, False]
    assert feedback.deltas[2] == 80  # 20 ms in 250 us
    session.handle_timeout(1.2)
    assert _control(session, 1.2) == []


def test_numbers_are_nobodys_business_where_their_feedback_was_not_negotiated() -> None:
    session = _session("nack")
    session.receive_rtp(_numbered(transport_sequence(7), 1), 1.0)
    session.handle_timeout(2.0)
    assert not any(isinstance(part, TransportFeedback) for part in _control(session, 2.0))


def test_every_queue_is_named_with_its_bound(sender: RtpSession) -> None:
    sender.receive_rtp(_rtp(_KEY), 0.0)
    queues = sender.stats().queues
    assert [queue.name for queue in queues] == [
        "pacer",
        "retransmissions",
        "urgent",
        "events",
        "streams",
        "reorder-2",
    ]
    assert all(queue.high_water < queue.bound for queue in queues)


def test_what_was_handed_over_can_be_forgotten(sender: RtpSession) -> None:
    sender.set_pacing_rate(80_000)
    sender.packets_to_send(0.0)
    sender.send_frame(_VIDEO, _video(0, size=20_000), 0.0)
    sender.forget_packets(0.0)
    assert all(outgoing.rtcp for outgoing in sender.packets_to_send(100.0))
