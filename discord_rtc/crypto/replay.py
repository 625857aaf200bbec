"""Replay protection of what was unprotected. Sans-I/O. Spec: RFC 3711 section 3.3.2 (the idea).

RTP is judged by its authenticated header, one sliding window of sequence numbers per SSRC. Only
the distance to the highest number accepted so far counts, so the wrap needs no care:

* Less than `WINDOW` ahead: newer, the window moves.
* Further ahead, up to 32767: a long outage, or a sender that went on elsewhere. The window follows,
  however far the jump, if the RTP timestamp went on too. If it went back, this is ``late``: modulo
  2^16 a packet recorded 40000 packets ago looks like one from the future, and following it would
  cost the stream itself. (SRTP authenticates its rollover counter against this; here there is
  none, but the timestamp repeats only after 13 hours of video.)
* Less than `WINDOW` behind: accepted once, so reordered and retransmitted packets pass.
* Further behind: ``late``. It cannot be told from a replay. A sender that jumps *back* under the
  same SSRC and key stays unheard until it passes its old number, as with SRTP; real ones do not (a
  new session brings new SSRCs and a new key), and a reason of its own makes it visible.

RTCP has no sequence number and is judged by its nonce among the last `WINDOW` ones. Memory moves
only on authenticated packets. What it cannot hold, a stranger on the path can still replay: RTCP
older than the last 1024, and an SSRC that was silent while 512 others were heard.
"""

from __future__ import annotations

from collections import OrderedDict

from discord_rtc.errors import RejectedPacket

WINDOW = 1024
"""Packets that may be overtaken: 2 s of video at 500 packets/s, 20 s of audio."""

MAX_SSRCS = 512
"""Windows kept, the most recently heard ones: three SSRCs for each of 170 users."""

_WINDOW_MASK = (1 << WINDOW) - 1


class SequenceWindow:
    """Which of the last `WINDOW` sequence numbers of one SSRC were seen.

    Args:
        sequence: 16-bit RTP sequence number of the first packet, which is thereby accepted.
        ticks: Its 32-bit RTP timestamp.
    """

    __slots__ = ("_highest", "_seen", "_ticks")

    def __init__(self, sequence: int, ticks: int) -> None:
        self._highest = sequence
        self._ticks = ticks
        self._seen = 1  # bit n: the number n below the highest one

    def accept(self, sequence: int, ticks: int) -> None:
        """Note one authenticated packet.

        Args:
            sequence: 16-bit RTP sequence number.
            ticks: 32-bit RTP timestamp.

        Raises:
            RejectedPacket: ``replay`` when it was seen, ``late`` when it is too old to know.
        """
        ahead = (sequence - self._highest) & 0xFFFF
        if 0 < ahead < 0x8000:  # half of the number space, RFC 1982 section 3.2
            if ahead >= WINDOW and (ticks - self._ticks) & 0xFFFF_FFFF >= 0x8000_0000:
                raise RejectedPacket("late")
            # the shift is bounded for the jump's sake: 2^15 bits would be built and thrown away
            self._seen = (self._seen << ahead | 1) & _WINDOW_MASK if ahead < WINDOW else 1
            self._highest = sequence
            self._ticks = ticks
            return
        behind = -ahead & 0xFFFF
        if behind >= WINDOW:
            raise RejectedPacket("late")
        if self._seen >> behind & 1:
            raise RejectedPacket("replay")
        self._seen |= 1 << behind


class ReplayGuard:
    """Everything that one receiver remembers about accepted packets; bounded."""

    def __init__(self) -> None:
        self._windows: OrderedDict[int, SequenceWindow] = OrderedDict()
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    def accept_rtp(self, ssrc: int, sequence: int, ticks: int) -> None:
        """Note one authenticated RTP packet by the fields of its header.

        Raises:
            RejectedPacket: ``replay`` or ``late``.
        """
        window = self._windows.get(ssrc)
        if window is not None:
            window.accept(sequence, ticks)
            self._windows.move_to_end(ssrc)
            return
        self._windows[ssrc] = SequenceWindow(sequence, ticks)
        if len(self._windows) > MAX_SSRCS:
            self._windows.popitem(last=False)

    def accept_nonce(self, nonce: bytes) -> None:
        """Note one authenticated packet by its nonce, or by its tag where the mode sends none.

        Raises:
            RejectedPacket: ``replay``.
        """
        if nonce in self._nonces:
            raise RejectedPacket("replay")
        self._nonces[nonce] = None
        if len(self._nonces) > WINDOW:
            self._nonces.popitem(last=False)
