"""The RTP session of one connection, tied to its transport.

`MediaLink` is the transport's packet sink on one side and the pipelines' door on the
other. It is created when a transport is negotiated and thrown away with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

from discord_rtc.errors import NonceExhausted
from discord_rtc.pump import Pump
from discord_rtc.rtp.session import (
    BitrateEstimated,
    FrameReceived,
    KeyframeRequested,
    RtpSession,
    SenderConfig,
    SenderReportReceived,
    SessionStats,
    StreamEnded,
)

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.frames import EncodedFrame
    from discord_rtc.transport.base import NegotiatedMedia, Transport, TransportStats


class MediaSink(Protocol):
    """Where the events of a link go. Called on the event loop; must not send."""

    def frame_received(self, frame: FrameReceived) -> None:
        """A whole encoded frame of a remote stream."""
        ...

    def sender_report(self, report: SenderReportReceived) -> None:
        """A remote stream told which wallclock its ticks stand for."""
        ...

    def stream_ended(self, ssrc: int) -> None:
        """A remote stream said goodbye."""
        ...

    def keyframe_requested(self, ssrc: int) -> None:
        """Somebody cannot decode one of our video streams."""
        ...

    def link_lost(self, error: Exception) -> None:
        """The path or its key is gone for good."""
        ...


class MediaLink:
    """Frames in and out of one negotiated transport.

    Args:
        transport: A transport whose ``accept`` has returned ``media``.
        media: What was negotiated.
        sink: Receives events.
        clock: Source of ``now``.
    """

    def __init__(
        self, transport: Transport, media: NegotiatedMedia, sink: MediaSink, clock: Clock
    ) -> None:
        self.media = media
        self._transport = transport
        self._sink = sink
        self._clock = clock
        self._session = RtpSession(
            payload_types={number: codec for codec, number in media.payload_types.items()},
            rtx_payload_types={
                rtx: media.payload_types[codec]
                for codec, rtx in media.rtx_payload_types.items()
                if codec in media.payload_types
            },
            extension_ids=media.extension_ids,
            max_packet_size=media.max_packet_size,
            ntp_offset=clock.ntp() - clock.now(),
            cname=f"{media.audio_ssrc:08x}",
            feedback=media.feedback,
            ssrc=media.audio_ssrc,
            repeats=media.remote_description is None,  # where there is one, there is SRTP
        )
        self._senders: set[int] = set()
        self._pump = Pump(self._session, self._flush, clock)
        transport.deliver_to(self)

    def rtp(self, packet: bytes, now: float) -> None:
        """From the transport: one plain RTP packet."""
        self._pump.run(self._session.receive_rtp, packet, now)

    def rtcp(self, packet: bytes, now: float) -> None:
        """From the transport: one plain compound RTCP packet."""
        self._pump.run(self._session.receive_rtcp, packet, now)

    def lost(self, error: Exception) -> None:
        """From the transport: the path is gone."""
        self._sink.link_lost(error)

    def add_sender(self, config: SenderConfig) -> None:
        """Begin a stream of ours, or go on with one from another source.

        Its sequence numbers and timestamps go on where they were.
        """
        if config.ssrc in self._senders:
            self._pump.run(self._session.restart_source, config.ssrc, self._clock.now())
        else:
            self._senders.add(config.ssrc)
            self._pump.run(self._session.add_sender, config)

    def send_frame(
        self,
        ssrc: int,
        frame: EncodedFrame,
        *,
        speaking: int | None = None,
        at: float | None = None,
    ) -> None:
        """Packetize and send one encoded frame, paced and exactly as it is.

        Args:
            ssrc: The stream.
            frame: The frame, encrypted where it must be.
            speaking: Speaking flags that go with it.
            at: When it was to be sent, if it had to wait: its ticks are tied to that time, or
                sound that waited longer than the picture would stay behind it.
        """
        when = self._clock.now() if at is None else at
        self._pump.run(self._session.send_frame, ssrc, frame, when, speaking=speaking)

    def restart_source(self, ssrc: int) -> None:
        """The next frame of this stream comes from another source."""
        self._pump.run(self._session.restart_source, ssrc, self._clock.now())

    def forget_packets(self) -> None:
        """Send nothing more of what was handed over until now, neither late nor again."""
        self._pump.run(self._session.forget_packets, self._clock.now())

    def request_keyframe(self, ssrc: int) -> None:
        """Ask a remote sender for a keyframe (rate limited by the session)."""
        self._pump.run(self._session.request_keyframe, ssrc, self._clock.now())

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        """How fast video may leave."""
        self._pump.run(self._session.set_pacing_rate, bitrate_bps)

    def backlog(self) -> float:
        """Seconds of video that wait in the pacer."""
        return self._session.backlog(self._clock.now())

    def stats(self) -> tuple[SessionStats, TransportStats]:
        """Counters of the RTP session and of the transport."""
        return self._session.stats(), self._transport.stats()

    def close(self) -> None:
        """Say goodbye for every stream of ours and stop the timer. Idempotent."""
        while self._senders:
            self._pump.run(self._session.remove_sender, self._senders.pop(), self._clock.now())
        self._pump.close()

    def _flush(self, now: float) -> None:
        sink, transport = self._sink, self._transport
        try:
            for outgoing in self._session.packets_to_send(now):
                if outgoing.rtcp:
                    transport.send_rtcp(outgoing.packet)
                else:
                    transport.send_rtp(outgoing.packet)
        except NonceExhausted as error:
            # Found while sending or while receiving (reports): either way the session is
            # replaced by a fresh one, with a new key.
            sink.link_lost(error)
        while (event := self._session.next_event()) is not None:
            match event:
                case FrameReceived():
                    sink.frame_received(event)
                case SenderReportReceived():
                    sink.sender_report(event)
                case KeyframeRequested():
                    sink.keyframe_requested(event.ssrc)
                case StreamEnded():
                    sink.stream_ended(event.ssrc)
                case BitrateEstimated():
                    # Nothing adapts to it yet: that arrives with bandwidth estimation.
                    pass
                case _:
                    assert_never(event)
