"""Whatever is thrown at a live WebRTC call: it is counted, and the call goes on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest

from discord_rtc.crypto.certificate import Certificate
from discord_rtc.ice.gate import ERRORS_PER_SECOND
from discord_rtc.ice.stun import build_request
from discord_rtc.protocol.sdp import parse_server_fragment
from discord_rtc.server import LocalServer
from discord_rtc.server.legs import STRANGERS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.server.conftest import JoinWebRtc, WebRtcClient, WebRtcUser

PlainServer = partial(LocalServer, dave="off")
"""The raw clients here do not encrypt."""

pytestmark = pytest.mark.asyncio

ANN, BOB, EVE = 1, 2, 3


class Stranger(asyncio.DatagramProtocol):
    """A socket that belongs to nobody in the call."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's
        self.answers.append(data)


class Call:
    """Ann speaks, Bob listens."""

    def __init__(self, server: LocalServer, ann: WebRtcUser, bob: WebRtcUser) -> None:
        self.server = server
        self.ann = ann
        self.bob = bob
        self.words = 0

    async def assert_untouched(self) -> None:
        self.words += 1
        word = b"word %d" % self.words
        self.ann.speak(word)
        await self.bob.hear(self.ann.ssrc, word)
        assert "crashed" not in self.server.counters

    def count(self, name: str) -> int:
        return self.server.counters.get(f"media.{name}", 0)

    async def counted(self, name: str, at_least: int) -> None:
        async with asyncio.timeout(5):
            while self.count(name) < at_least:  # noqa: ASYNC110  a counter of the server
                await asyncio.sleep(0.002)

    @asynccontextmanager
    async def stranger(self) -> AsyncIterator[tuple[asyncio.DatagramTransport, Stranger]]:
        transport, stranger = await asyncio.get_running_loop().create_datagram_endpoint(
            Stranger, remote_addr=self.ann.server_address
        )
        try:
            yield transport, stranger
        finally:
            transport.close()


@asynccontextmanager
async def a_call(join: JoinWebRtc) -> AsyncIterator[Call]:
    async with PlainServer() as server, join(server, ANN) as ann, join(server, BOB) as bob:
        for user in (ann, bob):
            await user.select()
            await user.connect()
        call = Call(server, ann, bob)
        await call.assert_untouched()
        yield call


async def pour(transport: asyncio.DatagramTransport, datagrams: Iterable[bytes]) -> None:
    """Send many, in portions that a socket takes."""
    for number, datagram in enumerate(datagrams):
        transport.sendto(datagram)
        if number % 50 == 49:
            await asyncio.sleep(0.001)


