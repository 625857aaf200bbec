from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import typer

from discord_rtc.cli.shell import EXIT_FAILED, Interrupted, not_built, refuse, run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _handlers_are_as_before() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def _return(value: int) -> int:
    return value


def test_work_that_ends_gives_its_result() -> None:
    assert run(_return(7)) == 7


def test_errors_go_through() -> None:
    async def fail() -> None:
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        run(fail())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_work_close_what_it_opened(number: signal.Signals) -> None:
    closed = []

    async def work() -> None:
        try:
            signal.raise_signal(number)
            signal.raise_signal(number)  # programs that start others pass it on again
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    with pytest.raises(Interrupted):
        run(work())
    assert closed


def test_what_is_told_afterwards_is_not_cut_off_by_the_same_ctrl_c() -> None:
    code = (
        "import asyncio, signal\n"
        "from discord_rtc.cli.shell import Interrupted, Interruption, run\n"
        "with Interruption() as interruption:\n"
        "    try:\n"
        "        run(asyncio.sleep(0, signal.raise_signal(signal.SIGINT)), interruption)\n"
        "    except Interrupted:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "        print('told')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=20
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "told\n", "")


def test_a_ctrl_c_after_the_work_ends_the_process_quietly() -> None:
    code = (
        "import asyncio, signal\n"
        "from discord_rtc.cli.shell import Interruption, run\n"
        "with Interruption() as interruption:\n"
        "    run(asyncio.sleep(0), interruption)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    print('never told')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=20
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_it_works_where_signals_do_not_arrive() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(run(_return(7))))
    thread.start()
    thread.join()
    assert results == [7]


def test_whoever_does_not_want_to_wait_interrupts_again_later() -> None:
    code = (
        "import asyncio\n"
        "from discord_rtc.cli.shell import run\n"
        "async def work():\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(30)\n"
        "    finally:\n"
        "        await asyncio.sleep(30)\n"
        "run(work())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=5)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == "\ndiscord-rtc: aborted before everything was closed\n"


def test_refusing_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ending:
        refuse("it\n is so")
    assert ending.value.exit_code == 2
    assert capsys.readouterr() == ("", "discord-rtc: it is so\n")


def test_refusing_may_have_another_exit_code() -> None:
    with pytest.raises(typer.Exit) as ending:
        refuse("no", EXIT_FAILED)
    assert ending.value.exit_code == 1


def test_what_is_not_built_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        not_built("--golive")
    assert capsys.readouterr().err == "discord-rtc: --golive is not built yet in this version\n"
