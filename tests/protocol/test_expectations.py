"""Which messages have a place in which state."""

from __future__ import annotations

from typing import get_args

from discord_rtc.protocol.expectations import EXPECTED
from discord_rtc.protocol.messages import (
    Hello,
    MlsExternalSender,
    Ready,
    Resumed,
    ServerMessage,
    SessionDescription,
)
from discord_rtc.protocol.voice_events import (
    Closed,
    Greeting,
    Identifying,
    Live,
    Resuming,
    Selecting,
    SessionState,
)


def test_every_state_has_a_row() -> None:
    assert set(EXPECTED) == set(get_args(SessionState))


def test_every_message_has_a_place_somewhere() -> None:
    placed = {kind for row in EXPECTED.values() for kind in row}
    assert placed == set(get_args(ServerMessage))


def test_each_step_has_its_message() -> None:
    steps = {
        Greeting: Hello,
        Identifying: Ready,
        Selecting: SessionDescription,
        Resuming: Resumed,
    }
    for state, message in steps.items():
        assert message in EXPECTED[state]
    for message in (Hello, Ready, Resumed):
        assert message not in EXPECTED[Live]


def test_encryption_is_expected_until_the_end() -> None:
    assert {state for state, row in EXPECTED.items() if MlsExternalSender in row} == (
        set(EXPECTED) - {Closed}
    )
