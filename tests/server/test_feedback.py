"""What a room does with RTCP, tested through the room that owns it."""

from __future__ import annotations

import pytest

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
    parse_rtcp,
)
from discord_rtc.server.feedback import (
    KEYFRAME_INTERVAL,
    REPORT_INTERVAL,
    VIDEO_REPORT_INTERVAL,
)
from discord_rtc.server.sfu import DEFAULT_LEG_MEDIA, SERVER_SSRC, LegSsrcs, Room

ALICE, BOB, CAROL = 100, 200, 300
ALICE_VIDEO = 101
BLOCK = ReportBlock(1, 0, 0, 0, 0, 0, 0)
REPORT = SenderReport(ALICE, 1 << 32, 960, 50, 5000)


class FakeLeg:
    def __init__(self, leg_id: int) -> None:
        self.leg_id = leg_id
        self.rtp: list[bytes] = []
        self.rtcp: list[RtcpPacket] = []

    def send_rtp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtp.append(packet)

    def send_rtcp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtcp += parse_rtcp(packet)

    def take(self) -> list[RtcpPacket]:
        taken, self.rtcp = self.rtcp, []
        return taken


class Call:
    """A room of three, of whom Alice has announced audio and video."""

    def __init__(self) -> None:
        self.room = Room()
        self.alice, self.bob, self.carol = FakeLeg(ALICE), FakeLeg(BOB), FakeLeg(CAROL)
        for leg in (self.alice, self.bob, self.carol):
            self.add(leg)
        self.room.announce(ALICE, (ALICE, ALICE_VIDEO), 0.0)

    def add(self, leg: FakeLeg, now: float = 0.0) -> None:
        base = leg.leg_id
        self.room.add(leg, LegSsrcs(base, ((base + 1, base + 2),)), DEFAULT_LEG_MEDIA, now)

    def send(self, leg: FakeLeg, part: RtcpPacket, now: float = 0.0) -> None:
        self.room.receive_rtcp(leg.leg_id, build_rtcp((part,)), now)

    def play(self, sequence: int, now: float, ssrc: int = ALICE) -> None:
        pt = {ALICE: 120, ALICE_VIDEO: 101, 102: 102}[ssrc]
        packet = RtpPacket(pt, sequence, 960 * sequence, ssrc, b"media").to_bytes()
        self.room.receive_rtp(ALICE, packet, now)


@pytest.fixture
def call() -> Call:
    return Call()


def test_sender_reports_are_forwarded_without_their_blocks(call: Call) -> None:
    report = SenderReport(ALICE, 1 << 32, 960, 50, 5000, (BLOCK,))

    call.send(call.alice, report)

    assert call.bob.take() == call.carol.take() == [REPORT]
    assert call.alice.take() == []


def test_sender_reports_reach_only_those_who_get_the_stream(call: Call) -> None:
    call.room.set_deaf(BOB, True)

    call.send(call.alice, REPORT)

    assert call.bob.take() == []
    assert call.carol.take() == [REPORT]


def test_a_sender_report_for_somebody_elses_stream_is_counted(call: Call) -> None:
    call.send(call.bob, REPORT)

    assert call.carol.take() == []
    assert call.room.counters["foreign-ssrc"] == 1


def test_a_sender_report_before_the_announcement_is_not_forwarded(call: Call) -> None:
    call.send(call.bob, SenderReport(BOB, 0, 0, 0, 0))

    assert call.alice.take() == []


def test_a_goodbye_is_passed_on_for_the_senders_own_streams(call: Call) -> None:
    call.send(call.alice, Goodbye((ALICE, BOB), "reasons are for the log"))

    assert call.bob.take() == [Goodbye((ALICE,))]
    assert call.room.counters["foreign-ssrc"] == 1


def test_reports_of_receivers_and_descriptions_end_at_the_room(call: Call) -> None:
    call.send(call.bob, ReceiverReport(BOB, (BLOCK,)))
    call.send(call.bob, SourceDescription(((BOB, ((1, "bob"),)),)))

    assert call.alice.take() == call.carol.take() == []
    assert not call.room.counters


@pytest.mark.parametrize(
    "part",
    [TransportFeedback(BOB, ALICE, 1, 2, 3, (4,)), UnknownRtcp(207, 0, bytes(4))],
    ids=["transport-wide feedback", "extended report"],
)
def test_rtcp_without_a_use_is_counted_and_ends_at_the_room(call: Call, part: RtcpPacket) -> None:
    call.send(call.bob, part)

    assert call.room.counters["rtcp-ignored"] == 1
    assert call.alice.take() == call.carol.take() == []


