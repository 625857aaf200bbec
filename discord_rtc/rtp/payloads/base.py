"""What a payload format offers, and the registry of those built in. Sans-I/O.

To add a codec, write a module with two classes of these shapes and name it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import NoCommonCodec
from discord_rtc.frames import Codec
from discord_rtc.rtp.payloads.h264 import H264Depacketizer, H264Packetizer
from discord_rtc.rtp.payloads.opus import OpusDepacketizer, OpusPacketizer
from discord_rtc.rtp.payloads.vp8 import Vp8Depacketizer, Vp8Packetizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Packetizer(Protocol):
    """Cuts the frames of one sent stream. It may keep state from frame to frame."""

    def packetize(self, frame: bytes, limit: int) -> list[bytes]:
        """Cut one encoded frame into RTP payloads without altering its bytes.

        Args:
            frame: One encoded frame, as in `EncodedFrame.data`.
            limit: Largest payload in bytes, RTP header excluded; 64 to 65535.

        Returns:
            At least one payload, in sending order. The caller sets the marker on the last one.

        Raises:
            MalformedFrame: The frame cannot be carried.
        """
        ...


class Depacketizer(Protocol):
    """Puts the frames of one received stream together. Keeps nothing between frames."""

    def starts_frame(self, payload: bytes) -> bool:
        """Whether a frame may start with this payload.

        False is certain. How far True can be trusted is told by each format; the first packet
        after a marker always starts a frame.
        """
        ...

    def depacketize(self, payloads: Sequence[bytes]) -> bytes:
        """Join all payloads of one frame, in order and without gaps.

        Empty payloads, as of packets that are all padding, are passed over.

        Raises:
            MalformedFrame: They do not make up one frame.
        """
        ...

    def is_keyframe(self, frame: bytes) -> bool:
        """Whether a decoder can start with this frame."""
        ...


@dataclass(frozen=True, slots=True)
class PayloadFormat:
    """How frames of one codec travel in RTP.

    Attributes:
        codec: The codec.
        packetizer: Makes a packetizer for one sent stream.
        depacketizer: Makes a depacketizer for one received stream.
    """

    codec: Codec
    packetizer: Callable[[], Packetizer]
    depacketizer: Callable[[], Depacketizer]


_FORMATS = {
    payload_format.codec: payload_format
    for payload_format in (
        PayloadFormat(Codec.OPUS, OpusPacketizer, OpusDepacketizer),
        PayloadFormat(Codec.H264, H264Packetizer, H264Depacketizer),
        PayloadFormat(Codec.VP8, Vp8Packetizer, Vp8Depacketizer),
    )
}


def payload_format(codec: Codec) -> PayloadFormat:
    """Find the payload format of a codec.

    Raises:
        NoCommonCodec: There is none for this codec.
    """
    try:
        return _FORMATS[codec]
    except KeyError:
        raise NoCommonCodec(f"there is no RTP payload format for {codec.value}") from None
