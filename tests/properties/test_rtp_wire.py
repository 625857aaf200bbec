"""RTP wire formats: any value survives the wire, and any bytes give a value or a typed error."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import MalformedPacket, ProtocolError
from discord_rtc.frames import Codec
from discord_rtc.rtp import extensions, rtcp
from discord_rtc.rtp.history import original_sequence, unwrap_rtx, wrap_rtx
from discord_rtc.rtp.packet import (
    RtpPacket,
    clear_prefix_length,
    fixed_header_length,
    header_length,
    parse_rtp,
)
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.payloads.h264 import START_CODE, H264Depacketizer, H264Packetizer
from discord_rtc.rtp.serial import Unwrapper, newer, unwrap

if TYPE_CHECKING:
    from collections.abc import Callable

_u8 = st.integers(0, 0xFF)
_u16 = st.integers(0, 0xFFFF)
_u24 = st.integers(0, 0xFFFFFF)
_u32 = st.integers(0, 0xFFFFFFFF)
_u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)


# ---- numbers that wrap -------------------------------------------------------------------


@given(
    st.sampled_from([16, 32]),
    st.integers(0, 1 << 40),
    st.lists(st.floats(0, 1, exclude_max=True)),
)
def test_unwrapped_numbers_follow_any_jumps_below_half_the_range(
    bits: int, start: int, jumps: list[float]
) -> None:
    unwrapper = Unwrapper(bits)
    modulus = 1 << bits
    number = start
    shift = start - unwrapper.unwrap(start % modulus)
    for jump in jumps:
        number += int(jump * (modulus // 2))
        assert unwrapper.unwrap(number % modulus) + shift == number


@given(_u32, _u32)
def test_of_two_different_numbers_exactly_one_is_newer(a: int, b: int) -> None:
    assert newer(a, b, 32) + newer(b, a, 32) == (a != b)


@given(_u16, st.integers(-(1 << 40), 1 << 40))
def test_unwrapped_number_keeps_its_wire_value_and_is_near(value: int, reference: int) -> None:
    number = unwrap(value, reference, 16)
    assert number % 65536 == value
    assert abs(number - reference) <= 32768


# ---- RTP packets ---------------------------------------------------------------------------


@st.composite
def _rtp_packets(draw: st.DrawFn) -> RtpPacket:
    profile = draw(st.none() | _u16 | st.sampled_from([0xBEDE, 0x1000]))
    words = 0 if profile is None else draw(st.integers(0, 6))
    pad = draw(st.integers(0, 8))
    return RtpPacket(
        payload_type=draw(st.integers(0, 127)),
        sequence=draw(_u16),
        ticks=draw(_u32),
        ssrc=draw(_u32),
        payload=draw(st.binary(max_size=40)),
        marker=draw(st.booleans()),
        csrcs=tuple(draw(st.lists(_u32, max_size=15))),
        extension_profile=profile,
        extension_data=draw(st.binary(min_size=4 * words, max_size=4 * words)),
        padding=draw(st.binary(min_size=pad - 1, max_size=pad - 1)) + bytes((pad,)) if pad else b"",
    )


_rtp_bytes = st.builds(
    lambda first, rest: bytes((0x80 | first,)) + rest,
    st.sampled_from([0x00, 0x10, 0x20, 0x30, 0x12, 0x3F]),
    st.binary(max_size=90),
)


@given(_rtp_packets())
def test_any_rtp_packet_survives_the_wire(packet: RtpPacket) -> None:
    assert parse_rtp(packet.to_bytes()) == packet


@given(_rtp_bytes | st.binary(max_size=90))
def test_any_bytes_are_an_rtp_packet_that_builds_them_again_or_malformed(data: bytes) -> None:
    try:
        packet = parse_rtp(data)
    except MalformedPacket:
        return
    assert packet.to_bytes() == data


@given(_rtp_packets(), st.data())
def test_lengths_of_a_header_do_not_depend_on_what_follows_it(
    packet: RtpPacket, data: st.DataObject
) -> None:
    built = packet.to_bytes()
    body = len(packet.payload) + len(packet.padding)
    assert header_length(built) == len(built) - body
    for measure in (fixed_header_length, clear_prefix_length, header_length):
        length = measure(built)
        assert measure(built[:length]) == length
        with pytest.raises(MalformedPacket):
            measure(built[: data.draw(st.integers(0, length - 1))])


@given(_rtp_packets(), _u32, st.integers(0, 127), _u16)
def test_any_packet_survives_its_retransmission(
    packet: RtpPacket, ssrc: int, payload_type: int, sequence: int
) -> None:
    again = parse_rtp(wrap_rtx(packet, ssrc, payload_type, sequence).to_bytes())
    assert (again.ssrc, again.payload_type, again.sequence) == (ssrc, payload_type, sequence)
    assert original_sequence(again) == packet.sequence
    assert unwrap_rtx(again, packet.ssrc, packet.payload_type) == packet._replace(padding=b"")


# ---- header extensions -----------------------------------------------------------------------

_elements = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 14), st.binary(min_size=1, max_size=16)),
        st.tuples(st.integers(1, 255), st.binary(max_size=40)),
    ),
    max_size=6,
).map(tuple)


@given(_elements)
def test_any_elements_survive_the_wire(elements: tuple[tuple[int, bytes], ...]) -> None:
    profile, data = extensions.build_elements(elements)
    assert len(data) % 4 == 0
    assert extensions.parse_elements(profile, data) == elements


@given(_u16 | st.sampled_from([0xBEDE, 0x1000, 0x100F]), st.binary(max_size=60))
def test_any_extension_gives_elements_that_can_be_built_again(profile: int, data: bytes) -> None:
    elements = extensions.parse_elements(profile, data)
    assert extensions.parse_elements(*extensions.build_elements(elements)) == elements


@pytest.mark.parametrize(
    "parse",
    [
        extensions.parse_audio_level,
        extensions.parse_playout_delay,
        extensions.parse_abs_send_time,
        extensions.parse_transport_sequence,
        extensions.parse_content_type,
        extensions.parse_orientation,
        extensions.parse_speaker_bits,
    ],
)
@given(value=st.binary(max_size=5))
def test_any_extension_value_gives_a_value_or_a_typed_error(
    parse: Callable[[bytes], object], value: bytes
) -> None:
    with contextlib.suppress(ProtocolError):
        assert parse(value) is not None


@given(st.booleans(), st.integers(-127, 0), st.integers(0, 7), st.integers(0, 0xFFF))
def test_extension_values_survive_the_wire(voice: bool, level: int, flags: int, low: int) -> None:
    built = extensions.audio_level(voice, level)
    assert extensions.parse_audio_level(built) == (voice, level)
    limits = (low * 10, 40950)
    assert extensions.parse_playout_delay(extensions.playout_delay(*limits)) == limits
    heard = extensions.parse_speaker_bits(extensions.speaker_bits(flags))
    assert heard == (flags | 1 if flags & 4 else flags or 1)


# ---- RTCP --------------------------------------------------------------------------------------

_blocks = st.lists(
    st.builds(
        rtcp.ReportBlock, _u32, _u8, st.integers(-0x800000, 0x7FFFFF), _u32, _u32, _u32, _u32
    ),
    max_size=4,
).map(tuple)
_texts = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
_items = st.lists(st.tuples(st.integers(1, 255), _texts), max_size=3).map(tuple)
# Each delta several times, so that runs come up.
_deltas = st.lists(
    st.tuples(
        st.none() | st.integers(0, 255) | st.integers(-32768, 32767),
        st.sampled_from([1, 1, 1, 2, 7, 20]),
    ),
    max_size=30,
).map(lambda runs: tuple(delta for delta, length in runs for _ in range(length)))
_ssrcs = st.lists(_u32, max_size=8).map(tuple)
_rtcp_packets: st.SearchStrategy[rtcp.RtcpPacket] = st.one_of(
    st.builds(rtcp.SenderReport, _u32, _u64, _u32, _u32, _u32, _blocks),
    st.builds(rtcp.ReceiverReport, _u32, _blocks),
    st.builds(rtcp.SourceDescription, st.lists(st.tuples(_u32, _items), max_size=4).map(tuple)),
    st.builds(rtcp.Goodbye, _ssrcs, _texts),
    st.builds(rtcp.PictureLoss, _u32, _u32),
    st.builds(rtcp.FullIntraRequest, _u32, st.lists(st.tuples(_u32, _u8), max_size=8).map(tuple)),
    st.builds(
        rtcp.BitrateEstimate,
        _u32,
        st.builds(
            lambda mantissa, exponent: mantissa << exponent,
            st.integers(0, 0x3FFFF),
            st.integers(0, 45),
        ),
        _ssrcs,
    ),
    st.builds(
        rtcp.TransportFeedback,
        _u32,
        _u32,
        _u16,
        st.integers(-0x800000, 0x7FFFFF),
        _u8,
        _deltas,
    ),
    st.builds(
        rtcp.UnknownRtcp,
        st.sampled_from([192, 204, 207, 223]),
        st.integers(0, 31),
        st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
    ),
)


@given(st.lists(_rtcp_packets, min_size=1, max_size=4).map(tuple))
def test_any_compound_survives_the_wire(packets: tuple[rtcp.RtcpPacket, ...]) -> None:
    data = rtcp.build_rtcp(packets)
    assert len(data) % 4 == 0
    assert rtcp.parse_rtcp(data) == packets


@given(_u32, _u32, st.sets(st.integers(0, 400)), _u16)
def test_any_ascending_losses_survive_the_wire(
    sender: int, media: int, distances: set[int], start: int
) -> None:
    lost = tuple((start + distance) & 0xFFFF for distance in sorted(distances))
    packet = rtcp.Nack(sender, media, lost)
    assert rtcp.parse_rtcp(packet.to_bytes()) == (packet,)


def _with_header(first: int, packet_type: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("!BBH", 0x80 | first, packet_type, len(body) // 4) + body


_rtcp_bytes = st.lists(
    st.builds(
        _with_header,
        st.integers(0, 63),
        st.sampled_from([200, 201, 202, 203, 204, 205, 206]),
        st.binary(max_size=80) | st.binary(max_size=24).map(lambda rest: bytes(8) + b"REMB" + rest),
    ),
    max_size=3,
).map(b"".join)


@given(_rtcp_bytes | st.binary(max_size=60))
def test_any_bytes_are_rtcp_that_can_be_built_again_or_malformed(data: bytes) -> None:
    try:
        packets = rtcp.parse_rtcp(data)
    except MalformedPacket:
        return
    for packet in packets:
        match packet:
            case rtcp.SourceDescription() | rtcp.Goodbye():
                pass  # texts that are not UTF-8 are not given back as they were
            case rtcp.UnknownRtcp(body=body):
                assert packet.to_bytes()[4:].startswith(body)
            case rtcp.Nack(lost=lost):  # may come out of order or twice
                (again,) = rtcp.parse_rtcp(packet.to_bytes())
                assert isinstance(again, rtcp.Nack)
                assert set(again.lost) == set(lost)
            case _:
                assert rtcp.parse_rtcp(packet.to_bytes()) == (packet,)


@given(st.lists(_rtcp_packets, min_size=1, max_size=3), st.data())
def test_flipped_bits_and_cuts_give_values_or_typed_errors(
    packets: list[rtcp.RtcpPacket], data: st.DataObject
) -> None:
    built = bytearray(rtcp.build_rtcp(packets))
    for _ in range(data.draw(st.integers(0, 4))):
        built[data.draw(st.integers(0, len(built) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(ProtocolError):
        rtcp.parse_rtcp(bytes(built[: data.draw(st.integers(0, len(built)))]))


# ---- payload formats ---------------------------------------------------------------------------

_CODECS = [Codec.OPUS, Codec.H264, Codec.VP8]


@st.composite
def _nal_units(draw: st.DrawFn) -> bytes:
    size = draw(st.integers(0, 3000) | st.integers(0, 130) | st.sampled_from([65_534, 70_000]))
    body = random.Random(draw(_u32)).randbytes(size).replace(b"\0\0", b"\0\3")
    head = draw(st.integers(1, 23)) | draw(st.integers(0, 7)) << 5
    # Encrypted units may end in zeros, which only a 4-byte start code keeps apart.
    return bytes((head,)) + body.rstrip(b"\0") + bytes(draw(st.sampled_from([0, 0, 0, 1, 2])))


@given(st.lists(_nal_units(), min_size=1, max_size=8), st.integers(64, 1400), st.data())
def test_h264_is_identity_up_to_start_codes_and_keeps_the_limit(
    units: list[bytes], limit: int, data: st.DataObject
) -> None:
    frame = previous = b""
    for unit in units:
        short = not previous.endswith(b"\0") and data.draw(st.booleans())
        frame += START_CODE[short:] + unit
        previous = unit
    payloads = H264Packetizer().packetize(frame, limit)
    assert max(map(len, payloads)) <= limit
    assert H264Depacketizer().starts_frame(payloads[0])
    assert H264Depacketizer().depacketize(payloads) == b"".join(START_CODE + u for u in units)


@given(st.integers(1, 6000), _u32, st.integers(64, 1400))
def test_vp8_is_identity_and_keeps_the_limit(size: int, seed: int, limit: int) -> None:
    frame = random.Random(seed).randbytes(size)
    found = payload_format(Codec.VP8)
    payloads = found.packetizer().packetize(frame, limit)
    depacketizer = found.depacketizer()
    assert max(map(len, payloads)) <= limit
    assert [depacketizer.starts_frame(payload) for payload in payloads] == [
        True,
        *[False] * (len(payloads) - 1),
    ]
    assert depacketizer.depacketize(payloads) == frame


@given(st.binary(min_size=1, max_size=64), st.integers(64, 1400))
def test_opus_is_identity(frame: bytes, limit: int) -> None:
    found = payload_format(Codec.OPUS)
    assert found.depacketizer().depacketize(found.packetizer().packetize(frame, limit)) == frame


_payload_bytes = st.binary(max_size=12) | st.builds(
    lambda head, rest: bytes((head,)) + rest,
    st.sampled_from([0x78, 0x7C, 0x5C, 0x90, 0x80, 0x10, 0x65]),
    st.binary(max_size=12),
)


@pytest.mark.parametrize("codec", _CODECS)
@given(payloads=st.lists(_payload_bytes, max_size=4))
def test_any_payloads_give_a_frame_or_a_typed_error(codec: Codec, payloads: list[bytes]) -> None:
    depacketizer = payload_format(codec).depacketizer()
    for payload in payloads:
        depacketizer.starts_frame(payload)
        depacketizer.is_keyframe(payload)
    with contextlib.suppress(ProtocolError):
        assert depacketizer.depacketize(payloads)


@pytest.mark.parametrize("codec", _CODECS)
@given(frame=st.binary(max_size=80), limit=st.integers(64, 1400))
def test_any_frame_is_packetized_or_refused(codec: Codec, frame: bytes, limit: int) -> None:
    packetizer = payload_format(codec).packetizer()
    for candidate in (frame, START_CODE + frame):
        with contextlib.suppress(ProtocolError):
            assert packetizer.packetize(candidate, limit)
