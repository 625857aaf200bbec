"""The shell around the DAVE machine of one session."""

from __future__ import annotations

import asyncio
import logging
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from discord_rtc.clock import SystemClock
from discord_rtc.connection.encryption import Encryption
from discord_rtc.connection.encryption_settings import EncryptionSettings
from discord_rtc.errors import DaveUnavailable, NotReady
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame, MediaKind
from discord_rtc.protocol.dave import lifecycle
from discord_rtc.protocol.dave.events import Sending, Undecrypted
from discord_rtc.protocol.messages import (
    ClientsConnect,
    ExecuteTransition,
    InvalidCommitWelcome,
    MlsAnnounceCommit,
    MlsCommitWelcome,
    MlsExternalSender,
    MlsKeyPackage,
    MlsProposals,
    MlsWelcome,
    PrepareEpoch,
    PrepareTransition,
    SessionDescription,
    TransitionReady,
)

from ..protocol.dave.fake_group import EXTERNAL_SENDER, FakeBackend, append, proposal, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.protocol.dave.events import E2eeState

    from .conftest import Eventually

pytestmark = pytest.mark.asyncio

OWN, ANN = 7, 5
GROUP = 20
FAILURES, SPAN = 40, 1.2
"""More frames, over a longer time, than the machine lets fail in a row."""

_TIME_BASE = Fraction(1, 48_000)


def described(version: int) -> SessionDescription:
    return SessionDescription(
        audio_codec="opus",
        video_codec="H264",
        media_session_id="m",
        dave_protocol_version=version,
    )


def sound(data: bytes = b"sound") -> EncodedFrame:
    return EncodedFrame(data, Codec.OPUS, 0, _TIME_BASE, keyframe=True)


