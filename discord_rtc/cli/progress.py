"""The live line of the demo. Only where somebody watches: on a terminal, on stderr."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from discord_rtc.cli.call import DemoCall

    Show = Callable[[DemoCall], None]


@contextmanager
def live_progress(length: float | None) -> Iterator[Show]:
    """Show how a call goes.

    Args:
        length: Seconds it will take, None when unknown.

    Yields:
        What is to be called now and then; it does nothing where there is no terminal.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    # It takes a tenth of a second to import, which a pipe need not wait for.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 - as above

    progress = Progress(
        TextColumn("{task.fields[time]}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[state]}"),
        console=Console(stderr=True, highlight=False),
        expand=True,
        transient=True,
    )
    task = progress.add_task("", total=length, time="", state="connecting")

    def show(call: DemoCall) -> None:
        state = "closing" if call.over else _state(call)
        of = "" if length is None else f" / {length:.0f}"
        time = f"{call.elapsed:.0f}{of} s"
        progress.update(task, completed=call.elapsed, time=time, state=state)

    with progress:
        yield show


def _state(call: DemoCall) -> str:
    """Counts of frames, and the delay of late."""
    parts = [f"{item.kind} {item.received}/{call.sent(item.kind)}" for item in call.comparisons]
    delays = [delay for item in call.comparisons if (delay := item.delays.recent()) is not None]
    if delays:
        parts.append(f"{1000 * delays[0]:.0f} ms")
    return "  ".join(parts)
