"""Every Python snippet of the README runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_snippets_to_run() -> None:
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet: str, tmp_path: Path) -> None:
    if "def test_" in snippet:
        script = tmp_path / "test_snippet.py"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(script)]
    else:
        script = tmp_path / "snippet.py"
        command = [sys.executable, "-W", "error::ResourceWarning", str(script)]
    script.write_text(snippet, encoding="utf-8")
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "ResourceWarning" not in result.stderr


def test_the_bot_note_stands_beside_the_first_video_example() -> None:
    text = README.read_text(encoding="utf-8")
    first_video = text.index("camera=TestPattern")
    note = text.index("does\n*not* let bots send camera")
    assert 0 < note - first_video < 1000
