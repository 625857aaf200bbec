"""End-to-end encryption of voice channels: which ones, for whom, and how far it has come. Sans-I/O.

What DAVE needs of a server is the work of a `DeliveryService` per channel. Here is what lies
around it: who is let in, why a channel is not encrypted, and when a newcomer is spared media that
it could not read.

A client without DAVE that joins an encrypted call gets op 4 with version 0, and the others are
asked to stop encrypting (op 21), which they do when told to (op 22). What they send meanwhile is
noise to the newcomer, in an Opus decoder loud noise. A room forwards packets, not frames, and
cannot tell one from the other cheaply, so nothing is forwarded to the newcomer until the others
have stopped; nor to whoever else comes in meanwhile, DAVE or not, and was told version 0. That
takes two transitions at the most: an open one, and this. What the newcomer sends is forwarded all
the same: they are ready for clear frames from op 21 on.

Nobody waits for users whose websocket is lost, while their media goes on. They hear of the change
with their resume, so until then what they send is not forwarded to anybody.

Spec: DAVE protocol whitepaper 1.1.4; userdoccers, "End-to-End Encryption" and close code 4017.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from discord_rtc.errors import UsageError
from discord_rtc.protocol.messages import MlsExternalSender, TransitionReady
from discord_rtc.protocol.opcodes import VoiceCloseCode
from discord_rtc.server.delivery import VERSION, DeliveryService
from discord_rtc.server.mls import ExternalSender
from discord_rtc.server.negotiation import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection

    from discord_rtc.protocol.messages import ServerMessage
    from discord_rtc.server.dave_faults import DaveFaults
    from discord_rtc.server.events import DaveMessage

DaveMode: TypeAlias = Literal["required", "optional", "off"]
"""``"required"``: clients without DAVE are refused, as on Discord. ``"optional"``: they are let
in, and calls with one of them are not encrypted. ``"off"``: nothing is."""

DAVE_MODES: tuple[DaveMode, ...] = get_args(DaveMode)

E2eeState: TypeAlias = Literal["off", "pending", "active"]
"""``"pending"``: it is about to change, or will be encrypted as soon as there is a group, which
takes two users."""

SETTLING_TIME = 0.1
"""Seconds from op 22 until the last encrypted packets should have arrived."""

CATCHING_UP_TIME = 2.0
"""Seconds after a resume that a client has for what it missed, if it does not say op 23."""

REQUIRED = Refusal(VoiceCloseCode.DAVE_REQUIRED, "E2EE/DAVE protocol required")
"""What a client without DAVE is told; the words are Discord's."""

STAGE = "stage channels are not encrypted"
BROWSER = "a browser is in the room"


@dataclass(frozen=True, slots=True)
class DaveClient:
    """What a client can do.

    Attributes:
        max_version: By its Identify; 0 for none.
        browser: Whether it runs in a browser, which says where it was loaded from.
    """

    max_version: int = 0
    browser: bool = False


NO_DAVE = DaveClient()


@dataclass(frozen=True, slots=True)
class E2eeInfo:
    """How far a channel's encryption has come.

    Attributes:
        state: See `E2eeState`.
        reason: Why it is off; None where everything is.
        epoch: Of the group; 0 without one.
        members: Users who are in the group.
    """

    state: E2eeState = "off"
    reason: str | None = None
    epoch: int = 0
    members: frozenset[int] = frozenset()


def parse_mode(text: str) -> DaveMode:
    """Read a mode.

    Raises:
        UsageError: There is no such mode.
    """
    for mode in DAVE_MODES:
        if text == mode:
            return mode
    raise UsageError(f"dave is one of {', '.join(DAVE_MODES)}, not {text!r}")


class EncryptionPolicy:
    """What holds for all channels of a server.

    Args:
        mode: One of `DAVE_MODES`.
        stage_channels: Ids of channels that are never encrypted; may grow later.
        faults: What goes wrong on purpose.

    Attributes:
        mode: As given.
        counters: Of all delivery services; and ``not-encrypted``, messages in a channel without
            one.

    Raises:
        UsageError: There is no such mode.
    """

    def __init__(
        self,
        mode: str = "off",
        stage_channels: Collection[int] = (),
        *,
        faults: DaveFaults | None = None,
    ) -> None:
        self.mode = parse_mode(mode)
        self.counters: Counter[str] = Counter()
        self._stage_channels = stage_channels
        self._faults = faults
        # One for all calls, so that it stays the same as long as any of them lives.
        self._sender = None if self.mode == "off" else ExternalSender()

    def encrypts(self, channel_id: int) -> bool:
        """Whether calls in a channel can be encrypted."""
        return self.mode != "off" and channel_id not in self._stage_channels

    def refuse(self, channel_id: int, max_version: int) -> Refusal | None:
        """Why a client with that version may not enter; None when it may."""
        required = self.mode == "required" and self.encrypts(channel_id)
        return REQUIRED if required and max_version == 0 else None

    def version_for(self, channel_id: int, max_version: int) -> int:
        """Which version the first one in a channel is told who supports this one."""
        return min(max_version, VERSION) if self.encrypts(channel_id) else 0

    def begin(self, channel_id: int) -> CallEncryption:
        """The encryption of a channel that somebody enters; it stays what it is until it ends."""
        if self._sender is None:
            return CallEncryption(None, counters=self.counters)
        if not self.encrypts(channel_id):
            return CallEncryption(STAGE, counters=self.counters)
        service = DeliveryService(
            channel_id, self._sender, faults=self._faults, counters=self.counters
        )
        greeting = MlsExternalSender(self._sender.payload)
        return CallEncryption(None, service, greeting, counters=self.counters)


