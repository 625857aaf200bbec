"""``discord-rtc demo`` as a user runs it: real time, real sockets, a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .conftest import Ended, Shell, Watch, Watched

RATE = 48_000
REQUIRED_KEYS = {
    "transport",
    "receiver_transport",
    "dave",
    "video_codec",
    "video_frames_sent",
    "video_frames_received",
    "video_frames_damaged",
    "audio_frames_sent",
    "audio_frames_received",
    "latency_ms",
    "av_skew_ms",
    "duration_s",
    "cpu_s",
    "recording",
}


def number(report: dict[str, object], key: str) -> float:
    """A number of a report, also ``latency_ms.p50``."""
    value: object = report
    for name in key.split("."):
        value = cast("dict[str, object]", value)[name]
    assert isinstance(value, int | float)
    return value


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """PSNR in decibels."""
    error = np.mean((one.astype(float) - other) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def align(recorded: NDArray[np.float64], original: NDArray[np.float64]) -> tuple[float, float]:
    """Seconds by which the recorded sound is late, and the correlation once that is undone."""
    size = 1 << (len(recorded) + len(original)).bit_length()
    spectrum = np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(original, size))
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    lag = lag - size if lag > size // 2 else lag
    here, there = max(lag, 0), max(-lag, 0)
    length = min(len(recorded) - here, len(original) - there)
    one, two = recorded[here : here + length], original[there : there + length]
    return lag / RATE, float(np.corrcoef(one, two)[0, 1])


def interrupt(process: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[int, str, str]:
    """Send signals 50 ms apart, and wait for the end."""
    for which in numbers:
        process.send_signal(which)
        time.sleep(0.05)
    stdout, stderr = process.communicate(timeout=20)
    return process.returncode, stdout, stderr


def wait_for_recording(path: Path) -> None:
    """Until media has been written: the call has been going on for about a second."""
    deadline = time.monotonic() + 20
    while not path.exists() or path.stat().st_size < 20_000:
        assert time.monotonic() < deadline
        time.sleep(0.05)


MAIN_SECONDS = 5


@pytest.fixture(scope="module")
def main_shell(new_shell: Callable[[], Shell]) -> Shell:
    """Where the main job is done, once for all that look at its result."""
    return new_shell()


@pytest.fixture(scope="module")
def ended(main_shell: Shell, film: Path) -> Ended:
    """The main job on the film."""
    return main_shell.run(
        *("demo", "--media", film, "--transport", "udp", "--to", "udp"),
        *("--seconds", MAIN_SECONDS, "--out", "out.mp4", "--json", "out.json"),
    )


@pytest.fixture(scope="module")
def report(ended: Ended, main_shell: Shell) -> dict[str, object]:
    """Its JSON."""
    sys.stdout.write(ended.stdout)  # what to know when a mark is missed
    assert ended.code == 0, ended.stderr
    return main_shell.json("out.json")


@pytest.fixture(scope="module")
def recording(report: dict[str, object], main_shell: Shell, watch: Watch) -> Watched:
    """Its recording."""
    assert report["recording"] == "out.mp4"
    return watch(main_shell.path("out.mp4"))


class TestTheMainJob:
    """One run on the film, looked at from all sides."""

    def test_it_exits_0_with_nothing_to_complain_about(self, ended: Ended) -> None:
        assert (ended.code, ended.stderr) == (0, "")

    def test_the_json_says_what_was_asked_for(self, report: dict[str, object]) -> None:
        assert report.keys() >= REQUIRED_KEYS
        assert report["transport"] == report["receiver_transport"] == "udp"
        assert (report["dave"], report["video_codec"]) == ("active", "H264")
        assert report["finished"] is True
        assert report["recording_frames_dropped"] == 0

    def test_all_pictures_arrive_undamaged(self, report: dict[str, object]) -> None:
        assert number(report, "video_frames_sent") >= 24 * MAIN_SECONDS - 2
        assert number(report, "video_frames_received") >= 0.995 * number(
            report, "video_frames_sent"
        )
        assert number(report, "video_frames_received") <= number(report, "video_frames_sent")
        assert number(report, "video_frames_damaged") == 0
        assert number(report, "video_frames_unchecked") == 0
        assert number(report, "worst_psnr_db") > 30

    def test_all_sound_arrives(self, report: dict[str, object]) -> None:
        assert number(report, "audio_frames_sent") >= 50 * MAIN_SECONDS - 3
        assert number(report, "audio_frames_received") >= 0.995 * number(
            report, "audio_frames_sent"
        )
        assert number(report, "audio_frames_received") <= number(report, "audio_frames_sent")

    def test_it_is_live(self, report: dict[str, object]) -> None:
        assert number(report, "latency_ms.p50") <= 40
        assert number(report, "av_skew_ms.p95") <= 40
        assert number(report, "duration_s") == pytest.approx(MAIN_SECONDS, abs=0.1)

    def test_the_table_says_it_to_people(self, ended: Ended, main_shell: Shell) -> None:
        rows = dict(line.split("  ", 1) for line in ended.stdout.splitlines())
        table = {label: value.strip() for label, value in rows.items()}
        assert table["transport"] == "udp to udp"
        assert table["E2EE"] == "active"
        assert table["video"].startswith("H264, ")
        assert table["video"].endswith("(100 %), 0 damaged")
        assert table["audio"].endswith("(100 %)")
        assert table["video latency"].endswith("ms)")
        assert table["A/V skew"].endswith("ms)")
        assert table["bitrate"].endswith("Mbit/s")
        assert table["CPU"].endswith("% of one core")
        assert table["recording"] == str(main_shell.path("out.mp4").resolve())

    def test_a_pipe_gets_no_control_sequences(self, ended: Ended) -> None:
        assert "\x1b" not in ended.stdout
        assert "\r" not in ended.stdout

    def test_the_recording_is_as_long_as_was_sent(
        self, report: dict[str, object], recording: Watched
    ) -> None:
        assert recording.duration == pytest.approx(number(report, "duration_s"), abs=0.3)
        assert len(recording.sound) / RATE == pytest.approx(recording.duration, abs=0.1)

    def test_the_recording_shows_the_film_at_its_times(
        self, recording: Watched, film_seen: Watched
    ) -> None:
        for at in np.arange(0.25, MAIN_SECONDS - 0.25, 0.5):
            shown = recording.picture_at(at)
            scores = [likeness(shown, picture) for picture in film_seen.pictures]
            best = int(np.argmax(scores))
            assert scores[best] > 25
            assert film_seen.times[best] == pytest.approx(at, abs=0.1)

    def test_the_recording_sounds_like_the_film_and_in_time_with_the_pictures(
        self, recording: Watched, film_seen: Watched
    ) -> None:
        for channel in (0, 1):
            late, correlation = align(recording.sound[:, channel], film_seen.sound[:, channel])
            assert correlation > 0.9
            assert abs(late - self._pictures_late(recording, film_seen)) <= 0.04

    def _pictures_late(self, recording: Watched, film_seen: Watched) -> float:
        late = []
        for index in range(24, 96, 6):
            begin, picture = recording.times[index], recording.pictures[index]
            scores = [likeness(picture, candidate) for candidate in film_seen.pictures]
            late.append(begin - film_seen.times[int(np.argmax(scores))])
        return float(np.median(late))


def test_the_test_pattern_needs_no_option_but_a_moment(shell: Shell, watch: Watch) -> None:
    ended = shell.run("demo", "--seconds", 2)
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].split() == [
        "recording",
        str(shell.path("demo.mp4").resolve()),
    ]
    seen = watch(shell.path("demo.mp4"))
    assert seen.duration == pytest.approx(2, abs=0.3)
    assert len(seen.pictures) >= 57


def test_vp8_into_webm(shell: Shell, film: Path, watch: Watch, film_seen: Watched) -> None:
    ended = shell.run(
        *("demo", "--media", film, "--seconds", 2, "--codec", "vp8"),
        *("--out", "out.webm", "--json", "out.json"),
    )
    assert (ended.code, ended.stderr) == (0, "")
    report = shell.json("out.json")
    assert report["video_codec"] == "VP8"
    assert number(report, "video_frames_received") >= 0.995 * number(report, "video_frames_sent")
    assert number(report, "video_frames_damaged") == 0
    seen = watch(shell.path("out.webm"))
    assert seen.duration == pytest.approx(2, abs=0.3)
    assert max(likeness(seen.picture_at(1), one) for one in film_seen.pictures) > 25
    assert align(seen.sound[:, 0], film_seen.sound[:, 0])[1] > 0.9


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory, film_seen: Watched) -> Path:
    """Two seconds of sound alone."""
    path = tmp_path_factory.mktemp("song") / "song.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, RATE, 0, "NONE", ""))
        file.writeframes((film_seen.sound[: 2 * RATE] * 32767).astype(np.int16).tobytes())
    return path


@pytest.mark.parametrize("name", ["out.mp4", "out.ogg"])
def test_a_file_without_video_is_sent_as_audio_until_it_ends(
    name: str, shell: Shell, song: Path, watch: Watch, film_seen: Watched
) -> None:
    ended = shell.run("demo", "--media", song, "--seconds", 30, "--out", name, "--json", "out.json")
    assert (ended.code, ended.stderr) == (0, "")
    assert "video latency" not in ended.stdout
    report = shell.json("out.json")
    assert (report["video_codec"], report["video_frames_sent"]) == (None, 0)
    assert number(report, "audio_frames_sent") == pytest.approx(100, abs=2)
    assert number(report, "duration_s") == pytest.approx(2, abs=0.2)
    with av.open(str(shell.path(name))) as container:
        assert [stream.type for stream in container.streams] == ["audio"]
    seen = watch(shell.path(name))
    assert seen.duration == pytest.approx(2, abs=0.3)
    assert align(seen.sound[:, 0], film_seen.sound[:, 0])[1] > 0.9


def test_a_recording_of_sound_alone_leaves_the_pictures_out(shell: Shell, film: Path) -> None:
    ended = shell.run("demo", "--media", film, "--seconds", 2, "--out", "out.wav")
    assert (ended.code, ended.stderr) == (0, "")
    assert "H264, " in ended.stdout
    with wave.open(str(shell.path("out.wav"))) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE, 2)
        assert file.getnframes() / RATE == pytest.approx(2, abs=0.3)


def test_loss_is_reported_as_it_was(shell: Shell, film: Path, watch: Watch) -> None:
    ended = shell.run(
        *("demo", "--media", film, "--seconds", 3, "--loss", 0.01, "--seed", 7),
        *("--out", "out.mkv", "--json", "out.json"),
    )
    assert (ended.code, ended.stderr) == (0, "")
    report = shell.json("out.json")
    # 1 % on the way to the server and 1 % on the way from it.
    assert 0.005 < number(report, "packets_lost") / number(report, "packets_sent") < 0.05
    assert f"{report['packets_lost']} lost" in ended.stdout
    # Video is repaired, sound is not.
    shown = number(report, "video_frames_received") / number(report, "video_frames_sent")
    assert 0.97 <= shown <= 1
    assert number(report, "video_frames_damaged") == 0
    heard = number(report, "audio_frames_received") / number(report, "audio_frames_sent")
    assert 0.9 < heard < 1
    audio = next(line for line in ended.stdout.splitlines() if line.startswith("audio  "))
    assert "(100 %)" not in audio
    assert watch(shell.path("out.mkv")).duration == pytest.approx(3, abs=0.4)


def test_media_that_does_not_come_through_is_exit_code_1(
    shell: Shell, film: Path, watch: Watch
) -> None:
    ended = shell.run(
        *("demo", "--media", film, "--seconds", 2, "--loss", 0.5, "--seed", 7),
        *("--out", "out.mp4", "--json", "out.json"),
    )
    assert ended.code == 1
    assert ended.sentence == "media did not come through"
    report = shell.json("out.json")
    received = number(report, "video_frames_received")
    assert received < number(report, "video_frames_sent") / 30
    heard = number(report, "audio_frames_received") / number(report, "audio_frames_sent")
    assert 0.1 < heard < 0.4  # 25 % come through both ways
    # What came is there.
    assert report["recording"] == "out.mp4"
    assert watch(shell.path("out.mp4")).duration == pytest.approx(2, abs=0.6)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here that is always full")
@pytest.mark.parametrize(("name", "code"), [("out.mp4", 1), ("out.json", 2)])
def test_a_full_disk_costs_the_file_but_not_the_table(name: str, code: int, shell: Shell) -> None:
    shell.path(name).symlink_to("/dev/full")
    ended = shell.run("demo", "--seconds", 1, "--out", "out.mp4", "--json", "out.json")
    assert ended.code == code
    assert ended.sentence == f"{name} cannot be written: No space left on device"
    assert "(100 %), 0 damaged" in ended.stdout


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C-twice"],
)
def test_an_interrupted_demo_finishes_its_recording(
    signals: list[signal.Signals], shell: Shell, film: Path, watch: Watch
) -> None:
    process = shell.start("demo", "--media", film, "--out", "out.mp4", "--json", "out.json")
    wait_for_recording(shell.path("out.mp4"))
    code, stdout, stderr = interrupt(process, *signals)
    assert code == 130
    report = shell.json("out.json")
    duration = number(report, "duration_s")
    assert stderr == f"discord-rtc: interrupted after {duration:.1f} s\n"
    assert report["finished"] is False
    assert 0.5 < duration < 7
    assert number(report, "video_frames_received") == number(report, "video_frames_sent")
    assert "frames sent" in stdout
    seen = watch(shell.path("out.mp4"))
    assert seen.duration == pytest.approx(duration, abs=0.3)
    assert len(seen.pictures) >= number(report, "video_frames_received")


def test_ctrl_c_before_the_call_ends_quietly(shell: Shell) -> None:
    process = shell.start("demo")
    time.sleep(0.4)  # somewhere in the imports
    code, stdout, stderr = interrupt(process, signal.SIGINT)
    assert code == 130
    assert "Traceback" not in stdout + stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
def test_a_terminal_shows_progress_and_then_the_table(shell: Shell) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        shell.command("demo", "--seconds", 2),
        cwd=shell.directory,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux, when the other side is closed
            break
        if not part:  # macOS, likewise
            break
        output += part
    os.close(ours)
    assert process.wait(20) == 0
    progress, _, table = output.decode().rpartition("\x1b[?25h")  # the cursor comes back
    assert "1 / 2 s" in progress
    assert "video 3" in progress
    assert "closing" in progress
    assert "transport" not in progress
    assert "100 %" in table
    assert "demo.mp4" in table


class TestWhatIsRefused:
    """One sentence, exit code 2, no traceback, and no file."""

    def refuse(self, shell: Shell, *arguments: object) -> str:
        before = sorted(shell.directory.rglob("*"))
        ended = shell.run("demo", *arguments)
        assert (ended.code, ended.stdout) == (2, "")
        assert sorted(shell.directory.rglob("*")) == before
        return ended.sentence

    def test_what_is_not_built(self, shell: Shell) -> None:
        assert self.refuse(shell, "--golive") == "--golive is not built yet in this version"

    @pytest.mark.parametrize(
        ("option", "value", "sentence"),
        [
            ("--loss", "2", "--loss is a probability from 0 to below 1, not 2"),
            ("--loss", "nan", "--loss is a probability from 0 to below 1, not nan"),
            ("--seconds", "-1", "--seconds must be more than 0, not -1"),
            ("--seconds", "0", "--seconds must be more than 0, not 0"),
            ("--seconds", "nan", "--seconds must be more than 0, not nan"),
        ],
    )
    def test_values_without_sense(
        self, option: str, value: str, sentence: str, shell: Shell
    ) -> None:
        assert self.refuse(shell, option, value) == sentence

    def test_a_missing_file(self, shell: Shell) -> None:
        assert self.refuse(shell, "--media", "no.mp4") == "there is no file no.mp4"

    def test_a_directory(self, shell: Shell) -> None:
        assert self.refuse(shell, "--media", ".") == ". is a directory, not a media file"

    def test_random_bytes(self, shell: Shell) -> None:
        shell.path("junk.mp4").write_bytes(np.random.default_rng(1).bytes(100_000))
        assert self.refuse(shell, "--media", "junk.mp4") == (
            "junk.mp4 cannot be opened: it is corrupt or no media that FFmpeg knows"
        )

    def test_a_truncated_file(self, shell: Shell, film: Path) -> None:
        whole = film.read_bytes()
        shell.path("half.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end
        assert self.refuse(shell, "--media", "half.mp4") == (
            "half.mp4 cannot be opened: it is corrupt or no media that FFmpeg knows"
        )

    def test_an_empty_file(self, shell: Shell) -> None:
        shell.path("empty.mp4").touch()
        assert "empty.mp4 cannot be opened" in self.refuse(shell, "--media", "empty.mp4")

    def test_a_filter_graph_with_a_mistake(self, shell: Shell) -> None:
        assert "cannot be opened" in self.refuse(shell, "--media", "lavfi:nonsense")

    @pytest.mark.parametrize("name", ["out.avi", "out"])
    def test_an_unknown_kind_of_recording(self, name: str, shell: Shell) -> None:
        sentence = self.refuse(shell, "--out", name)
        assert sentence.startswith("--out must end in one of .mp4 ")
        assert sentence.endswith(f"which {name} does not")

    def test_a_recording_that_cannot_be_written(self, shell: Shell) -> None:
        assert self.refuse(shell, "--out", "no/out.mp4") == (
            "no/out.mp4 cannot be written: No such file or directory"
        )
        shell.path("dir.mp4").mkdir()
        assert self.refuse(shell, "--out", "dir.mp4") == (
            "dir.mp4 cannot be written: Is a directory"
        )

    def test_a_json_that_cannot_be_written(self, shell: Shell) -> None:
        assert self.refuse(shell, "--json", "no/out.json") == (
            "no/out.json cannot be written: No such file or directory"
        )

    def test_a_recording_over_the_film_itself(self, shell: Shell, film: Path) -> None:
        shell.path("demo.mp4").write_bytes(film.read_bytes())
        assert self.refuse(shell, "--media", "demo.mp4") == (
            "--out demo.mp4 would overwrite the media that is to be sent"
        )
        assert shell.path("demo.mp4").read_bytes() == film.read_bytes()

    def test_a_json_over_another_file(self, shell: Shell, song: Path) -> None:
        shell.path("song.wav").write_bytes(song.read_bytes())
        assert self.refuse(shell, "--json", "demo.mp4") == (
            "--json demo.mp4 would overwrite demo.mp4"
        )
        assert self.refuse(shell, "--media", "song.wav", "--json", "./song.wav") == (
            "--json song.wav would overwrite song.wav"
        )

    def test_a_recording_of_sound_where_there_is_none(self, shell: Shell) -> None:
        assert self.refuse(shell, "--media", "lavfi:testsrc2", "--out", "out.wav") == (
            "lavfi:testsrc2 has no sound, and a .wav recording holds nothing else"
        )


@pytest.mark.parametrize(
    "arguments",
    [("--nonsense",), ("--codec", "H265"), ("--loss", "much"), ("extra",), ("--transport", "tcp")],
    ids=" ".join,
)
def test_usage_errors_are_exit_code_2(arguments: tuple[str, ...], shell: Shell) -> None:
    ended = shell.run("demo", *arguments)
    assert ended.code == 2
    assert "Error: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_whoever_stops_reading_gets_the_json_all_the_same(shell: Shell) -> None:
    process = shell.start("demo", "--seconds", 1, "--json", "out.json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait(20)
    assert "Traceback" not in stderr
    assert shell.json("out.json")["finished"] is True
