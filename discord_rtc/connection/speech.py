"""Who speaks, judged by audio frames. Sans-I/O.

Real servers send op 5 once, not per utterance, so speech begins with a frame and ends with a
silence frame, or when no frame comes any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.connection.events import UserSpeaking
from discord_rtc.protocol.opcodes import SpeakingFlags

if TYPE_CHECKING:
    from discord_rtc.connection.roles import People
    from discord_rtc.connection.users import RemoteUser

SPEECH_TIMEOUT = 0.2
"""Seconds without an audio packet after which a user counts as silent: real servers send
op 5 seldom (protocol reference: 100 to 250 ms)."""


class SpeechWatch:
    """Follows the speech of all users.

    Args:
        people: Gives the users, and is told when one begins or stops.
    """

    def __init__(self, people: People) -> None:
        self._people = people
        self._heard: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def heard(self, user: RemoteUser, flags: int | None, now: float) -> None:
        """A frame of sound came.

        Args:
            user: Whose.
            flags: Speaking flags that came with it.
            now: When.
        """
        self._heard[user.id] = now
        spoken = SpeakingFlags(flags) if flags is not None else user.flags
        spoken = spoken or SpeakingFlags.VOICE
        if not user.speaking or spoken != user.flags:
            user.speaking, user.flags = True, spoken
            self._people.emit(UserSpeaking(user.id, speaking=True, flags=spoken))

    def silent(self, user: RemoteUser) -> None:
        """The user stopped to speak."""
        self._heard.pop(user.id, None)
        if user.speaking:
            user.speaking = False
            none = SpeakingFlags.NONE
            self._people.emit(UserSpeaking(user.id, speaking=False, flags=none))

    def expire(self, now: float) -> None:
        """Whoever has not been heard for a while is silent."""
        for user_id in [it for it, heard in self._heard.items() if now - heard > SPEECH_TIMEOUT]:
            user = self._people.get(user_id)
            self._heard.pop(user_id)
            if user is not None:
                self.silent(user)
