"""``discord-rtc bench``: its table, its JSON, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from discord_rtc.cli.bench import dave_figures, dave_table, excess, figures_of, table
from discord_rtc.cli.dave_cost import GROUP_SIZES, FrameCost, GroupCost
from discord_rtc.cli.join_cost import JoinCost, Step

if TYPE_CHECKING:
    from .conftest import Shell

NEAR = JoinCost("udp", 0.0, (Step("ready", 1, 0.001, "identify"), Step("select", 1, 0.02, "op 1")))
FAR = JoinCost("udp", 0.1, (Step("ready", 1, 0.102, "identify"), Step("select", 1, 0.23, "op 1")))

FRAME = FrameCost("Opus", 160, "dave.py", 2e-6, 1e-6, 0.5e-6, 6e-6, 192e-6)
GROUP = GroupCost("davey", 25, 0.0608, 0.0161)


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
    assert "E2EE group" in ended.stdout
    assert figures["join"].keys() == {"udp", "webrtc"}
    assert (
        figures["join"]["webrtc"]["round_trips"] >= figures["join"]["webrtc"]["least_round_trips"]
    )


def test_the_cost_of_encryption_is_shown_with_its_share_of_a_frame() -> None:
    lines = dave_table([FRAME], [GROUP]).splitlines()
    name, rest = lines[2][:16].rstrip(), lines[2][16:]
    assert name == "Opus, 160 B"
    assert rest.split() == [
        *("dave.py", "2.00", "1.00", "0.50", "4.0", "6.0", "192"),
        *("25.0%;", "1.00%"),
    ]
    assert lines[-1].split() == ["25", "davey", "60.8", "16.1"]
    header, line = lines[1], lines[2]
    for column in ("encrypt", "decrypt", "bare", "x bare", "packets", "encode"):
        end = header.index(column) + len(column)
        assert line[end - 1].isdigit()
        assert line[end] == " "


def test_figures_of_encryption_for_programs_are_in_microseconds_and_milliseconds() -> None:
    figures = dave_figures([FRAME], [GROUP])
    frame, group = figures["frames"][0], figures["groups"][0]
    assert (frame["library"], frame["bytes"]) == ("dave.py", 160)
    assert frame["encrypt_us"] == pytest.approx(2)
    assert frame["share_of_sending"] == pytest.approx(0.25)
    assert frame["share_with_encoding"] == pytest.approx(0.01)
    assert (group["members"], group["commit_ms"]) == (25, pytest.approx(60.8))
    assert json.loads(json.dumps(figures)) == figures


def test_it_measures_encryption_with_both_libraries(shell: Shell) -> None:
    ended = shell.run("bench", "dave", "--json", "figures.json")
    assert ended.code == 0, ended
    assert ended.stderr == ""
    assert "making a group" in ended.stdout
    figures = json.loads((shell.directory / "figures.json").read_text(encoding="utf-8"))["dave"]
    frames = [(cost["library"], cost["frame"]) for cost in figures["frames"]]
    assert frames == [
        (library, kind) for library in ("dave.py", "davey") for kind in ("Opus", "H264")
    ]
    for cost in figures["frames"]:
        assert cost["encrypt_us"] > cost["bare_aes_gcm_us"] > 0
        assert 0 < cost["share_with_encoding"] < cost["share_of_sending"] < 1
        wanted = 160 if cost["frame"] == "Opus" else 30_000
        assert 0.8 * wanted < cost["bytes"] < 1.2 * wanted
    sizes = [cost["members"] for cost in figures["groups"]]
    assert sizes == [*GROUP_SIZES, *GROUP_SIZES]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("speed",), "there is no benchmark 'speed', only: join, dave"),
        (("--rtt", "0"), "--rtt is 1 to 2000 milliseconds, not 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: tuple[str, ...], sentence: str, shell: Shell
) -> None:
    ended = shell.run("bench", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.sentence == sentence
