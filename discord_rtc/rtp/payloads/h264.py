"""H.264 payload format. Sans-I/O. Spec: RFC 6184 (packetization-mode 1).

A frame is one access unit in Annex B form: NAL units behind start codes. On the wire a NAL unit
is a payload of its own, shares one with its neighbours (STAP-A), or is cut into fragments (FU-A).
NAL units pass through unaltered and none is dropped; frames that are encrypted end to end depend
on it. Therefore a frame that goes through both ways differs from the original at most in the
length of its start codes, which are four bytes afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

START_CODE = b"\x00\x00\x00\x01"
_SHORT_START_CODE = START_CODE[1:]

# First byte of a NAL unit, RFC 6184 section 1.3.
_TYPE = 0x1F
_NRI = 0x60
_FORBIDDEN = 0x80
_LAST_SLICE_TYPE = 5  # types 1 to 5 are slices of a picture, H.264 table 7-1
_IDR = 5
_LAST_NAL_TYPE = 23  # from here on numbers mean payload structures, RFC 6184 table 1
_STAP_A = 24
_FU_A = 28

# Second byte of an FU-A, RFC 6184 section 5.8.
_FU_START = 0x80
_FU_END = 0x40


def split_nal_units(frame: bytes) -> list[bytes]:
    """Cut Annex B into NAL units without their start codes.

    Exactly one zero in front of ``00 00 01`` belongs to the start code. Further zeros stay with
    the unit before: a plain unit never ends in zero (H.264 section 7.4.1), an encrypted one may.

    Raises:
        MalformedFrame: Something in front of the first start code, none at all, or an empty unit.

    Spec:
        H.264 annex B.1.
    """
    start = frame.find(_SHORT_START_CODE)
    if start < 0 or frame[:start].strip(b"\x00"):
        raise MalformedFrame("no Annex B start code at the beginning of the H.264 frame")
    units = []
    while start >= 0:
        begin = start + 3
        start = frame.find(_SHORT_START_CODE, begin)
        end = len(frame) if start < 0 else start
        if start > begin and frame[start - 1] == 0:
            end -= 1
        if end == begin:
            raise MalformedFrame("empty NAL unit")
        units.append(frame[begin:end])
    return units


class H264Packetizer:
    """Cuts access units; keeps no state."""

    def packetize(self, frame: bytes, limit: int) -> list[bytes]:
        """Cut one access unit into RTP payloads.

        Neighbouring NAL units that fit one payload share it, so parameter sets travel together;
        one that fits none is fragmented.

        Args:
            frame: Annex B, 3- or 4-byte start codes, one access unit.
            limit: Largest payload in bytes, RTP header excluded; 64 to 65535.

        Returns:
            Payloads in sending order. The caller sets the marker on the last one.

        Raises:
            MalformedFrame: No start code, an empty NAL unit, or one of a type that RTP uses
                otherwise.
            ValueError: ``limit`` is out of range.

        Spec:
            RFC 6184 section 5.6 (single), 5.7.1 (STAP-A), 5.8 (FU-A).
        """
        if not 64 <= limit <= 0xFFFF:
            raise ValueError("payload limit must be 64 to 65535 bytes")
        payloads: list[bytes] = []
        shared: list[bytes] = []
        room = limit - 1
        for unit in split_nal_units(frame):
            _check_type(unit)
            if shared and len(unit) + 2 > room:
                payloads.append(_build_shared(shared))
                shared, room = [], limit - 1
            if len(unit) > limit:
                payloads += _build_fragments(unit, limit - 2)
            else:
                shared.append(unit)
                room -= len(unit) + 2
        if shared:
            payloads.append(_build_shared(shared))
        return payloads


def _check_type(unit: bytes) -> None:
    if not 1 <= unit[0] & _TYPE <= _LAST_NAL_TYPE:
        raise MalformedFrame(f"NAL unit type {unit[0] & _TYPE} cannot be carried in RTP")


def _build_shared(units: list[bytes]) -> bytes:
    if len(units) == 1:
        return units[0]
    # F of any unit, and the highest NRI (RFC 6184 section 5.7).
    head = max(unit[0] & _NRI for unit in units) | _STAP_A
    parts = [b""]
    for unit in units:
        head |= unit[0] & _FORBIDDEN
        parts += (len(unit).to_bytes(2, "big"), unit)
    parts[0] = bytes((head,))
    return b"".join(parts)


def _build_fragments(unit: bytes, size: int) -> Iterator[bytes]:
    indicator = unit[0] & ~_TYPE | _FU_A
    kind = unit[0] & _TYPE
    middle = bytes((indicator, kind))
    last = 1 + (len(unit) - 2) // size * size  # the byte with which the last fragment begins
    yield bytes((indicator, kind | _FU_START)) + unit[1 : 1 + size]
    for at in range(1 + size, last, size):
        yield middle + unit[at : at + size]
    yield bytes((indicator, kind | _FU_END)) + unit[last:]


class H264Depacketizer:
    """Joins access units."""

    def starts_frame(self, payload: bytes) -> bool:
        """True where a NAL unit starts.

        Only a hint: an access unit may consist of many. What starts a frame for certain is the
        first sequence number after a marker.
        """
        if not payload:
            return False
        kind = payload[0] & _TYPE
        if kind == _FU_A:
            return len(payload) > 1 and payload[1] >= _FU_START
        return 1 <= kind <= _STAP_A

    def depacketize(self, payloads: Sequence[bytes]) -> bytes:
        """Join the payloads of one access unit to Annex B with 4-byte start codes.

        Raises:
            MalformedFrame: A fragment without its start or end, an incomplete aggregate, or a
                payload structure that packetization-mode 1 does not have.
        """
        parts: list[bytes] = []
        fragmented = False
        for payload in payloads:
            if not payload:
                continue
            kind = payload[0] & _TYPE
            if kind == _FU_A:
                fragmented = _append_fragment(payload, parts, fragmented)
            elif fragmented:
                raise MalformedFrame("fragmented NAL unit without an end")
            elif kind == _STAP_A:
                _append_units(_split_shared(payload), parts)
            else:
                _append_units((payload,), parts)
        if fragmented or not parts:
            raise MalformedFrame("H.264 frame is empty or ends inside a NAL unit")
        return b"".join(parts)

    def is_keyframe(self, frame: bytes) -> bool:
        """Whether the first slice of the Annex B frame belongs to an IDR picture.

        Spec:
            H.264 section 7.4.1.2.4: the slices of a picture are all IDR or none is.
        """
        at = frame.find(_SHORT_START_CODE)
        while 0 <= at < len(frame) - 3:
            kind = frame[at + 3] & _TYPE
            if 1 <= kind <= _LAST_SLICE_TYPE:
                return kind == _IDR
            at = frame.find(_SHORT_START_CODE, at + 3)
        return False


def _append_units(units: Iterable[bytes], parts: list[bytes]) -> None:
    for unit in units:
        _check_type(unit)
        parts += (START_CODE, unit)


def _split_shared(payload: bytes) -> Iterator[bytes]:
    position = 1
    while position < len(payload):
        begin = position + 2
        position = begin + int.from_bytes(payload[begin - 2 : begin], "big")
        if position == begin or position > len(payload):
            raise MalformedFrame("STAP-A with an incomplete or empty NAL unit")
        yield payload[begin:position]


def _append_fragment(payload: bytes, parts: list[bytes], fragmented: bool) -> bool:
    """Add one FU-A; returns whether its NAL unit goes on."""
    if len(payload) < 2:
        raise MalformedFrame("FU-A without its header")
    head = payload[1]
    if (head >= _FU_START) is fragmented:
        raise MalformedFrame("fragmented NAL unit without a start or an end")
    if not fragmented:
        _append_units((bytes((payload[0] & ~_TYPE | head & _TYPE,)),), parts)
    parts.append(payload[2:])
    return not head & _FU_END
