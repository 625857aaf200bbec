"""Packets and keys that the tests of the transport protection share."""

from __future__ import annotations

import struct
from typing import Protocol

import pytest


class BuildRtp(Protocol):
    """Builds a plain RTP packet without this library's help."""

    def __call__(
        self, sequence: int = 0, *, ticks: int | None = None, ssrc: int = 7, payload: bytes = b"pay"
    ) -> bytes: ...


@pytest.fixture
def key() -> bytes:
    return bytes(range(32))


@pytest.fixture
def build_rtp() -> BuildRtp:
    def build(
        sequence: int = 0, *, ticks: int | None = None, ssrc: int = 7, payload: bytes = b"pay"
    ) -> bytes:
        ticks = (960 * sequence if ticks is None else ticks) & 0xFFFF_FFFF
        return struct.pack("!BBHII", 0x80, 0x78, sequence & 0xFFFF, ticks, ssrc) + payload

    return build
