"""The door to any gateway library."""

from __future__ import annotations

import pytest

from discord_rtc.connection.port import SignalingPort
from discord_rtc.gateway import Gateway


@pytest.mark.parametrize("name", ["user_id", "secure", "send", "subscribe"])
def test_our_own_gateway_is_a_port(name: str) -> None:
    assert getattr(SignalingPort, name).__doc__
    assert getattr(Gateway, name).__doc__


def test_a_port_needs_nothing_more() -> None:
    port: SignalingPort = Gateway("token")  # mypy is the judge of the signatures
    assert port.secure
    public = {name for name in vars(SignalingPort) if not name.startswith("_")}
    assert public == {"user_id", "secure", "send", "subscribe"}
