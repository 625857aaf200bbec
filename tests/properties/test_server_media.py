"""Whatever users send, the media side of the server neither raises nor forwards for others."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import MalformedPacket
from discord_rtc.rtp.arrivals import Arrivals
from discord_rtc.rtp.extensions import SPEAKER, parse_elements, remap_elements
from discord_rtc.rtp.feedback import Nack
from discord_rtc.rtp.history import unwrap_rtx, wrap_rtx
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.server.distortion import Distortion, Padding
from discord_rtc.server.elements import ElementMap, find_element
from discord_rtc.server.legs import Demultiplexer
from discord_rtc.server.sfu import DEFAULT_LEG_MEDIA, LegMedia, LegSsrcs, Room
from discord_rtc.server.ssrc_map import SsrcMap

MODE = "aead_aes256_gcm_rtpsize"
ALICE, BOB, CAROL = 100, 200, 300
ALICE_AT = ("10.0.0.1", ALICE)
BROWSER = LegMedia({"opus": (111, None), "H264": (127, 121)}, {SPEAKER: 3})

SSRCS = st.sampled_from([ALICE, ALICE + 1, ALICE + 2, BOB, BOB + 1, 1, 0, 0xFFFFFFFF])
BODIES = st.lists(
    SSRCS.map(lambda ssrc: ssrc.to_bytes(4, "big")) | st.binary(min_size=4, max_size=4)
)


IDS = st.dictionaries(st.integers(1, 14), st.integers(1, 255), max_size=6)


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


@given(st.binary(max_size=60), IDS, st.sampled_from([0xBEDE, 0x1000]), st.binary(max_size=20))
def test_elements_are_renumbered_as_if_they_were_parsed(
    data: bytes, ids: dict[int, int], profile: int, payload: bytes
) -> None:
    data += bytes(-len(data) % 4)
    packet = RtpPacket(101, 1, 2, ALICE, payload, extension_profile=profile, extension_data=data)
    elements = parse_elements(profile, data)

    renumbered = parse_rtp(ElementMap(ids).apply(packet.to_bytes(), 96))

    expected = remap_elements(elements, ids)
    assert parse_elements(renumbered.extension_profile or 0, renumbered.extension_data) == expected
    assert renumbered[1:6] == packet[1:6]
    for ident in range(1, 15):
        first = [value for found, value in elements if found == ident][:1]
        assert find_element(packet.to_bytes(), ident) == (first[0] if first else None)


@given(st.binary(max_size=60), st.integers(0, 255))
def test_looking_for_an_element_never_raises(packet: bytes, ident: int) -> None:
    find_element(packet, ident)


ANY_SSRC = st.sampled_from([ALICE, ALICE + 1, ALICE + 2, BOB, BOB + 1, 0, 7, 8, 9, 0xFFFFFFFF])


@st.composite
def ssrc_maps(draw: st.DrawFn) -> SsrcMap:
    ssrcs = SsrcMap(LegSsrcs(ALICE, ((ALICE + 1, ALICE + 2),)))
    layers = st.tuples(ANY_SSRC, st.none() | ANY_SSRC)
    for _ in range(draw(st.integers(0, 3))):
        ssrcs.announce(draw(st.none() | ANY_SSRC), draw(st.lists(layers, max_size=2)))
    return ssrcs


@given(ssrc_maps(), rtp() | st.binary(max_size=20))
def test_only_ssrcs_of_the_leg_come_out_of_its_map(ssrcs: SsrcMap, packet: bytes) -> None:
    renamed = ssrcs.inbound_rtp(packet)

    if renamed is not None:
        assert int.from_bytes(renamed[8:12], "big") in (ALICE, ALICE + 1, ALICE + 2)
        assert renamed[:8] + renamed[12:] == packet[:8] + packet[12:]


@given(ssrc_maps(), rtcp() | st.binary(max_size=60))
def test_any_rtcp_can_be_renamed_and_stays_what_it_is(ssrcs: SsrcMap, packet: bytes) -> None:
    for renamed in (ssrcs.inbound_rtcp(packet), ssrcs.outbound_rtcp(packet)):
        assert len(renamed) == len(packet)
        assert renamed[:4] == packet[:4]


@given(
    st.integers(0, 0xFFFF),
    st.lists(
        st.tuples(st.integers(-30, 60), st.integers(0, 400), st.booleans()), min_size=1, max_size=80
    ),
)
def test_every_arrival_is_told_with_its_time_and_none_is_invented(
    first: int, steps: list[tuple[int, int, bool]]
) -> None:
    arrivals = Arrivals(1, Counter())
    arrived: dict[int, int] = {}  # 16-bit number to its first arrival, in 250 us
    told: dict[int, int] = {}
    number, ticks = first, 0
    for step, (distance, pause, ask) in enumerate(steps):
        number += distance if step else 0
        ticks += pause
        arrivals.received(number % 65536, ALICE, ticks / 4000)
        arrived.setdefault(number % 65536, ticks)
        for feedback in arrivals.feedback() if ask or step == len(steps) - 1 else ():
            time = feedback.reference_time * 256
            for index, delta in enumerate(feedback.deltas):
                if delta is not None:
                    time += delta
                    told[(feedback.base_sequence + index) % 65536] = time

    assert told.items() <= arrived.items()
    late = {n for n in arrived if n not in told}
    assert all(arrived[n] > 2000 for n in late)  # only what comes half a second too late


STEPS = st.sampled_from(["rtx", "media", "nack", "wait"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 40)), max_size=60))
@settings(deadline=None)
def test_repair_forwards_every_packet_once_and_only_what_was_sent(
    steps: list[tuple[str, int]],
) -> None:
    server = Server()
    alice = create_cipher(MODE, bytes([ALICE]) * 32, side="client")
    bob = create_cipher(MODE, bytes([BOB]) * 32, side="client")

    def receive(packet: bytes, at: tuple[str, int], now: float) -> None:
        cipher = alice if at == ALICE_AT else bob
        is_rtcp = 192 <= packet[1] <= 223
        datagram = cipher.protect_rtcp(packet) if is_rtcp else cipher.protect_rtp(packet)
        server.legs.receive(datagram, at, now)

    def original(sequence: int) -> RtpPacket:
        return RtpPacket(101, sequence % 65536, 3000, ALICE + 1, b"picture %d" % sequence)

    for step, (kind, number) in enumerate(steps):
        now, sequence = step / 200, 65_520 + number
        if kind == "media":
            receive(original(sequence).to_bytes(), ALICE_AT, now)
        elif kind == "rtx":
            receive(wrap_rtx(original(sequence), ALICE + 2, 102, step).to_bytes(), ALICE_AT, now)
        elif kind == "nack":
            nack = Nack(BOB, ALICE + 1, (sequence % 65536,))
            receive(nack.to_bytes(), ("10.0.0.1", BOB), now)
        else:
            server.room.handle_timeout(now)

    plain: list[RtpPacket] = []
    again: list[RtpPacket] = []
    for datagram, (_, port) in server.sent:
        if port == BOB and not 192 <= datagram[1] <= 223:
            packet = parse_rtp(bob.unprotect_rtp(datagram))
            (plain if packet.ssrc == ALICE + 1 else again).append(packet)
    sent = [original(65_520 + number) for number in range(41)]
    assert len(set(plain)) == len(plain)
    assert all(packet in sent for packet in plain)
    assert all(unwrap_rtx(packet, ALICE + 1, 101) in plain for packet in again)
    assert [packet.sequence for packet in again] == list(range(1, len(again) + 1))
