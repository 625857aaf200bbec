"""Renumbering packets from one session's numbers to another's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.extensions import (
    AUDIO_LEVEL,
    MID,
    NATIVE_EXTENSION_IDS,
    PLAYOUT_DELAY,
    REPAIRED_RID,
    RID,
    SPEAKER,
    TRANSPORT_CC,
    TWO_BYTE_PROFILE,
    build_elements,
    parse_elements,
)
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs, Renumbering

if TYPE_CHECKING:
    from collections.abc import Mapping

BROWSER = LegMedia({"opus": (111, None), "VP8": (96, 97)}, {AUDIO_LEVEL: 14, SPEAKER: 2, MID: 4})
PACKET = RtpPacket(120, 77, 960, 4000, b"opus", marker=True, padding=b"\x00\x02")


def with_elements(*elements: tuple[int, bytes]) -> RtpPacket:
    profile, data = build_elements(elements)
    return PACKET._replace(extension_profile=profile, extension_data=data)


def test_ssrcs_are_listed_best_layer_first() -> None:
    assert list(LegSsrcs(10, ((11, 12), (13, 14)))) == [10, 11, 12, 13, 14]
    assert list(LegSsrcs(10)) == [10]


def test_a_payload_type_means_a_codec_or_its_retransmission() -> None:
    assert BROWSER.meaning(111) == ("opus", False)
    assert BROWSER.meaning(96) == ("VP8", False)
    assert BROWSER.meaning(97) == ("VP8", True)
    assert BROWSER.meaning(120) is None


def test_a_codec_has_a_payload_type_where_it_was_negotiated() -> None:
    assert BROWSER.payload_type("VP8", rtx=True) == 97
    assert BROWSER.payload_type("opus", rtx=True) is None
    assert BROWSER.payload_type("H264", rtx=False) is None


def test_default_numbers_are_those_of_native_clients() -> None:
    assert DEFAULT_LEG_MEDIA.payload_type("opus", rtx=False) == 120
    assert DEFAULT_LEG_MEDIA.payload_type("H264", rtx=True) == 102
    assert DEFAULT_LEG_MEDIA.extension_ids == NATIVE_EXTENSION_IDS


def test_equal_ids_leave_the_extension_alone() -> None:
    other = LegMedia({"opus": (109, None)})
    renumbering = Renumbering.between(DEFAULT_LEG_MEDIA, other, 109)
    packet = with_elements((10, b"audio"), (1, b"\x20"))

    renumbered = parse_rtp(renumbering.apply(packet.to_bytes()))

    assert renumbered == packet._replace(payload_type=109)


OWN = {AUDIO_LEVEL: 1, PLAYOUT_DELAY: 6}  # our own client over WebRTC: no MID, no numbers
STACK = {**OWN, MID: 10}
NUMBERING = {**OWN, TRANSPORT_CC: 5}
FEEDBACK = frozenset({"transport-cc"})


def media(ids: Mapping[str, int], feedback: frozenset[str] = frozenset()) -> LegMedia:
    return LegMedia({"opus": (120, None)}, ids, feedback)


SRTP_STACK = replace(media(NATIVE_EXTENSION_IDS), srtp=True)  # numbers as native clients, bundles


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (DEFAULT_LEG_MEDIA, media(OWN)),
        (media(OWN), DEFAULT_LEG_MEDIA),
        (media(OWN), media(OWN)),
        (media(OWN), media(NUMBERING, FEEDBACK)),
        (media({AUDIO_LEVEL: 1}), media({PLAYOUT_DELAY: 6})),
        (DEFAULT_LEG_MEDIA, media(NATIVE_EXTENSION_IDS, FEEDBACK)),
    ],
)
def test_packets_that_say_nothing_about_their_connection_pass_as_they_are(
    sender: LegMedia, receiver: LegMedia
) -> None:
    assert Renumbering.between(sender, receiver, 120) == Renumbering(120, None)


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [
        (media(STACK), media(STACK)),
        (media(STACK), DEFAULT_LEG_MEDIA),
        (DEFAULT_LEG_MEDIA, media(STACK)),
        (media(OWN), media(STACK)),
        (media(NUMBERING), media(NUMBERING)),
        (media(NUMBERING), DEFAULT_LEG_MEDIA),
        (media(NATIVE_EXTENSION_IDS, FEEDBACK), DEFAULT_LEG_MEDIA),
        (media({**OWN, RID: 11}), media(OWN)),
        (SRTP_STACK, SRTP_STACK),
        (SRTP_STACK, DEFAULT_LEG_MEDIA),
        (media({**OWN, REPAIRED_RID: 12}), media(OWN)),
    ],
)
def test_what_belongs_to_one_connection_never_reaches_another(
    sender: LegMedia, receiver: LegMedia
) -> None:
    bound = [(ident, b"12") for ident in (5, 10, 11, 12)]
    packet = with_elements((1, b"\x20"), *bound, (6, b"123"))

    renumbered = Renumbering.between(sender, receiver, 120).apply(packet.to_bytes())

    parsed = parse_rtp(renumbered)
    elements = parse_elements(parsed.extension_profile or 0, parsed.extension_data)
    assert elements == ((1, b"\x20"), (6, b"123"))


def test_an_id_that_means_something_else_to_the_receiver_is_not_passed() -> None:
    renumbering = Renumbering.between(media({AUDIO_LEVEL: 1}), media({SPEAKER: 1}), 120)

    assert renumbering == Renumbering(120, ())


def test_feedback_about_bandwidth_is_for_those_who_negotiated_it() -> None:
    assert DEFAULT_LEG_MEDIA.transport_cc is None
    assert not DEFAULT_LEG_MEDIA.remb
    assert media(NUMBERING).transport_cc is None
    assert media(NUMBERING, FEEDBACK).transport_cc == 5
    assert media(OWN, FEEDBACK).transport_cc is None
    assert media(OWN, frozenset({"goog-remb"})).remb


def test_other_ids_are_mapped_and_what_belongs_to_a_connection_is_left_out() -> None:
    renumbering = Renumbering.between(DEFAULT_LEG_MEDIA, BROWSER, 111)
    ids = NATIVE_EXTENSION_IDS
    packet = with_elements(
        (ids[AUDIO_LEVEL], b"\x7f"),
        (ids[MID], b"audio"),
        (ids[TRANSPORT_CC], b"\x00\x01"),
        (ids[SPEAKER], b"\x02"),
    )

    renumbered = parse_rtp(renumbering.apply(packet.to_bytes()))

    elements = parse_elements(renumbered.extension_profile or 0, renumbered.extension_data)
    assert elements == ((14, b"\x7f"), (2, b"\x02"))
    assert renumbered[1:7] == PACKET[1:7]
    assert renumbered.padding == PACKET.padding
    assert renumbered.payload_type == 111


def test_an_extension_of_which_nothing_is_left_disappears() -> None:
    renumbering = Renumbering.between(DEFAULT_LEG_MEDIA, BROWSER, 111)
    packet = with_elements((NATIVE_EXTENSION_IDS[MID], b"audio"))

    assert parse_rtp(renumbering.apply(packet.to_bytes())) == PACKET._replace(payload_type=111)


def test_the_two_byte_form_is_mapped_too() -> None:
    renumbering = Renumbering.between(DEFAULT_LEG_MEDIA, BROWSER, 111)
    packet = PACKET._replace(extension_profile=TWO_BYTE_PROFILE, extension_data=b"\x01\x01\x7f\x00")

    renumbered = parse_rtp(renumbering.apply(packet.to_bytes()))

    assert parse_elements(renumbered.extension_profile or 0, renumbered.extension_data) == (
        (14, b"\x7f"),
    )


@pytest.mark.parametrize("ids", [None, ((1, 14),)])
def test_a_packet_without_extension_changes_its_payload_type_only(
    ids: tuple[tuple[int, int], ...] | None,
) -> None:
    renumbered = Renumbering(111, ids).apply(PACKET.to_bytes())

    assert parse_rtp(renumbered) == PACKET._replace(payload_type=111)


def test_an_extension_of_unknown_form_is_passed_on() -> None:
    packet = PACKET._replace(extension_profile=0xABCD, extension_data=b"1234")

    renumbered = Renumbering(111, ((1, 14),)).apply(packet.to_bytes())

    assert parse_rtp(renumbered) == packet._replace(payload_type=111)


def test_an_extension_that_does_not_fit_is_malformed() -> None:
    with pytest.raises(MalformedPacket):
        Renumbering(111, ((1, 14),)).apply(b"\x90" + bytes(11) + b"\xbe\xde\x00\x09")
