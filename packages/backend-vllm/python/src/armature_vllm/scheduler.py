"""The scheduler's half: what of a prompt the tiers hold, which blocks to load and which to save. Knows vLLM's objects by their fields only."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .frames import Head, ints, to_ints
from .link import Link

logger = logging.getLogger("vllm.armature")

HASH_BYTES = 8
NO_PARENT = bytes(HASH_BYTES)
"""Beyond the deadline that the worker keeps: it answers with what it has by then."""
MARGIN_SECONDS = 0.25
"""A finished request's blocks wait so long for the hashes of the last of them."""
FINISH_SECONDS = 1.0
"""With nothing else to run, an answer is waited for so long: cheaper than another round of the engine, and nobody's time."""
IDLE_SECONDS = 0.003


@dataclass
class Load:
    """Host blocks to copy to the engine's, under a lease of one life of the worker."""

    epoch: str
    lease: int
    device: list[int]
    host: list[int]


@dataclass
class Save:
    """Engine blocks to copy to the host tier; of each row the sequence hash and its parent's."""

    rows: bytes
    device: list[int]
    salt: str


@dataclass
class StepPlan:
    """What the worker does in one step. Travels as vLLM's connector metadata."""

    loads: dict[str, Load] = field(default_factory=dict)
    saves: dict[str, list[Save]] = field(default_factory=dict)
    """Finished requests whose blocks are kept until their saves have ended."""
    closing: set[str] = field(default_factory=set)
    """Requests that lost their blocks in this step."""
    preempted: set[str] = field(default_factory=set)
    """The model does not run in this step."""
    is_idle: bool = False


@dataclass
class Tracked:
    """A request from its first look-up to its end."""

    request: Any
    prompt: int
    salt: str
    lora: str
    source: dict[str, Any] | None
    """Sequence hash of each complete block, as far as they are known."""
    hashes: bytearray = field(default_factory=bytearray)
    """Tokens whose hashes were asked for."""
    hashed_tokens: int = 0
    is_asking: bool = False
    """The connection broke: the worker does not know this prompt any more."""
    is_lost: bool = False
    """Until when the scheduler waits for an answer; None: it has it."""
    waits_until: float | None = None
    pull: int = 0
    lease: int = 0
    """First row of the lease, and its host blocks."""
    from_row: int = 0
    host: list[int] = field(default_factory=list)
    is_loading: bool = False
    preemptions: int = 0
    was_allocated: bool = False
    device: list[int] = field(default_factory=list)
    saved: int = 0
    has_saves: bool = False

    def rows(self, start: int, end: int) -> bytes:
        """Hash and parent of each row."""
        out = bytearray()
        for row in range(start, end):
            at = row * HASH_BYTES
            out += self.hashes[at : at + HASH_BYTES]
            out += self.hashes[at - HASH_BYTES : at] if row > 0 else NO_PARENT
        return bytes(out)

    @property
    def known(self) -> int:
        return len(self.hashes) // HASH_BYTES


@dataclass
class Finishing:
    """A finished request whose last hashes are on their way."""

    tracked: Tracked
    complete: int
    device: list[int]
    until: float


