"""Who speaks, judged by audio frames."""

from __future__ import annotations

import pytest

from discord_rtc.connection.events import UserSpeaking
from discord_rtc.connection.people import CallPeople
from discord_rtc.connection.speech import SPEECH_TIMEOUT, SpeechWatch
from discord_rtc.protocol.opcodes import SpeakingFlags

pytestmark = pytest.mark.asyncio

VOICE, PRIORITY = SpeakingFlags.VOICE, SpeakingFlags.PRIORITY


async def test_speech_begins_with_a_frame_and_ends_with_silence() -> None:
    people = CallPeople(lambda *_: None)
    speech, user = SpeechWatch(people), people.ensure(5)
    async with people.events.subscribe((UserSpeaking,)) as told:
        speech.heard(user, None, 0.0)
        speech.heard(user, None, 0.02)
        speech.heard(user, int(PRIORITY), 0.04)
        speech.silent(user)
        speech.silent(user)
        people.events.close()
        events = [event async for event in told]
    assert events == [
        UserSpeaking(5, speaking=True, flags=VOICE),
        UserSpeaking(5, speaking=True, flags=PRIORITY),
        UserSpeaking(5, speaking=False, flags=SpeakingFlags.NONE),
    ]
    assert not speech


async def test_who_is_not_heard_any_more_is_silent() -> None:
    people = CallPeople(lambda *_: None)
    speech, ann, bob = SpeechWatch(people), people.ensure(5), people.ensure(6)
    speech.heard(ann, None, 0.0)
    speech.heard(bob, None, 0.1)
    people.leave(6)
    speech.expire(SPEECH_TIMEOUT)
    assert ann.speaking
    speech.expire(SPEECH_TIMEOUT + 0.11)
    assert not ann.speaking
    assert bob.speaking  # nobody is told about who is gone
    assert not speech
