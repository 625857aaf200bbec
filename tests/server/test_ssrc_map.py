"""A client's own SSRCs become those of Ready, and back."""

from __future__ import annotations

import struct

import pytest

from discord_rtc.rtp.history import wrap_rtx
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
from discord_rtc.server.leg_media import LegSsrcs
from discord_rtc.server.ssrc_map import SsrcMap

READY = LegSsrcs(100, ((101, 102), (103, 104)))
BROWSER_AUDIO, BROWSER_VIDEO, BROWSER_RTX = 0xA0000001, 0xB0000002, 0xC0000003
OTHER = 201  # a stream of somebody else
ROOM = 1


@pytest.fixture
def browser() -> SsrcMap:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(BROWSER_AUDIO, [(BROWSER_VIDEO, BROWSER_RTX)])
    return ssrcs


def rtp(ssrc: int) -> bytes:
    return RtpPacket(96, 7, 3000, ssrc, b"picture", csrcs=(ssrc,), padding=b"\x01").to_bytes()


def block(ssrc: int) -> ReportBlock:
    return ReportBlock(ssrc, 1, 2, 3, 4, 5, 6)


def ready_of(ssrcs: SsrcMap, ssrc: int) -> int | None:
    packet = ssrcs.inbound_rtp(rtp(ssrc))
    return None if packet is None else parse_rtp(packet).ssrc


@pytest.mark.parametrize(
    ("own", "ready"), [(BROWSER_AUDIO, 100), (BROWSER_VIDEO, 101), (BROWSER_RTX, 102)]
)
def test_packets_get_the_ssrcs_of_ready_and_nothing_else_changes(
    browser: SsrcMap, own: int, ready: int
) -> None:
    renamed = browser.inbound_rtp(rtp(own))

    assert renamed is not None
    assert parse_rtp(renamed) == parse_rtp(rtp(own))._replace(ssrc=ready)


def test_an_ssrc_that_was_not_announced_has_no_name(browser: SsrcMap) -> None:
    assert browser.inbound_rtp(rtp(0xDEAD)) is None
    assert browser.inbound_rtp(b"\x80\x60") is None


def test_the_ssrcs_of_ready_pass_uncopied_until_others_are_announced() -> None:
    ssrcs = SsrcMap(READY)
    packets = [rtp(ssrc) for ssrc in READY]
    assert all(ssrcs.inbound_rtp(packet) is packet for packet in packets)

    ssrcs.announce(BROWSER_AUDIO)

    assert [ready_of(ssrcs, ssrc) for ssrc in READY] == [None, 101, 102, 103, 104]


def test_announcing_the_ssrcs_of_ready_changes_nothing() -> None:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(100, [(101, 102), (103, None)])
    packets = [rtp(ssrc) for ssrc in READY]

    assert all(ssrcs.inbound_rtp(packet) is packet for packet in packets)


def test_a_new_announcement_replaces_the_old_one(browser: SsrcMap) -> None:
    browser.announce(video=[(0xB1, 0xC1)])

    assert ready_of(browser, BROWSER_AUDIO) == 100
    assert [ready_of(browser, ssrc) for ssrc in (0xB1, 0xC1)] == [101, 102]
    assert [ready_of(browser, ssrc) for ssrc in (BROWSER_VIDEO, BROWSER_RTX)] == [None, None]


def test_zeros_announce_nothing(browser: SsrcMap) -> None:
    browser.announce(0, [(0, None), (0xB2, None)])

    assert ready_of(browser, BROWSER_AUDIO) == 100
    assert ready_of(browser, BROWSER_VIDEO) == 101
    assert ready_of(browser, BROWSER_RTX) == 102
    assert ready_of(browser, 0xB2) == 103


def test_without_an_rtx_ssrc_it_is_the_next_number() -> None:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(None, [(0xFFFFFFFF, None)])

    assert [ready_of(ssrcs, ssrc) for ssrc in (0xFFFFFFFF, 0)] == [101, 102]


def test_the_next_number_is_not_taken_from_another_stream() -> None:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(0xB1, [(0xB0, None)])

    assert [ready_of(ssrcs, ssrc) for ssrc in (0xB0, 0xB1)] == [101, 100]


def test_more_layers_than_ready_gave_are_ignored() -> None:
    ssrcs = SsrcMap(LegSsrcs(100))
    ssrcs.announce(None, [(0xB0, 0xC0)])

    assert ready_of(ssrcs, 0xB0) is None


