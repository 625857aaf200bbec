"""``discord-rtc bench``: its table, its JSON, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from discord_rtc.cli.bench import excess, figures_of, table
from discord_rtc.cli.join_cost import JoinCost, Step

if TYPE_CHECKING:
    from .conftest import Shell

NEAR = JoinCost("udp", 0.0, (Step("ready", 1, 0.001, "identify"), Step("select", 1, 0.02, "op 1")))
FAR = JoinCost("udp", 0.1, (Step("ready", 1, 0.102, "identify"), Step("select", 1, 0.23, "op 1")))


@pytest.mark.parametrize(
    ("near", "far", "said"),
    [
        (0.001, 0.103, "-"),
        (0.010, 0.115, "15 ms of work and timers, 10 ms without any distance"),
        (0.010, 0.310, "2.0 round trips more than needed"),
    ],
)
def test_an_excess_is_named_by_its_kind(near: float, far: float, said: str) -> None:
    assert excess(near, far, 1, 0.1) == said


def test_the_table_has_a_line_for_each_step_and_a_sum() -> None:
    lines = table(NEAR, FAR).splitlines()
    assert lines[0] == "join over udp, 100 ms round trip"
    assert [line.split()[0] for line in lines[2:]] == ["ready", "select", "altogether"]
    assert lines[-1].split()[1:] == ["2.0", "3.32", "332.0"]


def test_figures_for_programs_are_in_milliseconds() -> None:
    figures = figures_of(NEAR, FAR)
    assert figures["ms"] == pytest.approx(332)
    assert figures["least_round_trips"] == 2
    assert json.loads(json.dumps(figures)) == figures


def test_it_measures_both_transports(shell: Shell) -> None:
    ended = shell.run("bench", "join", "--rtt", "40", "--json", "figures.json")
    assert ended.code == 0, ended
    assert "join over udp, 40 ms round trip" in ended.stdout
    assert "join over webrtc, 40 ms round trip" in ended.stdout
    figures = json.loads((shell.directory / "figures.json").read_text(encoding="utf-8"))
    assert figures["join"].keys() == {"udp", "webrtc"}
    assert (
        figures["join"]["webrtc"]["round_trips"] >= figures["join"]["webrtc"]["least_round_trips"]
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("speed",), "there is no benchmark 'speed', only: join"),
        (("--rtt", "0"), "--rtt is 1 to 2000 milliseconds, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: tuple[str, ...], sentence: str, shell: Shell
) -> None:
    ended = shell.run("bench", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.sentence == sentence
