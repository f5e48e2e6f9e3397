"""vLLM's `KVConnectorBase_V1` over Armature's host tier. Built against vLLM 0.32."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec

from .scheduler import SchedulerSide, StepPlan
from .worker import WorkerSide

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

logger = logging.getLogger("vllm.armature")

DEFAULT_FETCH_DEADLINE_MS = 2_000


@dataclass
class ArmatureMetadata(KVConnectorMetadata):
    plan: StepPlan = field(default_factory=StepPlan)


class ArmatureConnector(KVConnectorBase_V1, SupportsHMA):
    """Looks blocks up in the Armature worker's tiers, loads them beside the model, saves what the model computed.

    `kv_connector_extra_config`: `socket` (required), `fetch_deadline_ms`, `model` (name of the weights; default: vLLM's own).
    """

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        extra = self._kv_transfer_config.get_from_extra_config
        socket = extra("socket", None)
        if not isinstance(socket, str):
            raise ValueError("kv_connector_extra_config.socket is missing: take --kv-transfer-config as the Armature worker prints it")
        parallel = vllm_config.parallel_config
        if parallel.world_size > 1 or parallel.data_parallel_size > 1:
            raise ValueError("ArmatureConnector serves engines of one rank: tensor, pipeline and data parallel sizes must be 1")
        specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
        if len(specs) != 1 or not isinstance(specs[0], FullAttentionSpec):
            raise ValueError(f"ArmatureConnector serves models of full attention, in one KV cache group: this one has {[type(spec).__name__ for spec in specs]}")
        block_size = vllm_config.cache_config.block_size
        if specs[0].block_size != block_size:
            raise ValueError(f"ArmatureConnector needs one block size: the cache has {specs[0].block_size}, the scheduler {block_size}")
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if role == KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(socket, block_size, int(extra("fetch_deadline_ms", DEFAULT_FETCH_DEADLINE_MS)))
        else:
            facts = {"model": extra("model", vllm_config.model_config.model), "blockSize": block_size}
            self._worker = WorkerSide(socket, facts, kv_cache_config.num_blocks)

    @property
    def requires_kv_delivery(self) -> bool:
        # A save that was dropped is a later miss.
        return False

    # ---- scheduler

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._scheduling.matched(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        self._scheduling.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        return ArmatureMetadata(self._scheduling.plan(scheduler_output))

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        self._scheduling.received(connector_output.finished_recving or set())

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduling.finished(request, block_ids)

    def request_finished_all_groups(self, request: Request, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduling.finished(request, block_ids[0])

    def reset_cache(self) -> bool | None:
        # Asked when weights change. The tiers, and those of peers, would go on giving out blocks of the old ones.
        logger.error("Armature's KV tiers cannot be emptied from here: start the worker with new tiers after a change of weights")
        return False

    # ---- worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        self._working.register(kv_caches)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self._working.begin(self._plan())

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        assert isinstance(kv_connector_metadata, ArmatureMetadata)
        self._working.preempted(kv_connector_metadata.plan)

    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        self._working.load(self._plan())

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: AttentionMetadata, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        self._working.save()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        sent, received = self._working.finished()
        return sent or None, received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._working.failed_blocks()

    def shutdown(self) -> None:
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()

    def _plan(self) -> StepPlan:
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, ArmatureMetadata)
        return metadata.plan

    @property
    def _scheduling(self) -> SchedulerSide:
        assert self._scheduler is not None, "this is the worker's connector"
        return self._scheduler

    @property
    def _working(self) -> WorkerSide:
        assert self._worker is not None, "this is the scheduler's connector"
        return self._worker
