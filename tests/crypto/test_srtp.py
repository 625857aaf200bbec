"""SRTP by libsrtp against the RFCs' packets; what becomes of duplicates, wraps and forgeries."""

from __future__ import annotations

import hmac
import random
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pylibsrtp
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from discord_rtc.crypto import srtp
from discord_rtc.crypto.srtp import (
    MAX_PACKET,
    MAX_RTCP_PACKET,
    MAX_SSRCS,
    REJECTIONS,
    WINDOW,
    SrtpCipher,
    SrtpKeys,
    SrtpProfile,
    protect_failure,
)
from discord_rtc.errors import MalformedPacket, NonceExhausted, RejectedPacket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from discord_rtc.crypto.cipher import TransportCipher

every_profile = pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)

GCM_128 = SrtpProfile.AEAD_AES_128_GCM
GCM_256 = SrtpProfile.AEAD_AES_256_GCM
CM = SrtpProfile.AES128_CM_SHA1_80


def unhex(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


def rtp(sequence: int, *, ssrc: int = 7, payload: bytes = b"payload") -> bytes:
    ticks = 960 * sequence & 0xFFFF_FFFF
    return struct.pack("!BBHII", 0x80, 0x78, sequence & 0xFFFF, ticks, ssrc) + payload


def rtcp(ssrc: int = 7, payload: bytes = bytes(20)) -> bytes:
    return struct.pack("!BBHI", 0x80, 200, 6, ssrc) + payload


def make_keys(profile: SrtpProfile = GCM_128, seed: int = 1) -> SrtpKeys:
    length = profile.key_length + profile.salt_length
    dice = random.Random(seed)
    return SrtpKeys(profile, dice.randbytes(length), dice.randbytes(length))


def make_pair(profile: SrtpProfile = GCM_128) -> tuple[SrtpCipher, SrtpCipher]:
    keys = make_keys(profile)
    return SrtpCipher(keys, side="client"), SrtpCipher(keys, side="server")


# --- the witness: SRTP once more, from the RFCs, for the first rollover counters only ------------


def aes_ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    return cipher.update(data) + cipher.finalize()


def derive(key: bytes, salt: bytes, label: int, length: int) -> bytes:
    """RFC 3711 section 4.3 with a key derivation rate of 0; RFC 7714 section 11 for its salts."""
    salt = salt.ljust(14, b"\0")
    counter = int.from_bytes(salt, "big") ^ label << 48
    return aes_ctr(key, (counter << 16).to_bytes(16, "big"), bytes(length))


@dataclass
class ReferenceSrtp:
    """Session keys of one direction and the transforms of RFC 3711 and RFC 7714."""

    key: bytes
    salt: bytes
    authentication: bytes = b""  # of AES_CM

    @classmethod
    def from_master(cls, profile: SrtpProfile, master: bytes, *, control: bool) -> ReferenceSrtp:
        key, salt = master[: profile.key_length], master[profile.key_length :]
        first = 3 if control else 0  # RFC 3711 section 4.3.2
        return cls(
            derive(key, salt, first, profile.key_length),
            derive(key, salt, first + 2, profile.salt_length),
            derive(key, salt, first + 1, 20) if profile is CM else b"",
        )

    def protect_rtp(self, packet: bytes, rollovers: int, header: int = 12) -> bytes:
        ssrc, index = packet[8:12], rollovers.to_bytes(4, "big") + packet[2:4]
        clear, body = packet[:header], packet[header:]
        if not self.authentication:
            return clear + AESGCM(self.key).encrypt(self._nonce(ssrc, index), body, clear)
        sealed = clear + aes_ctr(self.key, self._counter(ssrc, index), body)
        return sealed + self._tag(sealed + index[:4])

    def protect_rtcp(self, packet: bytes, index: int) -> bytes:
        ssrc, number = packet[4:8], index.to_bytes(6, "big")
        word = (1 << 31 | index).to_bytes(4, "big")  # E bit and index
        clear, body = packet[:8], packet[8:]
        if not self.authentication:
            nonce = self._nonce(ssrc, number)
            return clear + AESGCM(self.key).encrypt(nonce, body, clear + word) + word
        sealed = clear + aes_ctr(self.key, self._counter(ssrc, number), body) + word
        return sealed + self._tag(sealed)

    def _nonce(self, ssrc: bytes, index: bytes) -> bytes:  # RFC 7714 sections 8.1 and 9.1
        plain = int.from_bytes(ssrc + index, "big")
        return (plain ^ int.from_bytes(self.salt, "big")).to_bytes(12, "big")

    def _counter(self, ssrc: bytes, index: bytes) -> bytes:  # RFC 3711 section 4.1.1
        parts = (self.salt + b"\0\0", ssrc + bytes(8), index + b"\0\0")
        number = 0
        for part in parts:
            number ^= int.from_bytes(part, "big")
        return number.to_bytes(16, "big")

    def _tag(self, data: bytes) -> bytes:
        return hmac.digest(self.authentication, data, "sha1")[:10]


def test_reference_derives_the_keys_of_rfc_3711_appendix_b_3() -> None:
    key = unhex("E1F97A0D3E018BE0D64FA32C06DE4139")
    salt = unhex("0EC675AD498AFEEBB6960B3AABE6")
    assert derive(key, salt, 0, 16) == unhex("C61E7A93744F39EE10734AFE3FF7A087")
    assert derive(key, salt, 2, 14) == unhex("30CBBC08863D8C85D49DB34A9AE1")
    assert derive(key, salt, 1, 20) == unhex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")


RFC_7714_SALT = b"Quid pro quo"  # section 16: session salt, as the keys are session keys
RFC_7714_RTP = unhex("8040f17b8041f8d35501a0b2") + b"Gallia est omnis divisa in partes tres"
RFC_7714_RTCP = unhex(
    "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61",
    "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
)


@pytest.mark.parametrize(
    ("key_length", "protected"),
    [
        (  # section 16.1.1
            16,
            "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a"
            "51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
        ),
        (  # section 16.2.1
            32,
            "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a02"
            "76ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ],
)
def test_reference_protects_rtp_as_rfc_7714_section_16(key_length: int, protected: str) -> None:
    reference = ReferenceSrtp(bytes(range(key_length)), RFC_7714_SALT)
    assert reference.protect_rtp(RFC_7714_RTP, 0) == unhex(protected)


@pytest.mark.parametrize(
    ("key_length", "protected"),
    [
        (  # section 17.1
            16,
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda"
            "4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        ),
        (  # section 17.2
            32,
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be"
            "8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        ),
    ],
)
def test_reference_protects_rtcp_as_rfc_7714_section_17(key_length: int, protected: str) -> None:
    reference = ReferenceSrtp(bytes(range(key_length)), RFC_7714_SALT)
    assert reference.protect_rtcp(RFC_7714_RTCP, 0x5D4) == unhex(protected)


# libsrtp's own packets, which also pin our use of its profiles: test/srtp_driver.c, srtp_validate
# and srtp_validate_gcm of libsrtp 2.
LIBSRTP_RTP = unhex("800f1234decafbadcafebabe") + b"\xab" * 16
LIBSRTP_RTCP = unhex("81c8000bcafebabe") + b"\xab" * 16
LIBSRTP_PACKETS = [
    (
        CM,
        unhex("e1f97a0d3e018be0d64fa32c06de4139", "0ec675ad498afeebb6960b3aabe6"),
        "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb",
        "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798",
    ),
    (
        GCM_128,
        bytes(range(16)) + bytes(range(0xA0, 0xAC)),
        "800f1234decafbadcafebabec5002ede04cfdd2eb91159e0880aa06ed2976826f796b201df3131a127e8a392",
        "81c8000bcafebabec98b8b5df0392a55852b6c21ac8e7025c52c6fbea2b3b446ea31123ba88ce61e80000001",
    ),
]


@pytest.mark.parametrize(("profile", "master", "sealed_rtp", "sealed_rtcp"), LIBSRTP_PACKETS)
def test_reference_and_cipher_make_libsrtps_own_packets(
    profile: SrtpProfile, master: bytes, sealed_rtp: str, sealed_rtcp: str
) -> None:
    cipher = SrtpCipher(SrtpKeys(profile, master, master), side="client")
    assert cipher.protect_rtp(LIBSRTP_RTP).hex() == sealed_rtp
    assert cipher.protect_rtcp(LIBSRTP_RTCP).hex() == sealed_rtcp
    media = ReferenceSrtp.from_master(profile, master, control=False)
    assert media.protect_rtp(LIBSRTP_RTP, 0).hex() == sealed_rtp
    control = ReferenceSrtp.from_master(profile, master, control=True)
    assert control.protect_rtcp(LIBSRTP_RTCP, 1).hex() == sealed_rtcp


@every_profile
def test_cipher_protects_as_the_reference_does_over_a_wrap(profile: SrtpProfile) -> None:
    keys = make_keys(profile)
    client, server = SrtpCipher(keys, side="client"), SrtpCipher(keys, side="server")
    for cipher, master in ((client, keys.client), (server, keys.server)):
        media = ReferenceSrtp.from_master(profile, master, control=False)
        for index in (65_533, 65_535, 65_536, 65_534, 65_537):
            assert cipher.protect_rtp(rtp(index)) == media.protect_rtp(rtp(index), index >> 16)
        control = ReferenceSrtp.from_master(profile, master, control=True)
        for index in (1, 2, 3):
            assert cipher.protect_rtcp(rtcp()) == control.protect_rtcp(rtcp(), index)


@every_profile
def test_header_with_csrcs_and_extension_stays_clear(profile: SrtpProfile) -> None:
    keys = make_keys(profile)
    packet = unhex("92780005", "00000001", "00000007", "0000000800000009", "bede0001", "10ff0000")
    packet += b"payload"
    media = ReferenceSrtp.from_master(profile, keys.client, control=False)
    datagram = SrtpCipher(keys, side="client").protect_rtp(packet)
    assert datagram == media.protect_rtp(packet, 0, header=28)
    assert SrtpCipher(keys, side="server").unprotect_rtp(datagram) == packet


# --- keys and profiles ---------------------------------------------------------------------------


def test_profiles_are_in_order_of_preference_and_known_to_openssl() -> None:
    assert [profile.openssl_name for profile in SrtpProfile] == [
        "SRTP_AEAD_AES_256_GCM",
        "SRTP_AEAD_AES_128_GCM",
        "SRTP_AES128_CM_SHA1_80",
    ]


@every_profile
def test_key_lengths_are_those_of_libsrtp(profile: SrtpProfile) -> None:
    length = profile.key_length + profile.salt_length
    pylibsrtp.Policy(key=bytes(length), srtp_profile=profile.libsrtp)
    with pytest.raises(ValueError, match=f"at least {length} bytes"):
        pylibsrtp.Policy(key=bytes(length - 1), srtp_profile=profile.libsrtp)


@every_profile
def test_exported_material_is_both_keys_then_both_salts(profile: SrtpProfile) -> None:
    key, salt = profile.key_length, profile.salt_length
    material = b"C" * key + b"S" * key + b"c" * salt + b"s" * salt
    keys = SrtpKeys.from_exported(profile, material)
    assert keys == SrtpKeys(profile, b"C" * key + b"c" * salt, b"S" * key + b"s" * salt)


def test_keys_do_not_show() -> None:
    assert "client" not in repr(make_keys())
    assert "server" not in repr(make_keys())


# --- the face of a transport cipher --------------------------------------------------------------


@every_profile
def test_both_directions_round_trip(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    sides: list[tuple[TransportCipher, TransportCipher]] = [(client, server), (server, client)]
    for sender, receiver in sides:
        assert sender.mode == profile.name
        datagram = sender.protect_rtp(rtp(5))
        assert len(datagram) == len(rtp(5)) + sender.overhead
        assert receiver.unprotect_rtp(datagram) == rtp(5)
        assert receiver.unprotect_rtcp(sender.protect_rtcp(rtcp())) == rtcp()


@every_profile
def test_a_packet_that_is_all_header_round_trips(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    assert server.unprotect_rtp(client.protect_rtp(rtp(5, payload=b""))) == rtp(5, payload=b"")
    assert server.unprotect_rtcp(client.protect_rtcp(rtcp(payload=b""))) == rtcp(payload=b"")


@every_profile
def test_own_packets_sent_back_do_not_authenticate(profile: SrtpProfile) -> None:
    client, _ = make_pair(profile)
    assert outcome(client, client.protect_rtp(rtp(5))) == "bad-auth"


@every_profile
def test_any_spoiled_byte_is_bad_auth_and_harms_nothing(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    datagram = client.protect_rtp(rtp(5))
    control = client.protect_rtcp(rtcp())
    for at in range(len(datagram)):
        spoiled = datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :]
        assert outcome(server, spoiled) == "bad-auth"
    for at in range(len(control)):
        spoiled = control[:at] + bytes([control[at] ^ 0x80]) + control[at + 1 :]
        assert control_outcome(server, spoiled) == "bad-auth"
    assert server.unprotect_rtp(datagram) == rtp(5)
    assert server.unprotect_rtcp(control) == rtcp()


def outcome(cipher: SrtpCipher, datagram: bytes) -> str:
    try:
        cipher.unprotect_rtp(datagram)
    except RejectedPacket as rejected:
        return rejected.reason
    return "accepted"


def control_outcome(cipher: SrtpCipher, datagram: bytes) -> str:
    try:
        cipher.unprotect_rtcp(datagram)
    except RejectedPacket as rejected:
        return rejected.reason
    return "accepted"


@every_profile
def test_short_and_malformed_datagrams_are_told_apart(profile: SrtpProfile) -> None:
    _, cipher = make_pair(profile)
    shortest = 12 + cipher.overhead
    extension = b"\x90" + rtp(1, payload=b"")[1:] + b"\xbe\xde\0\1" + bytes(4)
    assert outcome(cipher, b"") == "short"
    assert outcome(cipher, rtp(1, payload=bytes(shortest - 12 - 1))) == "short"
    assert outcome(cipher, rtp(1, payload=bytes(shortest - 12))) == "bad-auth"
    assert outcome(cipher, b"\x40" + bytes(shortest)) == "malformed"
    assert outcome(cipher, b"\x90" + bytes(11) + b"\xbe\xde\xff\xff" + bytes(60)) == "malformed"
    assert outcome(cipher, extension + bytes(cipher.overhead - 8)) == "short"
    assert outcome(cipher, rtp(1, payload=bytes(1500))) == "malformed"
    assert control_outcome(cipher, rtcp(payload=bytes(4 + cipher.overhead - 1))) == "short"
    assert control_outcome(cipher, rtcp(payload=bytes(1500))) == "malformed"


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        rtp(1)[:11],
        b"\x40" + rtp(1)[1:],
        b"\x81" + rtp(1, payload=b"")[1:],
        b"\x90" + rtp(1)[1:12] + b"\xbe\xde\0\2" + bytes(4),
        rtp(1, payload=bytes(MAX_PACKET - 11)),
    ],
)
def test_what_is_not_an_rtp_packet_is_not_protected(packet: bytes) -> None:
    client, _ = make_pair()
    with pytest.raises(MalformedPacket):
        client.protect_rtp(packet)


@pytest.mark.parametrize("packet", [b"", bytes(7), rtcp(payload=bytes(MAX_RTCP_PACKET - 7))])
def test_what_is_not_rtcp_is_not_protected(packet: bytes) -> None:
    client, _ = make_pair()
    with pytest.raises(MalformedPacket, match=f"8 to {MAX_RTCP_PACKET} bytes"):
        client.protect_rtcp(packet)


@every_profile
def test_longest_packets_make_the_round_trip(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    long_rtp, long_rtcp = (
        rtp(1, payload=bytes(MAX_PACKET - 12)),
        rtcp(payload=bytes(MAX_RTCP_PACKET - 8)),
    )
    assert server.unprotect_rtp(client.protect_rtp(long_rtp)) == long_rtp
    assert server.unprotect_rtcp(client.protect_rtcp(long_rtcp)) == long_rtcp


def test_what_libsrtp_says_is_known_to_it() -> None:
    assert set(REJECTIONS) <= set(pylibsrtp.ERRORS)
    assert set(REJECTIONS.values()) == {"bad-auth", "replay", "late"}
    # 2^48 packets cannot be sent in a test
    assert "can't use key any more" in pylibsrtp.ERRORS
    assert isinstance(protect_failure("can't use key any more"), NonceExhausted)
    assert str(protect_failure("anything else")) == "anything else"


# --- replay, order, wraps ------------------------------------------------------------------------


@every_profile
def test_replays_are_refused(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    datagram, control = client.protect_rtp(rtp(5)), client.protect_rtcp(rtcp())
    assert [outcome(server, datagram) for _ in range(3)] == ["accepted", "replay", "replay"]
    assert [control_outcome(server, control) for _ in range(2)] == ["accepted", "replay"]


def test_receiver_takes_reordered_packets_within_its_window() -> None:
    client, server = make_pair()
    datagrams = {n: client.protect_rtp(rtp(n)) for n in range(3000)}
    assert outcome(server, datagrams[2000]) == "accepted"
    assert outcome(server, datagrams[2000 - WINDOW + 1]) == "accepted"
    assert outcome(server, datagrams[2000 - WINDOW]) == "late"
    order = list(range(2001, 3000))
    random.Random(3).shuffle(order)
    assert {outcome(server, datagrams[n]) for n in order} == {"accepted"}
    assert {outcome(server, datagrams[n]) for n in order} == {"replay"}


def test_old_control_packets_are_late() -> None:
    client, server = make_pair()
    controls = [client.protect_rtcp(rtcp()) for _ in range(200)]
    assert control_outcome(server, controls[-1]) == "accepted"
    assert control_outcome(server, controls[0]) == "late"


@every_profile
def test_no_sequence_number_is_protected_twice(profile: SrtpProfile) -> None:
    """The nonce would be the same: with another payload the key stream would be given away."""
    client, server = make_pair(profile)
    server.unprotect_rtp(client.protect_rtp(rtp(5)))
    for again in (rtp(5), rtp(5, payload=b"another")):
        with pytest.raises(MalformedPacket, match="replay check failed"):
            client.protect_rtp(again)
    assert server.unprotect_rtp(client.protect_rtp(rtp(6))) == rtp(6)


def forward(indices: Iterable[int], lost: frozenset[int] = frozenset()) -> dict[str, list[int]]:
    """Forward packets in this order and say what became of each."""
    client, server = make_pair()
    outcomes: dict[str, list[int]] = {}
    for index in indices:
        try:
            datagram = client.protect_rtp(rtp(index))
        except MalformedPacket:
            outcomes.setdefault("refused", []).append(index)
            continue
        if index not in lost:
            outcomes.setdefault(outcome(server, datagram), []).append(index)
    return outcomes


def test_reordered_and_duplicated_packets_are_forwarded_once() -> None:
    assert forward([5, 7, 6, 6, 7, 8]) == {"accepted": [5, 7, 6, 8], "refused": [6, 7]}


def test_reordering_around_a_wrap_is_forwarded() -> None:
    order = [65_530, 65_533, 65_536, 65_531, 65_538, 65_535, 65_534, 65_537, 65_532, 65_539]
    assert forward(order) == {"accepted": order}
    missing = frozenset({65_535, 65_536, 65_530})
    assert forward(order, missing) == {"accepted": [n for n in order if n not in missing]}


def test_several_wraps_with_reordering_and_loss() -> None:
    dice = random.Random(9)
    order = list(range(60_000, 330_000, 11))
    for at in range(0, len(order) - 8, 8):
        block = order[at : at + 8]
        dice.shuffle(block)
        order[at : at + 8] = block
    lost = frozenset(dice.sample(order, len(order) // 10))
    # The very first packet settles which wrap it is; over the wrap the older ones are refused.
    assert forward(order, lost) == {"accepted": [n for n in order if n not in lost]}


def test_packets_from_before_the_first_one_do_not_cost_the_stream() -> None:
    """A receiver who lost 65535 would otherwise never read the stream again."""
    order = [65_536, 65_535, 65_537, 65_534, 65_538]
    expected = {"accepted": [65_536, 65_537, 65_538], "refused": [65_535, 65_534]}
    assert forward(order) == expected
    assert forward(order, frozenset({65_535, 65_534})) == expected


def test_packets_from_before_the_first_one_pass_where_there_is_no_wrap() -> None:
    order = [3, 1, 0, 2, 5000, 4990]
    assert forward(order) == {"accepted": order}


def test_jump_over_half_the_numbers_is_a_jump_back_from_the_start() -> None:
    most = 0x7FFF
    leaps = [5, 5 + most, 5 + 2 * most, 5 + 3 * most]
    assert forward(leaps) == {"accepted": leaps}
    assert forward([5, 7 + most, 6]) == {"accepted": [5, 6], "refused": [7 + most]}
    assert forward([5, 9, 11 + most, 10]) == {"accepted": [5, 9, 10], "refused": [11 + most]}


def test_restart_further_ahead_is_followed_and_one_further_back_refused() -> None:
    assert forward([40_000, 60_000, 60_001]) == {"accepted": [40_000, 60_000, 60_001]}
    assert forward([40_000, 30_000, 30_001, 40_001]) == {
        "accepted": [40_000, 40_001],
        "refused": [30_000, 30_001],
    }


# --- many streams --------------------------------------------------------------------------------


def resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@every_profile
def test_forged_ssrcs_leave_no_memory_behind(profile: SrtpProfile) -> None:
    client, server = make_pair(profile)
    server.unprotect_rtp(client.protect_rtp(rtp(1)))
    tail = random.Random(1).randbytes(60)
    reasons: Counter[str] = Counter()
    for ssrc in range(2000):  # whatever is allocated once
        reasons[outcome(server, rtp(1, ssrc=ssrc + 8, payload=tail))] += 1
    before = resident_memory()
    for ssrc in range(20_000):
        reasons[outcome(server, rtp(1, ssrc=0x10000 + ssrc, payload=tail))] += 1
        reasons[control_outcome(server, rtcp(0x10000 + ssrc, tail))] += 1
    assert reasons == {"bad-auth": 42_000}
    assert resident_memory() - before < 2_000_000  # streams would take 480 bytes each
    assert outcome(server, client.protect_rtp(rtp(2))) == "accepted"


def test_receiver_forgets_the_longest_silent_stream_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp, "MAX_SSRCS", 4)
    keys = make_keys()
    server = SrtpCipher(keys, side="server")

    def heard(ssrc: int, sequence: int) -> str:  # always the first of a new sender's stream
        return outcome(
            server, SrtpCipher(keys, side="client").protect_rtp(rtp(sequence, ssrc=ssrc))
        )

    assert [heard(ssrc, 1) for ssrc in (1, 2, 3, 4)] == ["accepted"] * 4
    assert heard(1, 2) == "accepted"  # so that 2 is the longest silent one
    control = SrtpCipher(keys, side="client").protect_rtcp(rtcp(5))
    assert control_outcome(server, control) == "accepted"
    assert [heard(ssrc, 1) for ssrc in (1, 3, 4)] == ["replay"] * 3
    assert control_outcome(server, control) == "replay"
    assert heard(2, 1) == "accepted"


def test_sender_never_forgets_a_stream_and_wants_a_fresh_key_in_the_end() -> None:
    client, server = make_pair()
    for ssrc in range(MAX_SSRCS - 1):
        server.unprotect_rtp(client.protect_rtp(rtp(1, ssrc=ssrc)))
    server.unprotect_rtcp(client.protect_rtcp(rtcp(MAX_SSRCS)))
    with pytest.raises(NonceExhausted):
        client.protect_rtp(rtp(1, ssrc=MAX_SSRCS + 1))
    with pytest.raises(NonceExhausted):
        client.protect_rtcp(rtcp(MAX_SSRCS + 1))
    for packet in (rtp(2, ssrc=0), rtp(1, ssrc=MAX_SSRCS)):  # the known ones go on
        assert server.unprotect_rtp(client.protect_rtp(packet)) == packet
    with pytest.raises(MalformedPacket):
        client.protect_rtp(rtp(1, ssrc=0))
