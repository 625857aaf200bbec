"""Single lines of session descriptions, read strictly. Sans-I/O.

Spec: RFC 8866 (lines), 8839 (ICE), 8122 (fingerprint), 8285 (extmap), 4585 (rtcp-fb), 4588 (apt).

A reader takes what stands on one line. Those of values that a call depends on raise; those of
lines that may be left out give None for what they cannot use.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from discord_rtc.errors import MalformedSdp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_DIGEST_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}  # RFC 8122 section 5, the safe ones
_MAX_PORT = 0xFFFF
_MAX_PAYLOAD_TYPE = 127  # seven bits, RFC 3550 section 5.1
_MAX_EXTENSION_ID = 255  # RFC 8285 section 4.3
_MAX_PRIORITY = 0xFFFF_FFFF  # Discord's is above the 2**31 - 1 of RFC 8839

_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")  # RFC 8839 section 5.4
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2})*")
_PORT = re.compile(r"[a-z]+ ([0-9]{1,5})(?: [!-~]+)+")
_CANDIDATE = re.compile(
    r"candidate:[A-Za-z0-9+/]{1,32} ([0-9]{1,3}) ([A-Za-z]+) ([0-9]{1,10}) ([!-~]+) ([0-9]{1,5})"
    r" typ (?:host|srflx|prflx|relay)(?: [!-~]+ [!-~]+)*"
)
_RTPMAP = re.compile(r"([0-9]{1,3}) ([!-.0-~]+)/([0-9]{1,6})(?:/([0-9]{1,2}))?")
_EXTMAP = re.compile(
    r"([0-9]{1,5})(?:/(sendrecv|sendonly|recvonly|inactive))? ([!-~]+)(?: [ -~]*)?"
)
_FEEDBACK = re.compile(r"(\*|[0-9]{1,3}) ([ -~]+)")
_FMTP = re.compile(r"([0-9]{1,3}) ([ -~]+)")
_APT = re.compile(r"(?:^|;) *apt=([0-9]{1,3}) *(?:;|$)")

# Encrypted extensions (RFC 6904) all have this URI; nobody here encrypts them.
_ENCRYPTED_EXTENSION = "urn:ietf:params:rtp-hdrext:encrypt"

FEEDBACK_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "nack": "nack",
        "nack pli": "pli",
        "ccm fir": "fir",
        "goog-remb": "goog-remb",
        "transport-cc": "transport-cc",
    }
)
"""Values of ``a=rtcp-fb`` by the names that this library has for them."""


@dataclass(frozen=True, slots=True)
class RtpMap:
    """One payload type of a description.

    Attributes:
        payload_type: 0 to 127.
        name: Encoding name as written, e.g. ``opus``, ``VP8``, ``rtx``.
        clock_rate: Ticks per second.
        apt: For ``rtx``, the payload type whose packets it repeats.
        channels: Audio channels when written, e.g. 2.
    """

    payload_type: int
    name: str
    clock_rate: int
    apt: int | None = None
    channels: int | None = None


class Extmap(NamedTuple):
    """One header extension of a description.

    Attributes:
        uri: What it is.
        id: Its number on the wire, 1 to 255.
        direction: ``sendonly``, ``recvonly``, ``inactive`` or ``sendrecv`` when written.
    """

    uri: str
    id: int
    direction: str | None


class Candidate(NamedTuple):
    """One ICE candidate.

    Attributes:
        component: 1 for RTP, 2 for RTCP without multiplexing.
        transport: ``UDP`` or ``TCP``.
        priority: The higher, the better.
        address: IP address and port.
    """

    component: int
    transport: str
    priority: int
    address: tuple[str, int]

    @property
    def is_usable(self) -> bool:
        """Whether RTP over UDP can go there."""
        return self.component == 1 and self.transport == "UDP"


def sdp_lines(text: str, limit: int, what: str) -> list[str]:
    """Cut a description into lines; empty ones are left out.

    Only CR and LF end a line: ``str.splitlines`` would also cut at characters that can be part of
    a value.

    Raises:
        MalformedSdp: More than ``limit`` characters.
    """
    if len(text) > limit:
        raise MalformedSdp(f"{what} has {len(text)} characters, at most {limit} are read")
    return [line for line in re.split(r"[\r\n]+", text) if line]


def read_fingerprint(value: str) -> str:
    """Read the value of ``a=fingerprint``: hash name in lower case, digest in upper case.

    Raises:
        MalformedSdp: A hash other than SHA-256, SHA-384 and SHA-512, or another number of digits.
    """
    name, _, digest = value.partition(" ")
    size = _DIGEST_BYTES.get(name.lower())
    if size is None:
        raise MalformedSdp(f"a=fingerprint uses {name!r:.20} instead of SHA-256, -384 or -512")
    if not _DIGEST.fullmatch(digest) or len(digest) != 3 * size - 1:
        raise MalformedSdp(f"a=fingerprint is not {size} pairs of hexadecimal digits")
    return f"{name.lower()} {digest.upper()}"


def is_known_hash(value: str) -> bool:
    """Whether a value of ``a=fingerprint`` uses a hash that we know."""
    return value.partition(" ")[0].lower() in _DIGEST_BYTES


def read_rtpmap(line: str) -> RtpMap | None:
    """Read a line ``a=rtpmap:``; None when it is another one or cannot be read."""
    match = _RTPMAP.fullmatch(line[9:]) if line.startswith("a=rtpmap:") else None
    if match is None or int(match[1]) > _MAX_PAYLOAD_TYPE:
        return None
    channels = None if match[4] is None else int(match[4])
    return RtpMap(int(match[1]), match[2], int(match[3]), channels=channels)


def read_extmap(line: str) -> Extmap | None:
    """Read a line ``a=extmap:``; None when it is another one, or nothing that can be used."""
    match = _EXTMAP.fullmatch(line[9:]) if line.startswith("a=extmap:") else None
    if match is None or match[3] == _ENCRYPTED_EXTENSION:
        return None
    ident = int(match[1])
    # Larger numbers stand for extensions that are still to be given an id (RFC 8285 section 7).
    return Extmap(match[3], ident, match[2]) if 0 < ident <= _MAX_EXTENSION_ID else None


def read_feedback(line: str) -> tuple[int | None, str] | None:
    """Read a line ``a=rtcp-fb:``; None when it is another one or not of `FEEDBACK_NAMES`.

    Returns:
        Payload type (None for all of the section), and our name of the feedback.
    """
    match = _FEEDBACK.fullmatch(line[10:]) if line.startswith("a=rtcp-fb:") else None
    name = None if match is None else FEEDBACK_NAMES.get(" ".join(match[2].split()))
    if match is None or name is None:
        return None
    return None if match[1] == "*" else int(match[1]), name


def read_fmtp(line: str) -> tuple[int, str] | None:
    """Read a line ``a=fmtp:`` into payload type and parameters; None when it is another one."""
    match = _FMTP.fullmatch(line[7:]) if line.startswith("a=fmtp:") else None
    return None if match is None else (int(match[1]), match[2])


def read_apt(line: str) -> tuple[int, int] | None:
    """Read what an ``rtx`` payload type repeats from its ``a=fmtp:``; None without ``apt``."""
    found = read_fmtp(line)
    match = None if found is None else _APT.search(found[1])
    return None if found is None or match is None else (found[0], int(match[1]))


def merge_extmaps(extmaps: Iterable[Extmap]) -> Mapping[str, int]:
    """Put the extensions of a whole description together; bundled sections share their ids.

    Of several ids of one URI the first counts.

    Raises:
        MalformedSdp: An id stands for two URIs.
    """
    uris: dict[int, str] = {}
    ids: dict[str, int] = {}
    for extmap in extmaps:
        if uris.setdefault(extmap.id, extmap.uri) != extmap.uri:
            raise MalformedSdp(f"a=extmap gives id {extmap.id} to two extensions")
        ids.setdefault(extmap.uri, extmap.id)
    return MappingProxyType(ids)


def read_ufrag(value: str) -> str:
    """Read the value of ``a=ice-ufrag``.

    Raises:
        MalformedSdp: Wrong length or characters.
    """
    if not _UFRAG.fullmatch(value):
        raise MalformedSdp("a=ice-ufrag is not 4 to 256 letters, digits, + or /")
    return value


def read_password(value: str) -> str:
    """Read the value of ``a=ice-pwd``; error texts do not show it.

    Raises:
        MalformedSdp: Wrong length or characters.
    """
    if not _PASSWORD.fullmatch(value):
        raise MalformedSdp("a=ice-pwd is not 22 to 256 letters, digits, + or /")
    return value


def read_connection(value: str) -> str:
    """Read the value of ``c=`` into an IP address.

    Raises:
        MalformedSdp: Not three parts, or no address of a host.
    """
    parts = value.split(" ")
    if len(parts) != 3 or parts[0] != "IN" or parts[1] not in {"IP4", "IP6"}:
        raise MalformedSdp("c= is not IN, IP4 or IP6, and an address")
    return _read_address(parts[2], "c=", version=int(parts[1][2]))


def _read_address(value: str, where: str, *, version: int | None = None) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise MalformedSdp(f"{where} names {value!r:.60}, not an IP address") from None
    # Zone ids ("%eth0") mean something on one machine only.
    if "%" in value or version not in {None, address.version}:
        raise MalformedSdp(f"{where} names {value!r:.60}, not an address of its IP version")
    if address.is_unspecified or address.is_multicast:
        raise MalformedSdp(f"{where} names {value!r:.60}, not an address of a host")
    return str(address)


def _read_port(value: str, where: str) -> int:
    if not 0 < int(value) <= _MAX_PORT:
        raise MalformedSdp(f"{where} names port {value}")
    return int(value)


def read_media_port(value: str) -> int:
    """Read the port in the value of ``m=``.

    Raises:
        MalformedSdp: No such line, or the port is out of range.
    """
    match = _PORT.fullmatch(value)
    if match is None:
        raise MalformedSdp("m= is not a kind, a port and a protocol")
    return _read_port(match[1], "m=")


def read_candidate(text: str) -> Candidate:
    """Read a candidate, ``candidate:`` included.

    Raises:
        MalformedSdp: Not a candidate, or no IP address (mDNS names are of no use here).
    """
    match = _CANDIDATE.fullmatch(text)
    if match is None or int(match[3]) > _MAX_PRIORITY:
        raise MalformedSdp(f"a=candidate cannot be read: {text!r:.80}")
    return Candidate(
        component=int(match[1]),
        transport=match[2].upper(),
        priority=int(match[3]),
        address=(_read_address(match[4], "a=candidate"), _read_port(match[5], "a=candidate")),
    )
