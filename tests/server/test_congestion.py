"""What senders are told about bandwidth, tested through the room that tells them."""

from __future__ import annotations

import pytest

from discord_rtc.rtp.arrivals import FEEDBACK_INTERVAL
from discord_rtc.rtp.extensions import AUDIO_LEVEL, TRANSPORT_CC, build_elements
from discord_rtc.rtp.packet import RtpPacket
from discord_rtc.rtp.rtcp import BitrateEstimate, RtcpPacket, TransportFeedback, parse_rtcp
from discord_rtc.server.congestion import (
    ESTIMATE_INTERVAL,
    ESTIMATE_LIFETIME,
    MAX_VIDEO_BPS,
    MIN_VIDEO_BPS,
)
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA
from discord_rtc.server.sfu import SERVER_SSRC, LegMedia, LegSsrcs, Room

ALICE, BOB, CAROL, DAVE = 100, 200, 300, 400
TYPES: dict[str, tuple[int, int | None]] = {"opus": (120, None), "H264": (101, 102)}
IDS = {AUDIO_LEVEL: 1, TRANSPORT_CC: 3}


def media(*feedback: str) -> LegMedia:
    return LegMedia(TYPES, IDS, frozenset(feedback))


NUMBERING, LIMITED = media("transport-cc"), media("goog-remb")


class FakeLeg:
    def __init__(self, leg_id: int) -> None:
        self.leg_id = leg_id
        self.rtcp: list[RtcpPacket] = []

    def send_rtp(self, packet: bytes, now: float) -> None:
        pass

    def send_rtcp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtcp += parse_rtcp(packet)

    def take_arrivals(self) -> list[TransportFeedback]:
        taken = [part for part in self.rtcp if isinstance(part, TransportFeedback)]
        self.rtcp.clear()
        return taken

    def take_estimates(self) -> list[BitrateEstimate]:
        taken = [part for part in self.rtcp if isinstance(part, BitrateEstimate)]
        self.rtcp.clear()
        return taken


class Call:
    def __init__(self, max_video_bps: int = MAX_VIDEO_BPS) -> None:
        self.room = Room(max_video_bps=max_video_bps)
        self._sequence = 0

    def add(self, base: int, media: LegMedia = DEFAULT_LEG_MEDIA, *, shows: bool = True) -> FakeLeg:
        leg = FakeLeg(base)
        self.room.add(leg, LegSsrcs(base, ((base + 1, base + 2),)), media, 0.0)
        self.room.announce(base, (base, base + 1) if shows else (base,), 0.0)
        return leg

    def number(
        self, base: int, number: int | None, now: float, *, ssrc: int = 0, payload_type: int = 120
    ) -> None:
        """Send one packet with a transport-wide number."""
        elements = [] if number is None else [(3, number.to_bytes(2, "big"))]
        profile, data = build_elements([(1, b"\x7f"), *elements])
        self._sequence += 1
        packet = RtpPacket(payload_type, self._sequence, 0, base + ssrc, b"media")
        packet = packet._replace(extension_profile=profile, extension_data=data)
        self.room.receive_rtp(base, packet.to_bytes(), now)

    def show(self, base: int, since: float, until: float, bps: int = 1_000_000) -> None:
        """Send video at a bitrate, and let time pass."""
        step = 8 * 1000 / bps
        now = since
        while now < until:
            self.run(now)
            self._sequence += 1
            packet = RtpPacket(101, self._sequence & 0xFFFF, 0, base + 1, bytes(988))
            self.room.receive_rtp(base, packet.to_bytes(), now)
            now += step
        self.run(until)

    def run(self, until: float) -> None:
        while (due := self.room.next_timeout()) is not None and due <= until:
            self.room.handle_timeout(due)

    def estimate(self, leg: FakeLeg, bps: int, now: float, ssrc: int = ALICE + 1) -> None:
        packet = BitrateEstimate(leg.leg_id, bps, (ssrc,)).to_bytes()
        self.room.receive_rtcp(leg.leg_id, packet, now)


@pytest.fixture
def call() -> Call:
    return Call()


