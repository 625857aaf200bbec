"""Packet statuses of transport-wide feedback. Sans-I/O. Spec: draft-holmer-rmcat-transport-wide-cc.

The list of packets is sent as two parts: chunks of 16 bits that give a symbol for each packet
(0 lost, 1 small delta, 2 large delta), then the deltas of those that arrived, in 250 us.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from discord_rtc.errors import MalformedPacket

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOST, _SMALL, _LARGE = 0, 1, 2  # draft section 3.1.1; 3 is reserved
_LONGEST_RUN = 0x1FFF  # 13 bits, draft section 3.1.3
_ONE_BIT_SYMBOLS, _TWO_BIT_SYMBOLS = 14, 7  # draft section 3.1.4
_VECTOR, _TWO_BITS = 0x8000, 0x4000
_SMALL_DELTA, _LARGE_DELTA = struct.Struct("!B"), struct.Struct("!h")


def build_statuses(deltas: Sequence[int | None]) -> bytes:
    """Build chunks and deltas.

    Args:
        deltas: In 250 us, -32768 to 32767; None for a lost packet.

    Raises:
        struct.error: A delta is out of range.
    """
    symbols = bytes(map(_symbol, deltas))
    parts = []
    position = 0
    while position < len(symbols):
        chunk, used = _build_chunk(symbols, position)
        parts.append(chunk.to_bytes(2, "big"))
        position += used
    parts += (_layout(_symbol(delta)).pack(delta) for delta in deltas if delta is not None)
    return b"".join(parts)


def _symbol(delta: int | None) -> int:
    if delta is None:
        return _LOST
    return _SMALL if 0 <= delta <= 0xFF else _LARGE


def _layout(symbol: int) -> struct.Struct:
    return _SMALL_DELTA if symbol == _SMALL else _LARGE_DELTA


def _build_chunk(symbols: bytes, position: int) -> tuple[int, int]:
    """The chunk that tells most from here on, and how many symbols it tells."""
    rest = symbols[position : position + _LONGEST_RUN]
    run = len(rest) - len(rest.lstrip(rest[:1]))
    window = rest[:_ONE_BIT_SYMBOLS]
    one_bit = _LARGE not in window
    vector = len(window) if one_bit else min(len(window), _TWO_BIT_SYMBOLS)
    if run >= vector:
        return rest[0] << 13 | run, run
    width, size, chunk = (1, _ONE_BIT_SYMBOLS, _VECTOR)
    if not one_bit:
        width, size, chunk = (2, _TWO_BIT_SYMBOLS, _VECTOR | _TWO_BITS)
    for index, symbol in enumerate(window[:vector]):
        chunk |= symbol << (size - 1 - index) * width
    return chunk, vector


def parse_statuses(count: int, data: bytes) -> tuple[int | None, ...]:
    """Read the statuses of ``count`` packets; what follows them is padding.

    Raises:
        MalformedPacket: Not enough chunks or deltas, or a reserved symbol.
    """
    symbols, position = _parse_chunks(count, data)
    deltas: list[int | None] = []
    for symbol in symbols:
        if symbol == _LOST:
            deltas.append(None)
            continue
        layout = _layout(symbol)
        if position + layout.size > len(data):
            raise MalformedPacket("transport feedback ends before its deltas")
        deltas.append(layout.unpack_from(data, position)[0])
        position += layout.size
    return tuple(deltas)


def _parse_chunks(count: int, data: bytes) -> tuple[list[int], int]:
    """The symbols, and where the deltas begin."""
    symbols: list[int] = []
    position = 0
    while len(symbols) < count:
        chunk = int.from_bytes(data[position : position + 2], "big")
        position += 2
        if position > len(data):
            raise MalformedPacket("transport feedback ends before its chunks")
        if not chunk & _VECTOR:
            symbols += [chunk >> 13] * (chunk & _LONGEST_RUN)
        elif chunk & _TWO_BITS:
            symbols += (chunk >> shift & 3 for shift in range(12, -1, -2))
        else:
            symbols += (chunk >> shift & 1 for shift in range(13, -1, -1))
    del symbols[count:]  # the last vector may be longer than needed
    if 3 in symbols:
        raise MalformedPacket("reserved symbol in transport feedback")
    return symbols, position
