"""Datagrams of many users on one socket: who sent what, and where media goes."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from discord_rtc.crypto.modes import MODES, create_cipher
from discord_rtc.errors import NoCommonMode, NonceExhausted, RejectedPacket
from discord_rtc.netem import Impairment
from discord_rtc.protocol.discovery import (
    build_ping,
    build_pong,
    build_request,
    build_response,
    parse_response,
)
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import ReceiverReport, build_rtcp
from discord_rtc.server import udp_leg
from discord_rtc.server.datagrams import DatagramKind
from discord_rtc.server.faults import Faults
from discord_rtc.server.legs import Demultiplexer
from discord_rtc.server.sfu import LegSsrcs

if TYPE_CHECKING:
    from discord_rtc.crypto.cipher import TransportCipher
    from discord_rtc.server.udp_leg import UdpLeg

GCM = "aead_aes256_gcm_rtpsize"
ALICE, BOB = 100, 200
ALICE_AT, BOB_AT = ("10.0.0.1", 5001), ("10.0.0.2", 5002)
MALLORY_AT = ("6.6.6.6", 666)

Address = tuple[str, int]


def audio(sequence: int, ssrc: int = ALICE, payload: bytes = b"opus") -> bytes:
    return RtpPacket(120, sequence, 960 * sequence, ssrc, payload).to_bytes()


def report(ssrc: int = ALICE) -> bytes:
    return build_rtcp((ReceiverReport(ssrc),))


class FakeRoom:
    def __init__(self) -> None:
        self.rtp: list[tuple[int, bytes]] = []
        self.rtcp: list[tuple[int, bytes]] = []

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtp.append((leg_id, packet))

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:  # noqa: ARG002 - as in the protocol
        self.rtcp.append((leg_id, packet))

    def connected(self, leg_id: int, now: float) -> None:  # noqa: ARG002 - as in the protocol
        raise AssertionError("plain legs can be sent to from the beginning")


class Server:
    """Two users in a room; Alice has done IP discovery, Bob nothing yet."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.room = FakeRoom()
        self.faults = Faults()
        self.legs = Demultiplexer(lambda *datagram: self.sent.append(datagram), self.faults)
        self.alice, self.alice_cipher = self.join(ALICE)
        self.bob, self.bob_cipher = self.join(BOB)
        self.receive(build_request(ALICE), ALICE_AT)
        self.sent.clear()

    def join(self, base: int, mode: str = GCM) -> tuple[UdpLeg, TransportCipher]:
        leg = self.legs.add_leg(base, LegSsrcs(base, ((base + 1, base + 2),)))
        key = bytes([base % 256]) * 32
        leg.start(mode, key)
        leg.deliver_to(self.room)
        return leg, create_cipher(mode, key, side="client")

    def receive(self, datagram: bytes, source: Address, now: float = 0.0) -> None:
        self.legs.receive(datagram, source, now)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.legs.counters)


@pytest.fixture
def server() -> Server:
    return Server()


def test_discovery_is_answered_with_the_address_it_came_from(server: Server) -> None:
    server.receive(build_request(BOB), BOB_AT)

    [(answer, target)] = server.sent
    assert target == BOB_AT
    assert parse_response(answer, BOB) == BOB_AT
    assert server.bob.address == BOB_AT


def test_discovery_is_answered_before_a_key_exists_and_again_later(server: Server) -> None:
    server.legs.add_leg(7, LegSsrcs(700))
    for _ in range(3):
        server.receive(build_request(700), BOB_AT)

    assert len(server.sent) == 3
    assert server.counters["discovery"] == 4


def test_discovery_for_an_unknown_ssrc_is_not_answered(server: Server) -> None:
    server.receive(build_request(999), MALLORY_AT)

    assert server.sent == []
    assert server.counters["unknown-peer"] == 1


def test_a_discovery_response_is_not_answered(server: Server) -> None:
    server.receive(build_response(ALICE, "1.2.3.4", 5), MALLORY_AT)

    assert server.sent == []
    assert server.counters["malformed"] == 1


@pytest.mark.parametrize("source", [ALICE_AT, MALLORY_AT])
def test_pings_are_answered(server: Server, source: Address) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    server.receive(build_ping(0xFFFFFFFF), source)

    assert server.sent == [(build_pong(0xFFFFFFFF), source)]
    assert server.counters["ping"] == 1