class Listener:
    """An `EncryptionHandler` that keeps everything in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.errors: list[DaveUnavailable] = []

    def e2ee_changed(self, state: E2eeState, privacy_code: str | None, reason: str | None) -> None:
        self.told.append((state, privacy_code, reason))

    def sending_changed(self, *, fresh: bool) -> None:
        self.told.append(("sending", fresh))

    def receive_keys_changed(self) -> None:
        self.told.append(("keys",))

    def encryption_failed(self, error: DaveUnavailable) -> None:
        self.errors.append(error)


class Rig:
    """A shell with a fake library, and Ann, who is in the same call."""

    def __init__(self, choice: DaveChoice, *, follows: bool = False) -> None:
        self.made: list[tuple[int, int]] = []
        self.sent: list[object] = []
        self.listener = Listener()
        self._follows = follows
        settings = EncryptionSettings(choice, factory=self._make)
        self.it = Encryption(
            settings,
            user_id=OWN,
            group_id=GROUP,
            send=self.sent.append,
            handler=self.listener,
            clock=SystemClock(),
        )
        self.ann = FakeBackend(ANN)
        self.ann.set_external_sender(EXTERNAL_SENDER)
        self._package = self.ann.begin(1)

    def _make(self, user_id: int, group_id: int) -> FakeBackend:
        self.made.append((user_id, group_id))
        return FakeBackend(user_id, follows=self._follows)

    def propose(self) -> bytes:
        """Go as far as our commit, which is not announced yet."""
        self.it.receive(described(1))
        self.it.receive(MlsExternalSender(EXTERNAL_SENDER))
        self.it.receive(ClientsConnect((OWN, ANN)))
        self.it.receive(MlsProposals(append(proposal(0, add=self._package))))
        [made] = [message for message in self.sent if isinstance(message, MlsCommitWelcome)]
        return made.payload

    def form(self, transition: int = 0) -> None:
        """Make a group with Ann."""
        commit, welcome = split(self.propose())
        assert welcome is not None
        self.ann.process_welcome(welcome, frozenset({OWN, ANN}))
        self.ann.switch_sender()
        self.it.receive(MlsAnnounceCommit(transition, commit))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig("preferred")
    yield rig
    await rig.it.aclose()


async def test_a_call_without_encryption_is_in_the_clear_and_makes_no_group(rig: Rig) -> None:
    assert rig.it.sending is Sending.WAIT
    rig.it.receive(described(0))
    assert (rig.it.state, rig.it.sending, rig.made, rig.sent) == ("off", Sending.CLEAR, [], [])
    assert rig.it.decrypt(ANN, MediaKind.AUDIO, b"plain") == b"plain"


async def test_a_group_comes_up_and_everybody_hears_of_it(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "discord_rtc.connection"):
        rig.form()
    assert rig.made == [(OWN, GROUP)]
    assert [type(message) for message in rig.sent] == [MlsKeyPackage, MlsCommitWelcome]
    code = rig.it.privacy_code
    assert code is not None
    assert len(code) == 30
    assert rig.listener.told == [
        ("pending", None, None),
        ("keys",),
        ("active", code, None),
        ("sending", True),
    ]
    assert "= end-to-end encryption active" in caplog.messages
    stats = rig.it.stats()
    assert (stats.state, stats.version, stats.sending) == ("active", 1, "encrypt")
    assert stats.members == {OWN, ANN}
    assert stats.epoch_authenticator == rig.ann.epoch_authenticator
    assert stats.counters["commits"] == 1
    assert repr(stats.epoch_authenticator) not in repr(stats)


async def test_frames_go_both_ways_under_the_keys_of_the_group(rig: Rig) -> None:
    rig.form()
    encrypted = rig.it.encrypt(sound())
    assert encrypted is not None
    assert rig.ann.decrypt(OWN, MediaKind.AUDIO, encrypted) == b"sound"
    theirs = rig.ann.encrypt(b"hello", Codec.OPUS)
    assert rig.it.decrypt(ANN, MediaKind.AUDIO, theirs) == b"hello"
    assert rig.it.encrypt(sound(b"")) is None


async def test_what_is_not_encrypted_is_refused_but_for_silence(rig: Rig) -> None:
    rig.form()
    refused = Undecrypted("unencrypted", retry=False)
    assert rig.it.decrypt(ANN, MediaKind.AUDIO, b"plain") == refused
    assert rig.it.decrypt(ANN, MediaKind.AUDIO, OPUS_SILENCE) == OPUS_SILENCE


async def test_messages_that_come_early_are_not_lost(rig: Rig) -> None:
    rig.it.receive(MlsExternalSender(EXTERNAL_SENDER))
    rig.it.receive(ClientsConnect((OWN, ANN)))
    rig.form()
    assert rig.it.state == "active"


async def test_a_transition_is_answered_and_executed_when_told(rig: Rig) -> None:
    rig.form(transition=3)
    assert rig.sent[-1] == TransitionReady(3)
    assert rig.it.sending is Sending.WAIT
    rig.it.receive(ExecuteTransition(3))
    assert rig.it.sending is Sending.ENCRYPT


async def test_a_transition_that_is_never_executed_is_executed_by_the_timer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr(lifecycle, "EXECUTE_TIMEOUT", 0.05)
    rig.form(transition=3)
    assert rig.it.sending is Sending.WAIT
    await eventually(lambda: rig.listener.told[-1] == ("sending", True))
    assert rig.it.sending is Sending.ENCRYPT


async def test_what_follows_from_frames_that_fail_is_told_by_the_loop(
    rig: Rig, eventually: Eventually
) -> None:
    """A frame is decrypted in the middle of a flush of the media link: nobody may send there."""
    rig.form()
    forged = bytearray(rig.ann.encrypt(b"hello", Codec.OPUS))
    forged[0] ^= 1
    rig.sent.clear()
    rig.listener.told.clear()
    for _ in range(FAILURES + 1):
        told = len(rig.sent), len(rig.listener.told)
        rig.it.decrypt(ANN, MediaKind.AUDIO, bytes(forged))
        assert (len(rig.sent), len(rig.listener.told)) == told
        await asyncio.sleep(SPAN / FAILURES)
    await eventually(lambda: len(rig.sent) == 2)
    assert isinstance(rig.sent[0], InvalidCommitWelcome)
    assert isinstance(rig.sent[1], MlsKeyPackage)
    sending, (state, code, reason) = rig.listener.told
    assert sending == ("sending", False)
    assert (state, code) == ("pending", None)
    assert reason


async def test_a_welcome_that_is_none_makes_us_join_anew(rig: Rig) -> None:
    rig.it.receive(described(1))
    rig.it.receive(MlsExternalSender(EXTERNAL_SENDER))
    rig.it.receive(MlsWelcome(9, b"nonsense"))
    assert rig.sent[1] == InvalidCommitWelcome(9)
    assert isinstance(rig.sent[2], MlsKeyPackage)


async def test_refused_proposals_change_nothing(rig: Rig) -> None:
    rig.it.receive(described(1))
    rig.it.receive(MlsProposals(append(proposal(0, add=b"99:1"))))
    assert rig.listener.told == [("pending", None, None)]
    assert rig.it.stats().counters["refused-proposals"] == 1


# Choices


@pytest.mark.parametrize("choice", ["required", "preferred"])
async def test_a_call_that_turns_encryption_off(choice: DaveChoice) -> None:
    rig = Rig(choice)
    rig.form()
    rig.it.receive(PrepareTransition(0, 5))
    rig.it.receive(ExecuteTransition(5))
    if choice == "preferred":
        assert (rig.it.state, rig.it.sending, rig.listener.errors) == ("off", Sending.CLEAR, [])
    else:
        [error] = rig.listener.errors
        assert str(error).endswith('; dave="preferred" would accept it')
        assert rig.it.sending is not Sending.CLEAR
    rig.it.close()


async def test_required_refuses_a_call_without_encryption() -> None:
    rig = Rig("required")
    rig.it.receive(described(0))
    [error] = rig.listener.errors
    assert str(error) == (
        "the call is not end-to-end encrypted, although that is required; "
        'dave="preferred" would accept it'
    )
    assert rig.it.sending is Sending.WAIT
    rig.it.close()


async def test_a_version_of_the_future_is_refused(rig: Rig) -> None:
    rig.it.receive(described(2))
    [error] = rig.listener.errors
    assert "version 2" in str(error)
    assert "preferred" not in str(error)


async def test_off_does_not_enter_a_group_that_it_did_not_ask_for() -> None:
    rig = Rig("off")
    rig.it.receive(described(1))
    [error] = rig.listener.errors
    assert 'use dave="preferred"' in str(error)
    assert rig.made == []
    assert rig.it.sending is Sending.WAIT
    rig.it.close()


# Verification and the end


async def test_members_can_be_verified(rig: Rig) -> None:
    with pytest.raises(NotReady):
        await rig.it.fingerprint(ANN)
    rig.form()
    assert await rig.it.fingerprint(ANN) == "0" * 45
    with pytest.raises(NotReady):
        await rig.it.fingerprint(99)


async def test_each_member_is_verified_once_in_an_epoch(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fingerprint(backend: FakeBackend, user_id: int) -> bytes:
        del backend
        asked.append(user_id)
        return bytes(64)

    monkeypatch.setattr(FakeBackend, "fingerprint", fingerprint)
    rig.form()
    assert await rig.it.fingerprint(ANN) == await rig.it.fingerprint(ANN)
    assert asked == [ANN]


async def test_a_verification_ends_with_the_session(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fingerprint(backend: FakeBackend, user_id: int) -> bytes:
        del backend, user_id
        begun.set()
        go_on.wait(5)
        return bytes(64)

    monkeypatch.setattr(FakeBackend, "fingerprint", fingerprint)
    rig.form()
    verifying = [asyncio.create_task(rig.it.fingerprint(ANN)) for _ in range(3)]
    await asyncio.to_thread(begun.wait, 5)
    verifying[2].cancel()
    closing = asyncio.create_task(rig.it.aclose())
    with pytest.raises(NotReady, match="is over"):
        await verifying[0]
    go_on.set()
    await closing
    with pytest.raises(NotReady, match="is over"):
        await verifying[1]
    with pytest.raises(asyncio.CancelledError):
        await verifying[2]
    with pytest.raises(NotReady, match="is over"):
        await rig.it.fingerprint(ANN)


async def test_a_verification_of_a_group_that_is_gone_meanwhile_is_not_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    go_on = threading.Event()

    def fingerprint(backend: FakeBackend, user_id: int) -> bytes:
        del backend
        asked.append(user_id)
        go_on.wait(5)
        return bytes(64)

    monkeypatch.setattr(FakeBackend, "fingerprint", fingerprint)
    rig.form()
    verifying = asyncio.create_task(rig.it.fingerprint(ANN))
    while not asked:  # noqa: ASYNC110 - it comes from another thread
        await asyncio.sleep(0.001)
    rig.it.receive(PrepareEpoch(1, 1))
    go_on.set()
    assert len(await verifying) == 45
    await rig.it.fingerprint(ANN)
    assert asked == [ANN, ANN]


async def test_after_the_end_nothing_is_sent_or_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "EXECUTE_TIMEOUT", 0.01)
    rig.form(transition=3)
    rig.sent.clear()
    rig.listener.told.clear()
    rig.it.close()
    await asyncio.sleep(0.05)
    assert (rig.sent, rig.listener.told) == ([], [])
