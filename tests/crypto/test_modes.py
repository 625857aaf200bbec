"""The seven modes: names, choice, and known answers made by other libraries."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.secret import SecretBox

from discord_rtc.crypto.modes import (
    DISCONTINUED_MODES,
    LIVE_MODES,
    MODES,
    choose_mode,
    create_cipher,
)
from discord_rtc.errors import NoCommonMode, UsageError

EXTENDED = bytes.fromhex("90780001000003c011223344bede000110ff9002f8fffe")
PLAIN = bytes.fromhex("80780001000003c011223344f8fffe")
SENDER_REPORT = bytes.fromhex("80c8000611223344e000000080000000000003c00000003200000fa0")
ONE = bytes.fromhex("00000001")

# Known answers, all with nonce suffix 00000001 but the report, which has 00000002.
AES_GCM_RTPSIZE = (
    "90780001000003c011223344bede000154c95da8f4a50ad27c7508d1abf874f781a3ad432cbb6300000001"
)
XCHACHA_RTPSIZE = (
    "90780001000003c011223344bede00011958c12297ff6fe51e7300f11fea053be949351bbf4f4400000001"
)
REPORT_AES_GCM = (
    "80c80006112233444c7c5ace1200f62e5b40064c05015e622311869b684ebcc8f2729595ada7246c18bfba58"
    "00000002"
)
XSALSA = "80780001000003c01122334488255fcb72df87d40e95eaca46a06f82a266d1"
XSALSA_LITE = "80780001000003c011223344373c50ba1774f0dedb75d5fd7d64251236542b00000001"


@pytest.mark.parametrize(
    ("mode", "packet", "datagram"),
    [
        ("aead_aes256_gcm_rtpsize", EXTENDED, AES_GCM_RTPSIZE),
        ("aead_xchacha20_poly1305_rtpsize", EXTENDED, XCHACHA_RTPSIZE),
        ("xsalsa20_poly1305", PLAIN, XSALSA),
        ("xsalsa20_poly1305_lite", PLAIN, XSALSA_LITE),
    ],
)
def test_known_answer(mode: str, packet: bytes, datagram: str, key: bytes) -> None:
    cipher = create_cipher(mode, key, side="client", first_nonce=1)
    assert cipher.protect_rtp(packet).hex() == datagram
    assert cipher.unprotect_rtp(bytes.fromhex(datagram)) == packet


def test_known_answer_of_a_report(key: bytes) -> None:
    cipher = create_cipher("aead_aes256_gcm_rtpsize", key, side="client", first_nonce=2)
    assert cipher.protect_rtcp(SENDER_REPORT).hex() == REPORT_AES_GCM
    assert cipher.unprotect_rtcp(bytes.fromhex(REPORT_AES_GCM)) == SENDER_REPORT


def test_lite_rtpsize_is_a_secretbox_behind_the_preamble(key: bytes) -> None:
    box = SecretBox(key).encrypt(EXTENDED[16:], ONE + bytes(20)).ciphertext
    cipher = create_cipher("xsalsa20_poly1305_lite_rtpsize", key, side="client", first_nonce=1)
    assert cipher.protect_rtp(EXTENDED) == EXTENDED[:16] + box + ONE


def test_suffix_is_a_secretbox_with_its_nonce_behind(key: bytes) -> None:
    cipher = create_cipher("xsalsa20_poly1305_suffix", key, side="client")
    for packet, clear in ((EXTENDED, 12), (PLAIN, 12)):
        datagram = cipher.protect_rtp(packet)
        header, box, nonce = datagram[:clear], datagram[clear:-24], datagram[-24:]
        assert header + SecretBox(key).decrypt(box, nonce) == packet


def test_suffixes_are_random(key: bytes) -> None:
    cipher = create_cipher("xsalsa20_poly1305_suffix", key, side="client")
    assert len({cipher.protect_rtp(PLAIN)[-24:] for _ in range(100)}) == 100


def test_aead_without_rtpsize_seals_the_whole_extension(key: bytes) -> None:
    packet = b"\x92" + EXTENDED[1:12] + b"CSRCcsrc" + EXTENDED[12:]
    sealed = AESGCM(key).encrypt(ONE + bytes(8), packet[20:], packet[:20])
    cipher = create_cipher("aead_aes256_gcm", key, side="client", first_nonce=1)
    assert cipher.protect_rtp(packet) == packet[:20] + sealed + ONE


def test_lite_and_header_modes_seal_the_whole_extension(key: bytes) -> None:
    lite = create_cipher("xsalsa20_poly1305_lite", key, side="client", first_nonce=1)
    box = SecretBox(key).encrypt(EXTENDED[12:], ONE + bytes(20)).ciphertext
    assert lite.protect_rtp(EXTENDED) == EXTENDED[:12] + box + ONE
    oldest = create_cipher("xsalsa20_poly1305", key, side="client")
    box = SecretBox(key).encrypt(EXTENDED[12:], EXTENDED[:12] + bytes(12)).ciphertext
    assert oldest.protect_rtp(EXTENDED) == EXTENDED[:12] + box


@pytest.mark.parametrize(
    ("mode", "nonce"),
    [
        ("xsalsa20_poly1305", SENDER_REPORT[:8] + bytes(16)),
        ("xsalsa20_poly1305_lite", ONE + bytes(20)),
        ("xsalsa20_poly1305_lite_rtpsize", ONE + bytes(20)),
    ],
)
def test_reports_of_the_discontinued_modes(mode: str, nonce: bytes, key: bytes) -> None:
    box = SecretBox(key).encrypt(SENDER_REPORT[8:], nonce).ciphertext
    datagram = create_cipher(mode, key, side="client", first_nonce=1).protect_rtcp(SENDER_REPORT)
    assert datagram.startswith(SENDER_REPORT[:8] + box)


def test_overhead_is_tag_and_suffix(key: bytes) -> None:
    assert {name: create_cipher(name, key, side="client").overhead for name in MODES} == {
        "aead_aes256_gcm_rtpsize": 20,
        "aead_xchacha20_poly1305_rtpsize": 20,
        "xsalsa20_poly1305_lite_rtpsize": 20,
        "aead_aes256_gcm": 20,
        "xsalsa20_poly1305_lite": 20,
        "xsalsa20_poly1305_suffix": 40,
        "xsalsa20_poly1305": 16,
    }


def test_cipher_knows_its_mode(key: bytes) -> None:
    assert all(create_cipher(name, key, side="server").mode == name for name in MODES)


def test_live_modes_are_the_two_that_discord_offers() -> None:
    assert LIVE_MODES == ("aead_aes256_gcm_rtpsize", "aead_xchacha20_poly1305_rtpsize")
    assert set(LIVE_MODES) | set(DISCONTINUED_MODES) == set(MODES)
    assert len(DISCONTINUED_MODES) == 5


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (tuple(MODES), (), "aead_aes256_gcm_rtpsize"),
        (tuple(MODES)[::-1], (), "aead_aes256_gcm_rtpsize"),
        (("new_mode", "aead_xchacha20_poly1305_rtpsize"), (), "aead_xchacha20_poly1305_rtpsize"),
        (tuple(MODES), ("xsalsa20_poly1305", "aead_aes256_gcm"), "xsalsa20_poly1305"),
        (LIVE_MODES, ("xsalsa20_poly1305", *LIVE_MODES[1:]), "aead_xchacha20_poly1305_rtpsize"),
    ],
)
def test_choice(offered: tuple[str, ...], wanted: tuple[str, ...], chosen: str) -> None:
    assert choose_mode(offered, wanted) == chosen


@pytest.mark.parametrize(
    ("offered", "wanted"),
    [
        (DISCONTINUED_MODES, ()),
        (LIVE_MODES, ("xsalsa20_poly1305",)),
        (("new_mode",), ("new_mode",)),
        ((), ()),
    ],
)
def test_no_choice_names_both_lists(offered: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    with pytest.raises(NoCommonMode) as caught:
        choose_mode(offered, wanted)
    assert all(name in str(caught.value) for name in (*offered, *(wanted or LIVE_MODES)))


def test_unknown_mode_and_wrong_key_are_refused(key: bytes) -> None:
    with pytest.raises(NoCommonMode, match="rot13"):
        create_cipher("rot13", key, side="client")
    with pytest.raises(UsageError, match="32"):
        create_cipher(LIVE_MODES[0], key[:31], side="client")
