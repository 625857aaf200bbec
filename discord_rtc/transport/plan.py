"""Which transports to try, in which order: the plan of a connection, as values. No I/O.

    auto                webrtc, with a probe beside it; then udp, if the probe was answered
    auto, known: udp    udp; without an answer to its discovery webrtc, in the same session
    auto, no gateway    as before: nobody would give out a second session
    auto, with modes    udp, as no other transport has those of the user's choice
    webrtc, udp         just that

A transport can be changed freely until it is selected (op 1), as all of them use the address of
Ready; after that only in a fresh session. So a plan is a list of attempts, each good for one
session, which may itself consist of several paths. The probe is IP discovery: its answer tells
early that plain UDP works, so that an unanswered ICE is given up soon, and its silence that a
second session would be in vain.

Spec: userdoccers, "Voice Connections" ("No Route"); protocol order: select once per session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from discord_rtc.errors import UsageError

if TYPE_CHECKING:
    from discord_rtc.clock import Clock
    from discord_rtc.transport.base import Transport

TransportName: TypeAlias = Literal["auto", "udp", "webrtc"]

TransportFactory: TypeAlias = Callable[["Clock"], "Transport"]
"""Makes a fresh transport for one voice session."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The paths that one voice session tries, and why in this order.

    Attributes:
        names: Transports in order.
        probe: Whether IP discovery runs beside the first one.
        reason: For the log.
    """

    names: tuple[str, ...]
    probe: bool = False
    reason: str = ""


def attempts(
    choice: TransportName,
    *,
    known: str | None = None,
    renewable: bool = True,
    relay_only: bool = False,
    modes: bool = False,
) -> tuple[Attempt, ...]:
    """The plan for one connection.

    Args:
        choice: What the user wants.
        known: What worked with this endpoint before.
        renewable: Whether a second session can be had.
        relay_only: Only a TURN server may see our address, so plain UDP is no option.
        modes: The user insists on transport encryption modes, which only plain UDP has.
    """
    if choice != "auto":
        return (Attempt((choice,), reason="as asked"),)
    if modes:
        return (Attempt(("udp",), reason="its encryption modes are insisted on"),)
    if relay_only:
        return (Attempt(("webrtc",), reason="only a relay is allowed"),)
    if known == "udp":
        return (Attempt(("udp", "webrtc"), reason="udp worked before"),)
    if not renewable:
        return (Attempt(("udp", "webrtc"), reason="there is no second session to change in"),)
    return (
        Attempt(("webrtc",), probe=True, reason="the first choice"),
        Attempt(("udp",), reason="webrtc did not work"),
    )


def check_choice(
    choice: TransportName | TransportFactory, *, relay_only: bool = False, modes: bool = False
) -> None:
    """Refuse what is no choice.

    Args:
        choice: What the user wants.
        relay_only: Only a TURN server may see our address.
        modes: The user insists on transport encryption modes.

    Raises:
        UsageError: An unknown name, or wishes that no transport fulfils together.
    """
    if callable(choice):
        return
    if choice not in {"auto", "udp", "webrtc"}:
        raise UsageError(f'transport must be "auto", "udp" or "webrtc", not {choice!r}')
    if relay_only and (choice == "udp" or modes):
        raise UsageError(
            "plain UDP would show our address to the voice server: relay_only goes with "
            'transport="webrtc" or "auto", and without modes'
        )
    if modes and choice == "webrtc":
        raise UsageError('only plain UDP has modes; leave them out with transport="webrtc"')
