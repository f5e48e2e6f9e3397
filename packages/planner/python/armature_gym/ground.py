"""A long-lived `armature planner ground` process, asked line by line."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any, Dict, List, Optional, Sequence

PROTOCOL = 1


class GroundError(RuntimeError):
    """The ground refused a request, or is gone. `code` is Armature's."""

    def __init__(self, code: str, message: str, hint: Optional[str] = None) -> None:
        super().__init__(f"{code}: {message}" + (f" ({hint})" if hint else ""))
        self.code = code
        self.hint = hint


def default_command() -> List[str]:
    """`ARMATURE` names the program, words apart by spaces; without it `armature` of the PATH."""
    return os.environ.get("ARMATURE", "armature").split()


class Ground:
    """Owns the process; `close` ends it. An answer that takes longer than `timeout` seconds ends it too."""

    def __init__(self, command: Optional[Sequence[str]] = None, timeout: float = 60.0) -> None:
        self._timeout = timeout
        words = [*(command if command is not None else default_command()), "planner", "ground"]
        try:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        except OSError as error:
            raise GroundError("GROUND_UNAVAILABLE", f"cannot start {words[0]!r}: {error}", "install @armature/cli, or name the program in ARMATURE") from error
        try:
            self.spaces = self.ask({"op": "hello"})
            if self.spaces.get("protocol") != PROTOCOL:
                raise GroundError("GROUND_VERSION", f"this package speaks protocol {PROTOCOL}, the ground {self.spaces.get('protocol')}", "install versions that belong together")
        except BaseException:
            self.close()
            raise

    def ask(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """One request, one answer. Raises `GroundError`."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        guard = threading.Timer(self._timeout, process.kill)
        guard.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (BrokenPipeError, ValueError) as error:
            raise GroundError("GROUND_GONE", f"the ground has ended ({process.poll()})") from error
        finally:
            guard.cancel()
        if not line:
            raise GroundError("GROUND_GONE", f"the ground has ended, or took longer than {self._timeout} s ({process.wait()})")
        answer: Dict[str, Any] = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise GroundError(error["code"], error["message"], error.get("hint"))
        return answer

    def close(self) -> None:
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
