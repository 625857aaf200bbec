"""`VoiceConnection`: the public handle of one guild's voice or one private call."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from discord_rtc.connection.call import Call
from discord_rtc.connection.events import E2eeChanged, Event
from discord_rtc.connection.publication import Quality
from discord_rtc.connection.stats import VoiceStats, track_stats
from discord_rtc.errors import ConnectionLost, InvalidState, SignalingTimeout
from discord_rtc.frames import MediaKind
from discord_rtc.protocol.opcodes import SpeakingFlags
from discord_rtc.transport.choice import TransportMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from discord_rtc.clock import Clock
    from discord_rtc.connection.call import State
    from discord_rtc.connection.events import Invalidated, Subscription
    from discord_rtc.connection.identity import EphemeralIdentity
    from discord_rtc.connection.options import ConnectionOptions
    from discord_rtc.connection.signaling import Signaling
    from discord_rtc.connection.users import RemoteUser
    from discord_rtc.frames import Codec
    from discord_rtc.media.track import MediaTrack
    from discord_rtc.protocol.messages import BackendVersion
    from discord_rtc.transport.base import NegotiatedMedia

_LOG = logging.getLogger("discord_rtc.connection")

E = TypeVar("E", bound=Event)


class VoiceConnection:
    """The voice connection of one guild, or one private call.

    Made by `RtcClient.join`, `RtcClient.connection` or `connect`. Once it is invalid
    (`is_valid` is False) every action is a no-op: none raises.

    Args:
        signaling: Where voice servers come from.
        options: How to behave.
        clock: Source of ``now``.
        memory: What is known of voice endpoints; its own by default.
        closed: Called once when the connection is over.
        identity: Who we are to the others where there is no persistent key; its own by default.
    """

    def __init__(
        self,
        signaling: Signaling,
        options: ConnectionOptions,
        clock: Clock,
        *,
        memory: TransportMemory | None = None,
        closed: Callable[[VoiceConnection], None] | None = None,
        identity: EphemeralIdentity | None = None,
    ) -> None:
        def over() -> None:
            if closed is not None:
                closed(self)

        self._call = Call(
            signaling,
            options,
            clock,
            memory=memory or TransportMemory(),
            closed=over,
            identity=identity,
        )

    # State

    @property
    def id(self) -> int:
        """The own user id."""
        return self._call.signaling.user_id

    @property
    def state(self) -> State:
        """``new``, ``connecting``, ``connected``, ``reconnecting`` or ``closed``."""
        return self._call.state

    @property
    def is_valid(self) -> bool:
        """False once the connection is over for good."""
        return self._call.invalidation is None

    @property
    def invalidation(self) -> Invalidated | None:
        """Why the connection is over, or None."""
        return self._call.invalidation

    @property
    def transport(self) -> str | None:
        """Name of the transport in use, None while not connected."""
        session = self._call.session
        return None if session is None else session.protocol

    @property
    def local_description(self) -> str | None:
        """Our whole offer as SDP, for inspection; None without one. Holds the ICE password."""
        media = self._media
        return None if media is None else media.local_description

    @property
    def remote_description(self) -> str | None:
        """The whole answer as SDP; as `local_description`."""
        media = self._media
        return None if media is None else media.remote_description

    @property
    def codec(self) -> Codec | None:
        """The negotiated video codec, None while not connected or when there is none."""
        media = self._media
        return None if media is None else media.video_codec

    @property
    def e2ee(self) -> Literal["off", "pending", "active"]:
        """State of end-to-end encryption.

        ``"off"``: the call is not encrypted, or there is none. ``"pending"``: it is, and nothing is
        sent until there is a group, for as long as we are alone in the call. ``"active"``.
        """
        return self._call.e2ee.state

    @property
    def privacy_code(self) -> str | None:
        """30 digits that all members of an encrypted call see alike; None while not active."""
        return self._call.e2ee.privacy_code

    @property
    def users(self) -> Mapping[int, RemoteUser]:
        """The other users in the call, by id."""
        return self._call.people.users

    def stats(self) -> VoiceStats:
        """Counters, delays and queue marks as of now."""
        call, session = self._call, self._call.session
        link = session.link if session else None
        rtp, transport = link.stats() if link else (None, None)
        return VoiceStats(
            rtp=rtp,
            transport=transport,
            published={k: item.counters for k, item in call.publisher.publications.items()},
            received=track_stats(call.people.users),
            drops=session.receiver.drops if session else {},
            join=dict(session.steps) if session else {},
            websockets=dict(session.websockets) if session else {},
            dave=session.encryption.stats() if session else None,
            queues=(*(rtp.queues if rtp else ()), *(session.queues() if session else ())),
        )

    # Events

    @overload
    def events(self) -> Subscription[Event]: ...
    @overload
    def events(self, *types: type[E]) -> Subscription[E]: ...
    def events(self, *types: type[E]) -> Subscription[E] | Subscription[Event]:
        """An async iterator over events of these types, or over all.

        It begins with what happens after this call and holds at most 1024 unread events.
        """
        bus = self._call.people.events
        return bus.subscribe(types) if types else bus.subscribe((Event,))

    async def until(self, kind: type[E], /, **match: object) -> E:
        """The next event of a type whose attributes equal ``match``.

        As in ``await voice.until(TrackStarted, user_id=5, kind="video")``.

        Raises:
            ConnectionLost: The connection ended first.
        """
        async with self.events(kind) as events:
            async for event in events:
                if all(getattr(event, name) == value for name, value in match.items()):
                    return event
        raise ConnectionLost(None, f"the connection ended before {kind.__name__} came")

    async def user(self, user_id: int, *, timeout: float | None = None) -> RemoteUser:
        """The user, as soon as they are in the call.

        Raises:
            TimeoutError: They did not come within ``timeout`` seconds.
            ConnectionLost: The connection ended first.
        """
        async with asyncio.timeout(timeout):
            return await self._call.people.arrival(user_id)

    async def secured(self, *, timeout: float | None = None) -> Literal["off", "active"]:
        """Wait until this session's frames go out: until the encrypted group stands.

        Alone in an encrypted call that is until somebody else comes. Not needed for correctness:
        what is published waits for it by itself, and the newest half second of it is kept.

        Args:
            timeout: Seconds; None to wait for ever.

        Returns:
            ``"active"``, or ``"off"`` where the call is not encrypted.

        Raises:
            TimeoutError: It did not come to it in time.
            InvalidState: `connect` was not called.
            RtcError: The connection ended first; this is the reason.
        """
        async with asyncio.timeout(timeout), self.events(E2eeChanged) as changes:
            while True:
                await self.ready()  # before that, and once it is over, "off" says nothing
                if (state := self.e2ee) != "pending":
                    return state
                # At the end of the events the connection is over, and `ready` says why.
                await anext(changes, None)

    # Actions

    async def connect(
        self, channel_id: int | None = None, *, self_mute: bool = False, self_deaf: bool = False
    ) -> VoiceConnection:
        """Join a channel and wait until media can flow.

        Args:
            channel_id: The channel; not needed where the credentials name one.
            self_mute: Join muted.
            self_deaf: Join deafened.

        Raises:
            InvalidState: Already connecting or connected, or closed.
            ConnectError: The server could not be reached.
            NegotiationError: Nothing in common with it; `DaveUnavailable`, when one of the two
                requires end-to-end encryption that the other one cannot give.
            UsageError: No channel, or an identity key that cannot be used.
            ConnectionLost: It ended the connection at once.
        """
        if self.state != "new":
            raise InvalidState(f"this connection is {self.state} already")
        self._call.signaling.aim(channel_id, self_mute=self_mute, self_deaf=self_deaf)
        self._call.publisher.mute(muted=self_mute)
        try:
            self._call.begin()
            await self.ready()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def ready(self) -> None:
        """Wait until media can flow.

        Raises:
            InvalidState: `connect` was not called.
            RtcError: The connection ended instead; this is the reason.
        """
        await self._call.ready()

    async def publish(
        self,
        *,
        microphone: MediaTrack | None = None,
        camera: MediaTrack | None = None,
        quality: Quality | None = None,
        speaking: SpeakingFlags = SpeakingFlags.VOICE,
    ) -> None:
        """Send tracks, in place of what was published as the same before.

        Called before the connection is live, it is kept and takes effect then.

        Args:
            microphone: Any aiortc-shaped audio track: frames, or Opus packets.
            camera: Any aiortc-shaped video track: frames, or packets of the negotiated codec.
            quality: Limits for the camera.
            speaking: Flags announced while audio is sent: voice, soundshare, priority.

        Raises:
            UsageError: A track of the wrong kind.
            VideoNotGranted: The gateway does not let this account send video.
        """
        for track, kind in ((microphone, MediaKind.AUDIO), (camera, MediaKind.VIDEO)):
            if track is None or self._ignored("publish"):
                continue
            await self._call.publisher.publish(
                track, kind, quality=quality or Quality(), flags=speaking
            )

    async def replace_track(
        self, *, microphone: MediaTrack | None = None, camera: MediaTrack | None = None
    ) -> None:
        """Change the source of something published; receivers notice only new content.

        SSRC, sequence numbers and timestamps go on; video starts with a keyframe.

        Raises:
            InvalidState: Nothing is published as that kind.
        """
        for track, kind in ((microphone, MediaKind.AUDIO), (camera, MediaKind.VIDEO)):
            if track is None or self._ignored("replace_track"):
                continue
            await self._call.publisher.replace(track, kind)

    async def unpublish(self, *names: Literal["microphone", "camera"]) -> None:
        """Stop sending; without names, everything. The tracks themselves go on."""
        if self._ignored("unpublish"):
            return
        for name in names or ("microphone", "camera"):
            kind = MediaKind.AUDIO if name == "microphone" else MediaKind.VIDEO
            await self._call.publisher.unpublish(kind)

    async def update_voice_state(
        self, *, self_mute: bool | None = None, self_deaf: bool | None = None
    ) -> None:
        """Mute or deafen the own user.

        Raises:
            UsageError: A connection made without a gateway.
            InvalidState: Not in a channel.
        """
        if self._ignored("update_voice_state"):
            return
        changes = {"self_mute": self_mute, "self_deaf": self_deaf}
        signaling = self._call.signaling
        await signaling.update(**{k: v for k, v in changes.items() if v is not None})
        if self_mute is not None:
            self._call.publisher.mute(muted=self_mute)

    async def backend_versions(self) -> BackendVersion | None:
        """Versions of the voice server and its RTC worker (op 16), None when not connected.

        Raises:
            SignalingTimeout: The server did not answer.
            ConnectionLost: The session ended first.
        """
        session = self._call.session
        if self._ignored("backend_versions") or session is None:
            return None
        try:
            async with asyncio.timeout(self._call.options.timeouts.signaling):
                return await session.backend_versions()
        except TimeoutError:
            raise SignalingTimeout("the voice server did not tell its versions in time") from None

    async def disconnect(self) -> None:
        """Leave the channel and close everything."""
        await self.aclose()

    async def aclose(self) -> None:
        """As `disconnect`. Idempotent, bounded to 3 s, safe in any state."""
        await self._call.aclose()

    async def __aenter__(self) -> VoiceConnection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<VoiceConnection of user {self.id}: {self.state}, {len(self.users)} other users>"

    @property
    def _media(self) -> NegotiatedMedia | None:
        session = self._call.session
        link = session.link if session else None
        return None if link is None else link.media

    def _ignored(self, action: str) -> bool:
        if self._call.invalidation is not None:
            _LOG.debug("= %s on an invalid connection is ignored", action)
            return True
        return False
