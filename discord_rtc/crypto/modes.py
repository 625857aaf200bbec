"""The transport encryption modes by their wire names. Sans-I/O. Spec: userdoccers, "Voice
Connections", encryption modes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.crypto.aead import AesGcm, XChaCha20Poly1305
from discord_rtc.crypto.cipher import Box, PacketCipher, TransportCipher
from discord_rtc.crypto.nonces import CounterNonces, Side
from discord_rtc.crypto.xsalsa20 import Secretbox
from discord_rtc.errors import NoCommonMode, UsageError
from discord_rtc.rtp.packet import clear_prefix_length, fixed_header_length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

KEY_LENGTH = 32
"""Bytes of ``secret_key``, in every mode."""


@dataclass(frozen=True, slots=True)
class CipherMode:
    """What distinguishes one mode from the others.

    Attributes:
        name: Name on the wire.
        box: Makes the authenticated cipher from a key.
        rtpsize: Whether the preamble of the RTP header extension stays clear.
        suffix_length: Bytes of nonce appended: 4 a counter, 24 random, 0 none (see `cipher`).
        live: Whether Discord's servers still offer it.
    """

    name: str
    box: Callable[[bytes], Box]
    rtpsize: bool
    suffix_length: int
    live: bool = False


MODES: Mapping[str, CipherMode] = MappingProxyType(
    {
        mode.name: mode
        for mode in (
            CipherMode("aead_aes256_gcm_rtpsize", AesGcm, rtpsize=True, suffix_length=4, live=True),
            CipherMode(
                "aead_xchacha20_poly1305_rtpsize",
                XChaCha20Poly1305,
                rtpsize=True,
                suffix_length=4,
                live=True,
            ),
            CipherMode("xsalsa20_poly1305_lite_rtpsize", Secretbox, rtpsize=True, suffix_length=4),
            CipherMode("aead_aes256_gcm", AesGcm, rtpsize=False, suffix_length=4),
            CipherMode("xsalsa20_poly1305_lite", Secretbox, rtpsize=False, suffix_length=4),
            CipherMode("xsalsa20_poly1305_suffix", Secretbox, rtpsize=False, suffix_length=24),
            CipherMode("xsalsa20_poly1305", Secretbox, rtpsize=False, suffix_length=0),
        )
    }
)
"""All seven, in order of preference."""

LIVE_MODES: tuple[str, ...] = tuple(mode.name for mode in MODES.values() if mode.live)
"""What is used unless something else is asked for; the preferred one first."""

DISCONTINUED_MODES: tuple[str, ...] = tuple(mode.name for mode in MODES.values() if not mode.live)
"""Refused by Discord since 18 November 2024 (close code 4016). Used only when asked for."""


def choose_mode(offered: Sequence[str], wanted: Sequence[str] = ()) -> str:
    """Choose the mode to select.

    Args:
        offered: ``modes`` of the server's Ready message.
        wanted: Modes to choose from, the best first; empty for `LIVE_MODES`. Naming a
            discontinued one is the opt-in for it.

    Raises:
        NoCommonMode: None of the wanted modes is both offered and known to this library.
    """
    wanted = wanted or LIVE_MODES
    for name in wanted:
        if name in offered and name in MODES:
            return name
    raise NoCommonMode(
        f"the server offers the encryption modes ({', '.join(offered)}), "
        f"usable here are ({', '.join(wanted)})"
    )


def create_cipher(
    mode: str, key: bytes, *, side: Side, first_nonce: int | None = None
) -> TransportCipher:
    """Build the cipher of one session.

    Args:
        mode: Wire name, a key of `MODES`.
        key: ``secret_key``, 32 bytes.
        side: Who protects here; client and server use different halves of the nonces.
        first_nonce: Where the counter starts, for tests of its end. Modes without a counter
            ignore it.

    Raises:
        NoCommonMode: The mode is unknown.
        UsageError: The key has another length, or ``first_nonce`` is not this side's.
    """
    if mode not in MODES:
        raise NoCommonMode(f"unknown encryption mode {mode!r:.60}")
    if len(key) != KEY_LENGTH:
        raise UsageError(f"a transport key has {KEY_LENGTH} bytes, not {len(key)}")
    choices = MODES[mode]
    return PacketCipher(
        mode,
        choices.box(key),
        clear_length=clear_prefix_length if choices.rtpsize else fixed_header_length,
        next_suffix=_suffixes(choices.suffix_length, side, first_nonce),
        suffix_length=choices.suffix_length,
    )


def _suffixes(length: int, side: Side, first_nonce: int | None) -> Callable[[], bytes]:
    if length == 4:
        return CounterNonces(side, first_nonce)
    # 24 random bytes do not collide before 2^80 packets or so; 0 of them are no suffix at all.
    return partial(os.urandom, length)
