"""One sent RTP stream: numbers, header extensions, retransmissions, counters. Sans-I/O.

Spec: RFC 3550 section 5.1, RFC 4588.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.errors import UsageError
from discord_rtc.frames import OPUS_FRAME_TICKS, Codec, MediaKind
from discord_rtc.rtp.extensions import (
    AUDIO_LEVEL,
    CONTENT_TYPE,
    PLAYOUT_DELAY,
    REPAIRED_RID,
    RID,
    SPEAKER,
    audio_level,
    build_elements,
    content_type,
    playout_delay,
    speaker_bits,
)
from discord_rtc.rtp.history import OSN_SIZE, History, Retransmitter
from discord_rtc.rtp.packet import FIXED_HEADER_SIZE, parse_rtp
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.reports import SenderClock, round_trip
from discord_rtc.rtp.rtcp import ReportBlock, SenderReport, ntp_to_64
from discord_rtc.rtp.stats import OutboundStats

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from discord_rtc.frames import EncodedFrame

_HEADER = struct.Struct("!BBHII")
_PREAMBLE = struct.Struct("!HH")
_VERSION = 0x80  # RFC 3550 5.1: V=2, no padding, no CSRC
_VERSION_WITH_EXTENSION = 0x90
_MARKER = 0x80
_TICKS_MASK = 0xFFFFFFFF
_VOICE_FLAG = 1  # op 5 "speaking": VOICE
_VIDEO_FRAME_TICKS = 3000
"""Least distance of two sources' frames: 1/30 s."""
FIRST_SEQUENCE_BITS = 15
"""Not near the wrap: who misses everything before it could not unprotect what follows (RFC 3711
section 3.3.1)."""
_AUDIO_EXTENSION_SIZE = 12
"""Preamble, audio level and speaker, in the longer of their two forms."""


@dataclass(frozen=True, slots=True)
class SenderConfig:
    """How to send one stream.

    Attributes:
        ssrc: Its SSRC, as the server assigned it.
        codec: What its frames are.
        payload_type: As negotiated for that codec.
        rid: Layer name, sent in a header extension where the connection has one for it.
        playout_delay_ms: Least and largest delay that receivers should add, 0 to 40950;
            Discord expects the extension on every video packet. None leaves it out.
        content_type: 0 camera, 1 screen; None leaves the extension out.
        rtx_ssrc: SSRC of its retransmissions. Without it, or without their payload type, packets
            that receivers miss are sent again as they were, where the transport can do that.
        rtx_payload_type: As negotiated for the retransmissions of that codec.
    """

    ssrc: int
    codec: Codec
    payload_type: int
    rid: str | None = None
    playout_delay_ms: tuple[int, int] | None = (0, 0)
    content_type: int | None = None
    rtx_ssrc: int | None = None
    rtx_payload_type: int | None = None


