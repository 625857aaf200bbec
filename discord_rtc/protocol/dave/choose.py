"""Which DAVE library to use. Sans-I/O.

Nothing is imported before it is needed: a call without end-to-end encryption, or a platform
for which there is no library, works without any.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from discord_rtc.errors import DaveUnavailable
from discord_rtc.protocol.dave.backend import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from discord_rtc.protocol.dave.backend import DaveBackend, DaveLibrary
    from discord_rtc.protocol.dave.identity import IdentityKey

__all__ = ["PROTOCOL_VERSION", "available", "make_backend"]

# Best first: dave.py is Discord's own code and some 16 times quicker with video.
_MODULES: dict[DaveLibrary, str] = {"dave.py": "dave", "davey": "davey"}


def available() -> tuple[DaveLibrary, ...]:
    """The libraries that are installed, best first."""
    return tuple(library for library, module in _MODULES.items() if _is_there(module))


def make_backend(
    user_id: int,
    group_id: int,
    *,
    library: DaveLibrary | None = None,
    identity: IdentityKey | None = None,
) -> DaveBackend:
    """Make the back end for one user in one call.

    Args:
        user_id: Who we are.
        group_id: Of the call.
        library: Which to use; the best one installed, if not said.
        identity: The key that others know us by; without it one for this back end.

    Raises:
        DaveUnavailable: No library is installed, or not the one asked for, or it does not work
            on this platform.
        UsageError: The identity is no key.
    """
    installed = available()
    if library is not None and library not in installed:
        raise DaveUnavailable(_advice(library, "is not installed"))
    if not installed:
        raise DaveUnavailable(
            "end-to-end encryption needs a DAVE library, and none is installed: pip install dave.py"
        )
    best, *others = installed if library is None else (library,)
    try:
        return _load(best)(user_id, group_id, identity)
    except DaveUnavailable:
        if not others:
            raise
        return _load(others[0])(user_id, group_id, identity)


def _is_there(module: str) -> bool:
    # Any folder of that name can be imported, and has no origin.
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def _load(library: DaveLibrary) -> Callable[[int, int, IdentityKey | None], DaveBackend]:
    try:
        # The modules import their library.
        if library == "dave.py":
            from discord_rtc.protocol.dave.libdave import LibdaveBackend  # noqa: PLC0415

            return LibdaveBackend
        from discord_rtc.protocol.dave.davey import DaveyBackend  # noqa: PLC0415

        return DaveyBackend
    except (ImportError, AttributeError) as error:  # something else may have that name
        raise DaveUnavailable(_advice(library, f"cannot be loaded ({error})")) from error


def _advice(library: DaveLibrary, trouble: str) -> str:
    return f"the DAVE library {library} {trouble}: pip install --upgrade {library}"