def test_bitrate_estimates_of_receivers_end_at_the_room(call: Call) -> None:
    call.send(call.bob, BitrateEstimate(BOB, 1_000_000, (ALICE_VIDEO,)))

    assert call.alice.take() == call.carol.take() == []
    assert call.room.counters == {"remb-received": 1}


def test_sender_reports_of_retransmissions_end_at_the_room(call: Call) -> None:
    """The room's retransmissions are its own, with counts of their own."""
    call.send(call.alice, SenderReport(102, 1 << 32, 960, 50, 5000))
    call.play(1, 1.0, 102)
    call.room.handle_timeout(2.0)

    assert call.bob.take() == []
    [report] = call.alice.take()
    assert isinstance(report, ReceiverReport)
    assert [(block.ssrc, block.last_sr) for block in report.blocks] == [(102, 1 << 16)]


def test_malformed_rtcp_is_counted(call: Call) -> None:
    call.room.receive_rtcp(ALICE, b"\x81\xc8\x00\x00", 0.0)

    assert call.room.counters["malformed-rtcp"] == 1


def test_all_parts_of_a_compound_are_handled(call: Call) -> None:
    parts = (REPORT, Nack(ALICE, 201, (1,)), PictureLoss(ALICE, 201))
    call.room.announce(BOB, (201,), 0.0)

    call.room.receive_rtcp(ALICE, build_rtcp(parts), 0.0)

    assert call.bob.take() == [REPORT, PictureLoss(SERVER_SSRC, 201)]
    assert call.room.counters["nack-not-kept"] == 1


def test_a_picture_loss_reaches_the_owner_in_the_rooms_name(call: Call) -> None:
    call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO))

    assert call.alice.take() == [PictureLoss(SERVER_SSRC, ALICE_VIDEO)]
    assert call.carol.take() == []


def test_a_full_intra_request_is_a_picture_loss_for_each_source(call: Call) -> None:
    call.room.announce(CAROL, (301,), 0.0)

    call.send(call.bob, FullIntraRequest(BOB, ((ALICE_VIDEO, 0), (301, 0))))

    assert call.alice.take() == [PictureLoss(SERVER_SSRC, ALICE_VIDEO)]
    assert call.carol.take() == [PictureLoss(SERVER_SSRC, 301)]


def test_keyframe_requests_of_many_become_one_now_and_one_later(call: Call) -> None:
    for number in range(10):
        call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO), 1.0 + number / 100)
        call.send(call.carol, PictureLoss(CAROL, ALICE_VIDEO), 1.0 + number / 100)
    assert len(call.alice.take()) == 1

    due = call.room.next_timeout()
    assert due is not None
    assert due == pytest.approx(1.0 + KEYFRAME_INTERVAL)
    call.room.handle_timeout(due - 0.01)
    assert call.alice.take() == []
    call.room.handle_timeout(due)

    assert call.alice.take() == [PictureLoss(SERVER_SSRC, ALICE_VIDEO)]
    assert call.room.next_timeout() is None
    assert call.room.counters["keyframe-requests"] == 2


def test_the_limit_is_per_source(call: Call) -> None:
    call.room.announce(CAROL, (301,), 0.0)
    call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO), 1.0)
    call.send(call.bob, PictureLoss(BOB, 301), 1.0)

    assert len(call.alice.take()) == len(call.carol.take()) == 1


def test_a_due_request_is_forgotten_when_the_video_ends_first(call: Call) -> None:
    for now in (1.0, 1.1):
        call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO), now)
    call.alice.take()
    call.room.withdraw(ALICE, (ALICE_VIDEO,))

    call.room.handle_timeout(2.0)

    assert call.alice.take() == []


def test_a_due_request_is_forgotten_when_the_sender_leaves_first(call: Call) -> None:
    for now in (1.0, 1.1):
        call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO), now)
    call.alice.take()
    call.room.remove(ALICE, 1.2)

    assert call.room.next_timeout() is None
    call.room.handle_timeout(2.0)
    assert call.alice.take() == []


