"""WebRTC legs behind the demultiplexer, with clients that have no sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discord_rtc.crypto.certificate import Certificate
from discord_rtc.errors import DtlsFailed
from discord_rtc.ice.credentials import IceCredentials
from discord_rtc.ice.stun import build_request, is_stun, parse_stun
from discord_rtc.netem import Impairment
from discord_rtc.protocol.discovery import build_ping, build_pong, build_response
from discord_rtc.protocol.discovery import build_request as build_discovery
from discord_rtc.protocol.sdp import parse_client_fragment
from discord_rtc.rtp.packet import RtpPacket, parse_rtp
from discord_rtc.rtp.rtcp import (
    Nack,
    PictureLoss,
    ReceiverReport,
    ReportBlock,
    SenderReport,
    build_rtcp,
    parse_rtcp,
)
from discord_rtc.server.faults import Faults
from discord_rtc.server.leg_media import LegMedia, LegSsrcs
from discord_rtc.server.legs import STRANGERS_PER_SECOND, Demultiplexer
from discord_rtc.server.negotiation import WebRtcTerms
from discord_rtc.server.sfu import Room
from discord_rtc.server.webrtc_leg import (
    CONSENT_TIMEOUT,
    EARLY_LIMIT,
    HOLD_LIMIT,
    HOLD_TIME,
    MAX_ADDRESSES,
    WebRtcLeg,
)

if TYPE_CHECKING:
    from tests.server.conftest import WebRtcClient

    ClientType = type[WebRtcClient]

ALICE, BOB = 100, 200
ALICE_AT, BOB_AT = ("10.0.0.1", 5001), ("10.0.0.2", 5002)
MALLORY_AT = ("6.6.6.6", 666)
OWN_AUDIO, OWN_VIDEO, OWN_RTX = 0xAAAA0001, 0xBBBB0002, 0xCCCC0003

Address = tuple[str, int]


def audio(sequence: int, ssrc: int = OWN_AUDIO) -> bytes:
    return RtpPacket(111, sequence, 960 * sequence, ssrc, b"opus").to_bytes()


class FakeRoom:
    def __init__(self) -> None:
        self.rtp: list[tuple[int, bytes]] = []
        self.rtcp: list[tuple[int, bytes]] = []
        self.reachable: list[int] = []

    def receive_rtp(self, leg_id: int, packet: bytes, now: float) -> None:  # noqa: ARG002  as in the protocol
        self.rtp.append((leg_id, packet))

    def receive_rtcp(self, leg_id: int, packet: bytes, now: float) -> None:  # noqa: ARG002  as in the protocol
        self.rtcp.append((leg_id, packet))

    def connected(self, leg_id: int, now: float) -> None:  # noqa: ARG002  as in the protocol
        self.reachable.append(leg_id)

    def ssrcs(self) -> list[int]:
        return [parse_rtp(packet).ssrc for _, packet in self.rtp]


class House:
    """A demultiplexer and the clients at some addresses; datagrams go around by `settle`."""

    def __init__(self) -> None:
        self.now = 10.0
        self.room = FakeRoom()
        self.faults = Faults()
        self.certificate = Certificate.generate()
        self.sent: list[tuple[bytes, Address]] = []
        self.legs = Demultiplexer(lambda *datagram: self.sent.append(datagram), self.faults)
        self.clients: dict[Address, WebRtcClient] = {}

    def select(self, user_id: int, client: WebRtcClient) -> WebRtcLeg:
        """A session that has come as far as Session Description."""
        ssrcs = LegSsrcs(user_id, ((user_id + 1, user_id + 2),))
        fragment = parse_client_fragment(client.offer())
        terms = WebRtcTerms(fragment, self.legs.new_credentials())
        undecided = self.legs.add_leg(user_id, ssrcs)
        leg = self.legs.select_webrtc(undecided, terms, self.certificate)
        leg.deliver_to(self.room)
        self.credentials = terms.credentials
        return leg

    def join(self, user_id: int, client: WebRtcClient, at: Address) -> WebRtcLeg:
        """The same, and the client begins to check."""
        leg = self.select(user_id, client)
        self.clients[at] = client
        client.connect(self.credentials, self.certificate.fingerprint, self.now)
        return leg

    def settle(self) -> None:
        """Carry datagrams both ways until there are none."""
        while self.step():
            pass

    def step(self) -> bool:
        """Carry what is there once; whether there was anything."""
        down = self.carry_down()
        return self.carry_up() or down

    def carry_down(self) -> bool:
        """To the clients."""
        sent, self.sent = self.sent, []
        for datagram, address in sent:
            if address in self.clients:
                self.clients[address].receive(datagram, self.now)
        return bool(sent)

    def carry_up(self) -> bool:
        """To the server."""
        carried = False
        for address, client in tuple(self.clients.items()):
            outbox, client.outbox = client.outbox, []
            for datagram in outbox:
                self.legs.receive(datagram, address, self.now)
                carried = True
        return carried

    def sleep(self, seconds: float) -> None:
        """Time goes by for the server."""
        self.now += seconds
        self.legs.handle_timeout(self.now)

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.legs.counters)


@pytest.fixture
def house() -> House:
    return House()


class Alice:
    """A client in a call, announced."""

    def __init__(self, house: House, client: WebRtcClient) -> None:
        self.client = client
        self.leg = house.join(ALICE, client, ALICE_AT)
        house.settle()
        assert client.connected
        self.leg.announce(OWN_AUDIO, ((OWN_VIDEO, OWN_RTX),), house.now)


@pytest.fixture
def alice(house: House, webrtc_client: ClientType) -> Alice:
    return Alice(house, webrtc_client())


@pytest.mark.parametrize("passive", [False, True])
def test_both_dtls_roles_lead_to_a_call(
    house: House, webrtc_client: ClientType, passive: bool
) -> None:
    client = webrtc_client(passive=passive)
    leg = house.join(ALICE, client, ALICE_AT)
    house.settle()
    leg.announce(OWN_AUDIO, (), house.now)

    client.send_rtp(audio(1))
    client.send_rtcp(build_rtcp((ReceiverReport(OWN_AUDIO),)))
    leg.send_rtp(audio(9, BOB), house.now)
    leg.send_rtcp(build_rtcp((PictureLoss(1, ALICE),)), house.now)
    house.settle()

    assert leg.address == ALICE_AT
    assert house.room.rtp == [(ALICE, audio(1, ALICE))]
    assert house.room.rtcp == [(ALICE, build_rtcp((ReceiverReport(ALICE),)))]
    assert client.rtp == [audio(9, BOB)]
    assert client.rtcp == [build_rtcp((PictureLoss(1, OWN_AUDIO),))]
    assert house.room.reachable == [ALICE]


def test_the_room_is_told_when_the_leg_can_be_sent_to_only_if_there_is_one(
    house: House, webrtc_client: ClientType
) -> None:
    client = webrtc_client()
    leg = house.join(ALICE, client, ALICE_AT)
    leg.deliver_to(None)
    house.settle()

    assert client.connected
    assert house.room.reachable == []


def test_media_before_the_keys_is_not_sent(house: House, webrtc_client: ClientType) -> None:
    leg = house.select(ALICE, webrtc_client())

    leg.send_rtp(audio(1, BOB), house.now)
    leg.send_rtcp(build_rtcp((PictureLoss(1, ALICE),)), house.now)

    assert house.sent == []
    assert leg.counters["no-key"] == 2


def overtaken(house: House, client: WebRtcClient, packets: int) -> WebRtcLeg:
    """A client that is done a datagram earlier than the server, which is the DTLS client."""
    leg = house.join(ALICE, client, ALICE_AT)
    leg.announce(OWN_AUDIO, (), house.now)
    while True:
        house.carry_down()
        if client.connected:
            break
        assert house.carry_up()
    last_flight, client.outbox = client.outbox, []
    for number in range(packets):
        client.send_rtp(audio(number))
    client.send_rtcp(build_rtcp((ReceiverReport(OWN_AUDIO),)))
    assert last_flight
    client.outbox += last_flight
    return leg


def test_media_that_overtakes_the_end_of_the_handshake_is_kept(
    house: House, webrtc_client: ClientType
) -> None:
    client = webrtc_client(passive=True)
    overtaken(house, client, 3)
    house.settle()

    assert [parse_rtp(packet).sequence for _, packet in house.room.rtp] == [0, 1, 2]
    assert len(house.room.rtcp) == 1


def test_only_so_much_is_kept(house: House, webrtc_client: ClientType) -> None:
    client = webrtc_client(passive=True)
    leg = overtaken(house, client, EARLY_LIMIT + 10)
    client.outbox.insert(0, b"\x80\x6f" + bytes(40))  # not from the client
    house.settle()

    assert len(house.room.rtp) == EARLY_LIMIT - 1
    assert leg.counters["no-key"] == 12
    assert leg.counters["bad-auth"] == 1


def test_packets_wait_for_the_message_that_announces_them(house: House, alice: Alice) -> None:
    for number in range(3):
        alice.client.send_rtp(audio(number, 0xDDDD0004))
    house.settle()
    assert house.room.rtp == []
    assert alice.leg.counters.get("unannounced", 0) == 0

    alice.leg.announce(None, ((0xDDDD0004, None),), house.now)

    assert house.room.rtp == [(ALICE, audio(number, ALICE + 1)) for number in range(3)]


def test_what_is_not_announced_in_time_is_counted(house: House, alice: Alice) -> None:
    for number in range(HOLD_LIMIT + 5):
        alice.client.send_rtp(audio(number, 0xDDDD0004))
    house.settle()
    assert house.counters["unannounced"] == 5

    alice.leg.announce(0xEEEE0005, (), house.now)  # that is another one
    house.sleep(HOLD_TIME + 0.01)

    assert house.counters["unannounced"] == HOLD_LIMIT + 5
    assert house.room.rtp == []
    alice.leg.announce(0xDDDD0004, (), house.now)
    assert house.room.rtp == []


def test_a_client_may_use_the_ssrcs_of_ready_without_saying_so(house: House, alice: Alice) -> None:
    client = type(alice.client)()
    house.join(BOB, client, BOB_AT)
    house.settle()

    client.send_rtp(audio(1, BOB))
    house.settle()

    assert house.room.rtp == [(BOB, audio(1, BOB))]  # the room knows whether it is announced


def test_a_camera_that_begins_again_under_another_ssrc_is_seen_by_browsers(
    house: House, alice: Alice, webrtc_client: ClientType
) -> None:
    bob = webrtc_client()
    leg = house.join(BOB, bob, BOB_AT)
    house.settle()
    room = Room()
    media = LegMedia({"VP8": (96, 97)}, srtp=True)
    for one in (alice.leg, leg):
        one.deliver_to(room)
        room.add(one, one.ssrcs, media, house.now)
    room.announce(ALICE, (ALICE + 1,), house.now)

    for ssrc, begin in ((OWN_VIDEO, 20_000), (0xDDDD0004, 10_000)):  # SSRC and numbers at random
        alice.leg.announce(None, ((ssrc, None),), house.now)
        for sequence in range(begin, begin + 3):
            packet = RtpPacket(96, sequence, 3000, ssrc, b"%d" % sequence)
            alice.client.send_rtp(packet.to_bytes())
        house.settle()

    seen = [parse_rtp(packet) for packet in bob.rtp]
    assert [int(packet.payload) for packet in seen] == [*range(20_000, 20_003),
                                                        *range(10_000, 10_003)]  # fmt: skip
    assert [packet.sequence for packet in seen] == [*range(20_000, 20_006)]


def test_reports_and_feedback_are_renamed_both_ways(house: House, alice: Alice) -> None:
    alice.client.send_rtcp(build_rtcp((SenderReport(OWN_VIDEO, 1, 2, 3, 4),)))
    alice.leg.send_rtcp(
        build_rtcp(
            (
                ReceiverReport(1, (ReportBlock(ALICE + 1, 0, 0, 0, 0, 0, 0),)),
                Nack(1, ALICE + 1, (7,)),
            )
        ),
        house.now,
    )
    house.settle()

    [(_, report)] = house.room.rtcp
    assert parse_rtcp(report) == (SenderReport(ALICE + 1, 1, 2, 3, 4),)
    [feedback] = alice.client.rtcp
    assert parse_rtcp(feedback) == (
        ReceiverReport(1, (ReportBlock(OWN_VIDEO, 0, 0, 0, 0, 0, 0),)),
        Nack(1, OWN_VIDEO, (7,)),
    )


def test_replayed_packets_are_counted(house: House, alice: Alice) -> None:
    alice.client.send_rtp(audio(1))
    recorded = alice.client.outbox[-1]
    alice.client.outbox += [recorded] * 4
    house.settle()

    assert house.room.rtp == [(ALICE, audio(1, ALICE))]
    assert house.counters["replay"] == 4


def test_a_check_that_is_not_authentic_latches_nothing(
    house: House, webrtc_client: ClientType
) -> None:
    client = webrtc_client()
    leg = house.select(ALICE, client)
    forged = build_request(
        bytes(12),
        username=f"{leg.ufrag}:{client.credentials.ufrag}",
        password="a guess, a wrong guess",
        priority=1,
        tie_breaker=2,
    )
    house.legs.receive(forged, MALLORY_AT, house.now)

    assert leg.address is None
    assert leg.addresses == ()
    assert house.counters["stun-bad-integrity"] == 1
    [(answer, to)] = house.sent
    assert to == MALLORY_AT
    assert parse_stun(answer).error_code == 401


def test_checks_for_nobody_are_refused_but_not_too_often(house: House) -> None:
    check = build_request(
        b"transactions", username="none:nil", password="p" * 22, priority=1, tie_breaker=2
    )
    for _ in range(3 * STRANGERS_PER_SECOND):
        house.legs.receive(check, MALLORY_AT, house.now)

    assert house.counters["unknown-ufrag"] == 3 * STRANGERS_PER_SECOND
    assert len(house.sent) == STRANGERS_PER_SECOND
    refused = parse_stun(house.sent[0][0])
    assert (refused.error_code, refused.transaction_id) == (401, b"transactions")
    house.legs.receive(check, MALLORY_AT, house.now + 1.1)
    assert len(house.sent) == STRANGERS_PER_SECOND + 1


def test_broken_checks_for_nobody_are_not_answered(house: House) -> None:
    check = build_request(
        bytes(12), username="none:nil", password="p" * 22, priority=1, tie_breaker=2
    )
    house.legs.receive(check[:-1], MALLORY_AT, house.now)
    house.legs.receive(b"\x01\x01" + check[2:], MALLORY_AT, house.now)  # an answer, to nothing

    assert house.sent == []
    assert house.counters["unknown-ufrag"] == 2


def check_from(house: House, client: WebRtcClient, *, nominate: bool) -> bytes:
    return build_request(
        bytes(12),
        username=f"{house.credentials.ufrag}:{client.credentials.ufrag}",
        password=house.credentials.password,
        priority=1,
        tie_breaker=2,
        use_candidate=nominate,
    )


def test_a_nomination_moves_the_address_and_a_mere_check_does_not(
    house: House, alice: Alice
) -> None:
    elsewhere = ("192.168.0.1", 7000)
    house.legs.receive(check_from(house, alice.client, nominate=False), elsewhere, house.now)
    assert alice.leg.address == ALICE_AT
    assert alice.leg.addresses == (ALICE_AT, elsewhere)
    alice.client.send_rtp(audio(1))
    house.legs.receive(alice.client.outbox.pop(), elsewhere, house.now)
    assert len(house.room.rtp) == 1  # a client may send from wherever it has checked

    house.legs.receive(check_from(house, alice.client, nominate=True), elsewhere, house.now)
    house.sent.clear()
    alice.leg.send_rtp(audio(1, BOB), house.now)

    assert alice.leg.address == elsewhere
    assert [to for _, to in house.sent] == [elsewhere]


def test_addresses_are_remembered_in_bounds(house: House, alice: Alice) -> None:
    for port in range(1000, 1000 + 3 * MAX_ADDRESSES):
        check = check_from(house, alice.client, nominate=False)
        house.legs.receive(check, ("192.168.0.1", port), house.now)

    assert len(alice.leg.addresses) == MAX_ADDRESSES
    assert alice.leg.address == ALICE_AT
    house.sent.clear()
    house.legs.receive(b"\x16\xfe\xfd" + bytes(40), ("192.168.0.1", 1000), house.now)
    assert house.counters["unknown-peer"] == 1  # long forgotten


def test_dtls_and_media_count_from_checked_addresses_only(house: House, alice: Alice) -> None:
    alice.client.send_rtp(audio(1))
    authentic = alice.client.outbox.pop()
    house.legs.receive(authentic, MALLORY_AT, house.now)
    house.legs.receive(b"\x16\xfe\xfd" + bytes(40), MALLORY_AT, house.now)

    assert house.room.rtp == []
    assert house.counters["unknown-peer"] == 2
    assert alice.leg.address == ALICE_AT


def test_a_new_session_takes_over_the_socket_of_an_older_one(
    house: House, alice: Alice, webrtc_client: ClientType
) -> None:
    again = webrtc_client()
    leg = house.join(BOB, again, ALICE_AT)
    house.settle()
    leg.announce(OWN_AUDIO, (), house.now)

    assert again.connected
    again.send_rtp(audio(1))
    house.settle()
    assert house.room.rtp == [(BOB, audio(1, BOB))]
    alice.client.send_rtp(audio(2))  # what was still under way
    house.legs.receive(alice.client.outbox.pop(), ALICE_AT, house.now)
    assert house.room.rtp[-1] == (ALICE, audio(2, ALICE))
    house.legs.remove_leg(alice.leg, house.now)
    again.send_rtp(audio(3))
    house.settle()
    assert house.room.rtp[-1] == (BOB, audio(3, BOB))


def test_a_wrong_certificate_fails_that_leg_and_no_other(
    house: House, alice: Alice, webrtc_client: ClientType
) -> None:
    client = webrtc_client()
    leg = house.select(BOB, client)
    client.certificate = Certificate.generate()  # not the one of the offer
    house.clients[BOB_AT] = client
    client.connect(house.credentials, house.certificate.fingerprint, house.now)
    house.settle()

    assert not client.connected
    [(failed, error)] = house.legs.take_failed()
    assert failed is leg
    assert isinstance(error, DtlsFailed)
    assert "certificate" in str(error)
    assert house.counters["dtls-failed"] == 1
    assert house.legs.take_failed() == []
    leg.send_rtp(audio(1, ALICE), house.now)
    assert leg.counters["no-key"] == 1
    alice.client.send_rtp(audio(1))
    house.settle()
    assert house.room.rtp == [(ALICE, audio(1, ALICE))]


def test_a_client_that_finds_a_wrong_server_certificate_ends_the_leg(
    house: House, webrtc_client: ClientType
) -> None:
    client = webrtc_client()
    leg = house.select(ALICE, client)
    house.clients[ALICE_AT] = client
    client.connect(house.credentials, Certificate.generate().fingerprint, house.now)
    house.settle()

    assert client.failed
    assert [failed for failed, _ in house.legs.take_failed()] == [leg]


def test_the_server_says_goodbye(house: House, alice: Alice) -> None:
    house.legs.remove_leg(alice.leg, house.now)
    house.settle()

    assert alice.client.dismissed
    house.legs.remove_leg(alice.leg, house.now)
    assert house.sent == []
    assert alice.leg.address is None


def test_a_client_that_says_goodbye_gets_nothing_more(house: House, alice: Alice) -> None:
    alice.client.close(house.now)
    house.settle()
    house.sent.clear()

    alice.leg.send_rtp(audio(1, BOB), house.now)

    assert house.sent == []
    assert house.counters["peer-closed"] == 1
    assert house.legs.take_failed() == []  # its websocket decides


def test_a_removed_leg_is_forgotten(house: House, alice: Alice) -> None:
    alice.client.send_rtp(audio(1, 0xDDDD0004))
    house.settle()
    house.legs.remove_leg(alice.leg, house.now)
    house.settle()
    alice.client.send_rtp(audio(2))
    alice.client.outbox.append(check_from(house, alice.client, nominate=True))
    house.settle()

    assert house.room.rtp == []
    assert house.counters["unknown-peer"] == 1
    assert house.counters["unknown-ufrag"] == 1
    assert house.legs.next_timeout() is None
    assert house.counters["stun-checks"] == 1  # what was counted stays in the sum


def test_nothing_is_sent_to_a_client_that_is_silent_for_too_long(
    house: House, alice: Alice
) -> None:
    house.now += CONSENT_TIMEOUT + 0.1
    alice.leg.send_rtp(audio(1, BOB), house.now)
    assert house.sent == []
    assert house.counters["no-consent"] == 1

    house.legs.receive(check_from(house, alice.client, nominate=True), ALICE_AT, house.now)
    alice.leg.send_rtp(audio(2, BOB), house.now)
    house.settle()
    assert [parse_rtp(packet).sequence for packet in alice.client.rtp] == [2]


def test_media_of_the_client_is_consent_too(house: House, alice: Alice) -> None:
    house.now += CONSENT_TIMEOUT - 1
    alice.client.send_rtcp(build_rtcp((ReceiverReport(OWN_AUDIO),)))
    house.settle()
    house.now += CONSENT_TIMEOUT - 1

    alice.leg.send_rtp(audio(1, BOB), house.now)

    assert len(house.sent) == 1


def test_a_lost_flight_is_sent_again(house: House, webrtc_client: ClientType) -> None:
    client = webrtc_client()
    house.join(ALICE, client, ALICE_AT)
    house.step()  # the check
    house.step()  # its answer, and the client's hello
    assert any(not is_stun(datagram) for datagram, _ in house.sent)
    house.sent.clear()  # the server's hello is lost

    due = house.legs.next_timeout()
    assert due is not None
    house.now = due
    house.legs.handle_timeout(due)
    house.settle()

    assert client.connected


def test_discovery_and_pings_are_answered_and_change_nothing(house: House, alice: Alice) -> None:
    house.legs.receive(build_discovery(ALICE), MALLORY_AT, house.now)
    house.legs.receive(build_ping(7), ALICE_AT, house.now)

    assert (build_response(ALICE, *MALLORY_AT), MALLORY_AT) in house.sent
    assert (build_pong(7), ALICE_AT) in house.sent
    assert alice.leg.address == ALICE_AT


def test_what_was_discovered_before_the_choice_is_of_no_use_after_it(
    house: House, webrtc_client: ClientType
) -> None:
    undecided = house.legs.add_leg(ALICE, LegSsrcs(ALICE))
    house.legs.receive(build_discovery(ALICE), ALICE_AT, house.now)
    fragment = parse_client_fragment(webrtc_client().offer())
    terms = WebRtcTerms(fragment, IceCredentials.generate())

    leg = house.legs.select_webrtc(undecided, terms, house.certificate)

    assert leg.address is None
    assert house.counters["discovery"] == 1


def test_checks_and_dtls_of_plain_sessions_are_mere_keepalives(house: House) -> None:
    from discord_rtc.crypto.modes import create_cipher

    mode, key = "aead_aes256_gcm_rtpsize", bytes(32)
    leg = house.legs.add_leg(BOB, LegSsrcs(BOB))
    leg.start(mode, key)
    leg.deliver_to(house.room)
    cipher = create_cipher(mode, key, side="client")
    house.legs.receive(cipher.protect_rtp(audio(1, BOB)), BOB_AT, house.now)

    house.legs.receive(b"\x20\x00\x00\x00\x00\x00\x00\x00", BOB_AT, house.now)  # it counts
    house.legs.receive(b"\x01\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), BOB_AT, house.now)

    assert house.counters["keepalive"] == 2
    assert house.sent == []


def test_impairments_hold_back_checks_and_dtls_alike(
    house: House, webrtc_client: ClientType
) -> None:
    house.faults.impair(ALICE, up=Impairment(delay=0.1), down=Impairment(delay=0.1))
    client = webrtc_client()
    house.join(ALICE, client, ALICE_AT)
    house.settle()
    assert house.counters.get("stun-checks", 0) == 0

    trips = 0
    while not client.connected:
        trips += 1
        assert trips < 40
        house.sleep(0.1)
        house.settle()

    # Check, answer; hello, hello; finished, finished: six trips of 0.1 s.
    assert trips >= 6
    assert client.agent.rtt == pytest.approx(0.2, abs=0.11)


@pytest.mark.parametrize("kind", ["stun", "dtls", "media"])
def test_what_is_blocked_does_not_pass_in_either_direction(
    house: House, webrtc_client: ClientType, kind: str
) -> None:
    house.faults.block(kind, user_id=ALICE)  # type: ignore[arg-type]  # one of them
    client = webrtc_client()
    leg = house.join(ALICE, client, ALICE_AT)
    house.settle()
    leg.announce(OWN_AUDIO, (), house.now)
    if kind == "media":
        client.send_rtp(audio(1))
        leg.send_rtp(audio(1, BOB), house.now)
        house.settle()

    assert client.connected is (kind == "media")
    assert (house.room.rtp, client.rtp) == ([], [])
    assert house.faults.counters[f"blocked-{kind}"] >= 1
    assert house.legs.take_failed() == []


def test_a_relay_may_be_let_through(house: House, webrtc_client: ClientType) -> None:
    relay = ("10.9.9.9", 3478)
    house.faults.block(allow=lambda address: address == relay)
    direct, relayed = webrtc_client(), webrtc_client()
    house.join(ALICE, direct, ALICE_AT)
    house.join(BOB, relayed, relay)
    house.settle()

    assert relayed.connected
    assert not direct.connected


def test_checks_for_nobody_are_blocked_by_the_rules_for_everybody(house: House) -> None:
    house.faults.block("stun", "ping")
    check = build_request(
        bytes(12), username="none:nil", password="p" * 22, priority=1, tie_breaker=2
    )
    house.legs.receive(check, MALLORY_AT, house.now)
    house.legs.receive(build_ping(1), MALLORY_AT, house.now)

    assert house.sent == []
    assert house.faults.counters == {"blocked-stun": 1, "blocked-ping": 1}


def test_a_leg_shows_no_secrets(house: House, alice: Alice) -> None:
    assert repr(alice.leg) == f"<WebRtcLeg 100 of user 100 at {ALICE_AT}>"
    assert house.credentials.password not in repr(house.credentials)


def test_credentials_are_given_out_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = house.legs.new_credentials()
    fresh = IceCredentials("other", "p" * 22)
    offered = [fresh, taken]
    fragment = parse_client_fragment(
        f"a=ice-ufrag:abcd\na=ice-pwd:{'p' * 22}\na=fingerprint:{house.certificate.fingerprint}"
    )
    undecided = house.legs.add_leg(ALICE, LegSsrcs(ALICE))
    house.legs.select_webrtc(undecided, WebRtcTerms(fragment, taken), house.certificate)
    monkeypatch.setattr(IceCredentials, "generate", offered.pop)

    assert house.legs.new_credentials() is fresh


def test_garbage_on_a_shared_socket_is_counted_once(
    house: House, alice: Alice, webrtc_client: ClientType
) -> None:
    leg = house.join(BOB, webrtc_client(), ALICE_AT)
    house.settle()

    house.legs.receive(b"\x80\x6f" + bytes(40), ALICE_AT, house.now)

    assert leg.counters["bad-auth"] == 1
    assert alice.leg.counters["bad-auth"] == 0


def test_a_call_at_rest_has_no_timers(house: House, alice: Alice) -> None:
    assert alice.client.connected
    for _ in range(20):  # the end of the handshake is repeated some times
        due = house.legs.next_timeout()
        if due is None:
            break
        house.now = due
        house.legs.handle_timeout(due)
        house.settle()

    assert house.legs.next_timeout() is None


@st.composite
def almost_checks(draw: st.DrawFn) -> bytes:
    """STUN from its looks; any attributes, some cut off."""
    body = b""
    for _ in range(draw(st.integers(0, 4))):
        value = draw(st.binary(max_size=30))
        kind = draw(st.sampled_from([0x06, 0x08, 0x24, 0x25, 0x8028, 0x802A, 0x7777]))
        length = draw(st.sampled_from([len(value), 0, 0xFFFF]))
        body += kind.to_bytes(2, "big") + length.to_bytes(2, "big") + value
        body += bytes(-len(body) % 4)
    kind = draw(st.sampled_from([0x0001, 0x0011, 0x0101, 0x0111, 0x0003]))
    size = draw(st.sampled_from([len(body), 0xFFFC]))
    head = kind.to_bytes(2, "big") + size.to_bytes(2, "big") + b"\x21\x12\xa4\x42"
    return head + draw(st.binary(min_size=12, max_size=12)) + body


@st.composite
def almost_records(draw: st.DrawFn) -> bytes:
    """DTLS from its looks, as before or after the handshake."""
    body = draw(st.binary(max_size=60))
    head = bytes((draw(st.integers(20, 63)),)) + b"\xfe\xfd"
    head += draw(st.sampled_from([bytes(2), b"\0\1"])) + draw(st.binary(min_size=6, max_size=6))
    return head + len(body).to_bytes(2, "big") + body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datagrams=st.lists(st.binary(max_size=80) | almost_checks() | almost_records(), max_size=8))
def test_no_datagram_raises_moves_or_ends_a_call(
    house: House, alice: Alice, datagrams: list[bytes]
) -> None:
    house.now += 1
    for datagram in datagrams:
        house.legs.receive(datagram, MALLORY_AT, house.now)
        house.legs.receive(datagram, ALICE_AT, house.now)
    house.sent.clear()
    house.room.rtp.clear()
    sequence = int(house.now) % 65536
    alice.client.send_rtp(audio(sequence))
    house.settle()

    assert house.room.rtp == [(ALICE, audio(sequence, ALICE))]
    assert alice.leg.address == ALICE_AT
    assert house.legs.take_failed() == []
