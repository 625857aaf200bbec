"""Distorted packets are unusual but legal: every receiver must find the same payload in them."""

from __future__ import annotations

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.rtp.extensions import (
    NATIVE_EXTENSION_IDS,
    PLAYOUT_DELAY,
    SPEAKER,
    build_elements,
    parse_elements,
)
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.distortion import (
    MAX_PACKET_SIZE,
    OPUS_PAYLOAD_TYPE,
    UNASSIGNED_ID,
    Distortion,
    Padding,
)

VIDEO_PAYLOAD_TYPE = 101
SSRC = 4000


def audio(sequence: int, payload: bytes = b"opus") -> RtpPacket:
    return RtpPacket(OPUS_PAYLOAD_TYPE, sequence, 960 * sequence, SSRC, payload)


def video(sequence: int, payload: bytes = b"picture") -> RtpPacket:
    elements = [(NATIVE_EXTENSION_IDS[PLAYOUT_DELAY], bytes(3)), (9, b"\x02")]
    profile, data = build_elements(elements)
    return RtpPacket(
        VIDEO_PAYLOAD_TYPE,
        sequence,
        3000 * sequence,
        SSRC,
        payload,
        marker=True,
        extension_profile=profile,
        extension_data=data,
    )


def distortion(padding: Padding | None = None, headers: float = 0.0, seed: int = 1) -> Distortion:
    made = Distortion(seed)
    made.padding = padding
    made.headers = headers
    return made


def test_without_rules_packets_stay_as_they_are() -> None:
    packet = audio(7).to_bytes()

    assert Distortion(1).apply(packet) == [packet]


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_only_probabilities_are_taken(probability: float) -> None:
    with pytest.raises(UsageError):
        Padding(probability)
    with pytest.raises(UsageError):
        Padding(0.5, probability)


def test_padding_has_every_length_from_1_to_255_and_hides_nothing() -> None:
    subject = distortion(Padding(1.0))
    lengths = set()
    for sequence in range(4000):
        [packet] = subject.apply(video(sequence).to_bytes())
        parsed = parse_rtp(packet)
        assert parsed._replace(padding=b"") == video(sequence)
        lengths.add(len(parsed.padding))

    assert lengths == set(range(1, 256))


def test_about_the_asked_share_is_padded() -> None:
    subject = distortion(Padding(0.1))

    padded = sum(bool(subject.apply(video(n).to_bytes())[0][0] & 0x20) for n in range(5000))

    assert 400 < padded < 600


def test_a_packet_that_is_padded_already_or_full_is_left_alone() -> None:
    padded = audio(1)._replace(padding=b"\x00\x02").to_bytes()
    full = audio(1, bytes(MAX_PACKET_SIZE - 12)).to_bytes()
    nearly_full = audio(1, bytes(MAX_PACKET_SIZE - 13)).to_bytes()
    subject = distortion(Padding(1.0))

    assert subject.apply(padded) == [padded]
    assert subject.apply(full) == [full]
    assert len(subject.apply(nearly_full)[0]) == MAX_PACKET_SIZE


def test_padding_only_packets_follow_audio_and_move_what_comes_after() -> None:
    subject = distortion(Padding(0.0, 1.0))

    packets = [
        parse_rtp(each) for n in (65534, 65535) for each in subject.apply(audio(n).to_bytes())
    ]

    assert [packet.sequence for packet in packets] == [65534, 65535, 0, 1]
    assert [packet.payload for packet in packets] == [b"opus", b"", b"opus", b""]
    assert all(len(packet.padding) > 0 for packet in packets[1::2])
    assert packets[1].ticks == packets[0].ticks


def test_numbering_goes_on_when_padding_is_switched_off() -> None:
    subject = distortion(Padding(0.0, 1.0))
    subject.apply(audio(1).to_bytes())
    subject.padding = None

    [packet] = subject.apply(audio(2).to_bytes())

    assert parse_rtp(packet) == audio(3)._replace(ticks=960 * 2)


def test_no_padding_only_packet_is_put_into_video() -> None:
    subject = distortion(Padding(0.0, 1.0))

    assert subject.apply(video(1).to_bytes()) == [video(1).to_bytes()]


def test_unusual_headers_keep_known_elements_and_payload() -> None:
    subject = distortion(headers=1.0)
    orders = set()
    for sequence in range(50):
        [packet] = subject.apply(video(sequence).to_bytes())
        parsed = parse_rtp(packet)
        elements = parse_elements(parsed.extension_profile or 0, parsed.extension_data)
        known = [element for element in elements if element[0] != UNASSIGNED_ID]
        orders.add(tuple(ident for ident, _ in elements))
        assert 1 <= len(parsed.csrcs) <= 3
        assert len(elements) == 3
        assert sorted(known) == [(6, bytes(3)), (NATIVE_EXTENSION_IDS[SPEAKER], b"\x02")]
        assert (parsed.payload, parsed.sequence, parsed.marker) == (b"picture", sequence, True)

    assert len(orders) == 6


def test_a_packet_without_extension_gets_one() -> None:
    [packet] = distortion(headers=1.0).apply(audio(5).to_bytes())

    parsed = parse_rtp(packet)
    [(ident, value)] = parse_elements(parsed.extension_profile or 0, parsed.extension_data)
    assert ident == UNASSIGNED_ID
    assert 1 <= len(value) <= 16
    assert parsed.payload == b"opus"


def test_an_extension_of_another_form_is_not_touched() -> None:
    packet = audio(5)._replace(extension_profile=0xABCD, extension_data=b"1234")

    [distorted] = distortion(headers=1.0).apply(packet.to_bytes())

    parsed = parse_rtp(distorted)
    assert parsed.csrcs
    assert parsed._replace(csrcs=()) == packet


def test_headers_that_cannot_be_changed_are_left_alone() -> None:
    full = video(1, bytes(MAX_PACKET_SIZE - 24)).to_bytes()
    malformed = b"\xa0\x65" + video(1).to_bytes()[2:-1] + b"\xff"
    subject = distortion(headers=1.0)

    assert subject.apply(full) == [full]
    assert subject.apply(malformed) == [malformed]


def test_the_same_seed_distorts_alike() -> None:
    packets = [audio(n).to_bytes() for n in range(200)]

    def outcome(seed: int) -> list[bytes]:
        subject = distortion(Padding(0.3, 0.1), 0.3, seed)
        return [each for packet in packets for each in subject.apply(packet)]

    assert outcome(5) == outcome(5)
    assert outcome(5) != outcome(6)