class CallEncryption:
    """The encryption of one channel while somebody is in it.

    Args:
        exemption: Why it is never encrypted, where others are.
        service: Its delivery service, if it can be.
        greeting: Op 25, for those who can encrypt.
        counters: See `EncryptionPolicy`.
    """

    def __init__(
        self,
        exemption: str | None,
        service: DeliveryService | None = None,
        greeting: MlsExternalSender | None = None,
        *,
        counters: Counter[str],
    ) -> None:
        self._exemption = exemption
        self._service = service
        self._greeting = greeting
        self._counters = counters
        self._clients: dict[int, DaveClient] = {}
        self._withheld: dict[int, float] = {}  # user to when they get media; inf: not known yet
        self._silenced: dict[int, float] = {}  # user to when they are heard again, likewise
        self._away: set[int] = set()
        self._version = 0  # when this object looked last

    def version_for(self, max_version: int) -> int:
        """Which version the Session Description names to a client that supports this one."""
        return 0 if self._service is None else self._service.version_for(max_version)

    def greeting_for(self, client: DaveClient) -> MlsExternalSender | None:
        """What has to follow the Session Description at once: clients want op 25 after op 4.

        Nothing for those who were told version 0. They get it when the others can encrypt too.
        """
        return self._greeting if self.version_for(client.max_version) else None

    def join(self, user_id: int, client: DaveClient, now: float) -> None:
        """Somebody got the Session Description, and everybody has heard of it (op 11)."""
        self._clients[user_id] = client
        if self._service is None:
            return
        described = self._service.version_for(client.max_version)
        self._service.join(user_id, client.max_version, now, described=described)
        if not described and (self._service.version or self._withheld):
            self._withheld[user_id] = inf
        self._keep_in_step(self._service, now)

    def leave(self, user_id: int, now: float) -> None:
        """Somebody's voice session has ended."""
        del self._clients[user_id]
        self._withheld.pop(user_id, None)
        self._silenced.pop(user_id, None)
        self._away.discard(user_id)
        if self._service is not None:
            self._service.leave(user_id, now)
            self._keep_in_step(self._service, now)

    def set_away(self, user_id: int, now: float, *, away: bool, described: bool = False) -> None:
        """Somebody's websocket was lost, or is there again: he is not waited for meanwhile.

        Args: as of `DeliveryService.set_away`.
        """
        if self._service is None:
            return
        if away:
            self._away.add(user_id)
        else:
            self._away.discard(user_id)
        if user_id in self._silenced:
            self._silenced[user_id] = inf if away else now + CATCHING_UP_TIME
        self._service.set_away(user_id, now, away=away, described=described)
        self._keep_in_step(self._service, now)

    def receive(self, user_id: int, message: DaveMessage, now: float) -> None:
        """Somebody sent op 23, 26, 28 or 31."""
        if self._service is None:
            self._counters["not-encrypted"] += 1
            return
        if user_id in self._silenced and isinstance(message, TransitionReady):
            self._silenced[user_id] = min(self._silenced[user_id], now + SETTLING_TIME)
        self._service.receive(user_id, message, now)
        self._keep_in_step(self._service, now)

    def messages_to_send(self) -> list[tuple[int, ServerMessage]]:
        """``(user id, message)``, oldest first."""
        return [] if self._service is None else self._service.messages_to_send()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` wants to be called."""
        due = min([*self._withheld.values(), *self._silenced.values()], default=inf)
        service_due = None if self._service is None else self._service.next_timeout()
        if service_due is not None:
            due = min(due, service_due)
        return None if due == inf else due

    def handle_timeout(self, now: float) -> None:
        """Time has come."""
        if self._service is None:
            return
        self._service.handle_timeout(now)
        self._keep_in_step(self._service, now)
        for waiting in (self._withheld, self._silenced):
            for user_id in [user_id for user_id, until in waiting.items() if until <= now]:
                del waiting[user_id]

    @property
    def withheld(self) -> frozenset[int]:
        """Users who are to be sent no media for now."""
        return frozenset(self._withheld)

    @property
    def silenced(self) -> frozenset[int]:
        """Users whose media is not to be sent to anybody for now."""
        return frozenset(self._silenced)

    @property
    def info(self) -> E2eeInfo:
        """How far it has come."""
        if self._service is None:
            return E2eeInfo(reason=self._exemption)
        info = self._service.info
        if not info.version:
            return E2eeInfo("off", self._reason())
        state: E2eeState = "active" if info.established else "pending"
        return E2eeInfo(state, None, info.epoch, frozenset(info.members.values()))

    def _reason(self) -> str:
        lacking = [user_id for user_id, client in self._clients.items() if not client.max_version]
        if any(self._clients[user_id].browser for user_id in lacking):
            return BROWSER
        if len(lacking) == 1:
            return f"user {lacking[0]} does not support it"
        *others, last = lacking
        return f"users {', '.join(map(str, others))} and {last} do not support it"

    def _keep_in_step(self, service: DeliveryService, now: float) -> None:
        """Media can flow to everybody soon after the others have stopped to encrypt it."""
        if self._version and not service.version:
            able = {user_id for user_id, client in self._clients.items() if client.max_version}
            self._silenced |= dict.fromkeys(self._away & able, inf)
        elif service.version:
            self._silenced.clear()  # who can decrypt can tell who does not belong
        self._version = service.version
        for user_id, until in self._withheld.items():
            if not service.version or service.told(user_id):
                self._withheld[user_id] = min(until, now + SETTLING_TIME)
