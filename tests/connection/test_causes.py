"""Which error ended a session."""

from __future__ import annotations

from discord_rtc.connection.causes import first_cause
from discord_rtc.errors import AuthenticationFailed, ConnectionLost, DaveUnavailable


def test_the_first_failure_counts_however_deep_it_is() -> None:
    first, later = ValueError("first"), ValueError("later")
    inner = ExceptionGroup("inner", [first, later])
    assert first_cause(ExceptionGroup("outer", [inner, later])) is first


def test_a_lost_connection_stays_what_it_is() -> None:
    lost = ConnectionLost(4006, "over")
    assert first_cause(ExceptionGroup("group", [lost])) is lost


def test_close_codes_with_a_more_precise_meaning_get_their_error() -> None:
    refused = first_cause(ExceptionGroup("group", [ConnectionLost(4004, "over")]))
    assert isinstance(refused, AuthenticationFailed)
    encrypted = first_cause(ExceptionGroup("group", [ConnectionLost(4017, "over")]))
    assert isinstance(encrypted, DaveUnavailable)
    assert "end-to-end encryption" in str(encrypted)
