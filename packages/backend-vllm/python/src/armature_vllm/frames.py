"""Frames of the connector's socket: u32 length of what follows, u32 length of the head, the head (JSON), the tail (i32 columns). Little-endian.

The contract is docs/reference/vllm-connector.md of Armature.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 16 << 20

_LENGTHS = struct.Struct("<II")
_LENGTH = struct.Struct("<I")

Head = dict[str, Any]


class FrameError(Exception):
    """The other side sent what is no frame."""


def encode(head: Mapping[str, Any], tail: bytes = b"") -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    return _LENGTHS.pack(4 + len(text) + len(tail), len(text)) + text + tail


def ints(values: Iterable[int]) -> bytes:
    """A column of a tail."""
    column = list(values)
    return struct.pack(f"<{len(column)}i", *column)


def to_ints(tail: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(tail) // 4}i", tail))


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, chunk: bytes) -> Iterator[tuple[Head, bytes]]:
        """Every frame that is complete now."""
        self._bytes += chunk
        while len(self._bytes) >= 4:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if not 4 <= length <= MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes")
            if len(self._bytes) < 4 + length:
                return
            body = bytes(self._bytes[4 : 4 + length])
            del self._bytes[: 4 + length]
            yield _decode(body)


def _decode(body: bytes) -> tuple[Head, bytes]:
    (head_bytes,) = _LENGTH.unpack_from(body)
    tail = body[4 + head_bytes :]
    if head_bytes > len(body) - 4 or len(tail) % 4 != 0:
        raise FrameError(f"a head of {head_bytes} bytes in a frame of {len(body)}")
    try:
        head = json.loads(body[4 : 4 + head_bytes])
    except ValueError as error:
        raise FrameError("a head that is no JSON object") from error
    if not isinstance(head, dict):
        raise FrameError("a head that is no JSON object")
    return head, tail
