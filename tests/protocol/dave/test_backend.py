"""The port: what the machine may rely on, whichever library is behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dave
import davey

from discord_rtc.protocol.dave.backend import KEY_LIFETIME, PROTOCOL_VERSION, Undecryptable
from discord_rtc.protocol.dave.davey import DaveyBackend
from discord_rtc.protocol.dave.libdave import LibdaveBackend

if TYPE_CHECKING:
    from discord_rtc.protocol.dave.backend import DaveBackend


def test_both_back_ends_fit_the_port() -> None:
    backends: list[DaveBackend] = [LibdaveBackend(1, 2), DaveyBackend(1, 2)]
    assert [backend.library for backend in backends] == ["dave.py", "davey"]


def test_the_version_is_the_newest_of_both_libraries() -> None:
    assert PROTOCOL_VERSION == davey.DAVE_PROTOCOL_VERSION
    assert dave.get_max_supported_protocol_version() == PROTOCOL_VERSION


def test_reasons_are_names_of_counters() -> None:
    assert set(Undecryptable) == {"no-key", "undecryptable"}
    assert KEY_LIFETIME == 10.0
