"""What a user chose about end-to-end encryption, and what comes of it in one session."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from discord_rtc.connection.identity import load_identity
from discord_rtc.errors import DaveUnavailable, UsageError
from discord_rtc.protocol.dave.choose import PROTOCOL_VERSION, available, make_backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from discord_rtc.connection.identity import EphemeralIdentity
    from discord_rtc.connection.options import ConnectionOptions, DaveChoice
    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary
    from discord_rtc.protocol.dave.identity import IdentityKey

_LOG = logging.getLogger("discord_rtc.connection")

_REMEDIES = {
    None: "no library for it is installed: pip install dave.py",
    "dave.py": "dave.py is not installed: pip install dave.py",
    "davey": "davey is not installed: pip install davey",
}


@dataclass(frozen=True, slots=True)
class EncryptionSettings:
    """What a connection may and must do about end-to-end encryption.

    Attributes:
        choice: Required, preferred or off.
        library: The one to use; None for the best that is installed.
        identity: Who we are to the others; None for a fresh key for each membership.
        installed: Libraries that are there.
        factory: Makes the membership of a user in a group; None for the chosen library.
    """

    choice: DaveChoice = "off"
    library: DaveLibrary | None = None
    identity: IdentityKey | None = None
    installed: tuple[DaveLibrary, ...] = ()
    factory: Callable[[int, int], DaveBackend] | None = None

    @property
    def required(self) -> bool:
        """Whether nothing may ever be sent in the clear."""
        return self.choice == "required"

    @property
    def is_possible(self) -> bool:
        """Whether the chosen library, or any, is there."""
        if self.factory is not None:
            return True
        return bool(self.installed) if self.library is None else self.library in self.installed

    def require(self) -> None:
        """Refuse at once what cannot come to anything.

        Raises:
            DaveUnavailable: Encryption is required and no library for it is there.
        """
        if self.required and not self.is_possible:
            raise DaveUnavailable(
                f'dave="required" needs end-to-end encryption, and {_REMEDIES[self.library]}'
            )

    def max_version(self, group_id: int | None) -> int:
        """Protocol version to offer in Identify; 0 for none.

        Args:
            group_id: Id of the group, which is that of the channel; None when it is unknown.

        Raises:
            UsageError: Encryption is required and the group is unknown.
        """
        if self.choice == "off":
            return 0
        if group_id is None:
            if self.required:
                raise UsageError(
                    'dave="required" needs VoiceCredentials with channel_id: it is the id of the '
                    "encrypted group"
                )
            _LOG.warning("! no end-to-end encryption: the credentials have no channel_id")
            return 0
        if not self.is_possible:
            _LOG.warning("! no end-to-end encryption: %s", _REMEDIES[self.library])
            return 0
        return PROTOCOL_VERSION

    def make_backend(self, user_id: int, group_id: int | None) -> DaveBackend:
        """Make a membership.

        Raises:
            DaveUnavailable: None can be made, or none was offered.
        """
        if self.choice == "off" or group_id is None or not self.is_possible:
            raise DaveUnavailable(self.refusal(group_id))
        if self.factory is not None:
            return self.factory(user_id, group_id)
        return make_backend(user_id, group_id, library=self.library, identity=self.identity)

    def refusal(self, group_id: int | None) -> str:
        """What to tell a user whose call demands encryption that we did not offer."""
        demand = "the voice server requires end-to-end encryption (DAVE)"
        if self.choice == "off":
            return f'{demand}, which dave="off" rules out: use dave="preferred"'
        if not self.is_possible:
            return f"{demand}, and {_REMEDIES[self.library]}"
        if group_id is None:
            return f"{demand}, which needs VoiceCredentials with channel_id"
        return (
            f"{demand} in a version that is not supported: this is version {PROTOCOL_VERSION} and "
            "the only one known to discord_rtc; is there a newer one?"
        )


def encryption_settings(options: ConnectionOptions) -> EncryptionSettings:
    """What the options come to on this machine, the identity key excepted.

    Raises:
        DaveUnavailable: Encryption is required and no library for it is there.
    """
    settings = EncryptionSettings(options.dave, options.dave_library, None, available())
    settings.require()
    return settings


async def with_identity(
    settings: EncryptionSettings, file: str | Path | None, ephemeral: EphemeralIdentity
) -> EncryptionSettings:
    """Give the settings their identity key, if there is a use for one.

    Args:
        settings: As chosen.
        file: Where a persistent key is; None for the other one.
        ephemeral: The other one.

    Raises:
        UsageError: It cannot be used.
    """
    if settings.choice == "off":
        return settings
    if file is None:
        return replace(settings, identity=ephemeral.key())
    return replace(settings, identity=await asyncio.to_thread(load_identity, file))
