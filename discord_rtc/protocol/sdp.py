"""The session description fragments of the voice gateway, as text. Sans-I/O.

Spec: userdoccers, "Voice Connections", WebRTC; RFC 8866 (lines), 8839 (ICE), 8122 (fingerprint).

A client sends the lines of its offer that the server needs (`reduce_offer`), the server answers
with eight lines that are no complete description either (`ServerFragment`). The fragment of the
server is read strictly: a call depends on each of its lines. What clients send differs from stack
to stack and is read leniently, down to whole offers; only what nothing works without is required.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from discord_rtc.errors import MalformedSdp
from discord_rtc.protocol.sdp_lines import (
    RtpMap,
    is_known_hash,
    merge_extmaps,
    read_apt,
    read_candidate,
    read_connection,
    read_extmap,
    read_feedback,
    read_fingerprint,
    read_media_port,
    read_password,
    read_rtpmap,
    read_ufrag,
    sdp_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

MAX_SERVER_FRAGMENT = 16 * 1024
"""Most characters of a server's fragment; real ones have about 500."""

MAX_CLIENT_FRAGMENT = 128 * 1024
"""Most characters of what a client sends; a browser's whole first offer has about 10 000."""

MAX_OFFER = 1024 * 1024
"""Most characters of a whole description; browsers write about 5000 for each video section."""

_HOST_PRIORITY = 4_261_412_862  # the same number in all captures of Discord
_VIDEO_CLOCK = 90_000
_NO_MEDIA = frozenset({"rtx", "red", "ulpfec", "flexfec-03"})  # 90 kHz formats that repair others

# The documented pattern, without credentials: only one pair of these is kept.
_REDUCED = re.compile(r"a=(?:extmap-allow-mixed|ice-(?!ufrag:|pwd:)|fingerprint|extmap:)")

_OFFER = "the offer"
_SERVER = "the server's SDP fragment"
_CLIENT = "the client's SDP fragment"


