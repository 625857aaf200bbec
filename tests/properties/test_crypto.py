"""Property 6: protection comes off exactly, nothing else gets through, no nonce comes twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.crypto.modes import LIVE_MODES, MODES, create_cipher
from discord_rtc.crypto.nonces import COUNTER_RANGES, Side
from discord_rtc.errors import NonceExhausted, RejectedPacket

KEY = bytes(range(32))
SUFFIXED = [name for name, mode in MODES.items() if mode.suffix_length == 4]

modes = st.sampled_from(list(MODES))


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


@given(modes, rtp_packets())
def test_rtp_round_trip(mode: str, packet: bytes) -> None:
    datagram = create_cipher(mode, KEY, side="client").protect_rtp(packet)
    assert create_cipher(mode, KEY, side="server").unprotect_rtp(datagram) == packet


@given(modes, st.binary(min_size=8, max_size=300))
def test_rtcp_round_trip(mode: str, packet: bytes) -> None:
    datagram = create_cipher(mode, KEY, side="client").protect_rtcp(packet)
    assert create_cipher(mode, KEY, side="server").unprotect_rtcp(datagram) == packet


@given(st.sampled_from([name for name in MODES if name.startswith("aead")]), st.data())
def test_any_flipped_bit_fails(mode: str, data: st.DataObject) -> None:
    packet = data.draw(rtp_packets())
    datagram = create_cipher(mode, KEY, side="client").protect_rtp(packet)
    bit = data.draw(st.integers(0, len(datagram) * 8 - 1))
    spoiled = bytearray(datagram)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RejectedPacket):
        create_cipher(mode, KEY, side="server").unprotect_rtp(bytes(spoiled))


@given(st.sampled_from([name for name in MODES if name.startswith("xsalsa")]), st.data())
def test_any_flipped_bit_of_a_secretbox_or_its_suffix_fails(mode: str, data: st.DataObject) -> None:
    packet = b"\x80" + data.draw(st.binary(min_size=11, max_size=100))
    datagram = create_cipher(mode, KEY, side="client").protect_rtp(packet)
    bit = data.draw(st.integers(12 * 8, len(datagram) * 8 - 1))
    spoiled = bytearray(datagram)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RejectedPacket, match="bad-auth"):
        create_cipher(mode, KEY, side="server").unprotect_rtp(bytes(spoiled))


@given(modes, st.binary(max_size=200))
def test_any_bytes_are_rejected_with_a_reason(mode: str, datagram: bytes) -> None:
    cipher = create_cipher(mode, KEY, side="client")
    for unprotect in (cipher.unprotect_rtp, cipher.unprotect_rtcp):
        with pytest.raises(RejectedPacket) as caught:
            unprotect(datagram)
        assert caught.value.reason in {"short", "malformed", "bad-auth"}


@given(
    st.sampled_from(SUFFIXED),
    st.sampled_from(list(COUNTER_RANGES)),
    st.integers(0, 20),
    st.lists(st.booleans(), min_size=21, max_size=40),
)
def test_nonces_never_repeat_and_run_out(
    mode: str, side: Side, left: int, kinds: list[bool]
) -> None:
    numbers = COUNTER_RANGES[side]
    cipher = create_cipher(mode, KEY, side=side, first_nonce=numbers.stop - 1 - left)
    suffixes: list[bytes] = []
    exhausted = 0
    for rtcp in kinds:
        protect = cipher.protect_rtcp if rtcp else cipher.protect_rtp
        try:
            suffixes.append(protect(b"\x80" + bytes(30))[-4:])
        except NonceExhausted:
            exhausted += 1
    assert len(set(suffixes)) == len(suffixes) == left + 1
    assert all(int.from_bytes(suffix, "big") in numbers for suffix in suffixes)
    assert exhausted == len(kinds) - left - 1


@given(
    st.sampled_from(LIVE_MODES), st.lists(st.integers(0, 300), max_size=80), st.integers(0, 65535)
)
def test_each_packet_is_delivered_once_in_any_order(
    mode: str, arrivals: list[int], start: int
) -> None:
    sender = create_cipher(mode, KEY, side="server")
    receiver = create_cipher(mode, KEY, side="client")
    datagrams = [
        sender.protect_rtp(
            b"\x80\x78"
            + ((start + n) & 0xFFFF).to_bytes(2, "big")
            + n.to_bytes(4, "big")
            + bytes(4)
        )
        for n in range(301)
    ]
    delivered: set[int] = set()
    for n in arrivals:
        if n in delivered:
            with pytest.raises(RejectedPacket, match="replay"):
                receiver.unprotect_rtp(datagrams[n])
        else:
            receiver.unprotect_rtp(datagrams[n])
            delivered.add(n)