def test_keepalives_are_dropped_silently(server: Server) -> None:
    for counter in (0, 0x80, 0x12345680):
        server.receive(struct.pack("<II", counter, 0), ALICE_AT)
    server.receive(ALICE.to_bytes(4, "big"), ALICE_AT)

    assert server.sent == []
    assert server.counters["keepalive"] == 4


@pytest.mark.parametrize("mode", MODES)
def test_packets_go_both_ways_in_every_mode(server: Server, mode: str) -> None:
    leg, cipher = server.join(300, mode)

    server.receive(cipher.protect_rtp(audio(1, 300)), BOB_AT)
    server.receive(cipher.protect_rtcp(report(300)), BOB_AT)
    leg.send_rtp(audio(9, ALICE), 0.0)
    leg.send_rtcp(report(1), 0.0)

    assert server.room.rtp == [(300, audio(1, 300))]
    assert server.room.rtcp == [(300, report(300))]
    [(rtp, to), (rtcp, _)] = server.sent
    assert to == BOB_AT
    assert cipher.unprotect_rtp(rtp) == audio(9, ALICE)
    assert cipher.unprotect_rtcp(rtcp) == report(1)


def test_a_user_without_discovery_is_found_by_ssrc(server: Server) -> None:
    server.receive(server.bob_cipher.protect_rtp(audio(1, BOB + 1)), BOB_AT)

    assert server.room.rtp == [(BOB, audio(1, BOB + 1))]
    assert server.bob.address == BOB_AT


def test_rtcp_is_found_by_ssrc_too(server: Server) -> None:
    server.receive(server.bob_cipher.protect_rtcp(report(BOB)), BOB_AT)

    assert server.room.rtcp == [(BOB, report(BOB))]


def test_who_only_receives_is_found_by_its_discovery(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtcp(report(1)), ALICE_AT)

    assert server.room.rtcp == [(ALICE, report(1))]
    assert server.counters.get("unknown-peer", 0) == 0


def test_discovery_from_the_address_of_somebody_else_takes_nothing_away(server: Server) -> None:
    server.receive(build_request(BOB), BOB_AT)
    server.receive(build_request(ALICE), BOB_AT)  # not authentic: Alice's address is there now

    server.receive(server.bob_cipher.protect_rtcp(report(1)), BOB_AT)
    server.receive(server.alice_cipher.protect_rtcp(report(1)), BOB_AT)

    assert server.room.rtcp == [(BOB, report(1)), (ALICE, report(1))]


def test_discovery_finds_nobody_who_is_elsewhere_by_now(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), BOB_AT)

    server.receive(server.alice_cipher.protect_rtcp(report(1)), ALICE_AT)

    assert server.room.rtcp == []
    assert server.counters["unknown-peer"] == 1


def test_discovery_of_a_leg_that_is_gone_finds_nobody(server: Server) -> None:
    server.receive(build_request(BOB), ALICE_AT)
    for leg in (server.alice, server.bob):
        server.legs.remove_leg(leg, 0.0)

    server.receive(server.alice_cipher.protect_rtcp(report(1)), ALICE_AT)

    assert server.counters["unknown-peer"] == 1


def test_a_known_address_may_send_any_ssrc_which_the_room_judges(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    server.receive(server.alice_cipher.protect_rtp(audio(2, 999)), ALICE_AT)

    assert server.room.rtp[-1] == (ALICE, audio(2, 999))


def test_an_unknown_source_with_an_unknown_ssrc_is_counted(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1, 999)), MALLORY_AT)

    assert server.room.rtp == []
    assert server.counters["unknown-peer"] == 1


