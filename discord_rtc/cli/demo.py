"""``discord-rtc demo``: the main job in one command, no account needed."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from discord_rtc.cli.progress import live_progress
from discord_rtc.cli.shell import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Interrupted,
    Interruption,
    not_built,
    refuse,
    run,
)
from discord_rtc.errors import MediaError, RtcError
from discord_rtc.frames import Codec, MediaKind
from discord_rtc.media.formats import FORMATS

if TYPE_CHECKING:
    from discord_rtc.cli.call import DemoCall
    from discord_rtc.cli.plan import Sources

PATTERN_SECONDS = 10.0
"""How long the built-in source runs when ``--seconds`` does not say."""


class DemoTransport(StrEnum):
    """Choices of ``--transport`` and ``--to``."""

    AUTO = "auto"
    UDP = "udp"
    WEBRTC = "webrtc"


class DemoDave(StrEnum):
    """Choices of ``--dave``."""

    REQUIRED = "required"
    OFF = "off"


class DemoCodec(StrEnum):
    """Choices of ``--codec``."""

    H264 = "H264"
    VP8 = "VP8"


def demo(
    media: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="What to send: a file, a URL, or lavfi: and an FFmpeg filter graph. "
            "By default a moving test pattern with a tone.",
        ),
    ] = None,
    transport: Annotated[
        DemoTransport, typer.Option(help="Transport of the sender; auto is webrtc, or else udp.")
    ] = DemoTransport.AUTO,
    to: Annotated[
        DemoTransport, typer.Option(help="Transport of the receiver.")
    ] = DemoTransport.AUTO,
    dave: Annotated[
        DemoDave, typer.Option(help="End-to-end encryption (DAVE) of the call.")
    ] = DemoDave.REQUIRED,
    codec: Annotated[
        DemoCodec, typer.Option(case_sensitive=False, metavar="<H264|VP8>", help="Video codec.")
    ] = DemoCodec.H264,
    golive: Annotated[
        bool, typer.Option("--golive", help="Send as a Go Live stream; not built yet.")
    ] = False,
    loss: Annotated[
        float,
        typer.Option(
            metavar="P", help="Probability that a packet is lost on each way, from 0 to below 1."
        ),
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the loss: the same one loses the same.")
    ] = 0,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Stop after so many seconds; by default at the end of the source, "
            f"and after {PATTERN_SECONDS:.0f} with the test pattern.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Recording of what was received, .mp4 .mkv .webm .ogg or .wav; overwritten.",
        ),
    ] = Path("demo.mp4"),
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the result as JSON, too."),
    ] = None,
) -> None:
    """The main job in one command, no account needed: a call through a local server.

    One user sends media live; another one receives, decodes, compares and records them.

    Exit codes: 0 well, 1 media did not come through, 2 usage or input, 130 Ctrl-C.
    """
    if golive:
        not_built("--golive")
    _check_numbers(loss, seconds)
    _check_files(media, out, json_file)
    # PyAV, aiortc and numpy take half a second to import: nothing that --help or a wrong
    # option has to wait for.
    from discord_rtc.cli.call import DemoCall  # noqa: PLC0415 - see above
    from discord_rtc.cli.plan import CallPlan, open_sources  # noqa: PLC0415 - see above

    interruption = Interruption()
    with ExitStack() as telling:
        try:
            with open_sources(media) as sources:
                call = DemoCall(
                    CallPlan(
                        sources=sources,
                        transport=transport.value,
                        receiver_transport=to.value,
                        codec=Codec(codec.value),
                        dave=dave.value,
                        loss=loss,
                        seed=seed,
                        seconds=seconds or (PATTERN_SECONDS if media is None else None),
                        out=out,
                        recorded=_recordable(sources, out, media),
                    )
                )
                telling.enter_context(interruption)
                code, sentence = _run(call, interruption)
        except MediaError as error:
            refuse(str(error))
        _publish_report(call, json_file)
        if code:
            refuse(sentence, code)


def _check_numbers(loss: float, seconds: float | None) -> None:
    if not 0 <= loss < 1:
        refuse(f"--loss is a probability from 0 to below 1, not {loss:g}")
    if seconds is not None and not seconds > 0:
        refuse(f"--seconds must be more than 0, not {seconds:g}")


def _check_files(media: str | None, out: Path, json_file: Path | None) -> None:
    """Refuse what would fail or do harm only after the call."""
    if out.suffix.lower() not in FORMATS:
        known = " ".join(FORMATS)
        refuse(f"--out must end in one of {known}, which {out} does not")
    if media is not None and _same(Path(media), out):
        refuse(f"--out {out} would overwrite the media that is to be sent")
    if json_file is not None:
        for other in (out, None if media is None else Path(media)):
            if other is not None and _same(other, json_file):
                refuse(f"--json {json_file} would overwrite {other}")
        _check_writable(json_file)
    _check_writable(out)


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError, ValueError):
        return one.resolve() == other.resolve() or one.samefile(other)
    return False


def _check_writable(path: Path) -> None:
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except (OSError, ValueError) as error:
        refuse(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}")


def _recordable(sources: Sources, out: Path, media: str | None) -> frozenset[MediaKind]:
    """What the recording can hold of what is sent."""
    kinds = {
        kind
        for kind, track in ((MediaKind.VIDEO, sources.video), (MediaKind.AUDIO, sources.audio))
        if track is not None
    }
    if FORMATS[out.suffix.lower()].video is None:
        kinds.discard(MediaKind.VIDEO)
    if not kinds:
        refuse(f"{media} has no sound, and a {out.suffix} recording holds nothing else")
    return frozenset(kinds)


def _run(call: DemoCall, interruption: Interruption) -> tuple[int, str]:
    """Exit code, and what to say when it is not 0."""
    try:
        with live_progress(call.length) as show:
            run(call.run(lambda: show(call)), interruption)
    except Interrupted:
        return EXIT_INTERRUPTED, f"interrupted after {call.elapsed:.1f} s"
    except RtcError as error:
        return EXIT_FAILED, str(error)
    if not call.report().came_through:
        return EXIT_FAILED, "media did not come through"
    return 0, ""


def _publish_report(call: DemoCall, json_file: Path | None) -> None:
    report = call.report()
    complaint = None
    if json_file is not None:  # first: whoever reads the table may stop reading
        try:
            json_file.write_text(report.to_json(), encoding="utf-8")
        except OSError as error:
            complaint = f"{json_file} cannot be written: {error.strerror}"
    rows = report.rows()
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:{width}}  {value}")
    if complaint is not None:
        refuse(complaint)
