"""ICE credentials: made from enough randomness, and never of the wrong form."""

from __future__ import annotations

from itertools import cycle, islice

import pytest

from discord_rtc.errors import UsageError
from discord_rtc.ice.credentials import IceCredentials

PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"


def test_generated_ones_carry_24_and_132_bits_of_the_given_randomness() -> None:
    asked: list[int] = []

    def counting(length: int) -> bytes:
        asked.append(length)
        return bytes(range(length))

    credentials = IceCredentials.generate(counting)
    assert (credentials.ufrag, credentials.password) == ("abcd", "abcdefghijklmnopqrstuv")
    assert asked == [4, 22]


def test_every_byte_is_an_ice_char_and_all_64_occur_equally_often() -> None:
    everything = bytes(range(256))
    credentials = IceCredentials.generate(lambda length: everything[-length:])
    assert credentials.ufrag == "89+/"
    source = cycle(everything)
    drawn = ""
    while len(drawn) < 26 * 128:  # each draw takes 26 bytes, so 128 draws take all of them 13 times
        credentials = IceCredentials.generate(lambda length: bytes(islice(source, length)))
        drawn += credentials.ufrag + credentials.password
    assert len(set(drawn)) == 64
    assert {drawn.count(char) for char in drawn} == {52}


def test_two_generated_ones_differ() -> None:
    assert IceCredentials.generate() != IceCredentials.generate()


@pytest.mark.parametrize("ufrag", ["abc", "a" * 257, "ab:d", "ab d", "abcd\n", "äbcd", ""])
def test_a_fragment_of_the_wrong_form_is_refused(ufrag: str) -> None:
    with pytest.raises(UsageError, match="fragment"):
        IceCredentials(ufrag, PASSWORD)


@pytest.mark.parametrize("password", ["a" * 21, "a" * 257, PASSWORD[:-1] + "=", ""])
def test_a_password_of_the_wrong_form_is_refused_and_not_shown(password: str) -> None:
    with pytest.raises(UsageError, match="password") as caught:
        IceCredentials("abcd", password)
    assert not password or password not in str(caught.value)


def test_the_longest_and_shortest_are_fine() -> None:
    assert IceCredentials("abcd", "p" * 22).ufrag == "abcd"
    assert len(IceCredentials("u" * 256, "p" * 256).password) == 256


def test_the_password_does_not_show() -> None:
    assert PASSWORD not in repr(IceCredentials("abcd", PASSWORD))
