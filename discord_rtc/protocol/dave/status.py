"""What the DAVE machine tells: its state, what to do with frames, and what happened. Sans-I/O.

Spec: see `session`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.protocol.dave.codes import privacy_code
from discord_rtc.protocol.dave.events import Sending, SendingChanged, StateChanged
from discord_rtc.queues import RollingQueue

if TYPE_CHECKING:
    from discord_rtc.protocol.dave.events import DaveEvent, E2eeState

_QUEUE_LIMIT = 256  # drained after each input, so only a caller that never drains gets here


class Status:
    """State, privacy code and sending, with an event for each change.

    Attributes:
        events: What happened, oldest first; 256 are kept, the oldest dropped and counted.
        state: Off, pending or active.
        privacy_code: 30 digits while active.
        sending: What is to be done with frames of ours.
    """

    def __init__(self) -> None:
        self.events: RollingQueue[DaveEvent] = RollingQueue(_QUEUE_LIMIT)
        self.state: E2eeState = "off"
        self.privacy_code: str | None = None
        self.sending = Sending.WAIT
        self._has_waited = True

    def set_state(
        self, state: E2eeState, *, authenticator: bytes | None = None, reason: str | None = None
    ) -> None:
        """Tell the state, if it or the privacy code is another than before.

        Args:
            state: The new one.
            authenticator: That of the epoch, with ``"active"``.
            reason: Why, for a user.
        """
        code = None if authenticator is None else privacy_code(authenticator)
        if (state, code) != (self.state, self.privacy_code):
            self.state, self.privacy_code = state, code
            self.events.append(StateChanged(state, code, reason))

    def set_sending(self, sending: Sending) -> None:
        """Tell what to do with frames, if it is something else than before."""
        if sending is Sending.WAIT:
            self._has_waited = True
        if sending is self.sending:
            return
        self.sending = sending
        is_fresh = self._has_waited and sending in {Sending.CLEAR, Sending.ENCRYPT}
        self._has_waited = self._has_waited and not is_fresh
        self.events.append(SendingChanged(sending, is_fresh))
