"""Decoders: damage is counted, never raised, and nothing damaged is shown."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from discord_rtc.errors import DecoderFailed
from discord_rtc.frames import OPUS_SILENCE, Codec, EncodedFrame
from discord_rtc.media.decode import OpusDecoder, VideoDecoder
from discord_rtc.media.encode import OpusEncoder, VideoEncoder, VideoSettings

if TYPE_CHECKING:
    import numpy.typing as npt
    from av.stream import Stream

TICK = Fraction(1, 90_000)


def picture(number: int, form: str = "yuv420p") -> av.VideoFrame:
    """Noise that moves: every macroblock depends on the picture before."""
    noise = np.random.default_rng(1).integers(0, 255, (240, 320), np.uint8)
    frame = av.VideoFrame.from_ndarray(np.roll(noise, number, axis=1), "gray")
    frame = frame.reformat(format=form)
    frame.pts, frame.time_base = number, Fraction(1, 30)
    return frame


def stream(codec: Codec, *, keyframes: tuple[int, ...] = (), count: int = 12) -> list[EncodedFrame]:
    encoder = VideoEncoder(VideoSettings(codec, bitrate=1_000_000))
    return [encoder.encode(picture(n), keyframe=n in keyframes)[0] for n in range(count)]


def foreign(name: str, codec: Codec, options: dict[str, str]) -> list[EncodedFrame]:
    """What another sender's encoder makes, one frame for one picture."""
    encoder = av.CodecContext.create(name, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.options = options
    packets: list[av.Packet[Stream]] = []
    for number in range(12):
        frame = picture(number)
        if number:
            frame.pict_type = 2  # never a B-frame, whatever was announced
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    assert [packet.pts for packet in packets] == list(range(12))
    return [
        EncodedFrame(bytes(packet), codec, 3000 * number, TICK, packet.is_keyframe)
        for number, packet in enumerate(packets)
    ]


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
def test_each_frame_gives_its_picture_at_once(codec: Codec) -> None:
    decoder = VideoDecoder(codec)
    assert decoder.needs_keyframe
    for frame in stream(codec):
        [decoded] = decoder.decode(frame)
        assert (decoded.pts, decoded.time_base) == (frame.pts, TICK)
        assert not decoder.needs_keyframe
    assert decoder.damaged == 0


@pytest.mark.interop
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        (
            "libx264",
            Codec.H264,
            {"x264-params": "bframes=1:rc-lookahead=0:sync-lookahead=0:mbtree=0:sliced-threads=1"},
        ),
        (
            "libx265",
            Codec.H265,
            {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none"},
        ),
        (
            "libvpx-vp9",
            Codec.VP9,
            {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
        ),
    ],
)
def test_other_codecs_and_senders_that_announce_reordering_are_not_delayed(
    name: str, codec: Codec, options: dict[str, str]
) -> None:
    decoder = VideoDecoder(codec)
    for frame in foreign(name, codec, options):
        [decoded] = decoder.decode(frame)
        assert decoded.pts == frame.pts
    assert decoder.damaged == 0


def test_av1_decodes() -> None:
    encoder = av.CodecContext.create("libsvtav1", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.options = {"preset": "12", "svtav1-params": "pred-struct=1:rc=2:lp=1"}
    decoder = VideoDecoder(Codec.AV1)
    packets = [packet for n in range(6) for packet in encoder.encode(picture(n))]
    for packet in packets:
        frame = EncodedFrame(bytes(packet), Codec.AV1, 7, TICK, packet.is_keyframe)
        [decoded] = decoder.decode(frame)
        assert decoded.pts == 7
    assert len(packets) >= 5


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
def test_nothing_is_shown_before_the_first_keyframe(codec: Codec) -> None:
    frames = stream(codec, keyframes=(6,))
    decoder = VideoDecoder(codec)
    assert [len(decoder.decode(frame)) for frame in frames[1:]] == [0] * 5 + [1] * 6
    assert decoder.damaged == 0


@pytest.mark.parametrize("cut", [0, 1, 5, 40, 300])
def test_a_truncated_h264_frame_is_counted_and_hidden_until_a_keyframe(
    cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = stream(Codec.H264, keyframes=(6,))
    frames[3] = replace(frames[3], data=frames[3].data[:cut])
    decoder = VideoDecoder(Codec.H264)
    shown = [len(decoder.decode(frame)) for frame in frames]
    assert shown == [1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert decoder.damaged == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
def test_a_frame_lost_on_the_way_hides_what_follows_until_a_keyframe(codec: Codec) -> None:
    frames = stream(codec, keyframes=(6,))
    decoder = VideoDecoder(codec)
    assert [len(decoder.decode(frame)) for frame in frames[:3]] == [1, 1, 1]
    decoder.skip_to_keyframe()
    assert decoder.needs_keyframe
    assert [len(decoder.decode(frame)) for frame in frames[4:]] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert decoder.damaged == 0


def test_damaged_is_all_that_junk_does(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(5)
    for codec in (Codec.H264, Codec.H265, Codec.VP8, Codec.VP9, Codec.AV1):
        decoder = VideoDecoder(codec)
        for number in range(60):
            junk = random.bytes(int(random.integers(0, 200)))
            data = b"\0\0\0\1" + junk if number % 2 else junk
            assert decoder.decode(EncodedFrame(data, codec, number, TICK, True)) == []
        assert decoder.damaged == 60
        assert decoder.needs_keyframe
    good = stream(Codec.H264)[0]
    decoder = VideoDecoder(Codec.H264)
    decoder.decode(replace(good, data=bytes(50)))
    assert len(decoder.decode(good)) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
def test_flipped_bits_never_raise(codec: Codec) -> None:
    random = np.random.default_rng(6)
    decoder = VideoDecoder(codec)
    for frame in stream(codec, keyframes=tuple(range(0, 60, 5)), count=60):
        data = bytearray(frame.data)
        for position in random.integers(0, len(data), 3):
            data[position] ^= 1 << int(random.integers(8))
        for decoded in decoder.decode(replace(frame, data=bytes(data))):
            assert decoded.pts == frame.pts


def test_a_closed_decoder_gives_nothing() -> None:
    frame = stream(Codec.VP8, count=1)[0]
    decoder = VideoDecoder(Codec.VP8)
    decoder.close()
    decoder.close()
    assert decoder.decode(frame) == []


def test_what_cannot_be_decoded_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecoderFailed, match="not a video codec"):
        VideoDecoder(Codec.OPUS)
    monkeypatch.setattr("discord_rtc.media.decode._DECODERS", {Codec.AV1: "not-in-this-wheel"})
    with pytest.raises(DecoderFailed, match="no AV1 decoder"):
        VideoDecoder(Codec.AV1)


# Opus


def opus_frames(count: int) -> list[EncodedFrame]:
    wave = (9000 * np.sin(np.arange(960 * count) / 20)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave.repeat(2)[None, :], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 5000, Fraction(1, 48_000)
    return OpusEncoder().encode(frame)


def test_sound_is_interleaved_16_bit_stereo_with_its_pts() -> None:
    decoder = OpusDecoder()
    for number, frame in enumerate(opus_frames(10)):
        [sound] = decoder.decode(frame)
        assert (sound.format.name, sound.layout.name, sound.sample_rate) == (
            "s16",
            "stereo",
            48_000,
        )
        assert (sound.samples, sound.pts, sound.time_base) == (
            960,
            5000 + 960 * number,
            Fraction(1, 48_000),
        )
    assert decoder.damaged == 0


def test_silence_decodes_to_silence() -> None:
    frame = EncodedFrame(OPUS_SILENCE, Codec.OPUS, 0, Fraction(1, 48_000), True)
    [sound] = OpusDecoder().decode(frame)
    assert not sound.to_ndarray().any()


@pytest.mark.parametrize("junk", [b"", b"\xff", b"\x03\x00", b"\xfb\xff"])
def test_a_damaged_packet_is_counted_and_the_next_one_decodes(
    junk: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = opus_frames(2)
    decoder = OpusDecoder()
    assert decoder.decode(replace(frames[0], data=junk)) == []
    assert decoder.damaged == 1
    assert len(decoder.decode(frames[1])) == 1
    assert capfd.readouterr() == ("", "")


def test_a_closed_opus_decoder_gives_nothing() -> None:
    decoder = OpusDecoder()
    decoder.close()
    assert decoder.decode(opus_frames(1)[0]) == []


# Concealment


def music(count: int, level: float = 9000.0) -> list[EncodedFrame]:
    """Three tones, whose steepest step from sample to sample is known."""
    time = np.arange(960 * count) / 48_000
    wave = sum(level / 3 * np.sin(2 * np.pi * tone * time) for tone in (220, 440, 660))
    sound = av.AudioFrame.from_ndarray(
        np.asarray(wave).astype(np.int16).repeat(2)[None, :], format="s16", layout="stereo"
    )
    sound.sample_rate, sound.pts, sound.time_base = 48_000, 5000, Fraction(1, 48_000)
    return OpusEncoder().encode(sound)


def left(sounds: list[av.AudioFrame]) -> npt.NDArray[np.int64]:
    return np.concatenate([sound.to_ndarray()[0, ::2] for sound in sounds]).astype(np.int64)


def loudness(sound: av.AudioFrame) -> float:
    return float(np.sqrt(np.mean(left([sound]) ** 2)))


@pytest.mark.parametrize("lost", [1, 2, 4, 5, 6, 12])
def test_concealed_sound_joins_without_a_click(lost: int) -> None:
    frames = music(45)
    for first in range(15, 25):  # the tones are at another phase each time
        decoder = OpusDecoder()
        before = [sound for frame in frames[:first] for sound in decoder.decode(frame)]
        concealed = [sound for _ in range(lost) for sound in decoder.conceal()]
        after = [sound for frame in frames[first + lost :] for sound in decoder.decode(frame)]
        assert len(concealed) == lost
        steepest = np.abs(np.diff(left(before[5:]))).max()
        steps = np.abs(np.diff(left(before + concealed + after)))
        assert steps[(first - 1) * 960 : (first + lost + 2) * 960].max() <= 1.2 * steepest
        # Where a hole would begin, the sound can be many such steps away from nothing.
        assert np.abs(left(before[-1:])).max() > 10 * steepest


def test_concealed_sound_continues_and_then_falls_silent() -> None:
    decoder = OpusDecoder()
    decoded = [sound for frame in music(20) for sound in decoder.decode(frame)]
    levels = [loudness(decoded[-1])] + [loudness(*decoder.conceal()) for _ in range(9)]
    assert levels[1] > 0.5 * levels[0]
    assert all(later < earlier for earlier, later in itertools.pairwise(levels[1:7]))
    assert levels[5] < 0.4 * levels[0]
    assert levels[6:] == [0, 0, 0, 0]
    assert (decoder.concealed, decoder.damaged) == (9, 0)


def test_a_real_frame_after_silence_is_whole_but_for_its_first_five_milliseconds() -> None:
    frames = music(60)
    lossy, whole = OpusDecoder(), OpusDecoder()
    for frame in frames[:20]:
        lossy.decode(frame), whole.decode(frame)
    for frame in frames[20:30]:
        lossy.conceal(), whole.decode(frame)
    for number, frame in enumerate(frames[30:40]):
        [heard], [expected] = lossy.decode(frame), whole.decode(frame)
        assert (heard.pts, heard.samples) == (frame.pts, 960)
        if number > 4:  # Opus predicts from what it decoded before
            difference = left([heard]) - left([expected])
            assert np.sqrt(np.mean(difference**2)) < 0.1 * loudness(expected)


def test_pts_go_on_where_the_sound_ended() -> None:
    frames = music(30)
    decoder = OpusDecoder()
    pts = [sound.pts for frame in frames[:10] for sound in decoder.decode(frame)]
    for _ in range(8):
        [sound] = decoder.conceal()
        assert (sound.format.name, sound.layout.name, sound.sample_rate) == (
            "s16",
            "stereo",
            48_000,
        )
        assert (sound.samples, sound.time_base) == (960, Fraction(1, 48_000))
        pts.append(sound.pts)
    pts += [sound.pts for frame in frames[18:] for sound in decoder.decode(frame)]
    assert pts == [5000 + 960 * number for number in range(30)]


def test_pts_are_counted_in_the_time_base_of_the_stream() -> None:
    decoder = OpusDecoder()
    decoder.decode(replace(music(1)[0], pts=100, time_base=Fraction(1, 1000)))
    [[one], [other]] = decoder.conceal(), decoder.conceal()
    assert (one.pts, other.pts) == (120, 140)
    assert one.time_base == Fraction(1, 1000)


def test_there_is_nothing_to_continue_before_the_first_packet_and_after_the_end() -> None:
    decoder = OpusDecoder()
    assert decoder.conceal() == []
    decoder.decode(EncodedFrame(b"\xff", Codec.OPUS, 0, Fraction(1, 48_000), True))
    assert decoder.conceal() == []
    decoder.decode(music(1)[0])
    decoder.close()
    assert decoder.conceal() == []
    assert decoder.concealed == 0


def test_a_damaged_packet_can_be_concealed_like_a_lost_one() -> None:
    frames = music(21)
    decoder = OpusDecoder()
    decoded = [sound for frame in frames[:20] for sound in decoder.decode(frame)]
    assert decoder.decode(replace(frames[20], data=b"\xff")) == []
    [sound] = decoder.conceal()
    assert loudness(sound) > 0.5 * loudness(decoded[-1])
    assert sound.pts == frames[20].pts


def test_silence_is_continued_by_silence() -> None:
    decoder = OpusDecoder()
    decoder.decode(EncodedFrame(OPUS_SILENCE, Codec.OPUS, 0, Fraction(1, 48_000), True))
    assert [loudness(*decoder.conceal()) for _ in range(7)] == [0] * 7


@pytest.mark.parametrize("duration", ["2.5", "5", "10", "20", "40", "60"])
@pytest.mark.parametrize("bitrate", [12_000, 24_000, 96_000])
def test_every_mode_of_opus_is_concealed_in_steps_of_20_ms(duration: str, bitrate: int) -> None:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "stereo", "s16"
    encoder.bit_rate = bitrate
    encoder.options = {"application": "voip", "frame_duration": duration}
    encoder.open()
    samples = int(48 * float(duration))
    time = np.arange(48_000) / 48_000
    wave = (6000 * np.sin(2 * np.pi * 200 * time)).astype(np.int16).repeat(2)
    decoder = OpusDecoder()
    decoded = []
    for start in range(0, 48_000 - samples, samples):
        sound = av.AudioFrame.from_ndarray(
            wave[None, 2 * start : 2 * (start + samples)], format="s16", layout="stereo"
        )
        sound.sample_rate, sound.pts, sound.time_base = 48_000, start, Fraction(1, 48_000)
        for packet in encoder.encode(sound):
            frame = EncodedFrame(bytes(packet), Codec.OPUS, start, Fraction(1, 48_000), True)
            decoded += decoder.decode(frame)
    assert decoded[-1].pts is not None
    ends = decoded[-1].pts + samples
    for number in range(7):
        [concealed] = decoder.conceal()
        assert (concealed.samples, concealed.pts) == (960, ends + 960 * number)
        if not number:
            assert loudness(concealed) > 0.3 * loudness(decoded[-1])
