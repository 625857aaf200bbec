"""What a voice session says to its client: numbered, and kept for a resume. Sans-I/O.

Spec: userdoccers, "Voice Connections", buffered resume (gateway versions from 8 on).

A websocket can break with messages under way, and the server cannot know which of them
arrived. So the newest ones are kept, and after a resume everything follows again that came
after the client's ``seq_ack``, byte by byte as it was. What ``seq_ack`` means::

    n >= 0       the last number seen; numbers are 16 bits, share one counter between JSON and
                 binary messages, begin with 1 and wrap (65535, 0, 1, ...)
    -1, absent   nothing was seen yet: everything has to follow, from the first message on

If what is kept does not reach back that far, or the number was never used, the session cannot
be resumed (4006). Below version 8 there are no numbers: such a client is given nothing again,
and what was said to it meanwhile is lost, as it was on Discord.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import Heartbeat, HeartbeatAck, Hello, Resumed, build

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import Ready, ServerMessage, SessionDescription
    from discord_rtc.server.negotiation import Admission

NUMBERED_VERSION = 8
"""From this gateway version on messages carry numbers."""

REPLAY_LIMIT = 512
"""Messages that are kept: a resume within 30 s finds those of a busy room."""

_UNNUMBERED = (Heartbeat, HeartbeatAck, Hello, Resumed)
"""These belong to a websocket, not to the session: they are never sent again."""


class Output:
    """Messages for one client.

    When it is full the oldest kept message goes. That is counted as ``voice.replay-overflow``
    while the client is away, because only then it is probable that it was not seen.

    Args:
        version: Gateway version of the websocket.
        counters: Gets ``voice.replay-overflow``.
        limit: How many messages are kept for a resume.
    """

    def __init__(
        self, version: int, *, counters: Counter[str] | None = None, limit: int = REPLAY_LIMIT
    ) -> None:
        self._version = version
        self._counters = Counter[str]() if counters is None else counters
        self._queue: deque[str | bytes] = deque()
        self._kept: deque[str | bytes] = deque(maxlen=limit)
        self._attached = True
        self._seq = 0
        self._numbered = 0

    @property
    def version(self) -> int:
        """Gateway version of the websocket."""
        return self._version

    @property
    def unread(self) -> int:
        """Messages that wait for the websocket."""
        return len(self._queue)

    def put(self, message: ServerMessage) -> None:
        """Say something: now, or after the next resume while there is no websocket."""
        if isinstance(message, _UNNUMBERED):
            self._send(build(message, version=self._version))
            return
        # u16 on the wire, wraps. The first one is 1: @discordjs/voice overlooks a 0.
        self._seq = (self._seq + 1) & 0xFFFF
        self._numbered += 1
        frame = build(message, version=self._version, seq=self._seq)
        if not self._attached and len(self._kept) == self._kept.maxlen:
            self._counters["voice.replay-overflow"] += 1
        self._kept.append(frame)
        self._send(frame)

    def drain(self) -> list[str | bytes]:
        """What has to be written to the websocket, oldest first."""
        messages = list(self._queue)
        self._queue.clear()
        return messages

    def detach(self) -> None:
        """The websocket is gone, or has got its last message."""
        self._attached = False

    def missed(self, seq_ack: int, version: int) -> int | None:
        """How many messages a client has to be given again.

        Args:
            seq_ack: What it saw last, -1 for nothing.
            version: Gateway version of its new websocket.

        Returns:
            None when they are not all there any more, or the number was never used.
        """
        if version < NUMBERED_VERSION:
            return 0
        missed = self._numbered if seq_ack < 0 else (self._seq - seq_ack) & 0xFFFF
        return missed if missed <= len(self._kept) else None

    def attach(self, version: int, first: list[str | bytes], missed: int) -> None:
        """There is a websocket again.

        Args:
            version: Its gateway version; what was said before keeps its shape.
            first: What it was sent before it proved whose it is.
            missed: How many messages to send again, see `missed`.
        """
        self._version = version
        self._attached = True
        self._queue = deque(first)
        self.put(Resumed())
        kept = list(self._kept)
        self._queue.extend(kept[len(kept) - missed :])

    def _send(self, frame: str | bytes) -> None:
        if self._attached:
            self._queue.append(frame)


@dataclass(frozen=True, slots=True)
class Continuation:
    """All that a session is, apart from its websocket; a resume hands it to the next one.

    Attributes:
        output: What was said so far.
        admission: See there.
        ready: What was answered to Identify.
        description: What was answered to Select Protocol.
        checks_ssrcs: Whether only the SSRCs of Ready may be named.
        missed: How many messages the client has to be given again.
        describe: Whether it needs to be given the description again. discord.py does: it asks
            the main gateway for a voice server before it resumes, and takes a resumed session
            for a new one that has no key yet.
    """

    output: Output
    admission: Admission
    ready: Ready
    description: SessionDescription
    checks_ssrcs: bool
    missed: int
    describe: bool = False
