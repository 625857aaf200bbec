"""Properties of the bitstream code: any bytes give a value or `MalformedFrame`."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import MalformedFrame
from discord_rtc.frames import Codec
from discord_rtc.media.bitstream import START_CODE, is_keyframe, iter_nal_units, normalise_h264
from discord_rtc.media.sps import escape, rewrite_sps, unescape

# libx264: baseline; high with every VUI field and an HRD.
REAL_SPS = [
    bytes.fromhex("6742c00dda0507e840000003004000000f23c50aa8"),
    bytes.fromhex("67640015acd9417b4d2be3ff0007000907f5010101f4"),
]
zeros_and_small = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 4, 255]), max_size=40).map(bytes)
any_bytes = st.binary(max_size=80) | zeros_and_small
sps_like = (
    st.builds(bytes.__add__, st.just(b"\x67"), any_bytes)
    | st.builds(bytes.__add__, st.sampled_from(REAL_SPS).map(lambda sps: sps[:9]), any_bytes)
    | st.builds(
        lambda sps, at, value: sps[: at % len(sps)] + bytes([value]) + sps[at % len(sps) + 1 :],
        st.sampled_from(REAL_SPS),
        st.integers(1, 100),
        st.integers(0, 255),
    )
)
units = st.builds(
    lambda header, body: bytes([header]) + escape(body) + b"\x80",
    st.sampled_from([0x41, 0x61, 0x65, 0x68, 0x06]),
    any_bytes,
)


@given(any_bytes)
def test_emulation_prevention_round_trips_and_hides_every_start_code(rbsp: bytes) -> None:
    nal = escape(rbsp)
    assert unescape(nal) == rbsp
    assert not any(code in nal for code in (b"\0\0\0", b"\0\0\1", b"\0\0\2"))


@given(sps_like)
def test_any_sps_is_rewritten_for_good_or_refused(sps: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        once = rewrite_sps(sps)
        assert rewrite_sps(once) == once


@given(st.lists(units, min_size=1, max_size=5), st.data())
def test_units_come_back_whatever_the_start_codes(parts: list[bytes], data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.sampled_from([START_CODE, START_CODE[1:]]), min_size=5))
    joined = b"".join(code + unit for code, unit in zip([START_CODE, *codes], parts, strict=False))
    assert iter_nal_units(joined) == parts
    assert normalise_h264(joined) == b"".join(START_CODE + unit for unit in parts)


@given(st.builds(bytes.__add__, st.sampled_from([b"", b"\0\0\1", START_CODE]), any_bytes))
def test_any_bytes_are_an_access_unit_or_refused(data: bytes) -> None:
    for codec in (Codec.H264, Codec.VP8, Codec.OPUS):
        is_keyframe(codec, data)
    with contextlib.suppress(MalformedFrame):
        tidy = normalise_h264(data)
        assert normalise_h264(tidy) == tidy


@given(st.lists(units, min_size=1, max_size=5))
def test_length_prefixed_units_are_always_refused(parts: list[bytes]) -> None:
    mp4 = b"".join(len(unit).to_bytes(4, "big") + unit for unit in parts)
    try:
        iter_nal_units(mp4)
    except MalformedFrame:
        return
    raise AssertionError("length-prefixed data passed for Annex B")
