"""What receivers and senders report about a stream. Sans-I/O. Spec: RFC 3550, appendix A.

`SequenceTracker` is A.1 and A.3 (which packets to believe, how many are missing),
`Jitter` is A.8, `SenderClock` ties ticks to a wallclock for sender reports, and
`round_trip` evaluates a report block. Sequence numbers leave this module *extended*:
counted on beyond 16 bits, so that they can be compared as integers.
"""

from __future__ import annotations

from discord_rtc.rtp.rtcp import ReportBlock, SenderReport, ntp_middle, ntp_to_64

MAX_DROPOUT = 3000
"""A jump forward by this much or more is not believed at once (RFC 3550 A.1)."""
MAX_MISORDER = 1000
"""A.1 suggests 100, which is 0.1 s of 8 Mbit/s video: jitter alone reorders by more."""
_LATE_RUN = 64
"""Consecutive old numbers, and nothing else, after which the sender must have restarted."""

_SEQUENCES = 1 << 16
_HISTORY = (1 << MAX_MISORDER) - 1
_LOST_MAXIMUM = 0x7FFFFF  # signed 24 bits, RFC 3550 6.4.1
_LOST_MINIMUM = -0x800000


class SequenceTracker:
    """Extends 16-bit sequence numbers, finds duplicates, and counts what is missing.

    A sender that starts anew at another number is followed after two consecutive packets
    (A.1), or, when the new numbers happen to look like old ones, after 64 of them in a row.

    Attributes:
        base: Extended number of the first packet, or of the first one after a restart.
        highest: Highest extended number so far; -1 before the first packet.
        received: Valid packets since `base`, duplicates and late ones included.
        duplicates: Packets that had been received before.
        disbelieved: Packets ignored because their number jumped.
        restarts: Times that the numbers began anew.
    """

    def __init__(self) -> None:
        self.base = 0
        self.highest = -1
        self.received = 0
        self.duplicates = 0
        self.disbelieved = 0
        self.restarts = 0
        self._seen = 0  # bit n: number `highest - n` was received
        self._bad_next = -1  # A.1: bad_seq
        self._late_next = -1
        self._late_run = 0
        self._expected_prior = 0
        self._received_prior = 0
        self._lost_before = 0

    def update(self, sequence: int) -> int | None:
        """Take note of a packet.

        Args:
            sequence: As on the wire, 16 bits.

        Returns:
            Its extended number; equal to `base` when the numbers begin (anew) with it. None
            when the packet is a duplicate or not believed.
        """
        if self.highest < 0:
            return self._begin(sequence)
        ahead = (sequence - self.highest) % _SEQUENCES
        if 0 < ahead < MAX_DROPOUT:
            self.highest += ahead
            self._seen = (self._seen << ahead | 1) & _HISTORY
            self.received += 1
            self._bad_next = -1
            self._late_run = 0
            return self.highest
        behind = -ahead % _SEQUENCES
        if behind < MAX_MISORDER:
            return self._late(sequence, behind)
        if sequence == self._bad_next:
            return self._restart(sequence)
        self._bad_next = (sequence + 1) % _SEQUENCES
        self.disbelieved += 1
        return None

    @property
    def cumulative_lost(self) -> int:
        """Packets expected minus received since the very first, in the range of a report."""
        lost = self._lost_before + self._expected - self.received
        return max(_LOST_MINIMUM, min(lost, _LOST_MAXIMUM))

    def fraction_lost(self) -> int:
        """Loss since the previous call in 1/256, as A.3 computes it."""
        expected = self._expected - self._expected_prior
        lost = expected - (self.received - self._received_prior)
        self._expected_prior = self._expected
        self._received_prior = self.received
        if expected == 0 or lost <= 0:
            return 0
        return (lost << 8) // expected

    @property
    def _expected(self) -> int:
        return self.highest - self.base + 1

    def _begin(self, number: int) -> int:
        self.base = self.highest = number
        self.received = 1
        self._seen = 1
        self._bad_next = -1
        self._late_run = 0
        self._expected_prior = self._received_prior = 0
        return number

    def _restart(self, sequence: int) -> int:
        self._lost_before += self._expected - self.received
        self.restarts += 1
        cycle = self.highest - self.highest % _SEQUENCES + _SEQUENCES
        return self._begin(cycle + sequence)

    def _late(self, sequence: int, behind: int) -> int | None:
        self._late_run = self._late_run + 1 if sequence == self._late_next else 1
        self._late_next = (sequence + 1) % _SEQUENCES
        if self._late_run == _LATE_RUN:
            return self._restart(sequence)
        self.received += 1
        bit = 1 << behind
        if self._seen & bit:
            self.duplicates += 1
            return None
        self._seen |= bit
        return self.highest - behind


