"""Sessions, channels and media of the voice side, without any websocket."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest
import pytest_asyncio

from discord_rtc.server.channel import RoomInfo
from discord_rtc.server.media_socket import MediaSocket
from discord_rtc.server.session import SessionConfig
from discord_rtc.server.voice_gateway import VoiceGateway, VoicePeer
from discord_rtc.server.world import RoomKey, VoiceRequest, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from discord_rtc.server.world import Ticket
    from tests.server.conftest import WebRtcClient

pytestmark = pytest.mark.asyncio

ANN, BOB, EVE = 1, 2, 3
GUILD, LOUNGE, OFFICE = 10, 20, 21
MODE = "aead_aes256_gcm_rtpsize"

Json = dict[str, object]


class House:
    """A voice gateway with its world and a real media socket."""

    def __init__(self, media: MediaSocket) -> None:
        self.media = media
        self.world = World()
        self.counters: Counter[str] = Counter()
        self.voice = VoiceGateway(self.world, media, SessionConfig((MODE,)), self.counters)

    def request(self, user_id: int, channel_id: int | None, **flags: int) -> Ticket:
        """What the main gateway would do for an op 4."""
        request = VoiceRequest(GUILD, channel_id, **flags)  # type: ignore[arg-type]  # ints are fine
        change = self.world.update_voice(user_id, f"s{user_id}", request)
        self.voice.update(change.state)
        ticket = self.world.ticket_of(GUILD, user_id)
        assert ticket is not None
        return ticket

    def identified(self, user_id: int, channel_id: int = LOUNGE, **flags: int) -> Client:
        client = Client(self)
        ticket = self.request(user_id, channel_id, **flags)
        client.send(
            0,
            {
                "server_id": str(ticket.server_id),
                "user_id": str(user_id),
                "session_id": ticket.session_id,
                "token": ticket.token,
                "video": True,
            },
        )
        return client

    def live(self, user_id: int, channel_id: int = LOUNGE, **flags: int) -> Client:
        client = self.identified(user_id, channel_id, **flags)
        client.select()
        return client


class Client:
    """The other end of one session."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.wakes = 0
        self.peer: VoicePeer = house.voice.connect(8, "127.0.0.1", self.wake)
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

    def received(self) -> list[tuple[int, Json]]:
        frames = [json.loads(frame) for frame in self.peer.session.messages_to_send()]
        return [(frame["op"], frame["d"]) for frame in frames]

    def told(self, *opcodes: int) -> list[tuple[int, Json]]:
        """Messages of these opcodes since the last call."""
        return [(opcode, data) for opcode, data in self.received() if opcode in opcodes]

    def hang_up(self, code: int | None = 1000) -> None:
        self.peer.session.connection_lost(code, 2.0)
        self.house.voice.drain(self.peer)


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
    ann.hang_up(None)
    assert house.voice.rooms == {}
    assert house.counters["voice.closed.1000"] == 1
    assert house.counters["voice.closed.1006"] == 1


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
        async with asyncio.timeout(0.05):
            await answers.next()
    transport.close()


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's
        self.queue.put_nowait(data)

    async def next(self) -> bytes:
        return await self.queue.get()


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