def test_an_authentic_packet_moves_the_address(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    rebound = ("10.0.0.1", 6001)

    server.receive(server.alice_cipher.protect_rtp(audio(2)), rebound)
    server.alice.send_rtp(audio(1, BOB), 0.0)

    assert server.alice.address == rebound
    assert server.sent[-1][1] == rebound
    assert server.counters["address-moved"] == 1
    server.receive(build_ping(1), ALICE_AT)  # nobody's any more, yet harmless


def test_a_forged_packet_moves_nothing(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    forged = bytearray(server.alice_cipher.protect_rtp(audio(2)))
    forged[-6] ^= 1

    server.receive(bytes(forged), MALLORY_AT)

    assert server.alice.address == ALICE_AT
    assert len(server.room.rtp) == 1
    assert server.counters["bad-auth"] == 1


def test_a_replayed_packet_moves_nothing_and_is_not_delivered(server: Server) -> None:
    recorded = [server.alice_cipher.protect_rtp(audio(n)) for n in range(1100)]
    recorded_report = server.alice_cipher.protect_rtcp(report())
    for datagram in (*recorded, recorded_report):
        server.receive(datagram, ALICE_AT)

    for datagram in (recorded[0], recorded[-1], recorded_report):
        server.receive(datagram, MALLORY_AT)
        server.receive(datagram, ALICE_AT)

    assert server.alice.address == ALICE_AT
    assert (len(server.room.rtp), len(server.room.rtcp)) == (1100, 1)
    assert (server.counters["replay"], server.counters["late"]) == (4, 2)


def test_discovery_does_not_move_an_address_that_authenticated(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    server.receive(build_request(ALICE), MALLORY_AT)
    server.alice.send_rtp(audio(1, BOB), 0.0)

    assert server.alice.address == ALICE_AT
    assert [target for _, target in server.sent] == [MALLORY_AT, ALICE_AT]  # answer, media


def test_before_that_the_latest_discovery_counts(server: Server) -> None:
    again = ("10.0.0.1", 5009)

    server.receive(build_request(ALICE), again)

    assert server.alice.address == again


def test_an_address_named_on_the_websocket_is_taken_if_discovery_came_from_there(
    server: Server,
) -> None:
    server.receive(build_request(ALICE), MALLORY_AT)

    server.alice.start(GCM, bytes(32), claimed=ALICE_AT)
    server.receive(build_request(ALICE), MALLORY_AT)

    assert server.alice.address == ALICE_AT


def test_a_name_alone_points_media_nowhere(server: Server) -> None:
    victim = ("10.9.9.9", 53)

    server.alice.start(GCM, bytes(32), claimed=victim)
    server.bob.start(GCM, bytes(32), claimed=victim)

    assert server.alice.address == ALICE_AT
    assert server.bob.address is None


def test_addresses_of_discovery_are_remembered_in_bounds(server: Server) -> None:
    for port in range(1, 100):
        server.receive(build_request(BOB), ("6.6.6.6", port))

    server.bob.start(GCM, bytes(32), claimed=("6.6.6.6", 99))
    assert server.bob.address == ("6.6.6.6", 99)  # merely the latest one, which is not settled
    server.receive(build_request(BOB), BOB_AT)
    assert server.bob.address == BOB_AT
    server.bob.start(GCM, bytes(32), claimed=("6.6.6.6", udp_leg.MAX_DISCOVERED))
    assert server.bob.address == ("6.6.6.6", udp_leg.MAX_DISCOVERED)


def test_a_new_session_may_use_the_socket_of_an_older_one(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    server.receive(server.bob_cipher.protect_rtp(audio(1, BOB)), ALICE_AT)
    server.receive(server.bob_cipher.protect_rtp(audio(2, BOB)), ALICE_AT)

    assert [leg_id for leg_id, _ in server.room.rtp] == [ALICE, BOB, BOB]
    assert server.bob.address == ALICE_AT
    assert server.counters.get("bad-auth", 0) == 0


def test_who_takes_a_forged_address_does_not_cut_off_its_owner(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.receive(server.bob_cipher.protect_rtp(audio(1, BOB)), ALICE_AT)

    server.receive(server.alice_cipher.protect_rtp(audio(2)), ALICE_AT)
    server.receive(server.bob_cipher.protect_rtp(audio(2, BOB)), BOB_AT)
    server.receive(server.alice_cipher.protect_rtp(audio(3)), ALICE_AT)

    assert [leg_id for leg_id, _ in server.room.rtp] == [ALICE, BOB, ALICE, BOB, ALICE]
    assert (server.alice.address, server.bob.address) == (ALICE_AT, BOB_AT)


def test_a_flood_of_garbage_is_counted_and_harms_nobody(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    dice = random.Random(1)
    for _ in range(3000):
        garbage = dice.randbytes(dice.randint(0, 200))
        if dice.random() < 0.5:  # looks like Alice's
            garbage = b"\x90\x78" + garbage[:6] + ALICE.to_bytes(4, "big") + garbage
        server.receive(garbage, dice.choice((MALLORY_AT, ALICE_AT)))

    server.receive(server.alice_cipher.protect_rtp(audio(2)), ALICE_AT)

    assert server.room.rtp == [(ALICE, audio(1)), (ALICE, audio(2))]
    assert server.alice.address == ALICE_AT
    assert sum(server.counters.values()) >= 3000
    assert server.counters["bad-auth"] > 1000


def test_packets_before_the_key_are_counted(server: Server) -> None:
    leg = server.legs.add_leg(7, LegSsrcs(700))

    server.receive(server.alice_cipher.protect_rtp(audio(1, 700)), BOB_AT)
    server.receive(server.alice_cipher.protect_rtcp(report(700)), BOB_AT)
    server.receive(build_request(700), BOB_AT)
    leg.send_rtp(audio(1), 0.0)
    leg.send_rtcp(report(), 0.0)

    assert leg.counters["no-key"] == 4


def test_packets_without_a_room_are_counted(server: Server) -> None:
    server.alice.deliver_to(None)

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    assert server.alice.counters["no-room"] == 1


def test_media_for_a_user_never_heard_from_is_counted(server: Server) -> None:
    server.bob.send_rtp(audio(1), 0.0)

    assert server.sent == []
    assert server.bob.counters["no-address"] == 1


def test_a_packet_that_is_none_is_counted_when_it_should_be_sent(server: Server) -> None:
    server.alice.send_rtp(b"\x80", 0.0)
    server.alice.send_rtcp(b"\x80", 0.0)

    assert server.sent == []
    assert server.alice.counters["malformed"] == 2


def test_an_unknown_mode_is_refused(server: Server) -> None:
    with pytest.raises(NoCommonMode):
        server.alice.start("rot13", bytes(32))


def test_a_new_key_replaces_the_old_one(server: Server) -> None:
    server.alice.start(GCM, b"\x55" * 32)
    fresh = create_cipher(GCM, b"\x55" * 32, side="client")

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.receive(fresh.protect_rtp(audio(2)), ALICE_AT)

    assert server.room.rtp == [(ALICE, audio(2))]


def test_a_removed_leg_neither_sends_nor_receives(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    server.legs.remove_leg(server.alice, 0.0)
    server.receive(server.alice_cipher.protect_rtp(audio(2)), ALICE_AT)
    server.receive(build_request(ALICE), ALICE_AT)
    server.alice.send_rtp(audio(1, BOB), 0.0)
    server.alice.discovered(MALLORY_AT)
    server.legs.remove_leg(server.alice, 0.0)

    assert len(server.room.rtp) == 1
    assert server.sent == []
    assert server.alice.address is None
    assert server.counters["unknown-peer"] == 2
    assert server.counters["rtp-received"] == 1  # what was counted stays in the sum


def test_closing_removes_all_legs(server: Server) -> None:
    server.legs.close(0.0)

    server.receive(build_request(BOB), BOB_AT)

    assert server.sent == []


@pytest.mark.parametrize("rtcp", [False, True])
def test_used_up_nonces_are_told_once_and_never_repeated(
    server: Server, monkeypatch: pytest.MonkeyPatch, rtcp: bool
) -> None:
    def nearly_used_up(mode: str, key: bytes, *, side: str) -> TransportCipher:
        assert side == "server"
        return create_cipher(mode, key, side="server", first_nonce=0xFFFFFFFE)

    monkeypatch.setattr(udp_leg, "create_cipher", nearly_used_up)
    server.alice.start(GCM, b"\x11" * 32)
    for number in range(10):
        if rtcp:
            server.alice.send_rtcp(report(number), 0.0)
        else:
            server.alice.send_rtp(audio(number, BOB), 0.0)

    assert [datagram[-4:].hex() for datagram, _ in server.sent] == ["fffffffe", "ffffffff"]
    [(failed, error)] = server.legs.take_failed()
    assert failed is server.alice
    assert isinstance(error, NonceExhausted)
    assert server.legs.take_failed() == []
    assert server.counters["nonces-exhausted"] == 1
    assert server.counters["no-key"] == 7


def test_the_server_counts_its_nonces_from_the_middle(server: Server) -> None:
    """Client and server share the key, so they must never share a nonce."""
    server.alice.send_rtp(audio(1, BOB), 0.0)

    assert server.sent[0][0][-4:].hex() == "80000000"


def test_impaired_ways_hold_datagrams_back(server: Server) -> None:
    server.faults.impair(ALICE, up=Impairment(delay=0.1), down=Impairment(delay=0.2))
    assert server.legs.next_timeout() is None

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT, 1.0)
    server.alice.send_rtp(audio(7, BOB), 1.05)
    assert server.room.rtp == []
    assert server.legs.next_timeout() == pytest.approx(1.1)
    server.legs.handle_timeout(1.11)
    assert server.room.rtp == [(ALICE, audio(1))]
    assert server.sent == []
    assert server.legs.next_timeout() == pytest.approx(1.25)
    server.legs.handle_timeout(1.26)

    [(datagram, target)] = server.sent
    assert target == ALICE_AT
    assert server.alice_cipher.unprotect_rtp(datagram) == audio(7, BOB)


def test_impairment_is_per_user(server: Server) -> None:
    server.faults.impair(ALICE, up=Impairment(loss=1.0), down=Impairment(loss=1.0))

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.receive(server.bob_cipher.protect_rtp(audio(1, BOB)), BOB_AT)
    server.alice.send_rtp(audio(1, BOB), 0.0)
    server.bob.send_rtp(audio(1), 0.0)

    assert server.room.rtp == [(BOB, audio(1, BOB))]
    assert [target for _, target in server.sent] == [BOB_AT]
    assert server.faults.counters == {"up-lost": 1, "down-lost": 1}


def test_discovery_and_pings_suffer_like_media(server: Server) -> None:
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.faults.impair(up=Impairment(), down=Impairment(delay=0.5))
    server.receive(build_request(BOB), BOB_AT, 1.0)
    server.receive(build_ping(5), ALICE_AT, 1.0)
    assert server.sent == []

    server.legs.handle_timeout(1.5)

    assert (build_response(BOB, *BOB_AT), BOB_AT) in server.sent
    assert (build_pong(5), ALICE_AT) in server.sent


def test_duplicates_on_the_way_up_are_replays(server: Server) -> None:
    server.faults.impair(up=Impairment(duplicate=1.0))

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)

    assert server.room.rtp == [(ALICE, audio(1))]
    assert server.counters["replay"] == 1


def test_an_impaired_leg_that_is_removed_sends_nothing_more(server: Server) -> None:
    server.faults.impair(ALICE, up=Impairment(delay=1.0), down=Impairment(delay=1.0))
    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.alice.send_rtp(audio(1, BOB), 0.0)

    server.legs.remove_leg(server.alice, 0.0)
    server.legs.handle_timeout(2.0)

    assert server.room.rtp == []
    assert server.sent == []
    assert server.faults.counters == {"up-abandoned": 1, "down-abandoned": 1}


def test_padding_is_added_before_protection(server: Server) -> None:
    server.faults.padding(1.0, padding_only=1.0)
    for number in range(20):
        server.alice.send_rtp(audio(number, BOB), 0.0)

    packets = [parse_rtp(server.alice_cipher.unprotect_rtp(sent)) for sent, _ in server.sent]

    assert [packet.payload for packet in packets] == [b"opus", b""] * 20
    assert [packet.sequence for packet in packets] == list(range(40))
    assert all(packet.padding for packet in packets)


def test_a_leg_shows_no_secrets(server: Server) -> None:
    assert repr(server.alice) == f"<UdpLeg 100 of user 100 at {ALICE_AT}>"


def test_unprotecting_needs_a_key() -> None:
    legs = Demultiplexer(lambda *_: None)
    leg = legs.add_leg(1, LegSsrcs(1))

    with pytest.raises(RejectedPacket, match="no-key"):
        leg.unprotect(audio(1), DatagramKind.RTP)


def test_an_impaired_way_without_delay_is_passed_at_once(server: Server) -> None:
    server.faults.impair(ALICE, up=Impairment(), down=Impairment())

    server.receive(server.alice_cipher.protect_rtp(audio(1)), ALICE_AT)
    server.alice.send_rtp(audio(1, BOB), 0.0)

    assert server.room.rtp == [(ALICE, audio(1))]
    assert len(server.sent) == 1