class Jitter:
    """Interarrival jitter, RFC 3550 A.8.

    Args:
        clock_rate: Ticks per second.
    """

    def __init__(self, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self._transit: float | None = None
        self._jitter = 0.0

    def update(self, ticks: int, now: float) -> None:
        """Take note of a packet.

        Args:
            ticks: Its RTP timestamp, unwrapped.
            now: When it arrived, in seconds.
        """
        transit = now * self._clock_rate - ticks
        if self._transit is not None:
            self._jitter += (abs(transit - self._transit) - self._jitter) / 16
        self._transit = transit

    @property
    def ticks(self) -> int:
        """As in a report block, in ticks."""
        return min(int(self._jitter), 0xFFFFFFFF)

    @property
    def seconds(self) -> float:
        """The same in seconds."""
        return self._jitter / self._clock_rate


class SenderClock:
    """Ties a sent stream's ticks to a wallclock by the first frame of a source.

    Later frames do not move the tie, since their times carry the jitter of scheduling and
    of encoding, which would become audio/video skew at the receiver. Only when frames run
    ahead or behind by more than 40 ms on (a smoothed) average has the source paused or its
    clock drifted, and the tie is made anew.

    Args:
        clock_rate: Ticks per second.
    """

    _TOLERANCE = 0.040
    """Seconds: half of what viewers notice (ITU-R BT.1359-1: 45 ms early to 125 ms late)."""
    _SMOOTHING = 16  # as A.8 smooths jitter

    def __init__(self, clock_rate: int) -> None:
        self._clock_rate = clock_rate
        self._tie: tuple[float, int] | None = None
        self._drift = 0.0

    def restart(self) -> None:
        """Another source begins: its first frame makes the tie."""
        self._tie = None

    def frame(self, ticks: int, now: float) -> None:
        """Take note of a frame.

        Args:
            ticks: Its ticks, unwrapped.
            now: When it was handed over for sending.
        """
        if self._tie is not None:
            since, anchor = self._tie
            drift = now - since - (ticks - anchor) / self._clock_rate
            self._drift += (drift - self._drift) / self._SMOOTHING
            if abs(self._drift) <= self._TOLERANCE:
                return
        self._tie = (now, ticks)
        self._drift = 0.0

    def ticks_at(self, now: float) -> int:
        """The ticks of an instant, unwrapped. A frame must have been noted."""
        assert self._tie is not None
        since, anchor = self._tie
        return anchor + round((now - since) * self._clock_rate)


class ReportHistory:
    """The latest sender report of a received stream, for LSR and DLSR."""

    def __init__(self) -> None:
        self._latest: tuple[int, float] | None = None

    def received(self, report: SenderReport, now: float) -> None:
        """Take note of a sender report."""
        self._latest = (ntp_middle(report.ntp), now)

    def since(self, now: float) -> tuple[int, int]:
        """LSR and DLSR (1/65536 s) as of now; zeros before the first sender report."""
        if self._latest is None:
            return (0, 0)
        last, at = self._latest
        return (last, min(round((now - at) * 65536), 0xFFFFFFFF))


def round_trip(block: ReportBlock, ntp: float) -> float | None:
    """Round-trip time that a report block proves.

    Args:
        block: About one of our own streams.
        ntp: Wallclock at its arrival, seconds since 1900, of the clock of our reports.

    Returns:
        Seconds; None when the reporter has not seen a sender report, or reports nonsense.

    Spec:
        RFC 3550 section 6.4.1, DLSR.
    """
    if block.last_sr == 0:
        return None
    passed = ntp_middle(ntp_to_64(ntp)) - block.last_sr - block.delay_since_last_sr
    passed %= 1 << 32
    return None if passed >= 1 << 31 else passed / 65536
