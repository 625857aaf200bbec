"""Which error ended a session: one typed error, never a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discord_rtc.errors import AuthenticationFailed, ConnectionLost, DaveUnavailable
from discord_rtc.protocol.opcodes import VoiceCloseCode

if TYPE_CHECKING:
    from discord_rtc.errors import RtcError


def first_cause(group: BaseExceptionGroup[BaseException], *, unencrypted: str) -> BaseException:
    """The failure that ended a task group; the others are its consequences.

    Args:
        group: What was raised.
        unencrypted: What to say when the server demands encryption that was not offered.
    """
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return first_cause(first, unencrypted=unencrypted)
    return _explained(first, unencrypted) if isinstance(first, ConnectionLost) else first


def _explained(lost: ConnectionLost, unencrypted: str) -> RtcError:
    """Close codes that mean something more precise than a lost connection."""
    match lost.close_code:
        case VoiceCloseCode.AUTHENTICATION_FAILED:
            return AuthenticationFailed("the voice server refused the token or the session")
        case VoiceCloseCode.DAVE_REQUIRED:
            return DaveUnavailable(unencrypted)
        case _:
            return lost