def test_an_ssrc_means_the_stream_that_it_was_announced_for_last(browser: SsrcMap) -> None:
    browser.announce(BROWSER_VIDEO)

    assert ready_of(browser, BROWSER_VIDEO) == 100
    assert ready_of(browser, 101) == 101  # nothing else is announced for it


def test_a_clients_number_may_be_that_of_another_stream_of_ready() -> None:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(102, [(100, 101)])

    assert [ready_of(ssrcs, ssrc) for ssrc in (102, 100, 101)] == [100, 101, 102]


@pytest.mark.parametrize("claimed", [OTHER, ROOM, 0xFFFFFFFF])
def test_whatever_a_client_announces_only_its_own_streams_come_out(claimed: int) -> None:
    ssrcs = SsrcMap(READY)
    ssrcs.announce(claimed, [(claimed, claimed), (claimed, claimed)])

    names = {ready_of(ssrcs, ssrc) for ssrc in (claimed, *READY)} - {None}
    assert names <= set(READY)


OWN: list[tuple[RtcpPacket, RtcpPacket]] = [
    (
        SenderReport(BROWSER_VIDEO, 1 << 40, 5, 6, 7, (block(OTHER), block(BROWSER_VIDEO))),
        SenderReport(101, 1 << 40, 5, 6, 7, (block(OTHER), block(BROWSER_VIDEO))),
    ),
    (ReceiverReport(BROWSER_AUDIO, (block(OTHER),)), ReceiverReport(100, (block(OTHER),))),
    (Goodbye((BROWSER_RTX, OTHER, BROWSER_VIDEO), "end"), Goodbye((102, OTHER, 101), "end")),
    (Goodbye((0xDEAD,)), Goodbye((0xDEAD,))),
    (
        SourceDescription(
            ((BROWSER_AUDIO, ((1, "one"), (2, ""))), (OTHER, ()), (BROWSER_VIDEO, ((1, "x"),)))
        ),
        SourceDescription(((100, ((1, "one"), (2, ""))), (OTHER, ()), (101, ((1, "x"),)))),
    ),
    (Nack(BROWSER_VIDEO, OTHER, (1, 9, 90)), Nack(101, OTHER, (1, 9, 90))),
    (PictureLoss(BROWSER_AUDIO, OTHER), PictureLoss(100, OTHER)),
    (FullIntraRequest(1, ((OTHER, 1),)), FullIntraRequest(1, ((OTHER, 1),))),
    (
        BitrateEstimate(BROWSER_AUDIO, 1 << 20, (OTHER, BROWSER_AUDIO)),
        BitrateEstimate(100, 1 << 20, (OTHER, BROWSER_AUDIO)),
    ),
    (
        TransportFeedback(BROWSER_AUDIO, OTHER, 1, 2, 3, (4, None)),
        TransportFeedback(100, OTHER, 1, 2, 3, (4, None)),
    ),
    # Extended report, application-defined, and types that nobody knows.
    (
        UnknownRtcp(207, 0, struct.pack("!II", BROWSER_VIDEO, BROWSER_VIDEO)),
        UnknownRtcp(207, 0, struct.pack("!II", 101, BROWSER_VIDEO)),
    ),
    (
        UnknownRtcp(204, 0, struct.pack("!I4s", BROWSER_AUDIO, b"name")),
        UnknownRtcp(204, 0, struct.pack("!I4s", 100, b"name")),
    ),
    (
        UnknownRtcp(192, 3, struct.pack("!I", BROWSER_VIDEO)),
        UnknownRtcp(192, 3, struct.pack("!I", BROWSER_VIDEO)),
    ),
]


@pytest.mark.parametrize(("own", "ready"), OWN, ids=lambda part: type(part).__name__)
def test_only_the_clients_own_ssrcs_are_renamed_in_its_rtcp(
    browser: SsrcMap, own: RtcpPacket, ready: RtcpPacket
) -> None:
    assert parse_rtcp(browser.inbound_rtcp(own.to_bytes())) == (ready,)


def test_all_parts_of_a_compound_are_renamed(browser: SsrcMap) -> None:
    own = build_rtcp(part for part, _ in OWN)

    assert parse_rtcp(browser.inbound_rtcp(own)) == tuple(part for _, part in OWN)