@pytest.mark.parametrize("media_ssrc", [ALICE, 102, 201, 301, 999])
def test_a_picture_loss_about_anything_but_watched_video_is_counted(
    call: Call, media_ssrc: int
) -> None:
    """Audio, retransmissions, own video, video that was not announced, unknown."""
    call.send(call.bob, PictureLoss(BOB, media_ssrc))

    assert call.alice.take() == call.bob.take() == call.carol.take() == []
    assert call.room.counters["feedback-ignored"] == 1


def test_a_nack_is_answered_by_the_room(call: Call) -> None:
    call.play(7, 1.0, ALICE_VIDEO)
    call.bob.rtp.clear()

    call.send(call.bob, Nack(BOB, ALICE_VIDEO, (7,)), 1.1)

    assert [parse_rtp(packet).ssrc for packet in call.bob.rtp] == [102]
    assert call.alice.take() == []


@pytest.mark.parametrize("media_ssrc", [ALICE, 102, 201, 999])
def test_a_nack_about_anything_but_the_video_of_others_is_counted(
    call: Call, media_ssrc: int
) -> None:
    """Audio, retransmissions, own video, unknown."""
    call.send(call.bob, Nack(BOB, media_ssrc, (1,)))

    assert call.room.counters["feedback-ignored"] == 1


def test_feedback_from_outside_the_room_is_counted(call: Call) -> None:
    call.room.remove(BOB, 0.0)

    call.send(call.bob, PictureLoss(BOB, ALICE_VIDEO))
    call.send(call.bob, Nack(BOB, ALICE_VIDEO, (1,)))

    assert call.alice.take() == []
    assert call.room.counters["feedback-ignored"] == 2


def test_senders_of_audio_get_a_receiver_report_every_five_seconds(call: Call) -> None:
    call.play(1, 10.0)
    call.play(2, 10.02)
    call.send(call.alice, REPORT, 14.0)
    assert call.room.next_timeout() == 10.0 + REPORT_INTERVAL

    call.room.handle_timeout(15.0)

    [report] = call.alice.take()
    assert isinstance(report, ReceiverReport)
    assert report.ssrc == SERVER_SSRC
    assert [(block.ssrc, block.highest_sequence) for block in report.blocks] == [(100, 2)]
    assert (report.blocks[0].last_sr, report.blocks[0].delay_since_last_sr) == (1 << 16, 1 << 16)
    assert call.bob.take() == [REPORT]


def test_senders_of_video_get_a_receiver_report_every_second(call: Call) -> None:
    call.play(1, 10.0)
    call.play(7, 10.5, ALICE_VIDEO)
    assert call.room.next_timeout() == 10.5 + VIDEO_REPORT_INTERVAL

    call.room.handle_timeout(11.5)
    [report] = call.alice.take()
    assert isinstance(report, ReceiverReport)
    assert [(block.ssrc, block.highest_sequence) for block in report.blocks] == [(100, 1), (101, 7)]

    call.play(8, 12.0, ALICE_VIDEO)
    call.room.handle_timeout(12.4)
    assert call.alice.take() == []
    call.room.handle_timeout(12.5)
    assert len(call.alice.take()) == 1


def test_reports_are_due_for_each_sender_by_itself(call: Call) -> None:
    call.room.announce(BOB, (BOB,), 0.0)
    call.play(1, 10.0)
    packet = RtpPacket(120, 1, 960, BOB, b"media").to_bytes()
    call.room.receive_rtp(BOB, packet, 12.0)

    call.room.handle_timeout(15.0)
    assert (len(call.alice.take()), len(call.bob.take())) == (1, 0)
    assert call.room.next_timeout() == 17.0
    call.room.handle_timeout(17.0)
    assert (len(call.alice.take()), len(call.bob.take())) == (0, 1)


def test_reports_stop_when_nothing_is_received_and_begin_again(call: Call) -> None:
    call.play(1, 0.0)
    call.room.handle_timeout(5.0)
    assert call.room.next_timeout() == 10.0
    call.room.handle_timeout(10.0)
    assert len(call.alice.take()) == 1
    assert call.room.next_timeout() is None

    call.play(2, 20.0)

    assert call.room.next_timeout() == 25.0


def test_receivers_are_told_when_a_sender_leaves(call: Call) -> None:
    call.room.remove(ALICE, 0.0)

    assert call.bob.take() == [Goodbye((100,)), Goodbye((101,)), Goodbye((102,))]
    call.room.remove(CAROL, 0.0)
    assert call.bob.take() == []  # Carol had announced nothing
