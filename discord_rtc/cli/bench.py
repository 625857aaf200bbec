"""``discord-rtc bench``: what things cost, measured here and now."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from discord_rtc.cli.shell import EXIT_FAILED, EXIT_INTERRUPTED, Interrupted, refuse, run
from discord_rtc.errors import RtcError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from discord_rtc.cli.dave_cost import FrameCost, GroupCost
    from discord_rtc.cli.join_cost import JoinCost

DEFAULT_RTT_MS = 100.0
"""A voice server on another continent."""

RUNS = 3
"""Joins of each kind; of each step the fastest counts."""

_NOISE = 0.25
"""Round trips; an excess below it is no exchange too many but this machine's work and timers."""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]", help="What to measure: join, dave. By default everything."
        ),
    ] = None,
    rtt: Annotated[
        float, typer.Option(metavar="MS", help="Round trip of the simulated network, in ms.")
    ] = DEFAULT_RTT_MS,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON, too.")
    ] = None,
) -> None:
    """Measure what things cost here: joining, beside the least that is possible; encryption.

    Exit codes: 0 well, 1 a measurement failed, 2 usage, 130 Ctrl-C.
    """
    wanted = list(dict.fromkeys(names or BENCHMARKS))
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        refuse(f"there is no benchmark {unknown[0]!r}, only: {', '.join(BENCHMARKS)}")
    if not 1 <= rtt <= 2000:
        refuse(f"--rtt is 1 to 2000 milliseconds, not {rtt:g}")
    figures: dict[str, object] = {}
    try:
        for name in wanted:
            figures[name] = BENCHMARKS[name](rtt / 1000)
    except Interrupted:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RtcError as error:
        refuse(str(error), EXIT_FAILED)
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(figures, indent=2), encoding="utf-8")
        except OSError as error:
            refuse(f"{json_file} cannot be written: {error.strerror}")


def _bench_join(rtt: float) -> object:
    costs = run(_measure(rtt))
    for near, far in costs:
        print(table(near, far))
    return {far.transport: figures_of(near, far) for near, far in costs}


def _bench_dave(_rtt: float) -> object:
    # As below: nothing that --help has to wait for.
    from discord_rtc.cli.dave_cost import measure_frames, measure_groups  # noqa: PLC0415

    frames, groups = measure_frames(), measure_groups()
    print(dave_table(frames, groups))
    return dave_figures(frames, groups)


BENCHMARKS: Mapping[str, Callable[[float], object]] = MappingProxyType(
    {"join": _bench_join, "dave": _bench_dave}
)
"""By name: each takes the round trip in seconds, prints, and returns its figures for JSON."""


async def _measure(rtt: float) -> list[tuple[JoinCost, JoinCost]]:
    """Each transport without any distance, which shows this machine's own work, and with it."""
    # PyAV, aiortc and numpy take half a second to import, which --help need not wait for.
    from discord_rtc.cli.join_cost import TRANSPORTS, best, measure_join  # noqa: PLC0415

    return [
        (
            best([await measure_join(name, 0.0) for _ in range(RUNS)]),
            best([await measure_join(name, rtt) for _ in range(RUNS)]),
        )
        for name in TRANSPORTS
    ]


def excess(near: float, far: float, least: float, rtt: float) -> str:
    """Why a step took longer than its round trips.

    Args:
        near: Seconds that it took without any distance.
        far: Seconds that it took.
        least: Round trips that it needs.
        rtt: Seconds of one.
    """
    over = far - least * rtt
    if over < 0.005:
        return "-"
    if over - near < _NOISE * rtt:
        return f"{over * 1000:.0f} ms of work and timers, {near * 1000:.0f} ms without any distance"
    return f"{(over - near) / rtt:.1f} round trips more than needed"


def table(near: JoinCost, far: JoinCost) -> str:
    """One join for people."""
    lines = [
        f"join over {far.transport}, {far.rtt * 1000:g} ms round trip",
        f"{'step':14}{'least':>7}{'took':>7}{'ms':>8}   spent on; excess",
    ]
    for step, local in zip(far.steps, near.steps, strict=True):
        reason = excess(local.seconds, step.seconds, step.least, far.rtt)
        lines.append(
            f"{step.name:14}{step.least:7.1f}{step.seconds / far.rtt:7.2f}"
            f"{step.seconds * 1000:8.1f}   {step.why}; {reason}"
        )
    lines.append(
        f"{'altogether':14}{far.least:7.1f}{far.seconds / far.rtt:7.2f}{far.seconds * 1000:8.1f}\n"
    )
    return "\n".join(lines)


def figures_of(near: JoinCost, far: JoinCost) -> Mapping[str, object]:
    """One join for programs; times in milliseconds."""
    return {
        "rtt_ms": far.rtt * 1000,
        "least_round_trips": far.least,
        "round_trips": far.seconds / far.rtt,
        "ms": far.seconds * 1000,
        "ms_without_distance": near.seconds * 1000,
        "steps": [
            {
                "name": step.name,
                "least_round_trips": step.least,
                "round_trips": step.seconds / far.rtt,
                "ms": step.seconds * 1000,
                "ms_without_distance": local.seconds * 1000,
                "spent_on": step.why,
            }
            for step, local in zip(far.steps, near.steps, strict=True)
        ],
    }


def dave_table(frames: Sequence[FrameCost], groups: Sequence[GroupCost]) -> str:
    """The cost of end-to-end encryption for people."""
    lines = [
        "end-to-end encryption (DAVE) of one frame, microseconds; bare is AES-GCM over its bytes",
        f"{'frame':16}{'library':10}{'encrypt':>9}{'decrypt':>9}{'bare':>8}{'x bare':>8}"
        f"{'packets':>9}{'encode':>9}   part of sending; with encoding",
    ]
    for cost in frames:
        name = f"{cost.frame}, {cost.size} B"
        lines.append(
            f"{name:16}{cost.library:10}{cost.encrypt * 1e6:9.2f}{cost.decrypt * 1e6:9.2f}"
            f"{cost.bare * 1e6:8.2f}{cost.encrypt / cost.bare:8.1f}{cost.packets * 1e6:9.1f}"
            f"{cost.encode * 1e6:9.0f}   {cost.share_of_sending:.1%}; {cost.share_of_all:.2%}"
        )
    lines += ["", "making a group, milliseconds of one member"]
    lines.append(f"{'members':>8}  {'library':10}{'commit':>9}{'welcome':>9}")
    lines += [
        f"{cost.members:8}  {cost.library:10}{cost.commit * 1e3:9.1f}{cost.welcome * 1e3:9.1f}"
        for cost in groups
    ]
    return "\n".join([*lines, ""])


def dave_figures(
    frames: Sequence[FrameCost], groups: Sequence[GroupCost]
) -> Mapping[str, Sequence[Mapping[str, object]]]:
    """The same for programs; times in microseconds and milliseconds."""
    return {
        "frames": [
            {
                "frame": cost.frame,
                "bytes": cost.size,
                "library": cost.library,
                "encrypt_us": cost.encrypt * 1e6,
                "decrypt_us": cost.decrypt * 1e6,
                "bare_aes_gcm_us": cost.bare * 1e6,
                "packets_us": cost.packets * 1e6,
                "encode_us": cost.encode * 1e6,
                "share_of_sending": cost.share_of_sending,
                "share_with_encoding": cost.share_of_all,
            }
            for cost in frames
        ],
        "groups": [
            {
                "library": cost.library,
                "members": cost.members,
                "commit_ms": cost.commit * 1e3,
                "welcome_ms": cost.welcome * 1e3,
            }
            for cost in groups
        ],
    }
