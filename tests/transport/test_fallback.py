"""One session's attempt: one path after the other, and a probe beside the first."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from discord_rtc.clock import SystemClock
from discord_rtc.errors import (
    ConnectError,
    DiscoveryTimeout,
    IceFailed,
    InvalidState,
    MalformedSdp,
    NoCommonCodec,
    NoCommonMode,
)
from discord_rtc.protocol.messages import Ready, SelectProtocol, SessionDescription
from discord_rtc.transport.base import MediaOffer, NegotiatedMedia, PacketSink, TransportStats
from discord_rtc.transport.fallback import GRACE, PlannedTransport, Probe, make_transport
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.negotiation import negotiate
from discord_rtc.transport.plan import Attempt

pytestmark = pytest.mark.asyncio

READY = Ready(1, "192.0.2.1", 9, ("aead_aes256_gcm_rtpsize",))
ANSWER = SessionDescription("opus", "H264", None)
OFFER = MediaOffer()


class Path:
    """A transport whose steps fail or take their time as told."""

    def __init__(
        self,
        name: str,
        *,
        opening: Exception | None = None,
        accepting: Exception | None = None,
        slow: asyncio.Event | None = None,
    ) -> None:
        self.name = name
        self.opening = opening
        self.accepting = accepting
        self.slow = slow
        self.calls: list[str] = []

    async def prepare(self) -> None:
        self.calls.append("prepare")

    async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
        assert (ready, offer) == (READY, OFFER)
        self.calls.append("open")
        if self.slow is not None:
            await self.slow.wait()
        if self.opening is not None:
            raise self.opening
        return SelectProtocol(self.name)

    async def accept(self, answer: SessionDescription) -> NegotiatedMedia:
        self.calls.append("accept")
        await asyncio.sleep(0)
        if self.slow is not None:
            await self.slow.wait()
        if self.accepting is not None:
            raise self.accepting
        return negotiate(READY, OFFER, answer, max_packet_size=1200)

    def send_rtp(self, packet: bytes) -> None:
        self.calls.append(f"rtp {packet!r}")

    def send_rtcp(self, packet: bytes) -> None:
        self.calls.append(f"rtcp {packet!r}")

    def deliver_to(self, sink: PacketSink) -> None:
        self.calls.append(f"sink {sink!r}")

    def stats(self) -> TransportStats:
        return TransportStats(datagrams_sent=len(self.calls))

    async def aclose(self) -> None:
        self.calls.append("aclose")


class Notes(list[tuple[str, Exception]]):
    def take(self, name: str, error: Exception) -> None:
        self.append((name, error))


async def test_everything_goes_to_the_path_that_opened() -> None:
    notes = Notes()
    path = Path("one")
    planned = PlannedTransport([("one", path)], None, notes.take)
    await planned.prepare()
    assert planned.stats() == TransportStats()
    with pytest.raises(InvalidState):
        planned.send_rtp(b"too early")
    assert (await planned.open(READY, OFFER)).protocol == "one"
    assert (await planned.accept(ANSWER)).audio_ssrc == 1
    planned.send_rtp(b"p")
    planned.send_rtcp(b"c")
    planned.deliver_to("sink")  # type: ignore[arg-type]  # only handed on
    assert planned.stats().datagrams_sent == len(path.calls)
    await planned.aclose()
    expected = ["prepare", "open", "accept", "rtp b'p'", "rtcp b'c'", "sink 'sink'", "aclose"]
    assert path.calls == expected
    assert notes == []


async def test_before_a_protocol_is_selected_the_next_path_follows_in_the_same_session() -> None:
    notes = Notes()
    silence = DiscoveryTimeout("nothing came back")
    one, two = Path("one", opening=silence), Path("two")
    planned = PlannedTransport([("one", one), ("two", two)], None, notes.take)
    assert (await planned.open(READY, OFFER)).protocol == "two"
    assert notes == [("one", silence)]
    assert one.calls == ["open", "aclose"]
    await planned.accept(ANSWER)
    assert two.calls == ["open", "accept"]
    await planned.aclose()
    assert one.calls == ["open", "aclose"]


async def test_the_last_path_that_cannot_be_opened_says_why() -> None:
    notes = Notes()
    one = Path("one", opening=NoCommonMode("none"))
    planned = PlannedTransport([("one", one)], None, notes.take)
    with pytest.raises(NoCommonMode):
        await planned.open(READY, OFFER)
    assert [name for name, _ in notes] == ["one"]
    await planned.aclose()
    assert one.calls == ["open", "aclose"]


async def test_a_path_that_is_not_accepted_is_told() -> None:
    notes = Notes()
    error = IceFailed("silence")
    planned = PlannedTransport([("one", Path("one", accepting=error))], None, notes.take)
    await planned.open(READY, OFFER)
    with pytest.raises(IceFailed):
        await planned.accept(ANSWER)
    assert notes == [("one", error)]


async def test_what_no_other_path_would_mend_is_not_told() -> None:
    notes = Notes()
    path = Path("one", accepting=NoCommonCodec("no opus"))
    planned = PlannedTransport([("one", path)], None, notes.take)
    await planned.open(READY, OFFER)
    with pytest.raises(NoCommonCodec):
        await planned.accept(ANSWER)
    assert notes == []


async def test_an_answered_probe_leaves_the_other_path_little_time() -> None:
    notes = Notes()
    hurried: list[float] = []
    going_on = asyncio.Event()

    def hurry(seconds: float) -> None:
        hurried.append(seconds)
        going_on.set()

    probe = Path("udp")
    path = Path("one", accepting=IceFailed("filtered"))
    planned = PlannedTransport([("one", path)], Probe(probe, hurry), notes.take)
    await planned.open(READY, OFFER)
    path.slow = going_on
    with pytest.raises(IceFailed):
        await planned.accept(ANSWER)
    assert hurried == [GRACE]
    assert [name for name, _ in notes] == ["one"]
    assert probe.calls == ["open", "aclose"]


async def test_a_probe_that_failed_is_told_with_the_path() -> None:
    notes = Notes()
    silence = DiscoveryTimeout("nothing came back")
    probe = Path("udp", opening=silence)
    path = Path("one", accepting=IceFailed("nothing either"))
    planned = PlannedTransport([("one", path)], Probe(probe, lambda _: None), notes.take)
    await planned.open(READY, OFFER)
    with pytest.raises(IceFailed):
        await planned.accept(ANSWER)
    assert [name for name, _ in notes] == ["udp", "one"]


async def test_who_only_sends_learns_nothing_from_a_probe() -> None:
    class Sender(Path):
        async def open(self, ready: Ready, offer: MediaOffer) -> SelectProtocol:
            assert not offer.receive
            return await super().open(ready, OFFER)

    hurried: list[float] = []
    probe = Path("udp")
    path = Sender("one", accepting=IceFailed("nothing came back"))
    planned = PlannedTransport([("one", path)], Probe(probe, hurried.append), Notes().take)
    await planned.open(READY, MediaOffer(receive=False))
    with pytest.raises(IceFailed):
        await planned.accept(ANSWER)
    await planned.aclose()
    assert (hurried, probe.calls) == ([], [])


async def test_an_error_beside_a_probe_is_no_group() -> None:
    notes = Notes()
    probe = Path("udp", slow=asyncio.Event())
    path = Path("one", accepting=NoCommonCodec("no opus"))
    planned = PlannedTransport([("one", path)], Probe(probe, lambda _: None), notes.take)
    await planned.open(READY, OFFER)
    with pytest.raises(NoCommonCodec):
        await planned.accept(ANSWER)
    assert notes == []
    assert "open" not in probe.calls or probe.calls[-1] == "aclose"


async def test_a_path_that_works_does_not_wait_for_the_probe() -> None:
    notes = Notes()
    probe = Path("udp", slow=asyncio.Event())
    planned = PlannedTransport([("one", Path("one"))], Probe(probe, lambda _: None), notes.take)
    await planned.open(READY, OFFER)
    await planned.accept(ANSWER)
    assert probe.calls == ["open", "aclose"]
    assert notes == []
    await planned.accept(ANSWER)  # a repeated answer is none of the probe's business
    await planned.aclose()


async def test_a_probe_that_was_never_asked_is_closed() -> None:
    probe = Path("udp")
    path = Path("one", opening=ConnectError("no"))
    planned = PlannedTransport([("one", path)], Probe(probe, lambda _: None), Notes().take)
    with pytest.raises(ConnectError):
        await planned.open(READY, OFFER)
    await planned.aclose()
    assert probe.calls == ["aclose"]


async def test_a_fixed_port_is_not_shared_with_a_probe() -> None:
    notes = Notes()
    ready = replace(READY, ip="127.0.0.1")
    ice = IceOptions(bind=("127.0.0.1", 42_001))
    planned = make_transport(Attempt(("webrtc",), probe=True), ice, SystemClock(), notes.take)
    await planned.open(ready, OFFER)
    with pytest.raises(MalformedSdp):  # not: the port is taken
        await planned.accept(replace(ANSWER, sdp="a=nothing"))
    assert [name for name, _ in notes] == ["webrtc"]
    await planned.aclose()


async def test_transports_are_made_by_their_names() -> None:
    clock = SystemClock()
    for attempt in (
        Attempt(("udp",)),
        Attempt(("webrtc",), probe=True),
        Attempt(("udp", "webrtc")),
    ):
        planned = make_transport(attempt, IceOptions(), clock, Notes().take)
        await planned.prepare()
        await planned.aclose()
