"""Payload formats and RTCP against FFmpeg's RTP muxer and demuxer, in both directions."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest

from discord_rtc.frames import Codec
from discord_rtc.rtp.packet import RtpPacket, is_rtcp, parse_rtp
from discord_rtc.rtp.payloads.base import payload_format
from discord_rtc.rtp.payloads.h264 import START_CODE, split_nal_units
from discord_rtc.rtp.rtcp import Goodbye, SenderReport, SourceDescription, parse_rtcp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from av.audio.codeccontext import AudioCodecContext
    from av.container import OutputContainer
    from av.stream import Stream
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

pytestmark = pytest.mark.interop

_FRAMES = 12
_SIZE = (240, 320)
_PAYLOAD_LIMIT = 1100
_PAYLOAD_TYPE = 97
_LEAST_PSNR = 40
"""Of a picture to its source; the neighbouring picture, with the square moved on, has under 26."""


@dataclass(frozen=True)
class _Format:
    """One codec as FFmpeg names it."""

    codec: Codec
    encoder: str
    decoder: str
    sdp: str
    options: tuple[tuple[str, str], ...] = ()


_FORMATS = {
    "h264": _Format(
        Codec.H264,
        "libx264",
        "h264",
        "H264/90000",
        (("preset", "superfast"), ("tune", "zerolatency")),
    ),
    # Several slices make several NAL units per frame, small ones among them.
    "h264-slices": _Format(
        Codec.H264,
        "libx264",
        "h264",
        "H264/90000",
        (("preset", "superfast"), ("tune", "zerolatency"), ("x264-params", "slices=6")),
    ),
    "vp8": _Format(Codec.VP8, "libvpx", "vp8", "VP8/90000", (("deadline", "realtime"),)),
    "opus": _Format(Codec.OPUS, "libopus", "opus", "opus/48000/2"),
}
_VIDEO = ["h264", "h264-slices", "vp8"]


def _picture(index: int) -> av.VideoFrame:
    """A gradient with a texture, and a square that moves with the index."""
    rows, columns = np.indices(_SIZE)
    texture = np.random.default_rng(1).integers(0, 40, _SIZE)
    image = (rows // 3 + columns // 3 + texture).astype(np.uint8)
    image[100:140, 10 + 20 * index : 50 + 20 * index] = 255
    frame = av.VideoFrame.from_ndarray(image, "gray").reformat(format="yuv420p")
    frame.pts = index
    return frame


def _luma(picture: av.VideoFrame) -> NDArray[np.float64]:
    """Brightness, (height, width)."""
    return picture.to_ndarray()[: _SIZE[0]].astype(np.float64)


def _encode_video(found: _Format) -> list[bytes]:
    encoder = cast("VideoCodecContext", av.CodecContext.create(found.encoder, "w"))
    encoder.height, encoder.width = _SIZE
    encoder.pix_fmt = "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 30), Fraction(30)
    encoder.bit_rate = 2_000_000
    encoder.options = dict(found.options)
    encoded = []
    for index in range(_FRAMES):
        encoded += [bytes(packet) for packet in encoder.encode(_picture(index))]
    return encoded + [bytes(packet) for packet in encoder.encode(None)]


def _encode_audio(found: _Format) -> list[bytes]:
    encoder = cast("AudioCodecContext", av.CodecContext.create(found.encoder, "w"))
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "stereo", "s16"
    encoded = []
    for index in range(_FRAMES):
        phase = 2 * np.pi * 440 * (np.arange(960) + 960 * index) / 48_000
        wave = (8000 * np.sin(phase)).astype(np.int16).repeat(2)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(wave, "s16", "stereo")
        frame.sample_rate, frame.pts = 48_000, 960 * index
        encoded += [bytes(packet) for packet in encoder.encode(frame)]
    return encoded


def _encode(found: _Format) -> list[bytes]:
    encoded = _encode_audio(found) if found.codec is Codec.OPUS else _encode_video(found)
    assert len(encoded) == _FRAMES
    if found.codec is not Codec.H264:
        return encoded
    # x264 mixes start codes of both lengths; on the way they all become four bytes long.
    return [b"".join(START_CODE + unit for unit in split_nal_units(data)) for data in encoded]


def _assert_shows_the_source(found: _Format, frames: list[bytes]) -> None:
    decoder = cast("VideoCodecContext", av.CodecContext.create(found.decoder, "r"))
    pictures = [picture for data in frames for picture in decoder.decode(av.Packet(data))]
    pictures += decoder.decode(None)
    assert len(pictures) == _FRAMES
    for index, picture in enumerate(pictures):
        error = np.mean((_luma(picture) - _luma(_picture(index))) ** 2)
        psnr = 10 * np.log10(255**2 / error)
        assert psnr > _LEAST_PSNR


@contextmanager
def _port_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Sockets on a free even port and the one above, for RTP and RTCP."""
    while True:
        rtp, rtcp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with rtp, rtcp:
            rtp.bind(("127.0.0.1", 0))
            port = rtp.getsockname()[1]
            if port % 2:
                continue
            try:
                rtcp.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            yield rtp, rtcp
            return


