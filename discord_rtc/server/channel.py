"""One voice channel with its people: who is told what, and whose media is forwarded. Sans-I/O
except for the media socket that it is given.

Spec: userdoccers, "Voice Connections": ops 5, 11, 12, 13, 15, 18 and 20; DAVE protocol whitepaper
for the order of those that concern encryption.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    Speaking,
)
from discord_rtc.pump import Pump
from discord_rtc.server.encryption import NO_DAVE
from discord_rtc.server.leg_media import DEFAULT_LEG_MEDIA, LegMedia
from discord_rtc.server.sfu import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from discord_rtc.protocol.messages import MediaSinkWants, ServerMessage, Video
    from discord_rtc.server.encryption import CallEncryption, DaveClient, E2eeState
    from discord_rtc.server.events import DaveMessage
    from discord_rtc.server.media_socket import MediaSocket
    from discord_rtc.server.session import VoiceServerSession
    from discord_rtc.server.socket_leg import SocketLeg, TransportName
    from discord_rtc.server.world import RoomKey, VoiceState

_LOG = logging.getLogger("discord_rtc.server")


@dataclass(frozen=True, slots=True)
class RoomInfo:
    """A snapshot of one room, for users of the server.

    Attributes:
        guild_id: None for a private call.
        channel_id: The channel.
        user_ids: Who is connected for voice, in the order of joining.
        video_user_ids: Who of them shows video.
        transports: How each one's media travels, by user id.
        e2ee: Whether the call is encrypted end to end; "pending" means that it is about to change,
            or will be as soon as there is a group, which takes two users.
        e2ee_reason: Why it is off, e.g. "a browser is in the room"; None when it is not, or
            in all rooms of the server.
        e2ee_epoch: Of the group; 0 without one.
        e2ee_members: Users who are in the group.
    """

    guild_id: int | None
    channel_id: int
    user_ids: tuple[int, ...]
    video_user_ids: tuple[int, ...]
    transports: Mapping[int, TransportName] = field(default_factory=dict)
    e2ee: E2eeState = "off"
    e2ee_reason: str | None = None
    e2ee_epoch: int = 0
    e2ee_members: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class RoomHooks:
    """Who looks on.

    Attributes:
        tap: Called with the sender's user id and the plain RTP packet for each packet that is
            about to be forwarded, whoever gets it. Retransmissions come as what they repair.
        on_encryption: Told about a room whose encryption went on or off, also when its first
            user can have none.
    """

    tap: Callable[[int, bytes], None] | None = None
    on_encryption: Callable[[RoomInfo], None] | None = None


@dataclass(eq=False, slots=True)
class Occupant:
    """One user's voice session, from Ready on.

    Attributes:
        state: Where the user wants to be and how.
        session: The machine of its websocket.
        leg: Its media path.
        wake: Called when the machine got something to send.
        media: What it negotiated, from Session Description on.
        speaking: Last flags of op 5, None before the first.
        video: Last op 12 as others see it, None before the first.
        dave: What it can do about end-to-end encryption.
    """

    state: VoiceState
    session: VoiceServerSession
    leg: SocketLeg
    wake: Callable[[], None]
    media: LegMedia = DEFAULT_LEG_MEDIA
    speaking: int | None = None
    video: Video | None = None
    dave: DaveClient = NO_DAVE

    @property
    def user_id(self) -> int:
        """Whose it is."""
        return self.state.user_id

    def send(self, message: ServerMessage) -> None:
        """Say something to this client."""
        self.session.send(message)
        self.wake()

    def presence(self) -> Iterator[ServerMessage]:
        """What others have to know about this client, as messages to them."""
        yield ClientFlags(self.user_id, self.state.flags)
        yield ClientPlatform(self.user_id, platform=None)
        if self.speaking is not None:
            yield Speaking(self.speaking, self.leg.ssrcs.audio, user_id=self.user_id)
        if self.video is not None:
            yield self.video

    def announced(self) -> set[int]:
        """The SSRCs that its messages have named so far; RTX belongs to its video."""
        named = set() if self.speaking is None else {self.leg.ssrcs.audio}
        if self.video is not None:
            named |= {self.video.audio_ssrc, self.video.video_ssrc}
            named |= {stream.ssrc for stream in self.video.streams if stream.ssrc is not None}
        return named & {self.leg.ssrcs.audio, *(ssrc for ssrc, _ in self.leg.ssrcs.video)}


class Channel:
    """One voice channel while somebody is in it.

    Args:
        key: Guild and channel.
        media: Carries the media of its room.
        max_video_bps: See `Room`.
        encryption: Its end-to-end encryption.
        hooks: Who looks on.
    """

    def __init__(
        self,
        key: RoomKey,
        media: MediaSocket,
        max_video_bps: int,
        encryption: CallEncryption,
        hooks: RoomHooks,
    ) -> None:
        self.key = key
        self._media = media
        self._hooks = hooks
        self._room = Room(max_video_bps=max_video_bps, tap=hooks.tap and self._tap)
        self._occupants: dict[int, Occupant] = {}
        self._senders: dict[int, int] = {}  # user by leg id
        self._withheld: frozenset[int] = frozenset()
        self._silenced: frozenset[int] = frozenset()
        self._announced: tuple[str, str | None] | None = None
        self._encryption = encryption
        self._pump = Pump(encryption, self._flush, media.clock)
        media.add_room(self._room)

    def __len__(self) -> int:
        return len(self._occupants)

    def info(self) -> RoomInfo:
        """What it looks like now."""
        showing = [
            occupant.user_id
            for occupant in self._occupants.values()
            if occupant.video is not None and occupant.video.streams
        ]
        transports = {user_id: one.leg.transport for user_id, one in self._occupants.items()}
        e2ee = self._encryption.info
        return RoomInfo(
            *self.key,
            tuple(self._occupants),
            tuple(showing),
            transports,
            e2ee.state,
            e2ee.reason,
            e2ee.epoch,
            e2ee.members,
        )

    def version_for(self, max_version: int) -> int:
        """Which DAVE version a newcomer with this one has to be told (op 4)."""
        return self._encryption.version_for(max_version)

    def join(self, newcomer: Occupant) -> None:
        """Somebody got the Session Description: media flows, and everybody is told."""
        leg, deaf = newcomer.leg, newcomer.state.self_deaf
        self._occupants[newcomer.user_id] = newcomer
        self._senders[leg.leg_id] = newcomer.user_id
        greeting = self._encryption.greeting_for(newcomer.dave)
        if greeting is not None:
            newcomer.send(greeting)  # discord.py drops what is binary before op 4
        leg.deliver_to(self._room)
        self._media.run(lambda now: self._room.add(leg, leg.ssrcs, newcomer.media, now, deaf=deaf))
        # Like on Discord the list holds everybody, the newcomer too.
        newcomer.send(ClientsConnect(tuple(self._occupants)))
        self._tell_others(newcomer, ClientsConnect((newcomer.user_id,)))
        for message in newcomer.presence():
            self._tell_others(newcomer, message)
        for other in self._others(newcomer):
            for message in other.presence():
                newcomer.send(message)
        self._announce(newcomer)
        # Proposals come last: @discordjs/voice refuses to add who was not in an op 11.
        now = self._media.clock.now()
        self._pump.run(self._encryption.join, newcomer.user_id, newcomer.dave, now)

    def leave(self, occupant: Occupant) -> None:
        """Somebody's voice session has ended."""
        del self._occupants[occupant.user_id]
        del self._senders[occupant.leg.leg_id]
        occupant.leg.deliver_to(None)
        self._media.run(lambda now: self._room.remove(occupant.leg.leg_id, now))
        self._tell_others(occupant, ClientDisconnect(occupant.user_id))
        self._pump.run(self._encryption.leave, occupant.user_id, self._media.clock.now())
        if not self._occupants:
            self._pump.close()
            self._media.remove_room(self._room)

    def set_speaking(self, occupant: Occupant, speaking: int) -> None:
        """Somebody sent op 5."""
        self._announce(occupant)
        ssrc = occupant.leg.ssrcs.audio
        self._tell_others(occupant, Speaking(speaking, ssrc, user_id=occupant.user_id))

    def set_video(self, occupant: Occupant, video: Video, withdrawn: set[int]) -> None:
        """Somebody sent op 12; ``withdrawn`` are the SSRCs that it does not name any more."""
        leg_id = occupant.leg.leg_id
        if withdrawn:
            self._media.run(lambda _now: self._room.withdraw(leg_id, withdrawn))
        self._announce(occupant)
        self._tell_others(occupant, video)

    def set_wants(self, occupant: Occupant, wants: MediaSinkWants) -> None:
        """Somebody sent op 15."""
        leg_id = occupant.leg.leg_id
        self._media.run(lambda now: self._room.set_wants(leg_id, wants.ssrcs, wants.any, now))

    def set_media(self, occupant: Occupant, media: LegMedia) -> None:
        """Somebody sent op 14."""
        occupant.media = media
        leg_id = occupant.leg.leg_id
        self._media.run(lambda now: self._room.set_media(leg_id, media, now))

    def set_state(self, occupant: Occupant, state: VoiceState) -> None:
        """Somebody's mute, deafness or flags changed. No audio is sent to the deafened."""
        old, occupant.state = occupant.state, state
        leg_id = occupant.leg.leg_id
        if old.self_deaf != state.self_deaf:
            self._media.run(lambda _now: self._room.set_deaf(leg_id, deaf=state.self_deaf))
        if old.flags != state.flags:
            self._tell_others(occupant, ClientFlags(occupant.user_id, state.flags))

    def set_away(self, occupant: Occupant, *, away: bool, described: bool = False) -> None:
        """Somebody's websocket was lost, or is there again, perhaps with another op 4."""
        now, user_id = self._media.clock.now(), occupant.user_id
        self._pump.run(self._encryption.set_away, user_id, now, away=away, described=described)

    def receive_dave(self, occupant: Occupant, message: DaveMessage) -> None:
        """Somebody sent op 23, 26, 28 or 31."""
        now = self._media.clock.now()
        self._pump.run(self._encryption.receive, occupant.user_id, message, now)

    def _flush(self, _now: float) -> None:
        for user_id, message in self._encryption.messages_to_send():
            occupant = self._occupants.get(user_id)
            if occupant is not None:
                occupant.send(message)
        self._spare_noise()
        self._tell_encryption()

    def _spare_noise(self) -> None:
        """Forward nothing for now where it could only be taken for something else."""
        withheld, silenced = self._encryption.withheld, self._encryption.silenced
        for user_id in self._present(withheld ^ self._withheld):
            leg_id, stop = self._occupants[user_id].leg.leg_id, user_id in withheld
            self._media.run(partial(self._room.set_withheld, leg_id, withheld=stop))
        for user_id in self._present(silenced ^ self._silenced):
            leg_id, stop = self._occupants[user_id].leg.leg_id, user_id in silenced
            self._media.run(partial(self._room.set_silenced, leg_id, silenced=stop))
        self._withheld, self._silenced = withheld, silenced

    def _present(self, user_ids: frozenset[int]) -> Iterator[int]:
        return (user_id for user_id in user_ids if user_id in self._occupants)

    def _tell_encryption(self) -> None:
        e2ee = self._encryption.info
        found = (e2ee.state, e2ee.reason)
        if not self._occupants or found in (self._announced, ("pending", None), ("off", None)):
            return
        self._announced = found
        if e2ee.state == "off":
            _LOG.info("= encryption off in room %d: %s", self.key.channel_id, e2ee.reason)
        else:
            _LOG.info("= encryption on in room %d", self.key.channel_id)
        if self._hooks.on_encryption is not None:
            self._hooks.on_encryption(self.info())

    def _tap(self, leg_id: int, packet: bytes) -> None:
        assert self._hooks.tap is not None
        self._hooks.tap(self._senders[leg_id], packet)

    def _announce(self, occupant: Occupant) -> None:
        named = occupant.announced()
        if named:
            leg_id = occupant.leg.leg_id
            self._media.run(lambda now: self._room.announce(leg_id, named, now))

    def _others(self, occupant: Occupant) -> list[Occupant]:
        return [other for other in self._occupants.values() if other is not occupant]

    def _tell_others(self, occupant: Occupant, message: ServerMessage) -> None:
        for other in self._others(occupant):
            other.send(message)
