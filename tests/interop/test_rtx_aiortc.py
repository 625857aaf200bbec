"""Retransmissions against aiortc's own, in both directions (RFC 4588)."""

from __future__ import annotations

import pytest
from aiortc import rtp as theirs

from discord_rtc.rtp.history import Retransmitter, original_sequence, unwrap_rtx, wrap_rtx
from discord_rtc.rtp.packet import RtpPacket, parse_rtp

pytestmark = pytest.mark.interop

_EXTENSIONS = theirs.HeaderExtensionsMap()
_ORIGINAL = RtpPacket(101, 0xFFFE, 2**32 - 1, 7, b"body", True, (8, 9))


def test_both_make_the_same_retransmission() -> None:
    original = theirs.RtpPacket.parse(_ORIGINAL.to_bytes())
    again = theirs.wrap_rtx(original, payload_type=102, sequence_number=5, ssrc=8)
    assert wrap_rtx(_ORIGINAL, 8, 102, 5).to_bytes() == again.serialize(_EXTENSIONS)
    assert Retransmitter(8, 102, 5, b"").packet(_ORIGINAL) == again.serialize(_EXTENSIONS)


def test_aiortc_restores_our_packets() -> None:
    again = theirs.RtpPacket.parse(wrap_rtx(_ORIGINAL, 8, 102, 5).to_bytes())
    restored = theirs.unwrap_rtx(again, payload_type=101, ssrc=7)
    assert parse_rtp(restored.serialize(_EXTENSIONS)) == _ORIGINAL


def test_we_restore_theirs() -> None:
    original = theirs.RtpPacket.parse(_ORIGINAL.to_bytes())
    data = theirs.wrap_rtx(original, payload_type=102, sequence_number=5, ssrc=8).serialize()
    again = parse_rtp(data)
    assert original_sequence(again) == _ORIGINAL.sequence
    assert unwrap_rtx(again, 7, 101) == _ORIGINAL
