"""All voice sessions of a server: admits them, and ties each to its channel and its media.
Sans-I/O except for the media socket that it is given.

Spec: userdoccers, "Voice Connections".
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from discord_rtc.protocol.opcodes import VoiceCloseCode, close_meaning
from discord_rtc.pump import Pump
from discord_rtc.server.announcement import in_ready_ssrcs, own_layers
from discord_rtc.server.channel import Channel, Occupant, RoomHooks, RoomInfo
from discord_rtc.server.encryption import DaveClient, EncryptionPolicy
from discord_rtc.server.events import (
    Closed,
    CodecsSet,
    DaveReceived,
    Detached,
    Identified,
    NoRouteTold,
    ProtocolSelected,
    SessionResumed,
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
from discord_rtc.server.voice_peer import Absences, VoicePeer
from discord_rtc.server.webrtc_leg import WebRtcLeg
from discord_rtc.server.world import Denial, RoomKey, Ticket

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from discord_rtc.protocol.messages import CodecInfo, Identify, Resume, Video
    from discord_rtc.server.encryption import DaveMode
    from discord_rtc.server.events import VoiceServerEvent
    from discord_rtc.server.leg_media import LegMedia
    from discord_rtc.server.media_socket import MediaSocket
    from discord_rtc.server.replay import Continuation
    from discord_rtc.server.session import SessionConfig
    from discord_rtc.server.socket_leg import SocketLeg
    from discord_rtc.server.world import VoiceState, World

__all__ = ["VoiceGateway", "VoicePeer"]

_LOG = logging.getLogger("discord_rtc.server")

_FIRST_SSRC = 100_000
"""Audio SSRC of the first session; arbitrary."""

_REFUSALS = {
    Denial.NOT_YOURS: Refusal(VoiceCloseCode.AUTHENTICATION_FAILED, Denial.NOT_YOURS.value),
    Denial.OVER: Refusal(VoiceCloseCode.SESSION_NO_LONGER_VALID, Denial.OVER.value),
}

_UNRESUMABLE = Refusal(VoiceCloseCode.SESSION_NO_LONGER_VALID, "the session cannot be resumed")


class VoiceGateway:
    """All voice sessions of a server.

    Args:
        world: Authenticates; shared with the main gateway.
        media: Carries everybody's media.
        config: See `SessionConfig`.
        counters: Gets ``voice.opened``, ``voice.joined``, ``voice.no-route``,
            ``voice.closed.<code>`` and ``voice.ignored.<opcode>``; of websockets lost,
            ``voice.detached.<code>``, then ``voice.resumed``, ``voice.expired`` or
            ``voice.unresumable``; ``voice.replayed`` and ``voice.replay-overflow`` messages.
        encryption: Which channels are encrypted end to end; by default none.
        hooks: Who looks on.
    """

    def __init__(
        self,
        world: World,
        media: MediaSocket,
        config: SessionConfig,
        counters: Counter[str],
        *,
        encryption: EncryptionPolicy | None = None,
        hooks: RoomHooks | None = None,
    ) -> None:
        self._world = world
        self._media = media
        self._config = config
        self._counters = counters
        self._encryption = EncryptionPolicy() if encryption is None else encryption
        self._hooks = RoomHooks() if hooks is None else hooks
        self._next_ssrc = _FIRST_SSRC
        self._peers: dict[str, VoicePeer] = {}
        self._channels: dict[RoomKey, Channel] = {}
        self._absent = Absences(self._drain)
        self._pump = Pump(self._absent, lambda _now: None, media.clock)

    @property
    def dave(self) -> DaveMode:
        """What holds for end-to-end encryption."""
        return self._encryption.mode

    @property
    def rooms(self) -> Mapping[RoomKey, RoomInfo]:
        """Snapshot of every room that has somebody in it."""
        return {key: channel.info() for key, channel in self._channels.items()}

    def connect(
        self,
        version: int | None,
        ip: str,
        wake: Callable[[], None],
        *,
        browser: bool = False,
        abort: Callable[[], None] = lambda: None,
    ) -> VoicePeer:
        """A websocket is being opened.

        Args:
            version: Gateway version, None when the client named none.
            ip: Address of the media socket as this client reaches it.
            wake: To be called whenever the session has something to send.
            browser: Whether a browser opens it.
            abort: Cuts the websocket.

        Returns:
            The peer; call `drain` after each input to its session.
        """
        self._counters["voice.opened"] += 1

        def authenticate(identify: Identify) -> Admission | Refusal:
            ticket = self._world.claim(identify)
            if isinstance(ticket, Denial):
                return _REFUSALS[ticket]
            self._abandon(ticket)
            max_dave = identify.max_dave_protocol_version
            refusal = self._encryption.refuse(ticket.room.channel_id, max_dave)
            if refusal is not None:
                self._world.release(ticket)
                return refusal
            peer.ticket = ticket
            self._peers[ticket.token] = peer
            ssrc, self._next_ssrc = self._next_ssrc, self._next_ssrc + SSRCS_PER_SESSION
            media = self._media
            return Admission(
                ssrc,
                ip,
                media.address[1],
                media.fingerprint,
                media.new_credentials,
                self._describe_dave(ticket.room, max_dave),
            )

        def find(resume: Resume) -> Continuation | Refusal:
            assert version is not None  # else the session was closed before it could ask
            return self._resume(peer, resume, version)

        session = VoiceServerSession(
            version, self._config, authenticate, find, counters=self._counters
        )
        peer = VoicePeer(session, wake, browser=browser, abort=abort)
        return peer

    def drain(self, peer: VoicePeer) -> None:
        """Handle what a session reports."""
        self._drain(peer)
        if peer in self._absent:
            self._pump.run(lambda: None)  # there may be a deadline now

    def close(self) -> None:
        """Nobody who is away, or was cut, will come back: the server closes."""
        self._pump.close()
        for peer in tuple(self._peers.values()):
            self._end(peer, VoiceCloseCode.CALL_TERMINATED, "the server closes")

    def end(self, ticket: Ticket, code: int, reason: str, *, notice: float = 0.0) -> bool:
        """Close the voice session of a ticket, or only its websocket if the code is resumable.

        Args:
            ticket: Whose.
            code: Close code.
            reason: Shown to the client.
            notice: Seconds until its websocket is closed, if nothing else is said on it.

        Returns:
            False when there is nothing to close.
        """
        peer = self._peers.get(ticket.token)
        if peer is None or (peer.session.detached and close_meaning(code).resumable):
            return False
        self._end(peer, code, reason, notice=notice)
        return True

    def drop(self, ticket: Ticket) -> bool:
        """Cut the websocket of a ticket's voice session. False when there is none."""
        peer = self._peers.get(ticket.token)
        if peer is None or peer.session.detached:
            return False
        peer.abort()
        # Its machine would be told a little later, too late for whoever looks at once.
        peer.session.connection_lost(None, self._media.clock.now())
        self.drain(peer)
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

    def _end(self, peer: VoicePeer, code: int, reason: str, *, notice: float = 0.0) -> None:
        peer.session.close(code, reason)
        self._drain(peer)
        if notice:
            self._pump.run(self._absent.wake_later, peer, self._media.clock.now() + notice)
        else:
            peer.wake()

    def _drain(self, peer: VoicePeer) -> None:
        while (event := peer.session.next_event()) is not None:
            self._handle(peer, event)

    def _resume(self, peer: VoicePeer, resume: Resume, version: int) -> Continuation | Refusal:
        found = self._world.resume(resume)
        if isinstance(found, Denial):
            return _REFUSALS[found]
        ticket, describe = found
        old = self._peers[ticket.token]
        continuation = old.session.hand_over(resume, version)
        if continuation is None:
            self._counters["voice.unresumable"] += 1
            self._end(old, _UNRESUMABLE.code, _UNRESUMABLE.reason)
            return _UNRESUMABLE
        self._absent.discard(old)
        peer.take_over(old)
        self._peers[ticket.token] = peer
        old.wake()  # it may not know yet that its websocket is of no use any more
        return replace(continuation, describe=describe)

    def _abandon(self, ticket: Ticket) -> None:
        """End what was opened with this ticket before: the client begins anew."""
        old = self._peers.pop(ticket.token, None)
        if old is not None:
            old.ticket = None  # it is in use again
            self._end(old, VoiceCloseCode.SESSION_NO_LONGER_VALID, "identified anew")

    def _handle(self, peer: VoicePeer, event: VoiceServerEvent) -> None:
        _LOG.debug("= voice of %s: %r", peer.occupant and peer.occupant.user_id, event)
        match event:
            case Closed():
                self._closed(peer, event)
                return
            case Identified():
                self._identified(peer, event)
                return
            case Detached():
                self._detached(peer, event)
                return
            case SessionResumed():
                self._resumed(peer, event)
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
        event: SpeakingSet | VideoSet | NoRouteTold | WantsSet | CodecsSet | DaveReceived,
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
            case DaveReceived(message=message) if channel is not None:
                channel.receive_dave(occupant, message)

    def _describe_dave(self, room: RoomKey, max_version: int) -> Callable[[], int] | None:
        if not max_version or self._encryption.mode == "off":
            return None

        def describe() -> int:
            channel = self._channels.get(room)
            if channel is not None:
                return channel.version_for(max_version)
            return self._encryption.version_for(room.channel_id, max_version)

        return describe

    def _identified(self, peer: VoicePeer, event: Identified) -> None:
        ready = event.ready
        assert peer.ticket is not None
        state = self._world.state_of(peer.ticket.room.guild_id, peer.ticket.user_id)
        assert state is not None
        layers = tuple(
            (stream.ssrc, stream.rtx_ssrc)
            for stream in ready.streams
            if stream.ssrc is not None and stream.rtx_ssrc is not None
        )
        leg = self._media.add_leg(state.user_id, LegSsrcs(ready.ssrc, layers))
        dave = DaveClient(event.identify.max_dave_protocol_version, peer.browser)
        peer.occupant = Occupant(state, peer.session, leg, peer.wake, dave=dave)

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
            encryption = self._encryption.begin(room.channel_id)
            self._channels[room] = Channel(
                room, self._media, self._config.max_video_bps, encryption, self._hooks
            )
        peer.channel = self._channels[room]
        peer.channel.join(occupant)
        self._counters["voice.joined"] += 1
        user_id, transport = occupant.user_id, occupant.leg.transport
        _LOG.info("= user %d joined channel %d by %s", user_id, room.channel_id, transport)

    def _announce(self, occupant: Occupant, audio: int, video: Video | None) -> None:
        layers = () if video is None else own_layers(video, occupant.leg.ssrcs)
        self._media.run(lambda now: occupant.leg.announce(audio, layers, now))

    def _detached(self, peer: VoicePeer, event: Detached) -> None:
        assert peer.ticket is not None
        code = event.code or 1006  # RFC 6455: no close frame
        self._counters[f"voice.detached.{code}"] += 1
        self._absent.add(peer)
        self._world.detach(peer.ticket)
        self._set_away(peer, away=True)
        _LOG.info("= user %d lost its voice websocket (%d)", peer.ticket.user_id, code)

    def _resumed(self, peer: VoicePeer, event: SessionResumed) -> None:
        assert peer.ticket is not None
        self._counters["voice.resumed"] += 1
        self._counters["voice.replayed"] += event.replayed
        self._set_away(peer, away=False, described=event.described)
        user_id, replayed = peer.ticket.user_id, event.replayed
        _LOG.info("= user %d resumed, %d messages replayed", user_id, replayed)

    @staticmethod
    def _set_away(peer: VoicePeer, *, away: bool, described: bool = False) -> None:
        if peer.channel is not None and peer.occupant is not None:
            peer.channel.set_away(peer.occupant, away=away, described=described)

    def _closed(self, peer: VoicePeer, event: Closed) -> None:
        if peer in self._absent:
            self._absent.discard(peer)
            self._counters["voice.expired"] += event.expired
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
        leg = peer.occupant.leg
        if isinstance(leg, UdpLeg):
            self._media.run(leg.say_goodbye)
        self._media.remove_leg(leg)
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
