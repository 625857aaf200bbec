"""End-to-end encryption of one voice session: the asyncio shell around the DAVE machine.

It takes every message of the voice gateway that the machine wants to see, in order, sends what
the machine answers, wakes it in time, and tells the session what follows for media. Frames do
not pass through here: the sending and the receiving half ask for `sending`, `encrypt` and
`decrypt`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol, assert_never

from discord_rtc.connection.stats import DaveStats
from discord_rtc.connection.worker import Worker
from discord_rtc.errors import DaveUnavailable, NotReady
from discord_rtc.protocol.dave.codes import fingerprint_code
from discord_rtc.protocol.dave.events import (
    ProposalsRefused,
    ReceiveKeysChanged,
    Recovering,
    Sending,
    SendingChanged,
    StateChanged,
    Undecrypted,
    Unsupported,
)
from discord_rtc.protocol.dave.session import DaveSession
from discord_rtc.pump import Pump

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.connection.encryption_settings import EncryptionSettings
    from discord_rtc.frames import EncodedFrame, MediaKind
    from discord_rtc.protocol.dave.events import DaveEvent, E2eeState
    from discord_rtc.protocol.dave.session import DaveMessage
    from discord_rtc.protocol.messages import ServerMessage

_LOG = logging.getLogger("discord_rtc.connection")


class EncryptionHandler(Protocol):
    """What follows from a change of encryption; the session."""

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        """What a user is told changed."""
        ...

    def sending_changed(self, *, fresh: bool) -> None:
        """Something else is to be done with frames of ours."""
        ...

    def receive_keys_changed(self) -> None:
        """Frames that could not be decrypted may be tried again."""
        ...

    def encryption_failed(self, error: DaveUnavailable) -> None:
        """The session cannot go on."""
        ...


class Encryption:
    """The DAVE machine of one session, with its timer.

    Args:
        settings: What the user chose.
        user_id: Ourselves.
        group_id: Id of the group: the channel's. None where it is not known; then nothing can be
            encrypted.
        send: Sends to the voice gateway.
        handler: Told what changes; never from within a call of `decrypt`.
        clock: Source of ``now``.
    """

    def __init__(
        self,
        settings: EncryptionSettings,
        *,
        user_id: int,
        group_id: int | None,
        send: Callable[[DaveMessage], None],
        handler: EncryptionHandler,
        clock: Clock,
    ) -> None:
        self._required = settings.required
        self._send = send
        self._handler = handler
        self._clock = clock
        self._machine = DaveSession(
            lambda: settings.make_backend(user_id, group_id),
            user_id=user_id,
            required=settings.required,
        )
        self._pump = Pump(self._machine, self._flush, clock)
        self._messages: deque[DaveMessage] = deque()
        self._events: deque[DaveEvent] = deque()
        self._waking: asyncio.Handle | None = None
        self._worker = Worker("discord-rtc-fingerprint")
        self._fingerprints: dict[int, str] = {}
        self._fingerprinted: bytes | None = None  # the epoch that they are of
        self._closed = False

    # Signalling

    def receive(self, message: ServerMessage) -> None:
        """Take a message of the server, in order of arrival."""
        self._pump.run(self._machine.receive, message, self._clock.now())
        self._hand_over()

    def close(self) -> None:
        """The session is over: no timer, no event any more."""
        self._closed = True
        self._pump.close()
        self._messages.clear()
        self._events.clear()
        if self._waking is not None:
            self._waking.cancel()

    async def aclose(self) -> None:
        """As `close`, and end the thread that computes fingerprints."""
        self.close()
        await self._worker.aclose()

    # Media

    @property
    def sending(self) -> Sending:
        """What is to be done with a frame of ours now. Never CLEAR where that is not wanted."""
        sending = self._machine.sending
        if self._required and sending is Sending.CLEAR:
            return Sending.WAIT  # the machine says Unsupported instead; doubly sure
        return sending

    def encrypt(self, frame: EncodedFrame) -> bytes | None:
        """Encrypt a frame of ours while `sending` is ENCRYPT; None when it must be dropped."""
        return self._machine.encrypt(frame.data, frame.codec, self._clock.now())

    def decrypt(self, user_id: int, kind: MediaKind, frame: bytes) -> bytes | Undecrypted:
        """Decrypt a frame of somebody else, or let it pass where plain ones are allowed."""
        now = self._clock.now()
        result = self._machine.decrypt(user_id, kind, frame, now)
        if isinstance(result, Undecrypted):
            # Failures may set a deadline, and it may be now.
            self._pump.run(self._machine.handle_timeout, now)
        return result

    # For users

    @property
    def state(self) -> E2eeState:
        """Off, pending or active."""
        return self._machine.state

    @property
    def privacy_code(self) -> str | None:
        """30 digits, while active."""
        return self._machine.privacy_code

    async def fingerprint(self, user_id: int) -> str:
        """The 45 digits that verify another member.

        One at a time, and once per user and epoch: davey does not let the loop run meanwhile.

        Raises:
            NotReady: There is no group, the user is no member of it, or the session ended.
        """
        epoch = self._machine.epoch_authenticator
        if epoch != self._fingerprinted:
            self._fingerprinted = epoch
            self._fingerprints.clear()
        if user_id not in self._fingerprints:
            code = fingerprint_code(await self._compute_fingerprint(user_id))
            if epoch != self._machine.epoch_authenticator or epoch != self._fingerprinted:
                return code  # maybe of the group that came meanwhile
            self._fingerprints[user_id] = code
        return self._fingerprints[user_id]

    def stats(self) -> DaveStats:
        """State and counters as of now."""
        machine = self._machine
        return DaveStats(
            state=machine.state,
            version=machine.version,
            sending=machine.sending.value,
            members=machine.members,
            epoch_authenticator=machine.epoch_authenticator,
            counters=machine.counters,
        )

    # Inside

    async def _compute_fingerprint(self, user_id: int) -> bytes:
        over = NotReady("the voice session is over")
        if self._closed:
            raise over
        try:
            return await self._worker.run(lambda: self._machine.fingerprint(user_id))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise over from None  # the worker was closed

    def _flush(self, now: float) -> None:  # noqa: ARG002 - the pump's contract
        self._messages.extend(self._machine.messages_to_send())
        while (event := self._machine.next_event()) is not None:
            self._events.append(event)
        if (self._messages or self._events) and self._waking is None and not self._closed:
            # For inputs after which nobody hands over: the timer's, and failures to decrypt,
            # which come in the middle of a flush of the media link.
            self._waking = asyncio.get_running_loop().call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        while self._messages:
            self._send(self._messages.popleft())
        while self._events:
            self._tell(self._events.popleft())

    def _tell(self, event: DaveEvent) -> None:
        match event:
            case StateChanged(state=state, privacy_code=code, reason=reason):
                _LOG.info("= end-to-end encryption %s%s", state, f": {reason}" if reason else "")
                self._handler.e2ee_changed(state, code, reason)
            case SendingChanged(sending=sending, fresh=fresh):
                _LOG.debug("= frames of ours: %s", sending)
                self._handler.sending_changed(fresh=fresh)
            case ReceiveKeysChanged():
                self._handler.receive_keys_changed()
            case ProposalsRefused() | Recovering():
                pass  # in the machine's own log, and a change of state follows where it matters
            case Unsupported(version=version, reason=reason):
                hint = '; dave="preferred" would accept it' if version == 0 else ""
                self._handler.encryption_failed(DaveUnavailable(reason + hint))
            case _:
                assert_never(event)
