"""What the answer to an offer takes from it: formats, parameters, feedback, users. No I/O.

Spec: userdoccers, "Voice Connections", Generating the Browser Remote Answer; RFC 3264 (offers),
6184 section 8.1 (H.264), 4585 section 4.2 (feedback).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedSdp, NoCommonCodec, UsageError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.protocol.sdp_lines import FEEDBACK_NAMES
from discord_rtc.rtp.extensions import (
    ABS_SEND_TIME,
    AUDIO_LEVEL,
    PLAYOUT_DELAY,
    TOFFSET,
    TRANSPORT_CC,
    VIDEO_ORIENTATION,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from discord_rtc.protocol.sdp_sections import Description, Format, MediaSection

_AUDIO = MediaKind.AUDIO.value
_VIDEO = MediaKind.VIDEO.value

ANSWERED_EXTENSIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        _AUDIO: frozenset({AUDIO_LEVEL, TRANSPORT_CC}),
        _VIDEO: frozenset({TOFFSET, ABS_SEND_TIME, VIDEO_ORIENTATION, TRANSPORT_CC, PLAYOUT_DELAY}),
    }
)
"""Header extensions of the documented answer, by kind of section."""

H264_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "level-asymmetry-allowed": "1",
        "packetization-mode": "1",
        "profile-level-id": "42e01f",  # constrained baseline, level 3.1
    }
)
"""The H.264 that every browser can send and receive."""

# In the order of the documented answer.
_FEEDBACK = MappingProxyType(
    {
        _AUDIO: ("transport-cc", "nack"),
        _VIDEO: ("ccm fir", "nack", "nack pli", "goog-remb", "transport-cc"),
    }
)

# What tells two payload types of a codec apart has to be as in the offer.
_REPEATED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "H264": ("packetization-mode", "profile-level-id"),
        "H265": ("level-id", "profile-id", "tier-flag", "tx-mode"),
        "VP9": ("profile-id",),
        "AV1": ("level-idx", "profile", "tier"),
    }
)
_VIDEO_NAMES = frozenset(codec.value for codec in Codec if codec.kind is MediaKind.VIDEO)
_SENDING = frozenset({"sendrecv", "sendonly"})

_WITH_SOURCE = {"recvonly": "sendonly", "sendrecv": "sendrecv"}
_WITHOUT_SOURCE = {"recvonly": "inactive", "sendonly": "recvonly", "sendrecv": "recvonly"}
_SSRC_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """A stream of another user, to be received in a section of the offer.

    Attributes:
        user_id: Who sends it.
        kind: Audio or video.
        ssrc: Its SSRC; retransmissions of video come from the next one.
        mid: The section that takes it; None for the first one that is free.
    """

    user_id: int
    kind: MediaKind
    ssrc: int
    mid: str | None = None


def choose_formats(section: MediaSection, video_codecs: Sequence[str]) -> tuple[Format, ...]:
    """The formats of an offered section that are answered, each followed by its ``rtx``.

    Args:
        section: Of the offer.
        video_codecs: Names in order of preference; none means the first one that is offered.

    Returns:
        Nothing for a section that has to be rejected.
    """
    if section.rejected or section.kind not in {_AUDIO, _VIDEO}:
        return ()
    if section.kind == _AUDIO:
        return tuple(offered for offered in section.formats if offered.name == "OPUS")[:1]
    names = video_codecs or [name for name in _names(section) if name in _VIDEO_NAMES][:1]
    chosen: list[Format] = []
    for name in names:
        same = [offered for offered in section.formats if offered.name == name.upper()]
        if same:
            best = min(same, key=_strangeness)
            chosen += [best, *_repair(section, best)]
    return tuple(chosen)


def _names(section: MediaSection) -> list[str]:
    return [offered.name for offered in section.formats]


def _strangeness(offered: Format) -> tuple[bool, ...]:
    # Browsers offer several profiles of a codec; the lowest is the one that everybody decodes.
    parameters = offered.parameters
    if offered.name == "H264":
        profile = parameters.get("profile-level-id", "").lower()
        wrong_mode = parameters.get("packetization-mode", "0") != "1"
        return wrong_mode, not profile.startswith("42e0")
    return (parameters.get("profile-id", "0") not in {"0", "1"},)


def _repair(section: MediaSection, media: Format) -> tuple[Format, ...]:
    apt = str(media.payload_type)
    return tuple(
        offered
        for offered in section.formats
        if offered.name == "RTX" and offered.parameters.get("apt") == apt
    )[:1]


def check_common(
    offer: Description, chosen: Mapping[str, object], video_codecs: Sequence[str]
) -> None:
    """Check that what is answered can flow.

    Args:
        offer: The whole offer.
        chosen: Its sections, by name, that are not rejected.
        video_codecs: Names asked for.

    Raises:
        NoCommonCodec: Video is offered, but in none of the codecs asked for.
        MalformedSdp: The sections do not share one transport.
    """
    videos = [part for part in offer.sections if part.kind == _VIDEO and not part.rejected]
    if video_codecs and videos and not any(part.mid in chosen for part in videos):
        offered = dict.fromkeys(
            name for part in videos for name in _names(part) if name in _VIDEO_NAMES
        )
        raise NoCommonCodec(
            f"the server wants video as {'/'.join(video_codecs)!r:.60}, "
            f"offered was {', '.join(offered) or 'nothing'}"
        )
    if len(chosen) > 1 and not chosen.keys() <= set(offer.bundle):
        raise MalformedSdp(
            "the sections of the offer are not in one a=group:BUNDLE; "
            "create the connection with the bundle policy max-bundle"
        )


def sends_video(offer: Description, chosen: Mapping[str, object]) -> bool:
    """Whether a section that is not rejected sends video."""
    return any(
        part.kind == _VIDEO and part.mid in chosen and part.direction in _SENDING
        for part in offer.sections
    )


def answer_parameters(
    offered: Format, *, sends_video: bool, max_bitrate_kbps: int
) -> dict[str, str]:
    """The ``a=fmtp`` of a format in the answer.

    Args:
        offered: The format as offered.
        sends_video: Whether the client sends video; if not, it may save on audio.
        max_bitrate_kbps: The most that a browser sends as video.
    """
    if offered.name == "OPUS":
        return {"minptime": "10", "useinbandfec": "1", "usedtx": "0" if sends_video else "1"}
    if offered.name == "RTX":
        return {"apt": offered.parameters["apt"]}
    parameters = {"x-google-max-bitrate": str(max_bitrate_kbps)}
    if offered.name == "H264":
        parameters |= H264_PARAMETERS
    repeated = _REPEATED.get(offered.name, ())
    return parameters | {
        name: offered.parameters[name] for name in repeated if offered.parameters.get(name)
    }


def answer_feedback(kind: str, offered: Format) -> tuple[str, ...]:
    """The ``a=rtcp-fb`` values of a format in the answer: what is documented and was offered."""
    return tuple(value for value in _FEEDBACK[kind] if FEEDBACK_NAMES[value] in offered.feedback)


def answer_direction(section: MediaSection, source: RemoteSource | None) -> str:
    """The direction of a section in the answer."""
    if source is not None:
        return _WITH_SOURCE[section.direction]
    return _WITHOUT_SOURCE.get(section.direction, "inactive")


def assign_sources(
    users: Iterable[RemoteSource], sections: Collection[MediaSection]
) -> dict[str, RemoteSource]:
    """Give every user's stream a section of its own.

    Args:
        users: Those that name a section are served first.
        sections: Those of the offer that are not rejected.

    Returns:
        Section name to what it receives.

    Raises:
        UsageError: A stream has no section, or one that cannot receive it.
    """
    free = {part.mid: part.kind for part in sections if part.direction in _WITH_SOURCE}
    taken: dict[str, RemoteSource] = {}
    ssrcs: set[int] = set()
    for source in sorted(users, key=lambda source: source.mid is None):
        if not 0 < source.ssrc < _SSRC_LIMIT or source.ssrc in ssrcs:
            raise UsageError(f"SSRC {source.ssrc} is out of range or given to two users")
        ssrcs.add(source.ssrc)
        if source.mid is None:
            mid = next((mid for mid, kind in free.items() if kind == source.kind), None)
        else:
            mid = source.mid if free.get(source.mid) == source.kind else None
        if mid is None:
            raise UsageError(_no_section(source))
        del free[mid]
        taken[mid] = source
    return taken


def _no_section(source: RemoteSource) -> str:
    where = "no section" if source.mid is None else f"not section {source.mid!r:.40}"
    return (
        f"{where} of the offer is free to receive {source.kind} of user {source.user_id}; "
        f"add a recvonly {source.kind} transceiver and make a new offer"
    )
