"""Futures that are set at most once, by whoever comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


def settle(future: asyncio.Future[T], value: T) -> None:
    """Give a future its value, unless it has one."""
    if not future.done():
        future.set_result(value)


def retire(future: asyncio.Future[T]) -> None:
    """End a future that nobody may wait for any more, without a warning about it."""
    if not future.done():
        future.cancel()
    elif not future.cancelled():
        future.exception()
