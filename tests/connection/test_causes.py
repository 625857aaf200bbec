"""Which error ended a session."""

from __future__ import annotations

from discord_rtc.connection.causes import first_cause
from discord_rtc.errors import AuthenticationFailed, ConnectionLost, DaveUnavailable


def cause_of(*failures: Exception) -> BaseException:
    group = ExceptionGroup("group", failures)
    return first_cause(group, unencrypted="encryption was not offered")


def test_the_first_failure_counts_however_deep_it_is() -> None:
    first, later = ValueError("first"), ValueError("later")
    inner = ExceptionGroup("inner", [first, later])
    assert cause_of(inner, later) is first


def test_a_lost_connection_stays_what_it_is() -> None:
    lost = ConnectionLost(4006, "over")
    assert cause_of(lost) is lost


def test_close_codes_with_a_more_precise_meaning_get_their_error() -> None:
    refused = cause_of(ConnectionLost(4004, "over"))
    assert isinstance(refused, AuthenticationFailed)
    encrypted = cause_of(ConnectionLost(4017, "over"))
    assert isinstance(encrypted, DaveUnavailable)
    assert str(encrypted) == "encryption was not offered"
