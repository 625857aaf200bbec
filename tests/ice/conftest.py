"""Both sides' credentials, and checks with whatever is wrong with them."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TypeAlias
from zlib import crc32

import pytest

from discord_rtc.ice.credentials import IceCredentials

CheckMaker: TypeAlias = Callable[..., bytes]
"""Takes what `_make` takes."""


def _attribute(kind: int, value: bytes) -> bytes:
    head = kind.to_bytes(2, "big") + len(value).to_bytes(2, "big")
    return head + value + bytes(-len(value) & 3)


def _make(
    *,
    username: str | None = "serv:client",
    password: str | None = "the+password/of+server",
    role: int | None = 0x802A,  # ICE-CONTROLLING
    nominate: bool = False,
    extra: bytes = b"",
    kind: int = 0x0001,
    transaction: bytes = b"transaction!",
) -> bytes:
    """Write a check of the client for the server, byte by byte as RFC 8489 says."""
    body = b"" if username is None else _attribute(0x0006, username.encode())
    body += _attribute(0x0024, bytes.fromhex("6effffff"))
    if role is not None:
        body += _attribute(role, bytes(8))
    if nominate:
        body += _attribute(0x0025, b"")
    body += extra
    cookie = bytes.fromhex("2112a442") + transaction
    if password is not None:
        head = kind.to_bytes(2, "big") + (len(body) + 24).to_bytes(2, "big") + cookie
        body += _attribute(0x0008, hmac.digest(password.encode(), head + body, "sha1"))
    message = kind.to_bytes(2, "big") + (len(body) + 8).to_bytes(2, "big") + cookie + body
    return message + _attribute(0x8028, (crc32(message) ^ 0x5354554E).to_bytes(4, "big"))


@pytest.fixture
def check() -> CheckMaker:
    """Makes a check; without arguments one with nothing wrong."""
    return _make


@pytest.fixture
def server() -> IceCredentials:
    return IceCredentials("serv", "the+password/of+server")


@pytest.fixture
def client() -> IceCredentials:
    return IceCredentials("client", "password+of+the/client")
