"""Who is in the room and which SSRC is whose. Sans-I/O. Spec: userdoccers, "Voice Connections".

Sources of a mapping: op 5 and op 12 (``audio_ssrc``, ``video_ssrc``, every stream with its
``rtx_ssrc``, which is ``ssrc + 1`` when absent). Each message of a user replaces what an earlier
one said: a new audio SSRC the old one, the layers of an op 12 all earlier layers; its cleared
form (no streams, ``video_ssrc`` 0) removes them. Our own user is never reported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from discord_rtc.frames import MediaKind
from discord_rtc.protocol.messages import (
    ClientDisconnect,
    ClientFlags,
    ClientPlatform,
    ClientsConnect,
    Speaking,
    Video,
)

if TYPE_CHECKING:
    from discord_rtc.protocol.messages import ServerMessage, StreamInfo, UnknownMessage

_USERS_LIMIT = 1000  # above the largest stage audience that can send
_SSRCS_PER_USER_LIMIT = 16  # audio, and seven layers with retransmission


@dataclass(frozen=True, slots=True)
class UserJoined:
    """A user is here: named by op 11, or implied by op 5 or 12."""

    user_id: int


@dataclass(frozen=True, slots=True)
class UserLeft:
    """A user left; `SsrcRemoved` came before for each of ``ssrcs``."""

    user_id: int
    ssrcs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SsrcNamed:
    """Packets of ``ssrc`` are this user's.

    Attributes:
        ssrc: The SSRC.
        user_id: Its owner.
        kind: Audio or video.
        rtx: Whether it carries retransmissions.
        rid: Video layer; None for audio and where none was named.
    """

    ssrc: int
    user_id: int
    kind: MediaKind
    rtx: bool
    rid: str | None


@dataclass(frozen=True, slots=True)
class SsrcRemoved:
    """Packets of ``ssrc`` are nobody's any more."""

    ssrc: int
    user_id: int


@dataclass(frozen=True, slots=True)
class SpeakingChanged:
    """A user's `SpeakingFlags` bits changed. Real servers do not say so per utterance."""

    user_id: int
    flags: int


@dataclass(frozen=True, slots=True)
class ClientFlagsChanged:
    """A user's voice flags changed (op 18)."""

    user_id: int
    flags: int | None


@dataclass(frozen=True, slots=True)
class PlatformChanged:
    """What a user runs on changed (op 20)."""

    user_id: int
    platform: int | None


@dataclass(frozen=True, slots=True)
class VideoChanged:
    """A user's video layers changed; none when video was stopped."""

    user_id: int
    streams: tuple[StreamInfo, ...]


RosterChange = (
    UserJoined
    | UserLeft
    | SsrcNamed
    | SsrcRemoved
    | SpeakingChanged
    | ClientFlagsChanged
    | PlatformChanged
    | VideoChanged
)


class _Owner(NamedTuple):
    user_id: int
    kind: MediaKind
    rid: str | None = None
    repairs: int | None = None  # the media SSRC whose packets are retransmitted here


@dataclass(frozen=True, slots=True)
class _Member:
    speaking: int = 0
    flags: int | None = None
    platform: int | None = None
    streams: tuple[StreamInfo, ...] = ()


