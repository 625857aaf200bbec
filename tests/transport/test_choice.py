"""The transport of each session: what follows a failure, what is remembered, what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from discord_rtc.clock import ManualClock
from discord_rtc.errors import (
    ConnectError,
    ConnectionLost,
    DiscoveryTimeout,
    DtlsFailed,
    IceFailed,
    MalformedSdp,
    NoRoute,
    PathLost,
)
from discord_rtc.transport import fallback
from discord_rtc.transport.choice import MEMORY_BOUND, TransportChoice, TransportMemory
from discord_rtc.transport.ice_options import IceOptions, IceServer
from discord_rtc.transport.memory import memory_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.clock import Clock
    from discord_rtc.transport.base import Transport
    from discord_rtc.transport.plan import Attempt, TransportName

TURN = IceServer("turn:relay.example", "ann", "secret")
RELAY = IceOptions(servers=(TURN,))
PLAIN = IceOptions()


class Walk:
    """A choice whose transports are only named.

    Attributes:
        made: The attempts for which a transport was made.
        note: What transports tell about a failed path.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        wanted: TransportName = "auto",
        ice: IceOptions = PLAIN,
        memory: TransportMemory | None = None,
    ) -> None:
        self.made: list[Attempt] = []
        self.failed: list[tuple[str, Exception]] = []
        self.note: Callable[[str, Exception], None]
        self.memory = memory or TransportMemory()
        self.choice = TransportChoice(
            wanted,
            modes=False,
            ice=ice,
            memory=self.memory,
            failed=lambda name, error: self.failed.append((name, error)),
        )

        def make(
            attempt: Attempt, ice: IceOptions, clock: Clock, note: Callable[[str, Exception], None]
        ) -> Transport:
            del ice, clock
            self.made.append(attempt)
            self.note = note
            return memory_pair()[0]

        monkeypatch.setattr(fallback, "make_transport", make)

    def session(self, *, renewable: bool = True) -> tuple[str, ...]:
        """Begin a session; returns the names of its paths."""
        self.choice.transport("voice.example:443", ManualClock(), renewable=renewable)
        return self.made[-1].names

    def fail(self, *seen: tuple[str, Exception]) -> Exception:
        """The paths of this session saw that; returns what to end it with."""
        for name, error in seen:
            self.note(name, error)
        return self.choice.path_failed(seen[-1][1])


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Walk:
    return Walk(monkeypatch)


def test_auto_goes_on_with_udp_when_ice_fails(walk: Walk) -> None:
    assert walk.session() == ("webrtc",)
    error = IceFailed("nothing came back")
    assert walk.fail(("webrtc", error)) is error
    assert walk.choice.undecided
    assert walk.session() == ("udp",)
    assert walk.failed == [("webrtc", error)]


def test_what_worked_is_remembered_for_the_endpoint(walk: Walk) -> None:
    walk.session()
    walk.fail(("webrtc", IceFailed("silence")))
    walk.session()
    walk.choice.worked("udp")
    assert not walk.choice.undecided
    assert walk.memory.known("voice.example:443") == "udp"
    assert walk.session() == ("udp", "webrtc")


def test_a_silent_probe_spares_the_second_session(walk: Walk) -> None:
    walk.session()
    silence = IceFailed("no answer to checks")
    final = walk.fail(("udp", DiscoveryTimeout("no answer to discovery")), ("webrtc", silence))
    assert isinstance(final, NoRoute)
    assert not walk.choice.undecided
    assert final.__cause__ is silence
    assert [name for name, _ in final.attempts] == ["udp", "webrtc"]
    assert "webrtc: no answer to checks" in str(final)
    assert "udp: no answer to discovery" in str(final)
    assert "Allow outgoing UDP" in str(final)
    assert "TURN" in str(final)


def test_with_a_relay_the_advice_is_about_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Walk(monkeypatch, "webrtc", RELAY)
    walk.session()
    final = walk.fail(("webrtc", IceFailed("the relay said no")))
    assert isinstance(final, NoRoute)
    assert "check its address, credentials" in str(final)
    assert "secret" not in str(final)


def test_a_handshake_that_failed_is_no_blocked_udp(walk: Walk) -> None:
    walk.session()
    walk.fail(("webrtc", DtlsFailed("another certificate")))
    walk.session()
    final = walk.fail(("udp", ConnectError("no such address")))
    assert isinstance(final, NoRoute)
    assert "Allow outgoing" not in str(final)


def test_a_malformed_answer_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Walk(monkeypatch, "webrtc")
    walk.session()
    error = MalformedSdp("no a=ice-pwd")
    assert walk.fail(("webrtc", error)) is error
    assert not walk.choice.undecided


def test_a_refusal_is_told_of_the_transport_that_was_selected(walk: Walk) -> None:
    walk.memory.worked("voice.example:443", "udp")
    assert walk.session() == ("udp", "webrtc")
    refusal = ConnectionLost(4012, "unknown protocol")
    walk.choice.refused("udp", refusal)
    assert walk.failed == [("udp", refusal)]


def test_what_an_attempt_saw_is_told_once_when_it_is_made_again(walk: Walk) -> None:
    walk.memory.worked("voice.example:443", "udp")
    silence = DiscoveryTimeout("no answer to discovery")
    for _ in range(2):  # the first one ends for another reason than its path
        walk.session()
        walk.note("udp", silence)
    final = walk.fail(("webrtc", IceFailed("no answer to checks")))
    assert isinstance(final, NoRoute)
    assert [name for name, _ in final.attempts] == ["udp", "webrtc"]
    assert str(final).count("no answer to discovery") == 1


def test_a_lost_path_is_told_and_everything_is_tried_anew(walk: Walk) -> None:
    walk.session()
    walk.choice.worked("webrtc")
    lost = PathLost("no consent for 30 s")
    walk.choice.path_lost(lost)
    assert walk.failed == [("webrtc", lost)]
    assert walk.memory.known("voice.example:443") is None
    assert walk.session() == ("webrtc",)


def test_a_factory_of_the_user_is_taken_as_it_is() -> None:
    made = memory_pair()[0]
    told: list[str] = []
    memory = TransportMemory()
    choice = TransportChoice(
        lambda _: made,
        modes=False,
        ice=PLAIN,
        memory=memory,
        failed=lambda name, _: told.append(name),
    )
    assert choice.transport("voice.example", ManualClock(), renewable=True) is made
    error = ConnectError("broken")
    assert choice.path_failed(error) is error
    choice.worked("udp")
    assert memory.known("voice.example") is None
    assert told == []


def test_endpoints_are_remembered_up_to_a_bound() -> None:
    memory = TransportMemory()
    for number in range(MEMORY_BOUND):
        memory.worked(f"voice-{number}", "udp")
    memory.worked("voice-0", "webrtc")
    memory.worked("one-more", "udp")
    assert memory.known("voice-0") == "webrtc"
    assert memory.known("voice-1") is None
    memory.forget("voice-1")