class OutboundStream:
    """Turns encoded frames into RTP packets.

    A frame is handled in two steps, `packetize` and `build`, so that the caller can still
    refuse it in between, when it has no room, without leaving a hole in the numbers.

    Attributes:
        config: What is sent.
        waits_for_keyframe: A frame was dropped, so no other frame makes sense until a keyframe.
        report_at: When the next sender report is due; None for "with the next frame".

    Args:
        config: What is sent.
        extension_ids: Header extension URI to its id on this connection.
        max_packet_size: Largest packet in bytes, header included.
        random: Where the first sequence number and timestamp come from.

    Raises:
        NoCommonCodec: There is no payload format for the codec.
        UsageError: The extensions leave no room for a payload.
    """

    _LEAST_PAYLOAD = 64  # what every packetizer can work with

    def __init__(
        self,
        config: SenderConfig,
        extension_ids: Mapping[str, int],
        max_packet_size: int,
        random: Random,
    ) -> None:
        self.config = config
        self.waits_for_keyframe = False
        self.report_at: float | None = None
        self._packetizer = payload_format(config.codec).packetizer()
        self._clock_rate = config.codec.clock_rate
        self._extension_ids = extension_ids
        self._video = config.codec.kind is MediaKind.VIDEO
        self._block = _block(_video_values(config), extension_ids) if self._video else b""
        self._voice: tuple[int | None, int | None] = (None, None)  # what `_block` says
        room = len(self._block) if self._video else _AUDIO_EXTENSION_SIZE
        self._history: History | None = None
        self._rtx: Retransmitter | None = None
        if config.rtx_ssrc is not None and config.rtx_payload_type is not None:
            block = _block(_video_values(config, REPAIRED_RID), extension_ids)
            first = random.getrandbits(FIRST_SEQUENCE_BITS)
            self._rtx = Retransmitter(config.rtx_ssrc, config.rtx_payload_type, first, block)
            room = max(room, len(block) + OSN_SIZE)
        self._limit = max_packet_size - FIXED_HEADER_SIZE - room
        if self._limit < self._LEAST_PAYLOAD:
            raise UsageError(f"packets of {max_packet_size} bytes leave no room for a payload")
        self._random = random
        self._sequence = random.getrandbits(FIRST_SEQUENCE_BITS)  # of the next packet
        self._origin: int | None = None
        self._ticks = 0  # of the latest frame, unwrapped, and when it was sent
        self._sent_at = 0.0
        self._another_source = False
        self._clock = SenderClock(self._clock_rate)
        self._packets = 0
        self._octets = 0
        self._frames = 0
        self._keyframes = 0
        self._dropped = 0
        self._nacked = 0
        self._retransmitted = 0
        self._rtx_octets = 0
        self._keyframe_requests = 0
        self._last_fir: tuple[int, int] | None = None
        self._fraction_lost: float | None = None
        self._cumulative_lost = 0
        self._rtt: float | None = None

    @property
    def paced(self) -> bool:
        """Whether its packets are spread over time; audio is not."""
        return self._video

    @property
    def packets(self) -> int:
        """Packets made so far."""
        return self._packets

    @property
    def has_rtx(self) -> bool:
        """Whether its retransmissions are a stream of their own."""
        return self._rtx is not None

    def keep_packets(self, history: History) -> None:
        """Keep packets from now on, since they may be asked for again."""
        self._history = history

    def idle_for(self, now: float) -> float:
        """Seconds since the latest frame; at least one must have been sent."""
        return now - self._sent_at

    def packetize(self, frame: EncodedFrame) -> list[bytes]:
        """Cut a frame into payloads that leave room for this stream's header.

        Raises:
            MalformedFrame: The bytes are not a frame of the codec.
            UsageError: The frame is of another codec.
        """
        if frame.codec is not self.config.codec:
            raise UsageError(
                f"a {frame.codec.value} frame on a stream of {self.config.codec.value}"
            )
        return self._packetizer.packetize(frame.data, self._limit)

    def build(self, payloads: list[bytes], frame: EncodedFrame, now: float) -> list[bytes]:
        """Put headers in front of the payloads of one frame, and count it.

        Args:
            payloads: From `packetize`.
            frame: The frame itself.
            now: Time of this call.

        Returns:
            Plain RTP packets in sending order.
        """
        ticks = self._time(frame, now)
        self.waits_for_keyframe = False
        self._frames += 1
        self._keyframes += frame.keyframe
        self._packets += len(payloads)
        self._octets += sum(map(len, payloads))
        pack = _HEADER.pack
        block = self._block
        first = _VERSION_WITH_EXTENSION if block else _VERSION
        second = self.config.payload_type
        ssrc = self.config.ssrc
        sequence = self._sequence
        packets = []
        for payload in payloads[:-1]:
            header = pack(first, second, sequence & 0xFFFF, ticks, ssrc)
            packets.append(header + block + payload)
            sequence += 1
        if self._video:
            second |= _MARKER
        header = pack(first, second, sequence & 0xFFFF, ticks, ssrc)
        packets.append(header + block + payloads[-1])
        if self._history is not None:
            self._history.keep(self._sequence, packets, now)
        self._sequence = (sequence + 1) & 0xFFFF
        return packets

    def forget_packets(self) -> None:
        """What was sent is not found any more, and what waited will not be sent."""
        self.waits_for_keyframe = self._video
        if self._history is not None:
            self._history.clear()

    def find(self, sequence: int, now: float) -> bytes | None:
        """A packet that a receiver misses; None when it is gone or was sent again just now."""
        return None if self._history is None else self._history.find(sequence, now, self._rtt)

    def send_again(self, packet: bytes, now: float) -> bytes:
        """Put a packet from `find` into the form in which it is sent again, and count it."""
        assert self._history is not None
        original = parse_rtp(packet)
        self._history.sent_again(original.sequence, now)
        self._retransmitted += 1
        self._rtx_octets += len(original.payload)
        return packet if self._rtx is None else self._rtx.packet(original)

    def drop(self) -> None:
        """Count a frame that was not sent. The ones that depend on it must not be, either."""
        self._dropped += 1
        self.waits_for_keyframe = self._video

    def voice(self, speaking: int | None, level: int | None) -> None:
        """Say how the next audio frames sound.

        Args:
            speaking: Speaking flags for the speaker extension, or None to leave it out.
            level: Audio level in dBov, 0 to -127, or None to leave it out.
        """
        if self._video or (speaking, level) == self._voice:
            return
        self._voice = (speaking, level)
        self._block = _block(_voice_values(speaking, level), self._extension_ids)

    def restart_source(self) -> None:
        """The next frame comes from another source, whose pts say nothing about the old one.

        Its ticks continue by the time that passes until it is sent, and a sender report goes
        with it.
        """
        self._another_source = self._origin is not None
        self.report_at = None

    def sender_report(self, now: float, ntp: float) -> SenderReport:
        """Report this stream; at least one frame must have been sent.

        Args:
            now: Time of this call.
            ntp: The same instant as seconds since 1900.
        """
        ticks = self._clock.ticks_at(now) & _TICKS_MASK
        return SenderReport(self.config.ssrc, ntp_to_64(ntp), ticks, self._packets, self._octets)

    def receive_report(self, block: ReportBlock, ntp: float) -> None:
        """A receiver told how this stream arrives; ``ntp`` is our wallclock at that time."""
        self._fraction_lost = block.fraction_lost / 256
        self._cumulative_lost = block.cumulative_lost
        rtt = round_trip(block, ntp)
        if rtt is not None:
            self._rtt = rtt

    def receive_nack(self, packets: int) -> None:
        """A receiver wants packets again, which are found by `find`."""
        self._nacked += packets

    def receive_keyframe_request(self, fir: tuple[int, int] | None = None) -> bool:
        """A receiver wants a keyframe.

        Args:
            fir: Who asks and the number of the request, for FIR, which is repeated until it
                is answered (RFC 5104 section 4.3.1.2).

        Returns:
            False when this request has been received before.
        """
        if fir is not None:
            if fir == self._last_fir:
                return False
            self._last_fir = fir
        self._keyframe_requests += 1
        return True

    def stats(self) -> OutboundStats:
        """Counters so far."""
        return OutboundStats(
            ssrc=self.config.ssrc,
            codec=self.config.codec,
            rid=self.config.rid,
            packets=self._packets,
            payload_octets=self._octets,
            frames=self._frames,
            keyframes=self._keyframes,
            frames_dropped=self._dropped,
            origin_ticks=None if self._origin is None else self._origin & _TICKS_MASK,
            last_sequence=(self._sequence - 1) & 0xFFFF if self._packets else None,
            fraction_lost=self._fraction_lost,
            cumulative_lost=self._cumulative_lost,
            rtt=self._rtt,
            nacked=self._nacked,
            keyframe_requests=self._keyframe_requests,
            retransmitted=self._retransmitted,
            rtx_octets=self._rtx_octets,
        )

    def _time(self, frame: EncodedFrame, now: float) -> int:
        """Ticks of a frame as on the wire. Computed from its pts, never added up."""
        base = frame.time_base
        # Rounded to the nearest tick in integers: pts * time_base * clock_rate.
        doubled = 2 * frame.pts * base.numerator * self._clock_rate + base.denominator
        media = doubled // (2 * base.denominator)
        if self._origin is None:
            self._origin = self._random.getrandbits(32)
        elif self._another_source:
            passed = round((now - self._sent_at) * self._clock_rate)
            least = _VIDEO_FRAME_TICKS if self._video else OPUS_FRAME_TICKS
            self._origin = self._ticks + max(passed, least) - media
            self._another_source = False
            self._clock.restart()
        self._ticks = self._origin + media
        self._sent_at = now
        self._clock.frame(self._ticks, now)
        return self._ticks & _TICKS_MASK


def _video_values(config: SenderConfig, name: str = RID) -> Mapping[str, bytes | None]:
    """Values of the extensions of a video stream, which are the same on every packet."""
    delay, content, rid = config.playout_delay_ms, config.content_type, config.rid
    return {
        PLAYOUT_DELAY: None if delay is None else playout_delay(*delay),
        CONTENT_TYPE: None if content is None else content_type(content),
        name: None if rid is None else rid.encode("ascii"),
    }


def _voice_values(speaking: int | None, level: int | None) -> Mapping[str, bytes | None]:
    voice = speaking is None or bool(speaking & _VOICE_FLAG)
    return {
        AUDIO_LEVEL: None if level is None else audio_level(voice, level),
        SPEAKER: None if speaking is None else speaker_bits(speaking),
    }


def _block(values: Mapping[str, bytes | None], ids: Mapping[str, int]) -> bytes:
    """A whole header extension, preamble included, of what has a value and an id."""
    elements = [
        (ids[uri], value) for uri, value in values.items() if value is not None and uri in ids
    ]
    if not elements:
        return b""
    profile, data = build_elements(elements)
    return _PREAMBLE.pack(profile, len(data) // 4) + data
