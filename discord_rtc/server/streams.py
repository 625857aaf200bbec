"""Who takes part in a room and which streams they send. Sans-I/O. Spec: RFC 3550 section 6.4."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from discord_rtc.errors import UsageError
from discord_rtc.frames import MediaKind
from discord_rtc.rtp.reports import Jitter, ReportHistory, SequenceTracker
from discord_rtc.rtp.rtcp import ReportBlock
from discord_rtc.rtp.serial import Unwrapper
from discord_rtc.server.ratelimit import MessageRate
from discord_rtc.server.repair import StreamRepair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from discord_rtc.rtp.arrivals import Arrivals
    from discord_rtc.server.leg_media import LegMedia, LegSsrcs, Renumbering

FULL_QUALITY = 100
"""What a receiver wants that has said nothing (userdoccers, "Media Sink Wants")."""

STRETCH = 1 << 13
"""Sequence numbers, 30 s of video: short enough that one in four may be lost on the way to who
must not miss 2^15 of them in a row."""

RESENDS_PER_SECOND = 1024
"""To one receiver, of all streams: 10 Mbit/s in packets of 1200 bytes, what a room lets one send.
Nobody who asks for everything again and again gets a multiple of the call."""

Send: TypeAlias = "Callable[[bytes, float], None]"


class Leg(Protocol):
    """A way to one user."""

    @property
    def leg_id(self) -> int:
        """Unique in the room."""
        ...

    def send_rtp(self, packet: bytes, now: float) -> None:
        """Send one plain RTP packet. Never raises."""
        ...

    def send_rtcp(self, packet: bytes, now: float) -> None:
        """Send one plain compound RTCP packet. Never raises."""
        ...


class Plan(NamedTuple):
    """What happens to the packets of one stream and payload type."""

    unchanged: tuple[Send, ...] = ()
    renumbered: tuple[tuple[Renumbering, tuple[Send, ...]], ...] = ()
    dropped: str = ""  # reason, counted...
    drops: int = 0  # ... so many times per packet


class Stream:
    """One SSRC of a participant.

    Args:
        owner: Who sends it.
        ssrc: Its SSRC.
        kind: Audio or video.
        media_ssrc: Whose retransmissions it carries; ``ssrc`` itself when it is no RTX stream.
        rtx_ssrc: Where its retransmissions go; ``ssrc`` itself when it has none.

    Attributes:
        announced: Whether the owner said (op 5, op 12) that it sends this.
        plans: What to do with a packet, by payload type; empty when it has to be worked out.
        heard: Whether something was received since the last report.
        heard_at: When something was received for the last time.
        octets: How much was received so far.
        reports: The owner's sender reports.
        repair: Of its losses; for video, but not for retransmissions.
        stretch: Which stretch of `STRETCH` sequence numbers it is in; None before the first.
    """

    def __init__(
        self, owner: Participant, ssrc: int, kind: MediaKind, media_ssrc: int, rtx_ssrc: int
    ) -> None:
        self.owner = owner
        self.owner_id = owner.leg.leg_id
        self.ssrc = ssrc
        self.kind = kind
        self.media_ssrc = media_ssrc
        self.rtx_ssrc = rtx_ssrc
        self.announced = False
        self.plans: dict[int, Plan] = {}
        self.heard = False
        self.heard_at = -inf
        self.octets = 0
        self.reports = ReportHistory()
        self.stretch: int | None = None
        self._tracker = SequenceTracker()
        self._jitter = Jitter(48_000 if kind is MediaKind.AUDIO else 90_000)
        self._ticks = Unwrapper(32)
        self.repair = StreamRepair(self._tracker) if rtx_ssrc != ssrc else None

    @property
    def rtx(self) -> bool:
        """Whether it carries retransmissions."""
        return self.ssrc != self.media_ssrc

    @property
    def shows(self) -> bool:
        """Whether keyframes can be asked for: announced video, not its retransmissions."""
        return self.announced and self.kind is MediaKind.VIDEO and not self.rtx

    def received(self, sequence: int, ticks: int, size: int, now: float) -> int | None:
        """Take note of one packet.

        Returns:
            Its extended sequence number; None when it was received before, or is not believed.
        """
        self.heard = True
        self.heard_at = now
        self.octets += size
        self._jitter.update(self._ticks.unwrap(ticks), now)
        return self._tracker.update(sequence)

    def report(self, now: float) -> ReportBlock:
        """What was received since the last report."""
        self.heard = False
        tracker = self._tracker
        return ReportBlock(
            self.ssrc,
            tracker.fraction_lost(),
            tracker.cumulative_lost,
            tracker.highest,
            self._jitter.ticks,
            *self.reports.since(now),
        )


class Participant:
    """A leg, what it negotiated and what it wants.

    Args:
        leg: The way to the user.
        ssrcs: What it may send.
        media: What it negotiated.
        deaf: Whether the user is deafened.

    Attributes:
        media: What it negotiated.
        transport_cc: Id under which it numbers its packets, if it wants feedback about them.
        remb: Whether it takes bitrate estimates.
        wants: Media SSRC to quality, of video; 0 means not to send it.
        any_quality: For every SSRC not listed.
        withheld: Whether nothing is to be sent to it for now.
        silenced: Whether nothing of it is to be sent to anybody for now.
        report_due: When it gets its next receiver report.
        resent: How much it got again lately.
        arrivals: Of its packets, if it wants feedback about them and has sent any.
        estimate: ``(when, bits per second, congested)``: what it can take, by its latest REMB,
            and whether that counts (see `discord_rtc.server.congestion`).
    """

    def __init__(self, leg: Leg, ssrcs: LegSsrcs, media: LegMedia, *, deaf: bool) -> None:
        self.leg = leg
        self.negotiated(media)
        self.deaf = deaf
        self.wants: Mapping[int, int] = {}
        self.any_quality = FULL_QUALITY
        self.withheld = self.silenced = False
        self.report_due = inf
        self.resent = MessageRate(RESENDS_PER_SECOND)
        self.arrivals: Arrivals | None = None
        self.estimate: tuple[float, int, bool] | None = None
        audio, video = MediaKind.AUDIO, MediaKind.VIDEO
        streams = [Stream(self, ssrcs.audio, audio, ssrcs.audio, ssrcs.audio)]
        for ssrc, rtx_ssrc in ssrcs.video:
            streams.append(Stream(self, ssrc, video, ssrc, rtx_ssrc))
            streams.append(Stream(self, rtx_ssrc, video, ssrc, rtx_ssrc))
        self.streams = tuple(streams)

    def negotiated(self, media: LegMedia) -> None:
        """Take note of what was negotiated, perhaps anew."""
        self.media = media
        self.transport_cc = media.transport_cc
        self.remb = media.remb

    def receives(self, stream: Stream) -> bool:
        """Whether this participant is to get the packets of a stream."""
        if stream.owner is self or self.withheld or stream.owner.silenced:
            return False
        if stream.kind is MediaKind.AUDIO:
            return not self.deaf
        return self.wants.get(stream.media_ssrc, self.any_quality) > 0


class Participants:
    """All of a room, found by leg id and by SSRC."""

    def __init__(self) -> None:
        self._by_leg: dict[int, Participant] = {}
        self._by_ssrc: dict[int, Stream] = {}
        self.stream = self._by_ssrc.get
        """The stream of an SSRC, or None."""

    def __iter__(self) -> Iterator[Participant]:
        """In the order of joining."""
        return iter(self._by_leg.values())

    def add(self, participant: Participant) -> None:
        """Let one in.

        Raises:
            UsageError: The leg is in already, or an SSRC is in use.
        """
        leg_id = participant.leg.leg_id
        streams = {stream.ssrc: stream for stream in participant.streams}
        if leg_id in self._by_leg or not self._by_ssrc.keys().isdisjoint(streams):
            raise UsageError(f"leg {leg_id} or one of its SSRCs is in the room already")
        self._by_leg[leg_id] = participant
        self._by_ssrc.update(streams)
        self.forget_plans()

    def remove(self, participant: Participant) -> None:
        """Let one go."""
        del self._by_leg[participant.leg.leg_id]
        for stream in participant.streams:
            del self._by_ssrc[stream.ssrc]
        self.forget_plans()

    def find(self, leg_id: int) -> Participant | None:
        """The participant with that leg."""
        return self._by_leg.get(leg_id)

    def get(self, leg_id: int) -> Participant:
        """The participant with that leg.

        Raises:
            UsageError: It is not in the room.
        """
        participant = self._by_leg.get(leg_id)
        if participant is None:
            raise UsageError(f"leg {leg_id} is not in the room")
        return participant

    def own_stream(self, leg_id: int, ssrc: int) -> Stream | None:
        """The stream of an SSRC, if it belongs to that leg."""
        stream = self._by_ssrc.get(ssrc)
        return stream if stream is not None and stream.owner_id == leg_id else None

    def receivers(self, stream: Stream) -> Iterable[Participant]:
        """Who is to get the packets of a stream."""
        return [one for one in self._by_leg.values() if one.receives(stream)]

    def shown_to(self, participant: Participant) -> list[Stream]:
        """The video that a participant is to get, retransmissions aside."""
        streams = self._by_ssrc.values()
        return [stream for stream in streams if stream.shows and participant.receives(stream)]

    def forget_plans(self) -> None:
        """Something changed, so all has to be worked out again."""
        for stream in self._by_ssrc.values():
            stream.plans.clear()
