"""One socket to the Armature worker: connects and connects again, says hello, matches answers to questions."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .frames import PROTOCOL_VERSION, FrameError, FrameReader, Head, encode

logger = logging.getLogger("vllm.armature")

RETRY_SECONDS = 0.5
SEND_TIMEOUT_SECONDS = 10.0

Answer = Callable[[Head | None, bytes], None]
"""Called once, on the link's thread: the answer, or None when the connection ended first."""


class Link:
    """`on_push` gets frames nobody asked for; `on_down` is called when a connection ends. Both on the link's thread."""

    def __init__(self, path: str, hello: Mapping[str, Any], on_push: Callable[[Head, bytes], None], on_down: Callable[[], None]) -> None:
        self._path = path
        self._hello = dict(hello, op="hello", version=PROTOCOL_VERSION, pid=os.getpid())
        self._on_push = on_push
        self._on_down = on_down
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._waiting: dict[int, Answer] = {}
        self._next_id = 1
        self._socket: socket.socket | None = None
        self._is_welcome = False
        self._closed = threading.Event()
        self._is_known_down = False
        self._thread = threading.Thread(target=self._run, name=f"armature-{self._hello['role']}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self._is_welcome

    def send(self, head: Mapping[str, Any], tail: bytes = b"") -> bool:
        """False: not connected; nothing was sent."""
        with self._lock:
            connection = self._socket if self._is_welcome else None
        return connection is not None and self._write(connection, encode(head, tail))

    def ask(self, head: Mapping[str, Any], tail: bytes, answer: Answer) -> int:
        """Sends a question; `answer` is called on the link's thread, or here when there is no connection."""
        with self._lock:
            number = self._next_id
            self._next_id += 1
            connection = self._socket if self._is_welcome else None
            if connection is not None:
                self._waiting[number] = answer
        if connection is None:
            answer(None, b"")
        elif not self._write(connection, encode(dict(head, id=number), tail)):
            self._answer(number, None, b"")
        return number

    def call(self, head: Mapping[str, Any], tail: bytes, timeout: float) -> tuple[Head, bytes] | None:
        """`ask`, waited for. None: no connection, or no answer in time. Not for the link's own thread."""
        done = threading.Event()
        found: list[tuple[Head, bytes]] = []

        def answer(reply: Head | None, tail: bytes) -> None:
            if reply is not None:
                found.append((reply, tail))
            done.set()

        number = self.ask(head, tail, answer)
        if not done.wait(timeout):
            with self._lock:
                self._waiting.pop(number, None)
        return found[0] if found else None

    def drop(self) -> None:
        """Ends the connection, and with it every question; it is tried again."""
        self._shut()

    def close(self) -> None:
        self._closed.set()
        self._shut()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._serve()
            except (OSError, FrameError) as error:
                # Once for each time it goes down: the worker may be away for long.
                if not self._is_known_down and not self._closed.is_set():
                    logger.warning("Armature's socket %s: %s; vLLM computes everything until it is back", self._path, error)
                self._is_known_down = True
            self._down()
            self._closed.wait(RETRY_SECONDS)

    def _serve(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SEND_TIMEOUT_SECONDS)
            connection.connect(self._path)
            connection.sendall(encode(self._hello))
            connection.settimeout(None)
            with self._lock:
                self._socket = connection
            reader = FrameReader()
            while not self._closed.is_set():
                chunk = connection.recv(1 << 18)
                if not chunk:
                    raise OSError("the Armature worker closed it")
                for head, tail in reader.push(chunk):
                    self._frame(head, tail)

    def _frame(self, head: Head, tail: bytes) -> None:
        op = head.get("op")
        if op == "refused":
            logger.error("Armature refuses this vLLM: %s %s (%s)", head.get("code"), head.get("message"), head.get("hint"))
            raise OSError(f"refused: {head.get('message')}")
        if op == "welcome":
            self._is_known_down = False
            self._is_welcome = True
            return
        number = head.get("id")
        if isinstance(number, int):
            self._answer(number, head, tail)
        else:
            self._on_push(head, tail)

    def _answer(self, number: int, head: Head | None, tail: bytes) -> None:
        with self._lock:
            answer = self._waiting.pop(number, None)
        if answer is not None:
            answer(head, tail)

    def _write(self, connection: socket.socket, data: bytes) -> bool:
        try:
            with self._send_lock:
                connection.sendall(data)
            return True
        except OSError:
            self._shut()
            return False

    def _shut(self) -> None:
        with self._lock:
            connection = self._socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _down(self) -> None:
        with self._lock:
            self._socket = None
            was_up, self._is_welcome = self._is_welcome, False
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for answer in waiting:
            answer(None, b"")
        if was_up:
            self._on_down()
