"""The SPS rewrite, with FFmpeg as witness: its decoder and its own SPS parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.logging
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from discord_rtc.errors import MalformedFrame
from discord_rtc.media.bitstream import START_CODE, iter_nal_units, normalise_h264
from discord_rtc.media.sps import escape, rewrite_sps, unescape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av.stream import Stream

ALL_VUI = (
    "overscan=show:sar=7/9:chromaloc=1:pic-struct=1:videoformat=pal:fullrange=on"
    ":colorprim=bt709:transfer=bt709:colormatrix=bt709"
)


def clip(options: str, *, profile: str, size: tuple[int, int]) -> list[bytes]:
    """Eight frames of x264, one access unit each, in display order."""
    formats = {"high10": "yuv420p10le", "high422": "yuv422p", "high444": "yuv444p"}
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = formats.get(profile, "yuv420p")
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.options = {
        "preset": "superfast",
        "profile": profile,
        "x264-params": f"bframes=0:{options}",
    }
    packets: list[av.Packet[Stream]] = []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0]), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, "gray").reformat(format=encoder.pix_fmt)
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [bytes(packet) for packet in packets]


def pictures(access_units: Sequence[bytes]) -> list[bytes]:
    decoder = av.CodecContext.create("h264", "r")
    packets: list[av.Packet[Stream] | None] = [*map(av.Packet, access_units), None]
    return [frame.to_ndarray().tobytes() for packet in packets for frame in decoder.decode(packet)]


def fields(sps: bytes) -> dict[str, list[int]]:
    """What FFmpeg's ``trace_headers`` reads out of an SPS."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.TRACE)
    try:
        with av.logging.Capture() as lines:
            BitStreamFilterContext("trace_headers", "h264").filter(av.Packet(START_CODE + sps))
    finally:
        av.logging.set_level(level)
    found: dict[str, list[int]] = {}
    for _, _, line in lines:
        name, equals, value = line.rpartition(" = ")
        if equals:
            found.setdefault(name.split()[1].partition("[")[0], []).append(int(value))
    assert "seq_parameter_set_id" in found
    found.pop("rbsp_alignment_zero_bit", None)
    return found


@pytest.mark.interop
@pytest.mark.parametrize(
    ("options", "profile", "size"),
    [
        ("", "baseline", (320, 240)),
        ("", "main", (178, 146)),
        ("", "high", (1280, 722)),
        (ALL_VUI, "high", (178, 146)),
        ("nal-hrd=vbr:vbv-maxrate=900:vbv-bufsize=900:" + ALL_VUI, "high", (178, 146)),
        ("tff=1", "high", (176, 160)),
        ("cqm=jvt:ref=5", "high", (176, 144)),
        ("", "high10", (178, 146)),
        ("", "high422", (178, 146)),
        ("", "high444", (178, 146)),
    ],
)
def test_pictures_are_the_same_and_no_longer_reordered(
    options: str, profile: str, size: tuple[int, int]
) -> None:
    original = clip(options, profile=profile, size=size)
    rewritten = [normalise_h264(unit) for unit in original]
    assert pictures(rewritten) == pictures(original)
    before = fields(next(unit for unit in iter_nal_units(original[0]) if unit[0] & 31 == 7))
    after = fields(next(unit for unit in iter_nal_units(rewritten[0]) if unit[0] & 31 == 7))
    restriction = {
        "video_signal_type_present_flag": [0],
        "bitstream_restriction_flag": [1],
        "motion_vectors_over_pic_boundaries_flag": [1],
        "max_bytes_per_pic_denom": [2],
        "max_bits_per_mb_denom": [1],
        "log2_max_mv_length_horizontal": [16],
        "log2_max_mv_length_vertical": [16],
        "max_num_reorder_frames": [0],
        "max_dec_frame_buffering": before["max_num_ref_frames"],
    }
    cleared = {"video_format", "video_full_range_flag", "colour_description_present_flag"}
    cleared |= {"colour_primaries", "transfer_characteristics", "matrix_coefficients"}
    expected = {name: value for name, value in before.items() if name not in cleared}
    assert after == expected | restriction


