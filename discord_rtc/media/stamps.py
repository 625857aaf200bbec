"""Stamps: a number and a send time inside pictures and sound, readable after lossy codecs.

Picture: the upper 5/12 carries a grid of 20 x 5 black and white cells, in row order 4 fixed
bits (1010), 32 of number, 48 of send time in microseconds and 16 of CRC. The grid scales
with the picture, so a stamp is read from any size that the picture was scaled to.

Sound: each 20 ms at 48 kHz carry 18 groups of 4 tones, of which one per group sounds: 36
bits, 16 of number, 12 of send time in milliseconds and 8 of CRC. Tones are 75 Hz apart from
750 Hz on, each a whole number of periods in the 640 samples that are evaluated, so they do
not leak into each other. Opus delays sound by 6.5 ms, hence a decoded frame holds the end of
one stamp and the first 13.5 ms of the next; a stamp is steady for exactly that long and then
fades. The reader tries the known codec delays and takes the one whose checksum agrees.
Of 3000 frames each at 64 kbit/s and more, by any of libopus' modes, all were read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from discord_rtc.errors import UnsupportedMedia
from discord_rtc.media.planes import Plane, plane

if TYPE_CHECKING:
    from collections.abc import Iterator

    import av
    from numpy.typing import NDArray

Samples: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which frame this is and when it was handed out.

    Attributes:
        number: Frames before this one; modulo 2**32 in pictures, 2**16 (22 minutes) in sound.
        sent_at: Monotonic seconds of the sending machine.
    """

    number: int
    sent_at: float


# Pictures

COLUMNS, ROWS = 20, 5
STRIP = 5 / 12
"""Part of the height that the grid covers: cells of 32 x 30 pixels in a 640 x 360 picture."""

BLACK, WHITE = 16, 235  # limits of studio-range luma, ITU-R BT.601
SYNC, SYNC_BITS = 0b1010, 4
NUMBER_BITS, TIME_BITS, CRC_BITS = 32, 48, 16
MICROSECONDS = 1_000_000
MIN_CONTRAST = 60
"""Plane between black and white cells; below that it is no stamp (blank or washed out)."""

SAMPLES_PER_CELL = 6
"""Points per axis taken from the central half of a cell, away from its blurred edges."""


