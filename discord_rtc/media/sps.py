"""H.264 sequence parameter sets: the VUI rewrite. Pure bytes. Spec: ITU-T H.264 7.3.2.1.1, E.1.1.

A decoder that is not told otherwise must assume that pictures may come out of order and
holds some of them back. ``bitstream_restriction`` in the VUI tells it that none do. WebRTC
rewrites each SPS this way on sending *and on receiving*, and the latter would break the
authentication of an end-to-end encrypted frame, whose parameter sets travel in clear: so an
SPS must be sent in the form in which WebRTC leaves it alone.
"""

from __future__ import annotations

import re

from discord_rtc.errors import MalformedFrame

NAL_SPS = 7
_MAX_SPS_BYTES = 4096  # 255 POC cycle offsets, 12 scaling lists and 64 CPBs stay below this
_PROFILES_WITH_CHROMA = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
"""profile_idc values whose SPS carries chroma format, bit depth and scaling lists."""
_EXTENDED_SAR = 255  # table E-1
_MAX_REF_FRAMES = 16  # A.3.1: MaxDpbFrames is never above 16
_ESCAPE = re.compile(rb"\x00\x00(?=[\x00-\x03])")


def unescape(nal: bytes) -> bytes:
    """Remove the emulation prevention bytes of a NAL unit. Spec: H.264 7.4.1."""
    return nal.replace(b"\x00\x00\x03", b"\x00\x00")


def escape(rbsp: bytes) -> bytes:
    """Insert emulation prevention bytes, so that no start code occurs. Spec: H.264 7.4.1."""
    return _ESCAPE.sub(b"\x00\x00\x03", rbsp)


