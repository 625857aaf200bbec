"""What end-to-end encryption (DAVE) costs per frame, and how much of a frame's way that is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from discord_rtc.crypto.aead import AesGcm
from discord_rtc.crypto.modes import create_cipher
from discord_rtc.errors import DaveError
from discord_rtc.frames import Codec, EncodedFrame
from discord_rtc.media.encode import OpusEncoder, VideoEncoder, VideoSettings
from discord_rtc.protocol.dave.choose import PROTOCOL_VERSION, available, make_backend
from discord_rtc.rtp.session import RtpSession, SenderConfig
from discord_rtc.server.mls import (
    ExternalSender,
    parse_commit_welcome,
    parse_key_package,
    proposals_payload,
    welcome_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary

GROUP_SIZES = (2, 8, 25)
"""Members of the groups whose making is measured; a full voice channel of Discord's has 25."""

VIDEO_BYTES = 30_000
"""Of the video frame: a keyframe at 720p, or any frame of 7 Mbit/s at 30 fps."""

_SECONDS = 0.15
"""How long one operation is repeated; the best of its runs counts."""

_GROUP_ID = 20
_PAYLOAD_TYPES = {Codec.OPUS: 120, Codec.H264: 101}
_SSRC = 1
_PACKET_SIZE = 1200


@dataclass(frozen=True, slots=True)
class FrameCost:
    """Seconds per frame; each the best of many runs.

    Attributes:
        frame: What kind of frame.
        size: Its bytes.
        library: Which DAVE library.
        encrypt: End-to-end encryption.
        decrypt: Its inverse at a receiver.
        bare: AES-GCM over the same bytes and nothing else, by `cryptography`: the peer.
        packets: Packetizing, headers and transport encryption.
        encode: Encoding; what the frame costs before any of this.
    """

    frame: str
    size: int
    library: DaveLibrary
    encrypt: float
    decrypt: float
    bare: float
    packets: float
    encode: float

    @property
    def share_of_sending(self) -> float:
        """DAVE's part of all that is done to an encoded frame until it is sent."""
        return self.encrypt / (self.encrypt + self.packets)

    @property
    def share_of_all(self) -> float:
        """The same with encoding."""
        return self.encrypt / (self.encrypt + self.packets + self.encode)


@dataclass(frozen=True, slots=True)
class GroupCost:
    """Seconds that one member spends when a group is made.

    Attributes:
        library: Which DAVE library.
        members: How many there are.
        commit: Reading the proposals and making the commit.
        welcome: Entering by the welcome.
    """

    library: DaveLibrary
    members: int
    commit: float
    welcome: float


def measure_frames() -> list[FrameCost]:
    """Every installed library with an Opus frame and a video frame of 30 kB.

    Raises:
        DaveError: A library refused its own group.
    """
    made = (_opus_frame(), _video_frame())
    costs = []
    for library in available():
        sender, receiver = make_group(library, 2)
        for encoded, encode in made:
            costs.append(_cost(sender, receiver, encoded, encode))
    return costs


def measure_groups() -> list[GroupCost]:
    """Every installed library with groups of several sizes."""
    return [_group_cost(library, size) for library in available() for size in GROUP_SIZES]


def make_group(library: DaveLibrary, size: int) -> list[DaveBackend]:
    """A group in memory, its sending keys in place.

    Args:
        library: Of all its members.
        size: How many, two or more.
    """
    members, proposals, packages = _candidates(library, size)
    payload = members[0].process_proposals(proposals, frozenset(range(1, size + 1)))
    if payload is None:
        raise DaveError(f"{library} made no commit")
    made = parse_commit_welcome(payload)
    members[0].process_commit(made.commit)
    assert made.welcome is not None
    for member, ref in zip(members[1:], packages, strict=True):
        member.process_welcome(welcome_for(made.welcome, ref), frozenset(range(1, size + 1)))
    for member in members:
        member.switch_sender()
    return members


def _candidates(
    library: DaveLibrary, size: int
) -> tuple[list[DaveBackend], bytes, tuple[bytes, ...]]:
    """Members to be, what is proposed to the first of them, and the others' key packages."""
    sender = ExternalSender()
    members = [make_backend(user, _GROUP_ID, library=library) for user in range(1, size + 1)]
    packages = []
    for user, member in enumerate(members, start=1):
        member.set_external_sender(sender.payload)
        packages.append(parse_key_package(member.begin(PROTOCOL_VERSION), user))
    adds = [sender.add(_GROUP_ID, 0, package) for package in packages[1:]]
    return members, proposals_payload(adds), tuple(package.ref for package in packages[1:])


