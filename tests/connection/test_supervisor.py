"""Attempts, back-off, and when to give up."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from discord_rtc.connection import supervisor as module
from discord_rtc.connection.supervisor import (
    BACKOFF_BASE,
    BACKOFF_CAP,
    MAX_ATTEMPTS,
    backoff,
    is_final,
    supervise,
)
from discord_rtc.errors import (
    AuthenticationFailed,
    ConnectError,
    ConnectionLost,
    DaveUnavailable,
    DiscoveryTimeout,
    IceFailed,
    InvalidState,
    MalformedMessage,
    MalformedSdp,
    NoCommonMode,
    NonceExhausted,
    NoRoute,
    PathLost,
    SignalingTimeout,
)
from discord_rtc.protocol.voice import VoiceCredentials

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.asyncio


def numbered(number: int) -> VoiceCredentials:
    return VoiceCredentials(f"server-{number}", "t", "s", 7, 10, 20)


class Signaling:
    """Assigns server 1, 2, ... at every join; a test may assign one in between."""

    def __init__(self) -> None:
        self.user_id = 7
        self.secure = False
        self.renewable = True
        self.joins = 0
        self.answers: list[Exception | None] = []
        self._queue: asyncio.Queue[VoiceCredentials | Exception] = asyncio.Queue()

    def assign(self, what: VoiceCredentials | Exception) -> None:
        self._queue.put_nowait(what)

    def aim(self, channel_id: int | None, *, self_mute: bool, self_deaf: bool) -> None:
        raise NotImplementedError

    async def join(self) -> None:
        self.joins += 1
        while not self._queue.empty():
            self._queue.get_nowait()
        answer = self.answers.pop(0) if self.answers else None
        self.assign(answer or numbered(self.joins))

    async def credentials(self) -> VoiceCredentials:
        what = await self._queue.get()
        if isinstance(what, Exception):
            raise what
        return what

    async def update(self, **changes: bool) -> None:
        raise NotImplementedError

    async def grant_video(self) -> None:
        raise NotImplementedError

    async def withdraw_video(self) -> None:
        raise NotImplementedError

    async def leave(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Connection:
    """Plays scripted sessions: each is an error, optionally after being live, or goes on.

    Attributes:
        changes: How many of the next sessions end only to try another path.
    """

    def __init__(self, *script: Exception | None, live: bool = False) -> None:
        self.script = list(script)
        self.live = live
        self.changes = 0
        self.was_live = self.changing_path = False
        self.tried: list[str] = []
        self.over: list[tuple[str, bool]] = []
        self.running = asyncio.Event()
        self.closed = 0

    async def run_session(self, credentials: VoiceCredentials) -> None:
        self.tried.append(credentials.endpoint)
        self.was_live = self.live
        self.changing_path = self.changes > 0
        self.changes -= 1
        error = self.script.pop(0) if self.script else None
        try:
            if error is None:
                self.running.set()
                await asyncio.Event().wait()
            else:
                raise error
        finally:
            self.closed += 1

    def session_over(self, error: Exception, *, retry: bool) -> None:
        self.over.append((str(error), retry))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_BASE", 0.001)
    monkeypatch.setattr(module, "BACKOFF_CAP", 0.002)
    monkeypatch.setattr(module, "MOVE_GRACE", 0.05)


def lost(code: int | None = None) -> ConnectionLost:
    return ConnectionLost(code, "over")


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (lost(None), False),
        (lost(1000), False),
        (lost(1006), False),
        (lost(4006), False),
        (lost(4009), False),
        (lost(4015), False),
        (lost(4011), True),
        (lost(4012), True),
        (lost(4014), True),
        (lost(4016), True),
        (lost(4021), True),
        (lost(4022), True),
        (NonceExhausted(), False),
        (ConnectError("x"), False),
        (SignalingTimeout("x"), False),
        (DiscoveryTimeout("x"), False),
        (PathLost("x"), False),
        (NoRoute("x"), True),
        (AuthenticationFailed("x"), True),
        (DaveUnavailable("x"), True),
        (NoCommonMode("x"), True),
        (MalformedMessage("x"), True),
        (InvalidState("x"), True),
        (ZeroDivisionError(), True),
    ],
)
async def test_what_another_attempt_cannot_mend_is_final(error: Exception, final: bool) -> None:
    assert is_final(error) is final


async def test_the_first_retry_is_immediate_and_later_ones_wait_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BACKOFF_BASE", BACKOFF_BASE)
    monkeypatch.setattr(module, "BACKOFF_CAP", BACKOFF_CAP)
    rng = random.Random(1)
    assert backoff(0, rng) == backoff(1, rng) == 0
    for failures in range(2, 20):
        waits = [backoff(failures, rng) for _ in range(100)]
        ceiling = min(BACKOFF_CAP, BACKOFF_BASE * 2**failures)
        assert min(waits) >= BACKOFF_BASE
        assert ceiling / 2 < max(waits) <= ceiling


async def test_a_failure_that_can_be_mended_is_answered_with_a_fresh_join() -> None:
    connection = Connection(lost(4006), NonceExhausted(), lost(4014))
    signaling = Signaling()
    with pytest.raises(ConnectionLost) as caught:
        await supervise(connection, signaling)
    assert caught.value.close_code == 4014
    assert connection.tried == ["server-1", "server-2", "server-3"]
    assert signaling.joins == 3
    assert [retry for _, retry in connection.over] == [True, True, True, False]


async def test_a_final_failure_ends_it_at_once() -> None:
    connection = Connection(NoCommonMode("nothing in common"))
    signaling = Signaling()
    with pytest.raises(NoCommonMode):
        await supervise(connection, signaling)
    assert signaling.joins == 1
    assert connection.over == [("nothing in common", False)]


async def test_changing_the_path_is_no_failure_and_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[int] = []

    def note(failures: int, _rng: object) -> float:
        waited.append(failures)
        return 0.0

    monkeypatch.setattr(module, "backoff", note)
    connection = Connection(
        IceFailed("filtered"), IceFailed("filtered"), ConnectError("refused"), NoRoute("nothing")
    )
    connection.changes = 2
    with pytest.raises(NoRoute):
        await supervise(connection, Signaling())
    assert len(connection.tried) == 4
    assert waited == [1]


async def test_even_a_final_error_may_be_followed_by_another_path() -> None:
    connection = Connection(MalformedSdp("no a=ice-pwd"), lost(4014))
    connection.changes = 1
    with pytest.raises(ConnectionLost):
        await supervise(connection, Signaling())
    assert len(connection.tried) == 2


async def test_a_path_is_not_changed_where_there_is_no_second_session() -> None:
    connection = Connection(IceFailed("filtered"))
    connection.changes = 1
    signaling = Signaling()
    signaling.renewable = False
    with pytest.raises(IceFailed):
        await supervise(connection, signaling)


async def test_attempts_are_limited() -> None:
    connection = Connection(*[ConnectError(str(number)) for number in range(20)])
    signaling = Signaling()
    with pytest.raises(ConnectError, match=str(MAX_ATTEMPTS - 1)):
        await supervise(connection, signaling)
    assert len(connection.tried) == signaling.joins == MAX_ATTEMPTS


async def test_being_live_in_between_starts_the_count_anew() -> None:
    errors = [lost(4006) for _ in range(3 * MAX_ATTEMPTS)]
    connection = Connection(*errors, NoCommonMode("the end"), live=True)
    with pytest.raises(NoCommonMode):
        await supervise(connection, Signaling())
    assert len(connection.tried) == 3 * MAX_ATTEMPTS + 1


async def test_an_unanswered_first_join_is_told_at_once() -> None:
    signaling = Signaling()
    signaling.answers = [SignalingTimeout("full?")]
    with pytest.raises(SignalingTimeout):
        await supervise(Connection(), signaling)
    assert signaling.joins == 1


async def test_an_unanswered_later_join_is_one_more_failure() -> None:
    connection = Connection(lost(4015), lost(4014))
    signaling = Signaling()
    signaling.answers = [None, SignalingTimeout("no server"), SignalingTimeout("no server")]
    with pytest.raises(ConnectionLost):
        await supervise(connection, signaling)
    assert signaling.joins == 4
    assert connection.tried == ["server-1", "server-4"]


async def test_unanswered_joins_are_limited_too() -> None:
    signaling = Signaling()
    signaling.answers = [None, *(SignalingTimeout("no server") for _ in range(20))]
    with pytest.raises(SignalingTimeout):
        await supervise(Connection(lost(4015)), signaling)
    assert signaling.joins == MAX_ATTEMPTS


async def test_without_a_gateway_there_is_one_session() -> None:
    connection = Connection(lost(4006))
    signaling = Signaling()
    signaling.renewable = False
    with pytest.raises(ConnectionLost):
        await supervise(connection, signaling)
    assert connection.over == [("over (close code 4006)", False)]


@pytest.fixture
def supervised() -> Callable[[Connection, Signaling], asyncio.Task[None]]:
    return lambda connection, signaling: asyncio.ensure_future(supervise(connection, signaling))


async def running(connection: Connection) -> None:
    async with asyncio.timeout(2):
        await connection.running.wait()
    connection.running.clear()


async def test_another_assignment_replaces_the_session_without_a_join(
    supervised: Callable[[Connection, Signaling], asyncio.Task[None]],
) -> None:
    connection, signaling = Connection(), Signaling()
    task = supervised(connection, signaling)
    await running(connection)
    for number in (7, 8):
        signaling.assign(numbered(number))
        await running(connection)
    assert connection.tried == ["server-1", "server-7", "server-8"]
    assert signaling.joins == 1
    assert [retry for _, retry in connection.over] == [True, True]
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert connection.closed == 3


@pytest.mark.parametrize("code", [4014, 4022])
async def test_a_close_that_may_be_a_move_waits_for_the_assignment(
    supervised: Callable[[Connection, Signaling], asyncio.Task[None]], code: int
) -> None:
    connection, signaling = Connection(lost(code)), Signaling()
    task = supervised(connection, signaling)
    while not connection.closed:  # noqa: ASYNC110 - a turn or two
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not task.done()
    signaling.assign(numbered(9))
    await running(connection)
    assert connection.tried == ["server-1", "server-9"]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("first", ["socket", "gateway"])
async def test_a_kick_is_final_whoever_tells_it_first(
    supervised: Callable[[Connection, Signaling], asyncio.Task[None]], first: str
) -> None:
    connection = Connection(lost(4014) if first == "socket" else None)
    signaling = Signaling()
    task = supervised(connection, signaling)
    if first == "gateway":
        await running(connection)
    else:
        while not connection.closed:  # noqa: ASYNC110 - a turn or two
            await asyncio.sleep(0)
    signaling.assign(ConnectionLost(4014, "taken out of the voice channel"))
    async with asyncio.timeout(1):
        await asyncio.wait([task])
    assert isinstance(task.exception(), ConnectionLost)
    assert signaling.joins == 1
    assert connection.closed == 1


async def test_a_server_that_went_away_is_replaced(
    supervised: Callable[[Connection, Signaling], asyncio.Task[None]],
) -> None:
    connection, signaling = Connection(), Signaling()
    task = supervised(connection, signaling)
    await running(connection)
    signaling.assign(ConnectionLost(None, "the voice server went away"))
    await running(connection)
    assert connection.tried == ["server-1", "server-2"]
    task.cancel()
    await asyncio.wait([task])


async def test_an_error_while_a_moved_session_closes_does_not_matter(
    supervised: Callable[[Connection, Signaling], asyncio.Task[None]],
) -> None:
    class Stubborn(Connection):
        async def run_session(self, credentials: VoiceCredentials) -> None:
            try:
                await super().run_session(credentials)
            except asyncio.CancelledError:
                if len(self.tried) == 1:
                    raise lost(4014) from None
                raise

    connection, signaling = Stubborn(), Signaling()
    task = supervised(connection, signaling)
    await running(connection)
    signaling.assign(numbered(9))
    await running(connection)
    assert connection.tried == ["server-1", "server-9"]
    task.cancel()
    await asyncio.wait([task])


async def test_a_bug_is_raised_as_it_is_and_never_in_a_group() -> None:
    with pytest.raises(ZeroDivisionError):
        await supervise(Connection(ZeroDivisionError()), Signaling())


async def test_a_session_that_just_returns_counts_as_lost() -> None:
    class Polite(Connection):
        async def run_session(self, credentials: VoiceCredentials) -> None:
            self.tried.append(credentials.endpoint)

    signaling = Signaling()
    signaling.renewable = False
    with pytest.raises(ConnectionLost, match="the voice session ended"):
        await supervise(Polite(), signaling)