class SchedulerSide:
    """Asked from vLLM's scheduler loop: while requests run it never waits for an answer. Those arrive on the link's thread. Both work under `_lock`, which the link never holds."""

    def __init__(self, socket_path: str, block_size: int, fetch_deadline_ms: int) -> None:
        self._block_size = block_size
        self._deadline_ms = fetch_deadline_ms
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._is_idle = True
        self._tracked: dict[str, Tracked] = {}
        self._finishing: dict[str, Finishing] = {}
        self._plan = StepPlan()
        self._next_prompt = 1
        self._lender: dict[str, Any] | None = None
        self._epoch = ""
        self._link = Link(socket_path, {"role": "scheduler", "format": {"blockSize": block_size}}, self._pushed, self._went_down)
        self._link.start()

    # ---- what vLLM asks

    def matched(self, request: Any, computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens that can be loaded behind the computed ones; None: ask again."""
        row = computed_tokens // self._block_size
        with self._lock:
            if self._lender is None or not is_plain(request):
                return 0, False
            tracked = self._current(request, row) or self._look_up(request, row)
            if tracked.waits_until is not None and self._is_idle:
                self._answered.wait_for(lambda: tracked.waits_until is None, IDLE_SECONDS)
            if tracked.waits_until is not None:
                if time.monotonic() < tracked.waits_until:
                    return None, False
                self._give_up(tracked)
            tokens = (tracked.from_row + len(tracked.host) - row) * self._block_size if tracked.lease != 0 else 0
            if tokens <= 0:
                self._release(tracked)
                return 0, False
            return tokens, True

    def allocated(self, request: Any, device: Sequence[int], external_tokens: int) -> None:
        with self._lock:
            tracked = self._tracked.get(request.request_id)
            if tracked is None:
                return
            tracked.was_allocated = True
            tracked.device = list(device)
            if tracked.lease == 0:
                return
            blocks = external_tokens // self._block_size
            if blocks == 0:
                self._release(tracked)
                return
            end = tracked.from_row + len(tracked.host)
            host = tracked.host[len(tracked.host) - blocks :]
            self._plan.loads[request.request_id] = Load(self._epoch, tracked.lease, tracked.device[end - blocks : end], host)
            tracked.lease, tracked.is_loading = 0, True

    def plan(self, output: Any) -> StepPlan:
        """Everything for the step that vLLM has just scheduled."""
        with self._lock:
            for new in output.scheduled_new_reqs:
                self._scheduled(new.req_id, new.num_computed_tokens, output, list(new.block_ids[0]), replaces=True)
            cached = output.scheduled_cached_reqs
            for i, req_id in enumerate(cached.req_ids):
                blocks = cached.new_block_ids[i]
                self._scheduled(req_id, cached.num_computed_tokens[i], output, list(blocks[0]) if blocks else [], replaces=req_id in cached.resumed_req_ids)
            for req_id, finishing in list(self._finishing.items()):
                if not finishing.tracked.is_asking or time.monotonic() > finishing.until:
                    del self._finishing[req_id]
                    self._close(req_id, finishing.tracked, finishing.complete, finishing.device)
                    self._plan.closing.add(req_id)  # vLLM keeps its blocks until the worker names it
            plan, self._plan = self._plan, StepPlan()
            self._is_idle = plan.is_idle = not output.num_scheduled_tokens
            plan.preempted = set(output.preempted_req_ids or ())
        return plan

    def received(self, request_ids: set[str]) -> None:
        """Loads that have ended, well or not."""
        with self._lock:
            for req_id in request_ids:
                tracked = self._tracked.get(req_id)
                if tracked is not None:
                    tracked.is_loading = False

    def finished(self, request: Any, device: Sequence[int]) -> tuple[bool, dict[str, Any] | None]:
        """Whether the blocks are to be kept for now, and the words for who decodes."""
        with self._lock:
            params = request.kv_transfer_params or {}
            is_prefill = bool(params.get("do_remote_decode"))
            tracked = self._tracked.get(request.request_id)
            if tracked is None:
                return False, self._handover(0) if is_prefill else None
            # Of a load that is under way nobody knows what the blocks hold; vLLM keeps them until it has ended.
            complete = 0 if tracked.is_loading else min(request.num_computed_tokens, request.num_tokens) // self._block_size
            end = min(complete, tracked.known)
            self._forget(tracked)
            if complete > end and tracked.is_asking:
                self._finishing[request.request_id] = Finishing(tracked, complete, list(device), time.monotonic() + FINISH_SECONDS)
                keeps = True
            else:
                keeps = self._close(request.request_id, tracked, complete, list(device))
            return keeps, self._handover(end) if is_prefill else None

    def close(self) -> None:
        self._link.close()

    # ---- under the lock

    def _current(self, request: Any, row: int) -> Tracked | None:
        """What is known of the request, if it is still of use."""
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return None
        if tracked.was_allocated:
            # Its load failed: one attempt, or it would go round for ever. Unless it was preempted: then it begins anew, with its output.
            is_of_use = request.num_preemptions == tracked.preemptions
        else:
            is_of_use = tracked.lease == 0 or row >= tracked.from_row  # else vLLM's own cache gave up what it had when we looked
        if is_of_use:
            return tracked
        self._forget(tracked)
        return None

    def _scheduled(self, req_id: str, computed_tokens: int, output: Any, blocks: list[int], *, replaces: bool) -> None:
        tracked = self._tracked.get(req_id)
        if tracked is None:
            return
        tracked.device = blocks if replaces else tracked.device + blocks
        # Tokens that were only guessed, or are not sampled yet, name no block.
        tokens = min(computed_tokens + output.num_scheduled_tokens[req_id], tracked.request.num_tokens)
        complete = min(tokens // self._block_size, len(tracked.device))
        if complete * self._block_size > tracked.hashed_tokens and not tracked.is_asking and not tracked.is_lost:
            self._append(tracked, complete * self._block_size)
        end = min(complete, tracked.known)
        if end > tracked.saved:
            self._save(req_id, tracked, end, tracked.device)

    def _close(self, req_id: str, tracked: Tracked, complete: int, device: list[int]) -> bool:
        """The last saves; whether there were any: then the worker says when the blocks may go."""
        end = min(complete, tracked.known, len(device))
        if end > tracked.saved:
            self._save(req_id, tracked, end, device)
        if tracked.has_saves:
            self._plan.closing.add(req_id)
        return tracked.has_saves

    def _save(self, req_id: str, tracked: Tracked, end: int, device: list[int]) -> None:
        save = Save(tracked.rows(tracked.saved, end), device[tracked.saved : end], tracked.salt)
        self._plan.saves.setdefault(req_id, []).append(save)
        tracked.saved = end
        tracked.has_saves = True

    def _handover(self, blocks: int) -> dict[str, Any]:
        """For the decode leg. Without a block to fetch it computes the prompt."""
        params: dict[str, Any] = {"do_remote_prefill": True, "do_remote_decode": False}
        return params if self._lender is None or blocks == 0 else {**params, "armature": {**self._lender, "blocks": blocks}}

    def _forget(self, tracked: Tracked) -> None:
        self._give_up(tracked)
        self._release(tracked)
        self._link.send({"op": "forget", "prompt": tracked.prompt})
        self._tracked.pop(tracked.request.request_id, None)

    def _give_up(self, tracked: Tracked) -> None:
        tracked.waits_until = None
        if tracked.pull != 0:
            self._link.send({"op": "cancel", "pull": tracked.pull})
            tracked.pull = 0

    def _release(self, tracked: Tracked) -> None:
        if tracked.lease != 0:
            self._link.send({"op": "release", "epoch": self._epoch, "lease": tracked.lease})
        tracked.lease, tracked.host = 0, []

    # ---- questions and their answers

    def _look_up(self, request: Any, row: int) -> Tracked:
        params = request.kv_transfer_params or {}
        source = params.get("armature") if params.get("do_remote_prefill") else None
        tokens = list(request.all_token_ids)
        tracked = Tracked(request, self._next_prompt, request.cache_salt or "", lora_name(request), source)
        tracked.preemptions = request.num_preemptions
        tracked.from_row = row
        tracked.hashed_tokens = len(tokens)
        # Without a complete block to find there is nothing to wait for: only the hashes are wanted.
        if len(tokens) // self._block_size > row:
            tracked.waits_until = time.monotonic() + self._deadline_ms / 1000 + MARGIN_SECONDS
        self._next_prompt += 1
        self._tracked[request.request_id] = tracked
        head = {"op": "match", "prompt": tracked.prompt, "from": row, "salt": tracked.salt, "lora": tracked.lora, "source": source}
        self._link.ask(head, ints(tokens), lambda reply, tail: self._matched(tracked, reply, tail))
        return tracked

    def _matched(self, tracked: Tracked, reply: Head | None, tail: bytes) -> None:
        with self._lock:
            tracked.hashes = bytearray(tail)
            blocks = int(reply["blocks"]) if reply is not None else 0
            if blocks == 0 or tracked.waits_until is None:
                tracked.waits_until = None
                self._answered.notify_all()
                return
            to = tracked.from_row + blocks
            head = {"op": "pull", "prompt": tracked.prompt, "from": tracked.from_row, "to": to, "salt": tracked.salt, "source": tracked.source, "deadlineMs": self._deadline_ms}
            tracked.pull = self._link.ask(head, b"", lambda reply, tail: self._pulled(tracked, reply, tail))

    def _pulled(self, tracked: Tracked, reply: Head | None, tail: bytes) -> None:
        lease = int(reply["lease"]) if reply is not None else 0
        with self._lock:
            tracked.pull = 0
            if tracked.waits_until is not None:
                tracked.lease, tracked.host, tracked.waits_until = lease, to_ints(tail), None
                self._answered.notify_all()
            elif lease != 0:  # nobody waits for it any more
                self._link.send({"op": "release", "epoch": self._epoch, "lease": lease})

    def _append(self, tracked: Tracked, end: int) -> None:
        tokens = tracked.request.all_token_ids[tracked.hashed_tokens : end]
        tracked.hashed_tokens = end
        tracked.is_asking = True
        self._link.ask({"op": "append", "prompt": tracked.prompt}, ints(tokens), lambda reply, tail: self._appended(tracked, reply, tail))

    def _appended(self, tracked: Tracked, reply: Head | None, tail: bytes) -> None:
        with self._lock:
            tracked.hashes += tail
            tracked.is_asking = False
            tracked.is_lost = tracked.is_lost or reply is None

    def _pushed(self, head: Head, _tail: bytes) -> None:
        with self._lock:
            if head.get("op") == "pool":
                self._drop_leases()
                lender = head.get("lender")
                self._lender = lender if isinstance(lender, dict) else {}
                self._epoch = str(head.get("epoch"))
            elif head.get("op") == "detached":
                self._drop_leases()

    def _went_down(self) -> None:
        """The worker dropped every pin; hashes are asked for anew by the requests to come."""
        with self._lock:
            self._drop_leases()
            for tracked in self._tracked.values():
                tracked.is_lost = True

    def _drop_leases(self) -> None:
        """The worker dropped every pin. Until it opens tiers again nothing is asked."""
        self._lender = None
        for tracked in self._tracked.values():
            tracked.lease, tracked.host, tracked.waits_until, tracked.pull = 0, [], None, 0


def is_plain(request: Any) -> bool:
    """Whether the tokens alone say what the blocks hold."""
    return not request.mm_features and request.prompt_embeds is None


def lora_name(request: Any) -> str:
    lora = request.lora_request
    return "" if lora is None else str(lora.lora_name)
