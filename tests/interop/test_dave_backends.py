"""Both DAVE libraries in one group: each is the other's witness.

The delivery service is `tests.protocol.dave.external`, which shares nothing with ours. Recorded
values are in ``tests/vectors/dave.json``.
"""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import davey
import numpy as np
import pytest

from discord_rtc.frames import OPUS_SILENCE, Codec, MediaKind
from discord_rtc.protocol.dave.backend import Undecryptable
from discord_rtc.protocol.dave.choose import make_backend
from discord_rtc.protocol.dave.frame import is_encrypted, parse_trailer
from discord_rtc.protocol.dave.identity import pairwise_fingerprint
from discord_rtc.protocol.dave.proposal_messages import parse_appended

from ..protocol.dave.contract import FRAMES
from ..protocol.dave.external import GROUP, Call, ExternalSender, append, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.video.codeccontext import VideoCodecContext
    from numpy.typing import NDArray

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary

pytestmark = pytest.mark.interop

LIBRARIES: tuple[DaveLibrary, ...] = ("dave.py", "davey")
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dave.json").read_text())
AUDIO = MediaKind.AUDIO


def member(user_id: int, library: DaveLibrary | None = None) -> DaveBackend:
    """Odd and even users have different libraries, unless one is given."""
    return make_backend(user_id, GROUP, library=library or LIBRARIES[user_id % 2])


def members(*users: int) -> dict[int, DaveBackend]:
    return {user: member(user) for user in users}


def assert_all_hear_all(call: Call) -> None:
    backends = {user: call.backends[user] for user in call.members}
    assert len({backend.epoch_authenticator for backend in backends.values()}) == 1
    for backend in backends.values():
        assert backend.members == set(backends)
    for (speaker, sender), codec in itertools.product(backends.items(), Codec):
        sent = sender.encrypt(FRAMES[codec], codec)
        assert is_encrypted(sent)
        for listener, receiver in backends.items():
            if listener != speaker:
                assert receiver.decrypt(speaker, codec.kind, sent) == FRAMES[codec]


@pytest.mark.parametrize("first", [1, 2], ids=["davey founds", "dave.py founds"])
@pytest.mark.parametrize("size", [2, 3, 8])
def test_mixed_groups_come_and_go(size: int, first: int) -> None:
    """The leader of each change is another one, so both libraries commit with and without path."""
    call = Call()
    users = range(first, first + size)
    call.found(members(*users))
    call.switch()
    assert_all_hear_all(call)
    for round_, leaver in enumerate([*users][: min(size, 4)]):
        newcomer = 100 + leaver
        committer = sorted(call.members)[round_ % len(call.members)]
        call.change(members(newcomer), committer=committer)  # no path
        call.switch()
        assert_all_hear_all(call)
        committer = next(user for user in sorted(call.members, reverse=True) if user != leaver)
        call.change(leaving=[leaver], committer=committer)  # with a path
        call.switch()
        assert_all_hear_all(call)
    staying = sorted(call.members)[0]
    call.change(members(900, 901), [user for user in call.members if user != staying])
    call.switch()
    assert_all_hear_all(call)


@pytest.mark.parametrize("library", LIBRARIES)
def test_members_who_leave_and_return_keep_the_group_together(library: DaveLibrary) -> None:
    call = Call()
    call.found({1: member(1, library), 2: member(2), 3: member(3)})
    for _ in range(3):
        returning = call.backends[1]
        call.change({1: returning}, leaving=[1])  # Remove and Add in one commit
        call.switch()
        assert_all_hear_all(call)


