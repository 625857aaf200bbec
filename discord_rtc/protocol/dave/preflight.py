"""What is looked at before a DAVE library sees it. Sans-I/O.

Both libraries trust their input. Seen with dave.py 1.1.0, with a checking allocator: an empty
external sender ends the process (segmentation fault); an H.264 slice that ends before
pic_parameter_set_id, and any frame that becomes more than 75 bytes longer (each slice or OBU
costs some bytes of trailer), overwrite memory; H.264 and H.265 without a start code in front
become frames without content, and a last NAL unit of one byte is lost, all without an error.
davey 0.1.7 loses the same and panics where dave.py crashes. So a frame, and whatever the server
says first, must have its form before either is called.

Spec: DAVE protocol whitepaper 1.1.4, "Codec Handling"; ITU-T H.264 section 7.3 (NAL units,
slice header), 9.1 (exp-Golomb); H.265 section 7.3.1.2; RFC 6386 section 9.1 (VP8 frame header);
AV1 bitstream specification section 5.3 (OBUs).
"""

from __future__ import annotations

import re

from discord_rtc.errors import DaveError, InvalidCommit
from discord_rtc.frames import Codec

# A regular expression finds start codes in half the time of bytes.find.
_START_CODE = re.compile(b"\0\0\1")

_SLICE_HEAD = 40
"""Bytes of a slice in which its first three exp-Golomb values must lie: 3 * 65 bits are 25
bytes, and every third may be followed by an emulation prevention byte."""

_TRAILER = 8 + 5 + 1 + 2
"""Bytes of tag, longest nonce, size and marker (whitepaper, "Protocol Frame Structure")."""

_AV1_DROPPED = {2, 8, 15}
"""OBU types that do not travel: temporal delimiter, tile list, padding."""


def check_frame(frame: bytes, codec: Codec) -> int:
    """Make sure that a library can encrypt the frame without loss.

    Args:
        frame: One access unit; H.264 and H.265 as Annex B.
        codec: What it is.

    Returns:
        At most how many bytes longer the encrypted frame is.

    Raises:
        DaveError: It is no frame of that codec.
    """
    if not frame:
        raise DaveError(f"an empty {codec.value} frame cannot be encrypted")
    if codec in {Codec.H264, Codec.H265}:
        return _TRAILER + _check_nal_units(frame, codec)
    if codec is Codec.AV1:
        return _TRAILER + _check_av1(frame)
    if codec is Codec.VP8 and not frame[0] & 1 and len(frame) < 10:
        raise DaveError("a VP8 key frame begins with 10 bytes of header")
    return _TRAILER + 2 * (codec is Codec.VP8)  # one range, from 0


def _check_nal_units(frame: bytes, codec: Codec) -> int:
    """Check an Annex B frame; returns how many bytes its clear ranges and start codes cost."""
    codes = [match.start() for match in _START_CODE.finditer(frame)]
    if not codes or frame[: codes[0]].strip(b"\0"):
        raise DaveError("the frame does not begin with a start code: it is not Annex B")
    cost = longer = run = 0
    for code, end in zip(codes, [*codes[1:], len(frame)], strict=True):
        longer += not code or frame[code - 1] != 0  # three bytes become four
        # No NAL unit ends in a zero: those belong to the next start code or fill up the stream.
        unit = frame[code + 3 : end].rstrip(b"\0")
        clear = _clear_h264(unit) if codec is Codec.H264 else _clear_h265(unit)
        run += 4 + (clear or end - code)
        if clear:
            cost += _leb128_size(code + longer) + _leb128_size(run)
            run = 0
    if run:
        cost += _leb128_size(len(frame) + longer) + _leb128_size(run)
    return cost + longer


def _clear_h264(unit: bytes) -> int:
    """At most how many bytes of a slice stay clear; 0: not a slice, all. Raises `DaveError`."""
    kind = unit[0] & 0x1F if unit else 0
    if kind in {10, 11}:  # end of sequence, of stream: a header is all they have
        return 0
    if len(unit) < 2:
        raise DaveError("a NAL unit ends within its header")
    if kind not in {1, 5}:
        return 0
    # Up to and with pic_parameter_set_id.
    if not _holds_three_values(unit[1:_SLICE_HEAD]):
        raise DaveError("an H.264 slice ends within its header")
    return min(_SLICE_HEAD, len(unit))


