"""Speak, listen, show and watch on Discord voice: one client, any transport, any host.

The names below are the public interface. Sub-packages are importable on their own; the
protocol, RTP and crypto ones without asyncio.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from discord_rtc.client import RtcClient, connect
    from discord_rtc.connection.events import (
        CodecsChanged,
        E2eeChanged,
        Event,
        Invalidated,
        LayerWanted,
        PublishingEnded,
        StateChanged,
        Subscription,
        TrackEnded,
        TrackStarted,
        TransportChanged,
        TransportFailed,
        UnknownReceived,
        UserJoined,
        UserLeft,
        UserSpeaking,
    )
    from discord_rtc.connection.options import ConnectionOptions, Timeouts
    from discord_rtc.connection.port import SignalingPort
    from discord_rtc.connection.publication import Quality
    from discord_rtc.connection.stats import DaveStats, VoiceStats
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.connection.voice import VoiceConnection
    from discord_rtc.errors import (
        AuthenticationFailed,
        ConnectError,
        ConnectionLost,
        DaveError,
        DaveUnavailable,
        DiscoveryTimeout,
        DtlsFailed,
        EventsOverflow,
        IceFailed,
        InvalidState,
        MalformedSdp,
        MediaError,
        NegotiationError,
        NoCommonCodec,
        NoCommonMode,
        NoRoute,
        NotReady,
        PathLost,
        ProtocolError,
        RtcError,
        SignalingTimeout,
        UnsupportedMedia,
        UsageError,
        VideoNotGranted,
    )
    from discord_rtc.frames import Codec, EncodedFrame, MediaKind
    from discord_rtc.gateway import Gateway
    from discord_rtc.media.patterns import TestPattern, TestTone, read_stamp
    from discord_rtc.media.sinks import Recorder
    from discord_rtc.media.sources import open_media
    from discord_rtc.media.track import MediaTrack, RemoteTrack
    from discord_rtc.protocol.opcodes import SpeakingFlags
    from discord_rtc.protocol.sdp import reduce_offer
    from discord_rtc.protocol.voice import VoiceCredentials
    from discord_rtc.transport.description import RemoteSource, expand_answer
    from discord_rtc.transport.ice_options import IceOptions, IceServer
    from discord_rtc.transport.memory import memory_pair

# Looked up on first use: aiortc and PyAV take a third of a second to import, which a
# program that only parses packets, or a command line that prints its help, need not pay.
_HOMES = {
    "RtcClient": "client",
    "connect": "client",
    "Gateway": "gateway",
    "VoiceCredentials": "protocol.voice",
    "VoiceConnection": "connection.voice",
    "ConnectionOptions": "connection.options",
    "Timeouts": "connection.options",
    "VoiceStats": "connection.stats",
    "DaveStats": "connection.stats",
    "RemoteUser": "connection.users",
    "SignalingPort": "connection.port",
    "Quality": "connection.publication",
    "Event": "connection.events",
    "Subscription": "connection.events",
    "UserJoined": "connection.events",
    "UserLeft": "connection.events",
    "UserSpeaking": "connection.events",
    "TrackStarted": "connection.events",
    "TrackEnded": "connection.events",
    "PublishingEnded": "connection.events",
    "StateChanged": "connection.events",
    "TransportChanged": "connection.events",
    "TransportFailed": "connection.events",
    "E2eeChanged": "connection.events",
    "CodecsChanged": "connection.events",
    "LayerWanted": "connection.events",
    "UnknownReceived": "connection.events",
    "Invalidated": "connection.events",
    "MediaTrack": "media.track",
    "RemoteTrack": "media.track",
    "open_media": "media.sources",
    "Recorder": "media.sinks",
    "TestPattern": "media.patterns",
    "TestTone": "media.patterns",
    "read_stamp": "media.patterns",
    "memory_pair": "transport.memory",
    "IceOptions": "transport.ice_options",
    "IceServer": "transport.ice_options",
    "reduce_offer": "protocol.sdp",
    "expand_answer": "transport.description",
    "RemoteSource": "transport.description",
    "Codec": "frames",
    "EncodedFrame": "frames",
    "MediaKind": "frames",
    "SpeakingFlags": "protocol.opcodes",
    "RtcError": "errors",
    "UsageError": "errors",
    "InvalidState": "errors",
    "ProtocolError": "errors",
    "MalformedSdp": "errors",
    "NegotiationError": "errors",
    "NoCommonMode": "errors",
    "NoCommonCodec": "errors",
    "VideoNotGranted": "errors",
    "DaveUnavailable": "errors",
    "ConnectError": "errors",
    "SignalingTimeout": "errors",
    "DiscoveryTimeout": "errors",
    "IceFailed": "errors",
    "DtlsFailed": "errors",
    "NoRoute": "errors",
    "AuthenticationFailed": "errors",
    "ConnectionLost": "errors",
    "PathLost": "errors",
    "EventsOverflow": "errors",
    "DaveError": "errors",
    "NotReady": "errors",
    "MediaError": "errors",
    "UnsupportedMedia": "errors",
}

__all__ = [
    "RtcClient",
    "connect",
    "Gateway",
    "VoiceCredentials",
    "VoiceConnection",
    "ConnectionOptions",
    "Timeouts",
    "VoiceStats",
    "DaveStats",
    "RemoteUser",
    "SignalingPort",
    "Quality",
    "Event",
    "Subscription",
    "UserJoined",
    "UserLeft",
    "UserSpeaking",
    "TrackStarted",
    "TrackEnded",
    "PublishingEnded",
    "StateChanged",
    "TransportChanged",
    "TransportFailed",
    "E2eeChanged",
    "CodecsChanged",
    "LayerWanted",
    "UnknownReceived",
    "Invalidated",
    "MediaTrack",
    "RemoteTrack",
    "open_media",
    "Recorder",
    "TestPattern",
    "TestTone",
    "read_stamp",
    "memory_pair",
    "IceOptions",
    "IceServer",
    "reduce_offer",
    "expand_answer",
    "RemoteSource",
    "Codec",
    "EncodedFrame",
    "MediaKind",
    "SpeakingFlags",
    "RtcError",
    "UsageError",
    "InvalidState",
    "ProtocolError",
    "MalformedSdp",
    "NegotiationError",
    "NoCommonMode",
    "NoCommonCodec",
    "VideoNotGranted",
    "DaveUnavailable",
    "ConnectError",
    "SignalingTimeout",
    "DiscoveryTimeout",
    "IceFailed",
    "DtlsFailed",
    "NoRoute",
    "AuthenticationFailed",
    "ConnectionLost",
    "PathLost",
    "EventsOverflow",
    "DaveError",
    "NotReady",
    "MediaError",
    "UnsupportedMedia",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("discord-rtc")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
