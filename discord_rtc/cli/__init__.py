"""The command line, ``discord-rtc``. Each command is a function over the public interface.

Exit codes: 0 well, 1 media did not come through, 2 usage or input, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Entry point of ``discord-rtc``."""
    # Imported late, so that importing this package costs nothing.
    from discord_rtc.cli.app import app  # noqa: PLC0415 - see above
    from discord_rtc.cli.shell import ignore_signals, leave_on_signals  # noqa: PLC0415

    leave_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names are any bytes
    try:
        app(prog_name="discord-rtc")
    finally:
        ignore_signals()
