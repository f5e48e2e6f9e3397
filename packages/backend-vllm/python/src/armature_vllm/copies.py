"""Copies of blocks between vLLM's KV cache (G1) and the pool (G2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from .pool import Pool


class Copied(Protocol):
    """A copy that was begun."""

    def is_done(self) -> bool: ...
    def wait(self) -> None: ...


class _Done:
    def is_done(self) -> bool:
        return True

    def wait(self) -> None:
        return


class DeviceBlocks:
    """vLLM's KV cache as blocks of `pieces` runs of `piece_bytes`: for each layer, for each plane before the block dimension, what lies behind it."""

    def __init__(self, caches: Mapping[str, torch.Tensor], num_blocks: int) -> None:
        if not caches:
            raise ValueError("vLLM registered no KV cache")
        self.views: list[torch.Tensor] = []
        self.layers = len(caches)
        words: list[str] = []
        for name in sorted(caches, key=layer_key):
            tensor = caches[name]
            planes = [tensor] if block_dimension(tensor.shape, num_blocks) == 0 else list(tensor.unbind(0))
            for plane in planes:
                block = plane[0]
                if sum((size - 1) * stride for size, stride in zip(block.shape, block.stride(), strict=True)) + 1 != block.numel():
                    raise ValueError(f"a block of {name} is not one run of bytes: shape {tuple(block.shape)}, strides {block.stride()}")
                self.views.append(as_bytes(plane))
            words.append(f"{tensor.device.type}:{len(planes)}x{tuple(planes[0][0].shape)}/{planes[0][0].stride()}".replace(" ", ""))
        sizes = {view.shape[1] for view in self.views}
        if len(sizes) != 1:
            raise ValueError(f"layers have blocks of different sizes: {sorted(sizes)}")
        self.piece_bytes = sizes.pop()
        self.pieces = len(self.views)
        self.device = self.views[0].device
        self.dtype = str(next(iter(caches.values())).dtype).removeprefix("torch.")
        self.layout = words[0] if len(set(words)) == 1 else ";".join(words)


class Copier:
    """Batched copies for one KV cache. On a GPU they run on a stream of their own, after what was submitted so far; on the CPU they are done on return."""

    def __init__(self, blocks: DeviceBlocks) -> None:
        self._blocks = blocks
        self._stream = torch.cuda.Stream(device=blocks.device) if blocks.device.type == "cuda" else None

    def to_host(self, device: Sequence[int], pool: Pool, host: Sequence[int]) -> Copied:
        if self._stream is not None:
            return self._to_host_cuda(device, pool, host)
        source, target = torch.tensor(device), torch.tensor(host)
        for piece, view in enumerate(self._blocks.views):
            self._run(pool, piece).index_copy_(0, target, view.index_select(0, source))
        return _Done()

    def fence(self) -> torch.cuda.Event | None:
        """Of what the caller's thread has submitted: it may still read what the blocks held before. None: nothing runs behind the caller's back."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._blocks.device))
        return event

    def to_device(self, pool: Pool, host: Sequence[int], device: Sequence[int], after: torch.cuda.Event | None = None) -> Copied:
        if self._stream is not None:
            return self._to_device_cuda(pool, host, device, after)
        source, target = torch.tensor(host), torch.tensor(device)
        for piece, view in enumerate(self._blocks.views):
            view.index_copy_(0, target, self._run(pool, piece).index_select(0, source))
        return _Done()

    def _run(self, pool: Pool, piece: int) -> torch.Tensor:
        size = self._blocks.piece_bytes
        return pool.bytes[:, piece * size : (piece + 1) * size]

    # The two below have never run: no machine of this project has a GPU with vLLM.

    def _to_host_cuda(self, device: Sequence[int], pool: Pool, host: Sequence[int]) -> Copied:
        stream = self._stream
        assert stream is not None
        stream.wait_stream(torch.cuda.current_stream(self._blocks.device))
        with torch.cuda.stream(stream):
            source = torch.tensor(device, device=self._blocks.device)
            gathered = torch.stack([view.index_select(0, source) for view in self._blocks.views], dim=1).flatten(1)
            content = gathered.shape[1]
            for row, block in enumerate(host):
                pool.bytes[block, :content].copy_(gathered[row], non_blocking=True)
            return _cuda_done(stream, gathered)

    def _to_device_cuda(self, pool: Pool, host: Sequence[int], device: Sequence[int], after: torch.cuda.Event | None) -> Copied:
        stream = self._stream
        assert stream is not None
        if after is not None:
            stream.wait_event(after)
        size = self._blocks.piece_bytes
        content = size * self._blocks.pieces
        with torch.cuda.stream(stream):
            staging = torch.empty((len(host), content), dtype=torch.uint8, device=self._blocks.device)
            for row, block in enumerate(host):
                staging[row].copy_(pool.bytes[block, :content], non_blocking=True)
            target = torch.tensor(device, device=self._blocks.device)
            for piece, view in enumerate(self._blocks.views):
                view.index_copy_(0, target, staging[:, piece * size : (piece + 1) * size])
            return _cuda_done(stream, staging)


class _CudaDone:
    def __init__(self, event: torch.cuda.Event, keep: torch.Tensor) -> None:
        self._event = event
        self._keep = keep  # its memory is not reused before the copy has ended

    def is_done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()


def _cuda_done(stream: torch.cuda.Stream, keep: torch.Tensor) -> Copied:
    event = torch.cuda.Event()
    event.record(stream)
    return _CudaDone(event, keep)


def as_bytes(plane: torch.Tensor) -> torch.Tensor:
    """`[blocks, …]` as `[blocks, bytes]` over the same memory, however far apart the blocks lie."""
    run = plane[0].numel() * plane.element_size()
    raw = torch.empty(0, dtype=torch.uint8, device=plane.device)
    start = plane.storage_offset() * plane.element_size()
    return raw.set_(plane.untyped_storage(), start, (plane.shape[0], run), (plane.stride(0) * plane.element_size(), 1))


def block_dimension(shape: Sequence[int], num_blocks: int) -> int:
    """The dimension of blocks: the second behind keys and values, else the first."""
    if len(shape) > 2 and shape[0] == 2 and shape[1] == num_blocks:
        return 1
    if shape[0] == num_blocks:
        return 0
    raise ValueError(f"no dimension of a KV cache of shape {tuple(shape)} has {num_blocks} blocks")


def layer_key(name: str) -> tuple[object, ...]:
    """`layers.10` comes after `layers.9`."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))
