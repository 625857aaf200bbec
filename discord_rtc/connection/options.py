"""How a voice connection behaves: what its user may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from discord_rtc.errors import UsageError
from discord_rtc.frames import Codec
from discord_rtc.protocol.dave.backend import DaveLibrary
from discord_rtc.protocol.voice import SUPPORTED_VERSIONS
from discord_rtc.transport.base import DEFAULT_CODECS
from discord_rtc.transport.ice_options import IceOptions
from discord_rtc.transport.plan import check_choice

if TYPE_CHECKING:
    from pathlib import Path

    from discord_rtc.transport.base import CodecOffer
    from discord_rtc.transport.plan import TransportFactory, TransportName

DaveChoice: TypeAlias = Literal["required", "preferred", "off"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of one connection, in seconds.

    Attributes:
        connect: The whole way from the voice server's socket to media, one attempt.
        signaling: The gateway's assignment of a server, opening that server's socket, and each
            step of its handshake.
    """

    connect: float = 30.0
    signaling: float = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a voice connection behaves.

    Attributes:
        transport: ``"webrtc"``, ``"udp"``, ``"auto"`` (webrtc, and udp where that does not work),
            or a transport factory (see `memory_pair`).
        dave: End-to-end encryption. ``"preferred"``: encrypted whenever the call is, and in the
            clear only where the server says that it is not. ``"required"``: nothing ever leaves in
            the clear; a call that is not encrypted, or not any more, ends the connection.
            ``"off"``: only for calls that are not encrypted.
        dave_library: ``"dave.py"`` or ``"davey"``; None for the best that is installed.
        identity: File of a persistent identity key, which is made when it is missing; None for a
            fresh key for each client, or for each connection that has none.
        receive: False for senders only: no IP discovery, nothing is received.
        gateway_version: Voice gateway version, 4 to 9.
        modes: Transport encryption modes to insist on, best first; empty for the live
            ones. They are those of ``"udp"``, which ``"auto"`` then means. Naming a
            discontinued mode is the opt-in for it.
        codecs: Codecs offered, best first; None for all that are built.
        experiments: Experiment names echoed to the server.
        timeouts: Deadlines.
        ice: STUN and TURN servers and other matters of the WebRTC transport.

    Raises:
        UsageError: A choice that does not exist, or not yet, or choices of which one excludes
            another.
    """

    transport: TransportName | TransportFactory = "auto"
    dave: DaveChoice = "preferred"
    dave_library: DaveLibrary | None = None
    identity: str | Path | None = None
    receive: bool = True
    gateway_version: int = 8
    modes: tuple[str, ...] = ()
    codecs: tuple[Codec, ...] | None = None
    experiments: tuple[str, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
    ice: IceOptions = field(default_factory=IceOptions)

    def __post_init__(self) -> None:
        if self.dave not in get_args(DaveChoice):
            raise UsageError(f"dave is required, preferred or off, not {self.dave!r}")
        if self.dave_library not in (None, *get_args(DaveLibrary)):
            raise UsageError(f"dave_library is dave.py or davey, not {self.dave_library!r}")
        if self.gateway_version not in SUPPORTED_VERSIONS:
            raise UsageError(f"gateway_version is 4 to 9, not {self.gateway_version}")
        check_choice(self.transport, relay_only=self.ice.relay_only, modes=bool(self.modes))
        codec_offers(self.codecs)


def codec_offers(codecs: tuple[Codec, ...] | None) -> tuple[CodecOffer, ...]:
    """The offers for some codecs, best first; Opus is always among them.

    Raises:
        UsageError: A codec that this version does not have.
    """
    known = {offer.codec: offer for offer in DEFAULT_CODECS}
    if codecs is None:
        return DEFAULT_CODECS
    unknown = [codec.value for codec in codecs if codec not in known]
    if unknown:
        raise UsageError(f"not built in this version: {', '.join(unknown)}")
    chosen = tuple(known[codec] for codec in codecs)
    return chosen if Codec.OPUS in codecs else (known[Codec.OPUS], *chosen)