@pytest.mark.parametrize("sender", LIBRARIES)
@pytest.mark.parametrize("receiver", LIBRARIES)
def test_frames_under_way_across_a_transition(sender: DaveLibrary, receiver: DaveLibrary) -> None:
    call = Call()
    call.found({1: member(1, sender), 2: member(2, receiver)})
    call.switch()
    one, two = call.backends[1], call.backends[2]
    old = [one.encrypt(b"old", Codec.OPUS) for _ in range(5)]
    call.change({3: member(3)})
    assert one.sender_follows_commit == (sender == "davey")
    between = one.encrypt(b"between", Codec.OPUS)
    call.switch()
    new = [one.encrypt(b"new", Codec.OPUS) for _ in range(4)]
    # davey loses what the first frame under a key has overtaken, so these two come in order.
    assert two.decrypt(1, AUDIO, old.pop(0)) == b"old"
    assert two.decrypt(1, AUDIO, between) == b"between"
    for before, after in zip(reversed(old), new, strict=True):
        assert two.decrypt(1, AUDIO, after) == b"new"
        assert two.decrypt(1, AUDIO, before) == b"old"
    # Who has only the new keys tells which one was used before the transition executed.
    heard = call.backends[3].decrypt(1, AUDIO, between)
    assert heard == (b"between" if one.sender_follows_commit else Undecryptable.FAILED)


def test_the_nonce_begins_anew_with_each_key() -> None:
    call = Call()
    call.found(members(1, 2))
    call.switch()
    for epoch in (2, 3):
        for user in (1, 2):
            nonces = []
            for _ in range(3):
                trailer = parse_trailer(call.backends[user].encrypt(b"frame", Codec.OPUS))
                assert trailer is not None
                nonces.append(trailer.nonce)
            assert nonces == [1, 2, 3]
        call.change(members(100 + epoch))
        call.switch()


def test_reordered_frames_are_decrypted_once_each() -> None:
    call = Call()
    call.found(members(1, 2))
    call.switch()
    for speaker, listener in ((1, 2), (2, 1)):
        sender, receiver = call.backends[speaker], call.backends[listener]
        frames = [sender.encrypt(bytes([number]) * 9, Codec.OPUS) for number in range(40)]
        order = [0, *np.random.default_rng(5).permutation(range(1, 40)).tolist()]
        for number in order:
            assert receiver.decrypt(speaker, AUDIO, frames[number]) == bytes([number]) * 9
        for number in order:
            assert receiver.decrypt(speaker, AUDIO, frames[number]) is Undecryptable.FAILED


def test_silence_goes_through_both() -> None:
    call = Call()
    call.found(members(1, 2))
    call.switch()
    for speaker, listener in ((1, 2), (2, 1)):
        sent = call.backends[speaker].encrypt(OPUS_SILENCE, Codec.OPUS)
        assert call.backends[listener].decrypt(speaker, AUDIO, sent) == OPUS_SILENCE


def test_fingerprints_agree_across_libraries() -> None:
    call = Call()
    call.found(members(1, 2, 3))
    one, two, three = (call.backends[user] for user in (1, 2, 3))
    assert one.fingerprint(2) == two.fingerprint(1)
    assert one.fingerprint(3) == three.fingerprint(1)
    assert one.fingerprint(2) != one.fingerprint(3)
    keys = {1: b"\4" + bytes(range(64)), 2: b"\4" + bytes(range(64, 128))}
    theirs = davey.generate_pairwise_fingerprint(0, keys[2], 2, keys[1], 1)
    assert pairwise_fingerprint(keys) == theirs


class TestRecordedCall:
    """The libraries hold their private keys, so a recorded welcome cannot be replayed; what the
    server of that call sent can be, and what B saw of it is compared.
    """

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_the_proposals_are_accepted_and_committed_by_their_references(
        self, library: DaveLibrary
    ) -> None:
        users = {name: int(user) for name, user in VECTORS["users"].items()}
        backend = make_backend(users["A"], VECTORS["group_id"] and GROUP, library=library)
        backend.set_external_sender(bytes.fromhex(VECTORS["op25_payload"]))
        backend.begin(1)
        payload = bytes.fromhex(VECTORS["op27_payload_epoch0"])
        refs = [each.ref.hex() for each in parse_appended(payload)]
        assert refs == VECTORS["proposal_refs_epoch0"]
        made = backend.process_proposals(payload, frozenset(users.values()))
        assert made
        commit, welcome = split(made)
        # Everything up to the signature is the same for any committer at leaf 0, but for the
        # order of the references.
        recorded = bytes.fromhex(VECTORS["epoch1"]["commit"])
        assert commit[:30] == recorded[:30]
        for ref in refs:
            assert bytes.fromhex(ref) in commit
        assert welcome
        assert bytes.fromhex(VECTORS["keypackage_ref_B"]) in welcome
        assert backend.process_commit(commit)
        assert backend.members == set(users.values())

    def test_our_own_witness_signs_as_the_recorded_server(self) -> None:
        sender = ExternalSender(key=int(VECTORS["ext_sender_priv"], 16))
        assert sender.payload.hex() == VECTORS["op25_payload"]
        for library in LIBRARIES:
            backend = make_backend(1, GROUP, library=library)
            backend.set_external_sender(bytes.fromhex(VECTORS["op25_payload"]))
            backend.begin(1)
            package = bytes.fromhex(VECTORS["op26_payload_B"])
            users = frozenset({1, int(VECTORS["users"]["B"])})
            assert backend.process_proposals(append(sender.add(0, package)), users)


