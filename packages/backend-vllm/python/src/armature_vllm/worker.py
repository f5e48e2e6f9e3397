"""The worker's half: copies blocks between vLLM's KV cache and the host tier, as the scheduler's half planned."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch

from .copies import Copied, Copier, DeviceBlocks
from .frames import Head, to_ints
from .link import Link
from .pool import Pool, PoolError
from .scheduler import IDLE_SECONDS, Load, Save, StepPlan

logger = logging.getLogger("vllm.armature")

RESERVE_SECONDS = 2.0
"""The answer usually comes while the model runs; a later one is used in a later step, until this has passed."""
RELEASE_SECONDS = 2.0


@dataclass
class Counts:
    loaded_blocks: int = 0
    failed_blocks: int = 0
    saved_blocks: int = 0
    unsaved_blocks: int = 0


@dataclass
class _Saving:
    """A save on its way: places asked for, then a copy, then told to the worker."""

    req_id: str
    save: Save
    """Where the places are; of another life of the worker they mean nothing."""
    pool: Pool | None
    places: Future[tuple[int, list[int], list[int]] | None] = field(default_factory=Future)
    reservation: int = 0
    blocks: int = 0
    until: float = field(default_factory=lambda: time.monotonic() + RESERVE_SECONDS)
    copied: Copied | None = None


class WorkerSide:
    """Called from vLLM's model runner; loads run on a thread of their own."""

    def __init__(self, socket_path: str, facts: Mapping[str, Any], num_blocks: int) -> None:
        self._socket_path = socket_path
        self._facts = dict(facts)
        self._num_blocks = num_blocks
        self.counts = Counts()
        self._lock = threading.Lock()
        self._loaded = threading.Condition(self._lock)
        self._blocks: DeviceBlocks | None = None
        self._copier: Copier | None = None
        self._link: Link | None = None
        self._pool: Pool | None = None
        self._loads: queue.SimpleQueue[tuple[str, Load, torch.cuda.Event | None] | None] = queue.SimpleQueue()
        self._received: set[str] = set()
        self._failed_blocks: set[int] = set()
        self._asked: list[_Saving] = []
        self._copying: list[_Saving] = []
        self._closing: set[str] = set()
        self._thread = threading.Thread(target=self._load_all, name="armature-loads", daemon=True)

    def register(self, caches: Mapping[str, torch.Tensor]) -> None:
        blocks = DeviceBlocks(caches, self._num_blocks)
        self._blocks, self._copier = blocks, Copier(blocks)
        format_ = dict(self._facts, dtype=blocks.dtype, layers=blocks.layers, pieces=blocks.pieces, pieceBytes=blocks.piece_bytes, layout=blocks.layout)
        self._link = Link(self._socket_path, {"role": "worker", "format": format_}, self._pushed, self._went_down)
        self._link.start()
        self._thread.start()
        logger.info("Armature connector: %s", format_)

    def begin(self, plan: StepPlan) -> None:
        """Before the model runs: asks where the step's blocks are to go."""
        for req_id, saves in plan.saves.items():
            for save in saves:
                saving = _Saving(req_id, save, self._pool)
                self._asked.append(saving)
                self._reserve(saving)
        self._closing |= plan.closing

    def load(self, plan: StepPlan) -> None:
        fence = self._copier.fence() if plan.loads and self._copier is not None else None
        for req_id, load in plan.loads.items():
            self._loads.put((req_id, load, fence))
        if plan.loads and plan.is_idle:
            with self._lock:  # a short one ends within this step
                self._loaded.wait_for(lambda: plan.loads.keys() <= self._received, IDLE_SECONDS)

    def save(self) -> None:
        """After the model ran: copies what has a place. Never waits: the rest is for a later step, its blocks stay with their requests."""
        asked, self._asked = self._asked, []
        for saving in asked:
            if saving.places.done():
                self._copy(saving)
            elif time.monotonic() < saving.until:
                self._asked.append(saving)
            else:
                self._abandon(saving)
        self._commit()

    def preempted(self, plan: StepPlan) -> None:
        """Blocks of these requests may be overwritten after this."""
        for saving in [saving for saving in self._asked if saving.req_id in plan.preempted]:
            self._asked.remove(saving)
            self._abandon(saving)
        self._wait(plan.preempted)

    def _wait(self, req_ids: set[str] | None = None) -> None:
        for saving in self._copying:
            if saving.copied is not None and (req_ids is None or saving.req_id in req_ids):
                saving.copied.wait()
        self._commit()

    def finished(self) -> tuple[set[str], set[str]]:
        """Requests whose saves, and those whose loads have ended."""
        self._commit()
        busy = {saving.req_id for saving in self._copying} | {saving.req_id for saving in self._asked}
        sent = self._closing - busy
        self._closing -= sent
        with self._lock:
            received, self._received = self._received, set()
        return sent, received

    def failed_blocks(self) -> set[int]:
        with self._lock:
            failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def close(self) -> None:
        if self._link is None:
            return
        self._loads.put(None)
        self._thread.join(timeout=5)
        self._wait()
        self._link.close()

    # ---- saves

    def _reserve(self, saving: _Saving) -> None:
        link = self._link
        if link is None or saving.pool is None:
            saving.places.set_result(None)
            return

        def answer(reply: Head | None, tail: bytes) -> None:
            columns = to_ints(tail)
            rows = len(columns) // 2
            number = int(reply["reservation"]) if reply is not None else 0
            saving.places.set_result((number, columns[:rows], columns[rows:]) if number != 0 else None)

        link.ask({"op": "reserve", "salt": saving.save.salt}, saving.save.rows, answer)

    def _copy(self, saving: _Saving) -> None:
        """Of one whose places are known. Rows without one are held already, or there is no room, or nobody to ask."""
        places, pool, copier = saving.places.result(), saving.pool, self._copier
        number, rows, host = (0, [], []) if places is None or pool is not self._pool or copier is None else places
        self.counts.unsaved_blocks += len(saving.save.device) - len(rows)
        if pool is None or copier is None or number == 0:
            return
        saving.reservation, saving.blocks = number, len(rows)
        saving.copied = copier.to_host([saving.save.device[row] for row in rows], pool, host)
        self._copying.append(saving)

    def _abandon(self, saving: _Saving) -> None:
        self.counts.unsaved_blocks += len(saving.save.device)
        saving.places.add_done_callback(lambda places: self._take_back(saving, places.result()))

    def _take_back(self, saving: _Saving, places: tuple[int, list[int], list[int]] | None) -> None:
        if places is not None:
            self._tell(saving, places[0], 0)

    def _tell(self, saving: _Saving, reservation: int, rows: int) -> None:
        if self._link is not None and saving.pool is not None:
            self._link.send({"op": "commit", "epoch": saving.pool.epoch, "reservation": reservation, "rows": rows})

    def _commit(self) -> None:
        left: list[_Saving] = []
        for saving in self._copying:
            if saving.copied is not None and not saving.copied.is_done():
                left.append(saving)
                continue
            self._tell(saving, saving.reservation, saving.blocks)
            self.counts.saved_blocks += saving.blocks
        self._copying = left

    # ---- loads, on their thread

    def _load_all(self) -> None:
        while (item := self._loads.get()) is not None:
            req_id, load, fence = item
            problem = self._load(load, fence)
            with self._lock:
                if problem is not None:
                    self._failed_blocks.update(load.device)
                self._received.add(req_id)
                self._loaded.notify_all()
            if problem is None:
                self.counts.loaded_blocks += len(load.device)
                continue
            self.counts.failed_blocks += len(load.device)
            logger.warning("KV blocks of request %s could not be loaded, they are recomputed: %s", req_id, problem)
            if self._link is not None:
                self._link.send({"op": "failed", "blocks": len(load.device), "reason": problem})

    def _load(self, load: Load, fence: torch.cuda.Event | None) -> str | None:
        """What was copied counts only if the lease was valid to the end."""
        pool, copier, link = self._pool, self._copier, self._link
        if pool is None or pool.epoch != load.epoch or copier is None or link is None:
            return "the host tier is gone"
        release = {"op": "release", "epoch": load.epoch, "lease": load.lease}
        try:
            copier.to_device(pool, load.host, load.device, fence).wait()
        except Exception as error:  # whatever a copy raises, the request must go on
            with contextlib.suppress(OSError):
                link.send(release)
            return f"{type(error).__name__}: {error}"
        answer = link.call(release, b"", RELEASE_SECONDS)
        if answer is None:
            link.drop()  # whoever does not answer this must not make every other load wait as long
            return "the Armature worker did not confirm the lease"
        return None if answer[0].get("valid") is True else "the lease has expired"

    # ---- the worker speaks

    def _pushed(self, head: Head, _tail: bytes) -> None:
        if head.get("op") == "detached":
            self._pool = None
        if head.get("op") != "pool":
            return
        try:
            self._pool = Pool.open(head, pin=self._blocks is not None and self._blocks.device.type == "cuda")
            logger.info("Armature host tier is mapped: %d blocks", self._pool.blocks)
        except (PoolError, OSError, KeyError, ValueError) as error:
            self._pool = None
            logger.error("Armature's host tier cannot be mapped, vLLM computes everything: %s", error)

    def _went_down(self) -> None:
        self._pool = None
