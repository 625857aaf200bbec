"""The m-sections of a complete session description, read strictly. Sans-I/O.

Spec: RFC 8866 and 8829 (offers of WebRTC stacks), RFC 8843 (BUNDLE).

Holds what an answer has to repeat: which section is what, its formats, header extensions and
direction. Credentials of the offering side are no part of it; see `discord_rtc.protocol.sdp`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedSdp
from discord_rtc.protocol.sdp_lines import (
    read_extmap,
    read_feedback,
    read_fmtp,
    read_rtpmap,
    sdp_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from discord_rtc.protocol.sdp_lines import Extmap, RtpMap

MAX_SECTIONS = 512
"""Most sections that are read; two for each user of a large room."""

_DIRECTIONS = frozenset({"a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"})
_DEFAULT_DIRECTION = "sendrecv"  # RFC 8866 section 6.7
_MAX_PORT = 0xFFFF

_MEDIA = re.compile(r"m=([a-z]{1,20}) ([0-9]{1,5}) ([A-Z/]{1,40})((?: [!-~]{1,40}){1,128})")
_MID = re.compile(r"[!#-'*+\-.0-9A-Z^-~]{1,64}")  # "token", RFC 8866 section 9; RFC 5888


@dataclass(frozen=True, slots=True)
class Format:
    """One payload type of a section.

    Attributes:
        rtpmap: Number, name and clock rate.
        parameters: Values of ``a=fmtp`` by name; empty for those without a value.
        feedback: RTCP feedback, by the names of `FEEDBACK_NAMES`.
    """

    rtpmap: RtpMap
    parameters: Mapping[str, str]
    feedback: frozenset[str]

    @property
    def name(self) -> str:
        """Encoding name in upper case, for comparison."""
        return self.rtpmap.name.upper()

    @property
    def payload_type(self) -> int:
        """0 to 127."""
        return self.rtpmap.payload_type


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One m-section.

    Attributes:
        kind: ``audio``, ``video``, ``application``, ...
        protocol: What runs over it, ``UDP/TLS/RTP/SAVPF`` for media.
        mid: Its name.
        rejected: Nothing is to flow here any more (port 0, and not merely bundled elsewhere).
        direction: ``sendrecv``, ``sendonly``, ``recvonly`` or ``inactive``.
        numbers: The formats as the m-line lists them, in order of preference.
        formats: Those of them that have an rtpmap, in the same order.
        extmaps: Its header extensions.
    """

    kind: str
    protocol: str
    mid: str
    rejected: bool
    direction: str
    numbers: tuple[str, ...]
    formats: tuple[Format, ...]
    extmaps: tuple[Extmap, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """A complete description.

    Attributes:
        sections: In their order, at least one.
        bundle: Names of those that share one transport.
    """

    sections: tuple[MediaSection, ...]
    bundle: tuple[str, ...]


def parse_description(text: str, *, limit: int, what: str) -> Description:
    """Read a complete description.

    Args:
        text: Lines that end in CRLF or LF.
        limit: Most characters.
        what: What error texts call it.

    Raises:
        MalformedSdp: No sections or too many, an m-line that cannot be read, or a section without
            a name of its own.
    """
    session: list[str] = []
    groups: list[list[str]] = []
    for line in sdp_lines(text, limit, what):
        if line.startswith("m="):
            groups.append([line])
        else:
            (groups[-1] if groups else session).append(line)
    if not 0 < len(groups) <= MAX_SECTIONS:
        raise MalformedSdp(f"{what} has {len(groups)} m-sections, 1 to {MAX_SECTIONS} are read")
    direction = _direction(session, _DEFAULT_DIRECTION)
    sections = tuple(_read_section(group, direction, what) for group in groups)
    if len({section.mid for section in sections}) < len(sections):
        raise MalformedSdp(f"{what} has two m-sections with the same a=mid")
    return Description(sections, _read_bundle(session))


def _read_section(lines: list[str], direction: str, what: str) -> MediaSection:
    match = _MEDIA.fullmatch(lines[0])
    if match is None or int(match[2]) > _MAX_PORT:
        raise MalformedSdp(f"{what} has an m-line that cannot be read: {lines[0]!r:.60}")
    numbers = tuple(dict.fromkeys(match[4].split()))
    mids = [line[6:] for line in lines if line.startswith("a=mid:")]
    if len(mids) != 1 or not _MID.fullmatch(mids[0]):
        raise MalformedSdp(f"{what} has an m-section without one name (a=mid)")
    return MediaSection(
        kind=match[1],
        protocol=match[3],
        mid=mids[0],
        # A section that is only to be used within its bundle has port 0, too (RFC 8843 6).
        rejected=int(match[2]) == 0 and "a=bundle-only" not in lines,
        direction=_direction(lines, direction),
        numbers=numbers,
        formats=tuple(_read_formats(lines, numbers)),
        extmaps=tuple(filter(None, map(read_extmap, lines))),
    )


def _read_formats(lines: list[str], numbers: tuple[str, ...]) -> Iterator[Format]:
    maps: dict[str, RtpMap] = {}
    for rtpmap in filter(None, map(read_rtpmap, lines)):
        maps.setdefault(str(rtpmap.payload_type), rtpmap)
    parameters = dict(filter(None, map(read_fmtp, lines)))
    feedback = list(filter(None, map(read_feedback, lines)))
    for number in numbers:
        if number in maps:
            rtpmap = maps[number]
            payload_type = rtpmap.payload_type
            yield Format(
                rtpmap,
                MappingProxyType(_read_parameters(parameters.get(payload_type, ""))),
                frozenset(name for target, name in feedback if target in {None, payload_type}),
            )


def _read_parameters(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}


def _direction(lines: list[str], default: str) -> str:
    return next((line[2:] for line in lines if line in _DIRECTIONS), default)


def _read_bundle(session: list[str]) -> tuple[str, ...]:
    # Stacks write one group; another one would be another transport.
    group = next((line for line in session if line.startswith("a=group:BUNDLE ")), "")
    return tuple(group.split()[1:])