class Roster:
    """The users of one voice session with their SSRCs.

    At most 1000 users and 16 SSRCs of each are kept; what is above is counted in `drops`.

    Args:
        own_user_id: Ourselves; messages about this user change nothing.
    """

    def __init__(self, own_user_id: int) -> None:
        self._own_user_id = own_user_id
        self._members: dict[int, _Member] = {}
        self._owners: dict[int, _Owner] = {}
        self._drops: Counter[str] = Counter()

    @property
    def users(self) -> tuple[int, ...]:
        """Ids of the others, in the order in which they came."""
        return tuple(self._members)

    @property
    def drops(self) -> dict[str, int]:
        """``user-overflow`` and ``ssrc-overflow`` counts."""
        return dict(self._drops)

    def user_of(self, ssrc: int) -> int | None:
        """The user whose packets these are; None when nobody said so yet."""
        owner = self._owners.get(ssrc)
        return None if owner is None else owner.user_id

    def kind_of(self, ssrc: int) -> MediaKind | None:
        """Audio or video; None for an unknown SSRC."""
        owner = self._owners.get(ssrc)
        return None if owner is None else owner.kind

    def rtx_of(self, ssrc: int) -> int | None:
        """The SSRC that retransmits packets of the media SSRC ``ssrc``."""
        return next((rtx for rtx, owner in self._owners.items() if owner.repairs == ssrc), None)

    def apply(self, message: ServerMessage | UnknownMessage) -> tuple[RosterChange, ...]:
        """Take in a message of the server.

        Args:
            message: Any message; those that do not concern the roster change nothing.

        Returns:
            What changed, in an order that makes sense to act on.
        """
        changes: tuple[RosterChange, ...] = ()
        match message:
            case Speaking(user_id=int(user_id)) if self._is_other(user_id):
                changes = self._speaking(user_id, message)
            case Video(user_id=int(user_id)) if self._is_other(user_id):
                changes = self._video(user_id, message)
            case ClientsConnect(user_ids):
                joined = (self._join(user_id) for user_id in user_ids if self._is_other(user_id))
                changes = tuple(change for of_user in joined for change in of_user)
            case ClientDisconnect(user_id) if user_id in self._members:
                changes = self._leave(user_id)
            case ClientFlags(user_id, flags) if user_id in self._members:
                if self._update(user_id, replace(self._members[user_id], flags=flags)):
                    changes = (ClientFlagsChanged(user_id, flags),)
            case ClientPlatform(user_id, platform) if user_id in self._members:
                if self._update(user_id, replace(self._members[user_id], platform=platform)):
                    changes = (PlatformChanged(user_id, platform),)
            case _:
                pass
        return changes

    def _is_other(self, user_id: int) -> bool:
        return user_id != self._own_user_id

    def _join(self, user_id: int) -> tuple[RosterChange, ...]:
        if user_id in self._members:
            return ()
        if len(self._members) >= _USERS_LIMIT:
            self._drops["user-overflow"] += 1
            return ()
        self._members[user_id] = _Member()
        return (UserJoined(user_id),)

    def _leave(self, user_id: int) -> tuple[RosterChange, ...]:
        del self._members[user_id]
        ssrcs = tuple(ssrc for ssrc, owner in self._owners.items() if owner.user_id == user_id)
        for ssrc in ssrcs:
            del self._owners[ssrc]
        return (*(SsrcRemoved(ssrc, user_id) for ssrc in ssrcs), UserLeft(user_id, ssrcs))

    def _speaking(self, user_id: int, message: Speaking) -> tuple[RosterChange, ...]:
        joined = self._join(user_id)
        if user_id not in self._members:
            return ()
        named = self._name_audio(user_id, message.ssrc)
        if self._update(user_id, replace(self._members[user_id], speaking=message.speaking)):
            return (*joined, *named, SpeakingChanged(user_id, message.speaking))
        return (*joined, *named)

    def _video(self, user_id: int, message: Video) -> tuple[RosterChange, ...]:
        joined = self._join(user_id)
        if user_id not in self._members:
            return ()
        audio = self._name_audio(user_id, message.audio_ssrc)
        video = self._name(user_id, MediaKind.VIDEO, self._layers(user_id, message))
        changed = self._update(user_id, replace(self._members[user_id], streams=message.streams))
        if changed or video:
            return (*joined, *audio, *video, VideoChanged(user_id, message.streams))
        return (*joined, *audio)

    def _update(self, user_id: int, member: _Member) -> bool:
        changed = self._members[user_id] != member
        self._members[user_id] = member
        return changed

    def _name_audio(self, user_id: int, ssrc: int) -> tuple[RosterChange, ...]:
        if ssrc == 0:  # not a mapping but "none"
            return ()
        return self._name(user_id, MediaKind.AUDIO, {ssrc: _Owner(user_id, MediaKind.AUDIO)})

    def _layers(self, user_id: int, message: Video) -> dict[int, _Owner]:
        layers: dict[int, tuple[int | None, str | None]] = {
            stream.ssrc: (stream.rtx_ssrc, stream.rid) for stream in message.streams if stream.ssrc
        }
        if message.video_ssrc:
            layers.setdefault(message.video_ssrc, (message.rtx_ssrc, None))
        wanted = {ssrc: _Owner(user_id, MediaKind.VIDEO, rid) for ssrc, (_, rid) in layers.items()}
        for ssrc, (named_rtx, rid) in layers.items():
            rtx = (ssrc + 1) & 0xFFFF_FFFF if named_rtx is None else named_rtx
            if named_rtx is None and self._is_taken(rtx, user_id):
                continue  # a guess must not take what somebody was named to own
            if rtx:
                wanted.setdefault(rtx, _Owner(user_id, MediaKind.VIDEO, rid, repairs=ssrc))
        return wanted

    def _is_taken(self, ssrc: int, user_id: int) -> bool:
        owner = self._owners.get(ssrc)
        return owner is not None and (owner.user_id, owner.kind) != (user_id, MediaKind.VIDEO)

    def _name(
        self, user_id: int, kind: MediaKind, wanted: dict[int, _Owner]
    ) -> tuple[RosterChange, ...]:
        """Make ``wanted`` all the SSRCs of this kind that the user has."""
        own = {ssrc: owner for ssrc, owner in self._owners.items() if owner.user_id == user_id}
        gone = [ssrc for ssrc, owner in own.items() if owner.kind is kind and ssrc not in wanted]
        for ssrc in gone:
            del self._owners[ssrc]
        changes: list[RosterChange] = [SsrcRemoved(ssrc, user_id) for ssrc in gone]
        room = _SSRCS_PER_USER_LIMIT - len(own) + len(gone)
        for ssrc, owner in wanted.items():
            before = self._owners.get(ssrc)
            if before == owner:
                continue
            if ssrc not in own:
                if room == 0:
                    self._drops["ssrc-overflow"] += 1
                    continue
                room -= 1
            if before is not None and (before.user_id, before.kind) != (user_id, kind):
                changes += self._take_away(ssrc)
            self._owners[ssrc] = owner
            changes.append(SsrcNamed(ssrc, user_id, kind, owner.repairs is not None, owner.rid))
        return tuple(changes)

    def _take_away(self, ssrc: int) -> list[RosterChange]:
        """Remove an SSRC that changes hands, and what retransmitted it."""
        rtx = self.rtx_of(ssrc)
        gone = [ssrc] if rtx is None else [ssrc, rtx]
        return [SsrcRemoved(each, self._owners.pop(each).user_id) for each in gone]
