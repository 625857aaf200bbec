from __future__ import annotations

from discord_rtc.protocol.messages import (
    ClientFlags,
    ClientPlatform,
    Identify,
    Speaking,
    StreamInfo,
    Video,
)
from discord_rtc.server.channel import Occupant
from discord_rtc.server.faults import LegFaults
from discord_rtc.server.leg_media import LegSsrcs
from discord_rtc.server.negotiation import Admission, Refusal
from discord_rtc.server.session import SessionConfig, VoiceServerSession
from discord_rtc.server.socket_leg import LegSetup
from discord_rtc.server.udp_leg import UdpLeg
from discord_rtc.server.world import VoiceState


def refuse(_identify: Identify) -> Admission | Refusal:
    return Refusal(4004, "not here")


def occupant() -> Occupant:
    ssrcs = LegSsrcs(500, ((501, 502), (503, 504)))
    leg = UdpLeg(LegSetup(1, ssrcs, lambda *_: None, LegFaults(1), lambda *_: None))
    session = VoiceServerSession(8, SessionConfig(("a mode",)), refuse)
    return Occupant(VoiceState(10, 20, 1, "s", flags=2), session, leg, lambda: None)


def test_a_silent_user_has_flags_and_a_platform() -> None:
    someone = occupant()
    assert list(someone.presence()) == [ClientFlags(1, 2), ClientPlatform(1, None)]
    assert someone.announced() == set()


def test_speaking_announces_the_audio_ssrc_whatever_the_flags() -> None:
    someone = occupant()
    someone.speaking = 0
    assert Speaking(0, 500, user_id=1) in someone.presence()
    assert someone.announced() == {500}


def test_video_announces_every_layer_that_it_names() -> None:
    someone = occupant()
    someone.video = Video(500, 501, None, (StreamInfo(ssrc=501), StreamInfo(ssrc=503)), 1)
    assert someone.video in someone.presence()
    assert someone.announced() == {500, 501, 503}


def test_retransmissions_and_zeros_are_not_announced() -> None:
    someone = occupant()
    someone.video = Video(500, 0, None, (StreamInfo(ssrc=None), StreamInfo(ssrc=502)), 1)
    assert someone.announced() == {500}
