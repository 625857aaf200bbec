"""DTLS-SRTP with aiortc's transport in both roles: keys, then media and reports each way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from aiortc import RTCCertificate, RTCRtpReceiver, RTCRtpSender
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtcrtpparameters import (
    RTCRtcpParameters,
    RTCRtpCodecParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtcrtpreceiver import RemoteStreamTrack
from av import AudioFrame

from discord_rtc.crypto.certificate import Certificate
from discord_rtc.crypto.dtls import (
    DtlsEndpoint,
    DtlsEvent,
    HandshakeFailed,
    KeysAgreed,
    PeerClosed,
    is_dtls,
)
from discord_rtc.crypto.srtp import SrtpCipher, SrtpProfile
from discord_rtc.rtp.packet import RtpPacket, is_rtcp, parse_rtp
from discord_rtc.rtp.rtcp import SenderReport, parse_rtcp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.interop, pytest.mark.asyncio]

OURS = Certificate.generate()
PCMU = RTCRtpCodecParameters(mimeType="audio/PCMU", clockRate=8000, channels=1, payloadType=0)
PARAMETERS = RTCRtpSendParameters(codecs=[PCMU], rtcp=RTCRtcpParameters(cname="them", ssrc=1))
TIMEOUT = 10


class Wire:
    """What aiortc's DTLS transport needs of an ICE transport, and our end of the path."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.state = "completed"
        self.inbound: asyncio.Queue[bytes] = asyncio.Queue()
        self.outbound: asyncio.Queue[bytes] = asyncio.Queue()

    async def _send(self, data: bytes) -> None:
        self.outbound.put_nowait(data)

    async def _recv(self) -> bytes:
        return await self.inbound.get()


