"""Opcodes, close codes and speaking flags."""

from __future__ import annotations

import pytest

from discord_rtc.protocol.opcodes import (
    CLOSE_CODES,
    GatewayOpcode,
    SpeakingFlags,
    VoiceCloseCode,
    VoiceOpcode,
    close_meaning,
)


def test_opcodes_have_their_documented_numbers() -> None:
    assert [int(opcode) for opcode in VoiceOpcode] == [
        *range(10),
        *range(11, 17),
        18,
        *range(20, 33),
    ]
    assert GatewayOpcode.VOICE_STATE_UPDATE == 4
    assert GatewayOpcode.HELLO == 10


def test_priority_speaking_is_sent_as_five() -> None:
    assert SpeakingFlags.VOICE | SpeakingFlags.PRIORITY == 5


def test_every_close_code_says_what_it_means() -> None:
    assert set(VoiceCloseCode) <= set(CLOSE_CODES)
    for code, meaning in CLOSE_CODES.items():
        assert meaning.meaning.endswith("."), code
        assert meaning.name


@pytest.mark.parametrize("code", [1001, 1006, 4013, 4015, 1011, 3000])
def test_crashes_and_broken_sockets_can_be_resumed(code: int) -> None:
    assert close_meaning(code).resumable


@pytest.mark.parametrize("code", [1000, 4004, 4006, 4009, 4014, 4017, 4021, 4022, 4099])
def test_sessions_that_are_over_cannot_be_resumed(code: int) -> None:
    assert not close_meaning(code).resumable


def test_no_close_code_is_an_abnormal_closure() -> None:
    assert close_meaning(None) is CLOSE_CODES[1006]


def test_unknown_close_code_is_named() -> None:
    assert close_meaning(4099) == ("unknown", "Close code 4099 is not documented.", False)
    assert close_meaning(VoiceCloseCode.DAVE_REQUIRED).name == "dave-required"