REPORTED: list[tuple[RtcpPacket, RtcpPacket]] = [
    (
        ReceiverReport(ROOM, (block(100), block(OTHER), block(102))),
        ReceiverReport(ROOM, (block(BROWSER_AUDIO), block(OTHER), block(BROWSER_RTX))),
    ),
    (
        SenderReport(OTHER, 1, 2, 3, 4, (block(101),)),
        SenderReport(OTHER, 1, 2, 3, 4, (block(BROWSER_VIDEO),)),
    ),
    (Nack(ROOM, 101, (101, 102)), Nack(ROOM, BROWSER_VIDEO, (101, 102))),
    (PictureLoss(ROOM, 101), PictureLoss(ROOM, BROWSER_VIDEO)),
    (
        FullIntraRequest(ROOM, ((101, 1), (OTHER, 2), (103, 4))),
        FullIntraRequest(ROOM, ((BROWSER_VIDEO, 1), (OTHER, 2), (103, 4))),
    ),
    (
        BitrateEstimate(ROOM, 1 << 20, (101, 102, OTHER)),
        BitrateEstimate(ROOM, 1 << 20, (BROWSER_VIDEO, BROWSER_RTX, OTHER)),
    ),
    (
        TransportFeedback(ROOM, 100, 101, 102, 103, (1, None, -1)),
        TransportFeedback(ROOM, BROWSER_AUDIO, 101, 102, 103, (1, None, -1)),
    ),
    (Goodbye((OTHER,)), Goodbye((OTHER,))),
    (SourceDescription(((OTHER, ()),)), SourceDescription(((OTHER, ()),))),
    (
        UnknownRtcp(206, 15, struct.pack("!II4sI", ROOM, 101, b"none", 1 << 24)),
        UnknownRtcp(206, 15, struct.pack("!II4sI", ROOM, 101, b"none", 1 << 24)),
    ),
]


@pytest.mark.parametrize(("ready", "own"), REPORTED, ids=lambda part: type(part).__name__)
def test_feedback_to_a_client_names_its_streams_as_it_does(
    browser: SsrcMap, ready: RtcpPacket, own: RtcpPacket
) -> None:
    assert parse_rtcp(browser.outbound_rtcp(ready.to_bytes())) == (own,)


def test_all_parts_of_a_compound_to_a_client_are_renamed(browser: SsrcMap) -> None:
    ready = build_rtcp(part for part, _ in REPORTED)

    assert parse_rtcp(browser.outbound_rtcp(ready)) == tuple(part for _, part in REPORTED)


def test_feedback_follows_a_new_announcement(browser: SsrcMap) -> None:
    browser.announce(video=[(0xB1, 0xC1)])
    packet = PictureLoss(ROOM, 101).to_bytes()

    assert parse_rtcp(browser.outbound_rtcp(packet)) == (PictureLoss(ROOM, 0xB1),)


def test_a_client_with_the_ssrcs_of_ready_gets_and_gives_rtcp_uncopied() -> None:
    ssrcs = SsrcMap(READY)
    inbound = build_rtcp(part for part, _ in OWN)
    outbound = build_rtcp(part for part, _ in REPORTED)

    assert ssrcs.inbound_rtcp(inbound) is inbound
    assert ssrcs.outbound_rtcp(outbound) is outbound


GOOD = SenderReport(BROWSER_VIDEO, 1, 2, 3, 4).to_bytes()
GOOD_REPORT = ReceiverReport(ROOM, (block(101),)).to_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        b"\x80",
        b"\x80\xc8\x00\x00",  # no SSRC
        b"\x80\xc8\x00\x05" + bytes(16),  # longer than it is
        b"\x82\xcb\x00\x01" + struct.pack("!I", BROWSER_VIDEO),  # two sources, one there
        b"\x81\xca\x00\x02" + struct.pack("!I", BROWSER_VIDEO) + b"\x01\x01x\x01",  # no length
        b"\x82\xca\x00\x02" + struct.pack("!I", BROWSER_VIDEO) + b"\x01\x0fx\x01",  # too long
    ],
)
def test_malformed_rtcp_of_a_client_is_left_as_it_is(browser: SsrcMap, bad: bytes) -> None:
    packet = GOOD + bad

    assert browser.inbound_rtcp(packet) is packet


@pytest.mark.parametrize(
    "bad",
    [
        b"\x80\xc9",
        b"\x82\xc9\x00\x01" + struct.pack("!I", ROOM),
        b"\x81\xcd\x00\x01" + struct.pack("!I", ROOM),
        b"\x84\xce\x00\x03" + struct.pack("!II", ROOM, 0) + b"\x00\x00",
        b"\x8f\xce\x00\x04" + struct.pack("!II4sI", ROOM, 0, b"REMB", 1 << 24),
    ],
)
def test_malformed_rtcp_to_a_client_is_left_as_it_is(browser: SsrcMap, bad: bytes) -> None:
    packet = GOOD_REPORT + bad

    assert browser.outbound_rtcp(packet) is packet


