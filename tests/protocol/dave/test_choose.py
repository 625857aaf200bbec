"""The choice of a library."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from discord_rtc.errors import DaveUnavailable, UsageError
from discord_rtc.protocol.dave import choose
from discord_rtc.protocol.dave.choose import PROTOCOL_VERSION, available, make_backend
from discord_rtc.protocol.dave.identity import IdentityKey

from .contract import identity_of
from .external import signature_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveLibrary

    Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make it look as if just these modules were installed."""

    def install(*modules: str) -> None:
        monkeypatch.setattr(
            choose,
            "find_spec",
            lambda name: ModuleSpec(name, None, origin="x.py") if name in modules else None,
        )

    return install


def test_what_is_installed_is_found_best_first(install: Install) -> None:
    assert available() == ("dave.py", "davey")
    install("davey")
    assert available() == ("davey",)
    install()
    assert available() == ()


def test_the_best_is_taken_unless_another_is_asked_for(install: Install) -> None:
    assert make_backend(1, 2).library == "dave.py"
    assert make_backend(1, 2, library="davey").library == "davey"
    install("davey")
    assert make_backend(1, 2).library == "davey"


@pytest.mark.parametrize("library", ["dave.py", "davey"])
def test_user_and_identity_reach_the_library(library: DaveLibrary) -> None:
    backend = make_backend(77, 2, library=library, identity=identity_of(9))
    package = backend.begin(PROTOCOL_VERSION)
    assert signature_key(package) == identity_of(9).public
    assert (77).to_bytes(8, "big") in package


def test_without_a_library_the_error_says_what_to_install(install: Install) -> None:
    install()
    with pytest.raises(DaveUnavailable, match=r"pip install dave\.py"):
        make_backend(1, 2)


@pytest.mark.parametrize(("library", "other"), [("dave.py", "davey"), ("davey", "dave")])
def test_a_missing_library_that_was_asked_for_is_named(
    install: Install, library: DaveLibrary, other: str
) -> None:
    install(other)
    with pytest.raises(DaveUnavailable, match=f"{library} is not installed.* {library}$"):
        make_backend(1, 2, library=library)


@pytest.mark.parametrize(("library", "module"), [("dave.py", "libdave"), ("davey", "davey")])
def test_a_library_that_cannot_be_loaded_is_an_error_that_says_why(
    library: DaveLibrary, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"discord_rtc.protocol.dave.{module}", None)
    with pytest.raises(DaveUnavailable, match=f"{library} cannot be loaded") as caught:
        make_backend(1, 2, library=library)
    assert isinstance(caught.value.__cause__, ImportError)


def test_the_other_library_is_taken_where_the_best_one_does_not_load(
    monkeypatch: pytest.MonkeyPatch, install: Install
) -> None:
    monkeypatch.setitem(sys.modules, "discord_rtc.protocol.dave.libdave", None)
    assert make_backend(1, 2).library == "davey"
    monkeypatch.setitem(sys.modules, "discord_rtc.protocol.dave.davey", None)
    with pytest.raises(DaveUnavailable, match="davey cannot be loaded"):
        make_backend(1, 2)
    install("dave")
    with pytest.raises(DaveUnavailable, match=r"dave\.py cannot be loaded"):
        make_backend(1, 2)


def test_something_else_of_that_name_is_no_library(tmp_path: Path) -> None:
    """A folder is a package, too, as far as Python is concerned; and so is another project."""
    (tmp_path / "dave").mkdir()
    (tmp_path / "davey.py").write_text("")
    # The package alone: where it is installed, the real libraries are beside it.
    (tmp_path / "discord_rtc").symlink_to(Path(choose.__file__).parents[2])
    code = (
        "import sys\n"
        "sys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"
        f"sys.path[:0] = {[str(tmp_path)]!r}\n"
        "import discord_rtc.errors as errors\n"
        "import discord_rtc.protocol.dave.choose as choose\n"
        "assert choose.available() == ('davey',), choose.available()\n"
        "try:\n"
        "    choose.make_backend(1, 2)\n"
        "except errors.DaveUnavailable as error:\n"
        "    assert 'davey cannot be loaded' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_bad_identity_is_not_taken_for_a_missing_library() -> None:
    with pytest.raises(UsageError):
        make_backend(1, 2, identity=IdentityKey(bytes(32), identity_of(9).public))


def test_no_library_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys\n"
        "import discord_rtc.protocol.dave.choose as choose\n"
        "choose.available()\n"
        "assert not {'dave', 'davey'} & set(sys.modules)\n"
        "choose.make_backend(1, 2, library='davey')\n"
        "assert 'dave' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
