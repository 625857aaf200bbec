"""Datagrams of all modes: layout, rejection, replays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.crypto.modes import MODES, create_cipher
from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.crypto.cipher import TransportCipher

    from .conftest import BuildRtp

EXTENDED = bytes.fromhex("90780001000003c011223344bede000110ff9002f8fffe")
CSRCS = bytes.fromhex("82780001000003c01122334400000001000000020102030405")
EVERYTHING = bytes.fromhex("b2f80001000003c0112233440000000100000002bede0002a1a2a3a4a5a6a7a8") + (
    b"payload\0\0\3"
)
SENDER_REPORT = bytes.fromhex("80c8000611223344e000000080000000000003c00000003200000fa0")


@pytest.fixture(params=tuple(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sender(mode: str, key: bytes) -> TransportCipher:
    return create_cipher(mode, key, side="client")


@pytest.fixture
def receiver(mode: str, key: bytes) -> TransportCipher:
    return create_cipher(mode, key, side="server")


def reason(unprotect: Callable[[bytes], bytes], datagram: bytes) -> str:
    with pytest.raises(RejectedPacket) as caught:
        unprotect(datagram)
    return caught.value.reason


@pytest.mark.parametrize(
    "packet", [EXTENDED, CSRCS, EVERYTHING, EXTENDED[:0] + b"\x80" + bytes(11)]
)
def test_rtp_comes_back_whole(
    sender: TransportCipher, receiver: TransportCipher, packet: bytes
) -> None:
    datagram = sender.protect_rtp(packet)
    assert len(datagram) == len(packet) + sender.overhead
    assert receiver.unprotect_rtp(datagram) == packet


def test_compound_rtcp_comes_back_whole(sender: TransportCipher, receiver: TransportCipher) -> None:
    for packet in (
        SENDER_REPORT,
        SENDER_REPORT + bytes.fromhex("81cb000111223344"),
        b"\x80\xc9" * 4,
    ):
        datagram = sender.protect_rtcp(packet)
        assert datagram[:8] == packet[:8]
        assert len(datagram) == len(packet) + sender.overhead
        assert receiver.unprotect_rtcp(datagram) == packet


def test_clear_part_is_what_the_mode_says(sender: TransportCipher, mode: str) -> None:
    datagram = sender.protect_rtp(EVERYTHING)
    clear = 12 + 2 * 4 + (4 if MODES[mode].rtpsize else 0)
    assert datagram[:clear] == EVERYTHING[:clear]
    assert EVERYTHING[clear : clear + 8] not in datagram


def test_both_directions_of_one_key_work_together(
    sender: TransportCipher, receiver: TransportCipher, build_rtp: BuildRtp
) -> None:
    forth, back = build_rtp(1, ssrc=1), build_rtp(1, ssrc=2)
    assert receiver.unprotect_rtp(sender.protect_rtp(forth)) == forth
    assert sender.unprotect_rtp(receiver.protect_rtp(back)) == back


@pytest.mark.parametrize("length", [0, 11, 12, 27])
def test_too_few_bytes_are_short(receiver: TransportCipher, length: int) -> None:
    assert reason(receiver.unprotect_rtp, (b"\x80" + bytes(40))[:length]) == "short"
    assert reason(receiver.unprotect_rtcp, (b"\x80" + bytes(40))[: min(length, 23)]) == "short"


def test_csrcs_that_leave_no_room_for_the_tag_are_short(receiver: TransportCipher) -> None:
    datagram = b"\x8f" + bytes(11 + 15 * 4 + receiver.overhead - 1)
    assert reason(receiver.unprotect_rtp, datagram) == "short"


def test_header_that_is_none_is_malformed(receiver: TransportCipher) -> None:
    assert reason(receiver.unprotect_rtp, bytes(100)) == "malformed"


def test_extension_longer_than_the_packet_is_malformed(
    sender: TransportCipher, receiver: TransportCipher
) -> None:
    packet = bytes.fromhex("90780001000003c011223344bede000210ff9002f8fffe")
    assert reason(receiver.unprotect_rtp, sender.protect_rtp(packet)) == "malformed"


def test_what_is_no_packet_is_not_protected(sender: TransportCipher) -> None:
    with pytest.raises(MalformedPacket):
        sender.protect_rtp(bytes(20))
    with pytest.raises(MalformedPacket):
        sender.protect_rtcp(bytes(7))


def test_other_key_is_refused(sender: TransportCipher, mode: str) -> None:
    other = create_cipher(mode, bytes(32), side="server")
    assert reason(other.unprotect_rtp, sender.protect_rtp(EXTENDED)) == "bad-auth"
    assert reason(other.unprotect_rtcp, sender.protect_rtcp(SENDER_REPORT)) == "bad-auth"


def test_replays_are_refused(
    sender: TransportCipher, receiver: TransportCipher, build_rtp: BuildRtp
) -> None:
    datagrams = [sender.protect_rtp(build_rtp(n)) for n in range(65_500, 65_600)]
    for datagram in datagrams:
        receiver.unprotect_rtp(datagram)
    assert {reason(receiver.unprotect_rtp, datagram) for datagram in datagrams} == {"replay"}
    report = sender.protect_rtcp(SENDER_REPORT)
    receiver.unprotect_rtcp(report)
    assert reason(receiver.unprotect_rtcp, report) == "replay"


def test_different_reports_are_no_replays(
    sender: TransportCipher, receiver: TransportCipher
) -> None:
    for count in range(5):
        packet = SENDER_REPORT[:-1] + bytes([count])
        assert receiver.unprotect_rtcp(sender.protect_rtcp(packet)) == packet


def test_rejected_datagrams_leave_no_trace(
    sender: TransportCipher, receiver: TransportCipher, build_rtp: BuildRtp
) -> None:
    genuine = sender.protect_rtp(build_rtp(100))
    forged = build_rtp(20_000) + bytes(receiver.overhead)
    assert reason(receiver.unprotect_rtp, forged) == "bad-auth"
    assert receiver.unprotect_rtp(genuine) == build_rtp(100)


@pytest.mark.parametrize(
    "mode", [mode for mode in MODES if MODES[mode].box.__name__ == "Secretbox"], indirect=True
)
def test_rewritten_header_does_not_revive_a_replay(
    sender: TransportCipher, receiver: TransportCipher, build_rtp: BuildRtp, mode: str
) -> None:
    datagram = sender.protect_rtp(build_rtp(1))
    receiver.unprotect_rtp(datagram)
    rewritten = datagram[:2] + b"\0\2" + datagram[4:]
    expected = "replay" if MODES[mode].suffix_length else "bad-auth"
    assert reason(receiver.unprotect_rtp, rewritten) == expected


@pytest.mark.parametrize("mode", [m for m in MODES if MODES[m].suffix_length == 4], indirect=True)
def test_exhaustion_stops_rtp_and_rtcp_for_good(mode: str, key: bytes, build_rtp: BuildRtp) -> None:
    cipher = create_cipher(mode, key, side="client", first_nonce=0x7FFF_FFFE)
    assert cipher.protect_rtp(build_rtp(1)).endswith(b"\x7f\xff\xff\xfe")
    assert cipher.protect_rtcp(SENDER_REPORT).endswith(b"\x7f\xff\xff\xff")
    for _ in range(2):
        with pytest.raises(NonceExhausted):
            cipher.protect_rtp(build_rtp(2))
        with pytest.raises(NonceExhausted):
            cipher.protect_rtcp(SENDER_REPORT)


def test_received_suffix_is_opaque(key: bytes, build_rtp: BuildRtp) -> None:
    little_endian = (7).to_bytes(4, "little")
    sender = create_cipher("aead_aes256_gcm_rtpsize", key, side="client", first_nonce=0x0700_0000)
    datagram = sender.protect_rtp(build_rtp(1))
    assert datagram.endswith(little_endian)
    receiver = create_cipher("aead_aes256_gcm_rtpsize", key, side="client")
    assert receiver.unprotect_rtp(datagram) == build_rtp(1)