def _drain(receiver: socket.socket) -> list[bytes]:
    receiver.settimeout(0.05)
    received = []
    while True:
        try:
            received.append(receiver.recv(4096))
        except TimeoutError:
            return received


def _add_stream(container: OutputContainer, found: _Format) -> Stream:
    if found.codec is Codec.OPUS:
        audio = container.add_stream("libopus", rate=48_000, layout="stereo")
        audio.codec_context.open()
        return audio
    video = cast("VideoStream", container.add_stream(found.encoder, rate=30))
    video.height, video.width = _SIZE
    video.pix_fmt = "yuv420p"
    video.codec_context.open()
    return video


def _mux_with_ffmpeg(found: _Format, frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """What FFmpeg's RTP muxer sends for these frames: RTP and RTCP packets."""
    received = []
    with _port_pair() as (rtp, rtcp):
        url = f"rtp://127.0.0.1:{rtp.getsockname()[1]}?pkt_size=1200"
        options = {"cname": "somebody@somewhere", "rtpflags": "send_bye"}
        with av.open(url, "w", format="rtp", options=options) as container:
            stream = _add_stream(container, found)
            for index, data in enumerate(frames):
                packet = av.Packet(data)
                packet.stream = stream
                # 20 ms for Opus, 1/30 s for video.
                packet.time_base = Fraction(1, 50 if found.codec is Codec.OPUS else 30)
                packet.pts = packet.dts = index
                container.mux(packet)
                received += _drain(rtp)  # all frames together would overrun the socket
        return received + _drain(rtp), _drain(rtcp)


def _frames_of(packets: list[RtpPacket], codec: Codec) -> list[bytes]:
    """Frames from packets without loss: audio one each, video up to each marker."""
    depacketizer = payload_format(codec).depacketizer()
    frames: list[bytes] = []
    payloads: list[bytes] = []
    for packet in packets:
        assert depacketizer.starts_frame(packet.payload) or payloads
        payloads.append(packet.payload)
        if packet.marker or codec is Codec.OPUS:
            frames.append(depacketizer.depacketize(payloads))
            payloads = []
    assert not payloads
    return frames


@pytest.mark.parametrize("name", _FORMATS)
def test_frames_from_the_muxer_of_ffmpeg(name: str) -> None:
    found = _FORMATS[name]
    encoded = _encode(found)
    datagrams, _ = _mux_with_ffmpeg(found, encoded)
    assert not any(map(is_rtcp, datagrams))
    packets = [parse_rtp(datagram) for datagram in datagrams]
    assert [packet.to_bytes() for packet in packets] == datagrams
    steps = {(b.sequence - a.sequence) % 65536 for a, b in itertools.pairwise(packets)}
    assert steps == {1}
    received = _frames_of(packets, found.codec)
    assert received == encoded
    depacketizer = payload_format(found.codec).depacketizer()
    if found.codec is Codec.OPUS:
        ticks = [(packet.ticks - packets[0].ticks) % 2**32 for packet in packets]
        assert ticks == list(range(0, 960 * _FRAMES, 960))
    else:
        assert len(packets) > 2 * _FRAMES  # some frames were cut
        keyframes = [depacketizer.is_keyframe(frame) for frame in received]
        assert keyframes == [True, *[False] * (_FRAMES - 1)]
        _assert_shows_the_source(found, received)


def test_rtcp_from_the_muxer_of_ffmpeg() -> None:
    found = _FORMATS["opus"]
    datagrams, compounds = _mux_with_ffmpeg(found, _encode(found))
    sent = [parse_rtp(datagram) for datagram in datagrams]
    assert all(map(is_rtcp, compounds))
    packets = [packet for compound in compounds for packet in parse_rtcp(compound)]
    first, *_, last = packets
    assert isinstance(first, SenderReport)
    assert (first.ssrc, first.ticks) == (sent[0].ssrc, sent[0].ticks)
    assert abs(first.ntp / 2**32 - 2_208_988_800 - time.time()) < 60  # RFC 5905: 1900 to 1970
    descriptions = [packet for packet in packets if isinstance(packet, SourceDescription)]
    assert descriptions[0].chunks == ((sent[0].ssrc, ((1, "somebody@somewhere"),)),)
    assert last == Goodbye((sent[0].ssrc,))
    assert b"".join(packet.to_bytes() for packet in packets) == b"".join(compounds)


class _Repeater(threading.Thread):
    """Sends frames again and again, paced, until stopped: the demuxer opens when it likes."""

    def __init__(self, found: _Format, frames: list[bytes], port: int) -> None:
        super().__init__(name="rtp-repeater", daemon=True)
        self._codec, self._frames, self._port = found.codec, frames, port
        self._ended = threading.Event()

    def run(self) -> None:
        packetizer = payload_format(self._codec).packetizer()
        sequences = itertools.count(65_500)
        step = 960 if self._codec is Codec.OPUS else 3000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for index, frame in enumerate(itertools.cycle(self._frames)):
                payloads = packetizer.packetize(frame, _PAYLOAD_LIMIT)
                for number, payload in enumerate(payloads, 1):
                    marker = number == len(payloads) and self._codec is not Codec.OPUS
                    packet = RtpPacket(
                        _PAYLOAD_TYPE,
                        next(sequences) & 0xFFFF,
                        index * step,
                        0x1234,
                        payload,
                        marker,
                    )
                    sender.sendto(packet.to_bytes(), ("127.0.0.1", self._port))
                    if self._ended.wait(0.0005):
                        return

    def stop(self) -> None:
        self._ended.set()
        self.join(5)


@contextmanager
def _demux_with_ffmpeg(found: _Format, frames: list[bytes], sdp: Path) -> Iterator[Iterator[bytes]]:
    """What FFmpeg's RTP demuxer makes of these frames, sent by us in a loop."""
    with _port_pair() as (rtp, _):
        port = rtp.getsockname()[1]
    kind = found.codec.kind
    sdp.write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m={kind} {port} RTP/AVP {_PAYLOAD_TYPE}\na=rtpmap:{_PAYLOAD_TYPE} {found.sdp}\n"
        + (f"a=fmtp:{_PAYLOAD_TYPE} packetization-mode=1\n" * (found.codec is Codec.H264))
    )
    repeater = _Repeater(found, frames, port)
    repeater.start()
    try:
        options = {"protocol_whitelist": "file,udp,rtp"}
        with av.open(str(sdp), options=options, timeout=5) as container:
            yield (bytes(packet) for packet in container.demux() if packet.size)
    finally:
        repeater.stop()


@pytest.mark.parametrize("name", _FORMATS)
def test_frames_into_the_demuxer_of_ffmpeg(name: str, tmp_path: Path) -> None:
    found = _FORMATS[name]
    encoded = _encode(found)
    received: list[bytes] = []
    with _demux_with_ffmpeg(found, encoded, tmp_path / "stream.sdp") as packets:
        # One round without loss has to come within a few; the first is joined in the middle.
        for packet in itertools.islice(packets, 12 * _FRAMES):
            if packet == encoded[len(received)]:
                received.append(packet)
            else:
                received = [packet] if packet == encoded[0] else []
            if len(received) == _FRAMES:
                break
    assert received == encoded
    if found.codec is not Codec.OPUS:
        _assert_shows_the_source(found, received)
