"""Snapshots of RTP streams and of their queues, as frozen values. Sans-I/O. Spec: RFC 3550."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.frames import Codec
    from discord_rtc.queues import QueueStats


@dataclass(frozen=True, slots=True)
class OutboundStats:
    """One sent stream.

    Attributes:
        ssrc: Its SSRC.
        codec: Its codec.
        rid: Its layer name, if any.
        packets: RTP packets made so far.
        payload_octets: Their payload bytes, headers and extensions excluded.
        frames: Frames cut into packets so far.
        keyframes: Those of them that were keyframes (every audio frame is one).
        frames_dropped: Frames refused because the pacer was full, or because a frame that
            they depend on had been refused.
        origin_ticks: Ticks (mod 2^32) that stand for pts 0 of the current source; None before
            its first frame.
        last_sequence: Sequence number of the latest packet; None before the first.
        fraction_lost: Loss over the latest report interval, 0.0 to 1.0; None until reported.
        cumulative_lost: Packets lost so far as reported; negative with duplicates.
        rtt: Round-trip time in seconds; None until reported.
        nacked: Packets that receivers asked for again.
        keyframe_requests: PLI and distinct FIR received.
        retransmitted: Packets sent again; not among ``packets``.
        rtx_octets: Their payload bytes, as they were the first time.
    """

    ssrc: int
    codec: Codec
    rid: str | None
    packets: int
    payload_octets: int
    frames: int
    keyframes: int
    frames_dropped: int
    origin_ticks: int | None
    last_sequence: int | None
    fraction_lost: float | None
    cumulative_lost: int
    rtt: float | None
    nacked: int
    keyframe_requests: int
    retransmitted: int = 0
    rtx_octets: int = 0


@dataclass(frozen=True, slots=True)
class InboundStats:
    """One received stream.

    Attributes:
        ssrc: Its SSRC.
        codec: Its codec.
        packets: Valid RTP packets so far, duplicates and late ones included (RFC 3550 6.4.1).
        payload_octets: Their payload bytes.
        frames: Frames delivered.
        keyframes: Those of them that were keyframes (every audio frame is one).
        cumulative_lost: Packets expected minus packets received; negative with duplicates.
        jitter: Interarrival jitter in seconds.
        duplicates: Packets that had been received before.
        late: Packets that came after their place had been given up.
        disbelieved: Packets ignored because their number jumped too far (RFC 3550 A.1).
        frames_dropped: Frames that nobody can decode: before the first keyframe or after a loss.
        malformed_frames: Frames that their payload format could not put together.
        restarts: Times that the sequence numbers began anew (RFC 3550 A.1).
        keyframe_requests: PLI sent.
        nacked: Packets asked for again, counted once per request.
        recovered: Missing packets that came as retransmission, or late after a request. They
            are lost packets in a report all the same when they came as retransmission.
        rtx_duplicates: Retransmissions that were not missed: asked for by others, or too late.
    """

    ssrc: int
    codec: Codec
    packets: int
    payload_octets: int
    frames: int
    keyframes: int
    cumulative_lost: int
    jitter: float
    duplicates: int
    late: int
    disbelieved: int
    frames_dropped: int
    malformed_frames: int
    restarts: int
    keyframe_requests: int
    nacked: int = 0
    recovered: int = 0
    rtx_duplicates: int = 0


@dataclass(frozen=True, slots=True)
class SessionStats:
    """All streams and queues of one connection.

    Attributes:
        outbound: One entry per sender.
        inbound: One entry per receiver, the ended ones included until they are forgotten.
        drops: Reason to count for every packet that was not used.
        queues: One entry per bounded queue.
    """

    outbound: tuple[OutboundStats, ...]
    inbound: tuple[InboundStats, ...]
    drops: Mapping[str, int]
    queues: tuple[QueueStats, ...]