_SIZE = 96
_ENCODERS: Mapping[Codec, tuple[str, dict[str, str]]] = {
    Codec.H264: ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    Codec.H265: ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"}),
    Codec.VP8: ("libvpx", {"deadline": "realtime", "lag-in-frames": "0"}),
    Codec.VP9: ("libvpx-vp9", {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}),
    Codec.AV1: ("libsvtav1", {"preset": "12", "svtav1-params": "pred-struct=1:lp=1"}),
}
_DECODERS = {
    Codec.H264: "h264",
    Codec.H265: "hevc",
    Codec.VP8: "libvpx",
    Codec.VP9: "libvpx-vp9",
    Codec.AV1: "libdav1d",
}


def encoded(codec: Codec, count: int = 8) -> list[bytes]:
    name, options = _ENCODERS[codec]
    encoder = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
    encoder.width = encoder.height = _SIZE
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.options = options
    rng = np.random.default_rng(3)
    frames = []
    for pts in range(count):
        picture = rng.integers(0, 255, (_SIZE, _SIZE, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = pts
        frames += [bytes(packet) for packet in encoder.encode(frame)]
    return frames + [bytes(packet) for packet in encoder.encode(None)]


def decoded(codec: Codec, frames: list[bytes]) -> list[NDArray[np.uint8]]:
    decoder = cast("VideoCodecContext", av.CodecContext.create(_DECODERS[codec], "r"))
    decoder.thread_count = 1
    pictures = [picture for data in frames for picture in decoder.decode(av.Packet(data))]
    pictures += decoder.decode(None)
    return [np.asarray(picture.to_ndarray(format="yuv420p"), np.uint8) for picture in pictures]


@pytest.mark.parametrize("codec", _ENCODERS)
@pytest.mark.parametrize("sender", LIBRARIES)
def test_encoded_video_arrives_decodable(sender: DaveLibrary, codec: Codec) -> None:
    """H.264 and H.265 may come with longer start codes, AV1 without delimiters and last size."""
    receiver = LIBRARIES[1 - LIBRARIES.index(sender)]
    call = Call()
    call.found({1: member(1, sender), 2: member(2, receiver)})
    call.switch()
    frames = encoded(codec)
    arrived = []
    for frame in frames:
        sent = call.backends[1].encrypt(frame, codec)
        plain = call.backends[2].decrypt(1, MediaKind.VIDEO, sent)
        assert isinstance(plain, bytes)
        arrived.append(plain)
    if codec in {Codec.VP8, Codec.VP9}:
        assert arrived == frames
    before, after = decoded(codec, frames), decoded(codec, arrived)
    assert len(before) == len(after) == 8
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("library", LIBRARIES)
def test_slices_with_short_start_codes_arrive_decodable(library: DaveLibrary) -> None:
    call = Call()
    call.found({1: member(1, library), 2: member(2)})
    call.switch()
    frames = [frame.replace(b"\0\0\0\1", b"\0\0\1") for frame in encoded(Codec.H264)]
    arrived = []
    for frame in frames:
        sent = call.backends[1].encrypt(frame, Codec.H264)
        plain = call.backends[2].decrypt(1, MediaKind.VIDEO, sent)
        assert isinstance(plain, bytes)
        arrived.append(plain)
    assert arrived != frames
    before, after = decoded(Codec.H264, frames), decoded(Codec.H264, arrived)
    assert len(before) == 8
    assert all(map(np.array_equal, before, after))
