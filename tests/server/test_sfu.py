"""A room forwards what each leg is to get, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.crypto.srtp import SrtpCipher, SrtpKeys, SrtpProfile
from discord_rtc.errors import UsageError
from discord_rtc.rtp.extensions import NATIVE_EXTENSION_IDS, SPEAKER, build_elements
from discord_rtc.rtp.history import wrap_rtx
from discord_rtc.rtp.loss import REORDER_SECONDS
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import Nack, PictureLoss, RtcpPacket, parse_rtcp
from discord_rtc.server.feedback import VIDEO_REPORT_INTERVAL
from discord_rtc.server.sfu import (
    DEFAULT_LEG_MEDIA,
    HOLD_LIMIT,
    HOLD_TIME,
    SERVER_SSRC,
    LegMedia,
    LegSsrcs,
    Room,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ALICE, BOB, CAROL = 100, 200, 300
OPUS, H264, H264_RTX = 120, 101, 102
KOE = LegMedia({"opus": (120, None), "H264": (103, 104)})
AUDIO_BOT = LegMedia({"opus": (120, None)})
BROWSER = LegMedia({"opus": (111, None), "H264": (127, 121)}, {SPEAKER: 3})


class FakeLeg:
    def __init__(self, leg_id: int) -> None:
        self.leg_id = leg_id
        self.rtp: list[bytes] = []
        self.rtcp: list[RtcpPacket] = []

    def send_rtp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtp.append(packet)

    def send_rtcp(self, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtcp += parse_rtcp(packet)


class Call:
    """Alice, who has announced audio and video, and whom a test adds."""

    def __init__(self, tap: Callable[[int, bytes], None] | None = None) -> None:
        self.room = Room(tap=tap)
        self.alice = self.add(ALICE)
        self.room.announce(ALICE, (ALICE, ALICE + 1), 0.0)

    def add(
        self,
        base: int,
        media: LegMedia = DEFAULT_LEG_MEDIA,
        *,
        now: float = 0.0,
        deaf: bool = False,
    ) -> FakeLeg:
        leg = FakeLeg(base)
        ssrcs = LegSsrcs(base, ((base + 1, base + 2),))
        self.room.add(leg, ssrcs, media, now, deaf=deaf)
        return leg

    def send(self, packet: RtpPacket, leg_id: int = ALICE, now: float = 0.0) -> bytes:
        built = packet.to_bytes()
        self.room.receive_rtp(leg_id, built, now)
        return built


@pytest.fixture
def call() -> Call:
    return Call()


def audio(sequence: int = 1, ssrc: int = ALICE) -> RtpPacket:
    return RtpPacket(OPUS, sequence, 960 * sequence, ssrc, b"opus")


def video(sequence: int = 1, ssrc: int = ALICE + 1, payload_type: int = H264) -> RtpPacket:
    return RtpPacket(payload_type, sequence, 3000, ssrc, b"picture", marker=True)


def test_everybody_else_gets_the_very_same_bytes(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)

    packet = call.send(audio())

    assert bob.rtp[0] is packet
    assert carol.rtp[0] is packet
    assert call.alice.rtp == []
    assert (call.room.counters["rtp-in"], call.room.counters["rtp-out"]) == (1, 2)


def test_a_receiver_gets_its_own_payload_types(call: Call) -> None:
    koe = call.add(BOB, KOE)

    call.send(audio())
    call.send(video())

    assert [parse_rtp(packet) for packet in koe.rtp] == [audio(), video(payload_type=103)]


def test_an_srtp_receiver_that_wants_nothing_is_kept_in_step(call: Call) -> None:
    bob = call.add(BOB, replace(KOE, srtp=True), deaf=True)
    carol = call.add(CAROL, deaf=True)
    listener = call.add(4 * ALICE, replace(KOE, srtp=True))

    for sequence in range(0, 70_000, 1000):
        call.send(audio(sequence & 0xFFFF))

    kept = [parse_rtp(packet) for packet in bob.rtp]
    assert [packet.sequence for packet in kept] == [9000, 17_000, 25_000, 33_000, 41_000, 50_000,
                                                    58_000, 464]  # fmt: skip
    assert {(packet.payload_type, packet.payload) for packet in kept} == {(120, b"")}
    assert {packet.ssrc for packet in kept} == {ALICE}
    assert carol.rtp == []
    assert len(listener.rtp) == 70
    assert call.alice.rtp == []


def test_who_was_deaf_for_half_a_turn_of_the_numbers_hears_again_over_srtp(call: Call) -> None:
    keys = SrtpKeys.from_exported(SrtpProfile.AEAD_AES_128_GCM, bytes(range(56)))
    server, client = SrtpCipher(keys, side="server"), SrtpCipher(keys, side="client")
    bob = call.add(BOB, replace(KOE, srtp=True))

    def heard() -> list[int]:
        datagrams = [server.protect_rtp(packet) for packet in bob.rtp]
        bob.rtp.clear()
        plain = [parse_rtp(client.unprotect_rtp(datagram)) for datagram in datagrams]
        return [packet.sequence for packet in plain if packet.payload]

    call.send(audio(1))
    assert heard() == [1]
    call.room.set_deaf(BOB, deaf=True)
    for sequence in range(1001, 40_002, 1000):
        call.send(audio(sequence))
    assert heard() == []
    call.room.set_deaf(BOB, deaf=False)
    call.send(audio(40_002))
    assert heard() == [40_002]


def test_nothing_is_sent_to_whom_everything_is_withheld_from(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.room.announce(BOB, (BOB,), 0.0)
    call.send(audio(1))  # what was worked out before does not hold any more
    call.room.set_withheld(BOB, 1.0, withheld=True)
    bob.rtp.clear()
    carol.rtp.clear()

    call.send(audio(2))
    call.send(video(1))
    call.send(audio(1, BOB), BOB)

    assert bob.rtp == []
    assert [parse_rtp(packet).ssrc for packet in carol.rtp] == [ALICE, ALICE + 1, BOB]
    assert [parse_rtp(packet) for packet in call.alice.rtp] == [audio(1, BOB)]


def test_what_was_withheld_begins_with_keyframes(call: Call) -> None:
    bob = call.add(BOB)
    call.room.set_withheld(BOB, 1.0, withheld=True)
    call.alice.rtcp.clear()

    call.room.set_withheld(BOB, 3.0, withheld=False)
    call.send(video(1))

    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]
    assert [parse_rtp(packet) for packet in bob.rtp] == [video(1)]


def test_packets_that_are_withheld_cannot_be_asked_for(call: Call) -> None:
    bob = call.add(BOB)
    call.room.set_withheld(BOB, 0.0, withheld=True)
    call.send(video(1))
    call.send(video(2))

    call.room.receive_rtcp(BOB, Nack(BOB, ALICE + 1, (1,)).to_bytes(), 0.1)

    assert bob.rtp == []


def test_who_is_silenced_gets_everything_and_is_heard_by_nobody(call: Call) -> None:
    bob = call.add(BOB)
    call.room.announce(BOB, (BOB,), 0.0)
    call.send(audio(1))  # what was worked out before does not hold any more
    call.room.set_silenced(ALICE, 1.0, silenced=True)
    bob.rtp.clear()
    call.send(audio(2))
    call.send(video(1))
    call.send(audio(1, BOB), BOB)
    assert bob.rtp == []
    assert [parse_rtp(packet) for packet in call.alice.rtp] == [audio(1, BOB)]
    call.alice.rtcp.clear()

    call.room.set_silenced(ALICE, 3.0, silenced=False)
    call.send(video(2))
    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]
    assert [parse_rtp(packet) for packet in bob.rtp] == [video(2)]


def test_the_tap_sees_each_packet_once_and_as_it_was_sent() -> None:
    seen: list[tuple[int, RtpPacket]] = []
    call = Call(tap=lambda leg_id, packet: seen.append((leg_id, parse_rtp(packet))))
    call.send(audio(1))  # nobody is there to get it
    call.add(BOB, KOE)
    call.add(CAROL)
    call.send(video(1))
    call.send(video(1))
    call.send(video(3))
    call.send(retransmission(9, video(2)))
    call.send(audio(5, BOB), BOB)  # not announced
    call.send(audio(6, BOB))  # not hers

    assert seen == [(ALICE, audio(1))] + [(ALICE, video(number)) for number in (1, 3, 2)]

    call.room.announce(BOB, (BOB,), 0.1)
    assert seen[4:] == [(BOB, audio(5, BOB))]


def test_receivers_with_equal_numbers_share_one_renumbering(call: Call) -> None:
    bob, carol = call.add(BOB, KOE), call.add(CAROL, KOE)

    call.send(video())

    assert bob.rtp[0] is carol.rtp[0]
    assert call.room.counters["rtp-out"] == 2


def test_a_receiver_gets_its_own_extension_ids(call: Call) -> None:
    browser = call.add(BOB, BROWSER)
    profile, data = build_elements([(NATIVE_EXTENSION_IDS[SPEAKER], b"\x02")])
    packet = audio()._replace(extension_profile=profile, extension_data=data)

    call.send(packet)

    profile, data = build_elements([(3, b"\x02")])
    expected = packet._replace(payload_type=111, extension_data=data)
    assert [parse_rtp(each) for each in browser.rtp] == [expected]


def test_a_receiver_without_the_codec_gets_nothing_and_is_counted(call: Call) -> None:
    bot, bob = call.add(CAROL, AUDIO_BOT), call.add(BOB)

    call.send(video())
    call.send(audio())

    assert [parse_rtp(packet) for packet in bot.rtp] == [audio()]
    assert len(bob.rtp) == 2
    assert call.room.counters["codec-not-supported"] == 1


def test_padding_passes(call: Call) -> None:
    bob, koe = call.add(BOB), call.add(CAROL, KOE)
    padded = video()._replace(padding=b"\x00\x00\x03")

    call.send(padded)

    assert parse_rtp(bob.rtp[0]) == padded
    assert parse_rtp(koe.rtp[0]) == padded._replace(payload_type=103)


def test_a_packet_that_cannot_be_renumbered_is_counted(call: Call) -> None:
    browser = call.add(BOB, BROWSER)
    packet = b"\x90\x78" + audio().to_bytes()[2:12] + b"\xbe\xde\x00\x07"

    call.room.receive_rtp(ALICE, packet, 0.0)

    assert browser.rtp == []
    assert call.room.counters["malformed"] == 1


def test_a_packet_without_a_header_is_counted(call: Call) -> None:
    call.room.receive_rtp(ALICE, b"\x80\x78", 0.0)

    assert call.room.counters["malformed"] == 1


@pytest.mark.parametrize("ssrc", [BOB, BOB + 1, 999])
def test_an_ssrc_of_somebody_else_is_not_forwarded(call: Call, ssrc: int) -> None:
    bob = call.add(BOB)
    carol = call.add(CAROL)
    call.room.announce(BOB, (BOB, BOB + 1), 0.0)

    call.send(audio(ssrc=ssrc))

    assert bob.rtp == carol.rtp == []
    assert call.room.counters["foreign-ssrc"] == 1


def test_an_unknown_payload_type_is_counted(call: Call) -> None:
    bob = call.add(BOB)

    call.send(audio()._replace(payload_type=96))
    call.send(audio()._replace(payload_type=96))

    assert bob.rtp == []
    assert call.room.counters["unknown-payload-type"] == 2


@pytest.mark.parametrize(
    "packet",
    [
        video(ssrc=ALICE),
        audio(ssrc=ALICE + 1),
        audio(ssrc=ALICE + 2),
        video(ssrc=ALICE + 2),
        video(payload_type=102),
    ],
    ids=["video on audio", "audio on video", "audio on rtx", "media on rtx", "rtx on media"],
)
def test_a_payload_type_must_belong_on_its_ssrc(call: Call, packet: RtpPacket) -> None:
    bob = call.add(BOB)

    call.send(packet)

    assert bob.rtp == []
    assert call.room.counters["wrong-payload-type"] == 1


def test_the_deaf_get_no_audio_until_they_hear_again(call: Call) -> None:
    bob = call.add(BOB, deaf=True)
    call.send(audio(1))
    call.send(video(1))
    call.room.set_deaf(BOB, False)
    call.send(audio(2))
    call.room.set_deaf(BOB, True)
    call.send(audio(3))

    assert [parse_rtp(packet) for packet in bob.rtp] == [video(1), audio(2)]


def test_packets_that_overtake_their_announcement_are_held(call: Call) -> None:
    bob = call.add(BOB)
    early = [call.send(audio(n, BOB), BOB, now=1.0 + n / 50) for n in range(3)]
    assert call.alice.rtp == []
    assert call.room.next_timeout() == pytest.approx(1.0 + HOLD_TIME)

    call.room.announce(BOB, (BOB,), 1.1)
    late = call.send(audio(3, BOB), BOB, now=1.12)

    assert call.alice.rtp == [*early, late]
    assert call.room.counters["unannounced"] == 0
    assert bob.rtp == []


def test_held_packets_are_dropped_after_half_a_second(call: Call) -> None:
    call.add(BOB)
    call.send(audio(1, BOB), BOB, now=1.0)
    call.send(audio(2, BOB), BOB, now=1.3)
    due = call.room.next_timeout()
    assert due is not None

    call.room.handle_timeout(due)
    assert call.room.counters["unannounced"] == 1
    call.room.handle_timeout(2.0)

    assert call.room.counters["unannounced"] == 2
    assert call.room.next_timeout() is None
    call.room.announce(BOB, (BOB,), 2.1)
    assert call.alice.rtp == []


def test_an_announcement_that_comes_too_late_releases_nothing(call: Call) -> None:
    call.add(BOB)
    call.send(audio(1, BOB), BOB, now=1.0)
    call.send(audio(2, BOB), BOB, now=1.4)

    call.room.announce(BOB, (BOB,), 1.6)  # the timer is late, too

    assert [parse_rtp(packet) for packet in call.alice.rtp] == [audio(2, BOB)]
    assert call.room.counters["unannounced"] == 1


def test_what_is_held_is_bounded_for_each_ssrc(call: Call) -> None:
    call.add(BOB)
    for number in range(HOLD_LIMIT + 6):
        call.send(audio(number, BOB), BOB)
    call.send(video(1, BOB + 1), BOB)

    call.room.announce(BOB, (BOB, BOB + 1), 0.1)

    assert call.room.counters["unannounced"] == 6
    assert len(call.alice.rtp) == HOLD_LIMIT + 1
    assert parse_rtp(call.alice.rtp[0]) == audio(0, BOB)


def retransmission(sequence: int, of: RtpPacket) -> RtpPacket:
    return wrap_rtx(of, ALICE + 2, H264_RTX, sequence)


def test_a_retransmission_goes_on_as_the_packet_that_it_repairs(call: Call) -> None:
    bob, koe = call.add(BOB), call.add(CAROL, KOE)
    call.send(video(1))
    call.send(video(3))

    call.send(retransmission(9, video(2)))

    assert [parse_rtp(packet) for packet in bob.rtp] == [video(1), video(3), video(2)]
    assert parse_rtp(koe.rtp[-1]) == video(2, payload_type=103)
    assert call.room.counters["restored"] == 1


def test_a_retransmission_of_what_was_received_is_not_forwarded(call: Call) -> None:
    bob = call.add(BOB)
    call.send(video(1))

    call.send(retransmission(9, video(1)))

    assert len(bob.rtp) == 1
    assert call.room.counters["rtx-unneeded"] == 1


def test_bandwidth_probes_are_not_forwarded(call: Call) -> None:
    bob = call.add(BOB)

    call.send(video(9, ALICE + 2, H264_RTX)._replace(payload=b"", padding=bytes(223) + b"\xe0"))

    assert bob.rtp == []
    assert call.room.counters["probes"] == 1


def test_a_retransmission_of_an_unknown_payload_type_is_counted(call: Call) -> None:
    call.send(video(9, ALICE + 2, 99))

    assert call.room.counters["unknown-payload-type"] == 1


def test_a_malformed_retransmission_is_counted(call: Call) -> None:
    packet = bytearray(video(9, ALICE + 2, H264_RTX).to_bytes())
    packet[0] |= 0x20  # padding, of as many bytes as the last one says

    call.room.receive_rtp(ALICE, bytes(packet), 0.0)

    assert call.room.counters["malformed"] == 1


def test_retransmissions_are_announced_with_their_video(call: Call) -> None:
    call.add(BOB)
    first, second = video(1, BOB + 1), video(2, BOB + 1)
    call.send(first, BOB)
    call.send(video(3, BOB + 1), BOB)
    call.send(wrap_rtx(second, BOB + 2, H264_RTX, 1), BOB)
    assert call.alice.rtp == []

    call.room.announce(BOB, (BOB + 1,), 0.1)

    assert [parse_rtp(packet) for packet in call.alice.rtp] == [first, video(3, BOB + 1), second]


def test_video_that_comes_twice_is_forwarded_once(call: Call) -> None:
    """Clients without RTX send the very packet again, perhaps also when it was not lost."""
    bob = call.add(BOB)
    call.send(video(1))

    call.send(video(1), now=0.1)

    assert len(bob.rtp) == 1
    assert call.room.counters["duplicate"] == 1


def test_audio_that_comes_twice_is_not_looked_at(call: Call) -> None:
    bob = call.add(BOB)
    call.send(audio(1))

    call.send(audio(1))

    assert len(bob.rtp) == 2


def test_announcing_somebody_elses_ssrc_is_counted(call: Call) -> None:
    call.add(BOB)

    call.room.announce(ALICE, (BOB,), 0.0)
    call.send(audio(ssrc=BOB), BOB)

    assert call.alice.rtp == []
    assert call.room.counters["foreign-ssrc"] == 1


def test_withdrawn_video_is_not_forwarded(call: Call) -> None:
    bob = call.add(BOB)
    call.room.withdraw(ALICE, (ALICE + 1,))

    call.send(video())
    packet = call.send(audio())

    assert bob.rtp == [packet]


def test_forwarding_stops_at_once_when_a_leg_is_removed(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.send(audio(1))

    call.room.remove(BOB, 0.0)
    call.send(audio(2))
    call.room.remove(ALICE, 0.0)
    call.send(audio(3))

    assert len(bob.rtp) == 1
    assert len(carol.rtp) == 2
    assert call.room.counters["foreign-ssrc"] == 1


def test_held_packets_of_a_removed_leg_are_forgotten(call: Call) -> None:
    call.add(BOB)
    call.send(audio(1, BOB), BOB)
    call.room.remove(BOB, 0.0)

    assert call.room.next_timeout() is None
    call.room.handle_timeout(10.0)
    call.room.remove(BOB, 0.0)  # once more is harmless


def test_who_can_be_reached_at_last_gets_a_keyframe_of_every_video(call: Call) -> None:
    call.add(BOB)
    call.alice.rtcp.clear()

    call.room.connected(BOB, 5.0)

    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]
    call.room.connected(999, 9.0)  # who has left meanwhile
    assert len(call.alice.rtcp) == 1


def test_a_newcomer_gets_a_keyframe_of_every_video(call: Call) -> None:
    call.add(BOB, now=1.0)

    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]


def test_newcomers_in_quick_succession_do_not_flood_the_sender(call: Call) -> None:
    for number in range(20):
        call.add(1000 + 10 * number, now=1.0 + number / 100)
    assert len(call.alice.rtcp) == 1
    due = call.room.next_timeout()
    assert due is not None
    assert due == pytest.approx(1.5)
    call.room.handle_timeout(due)

    assert len(call.alice.rtcp) == 2


def test_a_receiver_chooses_its_video(call: Call) -> None:
    bob = call.add(BOB, now=0.0)
    call.room.set_wants(BOB, {ALICE + 1: 0}, None, 1.0)
    call.send(video(1))
    call.send(video(3))
    call.send(retransmission(1, video(2)))
    heard = call.send(audio(1))
    assert bob.rtp == [heard]
    call.alice.rtcp.clear()

    call.room.set_wants(BOB, {}, 100, 2.0)
    call.send(video(4))

    assert parse_rtp(bob.rtp[-1]) == video(4)
    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]


def test_wanting_what_it_gets_already_asks_for_nothing(call: Call) -> None:
    call.add(BOB, now=0.0)
    call.alice.rtcp.clear()

    call.room.set_wants(BOB, {ALICE + 1: 50}, None, 10.0)

    assert call.alice.rtcp == []


def test_wanting_nothing_at_all_spares_one_source(call: Call) -> None:
    bob, carol = call.add(BOB), call.add(CAROL)
    call.room.announce(CAROL, (CAROL + 1,), 0.0)

    call.room.set_wants(BOB, {CAROL + 1: 100}, 0, 0.0)
    call.send(video())
    wanted = call.send(video(1, CAROL + 1), CAROL)

    assert bob.rtp == [wanted]
    assert len(carol.rtp) == 1


def test_a_new_negotiation_holds_for_the_next_packet(call: Call) -> None:
    bot = call.add(BOB, AUDIO_BOT, now=0.0)
    call.send(video(1))
    call.alice.rtcp.clear()

    call.room.set_media(BOB, KOE, 10.0)
    call.send(video(2))

    assert [parse_rtp(packet) for packet in bot.rtp] == [video(2, payload_type=103)]
    assert call.alice.rtcp == [PictureLoss(SERVER_SSRC, ALICE + 1)]


def test_a_leg_is_added_once(call: Call) -> None:
    with pytest.raises(UsageError):
        call.add(ALICE)


def test_calls_about_a_leg_that_is_not_there_are_refused(call: Call) -> None:
    with pytest.raises(UsageError):
        call.room.announce(BOB, (BOB,), 0.0)
    with pytest.raises(UsageError):
        call.room.withdraw(BOB, (BOB,))
    with pytest.raises(UsageError):
        call.room.set_deaf(BOB, True)
    with pytest.raises(UsageError):
        call.room.set_media(BOB, KOE, 0.0)
    with pytest.raises(UsageError):
        call.room.set_wants(BOB, {}, 0, 0.0)


def test_the_sooner_of_held_packets_and_reports_wakes_the_room(call: Call) -> None:
    call.add(BOB)
    assert call.room.next_timeout() is None
    call.send(audio(1), now=1.0)
    assert call.room.next_timeout() == 6.0
    call.send(audio(1, BOB), BOB, now=2.0)

    assert call.room.next_timeout() == 2.0 + HOLD_TIME


def turn_off_and_on(room: Room) -> None:
    room.set_wants(BOB, {}, 0, 1.1)
    room.set_wants(BOB, {}, 100, 1.1)


INPUTS: dict[str, Callable[[Room], object]] = {
    "add": lambda room: room.add(FakeLeg(CAROL), LegSsrcs(CAROL), DEFAULT_LEG_MEDIA, 1.1),
    "connected": lambda room: room.connected(BOB, 1.1),
    "remove": lambda room: room.remove(BOB, 1.1),
    "announce": lambda room: room.announce(BOB, (BOB,), 1.1),
    "media": lambda room: room.set_media(BOB, KOE, 1.1),
    "wants": turn_off_and_on,
    "rtp": lambda room: room.receive_rtp(ALICE, video(9).to_bytes(), 1.1),
    "rtcp": lambda room: room.receive_rtcp(BOB, PictureLoss(BOB, ALICE + 1).to_bytes(), 1.1),
    "timeout": lambda room: room.handle_timeout(1.5),
}


@pytest.mark.parametrize("happens", INPUTS.values(), ids=INPUTS)
def test_the_deadline_follows_whatever_happens(
    call: Call, happens: Callable[[Room], object]
) -> None:
    call.add(BOB, now=0.9)
    call.send(audio(1, BOB), BOB, now=1.0)
    call.send(video(1), now=1.0)
    before = call.room.next_timeout()
    assert before == 1.0 + HOLD_TIME

    happens(call.room)

    assert call.room.next_timeout() not in (before, None)


def test_video_that_has_ended_is_not_waited_for(call: Call) -> None:
    call.add(BOB, now=0.9)
    call.send(video(1), now=1.0)
    call.send(video(3), now=1.0)
    assert call.room.next_timeout() == pytest.approx(1.0 + REORDER_SECONDS)

    call.room.withdraw(ALICE, (ALICE + 1,))

    assert call.room.next_timeout() == 1.0 + VIDEO_REPORT_INTERVAL