def test_numbered_packets_are_told_back_soon(call: Call) -> None:
    alice, bob = call.add(ALICE, NUMBERING), call.add(BOB)
    call.number(ALICE, 7, 1.0)
    call.number(ALICE, 9, 1.001, ssrc=1, payload_type=101)
    assert call.room.next_timeout() == 1.0 + FEEDBACK_INTERVAL

    call.run(1.0 + FEEDBACK_INTERVAL)

    [feedback] = alice.take_arrivals()
    assert (feedback.sender_ssrc, feedback.media_ssrc) == (SERVER_SSRC, ALICE + 1)
    assert (feedback.base_sequence, feedback.deltas[1:]) == (7, (None, 4))
    assert bob.take_arrivals() == []
    assert call.room.counters["twcc-sent"] == 1


def test_packets_on_all_ssrcs_count_even_probes_and_held_ones(call: Call) -> None:
    alice = call.add(ALICE, NUMBERING, shows=False)
    call.number(ALICE, 1, 1.0)
    call.number(ALICE, 2, 1.0, ssrc=1, payload_type=101)
    call.number(ALICE, 3, 1.0, ssrc=2, payload_type=102)
    call.room.announce(ALICE, (ALICE + 1,), 1.01)  # releases what was held

    call.run(1.2)

    [feedback] = alice.take_arrivals()
    assert (feedback.base_sequence, feedback.deltas[1:]) == (1, (0, 0))


def test_somebody_elses_ssrc_tells_nothing_about_a_transport(call: Call) -> None:
    alice = call.add(ALICE, NUMBERING)
    call.number(ALICE, 1, 1.0, ssrc=50)

    call.run(2.0)

    assert alice.take_arrivals() == []


def test_feedback_goes_on_as_long_as_packets_come(call: Call) -> None:
    alice = call.add(ALICE, NUMBERING)
    for number in range(50):
        now = number / 50
        call.run(now)
        call.number(ALICE, number, now)
    call.run(1.1)

    feedback = alice.take_arrivals()

    assert 14 <= len(feedback) <= 25
    assert sum(len(each.deltas) for each in feedback) == 50
    assert [each.feedback_count for each in feedback] == list(range(len(feedback)))


def test_feedback_is_for_each_sender_by_itself(call: Call) -> None:
    alice, bob = call.add(ALICE, NUMBERING), call.add(BOB, NUMBERING)
    call.number(ALICE, 1, 1.0)
    call.number(BOB, 500, 1.01)

    call.run(1.1)

    assert [each.base_sequence for each in alice.take_arrivals()] == [1]
    assert [each.base_sequence for each in bob.take_arrivals()] == [500]


@pytest.mark.parametrize(
    "terms", [DEFAULT_LEG_MEDIA, media(), LegMedia(TYPES, {}, frozenset({"transport-cc"}))]
)
def test_who_did_not_negotiate_it_gets_no_feedback(call: Call, terms: LegMedia) -> None:
    alice = call.add(ALICE, terms)
    call.number(ALICE, 1, 1.0)

    call.run(2.0)

    assert alice.take_arrivals() == []
    assert call.room.counters["twcc-sent"] == 0


def test_packets_without_a_number_or_with_a_strange_one_are_passed_over(call: Call) -> None:
    alice = call.add(ALICE, NUMBERING)
    call.number(ALICE, None, 1.0)
    profile, data = build_elements([(3, b"\x01\x02\x03")])
    strange = RtpPacket(120, 9, 0, ALICE, b"media", False, (), profile, data)
    call.room.receive_rtp(ALICE, strange.to_bytes(), 1.0)

    call.run(2.0)

    assert alice.take_arrivals() == []


def test_late_numbers_are_counted_in_the_room(call: Call) -> None:
    call.add(ALICE, NUMBERING)
    for number, now in ((1, 1.0), (3, 1.0), (4, 2.0), (2, 3.0)):
        call.run(now)
        call.number(ALICE, number, now)

    assert call.room.counters["twcc-late"] == 1


def test_a_new_negotiation_can_end_the_feedback(call: Call) -> None:
    alice = call.add(ALICE, NUMBERING)
    call.number(ALICE, 1, 1.0)
    call.run(1.1)
    call.room.set_media(ALICE, media(), 1.1)
    call.number(ALICE, 2, 1.2)

    call.run(2.0)

    assert len(alice.take_arrivals()) == 1


