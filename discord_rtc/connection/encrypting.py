"""Frames of ours on the way to the link: encrypted, or kept until they can be.

    publication -> outlet -> hold -> encrypt -> MediaLink

Encryption sits here, once, between the encoders and the packetizers and above every transport.
`EncryptingLink` is the only caller of `MediaLink.send_frame`, and `EncryptingLink._payload` the
only place that decides in which form a frame leaves: a publication never sees the link itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from discord_rtc.connection.holding import FrameHold, Held
from discord_rtc.errors import RtcError
from discord_rtc.frames import EncodedFrame, MediaKind
from discord_rtc.protocol.dave.events import Sending

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.connection.holding import Source
    from discord_rtc.queues import QueueStats
    from discord_rtc.rtp.session import SenderConfig
    from discord_rtc.transport.base import NegotiatedMedia

_LOG = logging.getLogger("discord_rtc.connection")

WAIT_SECONDS = 0.5
"""Media kept while there is no group. Joining one takes some 50 ms; who is alone in a call may
wait for hours, and what was said to nobody is not for whoever comes then."""

HOLD_SECONDS = 2.0
"""Media kept while a transition is open: as long as the machine holds at most."""


class FrameCipher(Protocol):
    """End-to-end encryption, as the sending side sees it."""

    @property
    def sending(self) -> Sending:
        """What is to be done with a frame now."""
        ...

    def encrypt(self, frame: EncodedFrame) -> bytes | None:
        """The encrypted frame; None when it cannot be and must be dropped."""
        ...


class FrameLink(Protocol):
    """The media link, as far as it is needed here."""

    media: NegotiatedMedia

    def add_sender(self, config: SenderConfig) -> None:
        """Begin a stream of ours, or go on with one from another source."""
        ...

    def send_frame(
        self, ssrc: int, frame: EncodedFrame, *, speaking: int | None = None, at: float | None
    ) -> None:
        """Packetize and send one frame, exactly as it is."""
        ...

    def restart_source(self, ssrc: int) -> None:
        """The next frame of this stream comes from another source."""
        ...

    def forget_packets(self) -> None:
        """Send nothing more of what was handed over until now, neither late nor again."""
        ...

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        """How fast video may leave."""
        ...

    def backlog(self) -> float:
        """Seconds of video that wait in the pacer."""
        ...


class EncryptingLink:
    """What one session sends, on its way to the link.

    Args:
        link: Takes what may leave.
        cipher: Says what may, and encrypts.
        clock: Source of ``now``.
    """

    def __init__(self, link: FrameLink, cipher: FrameCipher, clock: Clock) -> None:
        self._link = link
        self._cipher = cipher
        self._clock = clock
        self._streams: dict[int, _Stream] = {}
        self._sent_clear = False

    def outlet(self, source: Source) -> PublicationOutlet:
        """Where one publication hands its frames over."""
        return PublicationOutlet(self._link, self, source)

    def add_sender(self, config: SenderConfig, source: Source) -> None:
        """Begin a stream, or go on with one from another source."""
        stream = self._streams.get(config.ssrc)
        if stream is None:
            stream = self._streams[config.ssrc] = _Stream(config.ssrc, config.codec.kind)
            self._link.add_sender(config)
        else:
            stream.hold.restart()
        stream.source = source

    def restart_source(self, ssrc: int) -> None:
        """The next frame of this stream comes from another source."""
        self._streams[ssrc].hold.restart()

    def submit(
        self, ssrc: int, frame: EncodedFrame, source: Source, *, speaking: int | None
    ) -> None:
        """Send a frame behind those that wait: now, or when it may leave."""
        stream = self._streams[ssrc]
        held = Held(frame, source, self._clock.now(), speaking)
        sending = self._cipher.sending
        # The stretch that frames already held may cover stays in force until they are out.
        if _waits(sending) or not stream.hold:
            stream.limit = HOLD_SECONDS if sending is Sending.HOLD else WAIT_SECONDS
        _dropped(stream.hold.put(held, stream.limit))
        if _waits(sending):
            # An encoder would work for nothing until there is a group.
            source.withheld = stream.hold.needs_keyframe
        else:
            self._release(stream, strict=True)

    def sending_changed(self, *, fresh: bool) -> None:
        """Something else is to be done with frames from now on.

        Args:
            fresh: These are the first frames under a group: video begins with a keyframe.
        """
        sending = self._cipher.sending
        if self._sent_clear and sending is not Sending.CLEAR:
            # An upgrade: what the pacer holds, or a receiver may ask for again, is in the clear.
            self._sent_clear = False
            self._link.forget_packets()
        if _waits(sending):
            return
        now = self._clock.now()
        for stream in self._streams.values():
            _dropped(stream.hold.expire(now, stream.limit))
            if fresh:
                _dropped(stream.hold.to_keyframe())
            self._release(stream, strict=False)

    def discard(self, source: Source) -> None:
        """This source is not published any more: nothing of it is to be sent later."""
        for stream in self._streams.values():
            if stream.source is source:
                _dropped(stream.hold.clear())
                stream.source = None

    def queues(self) -> tuple[QueueStats, ...]:
        """How full the holds were."""
        return tuple(stream.hold.stats() for stream in self._streams.values())

    def _release(self, stream: _Stream, *, strict: bool) -> None:
        """Send what waits.

        Args:
            stream: Whose.
            strict: Whether a frame that cannot be sent is an error; it is not where nobody is
                there to take it, that is where the publication did not call.
        """
        # Asked anew for each frame: sending one may bring a frame in that changes everything.
        while not _waits(self._cipher.sending) and (held := stream.hold.take()) is not None:
            if held.restarted:  # also when this frame is not sent: the next one must not go back
                self._link.restart_source(stream.ssrc)
            trouble = self._send(stream, held, strict=strict)
            stream.asked = trouble is not None
            if trouble is not None:
                held.source.count(trouble)
                _dropped(stream.hold.to_keyframe())
                # Not at once: where no frame can be encrypted, not every one shall be a keyframe.
                held.source.keyframe_requested()
        source = stream.source
        if source is not None and not _waits(self._cipher.sending):
            source.withheld = False
            if stream.hold.needs_keyframe and not stream.asked:
                stream.asked = True
                source.demand_keyframe()

    def _send(self, stream: _Stream, held: Held, *, strict: bool) -> str | None:
        """Send one frame; gives the name of what came in between."""
        payload = self._payload(held.frame)
        if payload is None:
            return "unencryptable"
        try:
            self._link.send_frame(stream.ssrc, payload, speaking=held.speaking, at=held.at)
        except RtcError as error:
            if strict:
                raise
            _LOG.debug("! a frame that had waited was not sent: %s", error)
            return "unsendable"
        return None

    def _payload(self, frame: EncodedFrame) -> EncodedFrame | None:
        """The form in which a frame leaves; None when it must not."""
        match self._cipher.sending:
            case Sending.CLEAR:
                self._sent_clear = True
                return frame
            case Sending.ENCRYPT:
                data = self._cipher.encrypt(frame)
                if data is None:
                    return None
                return EncodedFrame(data, frame.codec, frame.pts, frame.time_base, frame.keyframe)
            case _:
                return None


class PublicationOutlet:
    """An `Outlet` of one publication.

    Args:
        link: Asked about media and pace.
        encrypting: Takes the frames.
        source: The publication.
    """

    def __init__(self, link: FrameLink, encrypting: EncryptingLink, source: Source) -> None:
        self._link = link
        self._encrypting = encrypting
        self._source = source

    @property
    def media(self) -> NegotiatedMedia:
        """What was negotiated."""
        return self._link.media

    def add_sender(self, config: SenderConfig) -> None:
        """Begin a stream of ours, or go on with one from another source."""
        self._encrypting.add_sender(config, self._source)

    def send_frame(self, ssrc: int, frame: EncodedFrame, *, speaking: int | None = None) -> None:
        """Send one encoded frame, now or as soon as it may leave."""
        self._encrypting.submit(ssrc, frame, self._source, speaking=speaking)

    def restart_source(self, ssrc: int) -> None:
        """The next frame of this stream comes from another source."""
        self._encrypting.restart_source(ssrc)

    def set_pacing_rate(self, bitrate_bps: int) -> None:
        """How fast video may leave."""
        self._link.set_pacing_rate(bitrate_bps)

    def backlog(self) -> float:
        """Seconds of video that wait in the pacer."""
        return self._link.backlog()


class _Stream:
    """One sent stream: what waits, how much may, and whose turn it is."""

    def __init__(self, ssrc: int, kind: MediaKind) -> None:
        self.ssrc = ssrc
        self.hold = FrameHold(kind)
        self.limit = WAIT_SECONDS
        self.source: Source | None = None
        self.asked = False  # for the keyframe with which it goes on


def _waits(sending: Sending) -> bool:
    return sending not in {Sending.CLEAR, Sending.ENCRYPT}


def _dropped(frames: list[Held]) -> None:
    for held in frames:
        held.source.count("held-dropped")
