"""Structures inside voice messages. Sans-I/O. Spec: userdoccers, "Codec" and "Stream Structure"."""

from __future__ import annotations

from dataclasses import dataclass

from discord_rtc.protocol.fields import Fields, drop_none, flag, number, percent, text, u8, u32, u63


@dataclass(frozen=True, slots=True)
class CodecInfo:
    """A codec that a client can use, with its payload types.

    Attributes:
        name: ``opus``, ``H264``, ``H265``, ``VP8``, ``VP9`` or ``AV1``.
        type: ``audio`` or ``video``.
        priority: Multiple of 1000, unique per type; 1000 is tried first.
        payload_type: RTP payload type, 0 to 255 as the wire gives it.
        rtx_payload_type: Payload type of retransmissions; None for audio.
        encode: Whether the client can send it.
        decode: Whether the client can receive it.
    """

    name: str
    type: str
    priority: int
    payload_type: int
    rtx_payload_type: int | None = None
    encode: bool = True
    decode: bool = True

    def to_data(self) -> dict[str, object]:
        """Make the JSON object."""
        data = drop_none(
            name=self.name,
            type=self.type,
            priority=self.priority,
            payload_type=self.payload_type,
            rtx_payload_type=self.rtx_payload_type,
        )
        # Like the official client: audio entries do not carry the two switches.
        if self.type != "audio" or not (self.encode and self.decode):
            data |= {"encode": self.encode, "decode": self.decode}
        return data


def parse_codec(value: object) -> CodecInfo:
    """Read a codec object.

    Raises:
        BadField: A field is missing or has another type.
    """
    fields = Fields(value)
    return CodecInfo(
        name=fields.need("name", text),
        type=fields.need("type", text),
        priority=fields.need("priority", u32),
        payload_type=fields.need("payload_type", u8),
        rtx_payload_type=fields.get("rtx_payload_type", u8, None),
        encode=fields.get("encode", flag, True),
        decode=fields.get("decode", flag, True),
    )


@dataclass(frozen=True, slots=True)
class Resolution:
    """The largest picture of a layer.

    Attributes:
        type: ``fixed``, or ``source`` for whatever the source has (then 0 x 0).
        width: Pixels; documented as a number, not as an integer.
        height: Pixels, likewise.
    """

    type: str = "fixed"
    width: float = 0
    height: float = 0

    def to_data(self) -> dict[str, object]:
        """Make the JSON object."""
        return {"type": self.type, "width": self.width, "height": self.height}


def parse_resolution(value: object) -> Resolution:
    """Read a resolution object.

    Raises:
        BadField: A field has another type.
    """
    fields = Fields(value)
    return Resolution(
        type=fields.get("type", text, "fixed"),
        width=fields.get("width", number, 0),
        height=fields.get("height", number, 0),
    )


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One video layer: asked for in Identify, given in Ready, announced in op 12.

    Attributes:
        type: ``video``, ``screen`` or ``test``.
        rid: Layer name, ``"100"`` for the full picture.
        quality: 0 to 100.
        ssrc: Media SSRC; None in Identify.
        rtx_ssrc: Retransmission SSRC; None means ``ssrc + 1`` once there is an SSRC.
        active: Whether media flows.
        max_bitrate: Bits per second.
        max_framerate: Frames per second.
        max_resolution: Largest picture.
    """

    type: str = "video"
    rid: str = "100"
    quality: int = 100
    ssrc: int | None = None
    rtx_ssrc: int | None = None
    active: bool | None = None
    max_bitrate: int | None = None
    max_framerate: float | None = None
    max_resolution: Resolution | None = None

    def to_data(self) -> dict[str, object]:
        """Make the JSON object."""
        resolution = self.max_resolution
        return drop_none(
            type=self.type,
            rid=self.rid,
            quality=self.quality,
            ssrc=self.ssrc,
            rtx_ssrc=self.rtx_ssrc,
            active=self.active,
            max_bitrate=self.max_bitrate,
            max_framerate=self.max_framerate,
            max_resolution=None if resolution is None else resolution.to_data(),
        )


def parse_stream(value: object) -> StreamInfo:
    """Read a stream object.

    Raises:
        BadField: A field has another type.
    """
    fields = Fields(value)
    return StreamInfo(
        type=fields.get("type", text, "video"),
        rid=fields.get("rid", text, "100"),
        quality=fields.get("quality", percent, 0),  # the documented default
        ssrc=fields.get("ssrc", u32, None),
        rtx_ssrc=fields.get("rtx_ssrc", u32, None),
        active=fields.get("active", flag, None),
        max_bitrate=fields.get("max_bitrate", u63, None),
        max_framerate=fields.get("max_framerate", number, None),
        max_resolution=fields.get("max_resolution", parse_resolution, None),
    )