def test_senders_of_video_are_told_what_they_may_send(call: Call) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)

    call.show(ALICE, 1.0, 2.9)

    estimates = alice.take_estimates()
    assert estimates == [BitrateEstimate(SERVER_SSRC, MAX_VIDEO_BPS // 64 * 64, (ALICE + 1,))] * 4
    assert call.room.counters["remb-sent"] == 4
    assert bob.take_estimates() == []


def test_estimates_begin_at_once_and_end_with_the_video(call: Call) -> None:
    alice = call.add(ALICE, LIMITED)
    call.show(ALICE, 1.0, 1.01)
    assert len(alice.take_estimates()) == 1

    call.run(20.0)
    assert len(alice.take_estimates()) == 2
    assert call.room.next_timeout() is None

    call.show(ALICE, 30.0, 30.01)
    assert len(alice.take_estimates()) == 1


def test_senders_of_audio_are_told_nothing(call: Call) -> None:
    alice = call.add(ALICE, LIMITED)
    call.number(ALICE, 1, 1.0)

    call.run(10.0)

    assert alice.take_estimates() == []


@pytest.mark.parametrize("terms", [DEFAULT_LEG_MEDIA, NUMBERING])
def test_who_takes_no_estimates_gets_none(call: Call, terms: LegMedia) -> None:
    alice, bob = call.add(ALICE, terms), call.add(BOB, LIMITED)

    call.show(ALICE, 1.0, 3.0)

    assert alice.take_estimates() == bob.take_estimates() == []


def test_the_limit_of_a_room_can_be_set() -> None:
    call = Call(max_video_bps=2_500_000)
    alice = call.add(ALICE, LIMITED)

    call.show(ALICE, 1.0, 1.1)

    assert alice.take_estimates()[0].bitrate_bps == pytest.approx(2_500_000, rel=1e-4)


def test_the_watcher_that_can_take_least_decides(call: Call) -> None:
    alice, bob, carol = call.add(ALICE, LIMITED), call.add(BOB), call.add(CAROL)
    call.show(ALICE, 1.0, 2.0)
    call.estimate(bob, 800_000, 2.0)
    call.estimate(carol, 500_000, 2.0)
    alice.take_estimates()

    call.show(ALICE, 2.0, 2.6)

    assert alice.take_estimates()[-1].bitrate_bps == pytest.approx(500_000, rel=1e-4)


def test_who_does_not_watch_decides_nothing(call: Call) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.room.set_wants(BOB, {ALICE + 1: 0}, None, 0.0)
    call.estimate(bob, 500_000, 1.0)

    call.show(ALICE, 1.0, 1.6)

    assert alice.take_estimates()[-1].bitrate_bps > MAX_VIDEO_BPS * 0.99


def told(leg: FakeLeg) -> list[float]:
    """In kbit/s."""
    return [round(each.bitrate_bps / 1000, -1) for each in leg.take_estimates()]


NOTHING = MAX_VIDEO_BPS / 1000
"""Nobody asks for less."""


def test_an_old_estimate_counts_no_more(call: Call) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.show(ALICE, 1.0, 2.0)
    call.estimate(bob, 500_000, 2.0)
    alice.take_estimates()

    call.show(ALICE, 2.0, 2.6 + ESTIMATE_LIFETIME)

    times = int(ESTIMATE_LIFETIME / ESTIMATE_INTERVAL)
    assert told(alice) == [500.0] * times + [NOTHING]


def test_an_estimate_that_grows_is_no_limit(call: Call) -> None:
    """It begins with what is received, whatever the way could carry."""
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    for tenth in range(30):
        now = 1 + tenth / 10
        call.estimate(bob, 800_000 + 1000 * tenth, now)
        call.show(ALICE, now, now + 0.1)

    assert set(told(alice)) == {NOTHING}


@pytest.mark.parametrize("then", [850_000, 800_000], ids=["stays", "falls"])
def test_an_estimate_that_does_not_grow_is_a_limit(call: Call, then: int) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.show(ALICE, 1.0, 2.0)
    call.estimate(bob, 850_000, 2.0)
    call.show(ALICE, 2.0, 2.2)
    call.estimate(bob, then, 2.2)
    alice.take_estimates()

    call.show(ALICE, 2.2, 3.2)
    call.estimate(bob, then + 10_000, 3.2)  # it grows again, which is the way back
    call.show(ALICE, 3.2, 3.7)

    assert told(alice) == [then / 1000, then / 1000, then / 1000 + 10]


def test_a_limit_well_above_what_is_sent_is_none_any_more(call: Call) -> None:
    """Otherwise a picture that stood still could move with what it needed before only."""
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.show(ALICE, 1.0, 2.0)
    call.estimate(bob, 850_000, 2.0)
    call.estimate(bob, 850_000, 2.1)
    call.show(ALICE, 2.0, 2.6)
    assert told(alice)[-1] == 850

    call.show(ALICE, 2.6, 6.0, 200_000)
    call.estimate(bob, 860_000, 6.0)
    call.show(ALICE, 6.0, 8.0, 700_000)

    assert set(told(alice)[-4:]) == {NOTHING}


def test_after_a_long_silence_an_estimate_begins_anew(call: Call) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.estimate(bob, 5_000_000, 1.0)
    call.show(ALICE, 11.0, 12.0)
    call.estimate(bob, 800_000, 12.0)

    call.show(ALICE, 12.0, 13.0)

    assert set(told(alice)) == {NOTHING}


@pytest.mark.parametrize("bps", [0, 1, 100_000])
def test_no_watcher_can_take_the_picture_from_the_others(call: Call, bps: int) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB)
    call.show(ALICE, 1.0, 2.0)
    call.estimate(bob, bps, 2.0)

    call.show(ALICE, 2.0, 3.0)

    assert told(alice)[-1] == MIN_VIDEO_BPS / 1000


def test_an_estimate_from_outside_the_room_is_nobodys(call: Call) -> None:
    bob = call.add(BOB)
    call.room.remove(BOB, 0.0)

    call.estimate(bob, 500_000, 1.0)

    assert call.room.counters["remb-received"] == 0


def test_streams_share_what_a_watcher_can_take(call: Call) -> None:
    """Its estimate is about all that it receives."""
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB, LIMITED)
    carol = call.add(CAROL)
    for half in range(20):
        now = 1 + half / 2
        call.estimate(carol, 2_000_000, now)
        call.show(BOB, now, now + 0.25, 3_000_000)
        call.show(ALICE, now + 0.25, now + 0.5, 3_000_000)

    # Both send 1.5 Mbit/s on average, and have to go down to an equal share.
    assert alice.take_estimates()[-1].bitrate_bps == pytest.approx(1_000_000, rel=1e-3)
    assert bob.take_estimates()[-1].bitrate_bps == pytest.approx(1_000_000, rel=1e-3)


