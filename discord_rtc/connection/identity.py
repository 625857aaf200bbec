"""Identity keys: one in a file, PEM (PKCS#8) readable by its owner only, or one for a while.

Others verify a user by the fingerprint of this key. It has to be the same in all sessions that a
user has at the same time (DAVE protocol whitepaper, "Identity"), and for as long as somebody may
compare it; one that is not kept in a file is another one the next time.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from discord_rtc.crypto.p256 import SigningKey
from discord_rtc.errors import UsageError
from discord_rtc.protocol.dave.identity import IdentityKey

_OWNER_ONLY = 0o600
_OWNER_ONLY_FOLDER = 0o700
_LARGEST = 4096
"""Bytes; a key of this kind has some 240."""


class EphemeralIdentity:
    """One key for all connections that share this object, made when it is first asked for."""

    def __init__(self) -> None:
        self._key: IdentityKey | None = None

    def key(self) -> IdentityKey:
        """The key; the same each time."""
        if self._key is None:
            key = SigningKey.generate()
            self._key = IdentityKey(key.private, key.public)
        return self._key


def load_identity(path: str | Path) -> IdentityKey:
    """Read the key of a file, which is made when it is missing.

    Blocks for file access: call it in a thread.

    Args:
        path: The file; ``~`` is the home folder. Folders on the way to it are made, for the owner
            only.

    Raises:
        UsageError: It cannot be read or written, others may read it, or it is no such key.
    """
    try:
        file = Path(path).expanduser()
        key = _read(file) if file.exists() else _make(file)
    except (OSError, RuntimeError, ValueError) as error:  # no such home folder; a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or repr(error)
        raise UsageError(f"the identity key {path} cannot be used: {reason}") from error
    return IdentityKey(key.private, key.public)


def _read(file: Path) -> SigningKey:
    if not file.is_file():  # opening a pipe would wait for a writer
        raise UsageError(f"the identity key {file} cannot be used: it is no regular file")
    with file.open("rb") as opened:
        # Of what is open, not of what the name means by then.
        mode = os.fstat(opened.fileno()).st_mode
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise UsageError(f"others may use the identity key {file}; run: chmod 600 {file}")
        data = opened.read(_LARGEST + 1)
    try:
        return SigningKey.from_pem(data)
    except UsageError as error:
        raise UsageError(f"{file} is no identity key: {error}") from None


def _make(file: Path) -> SigningKey:
    _make_folder(file.parent)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        with os.fdopen(opened, "wb") as writer:
            writer.write(SigningKey.generate().to_pem())
            writer.flush()
            os.fsync(writer.fileno())
        _settle(draft, file)
    finally:
        draft.unlink(missing_ok=True)
    return _read(file)  # ours, or that of another process that was faster


def _settle(draft: Path, file: Path) -> None:
    """Give the draft its name, unless somebody else has taken it."""
    try:
        os.link(draft, file)
    except FileExistsError:
        return
    except OSError:  # no hard links there; two first starts at the same moment are left to luck
        draft.replace(file)


def _make_folder(folder: Path) -> None:
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(_OWNER_ONLY_FOLDER, exist_ok=True)
