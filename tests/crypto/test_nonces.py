"""Two sides, one key, and never the same number twice."""

from __future__ import annotations

import pytest

from discord_rtc.crypto.nonces import COUNTER_RANGES, CounterNonces, Side
from discord_rtc.errors import NonceExhausted, UsageError


def test_counter_is_big_endian_from_the_start_of_its_half() -> None:
    client, server = CounterNonces("client"), CounterNonces("server")
    assert [client().hex() for _ in range(3)] == ["00000000", "00000001", "00000002"]
    assert [server().hex() for _ in range(3)] == ["80000000", "80000001", "80000002"]


def test_halves_do_not_meet_and_cover_everything() -> None:
    client, server = COUNTER_RANGES["client"], COUNTER_RANGES["server"]
    assert client.stop == server.start
    assert len(client) + len(server) == 1 << 32


@pytest.mark.parametrize(("side", "last"), [("client", 0x7FFF_FFFF), ("server", 0xFFFF_FFFF)])
def test_exhaustion_comes_after_the_last_number_and_stays(side: Side, last: int) -> None:
    nonces = CounterNonces(side, last - 1)
    assert int.from_bytes(nonces(), "big") == last - 1
    assert int.from_bytes(nonces(), "big") == last
    for _ in range(3):
        with pytest.raises(NonceExhausted):
            nonces()


@pytest.mark.parametrize(
    ("side", "first"), [("client", 0x8000_0000), ("server", 0x7FFF_FFFF), ("client", -1)]
)
def test_first_number_of_the_other_side_is_refused(side: Side, first: int) -> None:
    with pytest.raises(UsageError, match=side):
        CounterNonces(side, first)
