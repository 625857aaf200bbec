"""Plans of transports, and wishes that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.transport.memory import memory_pair
from discord_rtc.transport.plan import attempts, check_choice

if TYPE_CHECKING:
    from discord_rtc.transport.plan import TransportName


@pytest.mark.parametrize(
    ("wanted", "facts", "names", "probe"),
    [
        ("udp", {"known": "webrtc"}, [("udp",)], False),
        ("webrtc", {"known": "udp", "renewable": False}, [("webrtc",)], False),
        ("webrtc", {"modes": True}, [("webrtc",)], False),
        ("auto", {}, [("webrtc",), ("udp",)], True),
        ("auto", {"known": "webrtc"}, [("webrtc",), ("udp",)], True),
        ("auto", {"known": "udp"}, [("udp", "webrtc")], False),
        ("auto", {"renewable": False}, [("udp", "webrtc")], False),
        ("auto", {"known": "udp", "relay_only": True}, [("webrtc",)], False),
        ("auto", {"known": "webrtc", "modes": True}, [("udp",)], False),
    ],
)
def test_a_plan_follows_from_the_wish_and_from_what_is_known(
    wanted: TransportName, facts: dict[str, Any], names: list[tuple[str, ...]], probe: bool
) -> None:
    plan = attempts(wanted, **facts)
    assert [attempt.names for attempt in plan] == names
    assert plan[0].probe is probe
    assert all(attempt.reason for attempt in plan)


@pytest.mark.parametrize(
    ("choice", "wishes", "complaint"),
    [
        ("pigeon", {}, "not 'pigeon'"),
        ("udp", {"relay_only": True}, "would show our address"),
        ("auto", {"relay_only": True, "modes": True}, "would show our address"),
        ("webrtc", {"modes": True}, "only plain UDP has modes"),
    ],
)
def test_wishes_that_no_transport_fulfils_are_refused(
    choice: Any, wishes: dict[str, bool], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        check_choice(choice, **wishes)


def test_a_factory_of_the_user_may_do_as_it_likes() -> None:
    check_choice(lambda _: memory_pair()[0], relay_only=True, modes=True)
