"""Stands in for the Armature worker: a socket that answers as a test wants, over a memfd as the host tier."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from armature_vllm.frames import FrameReader, Head, encode, ints, to_ints
from armature_vllm.pool import start_ticks

DEADLINE = 10.0
LENDER = {"instanceId": "p/0", "address": "here", "agent": "QQ==", "layout": "l"}


def until(what: str, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > end:
            raise AssertionError(f"never: {what}")
        time.sleep(0.002)


def hash_of(prompt: int, row: int) -> bytes:
    return struct.pack("<ii", prompt + 1, row + 1)


class FakeArmature:
    """`answers[op](head, tail)` gives (head, tail), or None to say nothing. `said` keeps every frame."""

    def __init__(self, block_size: int = 4, stride: int = 4096, blocks: int = 32) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "s")
        self.fd = os.memfd_create("pool")
        os.ftruncate(self.fd, stride * blocks)
        self.stride, self.blocks, self.block_size = stride, blocks, block_size
        self.said: list[tuple[Head, bytes]] = []
        self.connections: list[socket.socket] = []
        self.held = 0
        self.epoch = "now"
        self.free = list(range(blocks))
        self.is_valid = True
        self.tokens: dict[int, list[int]] = {}
        self.answers: dict[str, Callable[[Head, bytes], tuple[dict[str, Any], bytes] | None]] = {
            "match": self.match,
            "append": self.append,
            "pull": lambda head, tail: ({"op": "pulled", "lease": 77}, ints(range(head["from"] + 10, head["to"] + 10))),
            "reserve": self.reserve,
            "release": lambda head, tail: ({"op": "released", "valid": self.is_valid}, b""),
        }
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def heads(self, op: str) -> list[Head]:
        return [head for head, _ in list(self.said) if head["op"] == op]

    def match(self, head: Head, tail: bytes) -> tuple[dict[str, Any], bytes]:
        self.tokens[head["prompt"]] = to_ints(tail)
        rows = len(self.tokens[head["prompt"]]) // self.block_size
        return {"op": "matched", "blocks": max(0, min(self.held, rows) - head["from"])}, b"".join(hash_of(head["prompt"], row) for row in range(rows))

    def append(self, head: Head, tail: bytes) -> tuple[dict[str, Any], bytes]:
        tokens = self.tokens[head["prompt"]]
        before = len(tokens) // self.block_size
        tokens += to_ints(tail)
        return {"op": "appended"}, b"".join(hash_of(head["prompt"], row) for row in range(before, len(tokens) // self.block_size))

    def reserve(self, head: Head, tail: bytes) -> tuple[dict[str, Any], bytes]:
        rows = min(len(tail) // 16, len(self.free))
        if rows == 0:
            return {"op": "reserved", "reservation": 0}, b""
        places, self.free = self.free[:rows], self.free[rows:]
        return {"op": "reserved", "reservation": 5 + len(self.said)}, ints(range(rows)) + ints(places)

    def pool_head(self) -> dict[str, Any]:
        return {"op": "pool", "pid": os.getpid(), "startTicks": start_ticks(os.getpid()), "fd": self.fd, "offsetBytes": 0, "epoch": self.epoch, "blocks": self.blocks, "blockStrideBytes": self.stride, "lender": LENDER}

    def push(self, head: dict[str, Any]) -> None:
        for connection in list(self.connections):
            connection.sendall(encode(head))

    def block(self, place: int, length: int) -> bytes:
        return os.pread(self.fd, length, place * self.stride)

    def drop(self) -> None:
        """Every connection ends; new ones are taken."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def close(self) -> None:
        self.listener.close()
        for connection in self.connections:
            connection.close()
        os.close(self.fd)
        self.folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = FrameReader()
        try:
            while chunk := connection.recv(1 << 16):
                for head, tail in reader.push(chunk):
                    self._frame(connection, head, tail)
        except OSError:
            return

    def _frame(self, connection: socket.socket, head: Head, tail: bytes) -> None:
        self.said.append((head, tail))
        if head["op"] == "hello":
            connection.sendall(encode({"op": "welcome", "version": 1}) + encode(self.pool_head()))
            self.connections.append(connection)
            return
        answer = self.answers.get(head["op"])
        found = answer(head, tail) if answer is not None else None
        if found is not None and "id" in head:
            connection.sendall(encode({**found[0], "id": head["id"]}, found[1]))


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())