def test_a_stream_may_use_what_the_others_leave(call: Call) -> None:
    """A still screen beside a camera."""
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB, LIMITED)
    carol = call.add(CAROL)
    for half in range(20):
        now = 1 + half / 2
        call.estimate(carol, 2_000_000, now)
        call.show(BOB, now, now + 0.25, 200_000)
        call.show(ALICE, now + 0.25, now + 0.5, 3_000_000)

    assert alice.take_estimates()[-1].bitrate_bps == pytest.approx(1_900_000, rel=0.03)
    assert bob.take_estimates()[-1].bitrate_bps == pytest.approx(1_000_000, rel=1e-3)


def test_layers_are_told_about_together(call: Call) -> None:
    alice, bob = FakeLeg(ALICE), call.add(BOB)
    call.room.add(alice, LegSsrcs(ALICE, ((101, 102), (103, 104))), LIMITED, 0.0)
    call.room.announce(ALICE, (101, 103), 0.0)
    call.estimate(bob, 1_000_000, 1.0)
    for ssrc in (101, 103):
        call.room.receive_rtp(ALICE, RtpPacket(101, 1, 0, ssrc, b"media").to_bytes(), 1.0)

    call.run(1.0)

    [estimate] = alice.take_estimates()
    assert estimate.ssrcs == (101, 103)


def test_two_looks_at_the_same_time_are_no_rate(call: Call) -> None:
    alice, bob = call.add(ALICE, LIMITED), call.add(BOB, LIMITED)
    call.show(ALICE, 1.0, 1.1)
    call.room.set_media(ALICE, DEFAULT_LEG_MEDIA, 1.2)
    call.run(1.5)  # nobody is told
    call.show(BOB, 1.5, 1.51)

    assert len(alice.take_estimates()) == len(bob.take_estimates()) == 1
