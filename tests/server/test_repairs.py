"""How a room repairs video, hop by hop, tested through the room that owns it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from discord_rtc.rtp.extensions import (
    AUDIO_LEVEL,
    MID,
    REPAIRED_RID,
    RID,
    VIDEO_ORIENTATION,
    build_elements,
    parse_elements,
)
from discord_rtc.rtp.history import unwrap_rtx, wrap_rtx
from discord_rtc.rtp.loss import REORDER_SECONDS
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import Nack, RtcpPacket, parse_rtcp
from discord_rtc.server.repair import KEPT_PACKETS, MOST_RESENDS, RESEND_SPACING
from discord_rtc.server.sfu import DEFAULT_LEG_MEDIA, SERVER_SSRC, LegMedia, LegSsrcs, Room
from discord_rtc.server.streams import RESENDS_PER_SECOND

ALICE, BOB, CAROL = 100, 200, 300
VIDEO, RTX = 101, 102
NO_RTX = LegMedia({"opus": (120, None), "H264": (103, None)})
BROWSER = LegMedia(
    {"opus": (111, None), "H264": (96, 97)},
    {AUDIO_LEVEL: 1, VIDEO_ORIENTATION: 13, MID: 4, RID: 10, REPAIRED_RID: 11},
)


class FakeLeg:
    def __init__(self, leg_id: int) -> None:
        self.leg_id = leg_id
        self.rtp: list[bytes] = []
        self.rtcp: list[RtcpPacket] = []

    def send_rtp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtp.append(packet)

    def send_rtcp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        assert len(packet) <= 1200
        self.rtcp += parse_rtcp(packet)

    def take(self) -> list[RtpPacket]:
        taken, self.rtp = self.rtp, []
        return [parse_rtp(packet) for packet in taken]

    def take_nacks(self) -> list[Nack]:
        taken, self.rtcp = self.rtcp, []
        return [part for part in taken if isinstance(part, Nack)]


class Call:
    """Alice sends video; others are added."""

    def __init__(self, media: LegMedia = DEFAULT_LEG_MEDIA) -> None:
        self.room = Room()
        self.alice = self.add(ALICE, media)
        self.room.announce(ALICE, (ALICE, VIDEO), 0.0)

    def add(self, base: int, media: LegMedia = DEFAULT_LEG_MEDIA) -> FakeLeg:
        leg = FakeLeg(base)
        self.room.add(leg, LegSsrcs(base, ((base + 1, base + 2),)), media, 0.0)
        return leg

    def play(self, *sequences: int, now: float = 0.0) -> None:
        for sequence in sequences:
            self.send(video(sequence), now)

    def send(self, packet: RtpPacket, now: float = 0.0) -> None:
        self.room.receive_rtp(ALICE, packet.to_bytes(), now)

    def nack(self, leg: FakeLeg, *lost: int, now: float = 0.0) -> None:
        packet = Nack(leg.leg_id, VIDEO, lost).to_bytes()
        self.room.receive_rtcp(leg.leg_id, packet, now)

    def run(self, until: float) -> None:
        while (due := self.room.next_timeout()) is not None and due <= until:
            self.room.handle_timeout(due)


def video(sequence: int, payload_type: int = 101) -> RtpPacket:
    payload = b"picture %d" % sequence
    return RtpPacket(payload_type, sequence & 0xFFFF, 3000, VIDEO, payload, marker=True)


@pytest.fixture
def call() -> Call:
    return Call()


def test_who_misses_a_packet_gets_it_from_the_room(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.play(1, 2, 3)
    bob.take()

    call.nack(bob, 2, now=0.1)

    assert bob.take() == [wrap_rtx(video(2), RTX, 102, 1)]
    assert len(carol.take()) == 3
    assert call.alice.take_nacks() == []
    assert call.room.counters["sent-again"] == 1


def test_every_receiver_has_its_own_retransmissions(call: Call) -> None:
    bob, browser = call.add(BOB), call.add(CAROL, BROWSER)
    call.play(1, 2, 3)
    bob.take()
    browser.take()

    call.nack(bob, 1, 3)
    call.nack(browser, 3)

    assert bob.take() == [wrap_rtx(video(1), RTX, 102, 1), wrap_rtx(video(3), RTX, 102, 2)]
    assert browser.take() == [wrap_rtx(video(3), RTX, 97, 1)]


def test_a_receiver_without_retransmissions_gets_the_packet_itself_again(call: Call) -> None:
    bob = call.add(BOB, NO_RTX)
    call.play(1, 2)
    bob.take()

    call.nack(bob, 2)

    assert bob.take() == [video(2, 103)]


def test_what_is_sent_again_has_the_receivers_extensions(call: Call) -> None:
    browser = call.add(BOB, BROWSER)
    profile, data = build_elements([(4, b"\x01"), (10, b"mid"), (11, b"100")])
    call.send(video(1)._replace(extension_profile=profile, extension_data=data))
    browser.take()

    call.nack(browser, 1)

    [again] = browser.take()
    assert parse_elements(again.extension_profile or 0, again.extension_data) == ((13, b"\x01"),)


def test_padding_is_sent_again_as_an_empty_packet(call: Call) -> None:
    bob = call.add(BOB)
    call.send(video(1)._replace(payload=b"", padding=b"\x00\x02"))
    bob.take()

    call.nack(bob, 1)

    [again] = bob.take()
    assert unwrap_rtx(again, VIDEO, 101) == video(1)._replace(payload=b"")


def test_a_packet_that_cannot_be_read_is_not_wrapped(call: Call) -> None:
    bob = call.add(BOB)
    packet = bytearray(video(1).to_bytes())
    packet[0] |= 0x20  # padding, of as many bytes as the last one says
    call.room.receive_rtp(ALICE, bytes(packet), 0.0)

    call.nack(bob, 1)

    assert call.room.counters["malformed"] == 1
    assert call.room.counters["sent-again"] == 0


def test_what_the_receiver_cannot_decode_any_more_is_not_sent_again(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1)
    bob.take()
    call.room.set_media(BOB, LegMedia({"opus": (120, None)}), 0.0)
    call.nack(bob, 1)
    call.room.set_media(ALICE, LegMedia({"opus": (120, None)}), 0.0)
    call.nack(bob, 1, now=0.1)

    assert bob.take() == []
    assert call.room.counters["codec-not-supported"] == 2


def test_asking_again_at_once_brings_nothing(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.play(1)
    bob.take()
    carol.take()

    call.nack(bob, 1, 1, now=0.1)
    call.nack(bob, 1, now=0.1 + RESEND_SPACING / 2)
    call.nack(carol, 1, now=0.1 + RESEND_SPACING / 2)
    assert (len(bob.take()), len(carol.take())) == (1, 1)
    assert call.room.counters["nack-too-soon"] == 1

    call.nack(bob, 1, now=0.2)
    assert len(bob.take()) == 1


def test_who_keeps_asking_cannot_have_everything_many_times(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1)
    bob.take()

    for n in range(3 * MOST_RESENDS):
        call.nack(bob, 1, now=0.03 * n)

    assert len(bob.take()) == MOST_RESENDS


def test_nobody_gets_a_multiple_of_the_call_again(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.play(*range(KEPT_PACKETS))
    for leg in (bob, carol):
        leg.take()

    for times in range(MOST_RESENDS):
        call.nack(bob, *range(KEPT_PACKETS), now=2 * RESEND_SPACING * times)
    call.nack(carol, 7, now=0.5)

    assert len(bob.take()) == RESENDS_PER_SECOND
    assert len(carol.take()) == 1
    refused = KEPT_PACKETS * MOST_RESENDS - RESENDS_PER_SECOND
    assert call.room.counters["nack-too-much"] == refused


def test_only_so_many_numbers_of_a_nack_are_looked_at(call: Call) -> None:
    bob = call.add(BOB)

    call.nack(bob, *range(6000))

    assert call.room.counters["nack-not-kept"] == KEPT_PACKETS


def test_without_rtx_an_srtp_receiver_cannot_get_a_packet_again(call: Call) -> None:
    browser = call.add(BOB, replace(NO_RTX, srtp=True))
    call.play(1, 2)
    browser.take()

    call.nack(browser, 1)

    assert browser.take() == []
    assert call.room.counters["rtx-not-supported"] == 1
    assert call.room.counters["sent-again"] == 0


def test_what_the_room_never_had_or_has_no_more_is_counted(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1, now=0.0)
    bob.take()

    call.nack(bob, 9)
    call.nack(bob, 1, now=5.0)

    assert bob.take() == []
    assert call.room.counters["nack-not-kept"] == 2


def test_a_receiver_that_left_is_forgotten(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1)
    call.nack(bob, 1)
    call.room.remove(BOB, 0.0)
    again = call.add(BOB)

    call.nack(again, 1)

    assert again.take() == [wrap_rtx(video(1), RTX, 102, 1)]


def test_what_the_room_misses_it_asks_for_once_for_everybody(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.play(1, 3, now=1.0)
    call.nack(bob, 2, now=1.001)
    call.nack(carol, 2, now=1.001)
    assert call.alice.take_nacks() == []

    call.run(1.0 + REORDER_SECONDS)

    assert call.alice.take_nacks() == [Nack(SERVER_SSRC, VIDEO, (2,))]
    assert call.room.counters["nacked"] == 1


def test_a_packet_that_was_only_overtaken_is_not_asked_for(call: Call) -> None:
    call.add(BOB)
    call.play(1, 3, 2, now=1.0)

    call.run(2.0)

    assert call.alice.take_nacks() == []


def test_three_later_packets_are_reason_enough_to_ask(call: Call) -> None:
    call.add(BOB)
    call.play(1, 3, 4, 5, now=1.0)

    assert call.alice.take_nacks() == [Nack(SERVER_SSRC, VIDEO, (2,))]


def test_the_room_asks_again_but_not_for_ever(call: Call) -> None:
    call.add(BOB)
    call.play(1, 3, now=1.0)

    call.run(10.0)

    assert call.alice.take_nacks() == [Nack(SERVER_SSRC, VIDEO, (2,))] * 10
    assert call.room.next_timeout() is None


def test_what_was_lost_on_the_way_up_reaches_everybody_late(call: Call) -> None:
    bob, browser = call.add(BOB), call.add(CAROL, BROWSER)
    call.play(1, 3)
    call.send(wrap_rtx(video(2), RTX, 102, 1), 0.1)

    assert bob.take() == [video(1), video(3), video(2)]
    assert browser.take() == [video(1, 96), video(3, 96), video(2, 96)]
    call.run(1.0)
    assert call.alice.take_nacks() == []
    call.nack(bob, 2, now=0.2)
    assert bob.take() == [wrap_rtx(video(2), RTX, 102, 1)]


def test_a_sender_without_retransmissions_repairs_with_the_packet_itself() -> None:
    call = Call(NO_RTX)
    bob = call.add(BOB)
    call.send(video(1, 103))
    call.send(video(3, 103))
    call.run(0.05)
    assert call.alice.take_nacks() == [Nack(SERVER_SSRC, VIDEO, (2,))]

    call.send(video(2, 103), 0.1)
    call.send(video(2, 103), 0.15)  # and once more, since it was asked twice

    assert [packet.sequence for packet in bob.take()] == [1, 3, 2]
    assert call.room.counters["duplicate"] == 1


def test_a_repaired_layer_is_named_as_the_others_are() -> None:
    """In retransmissions the layer has another id (RFC 8852)."""
    call = Call()
    bob = call.add(BOB)
    call.play(1, 3)
    profile, data = build_elements([(4, b"\x01"), (12, b"100")])
    packet = video(2)._replace(extension_profile=profile, extension_data=data)

    call.send(wrap_rtx(packet, RTX, 102, 1))

    repaired = bob.take()[-1]
    elements = parse_elements(repaired.extension_profile or 0, repaired.extension_data)
    assert elements == ((4, b"\x01"), (11, b"100"))


def test_a_repaired_packet_of_a_browser_names_no_layer() -> None:
    call = Call(BROWSER)
    bob = call.add(BOB)
    call.send(video(1, 96))
    call.send(video(3, 96))
    profile, data = build_elements([(13, b"\x01"), (11, b"100"), (4, b"mid")])
    packet = video(2, 96)._replace(extension_profile=profile, extension_data=data)

    call.send(wrap_rtx(packet, RTX, 97, 1))

    repaired = bob.take()[-1]
    elements = parse_elements(repaired.extension_profile or 0, repaired.extension_data)
    assert elements == ((4, b"\x01"),)


def test_a_long_list_of_losses_is_told_in_packets_that_fit(call: Call) -> None:
    call.add(BOB)
    call.play(*range(0, 1001, 2))
    call.alice.take_nacks()

    call.room.handle_timeout(1.0)

    nacks = call.alice.take_nacks()
    assert len(nacks) == 2
    missing = range(1001 - KEPT_PACKETS, 1000, 2)
    assert [number for nack in nacks for number in nack.lost] == list(missing)


def test_a_gap_that_no_repair_can_fill_is_counted(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1, 2000)

    call.run(1.0)

    assert call.alice.take_nacks() == []
    assert call.room.counters["gap-too-large"] == 1
    assert len(bob.take()) == 2


def test_a_packet_whose_number_jumps_is_forwarded_but_not_believed(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1, 30_000, 2)

    call.run(1.0)

    assert [packet.sequence for packet in bob.take()] == [1, 30_000, 2]
    assert call.alice.take_nacks() == []


def test_nobody_is_asked_for_what_nobody_watches(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1, 3)
    call.room.set_wants(BOB, {VIDEO: 0}, None, 0.0)

    call.run(0.5)

    assert call.alice.take_nacks() == []
    call.room.set_wants(BOB, {}, None, 0.5)
    bob.take()
    call.play(10, 12, now=0.5)
    call.run(0.5 + REORDER_SECONDS)
    assert call.alice.take_nacks() == [Nack(SERVER_SSRC, VIDEO, (11,))]


@pytest.mark.parametrize("how", ["withdrawn", "gone"])
def test_nobody_is_asked_for_video_that_has_ended(call: Call, how: str) -> None:
    call.add(BOB)
    call.play(1, 3)
    if how == "withdrawn":
        call.room.withdraw(ALICE, (VIDEO,))
    else:
        call.room.remove(ALICE, 0.0)

    call.run(1.0)

    assert call.alice.take_nacks() == []


def test_video_may_begin_again_with_the_number_that_it_had(call: Call) -> None:
    bob = call.add(BOB)
    call.play(1, now=0.0)
    call.room.withdraw(ALICE, (VIDEO,))
    call.room.announce(ALICE, (VIDEO,), 0.1)

    call.play(1, now=0.1)

    assert bob.take() == [video(1), video(1)]


def test_everything_arrives_over_ways_that_lose_a_tenth(call: Call) -> None:
    """Alice to the room, and the room to Bob, each lose packets, NACKs and retransmissions."""
    bob = call.add(BOB)
    random = Random(7)
    sent: dict[int, RtpPacket] = {}
    retransmissions = 0
    got: set[int] = set()
    highest = -1
    for tick in range(3000):
        now = tick * 0.005
        if tick < 2500:
            sent[tick] = video(tick + 65_000)
            if random.random() > 0.1:
                call.send(sent[tick], now)
        call.run(now)
        for nack in call.alice.take_nacks():
            for number in nack.lost if random.random() > 0.1 else ():
                retransmissions += 1
                if random.random() > 0.1:
                    original = sent[(number - 65_000) & 0xFFFF]
                    call.send(wrap_rtx(original, RTX, 102, retransmissions), now)
        for packet in bob.take():
            if random.random() > 0.1:
                original = packet if packet.ssrc == VIDEO else unwrap_rtx(packet, VIDEO, 101)
                index = (original.sequence - 65_000) & 0xFFFF
                assert original == sent[index]
                got.add(index)
                highest = max(highest, index)
        missing = [n for n in range(max(0, highest - 90), highest) if n not in got]
        if missing and tick % 6 == 0 and random.random() > 0.1:
            call.nack(bob, *((n + 65_000) & 0xFFFF for n in missing), now=now)

    assert len(got & set(range(2490))) == 2490
    assert call.room.counters["restored"] > 200
    assert call.room.counters["sent-again"] > 200
