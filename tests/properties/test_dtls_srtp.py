"""Property: no datagram makes DTLS raise, none but the peer's own brings keys; SRTP comes off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discord_rtc.crypto.certificate import Certificate, Fingerprint, parse_fingerprint
from discord_rtc.crypto.dtls import DtlsEndpoint, DtlsEvent, KeysAgreed, PeerClosed
from discord_rtc.crypto.records import pack_records, screen_records
from discord_rtc.crypto.srtp import MAX_PACKET, SrtpCipher, SrtpKeys, SrtpProfile
from discord_rtc.errors import MalformedPacket, MalformedSdp, RejectedPacket

CLIENT, SERVER = Certificate.generate(), Certificate.generate()
REASONS = {"short", "malformed", "bad-auth"}

profiles = st.sampled_from(list(SrtpProfile))


def make_ciphers(profile: SrtpProfile) -> tuple[SrtpCipher, SrtpCipher]:
    length = profile.key_length + profile.salt_length
    keys = SrtpKeys(profile, bytes(range(length)), bytes(range(1, length + 1)))
    return SrtpCipher(keys, side="client"), SrtpCipher(keys, side="server")


@st.composite
def rtp_packets(draw: st.DrawFn) -> bytes:
    csrcs = draw(st.integers(0, 15))
    extension = draw(st.none() | st.binary(max_size=80).map(lambda data: data[: len(data) & ~3]))
    head = bytes([0x80 | csrcs | (0 if extension is None else 0x10)])
    head += draw(st.binary(min_size=11 + 4 * csrcs, max_size=11 + 4 * csrcs))
    if extension is not None:
        head += draw(st.binary(min_size=2, max_size=2)) + (len(extension) // 4).to_bytes(2, "big")
        head += extension
    return head + draw(st.binary(max_size=300))


@given(profiles, rtp_packets())
def test_rtp_round_trip(profile: SrtpProfile, packet: bytes) -> None:
    client, server = make_ciphers(profile)
    datagram = client.protect_rtp(packet)
    assert len(datagram) <= len(packet) + client.overhead
    assert server.unprotect_rtp(datagram) == packet
    with pytest.raises(RejectedPacket, match="replay"):
        server.unprotect_rtp(datagram)


@given(profiles, st.binary(min_size=8, max_size=300))
def test_rtcp_round_trip(profile: SrtpProfile, packet: bytes) -> None:
    client, server = make_ciphers(profile)
    assert server.unprotect_rtcp(client.protect_rtcp(packet)) == packet


@given(profiles, rtp_packets(), st.data())
def test_any_flipped_bit_fails(profile: SrtpProfile, packet: bytes, data: st.DataObject) -> None:
    client, server = make_ciphers(profile)
    datagram = client.protect_rtp(packet)
    bit = data.draw(st.integers(0, len(datagram) * 8 - 1))
    spoiled = bytearray(datagram)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RejectedPacket) as caught:
        server.unprotect_rtp(bytes(spoiled))
    assert caught.value.reason in REASONS
    assert server.unprotect_rtp(datagram) == packet


@given(profiles, st.binary(max_size=1600))
def test_any_bytes_are_rejected_with_a_reason(profile: SrtpProfile, data: bytes) -> None:
    _, server = make_ciphers(profile)
    for unprotect in (server.unprotect_rtp, server.unprotect_rtcp):
        with pytest.raises(RejectedPacket) as caught:
            unprotect(data)
        assert caught.value.reason in REASONS


@given(profiles, st.binary(max_size=MAX_PACKET + 100))
def test_any_bytes_are_protected_or_refused(profile: SrtpProfile, data: bytes) -> None:
    client, server = make_ciphers(profile)
    try:
        datagram = client.protect_rtp(data)
    except MalformedPacket:
        return
    assert server.unprotect_rtp(datagram) == data


@given(st.lists(st.integers(-1200, 1200), min_size=2, max_size=60), st.integers(0, 65_535))
def test_what_is_protected_is_readable_whatever_was_lost(steps: list[int], first: int) -> None:
    """Streams that jump about near a wrap; the receiver sees the first packet and every third."""
    client, server = make_ciphers(SrtpProfile.AEAD_AES_128_GCM)
    sequence, protected = first, 0
    for step in [0, *steps]:
        sequence = (sequence + step) & 0xFFFF
        packet = bytes([0x80, 0x78]) + sequence.to_bytes(2, "big") + bytes(8) + b"payload"
        try:
            datagram = client.protect_rtp(packet)
        except MalformedPacket:
            continue
        if protected % 3 == 0:
            assert outcome(server, datagram) in {"accepted", "late"}
        protected += 1


def outcome(cipher: SrtpCipher, datagram: bytes) -> str:
    try:
        cipher.unprotect_rtp(datagram)
    except RejectedPacket as rejected:
        return rejected.reason
    return "accepted"


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """One record whose header is mostly right."""
    kind = draw(st.sampled_from([20, 21, 22, 23]) | st.integers(0, 255))
    version = draw(st.sampled_from([b"\xfe\xff", b"\xfe\xfd"]) | st.binary(min_size=2, max_size=2))
    epoch = draw(st.sampled_from([b"\0\0", b"\0\1"]) | st.binary(min_size=2, max_size=2))
    body = draw(st.binary(max_size=60) | handshake_messages())
    number = draw(st.binary(min_size=6, max_size=6))
    return bytes([kind]) + version + epoch + number + len(body).to_bytes(2, "big") + body


@st.composite
def handshake_messages(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 25))
    length, offset, fragment = (draw(st.integers(0, 100)).to_bytes(3, "big") for _ in range(3))
    number = draw(st.integers(0, 20)).to_bytes(2, "big")
    return bytes([kind]) + length + number + offset + fragment + draw(st.binary(max_size=100))


datagrams = st.lists(records(), min_size=1, max_size=4).map(b"".join) | st.binary(max_size=200)
noise = st.binary(max_size=200).map(lambda data: b"\x16" + data)


@given(datagrams, st.booleans())
def test_screening_keeps_whole_records_in_order(datagram: bytes, from_client: bool) -> None:
    kept = screen_records(datagram, from_client=from_client)
    assert screen_records(kept, from_client=from_client) == kept
    rest = datagram
    for record in pack_records(kept, 0):
        assert record in rest
        rest = rest[rest.index(record) + len(record) :]


@given(st.lists(records(), max_size=12), st.integers(0, 400))
def test_packing_loses_nothing_and_cuts_no_record(flight: list[bytes], limit: int) -> None:
    packed = pack_records(b"".join(flight), limit)
    assert b"".join(packed) == b"".join(flight)
    for datagram in packed:
        assert len(datagram) <= limit or datagram in flight


def make_endpoints() -> tuple[DtlsEndpoint, DtlsEndpoint]:
    client = DtlsEndpoint(CLIENT, client=True, fingerprints=[SERVER.fingerprint])
    server = DtlsEndpoint(SERVER, client=False, fingerprints=[CLIENT.fingerprint])
    server.start(0)
    client.start(0)
    return client, server


def drain(end: DtlsEndpoint) -> list[DtlsEvent]:
    return list(iter(end.next_event, None))


@settings(max_examples=60)
@given(st.lists(noise, max_size=12))
def test_noise_never_stops_a_handshake(thrown: list[bytes]) -> None:
    client, server = make_endpoints()
    for step in range(4):
        for datagram in thrown[step::4]:
            client.receive_datagram(datagram, 0)
            server.receive_datagram(datagram, 0)
        source, target = (server, client) if step % 2 else (client, server)
        for datagram in source.datagrams_to_send():
            target.receive_datagram(datagram, 0)
    for datagram in thrown:
        client.receive_datagram(datagram, 0)
        server.receive_datagram(datagram, 0)
    (ours,), (theirs,) = drain(client), drain(server)
    assert isinstance(ours, KeysAgreed)
    assert ours == theirs


@settings(max_examples=60)
@given(st.lists(datagrams, max_size=8))
def test_forgeries_never_raise_and_change_nothing_after_the_handshake(forged: list[bytes]) -> None:
    fresh, _ = make_endpoints()
    client, server = make_endpoints()
    for step in range(4):
        source, target = (server, client) if step % 2 else (client, server)
        for datagram in source.datagrams_to_send():
            target.receive_datagram(datagram, 0)
    assert [type(event) for event in drain(client) + drain(server)] == [KeysAgreed] * 2
    for datagram in forged:
        for end in (fresh, client, server):
            end.receive_datagram(datagram, 0)
    assert drain(client) == drain(server) == []
    assert not any(isinstance(event, KeysAgreed) for event in drain(fresh))
    server.close(0)
    for datagram in server.datagrams_to_send():
        client.receive_datagram(datagram, 0)
    assert drain(client) == [PeerClosed()]


@settings(max_examples=60)
@given(st.integers(0, 3), st.integers(0, 2000), st.integers(1, 255), st.integers(0, 400))
def test_a_spoiled_flight_never_brings_other_keys(at: int, where: int, how: int, cut: int) -> None:
    client, server = make_endpoints()
    for step in range(6):
        source, target = (server, client) if step % 2 else (client, server)
        for datagram in source.datagrams_to_send():
            spoiled = bytearray(datagram)
            if step == at:
                spoiled[where % len(spoiled)] ^= how
                del spoiled[len(spoiled) - cut % len(spoiled) :]
            target.receive_datagram(bytes(spoiled), 0)
    events = drain(client) + drain(server)
    assert len({event.keys for event in events if isinstance(event, KeysAgreed)}) <= 1


@given(st.sampled_from(["sha-256", "sha-384", "sha-512"]), st.binary(max_size=40))
def test_fingerprints_round_trip(algorithm: str, certificate: bytes) -> None:
    found = Fingerprint.of(certificate, algorithm)
    for text in (str(found), str(found).lower(), str(found).upper()):
        assert parse_fingerprint(text) == found


@given(st.text(max_size=80) | st.from_regex(r"\A[sS][hH][aA]-[0-9]{1,3} [0-9A-F:]{0,80}\Z"))
def test_any_text_is_a_fingerprint_or_malformed(text: str) -> None:
    try:
        found = parse_fingerprint(text)
    except MalformedSdp:
        return
    assert parse_fingerprint(str(found)) == found
