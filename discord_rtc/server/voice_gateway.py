"""All voice sessions of a server: admits them, and ties each to its channel and its media.
Sans-I/O except for the media socket that it is given.

Spec: userdoccers, "Voice Connections".
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.announcement import in_ready_ssrcs, own_layers
from discord_rtc.server.channel import Channel, Occupant, RoomInfo
from discord_rtc.server.events import (
    Closed,
    CodecsSet,
    Identified,
    NoRouteTold,
    ProtocolSelected,
    SpeakingSet,
    VideoSet,
    WantsSet,
)
from discord_rtc.server.leg_media import LegSsrcs
from discord_rtc.server.negotiation import (
    SSRCS_PER_SESSION,
    Admission,
    Refusal,
    leg_media,
    with_codecs,
)
from discord_rtc.server.session import VoiceServerSession
from discord_rtc.server.udp_leg import UdpLeg
from discord_rtc.server.webrtc_leg import WebRtcLeg
from discord_rtc.server.world import Denial, RoomKey, Ticket

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from discord_rtc.protocol.messages import CodecInfo, Identify, Ready, Video
    from discord_rtc.server.events import VoiceServerEvent
    from discord_rtc.server.leg_media import LegMedia
    from discord_rtc.server.media_socket import MediaSocket
    from discord_rtc.server.session import SessionConfig
    from discord_rtc.server.socket_leg import SocketLeg
    from discord_rtc.server.world import VoiceState, World

_LOG = logging.getLogger("discord_rtc.server")

_FIRST_SSRC = 100_000
"""Audio SSRC of the first session; arbitrary."""

_REFUSALS = {
    Denial.NOT_YOURS: Refusal(VoiceCloseCode.AUTHENTICATION_FAILED, Denial.NOT_YOURS.value),
    Denial.OVER: Refusal(VoiceCloseCode.SESSION_NO_LONGER_VALID, Denial.OVER.value),
}


@dataclass(eq=False, slots=True)
class VoicePeer:
    """One websocket of the voice gateway.

    Attributes:
        session: Its machine.
        wake: Called when the machine has got something to send.
        ticket: What the client identified with.
        occupant: The client as others know it, from Ready on.
        channel: Where it is, from Session Description on.
    """

    session: VoiceServerSession
    wake: Callable[[], None]
    ticket: Ticket | None = None
    occupant: Occupant | None = None
    channel: Channel | None = None


class VoiceGateway:
    """All voice sessions of a server.

    Args:
        world: Authenticates; shared with the main gateway.
        media: Carries everybody's media.
        config: See `SessionConfig`.
        counters: Gets ``voice.opened``, ``voice.joined``, ``voice.no-route``,
            ``voice.closed.<code>`` and ``voice.ignored.<opcode>``.
    """

    def __init__(
        self, world: World, media: MediaSocket, config: SessionConfig, counters: Counter[str]
    ) -> None:
        self._world = world
        self._media = media
        self._config = config
        self._counters = counters
        self._next_ssrc = _FIRST_SSRC
        self._peers: dict[str, VoicePeer] = {}
        self._channels: dict[RoomKey, Channel] = {}

    @property
    def rooms(self) -> Mapping[RoomKey, RoomInfo]:
        """Snapshot of every room that has somebody in it."""
        return {key: channel.info() for key, channel in self._channels.items()}

    def connect(self, version: int | None, ip: str, wake: Callable[[], None]) -> VoicePeer:
        """A websocket is being opened.

        Args:
            version: Gateway version, None when the client named none.
            ip: Address of the media socket as this client reaches it.
            wake: To be called whenever the session has something to send.

        Returns:
            The peer; call `drain` after each input to its session.
        """
        self._counters["voice.opened"] += 1

        def authenticate(identify: Identify) -> Admission | Refusal:
            ticket = self._world.claim(identify)
            if isinstance(ticket, Denial):
                return _REFUSALS[ticket]
            peer.ticket = ticket
            self._peers[ticket.token] = peer
            ssrc, self._next_ssrc = self._next_ssrc, self._next_ssrc + SSRCS_PER_SESSION
            media = self._media
            return Admission(ssrc, ip, media.address[1], media.fingerprint, media.new_credentials)

        session = VoiceServerSession(version, self._config, authenticate, counters=self._counters)
        peer = VoicePeer(session, wake)
        return peer

    def drain(self, peer: VoicePeer) -> None:
        """Handle what a session reports."""
        while (event := peer.session.next_event()) is not None:
            self._handle(peer, event)

    def end(self, ticket: Ticket, code: int, reason: str) -> bool:
        """Close the voice session of a ticket. False when there is none."""
        peer = self._peers.get(ticket.token)
        if peer is None:
            return False
        self._end(peer, code, reason)
        return True

    def end_leg(self, leg: SocketLeg, code: int, reason: str) -> None:
        """Close the voice session of a media path."""
        for peer in self._peers.values():
            if peer.occupant is not None and peer.occupant.leg is leg:
                self._end(peer, code, reason)
                return

    def update(self, state: VoiceState) -> None:
        """A user's voice state changed without a move."""
        ticket = self._world.ticket_of(state.guild_id, state.user_id)
        peer = None if ticket is None else self._peers.get(ticket.token)
        if peer is None or peer.occupant is None:
            return
        if peer.channel is None:
            peer.occupant.state = state
        else:
            peer.channel.set_state(peer.occupant, state)

    def _end(self, peer: VoicePeer, code: int, reason: str) -> None:
        peer.session.close(code, reason)
        self.drain(peer)
        peer.wake()

    def _handle(self, peer: VoicePeer, event: VoiceServerEvent) -> None:
        _LOG.debug("= voice of %s: %r", peer.occupant and peer.occupant.user_id, event)
        if isinstance(event, Closed):
            self._closed(peer, event)
            return
        if isinstance(event, Identified):
            self._identified(peer, event.ready)
            return
        occupant, channel = peer.occupant, peer.channel
        assert occupant is not None
        if isinstance(event, ProtocolSelected):
            self._selected(peer, occupant, event)
        else:
            self._control(occupant, channel, event)

    def _control(
        self,
        occupant: Occupant,
        channel: Channel | None,
        event: SpeakingSet | VideoSet | NoRouteTold | WantsSet | CodecsSet,
    ) -> None:
        match event:
            case SpeakingSet(speaking=speaking, ssrc=ssrc):
                self._announce(occupant, ssrc, None)
                occupant.speaking = speaking
                if channel is not None:
                    channel.set_speaking(occupant, speaking)
            case VideoSet(video=video):
                self._announce(occupant, video.audio_ssrc, video)
                named = occupant.announced()
                occupant.video = shown = _as_shown(video, occupant)
                if channel is not None:
                    channel.set_video(occupant, shown, named - occupant.announced())
            case NoRouteTold():
                self._counters["voice.no-route"] += 1
                _LOG.info("= user %d has found no media path", occupant.user_id)
            case WantsSet(wants=wants) if channel is not None:
                channel.set_wants(occupant, wants)
            case CodecsSet(codecs=codecs) if channel is not None:
                channel.set_media(occupant, _renewed(occupant, codecs))

    def _identified(self, peer: VoicePeer, ready: Ready) -> None:
        assert peer.ticket is not None
        state = self._world.state_of(peer.ticket.room.guild_id, peer.ticket.user_id)
        assert state is not None
        layers = tuple(
            (stream.ssrc, stream.rtx_ssrc)
            for stream in ready.streams
            if stream.ssrc is not None and stream.rtx_ssrc is not None
        )
        leg = self._media.add_leg(state.user_id, LegSsrcs(ready.ssrc, layers))
        peer.occupant = Occupant(state, peer.session, leg, peer.wake)

    def _selected(self, peer: VoicePeer, occupant: Occupant, event: ProtocolSelected) -> None:
        assert peer.ticket is not None
        leg = occupant.leg
        assert isinstance(leg, UdpLeg)
        if event.webrtc is not None:
            occupant.leg = self._media.select_webrtc(leg, event.webrtc)
        else:
            _start(leg, event)
        occupant.media = leg_media(event.codecs, event.webrtc)
        room = peer.ticket.room
        if room not in self._channels:
            self._channels[room] = Channel(room, self._media, self._config.max_video_bps)
        peer.channel = self._channels[room]
        peer.channel.join(occupant)
        self._counters["voice.joined"] += 1
        user_id, transport = occupant.user_id, occupant.leg.transport
        _LOG.info("= user %d joined channel %d by %s", user_id, room.channel_id, transport)

    def _announce(self, occupant: Occupant, audio: int, video: Video | None) -> None:
        layers = () if video is None else own_layers(video, occupant.leg.ssrcs)
        self._media.run(lambda now: occupant.leg.announce(audio, layers, now))

    def _closed(self, peer: VoicePeer, event: Closed) -> None:
        self._counters[f"voice.closed.{event.code or 1006}"] += 1  # RFC 6455: no close frame
        if peer.ticket is not None:
            del self._peers[peer.ticket.token]
            self._world.release(peer.ticket)
        if peer.occupant is None:
            return
        if peer.channel is not None:
            peer.channel.leave(peer.occupant)
            user_id, channel_id = peer.occupant.user_id, peer.channel.key.channel_id
            _LOG.info("= user %d left channel %d", user_id, channel_id)
            if not peer.channel:
                del self._channels[peer.channel.key]
        self._media.remove_leg(peer.occupant.leg)
        peer.occupant = peer.channel = None


def _start(leg: UdpLeg, event: ProtocolSelected) -> None:
    select, description = event.select, event.description
    assert description.mode is not None
    assert description.secret_key is not None
    claimed = None
    if select.address and select.port:
        claimed = (select.address, select.port)
    leg.start(description.mode, description.secret_key, claimed=claimed)


def _renewed(occupant: Occupant, codecs: Sequence[CodecInfo]) -> LegMedia:
    """What a client negotiated, after an op 14."""
    if occupant.leg.transport == "udp":
        return leg_media(codecs)
    return with_codecs(occupant.media, codecs) if codecs else occupant.media


def _as_shown(video: Video, occupant: Occupant) -> Video:
    """What others are told of an op 12: with the user, without the client's own ``rtx_ssrc``."""
    ssrcs = occupant.leg.ssrcs
    if isinstance(occupant.leg, WebRtcLeg):
        video = in_ready_ssrcs(video, ssrcs)
    audio_ssrc = video.audio_ssrc or ssrcs.audio  # receivers never see a zero
    return replace(video, audio_ssrc=audio_ssrc, rtx_ssrc=None, user_id=occupant.user_id)
