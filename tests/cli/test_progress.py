from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from discord_rtc.cli.progress import live_progress

if TYPE_CHECKING:
    from discord_rtc.cli.call import DemoCall


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def call(*, over: bool = False, delay: float | None = 0.012) -> DemoCall:
    """As much of a call as is looked at."""
    delays = SimpleNamespace(recent=lambda: delay)
    comparison = SimpleNamespace(kind="video", received=48, delays=delays)
    state = SimpleNamespace(
        over=over, elapsed=2.0, comparisons=[comparison], sent=lambda kind: {"video": 49}[kind]
    )
    return cast("DemoCall", state)


Watch = Callable[[], Terminal]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Puts a terminal in the place of stderr; called in the test, as pytest redirects before."""

    def attach() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        return terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return attach


def test_it_shows_time_frames_and_delay(watch: Watch) -> None:
    terminal = watch()
    with live_progress(10) as show:
        show(call())
    shown = terminal.getvalue()
    assert "2 / 10 s" in shown
    assert "video 48/49  12 ms" in shown


def test_the_length_may_be_unknown(watch: Watch) -> None:
    terminal = watch()
    with live_progress(None) as show:
        show(call(delay=None))
    shown = terminal.getvalue()
    assert "\x1b[2K2 s " in shown
    assert "video 48/49" in shown
    assert " ms" not in shown


def test_it_says_when_only_closing_is_left(watch: Watch) -> None:
    terminal = watch()
    with live_progress(10) as show:
        show(call(over=True))
    assert "closing" in terminal.getvalue()


def test_it_disappears_at_the_end(watch: Watch) -> None:
    terminal = watch()
    with live_progress(10) as show:
        show(call())
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize("kind", ["pipe", "dumb"])
def test_nothing_is_shown_where_nobody_watches(
    kind: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = watch()
    if kind == "pipe":
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    else:
        monkeypatch.setenv("TERM", "dumb")
    with live_progress(10) as show:
        show(call())
    assert terminal.getvalue() == ""