def rewrite_sps(sps_nal: bytes) -> bytes:
    """Make an SPS say that pictures are never reordered. Idempotent.

    Timing and HRD information is kept, ``video_signal_type`` is cleared.

    Args:
        sps_nal: One NAL unit of type 7, header included, start code excluded.

    Returns:
        The NAL unit with ``max_num_reorder_frames`` 0 and ``max_dec_frame_buffering`` equal
        to ``max_num_ref_frames``.

    Raises:
        MalformedFrame: Not an SPS, truncated, or followed by something unknown.

    Spec:
        H.264 7.3.2.1.1 and E.1.1; the values written are those of WebRTC's
        ``common_video/h264/sps_vui_rewriter.cc``.
    """
    if len(sps_nal) < 2 or sps_nal[0] & 0x9F != NAL_SPS:
        raise MalformedFrame("not an H.264 SPS")
    if len(sps_nal) > _MAX_SPS_BYTES:
        raise MalformedFrame("an H.264 SPS is never this long")
    bits = _Bits(unescape(sps_nal[1:]))
    max_ref_frames = _skip_to_vui(bits)
    rewritten = bits.since(0) + "1" + _rewrite_vui(bits, present=bool(bits.u(1)))
    if bits.rest().rstrip("0") != "1":
        raise MalformedFrame("the H.264 SPS does not end where it should")
    rewritten += _restriction(max_ref_frames) + "1"  # rbsp_stop_one_bit
    rewritten += "0" * (-len(rewritten) % 8)
    return sps_nal[:1] + escape(int(rewritten, 2).to_bytes(len(rewritten) // 8, "big"))


class _Bits:
    """A reader over bits kept as text: an SPS is small and rewritten once per keyframe."""

    def __init__(self, data: bytes) -> None:
        self._text = f"{int.from_bytes(data, 'big'):0{len(data) * 8}b}"
        self.position = 0

    def u(self, width: int) -> int:
        end = self.position + width
        if end > len(self._text):
            raise MalformedFrame("the H.264 SPS is truncated")
        value = int(self._text[self.position : end], 2)
        self.position = end
        return value

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:  # 9.1: codeNum is below 2**32
                raise MalformedFrame("an H.264 SPS value is out of range")
        return (1 << zeros) - 1 + (self.u(zeros) if zeros else 0)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def since(self, start: int) -> str:
        return self._text[start : self.position]

    def rest(self) -> str:
        return self._text[self.position :]


def _skip_to_vui(bits: _Bits) -> int:
    """Read up to ``vui_parameters_present_flag``; gives ``max_num_ref_frames``."""
    profile = bits.u(8)
    bits.u(16)  # constraint flags, level_idc
    bits.ue()  # seq_parameter_set_id
    if profile in _PROFILES_WITH_CHROMA:
        _skip_chroma(bits)
    bits.ue()  # log2_max_frame_num_minus4
    _skip_picture_order_count(bits)
    max_ref_frames = bits.ue()
    if max_ref_frames > _MAX_REF_FRAMES:
        raise MalformedFrame("an H.264 SPS asks for more than 16 reference frames")
    bits.u(1)  # gaps_in_frame_num_value_allowed_flag
    bits.ue()  # pic_width_in_mbs_minus1
    bits.ue()  # pic_height_in_map_units_minus1
    if not bits.u(1):  # frame_mbs_only_flag
        bits.u(1)  # mb_adaptive_frame_field_flag
    bits.u(1)  # direct_8x8_inference_flag
    if bits.u(1):  # frame_cropping_flag
        for _ in range(4):
            bits.ue()
    return max_ref_frames


def _skip_chroma(bits: _Bits) -> None:
    chroma_format = bits.ue()
    if chroma_format == 3:
        bits.u(1)  # separate_colour_plane_flag
    bits.ue()  # bit_depth_luma_minus8
    bits.ue()  # bit_depth_chroma_minus8
    bits.u(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.u(1):  # seq_scaling_matrix_present_flag
        for index in range(12 if chroma_format == 3 else 8):
            if bits.u(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _skip_picture_order_count(bits: _Bits) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif kind == 1:
        bits.u(1)  # delta_pic_order_always_zero_flag
        bits.ue()  # offset_for_non_ref_pic, read as a code number: only its length matters
        bits.ue()  # offset_for_top_to_bottom_field
        cycle = bits.ue()
        if cycle > 255:  # 7.4.2.1.1
            raise MalformedFrame("an H.264 SPS has an impossible picture order cycle")
        for _ in range(cycle):
            bits.ue()
    elif kind > 2:
        raise MalformedFrame("an H.264 SPS has an unknown picture order type")


def _rewrite_vui(bits: _Bits, *, present: bool) -> str:
    """Give the VUI up to ``bitstream_restriction_flag``, reading past the whole old one."""
    if not present:
        return "0" * 8  # aspect, overscan, signal, chroma, timing, two HRDs, pic_struct: absent
    start = bits.position
    if bits.u(1) and bits.u(8) == _EXTENDED_SAR:  # aspect_ratio_info_present_flag
        bits.u(32)
    if bits.u(1):  # overscan_info_present_flag
        bits.u(1)
    kept = bits.since(start)
    if bits.u(1):  # video_signal_type_present_flag
        bits.u(4)
        if bits.u(1):  # colour_description_present_flag
            bits.u(24)
    start = bits.position
    _skip_chroma_location_and_timing(bits)
    kept += "0" + bits.since(start)
    if bits.u(1):  # bitstream_restriction_flag
        bits.u(1)
        for _ in range(6):
            bits.ue()
    return kept


def _skip_chroma_location_and_timing(bits: _Bits) -> None:
    if bits.u(1):  # chroma_loc_info_present_flag
        bits.ue()
        bits.ue()
    if bits.u(1):  # timing_info_present_flag
        bits.u(65)
    hrds = [_skip_hrd(bits), _skip_hrd(bits)]  # NAL, VCL
    if any(hrds):
        bits.u(1)  # low_delay_hrd_flag
    bits.u(1)  # pic_struct_present_flag


def _skip_hrd(bits: _Bits) -> bool:
    """E.1.2. Tells whether there was one."""
    if not bits.u(1):
        return False
    count = bits.ue() + 1
    if count > 32:  # E.2.2
        raise MalformedFrame("an H.264 SPS has too many coded picture buffers")
    bits.u(8)  # bit_rate_scale, cpb_size_scale
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.u(1)
    bits.u(20)
    return True


def _restriction(max_ref_frames: int) -> str:
    """``bitstream_restriction`` with WebRTC's values."""
    values = (2, 1, 16, 16, 0, max_ref_frames)  # per picture, per MB, MV lengths, reorder, buffer
    return "11" + "".join(map(_ue, values))  # the flag, motion_vectors_over_pic_boundaries_flag


def _ue(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code