@dataclass(frozen=True, slots=True)
class ServerFragment:
    """What a voice server tells about its media path.

    Attributes:
        ip: Address of the ``c=`` line, the same as in Ready.
        port: Port of the ``m=`` line, the same as in Ready.
        ufrag: ICE user name fragment.
        password: ICE password.
        fingerprint: Hash and digest of its certificate, ``sha-256 AA:BB:...``.
        candidates: ICE candidates, ``candidate:...`` each, in the order given.
    """

    ip: str
    port: int
    ufrag: str
    password: str = field(repr=False)
    fingerprint: str
    candidates: tuple[str, ...]

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the server takes UDP, by the candidates: the highest priority first.

        Raises:
            MalformedSdp: A candidate cannot be read (not for parsed fragments).
        """
        usable = [found for found in map(read_candidate, self.candidates) if found.is_usable]
        usable.sort(key=lambda found: found.priority, reverse=True)
        return tuple(found.address for found in usable)

    def to_text(self) -> str:
        """Write the lines in the order of real servers, each ending in LF."""
        version = ipaddress.ip_address(self.ip).version
        lines = [
            f"m=audio {self.port} ICE/SDP",
            f"a=fingerprint:{self.fingerprint}",
            f"c=IN IP{version} {self.ip}",
            f"a=rtcp:{self.port}",
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            f"a=fingerprint:{self.fingerprint}",
            *(f"a={candidate}" for candidate in self.candidates),
        ]
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class ClientFragment:
    """What a client tells about its end of the media path.

    Attributes:
        ufrag: ICE user name fragment.
        password: ICE password.
        fingerprints: Its certificate's digests with the hashes that we know, at least one.
        extension_ids: Header extension URI to id.
        codecs: Payload types in the order given.
        setup: DTLS role, ``actpass``, ``active`` or ``passive``; only a whole offer has one.
        feedback: RTCP feedback offered, by the names of `FEEDBACK_NAMES`; only a whole offer
            says any.
    """

    ufrag: str
    password: str = field(repr=False)
    fingerprints: tuple[str, ...]
    extension_ids: Mapping[str, int]
    codecs: tuple[RtpMap, ...]
    setup: str | None = None
    feedback: frozenset[str] = frozenset()


def host_candidate(ip: str, port: int) -> str:
    """The one candidate of a server with a public address, as Discord writes it."""
    return f"candidate:1 1 UDP {_HOST_PRIORITY} {ip} {port} typ host"


def parse_server_fragment(text: str) -> ServerFragment:
    """Read a server's fragment strictly.

    Lines may come in any order and more than once, as the fingerprint does, but not with
    different values. Lines that mean nothing here are ignored; ``a=rtcp`` is one of them, since
    RTCP shares the port of RTP.

    Args:
        text: Lines that end in CRLF or LF.

    Raises:
        MalformedSdp: A line is missing, cannot be read, or contradicts another one. The text
            names the line.
    """
    lines = sdp_lines(text, MAX_SERVER_FRAGMENT, _SERVER)
    return ServerFragment(
        ip=_single(lines, "c=", read_connection),
        port=_single(lines, "m=", read_media_port),
        ufrag=_single(lines, "a=ice-ufrag:", read_ufrag),
        password=_single(lines, "a=ice-pwd:", read_password),
        fingerprint=_single(lines, "a=fingerprint:", read_fingerprint),
        candidates=_read_candidates(lines),
    )


def parse_client_fragment(text: str) -> ClientFragment:
    """Read what a client sent: the reduced lines, or its entire offer.

    Where sections of an offer have different credentials, the first ones count: that is where
    bundled media flows. ``rtx`` without ``apt`` belongs to the video format listed before it.

    Args:
        text: Lines that end in CRLF or LF.

    Raises:
        MalformedSdp: Credentials or fingerprint are missing or cannot be read, or a payload type
            or extension id has two meanings. Other lines that cannot be read are ignored.
    """
    return _parse_client(sdp_lines(text, MAX_CLIENT_FRAGMENT, _CLIENT), _CLIENT)


def reduce_offer(offer: str) -> str:
    """Reduce an offer to what Select Protocol carries in ``data`` and ``sdp``.

    These are the lines of ICE, fingerprint and header extensions, and the payload types of Opus,
    VP8 and the repair of VP8; each once, in the order of the offer. Of sections that do not share
    their ICE credentials, only the first ones are kept: the answer bundles all media there.

    Args:
        offer: A complete offer of any WebRTC stack, after gathering.

    Returns:
        The lines, joined by LF, without one at the end.

    Raises:
        MalformedSdp: The offer lacks credentials or a fingerprint that a server could use.

    Spec:
        userdoccers, "Voice Connections", Selecting the Protocol (WebRTC).
    """
    lines = sdp_lines(offer, MAX_OFFER, _OFFER)
    fragment = _parse_client(lines, _OFFER)
    wanted = [codec for codec in fragment.codecs if codec.name.lower() in {"opus", "vp8"}]
    repeated = {codec.payload_type for codec in wanted if codec.name.lower() == "vp8"}
    wanted += [codec for codec in fragment.codecs if codec.apt in repeated]
    rtpmaps = tuple(f"a=rtpmap:{codec.payload_type} " for codec in wanted)
    credentials = {f"a=ice-ufrag:{fragment.ufrag}", f"a=ice-pwd:{fragment.password}"}
    kept = (
        line
        for line in lines
        if line in credentials or line.startswith(rtpmaps) or _REDUCED.match(line)
    )
    return "\n".join(dict.fromkeys(kept))


def _parse_client(lines: list[str], what: str) -> ClientFragment:
    return ClientFragment(
        ufrag=_first(lines, "a=ice-ufrag:", read_ufrag, what),
        password=_first(lines, "a=ice-pwd:", read_password, what),
        fingerprints=_read_fingerprints(lines, what),
        extension_ids=merge_extmaps(filter(None, map(read_extmap, lines))),
        codecs=_read_codecs(lines),
        setup=next(
            (
                line[8:]
                for line in lines
                if line in {"a=setup:actpass", "a=setup:active", "a=setup:passive"}
            ),
            None,
        ),
        feedback=frozenset(name for _, name in filter(None, map(read_feedback, lines))),
    )


def _read(value: str, read: Callable[[str], T], what: str) -> T:
    try:
        return read(value)
    except MalformedSdp as error:
        raise MalformedSdp(f"{what}: {error}") from None


def _values(lines: list[str], prefix: str, what: str) -> list[str]:
    values = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
    if not values:
        raise MalformedSdp(f"{what} has no {_name(prefix)}")
    return values


def _name(prefix: str) -> str:
    return prefix.removesuffix(":")


def _first(lines: list[str], prefix: str, read: Callable[[str], T], what: str) -> T:
    return _read(_values(lines, prefix, what)[0], read, what)


def _single(lines: list[str], prefix: str, read: Callable[[str], T]) -> T:
    first, *others = {_read(value, read, _SERVER) for value in _values(lines, prefix, _SERVER)}
    if others:
        raise MalformedSdp(f"{_SERVER} has different values of {_name(prefix)}")
    return first


def _read_candidates(lines: list[str]) -> tuple[str, ...]:
    values = dict.fromkeys(_values(lines, "a=candidate:", _SERVER))
    texts = tuple(f"candidate:{value}" for value in values)
    candidates = [_read(text, read_candidate, _SERVER) for text in texts]
    if not any(candidate.is_usable for candidate in candidates):
        raise MalformedSdp(f"{_SERVER} has no a=candidate for RTP over UDP")
    return texts


def _read_fingerprints(lines: list[str], what: str) -> tuple[str, ...]:
    # Hashes that nobody should use any more may stand beside a good one.
    values = _values(lines, "a=fingerprint:", what)
    known = [value for value in values if is_known_hash(value)]
    if not known:
        raise MalformedSdp(f"{what} has no a=fingerprint of SHA-256, -384 or -512")
    return tuple(dict.fromkeys(_read(value, read_fingerprint, what) for value in known))


def _read_codecs(lines: list[str]) -> tuple[RtpMap, ...]:
    maps: dict[int, RtpMap] = {}
    for found in filter(None, map(read_rtpmap, lines)):
        known = maps.setdefault(found.payload_type, found)
        if (known.name.lower(), known.clock_rate) != (found.name.lower(), found.clock_rate):
            raise MalformedSdp(f"a=rtpmap gives {found.payload_type} to two formats")
    targets: dict[int, int] = {}
    for payload_type, apt in filter(None, map(read_apt, lines)):
        targets.setdefault(payload_type, apt)
    codecs: list[RtpMap] = []
    unpaired: int | None = None
    for codec in maps.values():
        if codec.name.lower() == "rtx":
            target = targets.get(codec.payload_type, unpaired)
            codecs.append(replace(codec, apt=target))
            unpaired = None
            continue
        codecs.append(codec)
        if codec.clock_rate == _VIDEO_CLOCK and codec.name.lower() not in _NO_MEDIA:
            unpaired = codec.payload_type
    return tuple(codecs)
