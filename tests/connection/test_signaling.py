"""Where a connection gets its voice servers from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.connection import signaling as module
from discord_rtc.connection.signaling import FixedSignaling, GatewaySignaling
from discord_rtc.errors import (
    ConnectionLost,
    InvalidState,
    SignalingTimeout,
    UsageError,
    VideoNotGranted,
)
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.protocol.voice import VoiceCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .conftest import Port

pytestmark = pytest.mark.asyncio

FIXED = VoiceCredentials("127.0.0.1:1", "t", "s", 7, 10, 20)


def gateway(port: Port, *, timeout: float = 10.0) -> GatewaySignaling:
    signaling = GatewaySignaling(port, 10, SystemClock(), timeout=timeout)
    signaling.aim(20, self_mute=False, self_deaf=False)
    return signaling


@pytest.fixture
def answering(port: Port) -> Port:
    """A port whose gateway answers every op 4 at once, and grants video."""

    def answer(command: Mapping[str, object]) -> None:
        channel = command["channel_id"]
        if channel is None:
            port.state(None)
            return
        port.state(int(str(channel)), self_video=command["self_video"])
        if not command["self_video"]:
            port.server(token=f"t{len(port.sent)}")

    port.answer = answer
    return port


async def joined(port: Port) -> GatewaySignaling:
    signaling = gateway(port)
    await signaling.join()
    await signaling.credentials()
    return signaling


# Credentials from elsewhere


async def test_fixed_credentials_are_given_once() -> None:
    signaling = FixedSignaling(FIXED, secure=False)
    signaling.aim(None, self_mute=False, self_deaf=False)
    await signaling.join()
    assert await signaling.credentials() is FIXED
    assert (signaling.user_id, signaling.secure, signaling.renewable) == (7, False, False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await signaling.credentials()
    await signaling.leave()
    signaling.close()


async def test_fixed_credentials_know_no_voice_state_and_allow_video() -> None:
    signaling = FixedSignaling(FIXED)
    await signaling.grant_video()
    await signaling.withdraw_video()
    with pytest.raises(UsageError, match="self_deaf, self_mute is set on the main gateway"):
        await signaling.update(self_mute=True, self_deaf=True)


# A gateway


async def test_joining_asks_with_op_4_and_waits_for_both_events(port: Port) -> None:
    signaling = GatewaySignaling(port, 10, SystemClock())
    assert (signaling.user_id, signaling.secure, signaling.renewable) == (7, False, True)
    signaling.aim(20, self_mute=True, self_deaf=False)
    await signaling.join()
    assert port.sent == [
        {
            "guild_id": "10",
            "channel_id": "20",
            "self_mute": True,
            "self_deaf": False,
            "self_video": False,
        }
    ]
    waiting = asyncio.ensure_future(signaling.credentials())
    port.server("voice.example:2087", "token")
    await asyncio.sleep(0)
    assert not waiting.done()
    port.state(session_id="session")
    credentials = await waiting
    assert credentials == VoiceCredentials("voice.example:2087", "token", "session", 7, 10, 20)
    signaling.close()
    assert port.handlers == []
    signaling.close()


async def test_a_channel_is_needed(port: Port) -> None:
    signaling = GatewaySignaling(port, 10, SystemClock())
    with pytest.raises(UsageError, match="needs the channel"):
        signaling.aim(None, self_mute=False, self_deaf=False)
    await signaling.leave()
    assert port.sent == []
    signaling.close()


async def test_a_gateway_that_does_not_answer_is_a_timeout(port: Port) -> None:
    signaling = gateway(port, timeout=0.01)
    await signaling.join()
    with pytest.raises(SignalingTimeout, match="is the channel full"):
        await signaling.credentials()
    signaling.close()


async def test_an_assignment_is_handed_out_once_and_the_newest_counts(answering: Port) -> None:
    signaling = await joined(answering)
    answering.server(token="old")
    answering.server(token="new")
    assert (await signaling.credentials()).token == "new"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await signaling.credentials()
    signaling.close()


async def test_being_taken_out_of_the_channel_ends_the_wait(answering: Port) -> None:
    signaling = await joined(answering)
    waiting = asyncio.ensure_future(signaling.credentials())
    await asyncio.sleep(0)
    answering.state(None)
    with pytest.raises(ConnectionLost, match="taken out of the voice channel") as caught:
        await waiting
    assert caught.value.close_code == VoiceCloseCode.DISCONNECTED
    signaling.close()


async def test_a_rejoin_goes_where_we_were_moved_to(answering: Port) -> None:
    signaling = await joined(answering)
    answering.state(21)
    await signaling.join()
    assert answering.sent[-1]["channel_id"] == "21"
    signaling.close()


async def test_a_server_that_went_away_is_waited_for_without_asking(answering: Port) -> None:
    signaling = await joined(answering)
    commands = len(answering.sent)
    waiting = asyncio.ensure_future(signaling.credentials())
    await asyncio.sleep(0)
    answering.server(None)
    with pytest.raises(ConnectionLost, match="the voice server went away"):
        await waiting
    await signaling.join()
    answering.server(None)  # told twice
    waiting = asyncio.ensure_future(signaling.credentials())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    answering.server("other.example", "t2")
    assert (await waiting).endpoint == "other.example"
    assert len(answering.sent) == commands
    await signaling.join()  # afterwards it is asked for again
    assert len(answering.sent) == commands + 1
    signaling.close()


async def test_a_new_server_that_comes_at_once_is_not_a_failure(answering: Port) -> None:
    signaling = await joined(answering)
    answering.server(None)
    answering.server("other.example", "t2")
    assert (await signaling.credentials()).endpoint == "other.example"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await signaling.credentials()
    signaling.close()


async def test_being_taken_out_while_no_server_is_there_ends_the_wait(answering: Port) -> None:
    signaling = await joined(answering)
    answering.server(None)
    answering.state(None)
    with pytest.raises(ConnectionLost, match="taken out"):
        await signaling.credentials()
    signaling.close()


async def test_leaving_is_said_once(answering: Port) -> None:
    signaling = await joined(answering)
    await signaling.leave()
    await signaling.leave()
    assert [command["channel_id"] for command in answering.sent] == ["20", None]
    signaling.close()


async def test_leaving_waits_for_the_gateway_s_word(
    answering: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    signaling = await joined(answering)
    answering.answer = None
    leaving = asyncio.ensure_future(signaling.leave())
    await asyncio.sleep(0.01)
    answering.state(20)
    answering.server()
    await asyncio.sleep(0)
    assert not leaving.done()
    answering.state(None)
    await leaving
    signaling.close()
    monkeypatch.setattr(module, "LEAVE_TIMEOUT", 0.01)
    other = gateway(answering)
    await other.leave()
    assert len(answering.sent) == 3
    other.close()


async def test_after_a_kick_there_is_nothing_to_leave_and_no_way_back(answering: Port) -> None:
    signaling = await joined(answering)
    answering.state(None)
    await signaling.leave()
    with pytest.raises(ConnectionLost, match="taken out of the voice channel"):
        await signaling.join()
    assert len(answering.sent) == 1
    signaling.close()


async def test_a_gateway_that_is_gone_cannot_be_told_about_leaving(answering: Port) -> None:
    signaling = await joined(answering)
    await signaling.grant_video()
    answering.error = ConnectionLost(None, "the gateway session is closed")
    await signaling.withdraw_video()
    await signaling.leave()
    assert len(answering.sent) == 2
    signaling.close()


async def test_joining_over_a_gateway_that_is_gone_fails(port: Port) -> None:
    port.error = ConnectionLost(None, "the gateway session is closed")
    signaling = gateway(port)
    with pytest.raises(ConnectionLost, match="gateway session is closed"):
        await signaling.join()
    signaling.close()


async def test_flags_are_changed_in_the_channel_and_remembered(answering: Port) -> None:
    signaling = gateway(answering)
    with pytest.raises(InvalidState):
        await signaling.update(self_deaf=True)
    await signaling.join()
    assert answering.sent[-1]["self_deaf"] is True
    await signaling.credentials()
    await signaling.update(self_mute=True)
    assert (answering.sent[-1]["self_mute"], answering.sent[-1]["self_deaf"]) == (True, True)
    await signaling.join()
    assert answering.sent[-1]["self_mute"] is True
    signaling.close()


# Video


async def test_video_that_is_granted_is_asked_for_again_with_every_join(answering: Port) -> None:
    signaling = await joined(answering)
    await signaling.grant_video()
    assert answering.sent[-1]["self_video"] is True
    answering.answer = None
    await signaling.join()
    assert answering.sent[-1]["self_video"] is True
    answering.state(self_video=True)
    answering.server()
    await signaling.credentials()
    await signaling.withdraw_video()
    assert answering.sent[-1]["self_video"] is False
    signaling.close()


async def test_video_that_is_refused_says_why_and_is_not_asked_for_again(
    answering: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VIDEO_REFUSAL_GRACE", 0.02)
    signaling = await joined(answering)
    answering.answer = lambda _: answering.state(self_video=False)
    with pytest.raises(VideoNotGranted, match="does not let bots send camera or Go Live"):
        await signaling.grant_video()
    await signaling.update(self_mute=True)
    assert answering.sent[-1]["self_video"] is False
    signaling.close()


async def test_an_answer_to_an_earlier_command_is_no_refusal(answering: Port) -> None:
    signaling = await joined(answering)
    answering.answer = None
    await signaling.update(self_mute=True)
    granting = asyncio.ensure_future(signaling.grant_video())
    await asyncio.sleep(0)
    answering.state(self_mute=True, self_video=False)
    await asyncio.sleep(0.01)
    assert not granting.done()
    answering.state(self_mute=True, self_video=True)
    await granting
    signaling.close()


async def test_a_gateway_that_says_nothing_about_video_is_a_timeout(
    answering: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VIDEO_GRANT_TIMEOUT", 0.02)
    signaling = await joined(answering)
    answering.answer = None
    with pytest.raises(SignalingTimeout, match="did not answer the request to send video"):
        await signaling.grant_video()
    signaling.close()


async def test_outside_a_channel_there_is_no_video_to_withdraw(answering: Port) -> None:
    signaling = await joined(answering)
    answering.state(None)
    commands = len(answering.sent)
    await signaling.withdraw_video()
    assert len(answering.sent) == commands
    signaling.close()
