"""Sessions, channels and media of the voice side, without any websocket."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio

from discord_rtc.crypto.modes import create_cipher
from discord_rtc.rtp.rtcp import Goodbye, ReceiverReport, parse_rtcp
from discord_rtc.server.channel import RoomHooks, RoomInfo
from discord_rtc.server.encryption import EncryptionPolicy
from discord_rtc.server.media_socket import MediaSocket
from discord_rtc.server.session import SessionConfig
from discord_rtc.server.voice_gateway import VoiceGateway, VoicePeer
from discord_rtc.server.world import RoomKey, VoiceRequest, World

from .dave_clients import Davey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeAlias

    from discord_rtc.server.world import Ticket
    from tests.server.conftest import WebRtcClient

    MakeHouse: TypeAlias = Callable[..., "House"]

pytestmark = pytest.mark.asyncio

ANN, BOB, EVE = 1, 2, 3
GUILD, LOUNGE, OFFICE = 10, 20, 21
MODE = "aead_aes256_gcm_rtpsize"

Json = dict[str, object]


class House:
    """A voice gateway with its world and a real media socket."""

    def __init__(
        self,
        media: MediaSocket,
        mode: str = "off",
        hooks: RoomHooks | None = None,
        resume_window: float = 30.0,
    ) -> None:
        self.media = media
        self.world = World()
        self.counters: Counter[str] = Counter()
        self.voice = VoiceGateway(
            self.world,
            media,
            SessionConfig((MODE,), resume_window=resume_window),
            self.counters,
            encryption=EncryptionPolicy(mode),
            hooks=hooks,
        )

    def request(self, user_id: int, channel_id: int | None, **flags: int) -> Ticket:
        """What the main gateway would do for an op 4."""
        request = VoiceRequest(GUILD, channel_id, **flags)  # type: ignore[arg-type]  # ints are fine
        change = self.world.update_voice(user_id, f"s{user_id}", request)
        self.voice.update(change.state)
        ticket = self.world.ticket_of(GUILD, user_id)
        assert ticket is not None
        return ticket

    def identified(
        self,
        user_id: int,
        channel_id: int = LOUNGE,
        *,
        dave: int = 0,
        browser: bool = False,
        **flags: int,
    ) -> Client:
        client = Client(self, browser=browser)
        ticket = self.request(user_id, channel_id, **flags)
        client.send(
            0,
            {
                "server_id": str(ticket.server_id),
                "user_id": str(user_id),
                "session_id": ticket.session_id,
                "token": ticket.token,
                "video": True,
                "max_dave_protocol_version": dave,
            },
        )
        return client

    def live(
        self,
        user_id: int,
        channel_id: int = LOUNGE,
        *,
        dave: int = 0,
        browser: bool = False,
        **flags: int,
    ) -> Client:
        client = self.identified(user_id, channel_id, dave=dave, browser=browser, **flags)
        client.select()
        return client


class Client:
    """The other end of one session."""

    def __init__(self, house: House, *, browser: bool = False) -> None:
        self.house = house
        self.wakes = 0
        self.peer: VoicePeer = house.voice.connect(8, "127.0.0.1", self.wake, browser=browser)
        self.peer.session.open(0.0)
        self.ssrc = 0

    def wake(self) -> None:
        self.wakes += 1

    def send(self, opcode: int, data: object) -> None:
        self.peer.session.receive_text(json.dumps({"op": opcode, "d": data}), 1.0)
        self.house.voice.drain(self.peer)

    def select(self, codecs: list[Json] | None = None, *, address: str = "127.0.0.1") -> None:
        ready = next(data for opcode, data in self.received() if opcode == 2)
        self.ssrc = cast("int", ready["ssrc"])
        udp = {"address": address, "port": 9, "mode": MODE}
        self.send(1, {"protocol": "udp", "data": udp, "codecs": codecs or []})

    def select_webrtc(self, offer: str, codecs: list[Json] | None = None) -> None:
        ready = next(data for opcode, data in self.received() if opcode == 2)
        self.ssrc = cast("int", ready["ssrc"])
        self.send(1, {"protocol": "webrtc", "data": offer, "codecs": codecs or []})

    def show_video(self) -> None:
        stream = {"type": "video", "rid": "100", "ssrc": self.ssrc + 1, "active": True}
        self.send(
            12,
            {
                "audio_ssrc": self.ssrc,
                "video_ssrc": self.ssrc + 1,
                "rtx_ssrc": self.ssrc + 2,
                "streams": [stream],
            },
        )

    def seqs(self) -> list[int]:
        """Numbers of all messages since the last call."""
        frames = [json.loads(frame) for frame in self.peer.session.messages_to_send()]
        return [frame["seq"] for frame in frames if "seq" in frame]

    def received(self) -> list[tuple[int, Json]]:
        frames = [json.loads(frame) for frame in self.peer.session.messages_to_send()]
        return [(frame["op"], frame["d"]) for frame in frames]

    def opcodes(self) -> list[int]:
        """Of everything since the last call, binary messages too."""
        frames = self.peer.session.messages_to_send()
        return [json.loads(one)["op"] if isinstance(one, str) else one[2] for one in frames]

    def told(self, *opcodes: int) -> list[tuple[int, Json]]:
        """Messages of these opcodes since the last call."""
        return [(opcode, data) for opcode, data in self.received() if opcode in opcodes]

    def packs(self) -> None:
        """Send a key package."""
        assert self.peer.occupant is not None
        package = Davey(self.peer.occupant.user_id).begin()
        self.peer.session.receive_binary(b"\x1a" + package, 1.0)
        self.house.voice.drain(self.peer)

    def hang_up(self, code: int | None = 1000) -> None:
        self.peer.session.connection_lost(code, self.house.media.clock.now())
        self.house.voice.drain(self.peer)


@pytest_asyncio.fixture
async def media_house() -> AsyncIterator[MakeHouse]:
    """Makes a house with options."""
    media = await MediaSocket.open("127.0.0.1")
    houses: list[House] = []

    def make(*, resume_window: float) -> House:
        houses.append(House(media, resume_window=resume_window))
        return houses[-1]

    yield make
    for one in houses:
        one.voice.close()
    await media.aclose()


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    media = await MediaSocket.open("127.0.0.1")
    yield House(media)
    await media.aclose()


async def test_ready_names_the_media_socket(house: House) -> None:
    ann = house.identified(ANN)
    ((_, ready),) = ann.told(2)
    assert (ready["ip"], ready["port"]) == house.media.address


async def test_every_session_has_its_own_ssrcs(house: House) -> None:
    seen: set[int] = set()
    for user_id in (ANN, BOB, EVE):
        ((_, ready),) = house.identified(user_id).told(2)
        (stream,) = cast("list[dict[str, int]]", ready["streams"])
        mine = {cast("int", ready["ssrc"]), stream["ssrc"], stream["rtx_ssrc"]}
        assert len(mine) == 3
        assert seen.isdisjoint(mine)
        seen |= mine


@pytest.mark.parametrize(("field", "code"), [("token", 4004), ("session_id", 4006)])
async def test_wrong_credentials_are_refused(house: House, field: str, code: int) -> None:
    ticket = house.request(ANN, LOUNGE)
    client = Client(house)
    shown = {"token": ticket.token, "session_id": ticket.session_id, field: "wrong"}
    client.send(0, {"server_id": "10", "user_id": "1", **shown})
    closing = client.peer.session.closing
    assert closing is not None
    assert closing[0] == code
    assert house.counters[f"voice.closed.{code}"] == 1
    assert house.world.ticket_of(GUILD, ANN) == ticket


async def test_a_newcomer_is_told_who_is_there_and_they_of_the_newcomer(house: House) -> None:
    ann = house.live(ANN, flags=2)
    assert ann.told(11, 18) == [(11, {"user_ids": ["1"]})]
    bob = house.live(BOB)
    assert bob.told(11, 13, 18, 20) == [
        (11, {"user_ids": ["1", "2"]}),
        (18, {"user_id": "1", "flags": 2}),
        (20, {"user_id": "1", "platform": None}),
    ]
    assert ann.received() == [
        (11, {"user_ids": ["2"]}),
        (18, {"user_id": "2", "flags": None}),
        (20, {"user_id": "2", "platform": None}),
    ]
    assert ann.wakes > 0


async def test_nobody_is_told_of_who_only_identified(house: House) -> None:
    ann = house.live(ANN)
    ann.received()
    house.identified(BOB).hang_up()
    assert ann.received() == []
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


async def test_speaking_is_told_to_the_others_and_to_later_ones(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    ann.send(5, {"speaking": 5, "ssrc": ann.ssrc, "delay": 0})
    said = (5, {"speaking": 5, "ssrc": ann.ssrc, "user_id": "1"})
    assert bob.told(5) == [said]
    assert ann.told(5) == []
    assert house.live(EVE).told(5) == [said]


async def test_speaking_before_the_channel_is_told_at_the_join(house: House) -> None:
    bob = house.live(BOB)
    ann = house.identified(ANN)
    ann.ssrc = 0
    ann.send(5, {"speaking": 1, "ssrc": 0, "delay": 0})
    assert bob.told(5) == []
    ann.select()
    assert bob.told(5) == [(5, {"speaking": 1, "ssrc": ann.ssrc, "user_id": "1"})]


async def test_video_is_told_to_the_others_and_to_later_ones(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.show_video()
    ((_, shown),) = bob.told(12)
    assert (shown["user_id"], shown["audio_ssrc"], shown["video_ssrc"]) == (
        "1",
        ann.ssrc,
        ann.ssrc + 1,
    )
    assert house.live(EVE).told(12) == [(12, shown)]
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].video_user_ids == (ANN,)


async def test_cleared_video_is_told_with_the_real_audio_ssrc(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.show_video()
    bob.received()
    ann.send(12, {"audio_ssrc": 0, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []})
    ((_, shown),) = bob.told(12)
    assert (shown["audio_ssrc"], shown["video_ssrc"], shown["streams"]) == (ann.ssrc, 0, [])
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].video_user_ids == ()


async def test_video_before_the_channel_is_told_at_the_join(house: House) -> None:
    bob = house.live(BOB)
    ann = house.identified(ANN)
    ann.send(12, {"audio_ssrc": 0, "video_ssrc": 0, "streams": []})
    ann.select()
    ((_, shown),) = bob.told(12)
    assert shown["audio_ssrc"] == ann.ssrc


async def test_wants_and_codecs_are_accepted_at_any_time(house: House) -> None:
    vp8: Json = {"name": "VP8", "type": "video", "priority": 1000, "payload_type": 105}
    ann = house.identified(ANN)
    ann.send(15, {"any": 0})
    ann.send(14, {"codecs": [vp8]})
    ann.select([vp8])
    ann.send(15, {"any": 0, "700": 100})
    ann.send(14, {"codecs": []})
    ann.send(15, {"700": 50})
    assert ann.peer.session.closing is None


async def test_leaving_is_told_to_the_others(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    bob.hang_up()
    assert ann.received() == [(13, {"user_id": "2"})]
    assert house.voice.rooms == {
        RoomKey(GUILD, LOUNGE): RoomInfo(GUILD, LOUNGE, (ANN,), (), {ANN: "udp"})
    }
    ann.hang_up(1001)
    assert house.voice.rooms == {}
    assert house.counters["voice.closed.1000"] == 1
    assert house.counters["voice.closed.1001"] == 1


# Websockets that are lost


def resume(house: House, old: Client, ticket: Ticket, **fields: object) -> Client:
    """Another websocket for the session of an old one."""
    client = Client(house)
    client.ssrc = old.ssrc
    client.send(
        7,
        {
            "server_id": str(ticket.server_id),
            "session_id": ticket.session_id,
            "token": ticket.token,
            **fields,
        },
    )
    return client


def ticket_of(client: Client) -> Ticket:
    assert client.peer.ticket is not None
    return client.peer.ticket


def code_of(client: Client) -> int | None:
    closing = client.peer.session.closing
    return None if closing is None else closing[0]


async def test_who_lost_the_websocket_stays_for_everybody_and_resumes(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ticket = ticket_of(bob)
    seen = bob.seqs()
    ann.received()
    bob.hang_up(None)
    assert ann.received() == []
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN, BOB)
    ann.send(5, {"speaking": 1, "ssrc": ann.ssrc, "delay": 0})
    house.live(EVE)
    back = resume(house, bob, ticket, seq_ack=seen[-1])
    assert [opcode for opcode, _ in back.received()] == [8, 9, 5, 11, 18, 20]
    assert code_of(back) is None
    back.send(5, {"speaking": 2, "ssrc": back.ssrc, "delay": 0})
    assert (5, {"speaking": 2, "ssrc": back.ssrc, "user_id": "2"}) in ann.received()
    ann.send(5, {"speaking": 0, "ssrc": ann.ssrc, "delay": 0})
    assert back.told(5) == [(5, {"speaking": 0, "ssrc": ann.ssrc, "user_id": "1"})]
    assert back.wakes > 0
    assert house.counters["voice.detached.1006"] == 1
    assert house.counters["voice.resumed"] == 1
    assert house.counters["voice.replayed"] == 4
    back.hang_up()
    assert ann.told(13) == [(13, {"user_id": "2"})]


async def test_a_resume_takes_over_while_the_old_websocket_is_open(house: House) -> None:
    ann = house.live(ANN)
    wakes = ann.wakes
    back = resume(house, ann, ticket_of(ann), seq_ack=ann.seqs()[-1])
    assert back.told(9) == [(9, None)]
    assert (code_of(ann), ann.wakes) == (4006, wakes + 1)
    ann.hang_up(4006)
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


async def test_who_does_not_come_back_in_time_has_left(media_house: MakeHouse) -> None:
    house = media_house(resume_window=0.05)
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    bob.hang_up(None)
    await asyncio.sleep(0.02)
    assert ann.received() == []
    await asyncio.sleep(0.2)
    assert ann.received() == [(13, {"user_id": "2"})]
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)
    assert house.counters["voice.expired"] == 1
    assert house.counters["voice.closed.1006"] == 1


async def test_a_closed_server_waits_for_nobody(media_house: MakeHouse) -> None:
    house = media_house(resume_window=0.02)
    house.live(ANN).hang_up(None)
    bob = house.live(BOB)
    house.voice.close()
    assert house.voice.rooms == {}
    assert code_of(bob) == 4022
    await asyncio.sleep(0.05)
    assert house.counters["voice.expired"] == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"token": "wrong"}, 4004),
        ({"server_id": "77"}, 4004),
        ({"session_id": "wrong"}, 4006),
        ({"seq_ack": 999}, 4006),
    ],
)
async def test_a_resume_is_checked_like_an_identify(
    house: House, fields: dict[str, object], code: int
) -> None:
    ann = house.live(ANN)
    ticket = ticket_of(ann)
    ann.hang_up(None)
    assert code_of(resume(house, ann, ticket, **fields)) == code
    stays = code == 4004 or "session_id" in fields
    assert bool(house.voice.rooms) == stays
    assert house.counters["voice.unresumable"] == (not stays)


async def test_a_session_that_was_never_live_cannot_be_resumed(house: House) -> None:
    ann = house.identified(ANN)
    ticket = ticket_of(ann)
    assert code_of(resume(house, ann, ticket)) == 4006
    assert code_of(ann) == 4006


async def test_an_ended_session_cannot_be_resumed(house: House) -> None:
    ann = house.live(ANN)
    ticket = ticket_of(ann)
    ann.hang_up()
    assert code_of(resume(house, ann, ticket)) == 4006


@pytest.mark.parametrize("code", [4006, 4014, 4022])
async def test_a_session_without_websocket_is_ended_like_any_other(house: House, code: int) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ticket = ticket_of(bob)
    bob.hang_up(None)
    ann.received()
    assert not house.voice.drop(ticket)
    assert not house.voice.end(ticket, 4015, "there is no websocket to close")
    assert house.voice.end(ticket, code, "over")
    assert ann.told(13) == [(13, {"user_id": "2"})]
    assert code_of(resume(house, bob, ticket)) == 4006


async def test_a_crash_leaves_the_session_and_a_cut_cuts(house: House) -> None:
    cuts: list[int] = []
    ann = house.live(ANN)
    ticket = ticket_of(ann)
    ann.peer.abort = lambda: cuts.append(1)
    assert house.voice.drop(ticket)
    assert (cuts, house.voice.drop(ticket)) == ([1], False)
    assert not house.voice.drop(house.request(BOB, LOUNGE))
    bob = house.live(BOB)
    assert house.voice.end(ticket_of(bob), 4015, "crashed")
    assert code_of(bob) == 4015
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN, BOB)


async def test_the_same_request_again_serves_a_resume_with_the_description(house: House) -> None:
    ann = house.live(ANN)
    ticket = ticket_of(ann)
    seen = ann.seqs()[-1]
    ann.hang_up(None)
    assert house.request(ANN, LOUNGE) == ticket
    back = resume(house, ann, ticket, seq_ack=seen)
    assert [opcode for opcode, _ in back.received()] == [8, 9, 4]
    # It was for that one resume.
    again = resume(house, back, ticket, seq_ack=seen + 1)
    assert [opcode for opcode, _ in again.received()] == [8, 9]


async def test_the_same_request_again_serves_a_new_session_too(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ticket = ticket_of(bob)
    bob.hang_up(None)
    ann.received()
    refused = Client(house)
    shown = {"server_id": "10", "user_id": "2", "session_id": "s2", "token": ticket.token}
    refused.send(0, shown)
    assert code_of(refused) == 4006  # as on Discord: not without another op 4
    assert ann.received() == []
    assert house.request(BOB, LOUNGE) == ticket
    anew = Client(house)
    anew.send(0, shown)
    assert ann.told(13) == [(13, {"user_id": "2"})]
    anew.select()
    assert ann.told(11) == [(11, {"user_ids": ["2"]})]
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN, BOB)
    assert ticket_of(anew) == ticket
    anew.hang_up()
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


# What users change


async def test_channels_do_not_hear_each_other(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB, OFFICE)
    ann.received()
    bob.send(5, {"speaking": 1, "ssrc": bob.ssrc, "delay": 0})
    bob.hang_up()
    assert ann.received() == []


async def test_ending_a_ticket_closes_its_session(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    ticket = bob.peer.ticket
    assert ticket is not None
    assert house.voice.end(ticket, 4014, "moved")
    assert bob.peer.session.closing == (4014, "moved")
    assert ann.received() == [(13, {"user_id": "2"})]
    assert not house.voice.end(ticket, 4014, "moved")


async def test_a_session_may_end_before_its_websocket(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    wakes = bob.wakes
    assert house.voice.end(ticket_of(bob), 4014, "moved", notice=0.05)
    assert ann.received() == [(13, {"user_id": "2"})]
    assert code_of(bob) == 4014
    assert bob.wakes == wakes
    await asyncio.sleep(0.1)
    assert bob.wakes == wakes + 1


async def test_ending_a_leg_closes_its_session(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    assert bob.peer.occupant is not None
    leg = bob.peer.occupant.leg
    house.voice.end_leg(leg, 4006, "used up")
    house.voice.end_leg(leg, 4006, "used up")
    assert bob.peer.session.closing == (4006, "used up")
    assert ann.peer.session.closing is None


async def test_a_ticket_serves_once(house: House) -> None:
    ann = house.live(ANN)
    ticket = ann.peer.ticket
    ann.hang_up()
    again = Client(house)
    assert ticket is not None
    again.send(
        0,
        {
            "server_id": "10",
            "user_id": "1",
            "session_id": ticket.session_id,
            "token": ticket.token,
        },
    )
    assert again.peer.session.closing is not None
    assert again.peer.session.closing[0] == 4006


async def test_flags_are_told_when_they_change(house: House) -> None:
    ann, bob = house.live(ANN), house.live(BOB)
    ann.received()
    bob.received()
    house.request(ANN, LOUNGE, self_mute=True)
    assert bob.received() == []
    house.request(ANN, LOUNGE, flags=2, self_deaf=True)
    assert bob.received() == [(18, {"user_id": "1", "flags": 2})]
    assert ann.told(18) == []


async def test_a_state_that_changes_while_connecting_is_the_one_shown(house: House) -> None:
    bob = house.live(BOB)
    ann = house.identified(ANN)
    house.request(ANN, LOUNGE, flags=2)
    ann.select()
    assert bob.told(18) == [(18, {"user_id": "1", "flags": 2})]


async def test_a_state_without_a_session_concerns_nobody(house: House) -> None:
    house.request(ANN, LOUNGE)
    house.voice.update(house.world.update_voice(BOB, "s", VoiceRequest(GUILD, None)).state)
    assert house.voice.rooms == {}


async def test_discovery_is_answered_from_ready_on_until_the_end(house: House) -> None:
    ann = house.identified(ANN)
    ann.select()
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(
        _Answers, remote_addr=house.media.address
    )
    request = b"\x00\x01\x00\x46" + ann.ssrc.to_bytes(4, "big") + bytes(66)
    transport.sendto(request)
    async with asyncio.timeout(2):
        assert (await answers.next())[:8] == b"\x00\x02\x00\x46" + request[4:8]
    ann.hang_up()
    transport.sendto(request)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answers.discovery(), 0.05)
    transport.close()


async def test_who_is_dismissed_hears_a_goodbye_on_the_media_path(house: House) -> None:
    ann = house.identified(ANN)
    ssrc = cast("int", next(data for opcode, data in ann.received() if opcode == 2)["ssrc"])
    loop = asyncio.get_running_loop()
    transport, answers = await loop.create_datagram_endpoint(
        _Answers, remote_addr=house.media.address
    )
    transport.sendto(b"\x00\x01\x00\x46" + ssrc.to_bytes(4, "big") + bytes(66))
    async with asyncio.timeout(2):
        await answers.next()
        ann.send(1, {"protocol": "udp", "data": {"address": "", "port": 0, "mode": MODE}})
        key = next(data for opcode, data in ann.received() if opcode == 4)["secret_key"]
        ticket = house.world.ticket_of(GUILD, ANN)
        assert ticket is not None
        assert house.voice.end(ticket, 4014, "moved")
        house.voice.drain(ann.peer)
        cipher = create_cipher(MODE, bytes(cast("list[int]", key)), side="client")
        parts = parse_rtcp(cipher.unprotect_rtcp(await answers.next()))
    assert parts == (ReceiverReport(1), Goodbye((1,)))
    transport.close()


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's
        self.queue.put_nowait(data)

    async def next(self) -> bytes:
        return await self.queue.get()

    async def discovery(self) -> bytes:
        """The next one that is not the goodbye."""
        while (answer := await self.next())[:2] != b"\x00\x02":
            pass
        return answer


async def test_a_client_need_not_say_where_it_is(house: House) -> None:
    ann = house.identified(ANN)
    ann.select(address="")
    assert ann.told(4, 11) != []
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


OWN_VIDEO: Json = {
    "audio_ssrc": 7,
    "video_ssrc": 8,
    "rtx_ssrc": 9,
    "streams": [{"type": "video", "rid": "100", "ssrc": 8, "rtx_ssrc": 9, "active": True}],
}


async def test_streams_of_a_webrtc_client_are_told_with_the_ssrcs_of_ready(
    house: House, webrtc_client: type[WebRtcClient]
) -> None:
    bob, ann = house.live(BOB), house.identified(ANN)
    ann.select_webrtc(webrtc_client().offer())
    bob.received()
    ann.send(5, {"speaking": 1, "ssrc": 7, "delay": 5})
    ann.send(12, OWN_VIDEO)

    (speaking, video) = bob.told(5, 12)
    assert speaking == (5, {"speaking": 1, "ssrc": ann.ssrc, "user_id": "1"})
    shown = video[1]
    assert (shown["audio_ssrc"], shown["video_ssrc"]) == (ann.ssrc, ann.ssrc + 1)
    (stream,) = cast("list[Json]", shown["streams"])
    assert (stream["ssrc"], stream["rtx_ssrc"]) == (ann.ssrc + 1, ann.ssrc + 2)
    assert house.live(EVE).told(5, 12) == [speaking, video]
    room = house.voice.rooms[RoomKey(GUILD, LOUNGE)]
    assert room.video_user_ids == (ANN,)
    assert room.transports == {BOB: "udp", ANN: "webrtc", EVE: "udp"}


async def test_what_was_announced_before_the_choice_of_webrtc_holds_after_it(
    house: House, webrtc_client: type[WebRtcClient]
) -> None:
    bob, ann = house.live(BOB), house.identified(ANN)
    ann.send(5, {"speaking": 1, "ssrc": 0, "delay": 5})
    ann.select_webrtc(webrtc_client().offer())
    assert bob.told(5) == [(5, {"speaking": 1, "ssrc": ann.ssrc, "user_id": "1"})]


async def test_video_that_a_webrtc_client_withdraws_is_gone(
    house: House, webrtc_client: type[WebRtcClient]
) -> None:
    bob, ann = house.live(BOB), house.identified(ANN)
    ann.select_webrtc(webrtc_client().offer())
    ann.send(12, OWN_VIDEO)
    bob.received()
    ann.send(12, {"audio_ssrc": 7, "video_ssrc": 0, "rtx_ssrc": 0, "streams": []})

    ((_, shown),) = bob.told(12)
    assert (shown["audio_ssrc"], shown["video_ssrc"], shown["streams"]) == (ann.ssrc, 0, [])
    assert ann.peer.occupant is not None
    assert ann.peer.occupant.announced() == {ann.ssrc}


async def test_media_of_a_webrtc_client_is_what_it_offered(
    house: House, webrtc_client: type[WebRtcClient]
) -> None:
    ann = house.identified(ANN)
    ann.select_webrtc(webrtc_client().offer(setup=False))
    assert ann.peer.occupant is not None
    before = ann.peer.occupant.media
    assert dict(before.payload_types) == {"opus": (111, None), "VP8": (96, 97)}
    assert dict(before.extension_ids) == {}
    assert "goog-remb" in before.feedback

    ann.send(14, {"codecs": [{"name": "H264", "type": "video", "priority": 1, "payload_type": 99}]})
    after = ann.peer.occupant.media
    assert dict(after.payload_types) == {"H264": (99, None)}
    assert after.feedback == before.feedback
    ann.send(14, {"codecs": []})
    assert ann.peer.occupant.media == after


async def test_a_client_without_a_route_is_counted_and_stays(house: House) -> None:
    ann = house.live(ANN)
    ann.send(32, {})
    assert house.counters["voice.no-route"] == 1
    assert ann.peer.session.closing is None
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].user_ids == (ANN,)


async def test_no_two_sessions_have_the_same_ice_credentials(
    house: House, webrtc_client: type[WebRtcClient]
) -> None:
    fragments = set()
    for user_id in (ANN, BOB, EVE):
        client = house.identified(user_id)
        client.select_webrtc(webrtc_client().offer())
        ((_, description),) = client.told(4)
        fragments.add(description["sdp"])
        assert house.media.fingerprint in cast("str", description["sdp"])
    assert len(fragments) == 3


# End-to-end encryption. The calls themselves are in tests/e2e/test_dave_server.py.


async def test_op_25_follows_op_4_and_op_11_comes_before_any_proposal(house: House) -> None:
    house = House(house.media, "required")
    ann = house.live(ANN, dave=1)
    assert ann.opcodes() == [4, 25, 11]
    bob = house.live(BOB, dave=1)
    assert bob.opcodes()[:3] == [4, 25, 11]
    assert ann.opcodes() == [11, 18, 20]


async def test_a_refused_client_frees_its_ticket_and_is_nowhere(house: House) -> None:
    house = House(house.media, "required")
    client = house.identified(ANN)
    assert client.peer.session.closing == (4017, "E2EE/DAVE protocol required")
    assert client.opcodes() == [8]
    assert house.voice.rooms == {}
    assert house.counters["voice.closed.4017"] == 1
    assert house.live(ANN, dave=1).opcodes() == [4, 25, 11]


async def test_a_session_without_dave_has_nothing_to_say_about_it(house: House) -> None:
    house = House(house.media, "optional")
    ann = house.live(ANN)
    assert ann.opcodes() == [4, 11]
    ann.peer.session.receive_binary(b"\x1apackage", 1.0)
    house.voice.drain(ann.peer)
    assert house.counters["voice.ignored.26"] == 1


async def test_what_clients_say_reaches_the_delivery_service(house: House) -> None:
    policy = EncryptionPolicy("required")
    house.voice = VoiceGateway(
        house.world, house.media, SessionConfig((MODE,)), house.counters, encryption=policy
    )
    ann = house.live(ANN, dave=1)
    ann.peer.session.receive_binary(b"\x1ano package", 1.0)
    ann.send(23, {"transition_id": 5})
    assert policy.counters == {"key-package-malformed": 1, "ready-late": 1}


@pytest.mark.parametrize(
    ("browser", "reason"),
    [(True, "a browser is in the room"), (False, "user 2 does not support it")],
)
async def test_those_who_look_on_are_told_once(house: House, browser: bool, reason: str) -> None:
    told: list[RoomInfo] = []
    house = House(house.media, "optional", RoomHooks(on_encryption=told.append))
    ann = house.live(ANN, dave=1)
    assert told == []  # it is pending
    bob = house.live(BOB, browser=browser)
    assert ann.opcodes()[-1] == 21
    assert told == []
    ann.send(23, {"transition_id": 1})
    ann.send(23, {"transition_id": 1})
    assert [(info.e2ee, info.e2ee_reason, info.user_ids) for info in told] == [
        ("off", reason, (ANN, BOB))
    ]
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].e2ee == "off"
    bob.hang_up()
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].e2ee == "pending"
    assert ann.opcodes()[-2:] == [13, 24]
    assert len(told) == 1
    ann.hang_up()
    assert len(told) == 1


async def test_who_is_away_is_not_waited_for_when_encryption_goes_off(house: House) -> None:
    house = House(house.media, "optional")
    ann, bob = house.live(ANN, dave=1), house.live(BOB, dave=1)
    ann.hang_up(1006)
    house.live(EVE)
    bob.send(23, {"transition_id": 1})
    assert house.voice.rooms[RoomKey(GUILD, LOUNGE)].e2ee == "off"


@pytest.mark.parametrize("asked", [True, False])
async def test_no_proposal_follows_a_second_description_at_once(house: House, asked: bool) -> None:
    house = House(house.media, "required")
    ann = house.live(ANN, dave=1)
    ticket = ticket_of(ann)
    ann.packs()
    ann.opcodes()
    ann.hang_up(None)
    if asked:
        house.request(ANN, LOUNGE)
    back = resume(house, ann, ticket, seq_ack=4)
    assert back.opcodes() == ([8, 9, 4] if asked else [8, 9])
    bob = house.live(BOB, dave=1)
    bob.packs()
    assert (27 in back.opcodes()) is not asked
    house.voice.close()