def test_a_bitrate_estimate_without_its_numbers_is_left_as_it_is(browser: SsrcMap) -> None:
    packet = b"\x8f\xce\x00\x03" + struct.pack("!II4s", ROOM, 0, b"REMB")

    assert browser.outbound_rtcp(packet) is packet


AGAIN_VIDEO, AGAIN_RTX = 0xD0000004, 0xE0000005


def picture(sequence: int, ssrc: int = BROWSER_VIDEO) -> RtpPacket:
    return RtpPacket(96, sequence & 0xFFFF, 3000, ssrc, b"picture")


def in_room(ssrcs: SsrcMap, packet: RtpPacket) -> RtpPacket:
    renamed = ssrcs.inbound_rtp(packet.to_bytes())
    assert renamed is not None
    return parse_rtp(renamed)


@pytest.fixture
def restarted(browser: SsrcMap) -> SsrcMap:
    """The camera was switched off at number 1 (65535 before it) and on again at 500."""
    for sequence in (65_535, 1, 0):
        assert in_room(browser, picture(sequence)).sequence == sequence
    browser.announce(video=[(AGAIN_VIDEO, AGAIN_RTX)])
    assert in_room(browser, picture(500, AGAIN_VIDEO)) == picture(2, 101)
    return browser


def test_numbers_of_another_ssrc_go_on_where_the_last_ones_ended(restarted: SsrcMap) -> None:
    sequences = [in_room(restarted, picture(n, AGAIN_VIDEO)).sequence for n in (502, 501, 503)]

    assert sequences == [4, 3, 5]


def test_other_streams_of_the_client_keep_their_numbers(restarted: SsrcMap) -> None:
    assert in_room(restarted, picture(500, BROWSER_AUDIO)) == picture(500, 100)
    assert in_room(restarted, picture(500, 103)) == picture(500, 103)


def test_a_second_change_goes_on_from_the_first(restarted: SsrcMap) -> None:
    restarted.announce(video=[(0xF0000006, None)])

    assert in_room(restarted, picture(40_000, 0xF0000006)) == picture(3, 101)
    assert in_room(restarted, picture(40_001, 0xF0000006)) == picture(4, 101)


def test_retransmissions_repair_the_renumbered_packet(restarted: SsrcMap) -> None:
    rtx = wrap_rtx(picture(501, AGAIN_VIDEO), AGAIN_RTX, 97, 7)
    expected = wrap_rtx(picture(3, 101), 102, 97, 7)
    assert in_room(restarted, rtx) == expected

    padded, extended = (
        rtx._replace(padding=b"\x00\x02"),
        rtx._replace(extension_profile=0xBEDE, extension_data=b"\x10\x20\x00\x00", csrcs=(9,)),
    )
    assert in_room(restarted, padded).payload == expected.payload
    assert in_room(restarted, extended).payload == expected.payload


def test_probes_and_bad_retransmissions_stay_as_they_are(restarted: SsrcMap) -> None:
    probe = RtpPacket(97, 8, 3000, AGAIN_RTX, b"", padding=b"\x00" * 9 + b"\x0a")
    assert in_room(restarted, probe) == probe._replace(ssrc=102)

    bad = bytearray(wrap_rtx(picture(501), AGAIN_RTX, 97, 9).to_bytes())
    bad[0] |= 0x10  # an extension that does not fit
    assert restarted.inbound_rtp(bytes(bad)) == bytes(bad[:8]) + struct.pack("!I", 102) + bad[12:]


def test_requests_name_the_numbers_of_the_client(restarted: SsrcMap) -> None:
    asked = (Nack(ROOM, 101, (3, 4, 9)), Nack(ROOM, 103, (3,)), PictureLoss(ROOM, 101))

    sent = parse_rtcp(restarted.outbound_rtcp(build_rtcp(asked)))

    assert sent == (
        Nack(ROOM, AGAIN_VIDEO, (501, 502, 507)),
        Nack(ROOM, 103, (3,)),
        PictureLoss(ROOM, AGAIN_VIDEO),
    )


def test_malformed_rtcp_to_a_client_is_left_as_it_is_after_a_change(restarted: SsrcMap) -> None:
    bad = Nack(ROOM, 101, (3,)).to_bytes()[:-2]

    assert restarted.outbound_rtcp(bad) == bad
