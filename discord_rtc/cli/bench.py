"""``discord-rtc bench``: what things cost, measured here and now."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from discord_rtc.cli.shell import EXIT_FAILED, EXIT_INTERRUPTED, Interrupted, refuse, run
from discord_rtc.errors import RtcError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from discord_rtc.cli.join_cost import JoinCost

BENCHMARKS = ("join",)

DEFAULT_RTT_MS = 100.0
"""A voice server on another continent."""

RUNS = 3
"""Joins of each kind; of each step the fastest counts."""

_NOISE = 0.25
"""Round trips; an excess below it is no exchange too many but this machine's work and timers."""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="What to measure: join. By default everything."),
    ] = None,
    rtt: Annotated[
        float, typer.Option(metavar="MS", help="Round trip of the simulated network, in ms.")
    ] = DEFAULT_RTT_MS,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON, too.")
    ] = None,
) -> None:
    """Measure what joining a call costs, step by step, beside the least that is possible.

    Exit codes: 0 well, 1 a measurement failed, 2 usage, 130 Ctrl-C.
    """
    unknown = [name for name in names or () if name not in BENCHMARKS]
    if unknown:
        refuse(f"there is no benchmark {unknown[0]!r}, only: {', '.join(BENCHMARKS)}")
    if not 1 <= rtt <= 2000:
        refuse(f"--rtt is 1 to 2000 milliseconds, not {rtt:g}")
    try:
        costs = run(_measure(rtt / 1000))
    except Interrupted:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except RtcError as error:
        refuse(str(error), EXIT_FAILED)
    for near, far in costs:
        print(table(near, far))
    if json_file is not None:
        figures = {"join": {far.transport: figures_of(near, far) for near, far in costs}}
        try:
            json_file.write_text(json.dumps(figures, indent=2), encoding="utf-8")
        except OSError as error:
            refuse(f"{json_file} cannot be written: {error.strerror}")


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
