"""What senders are told about the bandwidth they may use. Sans-I/O.

Spec: draft-holmer-rmcat-transport-wide-cc-extensions-01, draft-alvestrand-rmcat-remb-03.

Both only for those who negotiated them. Transport-wide feedback is about the way to the room:
without it Chromium sends 317 kbit/s (observed). REMB is about the way on: nobody else tells a
sender that its watchers cannot take more.

An estimate of libwebrtc's receivers begins with what they happen to receive, grows by 8 % per
second up to half as much again, and falls when the way is congested. Taken at its word it keeps
a picture that stands still, and needs little, from ever getting what it needs when it moves. So
it counts only when it has stopped to grow, or is far below what is sent, and until it is well
above that again.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from discord_rtc.rtp.arrivals import FEEDBACK_INTERVAL, Arrivals
from discord_rtc.rtp.feedback import BitrateEstimate
from discord_rtc.server.elements import find_element

if TYPE_CHECKING:
    from collections import Counter

    from discord_rtc.server.streams import Participant, Participants, Stream

ESTIMATE_INTERVAL = 0.5
"""Seconds between two REMB to one sender."""

ESTIMATE_LIFETIME = 5.0
"""Seconds that a watcher's REMB counts. libwebrtc sends one per second, when it falls at once."""

MIN_VIDEO_BPS = 300_000
"""What senders may always send: what libwebrtc begins with. One watcher, or a liar, spoils no
more; and a busy machine looks like a congested way to receivers."""

MAX_VIDEO_BPS = 10_000_000
"""What a sender may send when nobody objects."""

_ACTIVE = 1.0  # seconds without a packet after which a stream takes no bandwidth
_SMOOTHING = 4  # of rates: about 2 s, since keyframes come in between
_FAR_BELOW, _WELL_ABOVE = 0.6, 1.4  # what is sent; the first estimates are 0.75 to 0.85 of it


class Congestion:
    """Observes what is sent in a room and tells the senders.

    Args:
        participants: Of the room.
        counters: Of the room.
        ssrc: Sender SSRC of what the room itself says.
        max_video_bps: What a sender may send when nobody objects.
    """

    def __init__(
        self, participants: Participants, counters: Counter[str], ssrc: int, max_video_bps: int
    ) -> None:
        self._participants = participants
        self._counters = counters
        self._ssrc = ssrc
        self._max_video_bps = max_video_bps
        self._arrivals_due = inf
        self._estimates_due = inf
        self._measured: tuple[float, dict[int, int]] | None = None  # when, octets by SSRC
        self._smoothed: dict[int, float] = {}  # bits per second by SSRC

    def numbered(self, sender: Participant, ident: int, packet: bytes, now: float) -> None:
        """Take note of a packet of a sender who wants feedback about them.

        Args:
            sender: Who sent it.
            ident: Id of the element with the number.
            packet: Perhaps without such an element.
            now: Monotonic seconds.
        """
        number = find_element(packet, ident)
        if number is None or len(number) != 2:
            return
        if sender.arrivals is None:
            sender.arrivals = Arrivals(self._ssrc, self._counters)
        ssrc = int.from_bytes(packet[8:12], "big")
        sender.arrivals.received(number[0] << 8 | number[1], ssrc, now)
        if self._arrivals_due == inf:
            self._arrivals_due = now + FEEDBACK_INTERVAL

    def video_received(self, now: float) -> None:
        """Video came from a sender who takes estimates."""
        if self._estimates_due == inf:
            self._estimates_due = now

    def estimated(self, leg_id: int, estimate: BitrateEstimate, now: float) -> None:
        """A watcher said how much it can take, of everything together."""
        watcher = self._participants.find(leg_id)
        if watcher is not None:
            self._counters["remb-received"] += 1
            at, before, congested = watcher.estimate or (-inf, 0, False)
            bps = estimate.bitrate_bps
            congested |= now - at <= ESTIMATE_LIFETIME and bps <= before
            watcher.estimate = (now, bps, congested)

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called; infinity for never."""
        return min(self._arrivals_due, self._estimates_due)

    def handle_timeout(self, now: float) -> None:
        """Send the feedback that is due."""
        if self._arrivals_due <= now:
            self._arrivals_due = inf
            self._tell_arrivals(now)
        if self._estimates_due <= now:
            self._estimates_due = inf
            self._tell_estimates(now)

    def _tell_arrivals(self, now: float) -> None:
        for participant in self._participants:
            if participant.arrivals is None:
                continue
            for feedback in participant.arrivals.feedback():
                self._counters["twcc-sent"] += 1
                participant.leg.send_rtcp(feedback.to_bytes(), now)

    def _tell_estimates(self, now: float) -> None:
        rates = self._rates(now)
        allowed = self._allowed(rates, now)
        for participant in self._participants:
            own = [stream for stream in participant.streams if stream in rates]
            if not own or not participant.remb:
                continue
            bps = max(sum(allowed[stream] for stream in own), MIN_VIDEO_BPS)
            bps = min(bps, self._max_video_bps)
            ssrcs = tuple(stream.ssrc for stream in own)
            self._counters["remb-sent"] += 1
            self._estimates_due = now + ESTIMATE_INTERVAL
            estimate = BitrateEstimate(self._ssrc, int(bps), ssrcs)
            participant.leg.send_rtcp(estimate.to_bytes(), now)

    def _rates(self, now: float) -> dict[Stream, float]:
        """What the active video streams send, in bits per second."""
        active = [
            stream
            for participant in self._participants
            for stream in participant.streams
            if stream.shows and now - stream.heard_at < _ACTIVE
        ]
        since, before = self._measured or (now, {})
        elapsed = now - since or ESTIMATE_INTERVAL
        smoothed = self._smoothed
        self._measured, self._smoothed = None, {}
        rates = {}
        for stream in active:
            octets = stream.octets - before.get(stream.ssrc, stream.octets)
            rate = 8 * octets / elapsed
            average = smoothed.get(stream.ssrc) or rate
            rates[stream] = average + (rate - average) / _SMOOTHING
        if active:
            self._measured = (now, {stream.ssrc: stream.octets for stream in active})
            self._smoothed = {stream.ssrc: rate for stream, rate in rates.items()}
        return rates

    def _allowed(self, rates: dict[Stream, float], now: float) -> dict[Stream, float]:
        """What each stream may send.

        A watcher's estimate is about all that it gets. Each stream may use what the others leave,
        and at least an equal share: streams that all rise together make the estimate fall.
        """
        allowed = dict.fromkeys(rates, float(self._max_video_bps))
        for watcher in self._participants:
            at, estimate, congested = watcher.estimate or (-inf, 0, False)
            if now - at > ESTIMATE_LIFETIME:
                continue
            shown = [stream for stream in rates if watcher.receives(stream)]
            total = sum(rates[stream] for stream in shown)
            congested &= estimate <= _WELL_ABOVE * total
            watcher.estimate = (at, estimate, congested)
            if not congested and estimate >= _FAR_BELOW * total:
                continue
            for stream in shown:
                share = max(estimate / len(shown), estimate - (total - rates[stream]))
                allowed[stream] = min(allowed[stream], share)
        return allowed