def _group_cost(library: DaveLibrary, size: int) -> GroupCost:
    commits, welcomes = [], []
    everybody = frozenset(range(1, size + 1))
    for _ in range(3):
        members, proposals, packages = _candidates(library, size)
        begun = time.perf_counter()
        payload = members[0].process_proposals(proposals, everybody)
        commits.append(time.perf_counter() - begun)
        assert payload is not None
        made = parse_commit_welcome(payload)
        assert made.welcome is not None
        welcome = welcome_for(made.welcome, packages[0])
        begun = time.perf_counter()
        members[1].process_welcome(welcome, everybody)
        welcomes.append(time.perf_counter() - begun)
    return GroupCost(library, size, min(commits), min(welcomes))


def _cost(
    sender: DaveBackend, receiver: DaveBackend, encoded: EncodedFrame, encode: float
) -> FrameCost:
    data, codec = encoded.data, encoded.codec
    encrypted: list[bytes] = []
    # All of them are kept for the receiver: 60 MB of video at most.
    encrypt = _best(lambda: encrypted.append(sender.encrypt(data, codec)), most=2000)
    waiting = iter(encrypted)  # each frame decrypts once: a second time it is a replay
    decrypt = _best(lambda: receiver.decrypt(1, codec.kind, next(waiting)), most=len(encrypted) - 1)
    box = AesGcm(bytes(32))
    return FrameCost(
        frame="Opus" if codec is Codec.OPUS else codec.value,
        size=len(data),
        library=sender.library,
        encrypt=encrypt,
        decrypt=decrypt,
        bare=_best(lambda: box.seal(b"", data, bytes(12))),
        packets=_packet_cost(encoded),
        encode=encode,
    )


def _packet_cost(encoded: EncodedFrame) -> float:
    codec = encoded.codec
    session = RtpSession(
        payload_types={number: codec for codec, number in _PAYLOAD_TYPES.items()},
        rtx_payload_types={},
        extension_ids={},
        max_packet_size=_PACKET_SIZE,
        ntp_offset=0.0,
        cname="bench",
    )
    session.add_sender(SenderConfig(_SSRC, codec, _PAYLOAD_TYPES[codec]))
    protection = create_cipher("aead_aes256_gcm_rtpsize", bytes(32), side="client")
    now = 0.0

    def send() -> None:
        nonlocal now
        now += 1.0  # nothing of the frame before is left in the pacer
        session.send_frame(_SSRC, encoded, now)
        waited = now
        while (packets := session.packets_to_send(waited)) or session.backlog(waited) > 0:
            for outgoing in packets:
                if not outgoing.rtcp:
                    protection.protect_rtp(outgoing.packet)
            waited += 0.005

    return _best(send)


def _opus_frame() -> tuple[EncodedFrame, float]:
    """A frame of about 160 bytes, and what encoding one costs."""
    encoder = OpusEncoder(bitrate=64_000)
    rng = np.random.default_rng(7)
    encoded: list[EncodedFrame] = []
    count = 0

    def encode() -> None:
        nonlocal count
        wave = np.sin(np.arange(960) * 0.05) * 9000 + rng.normal(0, 2000, 960)
        samples = np.repeat(wave.astype(np.int16), 2).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, count * 960, Fraction(1, 48_000)
        count += 1
        encoded.extend(encoder.encode(frame))

    seconds = _best(encode)
    return min(encoded, key=lambda frame: abs(len(frame.data) - 160)), seconds


def _video_frame() -> tuple[EncodedFrame, float]:
    """A keyframe of 720p with about 30 kB, and what encoding a frame costs."""
    y, x = np.mgrid[0:720, 0:1280]
    rng = np.random.default_rng(7)
    smooth = 128 + 60 * np.sin(x / 90) + 40 * np.cos(y / 70)
    best: EncodedFrame | None = None
    seconds = 0.0
    for noise in (1, 2, 3, 5, 8, 12):
        grey = np.clip(smooth + rng.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)
        picture = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), format="rgb24")
        encoder = VideoEncoder(VideoSettings(bitrate=7_000_000))
        made: list[EncodedFrame] = []
        elapsed = 0.0
        for _ in range(5):
            begun = time.perf_counter()
            made = encoder.encode(picture, keyframe=True)
            elapsed = time.perf_counter() - begun
        if best is None or abs(len(made[0].data) - VIDEO_BYTES) < abs(len(best.data) - VIDEO_BYTES):
            best, seconds = made[0], elapsed
        encoder.close()
    assert best is not None
    return best, seconds


def _best(work: Callable[[], object], *, most: int = 1_000_000) -> float:
    """Seconds of one call: the best tenth of the repetitions, in batches against the timer."""
    work()
    begun = time.perf_counter()
    work()
    batch = max(1, min(100, int(0.001 / max(1e-9, time.perf_counter() - begun)), most // 20))
    results = []
    until = time.perf_counter() + _SECONDS
    done = 2
    while time.perf_counter() < until and done + batch <= most:
        begun = time.perf_counter()
        for _ in range(batch):
            work()
        results.append((time.perf_counter() - begun) / batch)
        done += batch
    return min(results)