def draw_video_stamp(luma: Plane, stamp: Stamp) -> None:
    """Draw a stamp into the upper part of a picture.

    Args:
        luma: (height, width) uint8, written in place.
        stamp: What to draw.
    """
    body = (stamp.number % 2**NUMBER_BITS) << TIME_BITS
    body |= int(stamp.sent_at * MICROSECONDS) % 2**TIME_BITS
    code = (SYNC << NUMBER_BITS + TIME_BITS | body) << CRC_BITS | _crc(body, CRC_BITS)
    bits = _to_bits(code, COLUMNS * ROWS).reshape(ROWS, COLUMNS)
    cells = np.where(bits, np.uint8(WHITE), np.uint8(BLACK))
    height, width = luma.shape
    strip = int(height * STRIP)
    lines = cells[:, np.arange(width) * COLUMNS // width]
    for row, line in enumerate(lines):
        luma[row * strip // ROWS : (row + 1) * strip // ROWS] = line


def read_video_stamp(luma: Plane) -> Stamp | None:
    """Read the stamp of a picture, or None when there is none.

    Args:
        luma: (height, width) uint8.
    """
    height, width = luma.shape
    points_down = _sampling_points(height * STRIP, ROWS)
    points_across = _sampling_points(width, COLUMNS)
    points = luma[np.ix_(points_down, points_across)].astype(np.float32)
    cells = points.reshape(ROWS, SAMPLES_PER_CELL, COLUMNS, SAMPLES_PER_CELL).mean(axis=(1, 3))
    low, high = float(cells.min()), float(cells.max())
    if high - low < MIN_CONTRAST:
        return None
    code = _from_bits(cells.ravel() > (low + high) / 2)
    framed, crc = divmod(code, 2**CRC_BITS)
    sync, body = divmod(framed, 2 ** (NUMBER_BITS + TIME_BITS))
    if sync != SYNC or crc != _crc(body, CRC_BITS):
        return None
    number, sent_at = divmod(body, 2**TIME_BITS)
    return Stamp(number, sent_at / MICROSECONDS)


def _sampling_points(extent: float, cells: int) -> NDArray[np.intp]:
    within = 0.25 + 0.5 * (np.arange(SAMPLES_PER_CELL) + 0.5) / SAMPLES_PER_CELL
    points = (np.arange(cells)[:, None] + within) * (extent / cells)
    return points.astype(np.intp).ravel()


# Sound

SAMPLE_RATE = 48_000
FRAME_SAMPLES = 960
STEADY = 640
"""Samples that are evaluated: what one decoded frame holds of one stamp, less 8 to spare."""

FADE = 160
GROUPS, CHOICES = 18, 4
FIRST_TONE = 10  # in units of 48000 / 640 = 75 Hz, so 750 Hz; the last one is 6075 Hz
TONE_AMPLITUDE = 0.2 / GROUPS**0.5
AUDIO_NUMBER_BITS, AUDIO_TIME_BITS, AUDIO_CRC_BITS = 16, 12, 8
MILLISECONDS = 1000
DELAYS = (312, 0, 120)
"""Samples by which a stamp may be late in its frame, likeliest first: libopus' look-ahead
(6.5 ms), none (never encoded), and libopus with restricted delay (2.5 ms)."""

MIN_PURITY = 0.8
"""Part of the band's energy that must be in the 18 chosen tones. Measured: 0.91 and more
after 64 kbit/s Opus (constant rate, or SILK with FEC); noise stays near 0.5."""

MIN_ENERGY = 0.005
"""Of the whole band. Measured 0.023 to 0.046 after Opus; film sound is mostly below."""


def _make_tones() -> Samples:
    frequencies = (FIRST_TONE + np.arange(GROUPS * CHOICES)) * SAMPLE_RATE / STEADY
    # Any fixed scatter of phases will do; without one all tones peak together and clip.
    phases = np.random.default_rng(1).uniform(0, 2 * np.pi, GROUPS * CHOICES)
    times = np.arange(FRAME_SAMPLES) / SAMPLE_RATE
    tones = np.cos(2 * np.pi * frequencies[:, None] * times + phases[:, None])
    envelope = np.zeros(FRAME_SAMPLES)
    envelope[:STEADY] = 1
    envelope[STEADY : STEADY + FADE] = np.cos(np.linspace(0, np.pi / 2, FADE)) ** 2
    sound: Samples = (TONE_AMPLITUDE * tones * envelope).astype(np.float32)
    return sound


_TONES = _make_tones()
_TONE_BINS = slice(FIRST_TONE, FIRST_TONE + GROUPS * CHOICES)
_GROUP_STARTS = np.arange(GROUPS) * CHOICES


def audio_stamp(stamp: Stamp) -> Samples:
    """Make the sound of a stamp: (960,) float32 at 48 kHz, full scale 1."""
    body = (stamp.number % 2**AUDIO_NUMBER_BITS) << AUDIO_TIME_BITS
    body |= int(stamp.sent_at * MILLISECONDS) % 2**AUDIO_TIME_BITS
    code = body << AUDIO_CRC_BITS | _crc(body, AUDIO_CRC_BITS)
    bits = _to_bits(code, 2 * GROUPS).reshape(GROUPS, 2)
    choices = bits[:, 0] * 2 + bits[:, 1]
    sound: Samples = _TONES[_GROUP_STARTS + choices].sum(axis=0, dtype=np.float32)
    return sound


def read_audio_stamp(samples: Samples, now: float) -> Stamp | None:
    """Read the stamp of 20 ms of sound, or None when there is none.

    Args:
        samples: (960 or more,) float32 at 48 kHz, full scale 1.
        now: Monotonic seconds at or after sending; the 12 bits of time are completed from it.
    """
    for delay in DELAYS:
        # The tones are whole turns in the steady part: one FFT has all of them, each in a bin.
        bins = np.fft.rfft(samples[delay : delay + STEADY])[_TONE_BINS]
        spectrum = np.abs(bins * np.float32(2 / STEADY)) ** 2
        groups = spectrum.reshape(GROUPS, CHOICES)
        total, chosen = float(groups.sum()), float(groups.max(axis=1).sum())
        if total < MIN_ENERGY or chosen < MIN_PURITY * total:
            continue
        for choices in _likely_choices(groups):
            code = _from_bits(np.stack((choices >> 1, choices & 1), axis=1).ravel())
            body, crc = divmod(code, 1 << AUDIO_CRC_BITS)
            if crc == _crc(body, AUDIO_CRC_BITS):
                number, time = divmod(body, 1 << AUDIO_TIME_BITS)
                now_ms = int(now * MILLISECONDS)
                age_ms = (now_ms - time) % (1 << AUDIO_TIME_BITS)
                return Stamp(number, (now_ms - age_ms) / MILLISECONDS)
    return None


def _likely_choices(groups: Samples) -> Iterator[NDArray[np.intp]]:
    """The loudest tone of each group; then the runner-up in the group where it is closest.

    After 64 kbit/s Opus one frame in 2000 has a wrong tone, and it was always that one.
    """
    ranked = groups.argsort(axis=1)
    choices = ranked[:, -1].copy()
    yield choices
    levels = np.sort(groups, axis=1)
    closest = int((levels[:, -2] / (levels[:, -1] + 1e-12)).argmax())
    choices[closest] = ranked[closest, -2]
    yield choices


# Both


def luma_of(frame: av.VideoFrame) -> Plane:
    """The luma plane of a picture, converted when its pixel format has none: (height, width)."""
    if not frame.format.name.startswith(("yuv420p", "yuvj420p", "nv12")):
        frame = frame.reformat(format="yuv420p")
    return plane(frame, 0)


def mono_of(frame: av.AudioFrame) -> Samples:
    """The first channel of a sound frame as float32, full scale 1.

    Raises:
        UnsupportedMedia: The sample format is neither 16-bit nor 32-bit float.
    """
    samples = frame.to_ndarray()
    channels = len(frame.layout.channels)
    mono = samples[0] if frame.format.is_planar else samples.reshape(-1, channels)[:, 0]
    if mono.dtype not in (np.int16, np.float32):
        raise UnsupportedMedia(f"stamps are not read from {frame.format.name} samples")
    full_scale = 32768 if mono.dtype == np.int16 else 1
    sound: Samples = mono.astype(np.float32) / np.float32(full_scale)
    return sound


def _crc(body: int, bits: int) -> int:
    return zlib.crc32(body.to_bytes(10, "big")) % (1 << bits)


def _to_bits(code: int, count: int) -> NDArray[np.uint8]:
    padded = np.frombuffer((code << -count % 8).to_bytes((count + 7) // 8, "big"), np.uint8)
    return np.unpackbits(padded)[:count]


def _from_bits(bits: NDArray[np.bool_] | NDArray[np.intp]) -> int:
    packed: NDArray[np.uint8] = np.packbits(bits.astype(np.uint8))
    code = int.from_bytes(packed.tobytes(), "big")
    return code >> -len(bits) % 8