@dataclass
class SpsWriter:
    """Writes an SPS field by field, for the forms that no encoder at hand produces."""

    bits: str = ""
    nal: bytes = field(init=False)

    def u(self, width: int, *values: int) -> SpsWriter:
        self.bits += "".join(f"{value:0{width}b}" for value in values)
        return self

    def ue(self, *values: int) -> SpsWriter:
        for value in values:
            code = f"{value + 1:b}"
            self.bits += "0" * (len(code) - 1) + code
        return self

    def se(self, *values: int) -> SpsWriter:
        return self.ue(*(2 * value - 1 if value > 0 else -2 * value for value in values))

    def done(self) -> bytes:
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        return b"\x67" + escape(int(bits, 2).to_bytes(len(bits) // 8, "big"))


def baseline(reference_frames: int = 1) -> SpsWriter:
    """Up to and including frame_cropping_flag, 16x16 pictures."""
    return (
        SpsWriter().u(8, 66, 0xC0, 31).ue(0, 0, 2, reference_frames).u(1, 0).ue(0, 0).u(1, 1, 1, 0)
    )


def test_an_sps_without_vui_gets_one() -> None:
    sps = baseline(3).u(1, 0).done()
    after = fields(rewrite_sps(sps))
    assert after.pop("vui_parameters_present_flag") == [1]
    assert after["max_num_reorder_frames"] == [0]
    assert after["max_dec_frame_buffering"] == [3]


def test_scaling_lists_are_read_over() -> None:
    writer = SpsWriter().u(8, 244, 0, 40).ue(0, 3).u(1, 1).ue(0, 0).u(1, 0)
    writer.u(1, 1)  # seq_scaling_matrix_present_flag: 12 lists for 4:4:4
    writer.u(1, 1).se(8, *[1] * 15)  # all sixteen values
    writer.u(1, 1).se(-8)  # falls back to the default list at once
    writer.u(1, 1).se(2, -10)  # the tenth value holds for the rest
    writer.u(1, 0, 0, 0)
    writer.u(1, 1).se(*[1, -1] * 32)
    writer.u(1, 0, 0, 0, 0, 0)
    sps = writer.ue(0, 0, 4, 2).u(1, 0).ue(10, 10).u(1, 1, 1, 0, 0).done()
    before, after = fields(sps), fields(rewrite_sps(sps))
    assert len(before["delta_scale"]) == 16 + 1 + 2 + 64
    assert after["delta_scale"] == before["delta_scale"]
    assert after["max_dec_frame_buffering"] == [2]


def test_picture_order_by_cycle_interlacing_cropping_and_both_hrds_are_kept() -> None:
    writer = SpsWriter().u(8, 77, 0, 40).ue(0, 0)
    writer.ue(1).u(1, 0).se(-3, 2).ue(2).se(5, -6)  # pic_order_cnt_type 1
    writer.ue(4).u(1, 1).ue(19, 14)
    writer.u(1, 0, 1, 1)  # fields, mb_adaptive_frame_field_flag, direct_8x8_inference_flag
    writer.u(1, 1).ue(1, 2, 3, 4)  # cropping
    writer.u(1, 1)  # VUI
    writer.u(1, 1).u(8, 255).u(16, 7, 9)  # extended sample aspect ratio
    writer.u(1, 0)  # no overscan
    writer.u(1, 1).u(3, 5).u(1, 0, 0)  # a signal type without colours
    writer.u(1, 0)  # no chroma location
    writer.u(1, 1).u(32, 1, 60).u(1, 1)  # timing
    for cpbs in (1, 3):
        writer.u(1, 1).ue(cpbs - 1).u(4, 2, 3)
        for cpb in range(cpbs):
            writer.ue(1000 + cpb, 2000 + cpb).u(1, 0)
        writer.u(5, 20, 21, 22, 23)
    writer.u(1, 0, 1)  # low_delay_hrd_flag, pic_struct_present_flag
    writer.u(1, 1).u(1, 0).ue(0, 0, 9, 9, 4, 4)
    sps = writer.done()
    before, after = fields(sps), fields(rewrite_sps(sps))
    assert (before["max_num_reorder_frames"], after["max_num_reorder_frames"]) == ([4], [0])
    for name in ("offset_for_ref_frame", "frame_crop_right_offset", "sar_height", "time_scale"):
        assert after[name] == before[name]
    assert after["bit_rate_value_minus1"] == [1000, 1000, 1001, 1002]
    assert after["pic_struct_present_flag"] == [1]


def test_emulation_prevention_survives() -> None:
    # Two times 0x00000001 are full of start codes.
    writer = baseline().u(1, 1, 0, 0, 0, 0, 1).u(32, 1, 1).u(1, 0, 0, 0, 0, 0)
    sps = rewrite_sps(writer.done())
    assert b"\0\0\0" not in sps
    assert b"\0\0\1" not in sps
    assert fields(sps)["time_scale"] == [1]
    assert unescape(escape(bytes(7))) == bytes(7)


def test_the_rewrite_is_idempotent() -> None:
    once = rewrite_sps(baseline(16).u(1, 0).done())
    assert rewrite_sps(once) == once


@pytest.mark.parametrize(
    ("sps", "complaint"),
    [
        (b"", "not an H.264 SPS"),
        (b"\x67", "not an H.264 SPS"),
        (b"\x68\xce\x0f\xc8", "not an H.264 SPS"),
        (b"\xe7" + baseline().u(1, 0).done()[1:], "not an H.264 SPS"),
        (baseline().u(1, 0).done()[:-1], "truncated"),
        (baseline().u(1, 0).done() + b"\x01", "does not end"),
        (b"\x67" + bytes(5000), "never this long"),
        (baseline(17).u(1, 0).done(), "16 reference frames"),
        (SpsWriter().u(8, 66, 0, 31).ue(0, 0, 3).done(), "picture order type"),
        (
            SpsWriter().u(8, 66, 0, 31).ue(0, 0, 1).u(1, 0).ue(0, 0, 256).done(),
            "picture order cycle",
        ),
        (SpsWriter().u(8, 66, 0, 31).u(33, 0).u(32, 1).done(), "out of range"),
        (baseline().u(1, 1, 0, 0, 0, 0, 0, 1).ue(32).done(), "coded picture buffers"),
    ],
)
def test_what_is_no_proper_sps_is_refused(sps: bytes, complaint: str) -> None:
    with pytest.raises(MalformedFrame, match=complaint):
        rewrite_sps(sps)