async def test_checks_with_a_wrong_password_move_nothing(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, call.stranger() as (transport, stranger):
        ours = parse_server_fragment(call.ann.fragment).ufrag
        theirs = call.ann.client.credentials.ufrag
        forged = [
            build_request(
                number.to_bytes(12, "big"),
                username=f"{ours}:{theirs}",
                password="this one is a guess....",
                priority=1,
                tie_breaker=number,
                use_candidate=True,
            )
            for number in range(500)
        ]
        await pour(transport, forged)
        await pour(call.ann.socket, forged[:100])  # not even from the right address
        await call.counted("stun-bad-integrity", 600)

        await call.assert_untouched()
        assert 0 < len(stranger.answers) <= 3 * ERRORS_PER_SECOND
        assert call.count("stun-limited") >= 500
        assert call.count("stun-moved") == 0


async def test_checks_for_nobody_are_hardly_answered(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, call.stranger() as (transport, stranger):
        random = Random(3)
        checks = [
            build_request(
                random.randbytes(12),
                username=f"{random.randrange(2**40)}:x",
                password="p" * 22,
                priority=1,
                tie_breaker=2,
            )
            for _ in range(500)
        ]
        await pour(transport, checks)
        await call.counted("unknown-ufrag", 500)

        await call.assert_untouched()
        assert 0 < len(stranger.answers) <= 3 * STRANGERS_PER_SECOND


async def test_dtls_garbage_ends_no_association(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, call.stranger() as (transport, _):
        random = Random(5)
        garbage = []
        for _ in range(400):
            body = random.randbytes(random.randrange(80))
            kind = random.choice((20, 21, 22, 23, 24, 60))
            sequence = random.randbytes(6)
            epoch = random.choice((b"\0\0", b"\0\1", b"\xff\xff"))
            header = bytes((kind,)) + b"\xfe\xfd" + epoch + sequence
            record = header + len(body).to_bytes(2, "big") + body
            garbage.append(record[: random.randrange(1, len(record) + 1)])
        # Clear alerts, which nobody has authenticated: close_notify and handshake_failure.
        alerts = [
            b"\x15\xfe\xfd" + bytes(7) + b"\x09\x00\x02" + alert for alert in (b"\1\0", b"\2\x28")
        ]
        await pour(call.ann.socket, [*garbage, *alerts])
        await pour(transport, garbage)
        await call.counted("unknown-peer", 300)  # the stranger's; not all are long enough

        await call.assert_untouched()
        assert call.count("dtls-junk") >= 100
        assert call.count("peer-closed") == 0
        assert call.count("dtls-failed") == 0


async def test_handshakes_of_old_are_not_repeated(
    webrtc_user: JoinWebRtc, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[bytes] = []
    async with a_call(webrtc_user) as call, webrtc_user(call.server, EVE) as eve:
        await eve.select()
        flush = eve.flush

        def recording_flush() -> None:
            recorded.extend(eve.client.outbox)
            flush()

        monkeypatch.setattr(eve, "flush", recording_flush)
        await eve.connect()
        assert recorded
        await pour(eve.socket, recorded * 5)

        eve.speak(b"still here")
        await call.bob.hear(eve.ssrc, b"still here")
        await call.assert_untouched()
        assert call.count("dtls-failed") == 0


async def test_replayed_and_forged_media_is_counted(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, call.stranger() as (transport, _):
        ann = call.ann
        for number in range(20):
            ann.speak(b"%d" % number)
        await call.bob.hear(ann.ssrc, b"19")
        before = len(call.bob.client.rtp)
        ann.sequence += 1
        protected = _protected(ann.client, ann, b"the original")
        flipped = [
            protected[:place] + bytes((protected[place] ^ 1,)) + protected[place + 1 :]
            for place in range(12, len(protected))
        ]
        await pour(ann.socket, flipped)
        await pour(ann.socket, [protected] * 50)
        await pour(transport, [protected] * 50)
        await call.counted("replay", 49)
        await call.counted("bad-auth", len(flipped))
        await call.counted("unknown-peer", 50)

        await call.bob.hear(ann.ssrc, b"the original")
        await call.assert_untouched()
        assert len(call.bob.client.rtp) == before + 2


def _protected(client: WebRtcClient, user: WebRtcUser, payload: bytes) -> bytes:
    """A datagram of audio that is not sent."""
    from discord_rtc.rtp.packet import RtpPacket

    ssrc = user.ssrc + user.OFFSET
    client.send_rtp(RtpPacket(111, user.sequence, 960 * user.sequence, ssrc, payload).to_bytes())
    return client.outbox.pop()


async def test_noise_of_every_kind_is_counted(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, call.stranger() as (transport, _):
        random = Random(11)
        ours = parse_server_fragment(call.ann.fragment).ufrag
        check = build_request(
            bytes(12), username=f"{ours}:x", password="p" * 22, priority=1, tie_breaker=2
        )
        noise = [bytes((first,)) + random.randbytes(random.randrange(120)) for first in range(256)]
        for _ in range(300):  # almost checks
            broken = bytearray(check)
            broken[random.randrange(len(broken))] = random.randrange(256)
            noise.append(bytes(broken[: random.randrange(1, len(broken) + 1)]))
        await pour(transport, noise)
        await pour(call.ann.socket, noise)
        await call.assert_untouched()


async def test_who_shows_another_certificate_is_closed_alone(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, webrtc_user(call.server, EVE) as eve:
        await eve.select()
        eve.client.certificate = Certificate.generate()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await eve.connect()
        await asyncio.wait_for(eve.websocket.wait_closed(), 5)

        assert eve.websocket.close_code == 4006
        assert "certificate" in str(eve.websocket.close_reason)
        assert call.count("dtls-failed") == 1
        await call.assert_untouched()


async def test_who_checks_under_another_name_than_it_gave_is_refused(
    webrtc_user: JoinWebRtc, webrtc_client: type[WebRtcClient]
) -> None:
    async with a_call(webrtc_user) as call, webrtc_user(call.server, EVE) as eve:
        await eve.select()
        eve.client = webrtc_client()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await eve.connect()

        assert call.count("stun-wrong-username") >= 1
        await call.assert_untouched()


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_a_truncated_fragment_is_refused_alone(webrtc_user: JoinWebRtc, kept: int) -> None:
    async with a_call(webrtc_user) as call, webrtc_user(call.server, EVE) as eve:
        lines = eve.client.offer(setup=False).split("\n")[:kept]
        await eve.send(1, {"protocol": "webrtc", "data": "\n".join(lines)})
        await asyncio.wait_for(eve.websocket.wait_closed(), 5)

        assert eve.websocket.close_code == 4020
        assert "SDP fragment has no a=" in str(eve.websocket.close_reason)
        await call.assert_untouched()


async def test_order_and_repetition_of_a_fragment_mean_nothing(webrtc_user: JoinWebRtc) -> None:
    async with a_call(webrtc_user) as call, webrtc_user(call.server, EVE) as eve:
        lines = eve.client.offer(setup=False).split("\n")
        Random(2).shuffle(lines)
        await eve.send(1, {"protocol": "webrtc", "data": "\r\n".join(lines * 3)})
        eve.fragment = str((await eve.until(4))["sdp"])
        await eve.connect()

        eve.speak(b"hello")
        await call.bob.hear(eve.ssrc, b"hello")
        await call.assert_untouched()
