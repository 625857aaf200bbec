"""What becomes of a user's choice about encryption."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from discord_rtc.connection import encryption_settings as module
from discord_rtc.connection.encryption_settings import (
    EncryptionSettings,
    encryption_settings,
    with_identity,
)
from discord_rtc.connection.identity import EphemeralIdentity
from discord_rtc.connection.options import ConnectionOptions
from discord_rtc.errors import DaveUnavailable, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from discord_rtc.connection.options import DaveChoice
    from discord_rtc.protocol.dave.backend import DaveLibrary

BOTH: tuple[DaveLibrary, ...] = ("dave.py", "davey")
GROUP = 20


@pytest.mark.parametrize(
    ("choice", "installed", "group_id", "version"),
    [
        ("off", BOTH, GROUP, 0),
        ("preferred", BOTH, GROUP, 1),
        ("preferred", (), GROUP, 0),
        ("preferred", BOTH, None, 0),
        ("required", ("davey",), GROUP, 1),
    ],
)
def test_what_is_offered(
    choice: DaveChoice,
    installed: tuple[DaveLibrary, ...],
    group_id: int | None,
    version: int,
) -> None:
    settings = EncryptionSettings(choice, installed=installed)
    assert settings.max_version(group_id) == version


def test_what_cannot_be_offered_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        EncryptionSettings("preferred", installed=BOTH).max_version(None)
        EncryptionSettings("preferred").max_version(GROUP)
        EncryptionSettings("off").max_version(None)
    assert [record.getMessage() for record in caplog.records] == [
        "! no end-to-end encryption: the credentials have no channel_id",
        "! no end-to-end encryption: no library for it is installed: pip install dave.py",
    ]


def test_required_without_a_channel_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="needs VoiceCredentials with channel_id"):
        EncryptionSettings("required", installed=BOTH).max_version(None)


@pytest.mark.parametrize(
    ("library", "installed", "remedy"),
    [
        (None, (), "no library for it is installed: pip install dave.py"),
        ("davey", ("dave.py",), "davey is not installed: pip install davey"),
        ("dave.py", ("davey",), "dave.py is not installed: pip install dave.py"),
    ],
)
def test_required_without_its_library_is_refused_with_the_remedy(
    library: DaveLibrary | None, installed: tuple[DaveLibrary, ...], remedy: str
) -> None:
    with pytest.raises(DaveUnavailable, match=remedy):
        EncryptionSettings("required", library, installed=installed).require()
    EncryptionSettings("preferred", library, installed=installed).require()


@pytest.mark.parametrize(
    ("choice", "installed", "group_id", "advice"),
    [
        ("off", BOTH, GROUP, 'use dave="preferred"'),
        ("preferred", (), GROUP, "pip install dave.py"),
        ("preferred", BOTH, None, "needs VoiceCredentials with channel_id"),
        ("preferred", BOTH, GROUP, "a version that is not supported"),
        ("required", BOTH, GROUP, "a version that is not supported"),
    ],
)
def test_a_refusal_says_what_to_do_about_it(
    choice: DaveChoice,
    installed: tuple[DaveLibrary, ...],
    group_id: int | None,
    advice: str,
) -> None:
    refusal = EncryptionSettings(choice, installed=installed).refusal(group_id)
    assert refusal.startswith("the voice server requires end-to-end encryption (DAVE)")
    assert advice in refusal


@pytest.mark.parametrize(
    ("settings", "group_id"),
    [
        (EncryptionSettings("off", installed=BOTH), GROUP),
        (EncryptionSettings("preferred", installed=BOTH), None),
        (EncryptionSettings("preferred"), GROUP),
    ],
)
def test_a_group_that_was_not_offered_cannot_be_entered(
    settings: EncryptionSettings, group_id: int | None
) -> None:
    with pytest.raises(DaveUnavailable, match="requires end-to-end encryption"):
        settings.make_backend(7, group_id)


@pytest.mark.parametrize("library", BOTH)
def test_a_membership_is_made_by_the_chosen_library(library: DaveLibrary) -> None:
    settings = EncryptionSettings("preferred", library, installed=BOTH)
    assert settings.make_backend(7, GROUP).library == library


def test_the_machine_is_asked_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available", lambda: ("davey",))
    settings = encryption_settings(ConnectionOptions(dave="preferred", dave_library="davey"))
    assert settings == EncryptionSettings("preferred", "davey", None, ("davey",))
    with pytest.raises(DaveUnavailable, match=r"pip install dave\.py"):
        encryption_settings(ConnectionOptions(dave="required", dave_library="dave.py"))


@pytest.mark.asyncio
async def test_the_identity_key_is_read_where_it_is_of_use(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    other = EphemeralIdentity()
    assert (await with_identity(EncryptionSettings("off"), file, other)).identity is None
    assert (await with_identity(EncryptionSettings("off"), None, other)).identity is None
    ephemeral = await with_identity(EncryptionSettings("preferred"), None, other)
    assert ephemeral.identity == other.key()
    assert not file.exists()
    first = await with_identity(EncryptionSettings("preferred"), file, other)
    again = await with_identity(EncryptionSettings("required"), file, other)
    assert first.identity != other.key()
    assert first.identity is not None
    assert first.identity == again.identity
