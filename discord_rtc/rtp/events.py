"""What an RTP session tells its owner. Sans-I/O. NamedTuples, as some come with every packet."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from discord_rtc.frames import Codec


class FrameReceived(NamedTuple):
    """One complete encoded frame.

    Attributes:
        ssrc: The stream.
        codec: What the bytes are.
        data: As `EncodedFrame.data`.
        ticks: RTP timestamp, unwrapped; the first one of a stream is as on the wire.
        keyframe: Whether a decoder can start here (True for every audio frame).
        now: When it became complete.
        lost: Packets given up right before it; for audio, missing frames.
        flags: Speaking flags of the speaker extension; None without it.
        level: Audio level in -dBov, 0 loud to 127 silent; None without the extension.
    """

    ssrc: int
    codec: Codec
    data: bytes
    ticks: int
    keyframe: bool
    now: float
    lost: int = 0
    flags: int | None = None
    level: int | None = None


class SenderReportReceived(NamedTuple):
    """What ties the ticks of a stream to a wallclock that its sender's streams share.

    Attributes:
        ssrc: The stream.
        ntp: Sender's wallclock, seconds since 1900.
        ticks: The same instant in ticks, unwrapped as `FrameReceived.ticks` of that stream.
        now: When the report came.
    """

    ssrc: int
    ntp: float
    ticks: int
    now: float


class KeyframeRequested(NamedTuple):
    """A keyframe of one of our own streams is needed: a receiver asked, or frames were dropped.

    Attributes:
        ssrc: The sent stream.
    """

    ssrc: int


class StreamEnded(NamedTuple):
    """The sender of a received stream said goodbye; its last frames came before this event.

    Attributes:
        ssrc: The stream.
    """

    ssrc: int


class BitrateEstimated(NamedTuple):
    """The receiver's estimate of what the path can carry (REMB).

    Attributes:
        bitrate_bps: All our streams together.
    """

    bitrate_bps: int


Event: TypeAlias = (
    FrameReceived | SenderReportReceived | KeyframeRequested | StreamEnded | BitrateEstimated
)
