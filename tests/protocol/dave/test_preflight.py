"""What no DAVE library gets to see."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discord_rtc.errors import DaveError, InvalidCommit
from discord_rtc.frames import Codec
from discord_rtc.protocol.dave.libdave import LibdaveBackend
from discord_rtc.protocol.dave.preflight import (
    check_external_sender,
    check_frame,
    check_proposals,
    is_empty_commit,
    is_own_commit,
)

from .contract import ANN, BOB, EVERYBODY, FRAMES
from .external import GROUP, Call, ExternalSender, append, revoke, split, vector

if TYPE_CHECKING:
    from collections.abc import Callable

START = b"\0\0\0\1"
SLICE = START + bytes.fromhex("658884") + b"slice data"
PPS = START + bytes.fromhex("68ce3880")


def _speaker() -> LibdaveBackend:
    call = Call()
    call.found({user: LibdaveBackend(user, GROUP) for user in (ANN, BOB)})
    call.switch()
    backend = call.backends[ANN]
    assert isinstance(backend, LibdaveBackend)
    return backend


_SPEAKER = _speaker()


@pytest.mark.parametrize("codec", Codec)
def test_an_empty_frame_is_refused(codec: Codec) -> None:
    with pytest.raises(DaveError, match="empty"):
        check_frame(b"", codec)


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        *FRAMES.items(),
        (Codec.VP8, bytes.fromhex("1002009d012a80020e01")),
        (Codec.VP8, b"\x11"),
        (Codec.H264, b"\0\0\1" + SLICE[4:] + b"\0\0\1" + SLICE[4:]),
        (Codec.H264, b"\0" + SLICE + b"\0\0"),
        (Codec.H264, PPS * 9),
        (Codec.H264, SLICE + START + b"\x0a"),
        (Codec.H264, SLICE + START + b"\x0b" + PPS),
        # first_mb_in_slice 2^30, with emulation prevention within
        (Codec.H264, START + bytes.fromhex("41 00000300 02 00000300 01 8884 9a9b")),
        (Codec.H265, START + bytes.fromhex("4001") + START + bytes.fromhex("2601af")),
        (Codec.H265, START + bytes.fromhex("2601af") + START + bytes.fromhex("4e01")),
        (Codec.AV1, bytes.fromhex("1200 0a0b 00000042abbfc370 0be7 30 3201 10 3002")),
        (Codec.AV1, bytes.fromhex("360002 1020 12 00")),
        (Codec.AV1, b"\x0a\x81\x80\0x"),
    ],
)
def test_a_proper_frame_grows_by_no_more_than_announced(codec: Codec, frame: bytes) -> None:
    growth = check_frame(frame, codec)
    assert 0 < growth <= 75
    assert len(_SPEAKER.encrypt(frame, codec)) <= len(frame) + growth


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (Codec.VP8, b"\x10"),
        (Codec.VP8, bytes.fromhex("1002009d012a80020e")),
        (Codec.H264, b"\0\0\0\x10" + b"\x65" * 16),
        (Codec.H264, b"x" + SLICE),
        (Codec.H264, START),
        (Codec.H264, START + b"\x65"),
        (Codec.H264, START + b"\x65\x88"),
        (Codec.H264, START + b"\x65\0\0\0"),
        (Codec.H264, START + b"\x65\x25\0" + SLICE),
        (Codec.H264, SLICE + START + b"\x61\x88"),
        (Codec.H264, SLICE + START + b"\x68"),
        (Codec.H264, START + b"\x65\xc1"),  # the third value lacks its last bits
        (Codec.H265, b"\0\0\0\x10" + b"\x26" * 16),
        (Codec.H265, START + b"\x26"),
        (Codec.H265, START + b"\x40\x01" + START + b"\x26"),
        (Codec.AV1, b"\x12\0"),
        (Codec.AV1, b"\x32\x05abcd"),
        (Codec.AV1, b"\x32"),
        (Codec.AV1, b"\x34"),
        (Codec.AV1, b"\xb2\x01a"),
        (Codec.AV1, b"\x32" + b"\xff" * 20),
    ],
)
def test_a_frame_that_would_be_lost_or_worse_is_refused(codec: Codec, frame: bytes) -> None:
    with pytest.raises(DaveError):
        check_frame(frame, codec)


def test_every_slice_costs_some_bytes() -> None:
    costs = [check_frame(SLICE * count, Codec.H264) for count in (1, 2, 30)]
    assert costs[0] < costs[1] < 75 < costs[2]
    assert check_frame(b"\0\0\1" + SLICE[4:], Codec.H264) == costs[0] + 1
    assert check_frame(b"\x32\x01x" * 20, Codec.AV1) > check_frame(b"\x32\x01x", Codec.AV1)


_NAL = st.builds(
    lambda start, kind, body: start + bytes([kind]) + body,
    st.sampled_from([b"\0\0\1", START, b"\0" + START]),
    st.sampled_from([0x65, 0x61, 0x67, 0x68, 0x06, 0x26, 0x40, 0x02]),
    st.one_of(
        st.binary(max_size=6),
        st.binary(max_size=300).map(lambda body: b"\x88\x84" + body),
        st.binary(min_size=1, max_size=6).map(lambda body: b"\1\x88\x84" + body),
    ),
)


@given(st.lists(_NAL, min_size=1, max_size=12), st.sampled_from([Codec.H264, Codec.H265]))
def test_no_frame_of_nal_units_grows_more_than_announced(units: list[bytes], codec: Codec) -> None:
    frame = b"".join(units)
    try:
        growth = check_frame(frame, codec)
    except DaveError:
        return
    if growth <= 75:
        assert len(_SPEAKER.encrypt(frame, codec)) <= len(frame) + growth


@given(st.binary(min_size=1, max_size=300), st.sampled_from([Codec.AV1, Codec.VP8, Codec.VP9]))
def test_no_other_frame_grows_more_than_announced(frame: bytes, codec: Codec) -> None:
    try:
        growth = check_frame(frame, codec)
    except DaveError:
        return
    if growth <= 75:
        assert len(_SPEAKER.encrypt(frame, codec)) <= len(frame) + growth


@pytest.mark.parametrize("identity", [b"", b"\0\1\1\0", bytes(63), bytes(64), bytes(20000)])
def test_an_external_sender_of_any_name_is_accepted(identity: bytes) -> None:
    check_external_sender(ExternalSender(identity=identity).payload)


GOOD = ExternalSender().payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x40",
        GOOD[:68],
        GOOD[:69],
        GOOD[:-1],
        GOOD + b"x",
        b"\x41" + GOOD[1:],
        GOOD[:2] + b"\2" + GOOD[3:],
        GOOD[:68] + b"\2" + GOOD[69:],
        GOOD[:69] + b"\x40",
        GOOD[:69] + b"\xc0" + bytes(7),
    ],
)
def test_an_external_sender_of_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(DaveError, match="external sender"):
        check_external_sender(payload)


def test_proposals_say_whether_to_append_or_to_revoke() -> None:
    for payload in (append(), revoke(), append(ExternalSender().remove(1, 2))):
        check_proposals(payload)
    for payload in (b"", b"\0", b"\1", b"\2\0", b"garbage"):
        with pytest.raises(DaveError):
            check_proposals(payload)


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    """Initial commits of three users to each other, as in op 28."""
    sender = ExternalSender()
    users = {user: LibdaveBackend(user, GROUP) for user in EVERYBODY}
    packages = {}
    for user, backend in users.items():
        backend.set_external_sender(sender.payload)
        packages[user] = backend.begin(1)
    adds = {user: sender.add(0, package) for user, package in packages.items()}
    made = []
    for user, backend in users.items():
        others = [adds[other] for other in users if other != user]
        payload = backend.process_proposals(append(*others), EVERYBODY)
        assert payload
        made.append(payload)
    return made


class TestWhoseCommit:
    def test_ours_is_known_by_its_bytes(self, payloads: list[bytes]) -> None:
        commit, _ = split(payloads[0])
        assert is_own_commit(commit, payloads[0], GROUP)
        assert is_own_commit(commit, commit, GROUP)

    def test_those_of_others_are_not_ours(self, payloads: list[bytes]) -> None:
        for payload in payloads[1:]:
            commit, _ = split(payload)
            assert not is_own_commit(commit, payloads[0], GROUP)
            assert not is_own_commit(commit, None, GROUP)

    def test_an_error_in_ours_does_not_make_it_anothers(self, payloads: list[bytes]) -> None:
        commit, _ = split(payloads[0])
        rng = random.Random(4)
        for _ in range(200):
            at = rng.randrange(len(commit))
            wrong = bytes([commit[at] ^ 1 << rng.randrange(8)])
            for damaged in (
                commit[:at] + wrong + commit[at + 1 :],
                commit[:at] + wrong + commit[at:],
                commit[:at] + commit[at + 1 :],
            ):
                try:
                    is_own_commit(damaged, payloads[0], GROUP)
                except InvalidCommit:
                    continue
                pytest.fail(f"a change of byte {at} was not noticed")

    @pytest.mark.parametrize(
        "forge",
        [
            lambda _: b"",
            lambda _: b"garbage" * 20,
            lambda commit: commit[:20],
            lambda commit: b"\0\1\0\2" + commit[4:],
            lambda commit: commit[:5] + b"\1" + commit[6:],
            lambda commit: commit[:27] + b"\2" + commit[28:],
        ],
    )
    def test_what_is_no_commit_of_this_call_is_invalid(
        self, payloads: list[bytes], forge: Callable[[bytes], bytes]
    ) -> None:
        commit, _ = split(payloads[1])
        for own in (payloads[0], None):
            with pytest.raises(InvalidCommit):
                is_own_commit(forge(commit), own, GROUP)

    def test_a_commit_to_nothing_is_told_from_others(self, payloads: list[bytes]) -> None:
        assert not any(map(is_empty_commit, payloads))
        head, references = payloads[0][:28], vector(b"\2" + vector(bytes(32)))
        assert is_empty_commit(head + b"\0")
        assert not is_empty_commit(head + references)
