"""Participants of a room, their streams, and who is to get what."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.frames import MediaKind
from discord_rtc.rtp.extensions import TRANSPORT_CC
from discord_rtc.rtp.rtcp import SenderReport, ntp_middle
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs
from discord_rtc.server.streams import Participant, Participants, Plan, Stream

ALICE = LegSsrcs(100, ((101, 102),))
BOB = LegSsrcs(200, ((201, 202), (203, 204)))


class FakeLeg:
    def __init__(self, leg_id: int) -> None:
        self.leg_id = leg_id

    def send_rtp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        raise AssertionError("nothing is sent here")

    send_rtcp = send_rtp


def participant(ssrcs: LegSsrcs, *, deaf: bool = False) -> Participant:
    return Participant(FakeLeg(ssrcs.audio), ssrcs, DEFAULT_LEG_MEDIA, deaf=deaf)


def announced(stream: Stream) -> Stream:
    stream.announced = True
    return stream


def test_every_ssrc_is_a_stream_of_its_kind() -> None:
    streams = participant(ALICE).streams

    assert [(stream.ssrc, stream.kind, stream.rtx) for stream in streams] == [
        (100, MediaKind.AUDIO, False),
        (101, MediaKind.VIDEO, False),
        (102, MediaKind.VIDEO, True),
    ]
    assert [announced(stream).shows for stream in streams] == [False, True, False]


def test_video_is_repaired_by_the_retransmissions_of_its_layer() -> None:
    streams = participant(BOB).streams

    assert [stream.rtx_ssrc for stream in streams] == [200, 202, 202, 204, 204]
    assert [stream.repair is not None for stream in streams] == [False, True, False, True, False]


def test_a_stream_knows_what_it_received_and_when() -> None:
    video = participant(ALICE).streams[1]

    assert video.received(65_535, 0, 1200, 1.0) == 65_535
    assert video.received(0, 0, 800, 2.0) == 65_536
    assert video.received(0, 0, 800, 2.5) is None

    assert (video.octets, video.heard_at) == (2800, 2.5)


def test_a_new_negotiation_changes_which_feedback_is_taken() -> None:
    alice = participant(ALICE)
    assert (alice.transport_cc, alice.remb) == (None, False)

    feedback = frozenset({"transport-cc", "goog-remb"})
    alice.negotiated(LegMedia({}, {TRANSPORT_CC: 3}, feedback))

    assert (alice.transport_cc, alice.remb) == (3, True)


def test_video_shows_when_it_is_announced() -> None:
    video = participant(ALICE).streams[1]

    assert not video.shows
    assert announced(video).shows


def test_a_report_tells_loss_since_the_last_one() -> None:
    audio = participant(ALICE).streams[0]
    for sequence in (10, 11, 12, 14, 15, 16, 17, 18):
        audio.received(sequence, 960 * sequence, 100, 0.02 * sequence)
    assert audio.heard

    block = audio.report(1.0)

    assert (block.ssrc, block.cumulative_lost, block.highest_sequence) == (100, 1, 18)
    assert block.fraction_lost == (1 << 8) // 9
    assert (block.jitter, block.last_sr, block.delay_since_last_sr) == (0, 0, 0)
    assert not audio.heard
    audio.received(19, 960 * 19, 100, 0.38)
    assert audio.report(2.0).fraction_lost == 0


def test_jitter_is_counted_in_the_ticks_of_the_kind() -> None:
    audio, video, _ = participant(ALICE).streams
    for stream, rate in ((audio, 48_000), (video, 90_000)):
        stream.received(1, rate, 100, 1.0)
        stream.received(2, 2 * rate, 100, 2.1)

    assert audio.report(3.0).jitter == 4800 // 16
    assert video.report(3.0).jitter == 9000 // 16


def test_a_report_refers_to_the_latest_sender_report() -> None:
    audio = participant(ALICE).streams[0]
    audio.received(1, 0, 100, 0.0)
    audio.reports.received(SenderReport(100, 0x0123456789ABCDEF, 0, 1, 1), 1.0)

    block = audio.report(1.5)

    assert block.last_sr == ntp_middle(0x0123456789ABCDEF)
    assert block.delay_since_last_sr == 32768


def test_nobody_receives_their_own_streams() -> None:
    alice = participant(ALICE)

    assert not any(alice.receives(stream) for stream in alice.streams)


def test_the_deaf_receive_video_only() -> None:
    alice, bob = participant(ALICE, deaf=True), participant(BOB)

    assert [alice.receives(stream) for stream in bob.streams] == [False, True, True, True, True]


def test_wants_choose_layers_together_with_their_retransmissions() -> None:
    alice, bob = participant(ALICE), participant(BOB)
    alice.wants, alice.any_quality = {203: 100}, 0

    assert [alice.receives(stream) for stream in bob.streams] == [True, False, False, True, True]


def test_participants_are_found_by_leg_and_by_ssrc() -> None:
    everybody = Participants()
    alice, bob = participant(ALICE), participant(BOB)
    everybody.add(alice)
    everybody.add(bob)

    assert list(everybody) == [alice, bob]
    assert everybody.get(200) is bob
    assert everybody.find(999) is None
    assert everybody.stream(102) is alice.streams[2]
    assert everybody.own_stream(100, 102) is alice.streams[2]
    assert everybody.own_stream(200, 102) is None
    assert everybody.own_stream(100, 999) is None
    with pytest.raises(UsageError):
        everybody.get(999)


def test_a_leg_or_an_ssrc_is_in_a_room_once() -> None:
    everybody = Participants()
    everybody.add(participant(ALICE))

    with pytest.raises(UsageError):
        everybody.add(participant(LegSsrcs(100)))
    with pytest.raises(UsageError):
        everybody.add(participant(LegSsrcs(300, ((102, 301),))))


def test_who_leaves_is_not_found_any_more() -> None:
    everybody = Participants()
    alice, bob = participant(ALICE), participant(BOB)
    everybody.add(alice)
    everybody.add(bob)

    everybody.remove(bob)

    assert list(everybody) == [alice]
    assert everybody.stream(201) is None
    assert everybody.find(200) is None
    everybody.add(participant(BOB))


def test_receivers_and_shown_streams_follow_what_is_wanted() -> None:
    everybody = Participants()
    alice, bob = participant(ALICE), participant(BOB, deaf=True)
    everybody.add(alice)
    everybody.add(bob)

    assert everybody.receivers(alice.streams[0]) == []
    assert everybody.receivers(alice.streams[1]) == [bob]
    assert everybody.shown_to(bob) == []
    announced(alice.streams[1])
    assert everybody.shown_to(bob) == [alice.streams[1]]
    bob.any_quality = 0
    assert everybody.shown_to(bob) == []


def test_plans_are_forgotten_when_somebody_comes_or_goes() -> None:
    everybody = Participants()
    alice, bob = participant(ALICE), participant(BOB)
    everybody.add(alice)
    alice.streams[0].plans[120] = Plan()
    everybody.add(bob)
    assert alice.streams[0].plans == {}
    alice.streams[0].plans[120] = Plan()
    everybody.remove(bob)
    assert alice.streams[0].plans == {}