def _clear_h265(unit: bytes) -> int:
    """As `_clear_h264`; of a slice the header."""
    if len(unit) < 2:
        raise DaveError("a NAL unit ends within its header")
    return 0 if unit[0] >> 1 & 0x3F >= 32 else 2


def _holds_three_values(body: bytes) -> bool:
    """Whether three exp-Golomb values, and at least one bit more, are there."""
    body = body.replace(b"\0\0\3", b"\0\0")
    bits = int.from_bytes(body, "big")
    left = 8 * len(body)
    for _ in range(3):
        zeros = left - bits.bit_length()
        left -= 2 * zeros + 1
        if left <= 0:
            return False
        bits &= (1 << left) - 1
    return True


def _check_av1(frame: bytes) -> int:
    """Check the OBUs; returns how many bytes their clear ranges cost."""
    travelling = 0
    at = 0
    while at < len(frame):
        header = frame[at]
        at += 2 if header & 0x04 else 1  # obu_extension_flag
        if header & 0x02:  # obu_has_size_field
            size, at = _leb128(frame, at)
            end = at + size
        else:
            end = max(at, len(frame))
        if header & 0x80 or end > len(frame):
            raise DaveError("an AV1 OBU does not end within its frame")
        travelling += header >> 3 not in _AV1_DROPPED
        at = end
    if not travelling:
        raise DaveError("nothing in the AV1 frame is for a decoder")
    # An offset, and a size of one byte: that of header, extension and size field.
    return travelling * (_leb128_size(len(frame)) + 1)


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Value and where the next byte is; a value that never ends is larger than any frame."""
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, at + index + 1
    return 1 << 56, at


def _leb128_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def check_external_sender(payload: bytes) -> None:
    """Make sure that the payload of op 25 can be read.

    Args:
        payload: ``V(key, 65 bytes) u16 1 V(identity)``.

    Raises:
        DaveError: It has another form.
    """
    # A vector of 65 bytes, an uncompressed point; then a basic credential (RFC 9420, 5.3).
    if payload[:3] == b"\x40\x41\x04" and payload[67:69] == b"\0\1" and payload[69:]:
        width = 1 << (payload[69] >> 6)
        size = int.from_bytes(payload[69 : 69 + width], "big") & (1 << 8 * width - 2) - 1
        if width < 8 and len(payload) == 69 + width + size:
            return
    raise DaveError("the external sender cannot be read")


def check_proposals(payload: bytes) -> None:
    """Make sure that the payload of op 27 says whether to append or to revoke.

    Raises:
        DaveError: It does not, or there is nothing more.
    """
    if payload[:1] not in {b"\0", b"\1"} or len(payload) < 2:
        raise DaveError("the proposals cannot be read")


def is_own_commit(commit: bytes, own: bytes | None, group_id: int) -> bool:
    """Whether an announced commit is the one that we made, before the group is established.

    Args:
        commit: An MLSMessage (op 29).
        own: What we answered to the last proposals, if anything: the payload of op 28, that
            is our commit with or without a welcome behind it.
        group_id: That of the call.

    Returns:
        False when it is somebody else's: a welcome follows.

    Raises:
        InvalidCommit: It is no commit of this call, or ours and damaged.
    """
    # A public message of MLS 1.0; group id, epoch, member and leaf, no data, a commit
    # (RFC 9420 section 6).
    head = bytes.fromhex("00010001 08") + group_id.to_bytes(8, "big")
    if not commit.startswith(head) or commit[21:22] + commit[26:28] != b"\1\0\3":
        raise InvalidCommit("this is no commit of a member of this call")
    if own is None:
        return False
    if own.startswith(commit):
        return True
    # Two commits have no tag in common. A piece of one of our tags means that this is our
    # commit with an error in it; taken for another's, its welcome would be waited for in vain.
    pieces = range(len(commit) - 64, len(commit), 16)
    if any(commit[at : at + 16] in own for at in pieces):
        raise InvalidCommit("our commit came back damaged")
    return False


def is_empty_commit(payload: bytes) -> bool:
    """Whether a commit that one of the libraries made commits no proposal at all.

    dave.py makes such a one when the last proposal is revoked.

    Args:
        payload: That of op 28.
    """
    # The vector of proposals follows the 28 bytes that `is_own_commit` names.
    return payload[28:29] == b"\0"