class Ear(RTCRtpReceiver):
    """A receiver with a track, which otherwise only RTCPeerConnection gives it."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__("audio", transport)
        self._track = RemoteStreamTrack(kind="audio")


class Meeting:
    """Our endpoint and theirs, with a task that carries DTLS between them."""

    def __init__(self, wire: Wire, end: DtlsEndpoint, certificate: RTCCertificate) -> None:
        self.wire = wire
        self.theirs = RTCDtlsTransport(self.wire, [certificate])  # type: ignore[arg-type]
        self.end = end
        self.events: asyncio.Queue[DtlsEvent] = asyncio.Queue()
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()

    async def carry(self) -> None:
        self.end.start(time.monotonic())
        while True:
            for datagram in self.end.datagrams_to_send():
                self.wire.inbound.put_nowait(datagram)
            while (event := self.end.next_event()) is not None:
                self.events.put_nowait(event)
            due = self.end.next_timeout()
            delay = None if due is None else max(0, due - time.monotonic())
            try:
                async with asyncio.timeout(delay):
                    datagram = await self.wire.outbound.get()
            except TimeoutError:
                self.end.handle_timeout(time.monotonic())
            else:
                if is_dtls(datagram):
                    self.end.receive_datagram(datagram, time.monotonic())
                else:
                    self.packets.put_nowait(datagram)

    async def event(self) -> DtlsEvent:
        return await asyncio.wait_for(self.events.get(), TIMEOUT)


@contextlib.asynccontextmanager
async def meeting(
    *,
    ours_is_client: bool,
    profiles: tuple[SrtpProfile, ...] = tuple(SrtpProfile),
    expected_by_us: str = "",
    expected_by_them: str = OURS.fingerprint,
) -> AsyncIterator[Meeting]:
    certificate = RTCCertificate.generateCertificate()
    announced = [f"{each.algorithm} {each.value}" for each in certificate.getFingerprints()]
    end = DtlsEndpoint(
        OURS,
        client=ours_is_client,
        fingerprints=[expected_by_us] if expected_by_us else announced,
        profiles=profiles,
    )
    # For aiortc without SDP, the controlling side is the DTLS server.
    wire = Wire("controlling" if ours_is_client else "controlled")
    met = Meeting(wire, end, certificate)
    algorithm, value = expected_by_them.split()
    carrying = asyncio.create_task(met.carry())
    try:
        parameters = RTCDtlsParameters([RTCDtlsFingerprint(algorithm, value)])
        await asyncio.wait_for(met.theirs.start(parameters), TIMEOUT)
        yield met
    finally:
        await met.theirs.stop()
        carrying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await carrying


both_roles = pytest.mark.parametrize("ours_is_client", [True, False], ids=["client", "server"])


@both_roles
@pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
async def test_media_and_reports_pass_both_ways(ours_is_client: bool, profile: SrtpProfile) -> None:
    async with meeting(ours_is_client=ours_is_client, profiles=(profile,)) as met:
        event = await met.event()
        assert isinstance(event, KeysAgreed)
        assert event.keys.profile is profile
        assert met.theirs.state == "connected"
        cipher = SrtpCipher(event.keys, side="client" if ours_is_client else "server")

        sender = RTCRtpSender(AudioStreamTrack(), met.theirs)
        await sender.send(PARAMETERS)
        receiver = Ear(met.theirs)
        await receiver.receive(RTCRtpReceiveParameters(codecs=[PCMU]))
        try:
            await hear_and_be_heard(met, cipher, receiver)
        finally:
            await sender.stop()
            await receiver.stop()


async def hear_and_be_heard(met: Meeting, cipher: SrtpCipher, ear: Ear) -> None:
    """Send until a frame comes out at their end and their media and reports arrived here."""
    heard = asyncio.create_task(ear.track.recv())
    report = SenderReport(77, 0, 0, packets=4242, octets=0)
    sequence, media, reports = 0, 0, 0
    async with asyncio.timeout(TIMEOUT):
        while not (heard.done() and media and reports):
            packet = RtpPacket(0, sequence, 160 * sequence, 77, b"\x55" * 160).to_bytes()
            met.wire.inbound.put_nowait(cipher.protect_rtp(packet))
            met.wire.inbound.put_nowait(cipher.protect_rtcp(report.to_bytes()))
            sequence += 1
            await asyncio.sleep(0.02)
            while not met.packets.empty():
                datagram = met.packets.get_nowait()
                if is_rtcp(datagram):
                    first = parse_rtcp(cipher.unprotect_rtcp(datagram))[0]
                    reports += isinstance(first, SenderReport)
                else:
                    media += len(parse_rtp(cipher.unprotect_rtp(datagram)).payload) == 160
    frame = await heard
    assert isinstance(frame, AudioFrame)
    assert frame.samples == 160
    stats = (await ear.getStats()).values()
    assert [each.packetsSent for each in stats if each.type == "remote-outbound-rtp"] == [4242]


@both_roles
async def test_best_profile_is_chosen_of_all(ours_is_client: bool) -> None:
    async with meeting(ours_is_client=ours_is_client) as met:
        event = await met.event()
        assert isinstance(event, KeysAgreed)
        assert event.keys.profile is SrtpProfile.AEAD_AES_256_GCM


@both_roles
async def test_their_wrong_certificate_fails_the_handshake_at_both_ends(
    ours_is_client: bool,
) -> None:
    wrong = Certificate.generate().fingerprint
    async with meeting(ours_is_client=ours_is_client, expected_by_us=wrong) as met:
        event = await met.event()
        assert isinstance(event, HandshakeFailed)
        assert f"announced was {wrong}" in event.reason
        assert met.theirs.state == "failed"


@both_roles
async def test_they_reject_our_wrong_certificate(ours_is_client: bool) -> None:
    wrong = Certificate.generate().fingerprint
    async with meeting(ours_is_client=ours_is_client, expected_by_them=wrong) as met:
        assert met.theirs.state == "failed"


@both_roles
async def test_goodbyes_are_understood(ours_is_client: bool) -> None:
    async with meeting(ours_is_client=ours_is_client) as met:
        assert isinstance(await met.event(), KeysAgreed)
        await met.theirs.stop()
        assert await met.event() == PeerClosed()
    async with meeting(ours_is_client=ours_is_client) as met:
        assert isinstance(await met.event(), KeysAgreed)
        closed = asyncio.Event()
        met.theirs.on("statechange", closed.set)
        met.end.close(0)
        for datagram in met.end.datagrams_to_send():
            met.wire.inbound.put_nowait(datagram)
        await asyncio.wait_for(closed.wait(), TIMEOUT)
        assert met.theirs.state == "closed"
