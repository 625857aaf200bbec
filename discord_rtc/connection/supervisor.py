"""Keeps one connection alive: attempts, back-off, and when to give up.

Every session that ends is classified. A failure that another attempt cannot mend ends the
connection at once with its typed error; any other is answered with a fresh join, at most
`MAX_ATTEMPTS` times in a row. A join that only changes the media path follows at once and does
not count. Being disconnected may be half of being moved: the other half,
a new assignment, comes over another socket and is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Protocol

from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    NegotiationError,
    NoRoute,
    SignalingTimeout,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode

if TYPE_CHECKING:
    from discord_rtc.connection.signaling import Signaling
    from discord_rtc.protocol.voice import VoiceCredentials

_LOG = logging.getLogger("discord_rtc.connection")

MAX_ATTEMPTS = 5
"""Fresh joins in a row without being live in between (discord.py: 5)."""

BACKOFF_BASE = 0.25
BACKOFF_CAP = 10.0
"""Seconds; doubled from base to cap with full jitter (songbird: 0.25 to 10 s)."""

FINAL_CLOSE_CODES = frozenset(
    {
        VoiceCloseCode.SERVER_NOT_FOUND,
        VoiceCloseCode.UNKNOWN_PROTOCOL,
        VoiceCloseCode.DISCONNECTED,
        VoiceCloseCode.UNKNOWN_ENCRYPTION_MODE,
        VoiceCloseCode.DAVE_REQUIRED,
        VoiceCloseCode.RATE_LIMITED,
        VoiceCloseCode.CALL_TERMINATED,
    }
)
"""Close codes after which a fresh join is useless or unwanted (Discord docs, "Voice Close
Event Codes": do not reconnect)."""

MOVING_CLOSE_CODES = frozenset({VoiceCloseCode.DISCONNECTED, VoiceCloseCode.CALL_TERMINATED})
"""Those of them that may also mean that we were moved."""

MOVE_GRACE = 5.0
"""Seconds to wait for the assignment that follows such a close (discord.py, discord.js: 5 to
30); a disconnection that is no move is usually told at once."""


class Supervised(Protocol):
    """The connection, as its supervisor sees it."""

    async def run_session(self, credentials: VoiceCredentials) -> None:
        """Run a voice session to its end, which is always an exception."""
        ...

    def session_over(self, error: Exception, *, retry: bool) -> None:
        """A session ended; another one will be tried, or not."""
        ...

    @property
    def was_live(self) -> bool:
        """Whether the last session got as far as media."""
        ...

    @property
    def changing_path(self) -> bool:
        """Whether the last session ended only to try another media path in the next one."""
        ...


def is_final(error: Exception) -> bool:
    """Whether no further attempt can help."""
    if isinstance(error, ConnectionLost):
        return error.close_code in FINAL_CLOSE_CODES
    return isinstance(error, (NegotiationError, AuthenticationFailed, NoRoute)) or not isinstance(
        error, ConnectError
    )


def backoff(failures: int, rng: random.Random) -> float:
    """Seconds to wait before attempt ``failures + 1``; the first retry is immediate."""
    if failures <= 1:
        return 0.0
    ceiling = min(BACKOFF_CAP, BACKOFF_BASE * float(2**failures))
    return rng.uniform(BACKOFF_BASE, ceiling)


async def supervise(connection: Supervised, signaling: Signaling) -> None:
    """Hold the connection until it cannot be held any more.

    Raises:
        Exception: Why it ended; an `RtcError` unless there is a bug.
    """
    failures = 0
    # Where even the first assignment fails, the caller still waits for the answer: no retry.
    credentials = await _assignment(signaling)
    while True:
        moved, error = await _until_end(connection, credentials, signaling)
        if connection.was_live:
            failures = 0
        if moved is not None:
            credentials = moved
            connection.session_over(error, retry=True)
        else:
            credentials, failures = await _rejoin(connection, signaling, error, failures)


async def _assignment(signaling: Signaling) -> VoiceCredentials:
    await signaling.join()
    return await signaling.credentials()


async def _rejoin(
    connection: Supervised, signaling: Signaling, error: Exception, failures: int
) -> tuple[VoiceCredentials, int]:
    """Get a fresh assignment after a failure, or give up by raising it.

    Returns:
        The assignment, and the failures in a row so far.
    """
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    changing = connection.changing_path
    while True:
        failures += not changing
        tired = failures >= MAX_ATTEMPTS or is_final(error)
        retry = signaling.renewable and (changing or not tired)
        connection.session_over(error, retry=retry)
        if not retry:
            raise error
        _LOG.warning("= voice session ended (%s), joining anew", error)
        if not changing:
            await asyncio.sleep(backoff(failures, rng))
        changing = False
        try:
            return await _assignment(signaling), failures
        except SignalingTimeout as timeout:
            error = timeout


async def _until_end(
    connection: Supervised, credentials: VoiceCredentials, signaling: Signaling
) -> tuple[VoiceCredentials | None, Exception]:
    """Run a session until it ends or the gateway assigns another server.

    Returns:
        The new assignment, if that is what ended it, and the reason.
    """
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_ended(connection, credentials), name="voice-session")
        moving = group.create_task(_reassigned(signaling), name="reassignment")
        try:
            await asyncio.wait({running, moving}, return_when=asyncio.FIRST_COMPLETED)
            if running.done() and signaling.renewable and _may_be_moving(running.result()):
                connection.session_over(running.result(), retry=True)
                await asyncio.wait({moving}, timeout=MOVE_GRACE)
        finally:
            running.cancel()
            moving.cancel()
    # What the gateway said counts for more: a closing socket is only its consequence.
    if not moving.cancelled():
        outcome = moving.result()
        if isinstance(outcome, Exception):
            return None, outcome
        return outcome, ConnectionLost(None, "the gateway assigned another voice server")
    return None, running.result()


def _may_be_moving(error: Exception) -> bool:
    return isinstance(error, ConnectionLost) and error.close_code in MOVING_CLOSE_CODES


async def _ended(connection: Supervised, credentials: VoiceCredentials) -> Exception:
    try:
        await connection.run_session(credentials)
    except Exception as error:  # noqa: BLE001 - it is classified; a bug ends the connection
        return error
    return ConnectionLost(None, "the voice session ended")


async def _reassigned(signaling: Signaling) -> VoiceCredentials | Exception:
    try:
        return await signaling.credentials()
    except Exception as error:  # noqa: BLE001 - as above
        return error
