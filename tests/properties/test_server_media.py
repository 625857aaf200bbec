"""Whatever users send, the media side of the server neither raises nor forwards for others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.extensions import SPEAKER
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.distortion import Distortion, Padding
from discord_rtc.server.legs import Demultiplexer
from discord_rtc.server.sfu import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs, Room

MODE = "aead_aes256_gcm_rtpsize"
ALICE, BOB, CAROL = 100, 200, 300
ALICE_AT = ("10.0.0.1", ALICE)
BROWSER = LegMedia({"opus": (111, None), "H264": (127, 121)}, {SPEAKER: 3})

SSRCS = st.sampled_from([ALICE, ALICE + 1, ALICE + 2, BOB, BOB + 1, 1, 0, 0xFFFFFFFF])
BODIES = st.lists(
    SSRCS.map(lambda ssrc: ssrc.to_bytes(4, "big")) | st.binary(min_size=4, max_size=4)
)


@st.composite
def rtcp(draw: st.DrawFn) -> bytes:
    """Right lengths, any contents."""
    packets = b""
    for _ in range(draw(st.integers(1, 3))):
        body = b"".join(draw(BODIES))
        head = bytes((0x80 | draw(st.integers(0, 31)), draw(st.integers(198, 208))))
        packets += head + (len(body) // 4).to_bytes(2, "big") + body
    return packets


@st.composite
def rtp(draw: st.DrawFn) -> bytes:
    """A plausible fixed header, anything behind it."""
    head = bytes((0x80 | draw(st.integers(0, 63)), draw(st.sampled_from([120, 101, 102, 255, 5]))))
    numbers = draw(st.binary(min_size=6, max_size=6))
    return head + numbers + draw(SSRCS).to_bytes(4, "big") + draw(st.binary(max_size=60))


class Server:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.room = Room()
        self.legs = Demultiplexer(lambda *datagram: self.sent.append(datagram))
        for base, media in ((ALICE, DEFAULT_LEG_MEDIA), (BOB, DEFAULT_LEG_MEDIA), (CAROL, BROWSER)):
            leg = self.legs.add_leg(base, LegSsrcs(base, ((base + 1, base + 2),)))
            leg.start(MODE, bytes([base % 256]) * 32)
            leg.deliver_to(self.room)
            leg.discovered(("10.0.0.1", base))
            self.room.add(leg, leg.ssrcs, media, 0.0)
        self.room.announce(ALICE, (ALICE, ALICE + 1), 0.0)


@given(st.lists(st.binary(max_size=120) | rtp() | rtcp(), max_size=20))
def test_no_datagram_of_a_stranger_raises_or_reaches_anybody(datagrams: list[bytes]) -> None:
    server = Server()
    for number, datagram in enumerate(datagrams):
        server.legs.receive(datagram, ("6.6.6.6", 666), float(number))

    assert server.room.counters["rtp-in"] == 0
    assert all(address == ("6.6.6.6", 666) for _, address in server.sent)  # discovery and pings


@given(st.lists(st.tuples(st.booleans(), rtp() | rtcp() | st.binary(max_size=60)), max_size=20))
@settings(deadline=None)
def test_no_packet_of_a_user_raises_and_all_that_is_forwarded_is_theirs(
    packets: list[tuple[bool, bytes]],
) -> None:
    server = Server()
    alice = create_cipher(MODE, bytes([ALICE]) * 32, side="client")
    for number, (is_rtp, packet) in enumerate(packets):
        try:
            datagram = alice.protect_rtp(packet) if is_rtp else alice.protect_rtcp(packet)
        except MalformedPacket:
            continue  # not even its sender can make a datagram of it
        server.legs.receive(datagram, ALICE_AT, number / 10)
        server.room.handle_timeout(number / 10)

    bob = create_cipher(MODE, bytes([BOB]) * 32, side="client")
    own = {ssrc.to_bytes(4, "big") for ssrc in (ALICE, ALICE + 1, ALICE + 2)}
    for datagram, (_, port) in server.sent:
        if port == BOB and not 192 <= datagram[1] <= 223:
            assert bob.unprotect_rtp(datagram)[8:12] in own


@given(st.integers(0, 0xFFFF), st.binary(max_size=300), st.integers(0, 2**32), st.booleans())
def test_distorted_packets_say_the_same(
    sequence: int, payload: bytes, seed: int, audio: bool
) -> None:
    subject = Distortion(seed)
    subject.padding = Padding(0.8, 0.5)
    subject.headers = 0.8
    packet = RtpPacket(120 if audio else 101, sequence, 960, ALICE, payload, marker=True)

    first, *inserted = subject.apply(packet.to_bytes())

    parsed = parse_rtp(first)
    assert parsed[:6] == packet[:6]
    assert [parse_rtp(each).payload for each in inserted] in ([], [b""])
